"""Texts to ragged token ids, the one way for training, evaluation and serving.

Truncation and padding inside ``tokenizer.json`` are ignored, because files in the wild carry limits that nobody
asked for (MiniLM ships 128 tokens and fixed padding). The backend only splits texts into tokens; cutting and
special tokens are laid out here. Its own truncation keeps every part that it cuts off, and for two long texts
read together every part of one with every part of the other: gigabytes for a pair of 1 MB texts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedkit.errors import ModelError, UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

Text: TypeAlias = str | tuple[str, str]
"""A text, or a pair of texts that the model reads together."""

Words: TypeAlias = Sequence[str]
"""A sentence as the words that it is made of."""

Side: TypeAlias = Literal["right", "left"]

_BLANKS = ("\u0120", "\u2581")  # what begins a piece behind a blank: byte-level vocabularies, SentencePiece
_RUN = 8192  # texts that the backend splits at once: what it gives takes far more memory than their ids
# Tokenisers drift between releases with the same files: the ids of these strings tell (see `Tokenizer.probe`).
PROBE_WORDS = (
    "", " ", "a", "A", "hello world", "Hello, World!", "don't", "18th", "3.14", "1,000,000", "C++", "e-mail",
    "http://example.org/a?b=c&d=1", "user@example.org", "#tag @name", "naïve café", "cafe\u0301", "ÀÉÎÕÜ",
    "straße", "İstanbul", "ﬁne", "½", "x²", "“quoted”", "it’s", "a—b", "a\u00a0b", "a\u200bb", "a\u00adb",
    "\ufeffbom", "tab\there", "line\nbreak", "crlf\r\nbreak", "nul\x00nul", "  two  spaces  ", "trailing ",
    "日本語のテキスト", "中文字符", "한국어", "Привет мир", "Ελληνικά", "עברית", "العربية", "हिन्दी", "ไทย",
    "😀", "👩\u200d👩\u200d👧", "🇩🇪", "1\ufe0f\u20e3", "\ufe0f", "\u0301", "[CLS] [SEP] [MASK] [PAD] [UNK]",
    "<s></s><pad><mask><unk>", "antidisestablishmentarianism", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "zxqjv wkpt", "ALLCAPS MiXeD", "snake_case camelCase", "(brackets) {braces} <angles>", "50% & £20 = $30",
    "...", "?!", "-", "The quick brown fox jumps over the lazy dog.",
)  # fmt: skip


@dataclass(frozen=True)
class Tokens:
    """Ragged token ids: input windows one after another, no padding.

    Attributes
    ----------
    ids : ndarray of int32, shape (T,)
        Token ids of all windows, special tokens included.
    type_ids : ndarray of int32, shape (T,), or None
        Token types; None where all are 0.
    offsets : ndarray of int64, shape (W + 1,)
        Window w is ``ids[offsets[w]:offsets[w + 1]]``.
    rows : ndarray of int64, shape (W,)
        The input that a window belongs to; ascending. W equals N unless long texts are split.
    truncated : ndarray of bool, shape (N,)
        Inputs that lost tokens.
    content : ndarray of int64, shape (N,)
        Tokens of each input over all its windows, special tokens not counted; one that stands in several windows
        counts once.
    """

    ids: NDArray[np.int32]
    type_ids: NDArray[np.int32] | None
    offsets: NDArray[np.int64]
    rows: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    content: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each window, shape (W,)."""
        return np.diff(self.offsets)

    @property
    def row_lengths(self) -> NDArray[np.int64]:
        """Tokens of each input over all its windows, shape (N,)."""
        return np.bincount(self.rows, weights=self.lengths, minlength=len(self.truncated)).astype(np.int64)


