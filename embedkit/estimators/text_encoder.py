"""`TextEncoder`: frozen features as a scikit-learn transformer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from embedkit.encoders import EncoderSettings, Extraction, FeatureExtractor
from embedkit.encoders.opened import StoreDtype
from embedkit.errors import DataError, SpaceMismatchError, UsageError
from embedkit.estimators.inputs import as_inputs, kind_of
from embedkit.export.engine import make_engine
from embedkit.store import open_store, resolve_root

_STORE = ("store", "store_dtype")
_Files: TypeAlias = tuple[tuple[str, int, int, int], ...]


class TextEncoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turns texts or pairs of texts into vectors of a frozen transformer, each distinct text at most once.

    Features are kept in a store on disk that every process shares, so a grid search, a second fit or a clone
    encodes nothing again. Neither a clone nor a pickle carries weights.

    Parameters
    ----------
    model : str or Path, default "minilm"
        ``"minilm"``, a folder, or a hub id; a Path is always a folder.
    pooling, layers, layer_join, normalize, max_length, long, side, prompt, pairs, precision, engine, device, \
batch_tokens, threads, revision
        As in `embedkit.encoders.EncoderSettings`.
    store : str, Path, False or None, default None
        Folder of the feature store. None: ``$EMBEDKIT_STORE``, else the user's cache folder. False: no store.
    store_dtype : {"float32", "float16"}, default "float32"
        How vectors are kept.

    Attributes
    ----------
    space_ : str
        The feature space of the fitted data's kind of input, 32 hexadecimal digits.
    settings_ : EncoderSettings
        The settings that were fitted.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> classifier = make_pipeline(TextEncoder("minilm", pooling="cls"), LogisticRegression())
    """

    def __init__(
        self,
        model: str | Path = "minilm",
        *,
        pooling: str | None = None,
        layers: int | str | Sequence[int] = -1,
        layer_join: str = "concat",
        normalize: bool | None = None,
        max_length: int | None = None,
        long: str = "truncate",
        side: str | None = None,
        prompt: str | None = None,
        pairs: str = "cross",
        precision: str = "auto",
        engine: str = "auto",
        device: str = "auto",
        batch_tokens: int = EncoderSettings.batch_tokens,
        threads: int | None = None,
        revision: str | None = None,
        store: str | Path | bool | None = None,
        store_dtype: str = "float32",
    ) -> None:
        self.model = model
        self.pooling = pooling
        self.layers = layers
        self.layer_join = layer_join
        self.normalize = normalize
        self.max_length = max_length
        self.long = long
        self.side = side
        self.prompt = prompt
        self.pairs = pairs
        self.precision = precision
        self.engine = engine
        self.device = device
        self.batch_tokens = batch_tokens
        self.threads = threads
        self.revision = revision
        self.store = store
        self.store_dtype = store_dtype

    def fit(self, X: Any, y: Any = None) -> TextEncoder:  # noqa: N803, ANN401
        """Open the model's folder and check the texts; nothing is learnt and nothing is encoded.

        Parameters
        ----------
        X : list, array or Series of str, or of pairs
            Texts.
        y : ignored

        Returns
        -------
        TextEncoder
            Itself.

        Raises
        ------
        DataError
            X holds something else than texts; names the row. Two columns are not called as pairs of texts are.
        InputMissingError, ModelError, UsageError
            The model is not there or not whole, or a parameter is not allowed.
        """
        inputs = as_inputs(X)
        self.__dict__.pop("_kept", None)  # the model's files may be others than at the last fit
        return self._adopt(self._open(), kind_of(inputs))

    def transform(self, X: Any) -> NDArray[np.float32]:  # noqa: N803, ANN401
        """Return the vectors of texts, shape (n, D), float32, in input order.

        Raises
        ------
        DataError
            X holds something else than texts, or pairs where `fit` saw texts, or the other way round.
        SpaceMismatchError
            The model's files or the parameters changed since `fit`.
        """
        check_is_fitted(self, "space_")
        inputs = as_inputs(X)
        if inputs and kind_of(inputs) != self._kind:
            raise DataError(f"X holds {kind_of(inputs)}s, but this encoder was fitted on {self._kind}s")
        extractor = self._open_as_fitted()
        if not inputs:
            self._last.extraction = Extraction()
            return np.empty((0, self._n_features_out), np.float32)
        features = extractor.transform(inputs)
        self._last.extraction = features.extraction
        return features.vectors

    @property
    def extraction_(self) -> Extraction:
        """What the last `transform` did: rows, distinct texts, hits, computed, truncated."""
        if not hasattr(self, "_last") or self._last.extraction is None:
            raise AttributeError("extraction_ is there after transform")
        return self._last.extraction

    def _adopt(self, extractor: FeatureExtractor, kind: str) -> TextEncoder:
        """Be fitted as this extractor, which stands for the parameters as they are now, has it."""
        self.space_ = extractor.space(kind)
        self.settings_ = extractor.settings
        self._kind = kind
        self._n_features_out = extractor.width(kind)
        self._kept = _Kept.of(self._wanted(), extractor)
        self._last = _Last()
        return self

    def _open_as_fitted(self) -> FeatureExtractor:
        """Return an extractor that gives the features that were fitted, or say why there is none."""
        extractor = self._open()
        space = extractor.space(self._kind)
        if space != self.space_:
            raise SpaceMismatchError(
                f"fitted in the feature space {self.space_[:12]}, but the parameters and the model's files now "
                f"give {space[:12]}; call fit again"
            )
        return extractor

    def _open(self) -> FeatureExtractor:
        """Return an extractor for parameters, store and model files as they are now; the last one is kept."""
        wanted = self._wanted()
        kept: _Kept | None = getattr(self, "_kept", None)
        if kept is None or kept.wanted != wanted or kept.files != _files(kept.folder):
            store = open_store(self.store, self.store_dtype)
            extractor = FeatureExtractor(wanted.settings, store=store, dtype=wanted.dtype, engines=make_engine)
            self._kept = kept = _Kept.of(wanted, extractor)
        return kept.extractor

    def _wanted(self) -> _Wanted:
        if self.store_dtype not in get_args(StoreDtype):
            raise UsageError(f"store_dtype is {self.store_dtype!r}; allowed: {', '.join(get_args(StoreDtype))}")
        params = self.get_params(deep=False)
        settings = EncoderSettings(**{name: value for name, value in params.items() if name not in _STORE})
        root = None if self.store is False else resolve_root(None if self.store is True else self.store)
        return _Wanted(settings, root, self.store_dtype, os.getpid())  # type: ignore[arg-type]  # just checked

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        own = {"_last": replace(self._last)} if hasattr(self, "_last") else {}  # a copy goes its own way
        return {name: value for name, value in state.items() if name != "_kept"} | own

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401 - scikit-learn's Tags
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        return tags


class _Wanted(NamedTuple):
    """What the parameters and the environment ask for."""

    settings: EncoderSettings
    root: Path | None
    dtype: StoreDtype
    process: int  # a forked one may inherit locks that another thread held, and that nobody will release


@dataclass
class _Last:
    """What the last `transform` did; a box, because `transform` may set no attribute of an estimator."""

    extraction: Extraction | None = None


class _Kept(NamedTuple):
    """An extractor with what it was opened for and from."""

    wanted: _Wanted
    folder: Path
    files: _Files
    extractor: FeatureExtractor

    @classmethod
    def of(cls, wanted: _Wanted, extractor: FeatureExtractor) -> _Kept:
        folder = extractor.folder.resolved.folder.absolute()  # the current folder may change
        return cls(wanted, folder, _files(folder), extractor)


def _files(folder: Path) -> _Files:
    """Return what tells that files of a model were replaced: names, sizes, times, inodes."""
    files = (path for depth in ("*", "*/*") for path in folder.glob(depth) if path.is_file())
    states = ((str(path), path.stat()) for path in files)
    return tuple(sorted((name, state.st_size, state.st_mtime_ns, state.st_ino) for name, state in states))
