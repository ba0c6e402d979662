"""Texts to words, for models that answer for each word.

The rule, by Unicode categories:

1. White space, control characters and zero width spaces part words and belong to none.
2. Letters and digits (L, N) that follow each other are one word: ``18th``, ``naïve``.
3. A Chinese character (CJK ideograph) is a word of its own, as BERT's tokenizer has it.
4. Anything else (punctuation, ``_``, symbols, emoji) is a word of its own: ``don't`` are three, an address many.
5. Marks and what is invisible (M, Cf: accents, variation selectors, soft hyphens, joiners), and the skin tones of
   emoji, belong to what they follow; two symbols around a zero width joiner, and two letters of a flag, are one
   word. Where they follow nothing, they are a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import TypeAlias

RULE = "unicode"  # what a folder calls the rule above
Span: TypeAlias = tuple[int, int]
"""First character of a word and the one after its last."""

_SPACE, _LETTER, _IDEOGRAPH, _MARK, _JOINER, _FLAG, _OTHER = "slimjfo"
_WORDS = re.compile(r"(?:l[mj]*)+|i[mj]*|ff[mj]*|(?:o[m]*j)*[of][mj]*|[mj]+")


class _Classes(dict[int, str]):
    """What a character is, one letter each; worked out when a character is first met."""

    def __missing__(self, code: int) -> str:
        found = self[code] = _class_of(chr(code))
        return found


def _class_of(character: str) -> str:
    code, category = ord(character), unicodedata.category(character)
    if character == "\u200d":
        return _JOINER
    if character.isspace() or category in ("Cc", "Zs", "Zl", "Zp") or character == "\u200b":
        return _SPACE
    if category[0] == "M" or category == "Cf" or 0x1F3FB <= code <= 0x1F3FF:
        return _MARK
    if 0x1F1E6 <= code <= 0x1F1FF:
        return _FLAG
    if category[0] in "LN":
        return _IDEOGRAPH if unicodedata.name(character, "").startswith("CJK ") else _LETTER
    return _OTHER


_classes = _Classes()


def split_words(text: str) -> list[Span]:
    """Return where the words of a text are, in their order.

    Parameters
    ----------
    text : str

    Returns
    -------
    list of (int, int)
        ``text[start:end]`` is a word; words do not overlap, and what is between them is white space.

    Examples
    --------
    >>> text = "Don't fly, 18th!"
    >>> [text[start:end] for start, end in split_words(text)]
    ['Don', "'", 't', 'fly', ',', '18th', '!']
    """
    return [match.span() for match in _WORDS.finditer(text.translate(_classes))]


def words_of(texts: Sequence[str], spans: Sequence[Sequence[Span]]) -> list[list[str]]:
    """Return the words of texts, of which `spans` say where they are."""
    return [[text[start:end] for start, end in some] for text, some in zip(texts, spans, strict=True)]