class Located(NamedTuple):
    """Tokens of one input, and where in its texts each of them comes from.

    Attributes
    ----------
    tokens : Tokens
        As `Tokenizer.encode` gives them; T tokens.
    sources : ndarray of int64, shape (T,)
        The place in `spans` of each token; -1 for special tokens.
    spans : ndarray of int64, shape (S, 2)
        First character and the one after the last of every token of the texts, also of those that were cut
        off; counted in the prompt and the text together. A token may cover no character at all.
    parts : ndarray of int64, shape (S,)
        0 for tokens of the first text, 1 for those of the second.
    """

    tokens: Tokens
    sources: NDArray[np.int64]
    spans: NDArray[np.int64]
    parts: NDArray[np.int64]


class WordTokens(NamedTuple):
    """Tokens of lists of words in overlapping windows, and which word each of them is of.

    A word counts in one window: the one where its first token is farthest from the nearer edge. The ends of the
    list are no edges, and of two windows as good the earlier one counts.

    Attributes
    ----------
    tokens : Tokens
        T tokens in W windows.
    words : ndarray of int64, shape (T,)
        The place of a token's word in its list; -1 for special tokens.
    first : ndarray of bool, shape (T,)
        Whether it is the first token of its word, in the window where the word counts: once for each word that has
        a token.
    chosen : ndarray of bool, shape (T,)
        Whether it is any token of its word, in the window where the word counts. A word of more tokens than a
        window has room for has some in other windows alone, which are not chosen.
    known : ndarray of int64, shape (N,)
        Words of each list that have a token.
    """

    tokens: Tokens
    words: NDArray[np.int64]
    first: NDArray[np.bool_]
    chosen: NDArray[np.bool_]
    known: NDArray[np.int64]


class PieceTokens(NamedTuple):
    """Lists of words, in which each token stands for itself.

    Attributes
    ----------
    given : WordTokens
        Whose words are the P pieces that the tokenizer makes of the words, one token each; each of them counts in
        its own window.
    words : ndarray of int64, shape (P,)
        The place of a piece's word in its list.
    spans : ndarray of int64, shape (P, 2)
        First character of a piece and the one after its last, counted in its word. A piece may cover no character,
        or the same ones as its neighbour (bytes of one character).
    """

    given: WordTokens
    words: NDArray[np.int64]
    spans: NDArray[np.int64]


class NumberedTokens(NamedTuple):
    """Tokens of texts, and which of the tokenizer's own words each of them is of.

    Attributes
    ----------
    tokens : Tokens
        As `Tokenizer.encode` gives them; T tokens.
    words : ndarray of int64, shape (T,)
        The place of a token's word in its text; -1 for special tokens.
    first : ndarray of bool, shape (T,)
        Whether it is the first token of its word.
    known : ndarray of int64, shape (N,)
        Words of each text that have a token, also one that was cut off.
    """

    tokens: Tokens
    words: NDArray[np.int64]
    first: NDArray[np.bool_]
    known: NDArray[np.int64]


