"""What optimum and sentence-transformers answer, in an environment of transformers 4: jobs.json -> answers.json.

Started by `scripts/check_loaders.py`; imports nothing of embedkit.
"""

from __future__ import annotations

import json
import sys
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from optimum.onnxruntime import (
    ORTModel,
    ORTModelForFeatureExtraction,
    ORTModelForSequenceClassification,
    ORTModelForTokenClassification,
)
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, pipeline

CLASSES = {
    "encoder": ORTModelForFeatureExtraction,
    "sequence": ORTModelForSequenceClassification,
    "tokens": ORTModelForTokenClassification,
}


def with_optimum(job: dict[str, Any], texts: list[str]) -> dict[str, Any]:
    """Load the folder as the class for its task does, and answer in padded batches."""
    folder, size = job["folder"], job["batch"]
    place = Path(job["graph"])
    model = CLASSES[job["task"]].from_pretrained(folder, subfolder=str(place.parent), file_name=place.name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    values: list[Any] = []
    for start in range(0, len(texts), size):
        batch = tokenizer(texts[start : start + size], padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            outputs = model(**batch)
        mask = batch["attention_mask"].numpy().astype(bool)
        if job["task"] == "encoder":
            hidden = outputs.last_hidden_state.numpy()
            values += [pooled(row[keep], job) for row, keep in zip(hidden, mask, strict=True)]
        elif job["task"] == "sequence":
            values += outputs.logits.numpy().tolist()
        else:
            values += [row[keep].tolist() for row, keep in zip(outputs.logits.numpy(), mask, strict=True)]
    return {"values": values, "labels": labels_of(job, model, tokenizer, texts)}


def pooled(states: np.ndarray, job: dict[str, Any]) -> list[float]:
    """Pool one text's states as the folder's card says: the class gives no sentence vector."""
    vector = states[0] if job["pooling"] == "cls" else states.mean(axis=0)
    return (vector / np.linalg.norm(vector) if job["normalize"] else vector).tolist()


def labels_of(
    job: dict[str, Any], model: ORTModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> list[Any] | None:
    """Return what the pipeline names: one label a text, all above 0.5, or (place, tag) of tokens."""
    if job["task"] == "encoder":
        return None
    if job["task"] == "tokens":
        tagger = pipeline("token-classification", model=model, tokenizer=tokenizer, ignore_labels=[])
        return [[(found["index"], found["entity"]) for found in tagger(text)] for text in texts]
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
    answers = classify(texts, top_k=None, truncation=True, batch_size=1)
    if job["multi"]:
        return [sorted(found["label"] for found in answer if found["score"] > 0.5) for answer in answers]
    return [max(answer, key=lambda found: found["score"])["label"] for answer in answers]


def with_sentence_transformers(job: dict[str, Any], texts: list[str]) -> dict[str, Any]:
    """Load the folder by its name alone, as `SentenceTransformer(FOLDER, backend="onnx")`."""
    model = SentenceTransformer(job["folder"], backend="onnx", model_kwargs={"file_name": job["graph"]})
    vectors = model.encode(texts, batch_size=job["batch"], show_progress_bar=False)
    return {"values": vectors.tolist(), "labels": None, "modules": [type(module).__name__ for module in model]}


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text())
    answers = []
    for job in given["jobs"]:
        answer = {
            "optimum": with_optimum,
            "sentence-transformers": with_sentence_transformers,
        }[job["loader"]]
        try:
            answers.append(answer(job, job["texts"]))
        except Exception:
            answers.append({"error": traceback.format_exc()})
    packages = ("optimum", "optimum-onnx", "sentence-transformers", "transformers", "onnxruntime", "torch")
    found = {"versions": {name: version(name) for name in packages}, "answers": answers}
    Path(sys.argv[2]).write_text(json.dumps(found))


main()
