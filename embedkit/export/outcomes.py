"""What a graph answers to labelled rows, in a form that can be judged: for texts, words and vectors alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from embedkit.export.verdict import Answer, Outcome, Rows
from embedkit.heads import Head, HeadSpec, fit_head
from embedkit.runtime.predictor import Predictor


def answering(fit: Rows | None, first: Predictor) -> Callable[[Predictor], Answer]:
    """Return what makes an answer of a predictor.

    Parameters
    ----------
    fit : Rows, optional
        For an encoder: rows on whose vectors, as `first` gives them, a logistic regression is fitted. It then
        judges every predictor of this encoder.
    first : Predictor
        In float32.
    """
    task = first.description.task
    if task == "tokens":
        return _tagging
    if task == "sequence":
        return _classifying
    assert fit is not None, "an encoder is judged by a classifier on its vectors"
    head = fit_head(HeadSpec("logreg"), first.encode(fit.inputs), fit.true, fit.classes).head
    return lambda predictor: _judged_by(head, predictor)


def _classifying(predictor: Predictor) -> Answer:
    def answer(inputs: Sequence[Any], /) -> Outcome:
        found = predictor.answer(inputs)
        values = found.scores if found.probabilities is None else found.probabilities
        assert values is not None
        return Outcome(found.codes, values)

    return answer


def _tagging(predictor: Predictor) -> Answer:
    """Return answers whose rows are words."""

    def answer(inputs: Sequence[Any], /) -> Outcome:
        found = predictor.tag(inputs)
        tags = np.array(list(chain.from_iterable(found.tags)), dtype=object)
        scores = [score or 0.0 for score in chain.from_iterable(found.scores)]
        return Outcome(tags, np.array(scores, np.float64))

    return answer


def _judged_by(head: Head, predictor: Predictor) -> Answer:
    def answer(inputs: Sequence[Any], /) -> Outcome:
        vectors = predictor.encode(inputs)
        return Outcome(head.predict(vectors), vectors)

    return answer