class Tokenizer:
    """A ``tokenizer.json`` with our truncation and no padding.

    Parameters
    ----------
    backend : tokenizers.Tokenizer
        Owned by this object from now on: its truncation and padding are removed.
    max_length : int
        Most tokens of a window, special tokens included.
    pad_id : int
        Id that `embedkit.runtime.batching.pad` fills with.
    side : {"right", "left"}
        The end that truncation cuts off.
    prompt : str
        Put before every text (before the first of a pair).
    lowercase : bool
        Lower-case what is no special token, character by character (sentence-transformers' ``do_lower_case``).
    spaced : bool
        Let words begin with the blank that stands before them in texts, where the vocabulary has it in its pieces
        and words that are given one by one would go without: byte-level ones (transformers' ``add_prefix_space``).
        `to_json` says so too, and what is read from that needs no flag. For words alone; texts get a blank too.

    Raises
    ------
    UsageError
        `max_length` leaves no room beside the special tokens of a pair.
    ModelError
        The tokenizer finds no token in any text, or its template repeats or drops a text.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        max_length: int,
        pad_id: int,
        side: Side = "right",
        prompt: str = "",
        lowercase: bool = False,
        spaced: bool = False,
    ) -> None:
        backend.no_padding()
        backend.no_truncation()
        if lowercase:
            _lower(backend)
        if spaced and _lacks_blank(backend):
            backend = _spaced(backend)
        self._backend = backend
        self._layouts = {1: _layout(backend, 1), 2: _layout(backend, 2)}
        special = max(_special(layout) for layout in self._layouts.values())
        if max_length <= special:
            raise UsageError(f"max_length {max_length} leaves no room beside {special} special tokens")
        self.max_length = max_length
        self.pad_id = pad_id
        self.side = side
        self.prompt = prompt
        self.lowercase = lowercase

    @classmethod
    def from_file(
        cls,
        path: Path,
        *,
        max_length: int,
        pad_id: int,
        side: Side = "right",
        prompt: str = "",
        lowercase: bool = False,
        spaced: bool = False,
    ) -> Tokenizer:
        """Read a ``tokenizer.json``; `ModelError` where it is damaged."""
        from tokenizers import Tokenizer as Backend

        try:
            backend = Backend.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise ModelError(f"{path}: not a usable tokenizer.json: {error}") from error
        try:
            return cls(
                backend,
                max_length=max_length,
                pad_id=pad_id,
                side=side,
                prompt=prompt,
                lowercase=lowercase,
                spaced=spaced,
            )
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from None

    def encode(self, texts: Sequence[Text], *, windows: bool = False) -> Tokens:
        """Tokenise texts or pairs.

        Parameters
        ----------
        texts : sequence of str or of (str, str)
            N inputs, all of one kind. A pair too long is cut to where both texts are equally long, then further
            on both (transformers' ``longest_first``).
        windows : bool, default=False
            Split what is longer than `max_length` into consecutive windows instead of truncating. Texts only.
            The last window is the short one; the first with `side` "left".

        Returns
        -------
        Tokens
            In input order. Every window has a token: where there would be none (an empty text, and a tokenizer
            that adds no special tokens, as decoders' are), `pad_id` stands.

        Raises
        ------
        UsageError
            Windows of pairs were asked for, or texts stand among pairs.
        """
        parts = self._parts(texts, windows=windows)
        flat, each = zip(*map(self._split, parts), strict=True)
        return self._arrange(list(flat), np.stack(each), windows=windows)

    def locate(self, text: Text, *, windows: bool = False) -> Located:
        """Tokenise one text or pair as `encode` does, and say where each token comes from.

        Parameters
        ----------
        text : str or (str, str)
        windows : bool, default=False
            As for `encode`.

        Raises
        ------
        UsageError
            Windows of a pair were asked for.
        """
        parts = self._parts([text], windows=windows)
        encodings = [self._backend.encode(part, add_special_tokens=False) for (part,) in parts]
        sizes = np.array([[len(encoding)] for encoding in encodings], np.int64)
        ids = np.array([i for encoding in encodings for i in encoding.ids], np.int32)
        laid, sources = self._traced(ids, sizes, windows=windows)
        spans = [span for encoding in encodings for span in encoding.offsets]
        parts_of = np.repeat(np.arange(len(parts)), sizes[:, 0])
        return Located(laid, sources, np.array(spans, np.int64).reshape(-1, 2), parts_of)

    def encode_words(self, sentences: Sequence[Words]) -> WordTokens:
        """Tokenise lists of words, each word by itself, as training on words does (``is_split_into_words``).

        Nothing is cut off. A list of more tokens than have room becomes windows of `max_length`, of which two
        neighbours share a quarter of the room; the last one ends where the list does.

        Parameters
        ----------
        sentences : sequence of sequence of str
            N lists. A word may have no token (an empty one, a lone variation selector). Every list has a window,
            also an empty one.
        """
        split = self._split_words(sentences)
        return self._windowed(split.ids, split.sizes, split.words)

    def encode_pieces(self, sentences: Sequence[Words]) -> PieceTokens:
        """Tokenise lists of words as `encode_words` does, every token being a word of its own.

        Parameters
        ----------
        sentences : sequence of sequence of str
        """
        split = self._split_words(sentences, spans=True)
        pieces = _ranges(np.zeros_like(split.sizes), split.sizes)
        return PieceTokens(self._windowed(split.ids, split.sizes, pieces), split.words, split.spans)

    def number_words(self, texts: Sequence[Text], *, windows: bool = False) -> NumberedTokens:
        """Tokenise texts or pairs as `encode` does, and count the words that the tokenizer itself makes of them.

        A word is what the pre-tokenizer cuts out (punctuation is one where it does so: BERT's and byte-level ones,
        not SentencePiece's), and begins anew at every piece that SentencePiece marks with U+2581, whether or not
        its pre-tokenizer cuts there. Words of a second text are counted on from those of the first.

        Parameters
        ----------
        texts, windows
            As for `encode`.

        Raises
        ------
        UsageError
            As for `encode`.
        """
        parts = self._parts(texts, windows=windows)
        encodings = [self._backend.encode_batch(part, add_special_tokens=False) for part in parts]
        flat = list(chain.from_iterable(encodings))
        sizes = np.array([len(encoding) for encoding in flat], np.int64).reshape(len(parts), -1)
        ids = np.fromiter(chain.from_iterable(e.ids for e in flat), np.int32, int(sizes.sum()))
        given = chain.from_iterable(e.word_ids for e in flat)
        cut = np.fromiter((-1 if word is None else word for word in given), np.int64, len(ids))
        texts_of = np.repeat(np.arange(sizes.size), sizes.ravel())
        first = np.append(True, (np.diff(cut) != 0) | (np.diff(texts_of) != 0))[: len(ids)] | self._marked(ids)
        counts = np.bincount(texts_of[first], minlength=sizes.size).reshape(sizes.shape)
        begin = np.cumsum(counts.ravel()) - counts.ravel() - (np.cumsum(counts, 0) - counts).ravel()
        words = np.cumsum(first) - 1 - np.repeat(begin, sizes.ravel())
        laid, sources = self._traced(ids, sizes, windows=windows)
        there = sources >= 0
        known, begins = np.full(len(sources), -1, np.int64), np.zeros(len(sources), bool)
        known[there], begins[there] = words[sources[there]], first[sources[there]]
        return NumberedTokens(laid, known, begins, counts.sum(0))

    def _marked(self, ids: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Whether the vocabulary writes each token with a leading U+2581, SentencePiece's mark of a blank."""
        distinct, places = np.unique(ids, return_inverse=True)
        marked = np.fromiter((self.name(i).startswith("\u2581") for i in distinct.tolist()), bool, len(distinct))
        return np.asarray(marked[places])

    def name(self, token: int) -> str:
        """Return how the vocabulary writes a token."""
        written: str | None = self._backend.id_to_token(token)
        return f"<{token}>" if written is None else written

    @property
    def prefixes_space(self) -> bool:
        """Whether it is byte-level and puts a blank before what it is given (``add_prefix_space``)."""
        from tokenizers import pre_tokenizers

        pre = self._backend.pre_tokenizer
        return isinstance(pre, pre_tokenizers.ByteLevel) and bool(pre.add_prefix_space)

    def to_json(self) -> str:
        """Return the ``tokenizer.json`` that splits texts as this one does, without truncation and padding."""
        return str(self._backend.to_str(pretty=True))

    def _traced(
        self, ids: NDArray[np.int32], sizes: NDArray[np.int64], *, windows: bool
    ) -> tuple[Tokens, NDArray[np.int64]]:
        """Arrange `ids`, the parts of `sizes` one after another; say where in `ids` each token is from, or -1."""
        marks = -1 - np.arange(len(ids), dtype=np.int32)  # no id is negative: marks and special tokens stay apart
        laid = self._arrange(np.split(marks, np.cumsum(sizes.sum(1))[:-1]), sizes, windows=windows)
        sources = np.where(laid.ids < 0, -1 - laid.ids, -1).astype(np.int64)
        laid.ids[sources >= 0] = ids[sources[sources >= 0]]
        return laid, sources

    def _split_words(self, sentences: Sequence[Words], *, spans: bool = False) -> _SplitWords:
        """Return the tokens of all lists one after another with their words, and their characters if asked.

        A word has the same tokens wherever it stands, so each distinct one is split once.
        """
        counts = np.fromiter(map(len, sentences), np.int64, len(sentences))
        distinct: dict[str, int] = {}
        which = np.fromiter(
            (distinct.setdefault(word, len(distinct)) for word in chain.from_iterable(sentences)),
            np.int64,
            int(counts.sum()),
        )
        ids, sizes, places = self._split_each(list(distinct), spans=spans)
        taken = _ranges((np.cumsum(sizes) - sizes)[which], sizes[which])
        words = np.repeat(_ranges(np.zeros_like(counts), counts), sizes[which])
        rows = np.repeat(np.arange(len(counts)), counts)
        of_lists = np.bincount(rows, weights=sizes[which], minlength=len(counts)).astype(np.int64)
        return _SplitWords(ids[taken], of_lists, words, places[taken] if spans else places)

    def _split_each(
        self, words: list[str], *, spans: bool
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
        """Return the ids of all words one after another, how many each has, and their characters if asked."""
        encode = self._backend.encode_batch if spans else self._backend.encode_batch_fast
        ids, sizes, places = [np.empty(0, np.int32)], [np.empty(0, np.int64)], [np.empty((0, 2), np.int64)]
        for first in range(0, len(words), _RUN):
            lists = [[word] for word in words[first : first + _RUN]]
            encodings = encode(lists, is_pretokenized=True, add_special_tokens=False)
            sizes.append(np.fromiter(map(len, encodings), np.int64, len(encodings)))
            count = int(sizes[-1].sum())
            ids.append(np.fromiter(chain.from_iterable(e.ids for e in encodings), np.int32, count))
            if spans:
                flat = chain.from_iterable(chain.from_iterable(e.offsets for e in encodings))
                places.append(np.fromiter(flat, np.int64, 2 * count).reshape(-1, 2))
        return np.concatenate(ids), np.concatenate(sizes), np.concatenate(places)

    def _windowed(self, ids: NDArray[np.int32], sizes: NDArray[np.int64], words: NDArray[np.int64]) -> WordTokens:
        """Lay lists of tokens out in overlapping windows; `words` is the word of each token in its list."""
        cut = _overlapping(sizes, self.max_length - _special(self._layouts[1]))
        tokens, sources = self._lay_windows(ids, sizes, cut)
        windows = np.repeat(np.arange(len(cut.rows)), tokens.lengths)
        rows = np.repeat(np.arange(len(sizes)), sizes)
        first = np.append(True, (np.diff(words) != 0) | (np.diff(rows) != 0))[: len(ids)]
        leads = np.maximum.accumulate(np.where(first, np.arange(len(ids)), 0))  # the first token of its word
        homes = _homes(sources, windows, cut, sizes)[leads]
        chosen = np.append(homes, -1)[sources] == windows  # a special token's source, -1, is the last place
        begins = np.append(first, False)[sources] & chosen
        known = np.bincount(rows[first], minlength=len(sizes))
        return WordTokens(tokens, np.append(words, -1)[sources], begins, chosen, known)

    def _lay_windows(
        self, ids: NDArray[np.int32], sizes: NDArray[np.int64], cut: _Cut
    ) -> tuple[Tokens, NDArray[np.int64]]:
        """Lay windows out; say where in `ids` each token is from, or -1."""
        layout, starts, kept = self._layouts[1], cut.starts(sizes)[None], cut.kept[None].copy()
        marks = [-1 - np.arange(len(ids), dtype=np.int32)]  # as in `_traced`
        filled = marks if _special(layout) else _fill_empty(marks, starts, kept, self.pad_id)
        laid, types, offsets = _lay_out(layout, filled, starts, kept)
        sources = np.where(laid < 0, -1 - laid, -1).astype(np.int64)
        laid[sources >= 0] = ids[sources[sources >= 0]]
        return Tokens(laid, types, offsets, cut.rows, np.zeros(len(sizes), bool), sizes), sources

    def _arrange(self, flat: list[NDArray[np.int32]], sizes: NDArray[np.int64], *, windows: bool) -> Tokens:
        """Cut and lay out: `flat` has the ids of all first texts, and of all second ones; sizes (1 or 2, N)."""
        layout = self._layouts[len(flat)]
        room = self.max_length - _special(layout)
        starts = np.cumsum(sizes, 1) - sizes
        rows, content = np.arange(sizes.shape[1]), sizes.sum(0)
        if windows:
            rows, starts, kept = _windows(starts, sizes, room, self.side)
            truncated = np.zeros(sizes.shape[1], bool)
        else:
            kept = _longest_first(sizes, room)
            starts = starts + sizes - kept if self.side == "left" else starts
            truncated, content = kept.sum(0) < content, kept.sum(0)
        filled = flat if _special(layout) else _fill_empty(flat, starts, kept, self.pad_id)
        ids, types, offsets = _lay_out(layout, filled, starts, kept)
        return Tokens(ids, types, offsets, rows, truncated, content)

    def count(self, texts: Sequence[Text]) -> NDArray[np.int64]:
        """Count the tokens of each input as if nothing were cut off, shape (N,); special ones too, at least 1."""
        parts = self._parts(texts)
        total = np.full(len(texts), _special(self._layouts[len(parts)]), np.int64)
        for part in parts:
            total += self._split(part)[1]
        return np.maximum(total, 1)

    def count_words(self, sentences: Sequence[Words]) -> NDArray[np.int64]:
        """Count the tokens of each list of words as `count` does those of texts, shape (N,)."""
        return np.maximum(self._split_words(sentences).sizes + _special(self._layouts[1]), 1)

    def without_tokens(self, tokens: Tokens) -> NDArray[np.bool_]:
        """Tell the inputs of which nothing but special tokens is left, shape (N,)."""
        return np.equal(tokens.content, 0)

    def probe(self) -> str:
        """Digest of the ids that 64 fixed strings get: 32 hex digits that change when tokenising changes."""
        digest = hashlib.sha256()
        for encoding in self._backend.encode_batch(list(PROBE_WORDS)):
            digest.update(np.asarray(encoding.ids, np.int64).tobytes() + b"|")
        return digest.hexdigest()[:32]

    def _parts(self, texts: Sequence[Text], *, windows: bool = False) -> list[list[str]]:
        """Return the texts as the backend shall see them: one list, or two for pairs."""
        single = [text for text in texts if isinstance(text, str)]
        pairs = [text for text in texts if not isinstance(text, str)]
        if single and pairs:
            kinds = f"input {texts.index(pairs[0]) + 1} is a pair, input {texts.index(single[0]) + 1} is not"
            raise UsageError(f"texts and pairs of texts cannot be mixed: {kinds}")
        if windows and pairs:
            raise UsageError("windows over long texts are not defined for pairs read together; truncate instead")
        parts = [[a for a, _ in pairs], [b for _, b in pairs]] if pairs else [single]
        if self.prompt:
            parts[0] = [self.prompt + text for text in parts[0]]
        return parts

    def _split(self, texts: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the ids of all texts one after another, shape (T,), and how many each has, shape (N,)."""
        ids, sizes = [np.empty(0, np.int32)], np.empty(len(texts), np.int64)
        for first in range(0, len(texts), _RUN):
            encodings = self._backend.encode_batch_fast(texts[first : first + _RUN], add_special_tokens=False)
            each = np.fromiter((len(e) for e in encodings), np.int64, len(encodings))
            sizes[first : first + _RUN] = each
            ids.append(np.fromiter(chain.from_iterable(e.ids for e in encodings), np.int32, int(each.sum())))
        return np.concatenate(ids), sizes


def _lower(backend: Backend) -> None:
    """Lower-case within the backend: its special tokens stay, and a final sigma is one like any other."""
    from tokenizers import normalizers

    own = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])


def _lacks_blank(backend: Backend) -> bool:
    """Say whether a word behind a blank has the blank in its first piece, and the same word alone has not."""
    behind = backend.encode("hello hello", add_special_tokens=False)
    second = next((piece for piece, (_, end) in zip(behind.tokens, behind.offsets, strict=True) if end > 5), "")
    alone = backend.encode(["hello"], is_pretokenized=True, add_special_tokens=False).tokens
    return second.startswith(_BLANKS) and not "".join(alone).startswith(_BLANKS)


def _spaced(backend: Backend) -> Backend:
    """Put a blank before each word, in the way that the backend has for it.

    A byte-level step behind others would put one before each part that these cut a word into: there a normalizer
    does it.
    """
    from tokenizers import Tokenizer, normalizers, pre_tokenizers

    if not isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        own = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(" "), *own])
        return backend
    state = json.loads(backend.to_str())
    after = state["post_processor"] or {}  # which counts the places of pieces in the word without that blank
    for part in (state["pre_tokenizer"], after, *after.get("processors", ())):
        if "add_prefix_space" in part:
            part["add_prefix_space"] = True
    return Tokenizer.from_str(json.dumps(state))


class _Piece(NamedTuple):
    """A special token, or the place of a text."""

    token: int | None  # None where a text stands
    text: int  # which of the texts stands here
    type_id: int


def _special(layout: list[_Piece]) -> int:
    return sum(piece.token is not None for piece in layout)


def _layout(backend: Backend, texts: int) -> list[_Piece]:
    """Read off an example where the special tokens of one text, or of two, stand."""
    plain = (backend.encode(word, add_special_tokens=False).ids for word in PROBE_WORDS)
    word, ids = next(((w, ids) for w, ids in zip(PROBE_WORDS, plain, strict=True) if ids), ("", []))
    if not ids:
        raise ModelError("the tokenizer finds no token in any text; its vocabulary is empty or damaged")
    example = backend.encode(word, word if texts == 2 else None)
    layout: list[_Piece] = []
    for token, text, type_id in zip(example.ids, example.sequence_ids, example.type_ids, strict=True):
        piece = _Piece(token, 0, type_id) if text is None else _Piece(None, text, type_id)
        if text is None or piece not in layout:
            layout.append(piece)
    whole = [i for piece in layout for i in (ids if piece.token is None else [piece.token])]
    special = backend.num_special_tokens_to_add(texts == 2)
    if whole != example.ids or len(layout) != special + texts:
        raise ModelError("the tokenizer's template repeats or drops a text; such templates are not supported")
    return layout


def _longest_first(sizes: NDArray[np.int64], room: int) -> NDArray[np.int64]:
    """Return how many tokens of each text stay, shape (1 or 2, N), as tokenizers' ``LongestFirst`` has it."""
    if len(sizes) == 1:
        return np.minimum(sizes, room)
    shorter = np.minimum(sizes.min(0), room // 2)
    longer = np.minimum(sizes.max(0), room - shorter)
    return np.where(sizes[0] > sizes[1], [longer, shorter], [shorter, longer])


def _windows(
    starts: NDArray[np.int64], sizes: NDArray[np.int64], room: int, side: Side
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Cut texts, (1, N), into windows of `room` tokens: row (W,), start (1, W) and tokens (1, W) of each."""
    each = np.maximum(1, -(-sizes[0] // room))
    rows = np.repeat(np.arange(len(each)), each)
    nth = _ranges(np.zeros_like(each), each)
    size = sizes[:, rows]
    first = size - (each[rows] - 1) * room if side == "left" else np.full_like(size, room)
    begin = np.maximum(0, first + (nth - 1) * room)
    end = np.minimum(size, first + nth * room)
    return rows, starts[:, rows] + begin, end - begin


class _Cut(NamedTuple):
    """Windows of lists of tokens."""

    rows: NDArray[np.int64]  # the list of each, (W,); ascending
    begin: NDArray[np.int64]  # its first token, counted in the list
    kept: NDArray[np.int64]  # its tokens

    def starts(self, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the first token of each, counted in all lists of these sizes together."""
        return (np.cumsum(sizes) - sizes)[self.rows] + self.begin


class _SplitWords(NamedTuple):
    """Tokens of N lists of words, one after another."""

    ids: NDArray[np.int32]
    sizes: NDArray[np.int64]  # (N,)
    words: NDArray[np.int64]  # of each token, its place in its list
    spans: NDArray[np.int64]  # (T, 2), or (0, 2) if nobody asked


def _overlapping(sizes: NDArray[np.int64], room: int) -> _Cut:
    """Cut lists of tokens, (N,), into windows of `room`, two neighbours sharing a quarter of it."""
    step = room - room // 4
    each = 1 + np.maximum(0, -((room - sizes) // step))
    rows = np.repeat(np.arange(len(sizes)), each)
    nth = _ranges(np.zeros_like(each), each)
    begin = np.minimum(nth * step, np.maximum(0, sizes[rows] - room))  # the last one ends where its list does
    return _Cut(rows, begin, np.minimum(sizes[rows], room))


def _homes(
    sources: NDArray[np.int64], windows: NDArray[np.int64], cut: _Cut, sizes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return for each token of the lists, (sum of sizes,), the window in which it is most central.

    Parameters
    ----------
    sources, windows
        Of every token of the windows: which token of the lists it is (-1: none), and its window.
    cut, sizes
        As `_overlapping` cut them.
    """
    there = sources >= 0
    token, window = sources[there], windows[there]
    before = token - cut.starts(sizes)[window]
    after = cut.kept[window] - 1 - before
    far = np.iinfo(np.int64).max
    before[(cut.begin == 0)[window]] = far
    after[(cut.begin + cut.kept == sizes[cut.rows])[window]] = far
    margin = np.minimum(before, after)
    best = np.full(int(sizes.sum()), -1)
    np.maximum.at(best, token, margin)
    found = np.flatnonzero(margin == best[token])[::-1]  # of windows as good, the earliest is written last
    homes = np.empty(len(best), np.int64)
    homes[token[found]] = window[found]
    return homes


def _fill_empty(
    texts: list[NDArray[np.int32]], starts: NDArray[np.int64], kept: NDArray[np.int64], pad_id: int
) -> list[NDArray[np.int32]]:
    """Let windows without tokens, in place, take one `pad_id`, which is put after the first texts."""
    empty = kept.sum(0) == 0
    starts[0, empty] = len(texts[0])
    kept[0, empty] = 1
    return [np.append(texts[0], np.int32(pad_id)), *texts[1:]]


def _lay_out(
    layout: list[_Piece], texts: list[NDArray[np.int32]], starts: NDArray[np.int64], kept: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32] | None, NDArray[np.int64]]:
    """Put special tokens around the kept tokens of every window: ids and types (T,), offsets (W + 1,)."""
    offsets = np.concatenate([[0], np.cumsum(kept.sum(0) + _special(layout))]).astype(np.int64)
    ids = np.empty(int(offsets[-1]), np.int32)
    types = np.empty_like(ids) if any(piece.type_id for piece in layout) else None
    cursor = offsets[:-1]
    for piece in layout:
        size = np.ones_like(cursor) if piece.token is not None else kept[piece.text]
        here = _ranges(cursor, size)
        if piece.token is not None:
            ids[here] = piece.token
        else:
            ids[here] = texts[piece.text][_ranges(starts[piece.text], size)]
        if types is not None:
            types[here] = piece.type_id
        cursor = cursor + size
    return ids, types, offsets


def _ranges(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Concatenate ``arange(start, start + size)`` of all."""
    before = np.cumsum(sizes) - sizes
    return np.repeat(starts - before, sizes) + np.arange(int(sizes.sum()))
