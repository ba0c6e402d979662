"""A trained classifier or an encoder as one ONNX file: traced, compared, laid out as a folder.

Importing this package imports no torch; its functions do.
"""

from __future__ import annotations

from embedkit.export.finetuned import Tuned, task_of_folder
from embedkit.export.frozen import Trained
from embedkit.export.publish import Exported, export_classifier, export_encoder, export_task_model
from embedkit.export.verdict import Rows, Trial, Verdict, verdict_text

__all__ = [
    "Exported",
    "Rows",
    "Trained",
    "Trial",
    "Tuned",
    "Verdict",
    "export_classifier",
    "export_encoder",
    "export_task_model",
    "task_of_folder",
    "verdict_text",
]
