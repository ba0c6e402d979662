"""What the words of a text add to the score of each class, where pooling is the mean and the head is linear.

The vector of a text is v = m / |m|, m the mean over its n tokens of their hidden states h_t (of several layers
joined or averaged; without normalising v = m). A linear head's score is then a sum over tokens,

    score_c = b_c + sum_t w_c . h_t / (n |m|),

and token t adds its term: nothing is estimated. Only |m| belongs to no token: it is held at its value.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedkit.data.text import counted, name_of, names_of
from embedkit.encoders import FeatureExtractor, Recipe
from embedkit.errors import DataError, ModelError, UsageError
from embedkit.estimators.explain_page import fragment, page
from embedkit.heads import LinearHead, head_from_estimator
from embedkit.runtime.decide import Label
from embedkit.runtime.tokens import Located, Text

Kind: TypeAlias = Literal["word", "space", "prompt", "special"]
_Doubles: TypeAlias = NDArray[np.float64]

# How far a score and its terms may be apart, of |w_c| |v|: what another batch or a rounded store may change.
_TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
_POOLINGS = {
    "cls": "the first token's state stands for the whole text, so no other token has a term of its own",
    "last": "the last token's state stands for the whole text, so no other token has a term of its own",
    "max": "each number of the vector is the largest over all tokens, which is no sum",
    "mean_sqrt_len": "the sum is divided by the root of its length; this is not built, and the mean does the same",
    "pooler": "the pooler puts a layer and a tanh on the first token's state, which is no sum over tokens",
}


@dataclass(frozen=True)
class WordContribution:
    """A word, or another thing that the model read, and what it adds to each score.

    Attributes
    ----------
    word : str
        As it stands in the text; for ``"prompt"`` the prompt, for ``"special"`` the token's name.
    start, end : int or None
        Its characters in its text, ``text[start:end]``; None for prompt and special tokens.
    part : int or None
        1, or 2 for the second text of a pair; None for special tokens.
    kind : {"word", "space", "prompt", "special"}
        Space is white space that has tokens of its own.
    contributions : tuple of float, length C
        In the order of the explanation's classes; 0 where the model read nothing of it.
    read, cut : int
        Its tokens that the model read, and those beyond the maximum length. Both 0: the tokenizer makes no
        token of it.
    """

    word: str
    start: int | None
    end: int | None
    part: int | None
    kind: Kind
    contributions: tuple[float, ...]
    read: int
    cut: int


@dataclass(frozen=True, repr=False)
class Explanation:
    """The score of each class, taken apart: ``scores[c] = intercept[c] + sum over words + rounding[c]``.

    A term is exact for the text as it is. It does not say what the score would be without the word: the states
    of the other tokens, which hold their neighbours, and the length of the vector would be others.

    Attributes
    ----------
    text : str or (str, str)
    words : tuple of WordContribution
        In reading order: every word, special token, prompt, and white space that has tokens. Words that were
        cut off or that have no token are among them, with contributions of 0.
    classes : tuple of label, length C
    scores : tuple of float, length C
        The decision scores. For two classes that of the second and its negative: above 0 means the second,
        unless a threshold was tuned.
    intercept : tuple of float, length C
        The part of the scores that is there without any text.
    rounding : tuple of float, length C
        What is left: float32 (bfloat16, float16) sums taken in another order.
    norm_held : float or None
        The length of the vector before normalising, held at its value; None where nothing is normalised.
    label : label, or tuple of label
        What the classifier predicts; a tuple where rows have any number of labels.
    multi_label : bool
        Whether each class stands for itself.
    """

    text: Text
    words: tuple[WordContribution, ...]
    classes: tuple[Label, ...]
    scores: tuple[float, ...]
    intercept: tuple[float, ...]
    rounding: tuple[float, ...]
    norm_held: float | None
    label: Label | tuple[Label, ...]
    multi_label: bool = False

    def __repr__(self) -> str:
        words = counted(sum(word.kind == "word" for word in self.words), "word")
        return f"Explanation(label={self.label!r}, {words})"

    def top(self, label: Label | None = None, k: int = 10) -> list[tuple[str, float]]:
        """Return the k words that weigh most in the score of a label, either way, each with what it adds.

        Parameters
        ----------
        label : label, optional
            Default: as for `to_html`.
        k : int, default 10

        Raises
        ------
        UsageError
            The label is none of the classes.
        """
        at = self._place(label)
        read = [(word.word, word.contributions[at]) for word in self.words if word.kind == "word" and word.read]
        return sorted(read, key=lambda item: -abs(item[1]))[:k]

    def to_list(self, label: Label | None = None) -> list[dict[str, Any]]:
        """Return the words in reading order as JSON values, each with its ``contribution`` to a label's score.

        Parameters
        ----------
        label : label, optional
            Default: as for `to_html`.

        Raises
        ------
        UsageError
            The label is none of the classes.
        """
        at = self._place(label)
        return [
            {
                "word": word.word,
                "part": word.part,
                "start": word.start,
                "end": word.end,
                "kind": word.kind,
                "read": word.read,
                "cut": word.cut,
                "contribution": word.contributions[at],
            }
            for word in self.words
        ]

    def to_html(self, label: Label | None = None) -> str:
        """Return a page that shows the text coloured: no script, nothing loaded, every text escaped.

        Parameters
        ----------
        label : label, optional
            Whose score is shown. Default: that of the prediction, the others folded behind it; for two classes
            the second, blue for it and orange for the first; where rows have several labels, that of the
            highest score first.

        Raises
        ------
        UsageError
            The label is none of the classes.
        """
        return page(self, self._place(label), alone=label is not None)

    def _repr_html_(self) -> str:
        return fragment(self, self._place(None), alone=False)

    def _place(self, label: Label | None) -> int:
        """Return the class that a label means; None means the default."""
        if label is None and self.negated:
            return 1
        if label is None:
            wanted = max(range(len(self.classes)), key=self.scores.__getitem__)
            return wanted if isinstance(self.label, tuple) else self.classes.index(self.label)
        if label not in self.classes:
            raise UsageError(f"label {name_of(label)} is none of the classes: {names_of(self.classes)}")
        return self.classes.index(label)

    @property
    def negated(self) -> bool:
        """Whether there is one score: that of the second class, whose negative is the first one's."""
        return len(self.classes) == 2 and not self.multi_label

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the scores do not hold: words that were cut off or have no token, a threshold that decided."""
        words = [word for word in self.words if word.kind == "word"]
        cut = sum(word.cut > 0 and not word.read for word in words)
        partly = sum(word.cut > 0 and word.read > 0 for word in words)
        none = sum(not word.cut and not word.read for word in words)
        said = (
            (cut, "beyond the maximum length and not read"),
            (partly, "read in part: the rest is beyond the maximum length"),
            (none, "without a token: the tokenizer knows nothing of it"),
        )
        remarks = [f"{counted(count, 'word')} {what}" for count, what in said if count]
        if any(word.kind == "prompt" and word.cut for word in self.words):
            remarks.append("the prompt was cut: text and prompt are longer than the maximum length")
        labels = self.label if isinstance(self.label, tuple) else (self.label,)
        signed = zip(self.classes, self.scores, strict=True) if self.multi_label or self.negated else ()
        if any(score and (score > 0) != (label in labels) for label, score in signed):
            remarks.append("a tuned threshold, and not the sign of the score, decided the prediction")
        return tuple(remarks)


def explain_text(
    extractor: FeatureExtractor,
    head: object,
    classes: Iterable[Any],
    text: Text,
    predict: Callable[[list[Text]], Any],
    *,
    order: Sequence[int] | NDArray[np.integer[Any]] | None = None,
) -> Explanation:
    """Take a text's scores apart into what its words add.

    Parameters
    ----------
    extractor : FeatureExtractor
        That the head was fitted with; pooling is mean.
    head : LinearHead, or a scikit-learn classifier that becomes one
    classes : iterable of label
        C labels.
    text : str or (str, str)
        A text; a pair where pairs are read together.
    predict : callable
        Gives a list of texts the label of each. Where rows have any number of labels, a row of an array that
        says which of `classes` it has, or a list of labels.
    order : sequence of int, optional
        The code of each of `classes` in the head. Default: 0 to C - 1.

    Returns
    -------
    Explanation

    Raises
    ------
    UsageError
        The score is no sum over tokens: another head, another pooling, or pairs that are read apart.
    DataError
        The text is neither a text nor a pair.
    ModelError
        The terms do not add up to the score.
    """
    _check_text(text)
    linear = _require_sum(extractor.recipe, head, isinstance(text, tuple))
    label, names = predict([text])[0], tuple(map(_plain, classes))
    coef, intercept = _weights(linear)
    codes = np.arange(len(coef)) if order is None else np.asarray(order)
    vector = extractor.transform([text]).vectors
    located = extractor.tokenizer.locate(text, windows=extractor.recipe.long == "mean")
    shares, norm = _shares(extractor, located, coef[codes])
    scores = _all_scores(linear, vector)[codes]
    known = np.isfinite(intercept[codes])  # a class without training rows has -inf
    rounding = np.zeros(len(codes))
    rounding[known] = scores[known] - intercept[codes][known] - shares.sum(0)[known]
    tolerance = max(_TOLERANCE[extractor.recipe.precision], _TOLERANCE[extractor.dtype])
    _check_sum(rounding, coef[codes], vector, tolerance)
    return Explanation(
        text=text,
        words=tuple(_words(extractor, located, text, shares)),
        classes=names,
        scores=tuple(scores.tolist()),
        intercept=tuple(intercept[codes].tolist()),
        rounding=tuple(rounding.tolist()),
        norm_held=norm,
        label=_labels(names, label) if linear.multi_label else _plain(label),
        multi_label=linear.multi_label,
    )


def _labels(classes: Sequence[Label], row: Any) -> tuple[Label, ...]:  # noqa: ANN401 - an array or labels
    """Return the labels of a row."""
    if isinstance(row, np.ndarray):
        row = [label for label, has in zip(classes, row, strict=True) if has]
    return tuple(map(_plain, row))


def _plain(label: Any) -> Label:  # noqa: ANN401 - a label of any dtype
    value: Label = label.item() if isinstance(label, np.generic) else label
    return value


# ----------------------------------------------------------------------------------------------- what is refused


def _check_text(text: object) -> None:
    pair = isinstance(text, tuple) and len(text) == 2 and all(isinstance(part, str) for part in text)
    if not isinstance(text, str) and not pair:
        raise DataError(
            f"explain takes one text, or one pair as a 2-tuple of texts; this is a {type(text).__name__}"
        )


def _require_sum(recipe: Recipe, head: object, is_pair: bool) -> LinearHead:
    """Return the head if scores are sums over tokens; else say why they are not and what to do."""
    if hasattr(head, "get_params"):
        with contextlib.suppress(UsageError):  # of one that cannot be saved; refused below
            head = head_from_estimator(head)
    if not isinstance(head, LinearHead):
        raise UsageError(
            f"explain needs a head that is linear in the features; {_head_name(head)} is not, so its score is no "
            "sum of one term a word; fit with logreg, ridge, linear-svm, lda or centroid"
        )
    wrong = [pooling for pooling in recipe.poolings if pooling != "mean"]
    if wrong:
        raise UsageError(
            f"explain needs pooling mean; this classifier has {'+'.join(recipe.poolings)}. {wrong[0]}: "
            f"{_POOLINGS[wrong[0]]}; fit with pooling 'mean' (--pooling mean)"
        )
    if is_pair and recipe.pairs == "bi":
        raise UsageError(
            "explain needs pairs that are read together; this classifier has pairs 'bi', whose |u - v| and u * v "
            "are no sums over tokens; fit with pairs 'cross' (--pairs cross)"
        )
    return head


def _head_name(head: object) -> str:
    kind = getattr(head, "kind", type(head).__name__)
    base = getattr(head, "base", None)
    return f"{kind!r}" if base is None else f"{kind!r} around {_head_name(base)}"


def _check_sum(rounding: _Doubles, coef: _Doubles, vector: NDArray[np.float32], tolerance: float) -> None:
    """Refuse to show terms that are not those of the score."""
    allowed = tolerance * np.linalg.norm(coef, axis=1) * max(float(np.linalg.norm(vector)), 1e-30)
    off = np.abs(rounding) > allowed
    if off.any() or np.isnan(rounding).any():
        raise ModelError(
            f"the words' terms and the score are {np.abs(rounding).max():.3g} apart, where {allowed.max():.3g} is "
            "allowed; the store may hold another model's features: load with store=False, and if that does not "
            "help, this is a defect of embedkit: please report it"
        )


# ------------------------------------------------------------------------------------------------- the arithmetic


def _weights(head: LinearHead) -> tuple[_Doubles, _Doubles]:
    """Return a row of weights and an intercept for each class, (C, D) and (C,), in the order of codes."""
    coef, intercept = head.coef.astype(np.float64), head.intercept.astype(np.float64)
    if head.multi_label or len(coef) > 2:
        return coef, intercept
    if len(coef) == 2:
        coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
    return np.concatenate([-coef, coef]), np.concatenate([-intercept, intercept])


def _all_scores(head: LinearHead, vector: NDArray[np.float32]) -> _Doubles:
    """Return the decision score of each class, (C,); for two classes the second's and its negative."""
    scores = np.asarray(head.decision_function(vector), np.float64)[0]
    return scores if scores.ndim else np.array([-scores, scores])


