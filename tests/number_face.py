"""A face of numbers for estimators of texts, for scikit-learn's own checks: texts spell numbers for models."""
# ruff: noqa: N803 - X is scikit-learn's name

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import estimator_checks
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from embedkit.encoders import View
from embedkit.encoders.folder import ModelFolder
from embedkit.runtime.tokens import Tokens
from tests.tiny_models import make_encoder

Floats = NDArray[np.floating[Any]]
WIDTH = 32  # of what a model reads: 31 numbers of 16 digits, so 16 tokens each, and a 1


def make_number_model(folder: Path) -> str:
    """Write a model whose tokenizer splits spelt numbers into digits; no test computes with its weights."""
    return str(make_encoder(folder, "bert", layers=1, positions=512))


def digits_of(folder: Path) -> dict[int, str]:
    """Return the digit that a token stands for."""
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    return {vocabulary[digit]: digit for digit in "0123456789abcdef"}


def read_numbers(ids: NDArray[np.integer[Any]], digits: Mapping[int, str]) -> NDArray[np.float64]:
    """Return what the tokens of one text spell, then zeros, then a 1: an encoder gives zeros to no text."""
    spelt = "".join(digits.get(token, "") for token in ids.tolist())
    numbers = np.frombuffer(bytes.fromhex(spelt), np.float64)
    return np.concatenate([numbers, np.zeros(WIDTH - 1 - len(numbers)), [1]])


class Reader:
    """Reads back the numbers that texts spell."""

    overlaps = False

    def __init__(self, folder: ModelFolder) -> None:
        self.digits = digits_of(folder.path)

    def run(
        self,
        tokens: Tokens,
        batches: Sequence[NDArray[np.int64]],
        pad_id: int,
        views: Sequence[View],
        threads: int | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        for windows in batches:
            spelt = (tokens.ids[tokens.offsets[w] : tokens.offsets[w + 1]] for w in windows)
            read = np.stack([read_numbers(ids, self.digits) for ids in spelt]).astype(np.float32)
            yield windows, np.stack([read] * len(views))


def spell(estimator: BaseEstimator, X: Any, *, reset: bool) -> list[str] | pd.Series:
    """Return rows of numbers as texts, after what every estimator of numbers asks of them."""
    if not reset:
        check_is_fitted(estimator)
    numbers = validate_data(estimator, X, reset=reset, dtype=np.float64)
    texts = [" ".join(row.tobytes().hex()) for row in numbers]
    return pd.Series(texts, index=X.index) if isinstance(X, pd.DataFrame) else texts


class Numeric:
    """Says that rows of numbers are taken."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.two_d_array, tags.input_tags.string = True, False
        return tags


def _has(method: str) -> Callable[[NumberFace], bool]:
    return lambda classifier: hasattr(super(NumberFace, classifier), method)


class NumberFace(Numeric):
    """Before a classifier in the order of bases: it answers to numbers; labels and answers pass as they are."""

    def predict(self, X: Any) -> NDArray[Any]:
        return super().predict(spell(self, X, reset=False))  # type: ignore[misc]

    @available_if(_has("predict_proba"))
    def predict_proba(self, X: Any) -> Floats:
        return super().predict_proba(spell(self, X, reset=False))  # type: ignore[misc]

    @available_if(_has("decision_function"))
    def decision_function(self, X: Any) -> Floats:
        return super().decision_function(spell(self, X, reset=False))  # type: ignore[misc]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        return super().score(  # type: ignore[misc]
            X if self._form == "one" else spell(self, X, reset=False), y, sample_weight
        )


# scikit-learn runs these on its own estimators alone: they ask for more than it asks of others.
FURTHER = [
    estimator_checks.check_dataframe_column_names_consistency,
    estimator_checks.check_inplace_ensure_writeable,
]


def complaints(results: Sequence[Mapping[str, Any]], listed: Mapping[str, str]) -> list[str]:
    """Say what is wrong with the checks' results: a failure that is not listed, a list that is not true."""
    states = {name: [r["status"] for r in results if r["check_name"] == name] for name in listed}
    wrong = [f"{r['check_name']}: {r['exception']!r}" for r in results if r["status"] in ("failed", "skipped")]
    wrong += [f"{name} is listed, but does not fail" for name, states in states.items() if "xfail" not in states]
    wrong += [f"{name} has no reason" for name, reason in listed.items() if not reason.endswith(".")]
    wrong += ["more than eight are listed"] if len(listed) > 8 else []
    return wrong
