"""Texts to ragged token ids, the one way for training, evaluation and serving.

Truncation and padding are set here; those inside ``tokenizer.json`` are ignored, because files in the wild
carry limits that nobody asked for (MiniLM ships 128 tokens and fixed padding).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedkit.errors import ModelError, UsageError

if TYPE_CHECKING:
    from tokenizers import Encoding
    from tokenizers import Tokenizer as Backend

Text: TypeAlias = str | tuple[str, str]
"""A text, or a pair of texts that the model reads together."""

Side: TypeAlias = Literal["right", "left"]

# Tokenisers drift between releases with the same files: the ids of these strings tell (see `Tokenizer.probe`).
_PROBE_WORDS = (
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
    """

    ids: NDArray[np.int32]
    type_ids: NDArray[np.int32] | None
    offsets: NDArray[np.int64]
    rows: NDArray[np.int64]
    truncated: NDArray[np.bool_]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each window, shape (W,)."""
        return np.diff(self.offsets)

    @property
    def row_lengths(self) -> NDArray[np.int64]:
        """Tokens of each input over all its windows, shape (N,)."""
        return np.bincount(self.rows, weights=self.lengths, minlength=len(self.truncated)).astype(np.int64)


class Tokenizer:
    """A ``tokenizer.json`` with our truncation and no padding.

    Parameters
    ----------
    backend : tokenizers.Tokenizer
        Owned by this object from now on: its truncation and padding are replaced.
    max_length : int
        Most tokens of a window, special tokens included.
    pad_id : int
        Id that `embedkit.runtime.batching.pad` fills with.
    side : {"right", "left"}
        The end that truncation cuts off.
    prompt : str
        Put before every text (before the first of a pair).
    lowercase : bool
        Lower-case texts before the tokenizer sees them (sentence-transformers' ``do_lower_case``).
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
    ) -> None:
        backend.no_padding()
        self._special = (backend.num_special_tokens_to_add(False), backend.num_special_tokens_to_add(True))
        if max_length <= max(self._special):
            raise UsageError(f"max_length {max_length} leaves no room beside {max(self._special)} special tokens")
        backend.enable_truncation(max_length, stride=0, strategy="longest_first", direction=side)
        self._backend = backend
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
    ) -> Tokenizer:
        """Read a ``tokenizer.json``; `ModelError` where it is damaged."""
        from tokenizers import Tokenizer as Backend

        try:
            backend = Backend.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise ModelError(f"{path}: not a usable tokenizer.json: {error}") from error
        return cls(backend, max_length=max_length, pad_id=pad_id, side=side, prompt=prompt, lowercase=lowercase)

    def encode(self, texts: Sequence[Text], *, windows: bool = False) -> Tokens:
        """Tokenise texts or pairs.

        Parameters
        ----------
        texts : sequence of str or of (str, str)
            N inputs.
        windows : bool, default=False
            Split what is longer than `max_length` into consecutive windows instead of truncating. Texts only.

        Returns
        -------
        Tokens
            In input order.

        Raises
        ------
        UsageError
            Windows of pairs were asked for.
        """
        pairs = bool(texts) and not isinstance(texts[0], str)
        if windows and pairs:
            raise UsageError("windows over long texts are not defined for pairs read together; truncate instead")
        encodings = self._backend.encode_batch_fast(self._prepare(texts))
        # Overflowing parts are costly to ask for; only a full window can have any.
        over = [e.overflowing if len(e) == self.max_length else [] for e in encodings]
        cut = np.fromiter((bool(o) for o in over), bool, len(encodings))
        if not windows:
            return _ragged(encodings, np.arange(len(encodings)), cut, typed=pairs)
        rows = np.repeat(np.arange(len(encodings)), [1 + len(o) for o in over])
        parts = list(chain.from_iterable((e, *o) for e, o in zip(encodings, over, strict=True)))
        return _ragged(parts, rows, np.zeros(len(encodings), bool), typed=False)

    def count(self, texts: Sequence[Text]) -> NDArray[np.int64]:
        """Count the tokens of each input as if nothing were cut off, special tokens included, shape (N,)."""
        if texts and not isinstance(texts[0], str):
            single, pair = self._special
            first = self.count([t[0] for t in texts])
            return first + self.count([t[1] for t in texts]) - 2 * single + pair
        tokens = self.encode(texts, windows=True)
        windows = np.bincount(tokens.rows, minlength=len(texts))
        return tokens.row_lengths - (windows - 1) * self._special[0]

    def without_tokens(self, tokens: Tokens) -> NDArray[np.bool_]:
        """Tell the inputs of which nothing but special tokens is left, shape (N,)."""
        return tokens.row_lengths <= self._special[0]

    def probe(self) -> str:
        """Digest of the ids that 64 fixed strings get: 32 hex digits that change when tokenising changes."""
        digest = hashlib.sha256()
        for encoding in self._backend.encode_batch(list(_PROBE_WORDS)):
            digest.update(np.asarray(encoding.ids, np.int64).tobytes() + b"|")
        return digest.hexdigest()[:32]

    def _prepare(self, texts: Sequence[Text]) -> list[Text]:
        prepared: Iterable[Text] = texts
        if self.prompt:
            prepared = (self.prompt + t if isinstance(t, str) else (self.prompt + t[0], t[1]) for t in prepared)
        if self.lowercase:
            prepared = (t.lower() if isinstance(t, str) else (t[0].lower(), t[1].lower()) for t in prepared)
        return list(prepared)


def _ragged(
    encodings: Sequence[Encoding], rows: NDArray[np.int64], truncated: NDArray[np.bool_], *, typed: bool
) -> Tokens:
    lengths = np.fromiter((len(e) for e in encodings), np.int64, len(encodings))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    total = int(offsets[-1])
    ids = np.fromiter(chain.from_iterable(e.ids for e in encodings), np.int32, total)
    types = np.fromiter(chain.from_iterable(e.type_ids for e in encodings), np.int32, total) if typed else None
    return Tokens(ids, types, offsets, rows, truncated)