def _shares(extractor: FeatureExtractor, located: Located, coef: _Doubles) -> tuple[_Doubles, float | None]:
    """Return what each token adds to each score, (T, C), and the length of the vector if that is made 1.

    Long texts that are read in windows are one case of it: their vector is the windows' mean weighted by tokens,
    so the mean over all tokens.
    """
    recipe, count, layers = extractor.recipe, len(located.sources), len(extractor.recipe.layers)
    if recipe.layer_join == "mean":
        coef = np.tile(coef / layers, layers)
    shares, total = np.empty((count, len(coef))), np.zeros(coef.shape[1])
    for places, states in extractor.token_states(located.tokens):
        flat = states.transpose(1, 0, 2).reshape(len(places), -1).astype(np.float64)  # (t, layers * H)
        shares[places] = flat @ coef.T
        total += flat.sum(0)
    shares /= count
    if not recipe.normalize:
        return shares, None
    mean = total.reshape(layers, -1) / count
    norm = float(np.linalg.norm(mean.mean(0) if recipe.layer_join == "mean" else mean)) or 1.0
    return shares / norm, norm


# ---------------------------------------------------------------------------------------------- tokens to words

# Letters that are written without spaces between words.
_SPACELESS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
# Letters with their marks, apostrophes inside; one letter where no spaces are written; one other character.
_UNIT = re.compile(r"[wm]+(?:a[wm]+)*|[cpa]m*|s+")


