"""What fastembed answers: jobs.json -> answers.json. Started by `scripts/check_loaders.py`."""

from __future__ import annotations

import json
import sys
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType


def answer(job: dict[str, Any], number: int) -> dict[str, Any]:
    """Register the folder as a model of one's own, and embed."""
    name, own = f"own/model-{number}", job["output"] == "sentence_embedding"
    pooling = {"mean": PoolingType.MEAN, "cls": PoolingType.CLS}[job["pooling"]]
    TextEmbedding.add_custom_model(
        model=name,
        pooling=PoolingType.DISABLED if own else pooling,
        normalization=False if own else job["normalize"],
        sources=ModelSource(url="http://localhost/none"),  # it must name one; the folder is given below
        dim=job["width"],
        model_file=job["graph"],
        output_name="sentence_embedding" if own else None,
    )
    model = TextEmbedding(model_name=name, specific_model_path=job["folder"])
    vectors = np.array(list(model.embed(job["texts"], batch_size=job["batch"])))
    return {"values": vectors.tolist(), "labels": None}


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text())
    answers = []
    for number, job in enumerate(given["jobs"]):
        try:
            answers.append(answer(job, number))
        except Exception:
            answers.append({"error": traceback.format_exc()})
    packages = ("fastembed", "onnxruntime", "tokenizers")
    found = {"versions": {name: version(name) for name in packages}, "answers": answers}
    Path(sys.argv[2]).write_text(json.dumps(found))


main()
