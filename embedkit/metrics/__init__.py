"""Classification figures, with intervals that name their method; numpy only.

The tests hold every figure equal to scikit-learn's and the exact interval equal to scipy's beta quantiles.
"""

from embedkit.metrics.differences import grouped_difference, paired_difference
from embedkit.metrics.intervals import clopper_pearson
from embedkit.metrics.label_sets import multilabel
from embedkit.metrics.multiclass import classification, confusion_matrix, macro_f1_interval, matthews_correlation
from embedkit.metrics.probabilities import expected_calibration

__all__ = [
    "classification",
    "clopper_pearson",
    "confusion_matrix",
    "expected_calibration",
    "grouped_difference",
    "macro_f1_interval",
    "matthews_correlation",
    "multilabel",
    "paired_difference",
]