def _class_of(character: str) -> str:
    if character.isspace():
        return "s"
    category = unicodedata.category(character)
    if category[0] == "M" or character in "\u200c\u200d":
        return "m"
    if category[0] in "LN" or character == "_":
        return "c" if unicodedata.name(character, "").startswith(_SPACELESS) else "w"
    return "a" if character in "'\u2019" else "p"


class _Word(NamedTuple):
    """The first fields of a `WordContribution`."""

    word: str
    start: int | None
    end: int | None
    part: int
    kind: Kind


class _Part:
    """One text cut into units, the prompt being the first; a token that covers several makes one word of them."""

    def __init__(self, text: str, prompt: str) -> None:
        self._whole = prompt + text
        self._prompt = len(prompt)
        classes = "".join(map(_class_of, text))
        starts = [self._prompt + match.start() for match in _UNIT.finditer(classes)]
        self._starts = [0] * bool(prompt) + starts or [0]
        self._is_start = frozenset(self._starts)
        self._ends = [*self._starts[1:], len(self._whole)]

    def words_of(self, spans: Sequence[Sequence[int]]) -> tuple[list[tuple[int, int]], list[int]]:
        """Return the words, as characters of prompt and text together, and the word of each token."""
        units = [self._units(start, end) for start, end in spans]
        joined = np.zeros(len(self._starts), np.int64)  # whether a unit belongs to the one before it
        for first, last in units:
            joined[first + 1 : last + 1] = 1
        word_of = np.cumsum(1 - joined) - 1
        first_units = np.flatnonzero(joined == 0)
        last_units = np.append(first_units[1:], len(joined)) - 1
        words = [(self._starts[a], self._ends[b]) for a, b in zip(first_units, last_units, strict=True)]
        return words, [int(word_of[first]) for first, _ in units]

    def _units(self, start: int, end: int) -> tuple[int, int]:
        """Return the first and last unit that a token covers.

        White space counts for the word that it leads to. A token of prompt and text is the text's.
        """
        visible = [place for place in range(start, end) if not self._whole[place].isspace()]
        visible = [place for place in visible if place >= self._prompt] or visible
        if visible:
            return self._unit(visible[0]), self._unit(visible[-1])
        at = self._unit(end if end in self._is_start else max(end - 1, 0))
        return at, at

    def _unit(self, character: int) -> int:
        return bisect_right(self._starts, character) - 1

    def word(self, start: int, end: int, part: int) -> _Word:
        """Say what a word is, by its characters of prompt and text together."""
        word = self._whole[start:end]
        if start < self._prompt:
            return _Word(word, None, None, part, "prompt")
        return _Word(word, start - self._prompt, end - self._prompt, part, "word" if word.strip() else "space")


