"""A trained classifier or an encoder as one ONNX file: traced, compared, laid out as a folder.

Importing this package imports no torch; `export_classifier` and `export_encoder` do.
"""

from __future__ import annotations

from embedkit.export.publish import Exported, Trained, export_classifier, export_encoder

__all__ = ["Exported", "Trained", "export_classifier", "export_encoder"]
