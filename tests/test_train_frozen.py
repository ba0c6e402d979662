"""The frozen path from splits to a judged classifier: what figures say of rows that something was learnt on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedkit.artifact import staged
from embedkit.cli.main import main
from embedkit.data import Split
from embedkit.encoders import EncoderSettings, FeatureExtractor
from embedkit.errors import UsageError
from embedkit.estimators.frozen import load_frozen
from embedkit.evaluation import frozen
from embedkit.evaluation.frozen import FrozenRun, train_frozen, write_run
from embedkit.evaluation.judged import judged
from embedkit.evaluation.report import classification_text
from embedkit.evaluation.sweep import run_sweep, temporary_store, views_of
from embedkit.heads import Decision, HeadSpec
from embedkit.metrics import expected_calibration
from tests.tiny_models import make_encoder

FLATTERS = "learnt on these very rows, so the figures flatter it"


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> FeatureExtractor:
    folder = make_encoder(tmp_path_factory.mktemp("model"), "bert")
    return FeatureExtractor(EncoderSettings(str(folder), pooling="mean"))


def split(name: str, numbers: Sequence[int], *, several: bool = False) -> Split:
    """Return rows that mostly say their class."""
    texts = [f"the film {n} was {'good' if n % 2 else 'bad'}{' and fine' if n % 3 else ''}" for n in numbers]
    labels: list[Any] = ["pos" if (n + (n % 7 == 0)) % 2 else "neg" for n in numbers]
    if several:
        labels = [[label] if n % 5 else [] for n, label in zip(numbers, labels, strict=True)]
    return Split(name, "text", texts, labels, np.arange(1, len(texts) + 1), f"{name}.csv")


def splits(*names: str, several: bool = False) -> dict[str, Split]:
    place = {"train": range(60), "validation": range(60, 110), "test": range(110, 150)}
    return {name: split(name, place[name], several=several) for name in names}


def text_of(run: FrozenRun, name: str) -> str:
    judgement = run.judged[name].judgement
    return classification_text(judgement.metrics, judgement.names, name)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("clf", ["logreg", "ridge", "sklearn:ensemble.RandomForestClassifier"])
def test_figures_on_rows_that_were_tuned_on_say_so(
    extractor: FeatureExtractor, tmp_path: Path, clf: str, several: bool
) -> None:
    given = splits("train", "validation", "test", several=several)
    decision = Decision(calibrate=True, thresholds="accuracy")
    run = train_frozen(given, extractor, HeadSpec(clf), decision=decision)
    assert [FLATTERS in text_of(run, name) for name in ("validation", "test")] == [True, False]
    assert [note for note in run.notes if "validation: what decides was tuned on these rows" in note]
    with staged(tmp_path / "saved") as stage:
        write_run(stage, run, {})
    model = str(extractor.folder.resolved.folder)
    loaded = load_frozen(tmp_path / "saved", model=model, store=False)
    for name in ("validation", "test"):
        again = judged(given[name], loaded.predict(given[name].inputs), loaded).judgement  # type: ignore[arg-type]
        first = run.judged[name].judgement.metrics
        before = first["calibration"].pop("before", None)
        assert (before is None) == (clf == "ridge")
        assert again.metrics == first
        shares = run.judged[name].predictions.probabilities
        assert shares is not None
        assert first["calibration"] == {"after": expected_calibration(again.true, shares)}


def test_without_validation_nothing_flatters(extractor: FeatureExtractor) -> None:
    run = train_frozen(splits("train", "test"), extractor, HeadSpec(), decision=Decision(calibrate=True))
    plain = train_frozen(splits("train", "validation", "test"), extractor, HeadSpec())
    assert run.classifier.about["head_settings"]["tuned_on"] == "train, out of fold"
    assert "used_to_tune" not in run.judged["test"].judgement.metrics
    for name in ("validation", "test"):
        assert not {"used_to_tune", "calibration"} & plain.judged[name].judgement.metrics.keys()


def test_a_head_that_cannot_be_saved_is_refused_before_it_is_judged(
    extractor: FeatureExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen, "judged", None)  # would be called in vain
    spec = HeadSpec("sklearn:gaussian_process.GaussianProcessClassifier")
    with pytest.raises(UsageError, match="has no safe form without pickle"):
        train_frozen(splits("train", "test"), extractor, spec)


def test_a_sweep_never_holds_all_views_of_all_texts(
    extractor: FeatureExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedkit.runtime.texts.CHUNK_ROWS", 8)
    train = split("train", range(60))
    targets = np.array([label == "pos" for label in train.labels or []]).astype(np.int64)
    views = views_of(extractor.settings, ["all"], ["cls", "mean"], extractor)
    sizes = []
    plain = FeatureExtractor.transform

    def watched(self: FeatureExtractor, inputs: Any, **how: Any) -> Any:
        features = plain(self, inputs, **how)
        sizes.append(features.vectors.size)
        return features

    monkeypatch.setattr(FeatureExtractor, "transform", watched)
    with temporary_store("float32") as store:
        opener = partial(FeatureExtractor, store=store)
        found = run_sweep(train, targets, ["neg", "pos"], views, [HeadSpec("centroid")], opener, folds=3, jobs=1)
    assert max(sizes) <= max(60, 8 * len(views)) * extractor.width()
    assert (found.extraction.rows, found.extraction.computed) == (60, 60)
    assert len(found.candidates) == len(views) == 8


def test_a_metric_to_choose_by_is_not_ignored_in_silence(
    extractor: FeatureExtractor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "data.csv"
    rows = split("all", range(40))
    lines = [f"{text},{label}" for text, label in zip(rows.inputs, rows.labels or [], strict=True)]
    table.write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    model = str(extractor.folder.resolved.folder)
    plain = ["fit-head", str(table), "-m", model, "--store", str(tmp_path / "store"), "--overwrite"]
    said = []
    for more in (
        [],
        ["--metric", "mcc"],
        ["--metric", "mcc", "--cv", "2"],
        ["--metric", "mcc", "--layers", "1,2"],
    ):
        assert main([*plain, "-o", str(tmp_path / "out"), "--jobs", "1", *more][: None if more else -2]) == 0
        said.append("there is one candidate and nothing to choose" in capsys.readouterr().err)
    assert said == [False, True, False, False]
