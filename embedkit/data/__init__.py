"""Reading what users have, strictly: texts, pairs or lists of words with labels, from files or the hub.

Knows nothing of models. Importing it imports NumPy and the standard library alone.
"""

from __future__ import annotations

from embedkit.data.checks import (
    Conflicts,
    check_splits,
    class_counts,
    conflicts,
    duplicates,
    leaks,
    require_classes,
    small_classes,
    unseen_labels,
)
from embedkit.data.columns import Columns, Kind, LabelUse, Roles, Task
from embedkit.data.dataset import SPLITS, Dataset, Split, Tally, open_dataset
from embedkit.data.facts import TokenCounter, describe
from embedkit.data.labels import LabelCodec, sorted_labels
from embedkit.data.rows import Inputs, Labels, MissingText, Rows, Source
from embedkit.data.shots import Shots, draw_shots
from embedkit.data.splits import groups_of, holdout, stratified_folds
from embedkit.data.text import printable

__all__ = [
    "SPLITS", "Columns", "Conflicts", "Dataset", "Inputs", "Kind", "LabelCodec", "LabelUse", "Labels",
    "MissingText", "Roles", "Rows", "Shots", "Source", "Split", "Tally", "Task", "TokenCounter", "check_splits",
    "class_counts", "conflicts", "describe", "draw_shots", "duplicates", "groups_of", "holdout", "leaks",
    "open_dataset", "printable", "require_classes", "small_classes", "sorted_labels", "stratified_folds",
    "unseen_labels",
]  # fmt: skip
