"""Features written to one file for other programs, as a stream: Parquet, NumPy's npz or safetensors.

The file appears whole or not at all, and holds no pickle.
"""

from __future__ import annotations

from embedkit.feature_files.base import ColumnChunk, FeatureFile
from embedkit.feature_files.writer import check_target, feature_file

__all__ = ["ColumnChunk", "FeatureFile", "check_target", "feature_file"]
