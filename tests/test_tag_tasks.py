"""Whether tags stand for spans is what training was told, from the data to the served folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedkit
from embedkit import TokenClassifier, runtime
from embedkit.cli import main
from embedkit.data import Split, open_dataset
from embedkit.data.schemes import tag_codec
from embedkit.errors import ArtifactError, UsageError
from embedkit.estimators.exported import open_exported
from embedkit.estimators.frozen_tagger import load_frozen_tagger
from embedkit.estimators.tuned import load_tuned
from embedkit.evaluation.trial import classifier_trial
from embedkit.metrics.scores import check_tag_metric
from embedkit.runtime.description import Description
from embedkit.runtime.entities import has_spans
from embedkit.runtime.manifest import tag_task_of
from tests.tiny_classifiers import make_classifier
from tests.tiny_models import make_encoder
from tests.untraced import leave_untraced

pytestmark = pytest.mark.usefixtures("one_torch_thread", "little_garbage")

# Parts of speech as in Twitter's tag set, in which O is a pronoun.
TAGS = {"they": "O", "it": "O", "film": "N", "plot": "N", "made": "V", "said": "V", "good": "A", ".": ","}
EMPTY = "\ufe0f"  # of which BERT's tokenizer makes nothing
ALONE = ["--device", "cpu", "--threads", "1", "--quiet"]
SENTENCES = [["they", "made", EMPTY, "film"], [], ["it", "good", "."]]


def sentences(count: int, seed: int) -> tuple[list[list[str]], list[list[str]]]:
    chance = np.random.default_rng(seed)
    words = [[str(word) for word in chance.choice(list(TAGS), chance.integers(2, 8))] for _ in range(count)]
    return words, [[TAGS[word] for word in row] for row in words]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("model") / "bert", "bert", layers=1, hidden=16, heads=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four columns, of which the second has parts of speech and the last other things."""
    folder = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(("train", "validation", "test")):
        rows = zip(*sentences(80, seed), strict=True)
        text = "\n\n".join("\n".join(f"{w} {t} x B-NP" for w, t in zip(*row, strict=True)) for row in rows)
        (folder / f"{name}.conll").write_text(text + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def untraced() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        leave_untraced(patch)
        yield


@pytest.fixture(scope="module")
def folders(model: Path, data: Path, untraced: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both ways to a tagger of parts of speech, and the graph of each."""
    root = tmp_path_factory.mktemp("taggers")
    told = [str(data), "--task", "pos", "-m", str(model), *ALONE]
    tuned = ["finetune", *told, "--precision", "float32", "--epochs", "4", "--learning-rate", "0.01"]
    assert main([*tuned, "-o", str(root / "tuned")]) == 0
    frozen = ["fit-head", *told, "--layers", "0", "--clf-param", "C=100", "--no-store"]
    assert main([*frozen, "-o", str(root / "frozen")]) == 0
    for name in ("tuned", "frozen"):
        export = ["export-onnx", str(root / name), "-o", str(root / f"{name}-onnx"), "--threads", "1", "--quiet"]
        assert main(export) == 0
    return {path.name: path for path in root.iterdir() if path.is_dir()}


NAMES = ("tuned", "frozen", "tuned-onnx", "frozen-onnx")
CPU = ["--threads", "1"]


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_says_what_training_was_told(name: str, folders: dict[str, Path]) -> None:
    assert tag_task_of(folders[name]) == "pos"
    manifest = json.loads((folders[name] / "embedkit.json").read_text())
    assert manifest["tag_task"] == "pos"
    assert manifest["task"] == "tokens"
    assert "O" in manifest["labels"]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_judged_by_single_tags_on_the_column_of_training(
    name: str, folders: dict[str, Path], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(folders[name]), str(data), "--json", *CPU]) == 0
    found = json.loads(capsys.readouterr().out)["splits"]["test"]
    assert "f1" not in found
    assert "mode" not in found
    assert found["accuracy"] > 0.9
    assert set(found["per_tag"]) == {"A", "N", "O", "V", ","}
    assert main(["evaluate", str(folders[name]), str(data), "--strict", *CPU]) == 2
    assert "these tags are of single words" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_read_has_no_tag_and_nothing_is_an_entity(
    name: str, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps({"tokens": words}) for words in SENTENCES]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert main(["predict", str(folders[name]), "--input", str(tmp_path / "in.jsonl"), *CPU]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["tags"] for answer in answers] == [["O", "V", None, "N"], [], ["O", "A", ","]]
    assert answers[0]["scores"][2] is None
    assert not any("entities" in answer for answer in answers)


def test_the_graphs_say_so_too(folders: dict[str, Path]) -> None:
    for name in ("tuned-onnx", "frozen-onnx"):
        served = runtime.load(folders[name], threads=1)
        assert not served.description.spans
        assert served.description.decoding == "argmax"
        assert served.predict_tokens(SENTENCES)[0][2] is None
        with pytest.raises(UsageError, match="make no entities"):
            served.entities(["they made it"])
        assert "predict_tokens" in (folders[name] / "README.md").read_text()


@pytest.mark.parametrize("name", ["tuned", "frozen"])
def test_int8_would_be_judged_by_single_tags(name: str, folders: dict[str, Path], data: Path) -> None:
    tagger: Any = load_tuned(folders[name]) if name == "tuned" else load_frozen_tagger(folders[name], store=False)
    trial = classifier_trial(open_dataset(str(data), task="pos"), tagger, None)
    assert (trial.choice.metric, trial.test.metric) == ("accuracy", "accuracy")
    assert set(trial.test.true.tolist()) == set(TAGS.values())


@pytest.mark.parametrize("mode", ["finetune", "frozen"])
def test_the_estimator_is_told(mode: Any, model: Path, tmp_path: Path, store: Path) -> None:
    how: dict[str, Any] = {"device": "cpu", "threads": 1, "task": "pos", "mode": mode}
    how |= {"head_params": {"C": 100.0}, "layers": 0} if mode == "frozen" else {"epochs": 6, "learning_rate": 0.01}
    tagger = TokenClassifier(model, **how).fit(*sentences(80, 0))
    assert tagger.scheme_ == "none"
    assert set(tagger.classes_) == set(TAGS.values())
    assert tagger.score(*sentences(30, 1)) > 0.9  # accuracy: F1 of entities would be of spans that there are not
    assert tagger.predict(SENTENCES)[0][2] is None
    tagger.save(tmp_path / "pos")
    again = embedkit.load(tmp_path / "pos", device="cpu", threads=1)
    assert isinstance(again, TokenClassifier)
    assert (again.task, again.scheme_) == ("pos", "none")
    assert again.predict(SENTENCES) == tagger.predict(SENTENCES)
    with pytest.raises(UsageError, match="tags are of single words"):
        again.entities(["they made it"])


def test_without_being_told_a_tag_o_is_taken_for_outside(model: Path, store: Path) -> None:
    tagger = TokenClassifier(model, mode="frozen", layers=0, device="cpu", threads=1).fit(*sentences(20, 0))
    assert tagger.scheme_ == "plain"
    assert any("neighbours with one tag" in note for note in tagger.notes_)
    with pytest.raises(UsageError, match="task is 'nre'; allowed: auto, ner, chunk, pos"):
        TokenClassifier(model, task="nre").fit(*sentences(20, 0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "task", "spans"),
    [
        (("O", "N", "V"), "pos", False),
        (("B-X", "O"), "pos", False),
        (("O", "PER"), "auto", True),  # camembert-ner's
        (("O", "N", "V"), "auto", True),
        (("N", "V"), "auto", False),
        (("N", "V"), "tokens", False),
        (("PER", "LOC"), "ner", True),
        (("NP",), "chunk", True),
    ],
)
def test_what_was_told_goes_before_the_labels(labels: Sequence[str], task: str, spans: bool) -> None:
    assert has_spans(labels, task) is spans


def described(**more: Any) -> dict[str, Any]:
    how: dict[str, Any] = {
        "task": "tokens", "input": "tokens", "graphs": {}, "labels": ("O", "N"), "multi_label": False,
        "has_probabilities": True, "thresholds": None, "max_length": 12, "side": "right", "prompt": "",
        "lowercase": False, "pad_id": 0, "long": "windows", "normalize": False, "bias": (), "width": 32,
    }  # fmt: skip
    return Description(**how | more).to_json()


def test_descriptions_keep_it_and_those_without_leave_it_to_the_labels() -> None:
    assert Description.from_json(described(tag_task="pos")).spans is False
    assert Description.from_json(described()).spans is True
    assert "tag_task" not in described()
    with pytest.raises(ValueError, match="tag_task is 'speech'; allowed: ner, chunk, pos"):
        Description.from_json({**described(), "tag_task": "speech"})


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_says_what_is_no_task_is_damaged(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(folders[name], tmp_path / "copy")
    path = tmp_path / "copy" / "embedkit.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tag_task": "speech"}), encoding="utf-8")
    assert tag_task_of(tmp_path / "copy") is None
    with pytest.raises(ArtifactError, match="tag_task is 'speech'"):
        open_exported(path.parent) if name.endswith("onnx") else embedkit.load(path.parent)


@pytest.mark.parametrize(
    ("declared", "scheme", "kept"),
    [
        (("V", "N", "Z"), "none", ("V", "N")),
        (("V", "N"), "IOB2", ("V", "N")),
        (("V", "N"), "BIOES", ("N", "V")),  # declared were those before the conversion
        (("V",), "IOB2", ("N", "V")),
        (None, "none", ("N", "V")),
    ],
)
def test_declared_tags_keep_their_order_if_they_are_still_the_tags(declared: Any, scheme: Any, kept: Any) -> None:
    train = Split("train", "tokens", [["a", "b"]], [["N", "V"]], np.arange(1, 2), "d")
    assert tag_codec(declared, train, scheme).classes == kept


def test_tags_have_one_list_of_metrics() -> None:
    assert [check_tag_metric(None, spans=spans) for spans in (True, False)] == ["f1", "accuracy"]
    assert check_tag_metric("mcc", spans=False) == "mcc"
    with pytest.raises(UsageError, match="'mcc' where tags stand for spans; allowed: f1, precision, recall, acc"):
        check_tag_metric("mcc", spans=True)


def test_a_fine_tuned_tagger_reports_batch_by_batch(folders: dict[str, Path]) -> None:
    tagger: Any = load_tuned(folders["tuned"], device="cpu", batch_tokens=128, threads=1)
    long = ["film"] * 150  # of several windows, ready with the last of them
    given = [["good", "film"]] * 50 + [[], long] + [["it"]] * 48
    told: list[int] = []
    tagger.report_to(told.append)
    answers = tagger.predict(given)
    assert sum(told) == len(given) == len(answers.tags)
    assert len(told) > 3
    assert max(told) < 90


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize(("told", "spans"), [(["--task", "pos"], False), ([], True)])
def test_of_a_model_of_others_the_user_may_say_it(told: list[str], spans: bool, tmp_path: Path) -> None:
    made = make_classifier(tmp_path / "m", "bert", "tokens", labels=("N", "O", "V"), layers=1)
    (tmp_path / "in.csv").write_text("text\nthey made it\ngood film\n", encoding="utf-8")
    told = [
        "export-onnx",
        str(made),
        "-o",
        str(tmp_path / "out"),
        "--parity-data",
        str(tmp_path / "in.csv"),
        *told,
    ]
    assert main([*told, "--threads", "1", "--quiet"]) == 0
    served = runtime.load(tmp_path / "out", threads=1)
    assert served.description.spans is spans
    assert served.predict_tokens([[EMPTY]]) == [["O" if spans else None]]
    assert tag_task_of(tmp_path / "out") == (None if spans else "pos")
