"""Several labels a row: figures over rows, over labels, and over all labels of all rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from embedkit.metrics.counts import (
    Bools,
    Counts,
    Floats,
    check_names,
    check_sets,
    distinct_rows,
    f1_counts,
    labels_averaged,
    macro_f1,
    micro_f1,
    ratio,
)
from embedkit.metrics.intervals import bootstrap, bootstrap_method, clopper_pearson, percentiles


def multilabel(
    true: npt.ArrayLike,
    predicted: npt.ArrayLike,
    names: Sequence[str],
    *,
    trained: int | None = None,
    resamples: int = 1000,
    seed: int = 42,
) -> dict[str, Any]:
    """Judge predictions of several labels a row, or none.

    Parameters
    ----------
    true, predicted : array-like of bool, shape (n, L)
        Whether the row has the label.
    names : sequence of str, length L
        The label of each column; no two alike.
    trained : int, optional
        Columns from here up are labels that training never saw. That a row has one counts as a miss. Default: all
        of `names` were trained.
    resamples : int
        Bootstrap resamples of the F1 intervals.
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        Ready for JSON. A ratio without cases is 0.0, as with scikit-learn's ``zero_division=0``.

        - ``n``; ``subset_accuracy``, the share of rows with exactly the right labels, ``subset_accuracy_ci95`` and
          its method; ``labels_per_row``, the means ``true`` and ``predicted``.
        - Over all labels of all rows: ``hamming_loss``, ``micro_precision``, ``micro_recall``, ``micro_f1``,
          ``micro_f1_ci95`` and its method.
        - Over labels: ``macro_f1`` (a label that no row has, true or predicted, is left out),
          ``macro_f1_ci95`` and its method, ``macro_f1_over``, ``weighted_f1`` (by support).
        - ``per_class``: by label ``precision``, ``recall``, ``f1``, ``support`` (rows that have it), ``predicted``
          (rows predicted to).
        - ``unseen_labels`` where `trained` is given: those that rows have.

    Raises
    ------
    DataError
        If there are no rows, or shapes or dtypes are wrong.
    UsageError
        If `names` has a label twice, or `resamples` is below 1.
    """
    check_names(names)
    wanted, given = check_sets({"true": true, "predicted": predicted}, len(names))
    n, exact = len(wanted), int((wanted == given).all(axis=1).sum())
    hits, support, chosen = ((t.sum(axis=0)) for t in (wanted & given, wanted, given))
    f1 = ratio(2 * hits, support + chosen)
    sums = np.concatenate([2 * hits, support + chosen])[None]
    micro, macro = _intervals(wanted, given, resamples, seed)
    method = bootstrap_method(resamples, seed)
    result: dict[str, Any] = {
        "n": n,
        "subset_accuracy": exact / n,
        "subset_accuracy_ci95": list(clopper_pearson(exact, n)),
        "subset_accuracy_ci95_method": "clopper-pearson",
        "hamming_loss": float((wanted != given).mean()),
        "micro_precision": float(ratio(hits.sum(), chosen.sum())),
        "micro_recall": float(ratio(hits.sum(), support.sum())),
        "micro_f1": float(micro_f1(sums)[0]),
        "micro_f1_ci95": list(micro),
        "micro_f1_ci95_method": method,
        "macro_f1": float(macro_f1(sums)[0]),
        "macro_f1_ci95": list(macro),
        "macro_f1_ci95_method": method,
        "macro_f1_over": labels_averaged(int((support + chosen > 0).sum())),
        "weighted_f1": float(ratio((f1 * support).sum(), support.sum())),
        "labels_per_row": {"true": float(support.sum() / n), "predicted": float(chosen.sum() / n)},
        "per_class": _per_label(names, hits, support, chosen, f1),
    }
    if trained is not None:
        result["unseen_labels"] = [names[i] for i in range(trained, len(names)) if support[i]]
    return result


def _per_label(names: Sequence[str], hits: Counts, support: Counts, chosen: Counts, f1: Floats) -> dict[str, Any]:
    """Return the figures of each label."""
    precision, recall = ratio(hits, chosen), ratio(hits, support)
    return {
        name: {
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "f1": float(f1[i]),
            "support": int(support[i]),
            "predicted": int(chosen[i]),
        }
        for i, name in enumerate(names)
    }


def _intervals(true: Bools, predicted: Bools, resamples: int, seed: int) -> list[tuple[float, float]]:
    """Bound micro and macro F1 by one bootstrap over rows."""
    places, rows = distinct_rows(true, predicted)
    patterns = f1_counts(true[places], predicted[places])
    scores = bootstrap(
        patterns,
        rows,
        lambda sums: np.column_stack([micro_f1(sums), macro_f1(sums)]),
        resamples=resamples,
        seed=seed,
    )
    return [percentiles(column) for column in scores.T]
