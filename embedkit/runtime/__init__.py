"""What answers without torch: tokens, batches, pooling and graphs; numpy, tokenizers and onnxruntime alone."""

from __future__ import annotations

from embedkit.runtime.loading import load
from embedkit.runtime.predictor import Answers, Predictor
from embedkit.runtime.tagging import TokenAnswers

__all__ = ["Answers", "Predictor", "TokenAnswers", "load"]
