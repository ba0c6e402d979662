"""How taggers of a comparison are served; in a file of its own, because exports take long."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from embedkit.evaluation.compare.methods import parse_methods
from embedkit.evaluation.compare.plan import Plan
from tests import comparisons, test_cli
from tests.comparisons import check_served
from tests.test_frozen_tagger import entities, split

model, plan = test_cli.model, comparisons.plan
pytestmark = pytest.mark.usefixtures("one_torch_thread", "little_garbage")


# The embeddings alone hold no matrix product that could be in int8, and are served in float32.
@pytest.mark.slow
@pytest.mark.parametrize("method", ["frozen:layers=0", "finetune:epochs=1"])
def test_each_kind_of_tagger_is_exported(plan: Plan, method: str, tmp_path: Path) -> None:
    splits = {"train": split(entities(40, 1)), "test": split(entities(20, 2), "test")}
    check_served(replace(plan, methods=parse_methods(method), splits=splits), tmp_path / "out")