def _words(
    extractor: FeatureExtractor, located: Located, text: Text, shares: _Doubles
) -> Iterator[WordContribution]:
    """Yield words and special tokens in reading order."""
    words, owners = _empty_words(extractor.recipe.prompt, located, text)
    is_text = located.sources >= 0
    owner = np.where(is_text, owners[located.sources] if len(owners) else -1, -1)  # the word of each token read
    terms = np.zeros((len(words), shares.shape[1]))
    np.add.at(terms, owner[is_text], shares[is_text])
    read = np.bincount(owner[is_text], minlength=len(words))
    made = np.bincount(owners, minlength=len(words))
    specials = _specials_before(extractor, located, owner, shares, len(words))
    for at, word in enumerate(words):
        yield from specials.get(at, ())
        if word.kind != "space" or made[at]:
            counts = int(read[at]), int(made[at] - read[at])
            yield WordContribution(*word, tuple(terms[at].tolist()), *counts)
    yield from specials.get(len(words), ())


def _empty_words(prompt: str, located: Located, text: Text) -> tuple[list[_Word], NDArray[np.int64]]:
    """Return the words of all texts, and the word of each token that was made of them, also of those cut off."""
    words: list[_Word] = []
    owners = np.empty(len(located.parts), np.int64)
    for number, part_text in enumerate((text,) if isinstance(text, str) else text):
        part = _Part(part_text, "" if number else prompt)
        mine = located.parts == number
        spans, owner = part.words_of(located.spans[mine].tolist())
        owners[mine] = np.asarray(owner, np.int64) + len(words)
        words += [part.word(start, end, number + 1) for start, end in spans]
    return words, owners


def _specials_before(
    extractor: FeatureExtractor, located: Located, owner: NDArray[np.int64], shares: _Doubles, end: int
) -> dict[int, list[WordContribution]]:
    """Return the special tokens by the word that they stand before."""
    before: dict[int, list[WordContribution]] = {}
    following = end
    for place in range(len(owner) - 1, -1, -1):
        if owner[place] >= 0:
            following = int(owner[place])
            continue
        name = extractor.tokenizer.name(int(located.tokens.ids[place]))
        terms = tuple(shares[place].tolist())
        special = WordContribution(name, None, None, None, "special", terms, 1, 0)
        before.setdefault(following, []).insert(0, special)
    return before
