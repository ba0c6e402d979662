"""Classification figures, with intervals that name their method; numpy only.

The tests hold every figure equal to scikit-learn's, those of entities to seqeval's and conlleval's, and the exact
interval to scipy's beta quantiles.
"""

from embedkit.metrics.differences import paired_difference
from embedkit.metrics.intervals import clopper_pearson, mean_interval
from embedkit.metrics.label_sets import multilabel
from embedkit.metrics.multiclass import classification, confusion_matrix, macro_f1_interval, matthews_correlation
from embedkit.metrics.probabilities import expected_calibration
from embedkit.metrics.spans import entity_scores, span_difference, tagging

__all__ = [
    "classification",
    "clopper_pearson",
    "confusion_matrix",
    "entity_scores",
    "expected_calibration",
    "macro_f1_interval",
    "matthews_correlation",
    "mean_interval",
    "multilabel",
    "paired_difference",
    "span_difference",
    "tagging",
]
