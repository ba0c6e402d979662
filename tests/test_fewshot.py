"""``embedkit fewshot``: from data to a folder that is a sentence encoder and a classifier at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import stats
from sentence_transformers import SentenceTransformer

from embedkit.artifact import write_manifest
from embedkit.cli import fewshot as command
from embedkit.cli import main
from embedkit.encoders import FeatureExtractor
from embedkit.encoders.engines import Engines
from embedkit.errors import DataError, EmbedkitError, TrainingError, UsageError
from embedkit.estimators.frozen import load_frozen
from embedkit.evaluation.fewshot import FewShotRun, Plan, Repeated, verdict
from embedkit.heads import HeadSpec
from embedkit.metrics import mean_interval
from embedkit.runtime.manifest import holds_tuned, read_manifest
from embedkit.sharing import shareable
from embedkit.training import contrast, reference
from tests import test_cli
from tests.test_cli import Cli, names, write_csv, write_jsonl
from tests.tiny_models import make_encoder

pytestmark = pytest.mark.usefixtures("one_torch_thread", "little_garbage")

cli, model = test_cli.cli, test_cli.model
GOOD = ("good", "great", "best", "fine", "fresh", "moving", "brilliant", "beautiful")
BAD = ("bad", "worst", "dull", "boring", "terrible", "awful", "never", "old")
NOUNS = ("film", "movie", "story", "plot", "actor", "script", "music", "cast", "drama", "comedy")
QUICK = ("--epochs", "2", "--learning-rate", "1e-3", "--precision", "float32", "--threads", "1", "--no-store")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the drawing out, which takes most of a run on few rows; tests/test_report.py looks at pictures."""
    leave_pictures_out(monkeypatch)


def leave_pictures_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedkit.evaluation.report.save_png", lambda figure, path: path.write_bytes(b""))


@pytest.fixture
def nothing_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a run is refused after the encoder has worked for minutes."""
    monkeypatch.setattr(FeatureExtractor, "transform", lambda *_, **__: pytest.fail("texts were encoded"))


def rows_of(nouns: Sequence[str]) -> list[dict[str, str]]:
    sides = ((GOOD, "pos"), (BAD, "neg"))
    return [
        {"text": f"the {noun} was {word}", "label": label}
        for noun in nouns
        for words, label in sides
        for word in words
    ]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few")
    write_csv(folder / "train.csv", rows_of(NOUNS[:6]))
    write_csv(folder / "test.csv", rows_of(NOUNS[6:]))
    return folder


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory, model: Path, data: Path) -> Path:
    """Return what a run on four rows a class left, for tests that change nothing in it."""
    folder = tmp_path_factory.mktemp("tuned") / "few"
    with pytest.MonkeyPatch.context() as patched:
        leave_pictures_out(patched)
        assert main(["fewshot", str(data), "--shots", "4", "-m", str(model), "-o", str(folder), *QUICK]) == 0
    return folder


def manifest_of(folder: str | Path) -> dict[str, Any]:
    return read_manifest(Path(folder))


def metrics_of(folder: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "metrics.json").read_bytes())
    return found


def answers(cli: Cli, folder: str | Path, *texts: str) -> list[dict[str, Any]]:
    told = cli("predict", folder, "--threads", "1", *texts)
    return [json.loads(line) for line in told.out.splitlines()]


# ------------------------------------------------------------------------------------------ the whole route


def test_from_few_rows_to_an_answer(cli: Cli, model: Path, data: Path, tmp_path: Path) -> None:
    told = cli("fewshot", data, "--shots", 4, "-m", model, "-o", "out/few", *QUICK)
    # two classes of four: 2 * 6 pairs within, 16 between, in each of two passes over eight texts
    assert "64 pairs (32 positive, 32 negative) among 8 texts; 2 passes in 2 steps encode 16 texts" in told.err
    assert "tuning " in told.err
    manifest, metrics = manifest_of("out/few"), metrics_of("out/few")
    sample = manifest["few_shot"]
    assert (sample["tuner"], sample["shots"], sample["seed"], sample["split"]) == ("embedkit", 4, 42, "train")
    labels = [row["label"] for row in rows_of(NOUNS[:6])]
    assert sorted(labels[row - 1] for row in sample["rows"]) == ["neg"] * 4 + ["pos"] * 4
    assert manifest["base"]["name"] == str(model)
    assert manifest["encoder"]["name"] == manifest["encoder"]["settings"]["model"] == "."
    assert manifest["encoder"]["weights"] != manifest["base"]["weights"]
    assert metrics["splits"]["test"]["n"] == metrics["few_shot"]["frozen"]["splits"]["test"]["n"] == 64
    assert metrics["few_shot"]["comparison"]["split"] == "test"
    assert metrics["settings"]["encoder"]["model"] == "."
    assert metrics["seconds"]["total"] > metrics["seconds"]["tune"] > 0
    here = str(Path.cwd())
    assert here not in json.dumps({**metrics, "settings": {**metrics["settings"], "model": "", "data": ""}})

    # it moves as a whole, and what it says stays the same
    before = answers(cli, "out/few", "the film was good", "a dull plot")
    shutil.move("out/few", tmp_path / "moved")
    assert answers(cli, tmp_path / "moved", "the film was good", "a dull plot") == before
    judged = cli("evaluate", tmp_path / "moved", data, "--json").json
    assert judged["splits"] == metrics["splits"]

    # it is a folder of sentence-transformers, whose vectors are the classifier's
    texts = [row["text"] for row in rows_of(NOUNS[6:7])]
    found = load_frozen(tmp_path / "moved", store=False)
    theirs = SentenceTransformer(str(tmp_path / "moved"), device="cpu", trust_remote_code=False).encode(texts)
    np.testing.assert_allclose(found.extractor.transform(texts).vectors, theirs, atol=1e-6)


@pytest.mark.slow
def test_it_is_one_graph(cli: Cli, few: Path, data: Path) -> None:
    cli("export-onnx", few, "-o", "onnx", "--parity-data", data)
    before, exported = (answers(cli, folder, "the film was good", "a dull plot") for folder in (few, "onnx"))
    assert [answer["label"] for answer in exported] == [answer["label"] for answer in before]
    assert exported[0]["score"] == pytest.approx(before[0]["score"], abs=1e-4)


def test_the_same_command_gives_the_same_weights(cli: Cli, few: Path, model: Path, data: Path) -> None:
    cli("fewshot", data, "--shots", 4, "-m", model, "-o", "again", *QUICK)
    first, second = manifest_of(few), manifest_of("again")
    assert first["encoder"] == second["encoder"]
    assert first["files"]["head.safetensors"] == second["files"]["head.safetensors"]
    cli("fewshot", data, "--shots", 4, "--seed", 1, "-m", model, "-o", "three", *QUICK)
    assert manifest_of("three")["few_shot"]["rows"] != first["few_shot"]["rows"]


def test_the_frozen_encoder_on_the_same_rows(cli: Cli, few: Path, model: Path, data: Path) -> None:
    told = cli("fewshot", data, "--shots", 4, "-m", model, "--tuner", "none", "-o", "frozen", "--no-store")
    assert "tuning" not in told.err
    tuned, frozen = manifest_of(few), manifest_of("frozen")
    assert frozen["few_shot"]["rows"] == tuned["few_shot"]["rows"]
    assert frozen["encoder"]["name"] == str(model)
    assert not (Path("frozen") / "model.safetensors").exists()
    beside = metrics_of(few)["few_shot"]["frozen"]["splits"]
    assert metrics_of("frozen")["splits"] == beside


def test_the_head_alone_again(cli: Cli, few: Path, model: Path, data: Path) -> None:
    shutil.copytree(few, "few")
    told = cli("fewshot", "few", "--refit-head", data, "-o", "more", "--clf", "ridge", "--no-store")
    assert "pairs" not in told.err
    assert "rows of other data" not in told.err
    before, more = manifest_of("few"), manifest_of("more")
    assert more["encoder"] == before["encoder"]
    assert more["few_shot"] == before["few_shot"]
    assert more["head_settings"]["clf"] == "ridge"
    assert (before["data"]["train"]["rows"], more["data"]["train"]["rows"]) == (8, 96)
    assert {name for name in before["files"] if not name.startswith("report/")} == {
        name for name in more["files"] if not name.startswith("report/")
    }
    # the same in one command, on a data set
    cli("fewshot", data, "--shots", 4, "--refit-head", data, "--clf", "ridge", "-m", model, "-o", "both", *QUICK)
    both = manifest_of("both")
    assert both["files"]["head.safetensors"] == more["files"]["head.safetensors"]
    assert both["few_shot"]["rows"] == before["few_shot"]["rows"]
    # over itself
    cli("fewshot", "few", "--refit-head", data, "-o", "few", "--overwrite", "--no-store")
    assert manifest_of("few")["data"]["train"]["rows"] == 96


def test_the_head_on_other_data(cli: Cli, model: Path, data: Path, tmp_path: Path) -> None:
    """What the encoder was tuned on is not forgotten: of the same file the rows held out alone are judged."""
    one = write_csv(tmp_path / "one.csv", rows_of(NOUNS[:6]))
    cli("fewshot", one, "--shots", 4, "-m", model, "-o", "few", *QUICK)
    told = cli("fewshot", "few", "--refit-head", data, "-o", "more", "--no-store")
    assert "the encoder was tuned on rows of other data" in told.err
    cli("fewshot", one, "--shots", 4, "--refit-head", data, "-m", model, "-o", "both", *QUICK)
    held_out = metrics_of("few")["splits"]["test"]["n"]
    assert held_out < 30
    for folder in ("more", "both"):
        assert cli("evaluate", folder, one, "--json").json["splits"]["test"]["n"] == held_out
        train = manifest_of(folder)["data"]["train"]
        assert train["earlier_fingerprints"] == [manifest_of("few")["data"]["train"]["fingerprint"]]


def test_the_head_on_what_it_cannot_be_fitted_on(cli: Cli, model: Path, data: Path, tmp_path: Path) -> None:
    table = [{"sentence1": row["text"], "sentence2": "a film", "label": row["label"]} for row in rows_of(NOUNS)]
    pairs = write_csv(tmp_path / "pairs.csv", table)
    how = ("fewshot", data, "--shots", 4, "-m", model, "-o", "few", *QUICK)
    told = cli(*how, "--refit-head", pairs, code=65)
    assert "tuned on texts" in told.err
    assert "holds pairs; name rows of the same kind" in told.err
    told = cli(*how, "--refit-head", data / "test.csv")
    assert "also in train" in told.err  # the rows that are judged


def test_rows_are_added_in_place(cli: Cli, model: Path, data: Path) -> None:
    """`fit-head --update` over the folder keeps the encoder that lies in it."""
    stored = [flag for flag in QUICK if flag != "--no-store"]
    cli("fewshot", data, "--shots", 4, "-m", model, "-o", "few", *stored)
    before = manifest_of("few")
    cli("fit-head", data, "--update", "few", "-o", "few", "--overwrite")
    after = manifest_of("few")
    assert after["encoder"] == before["encoder"]
    assert (after["base"], after["few_shot"]) == (before["base"], before["few_shot"])
    assert after["files"]["model.safetensors"] == before["files"]["model.safetensors"]
    assert cli("evaluate", "few", data, "--json").json["splits"] == metrics_of("few")["splits"]


def test_several_samples(cli: Cli, model: Path, data: Path) -> None:
    told = cli("fewshot", data, "--shots", 4, "--seeds", 2, "-m", model, "-o", "few", "--json", *QUICK).json
    samples = told["samples"]
    assert [run["seed"] for run in samples["runs"]] == [42, 43]
    assert len({tuple(run["rows"]) for run in samples["runs"]}) == 2
    assert samples == metrics_of("few")["few_shot"]["samples"]
    for name in ("accuracy", "frozen", "difference"):
        values = np.array([run[name] for run in samples["runs"]])
        assert samples[name]["mean"] == pytest.approx(values.mean())
        assert samples[name]["sd"] == pytest.approx(values.std(ddof=1))
    assert manifest_of("few")["few_shot"]["rows"] == samples["runs"][0]["rows"]
    assert told["splits"]["test"]["accuracy"] == samples["runs"][0]["accuracy"]
    cli("fewshot", data, "--shots", 4, "--seed", 43, "-m", model, "-o", "other", *QUICK)
    assert metrics_of("other")["splits"]["test"]["accuracy"] == samples["runs"][1]["accuracy"]


def test_all_samples_may_be_computed_by_a_graph(
    cli: Cli, model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def counted(self: Engines, texts: object) -> Any:
        asked.append(self._source.settings.engine)
        self.name, (encoder, _) = "torch", self._source.torch("cpu")  # making a graph takes seconds
        return encoder

    monkeypatch.setattr(Engines, "_onnx", counted)
    cli("fewshot", data, "--shots", 2, "--seeds", 2, "--engine", "onnx", "-m", model, "-o", "few", *QUICK)
    assert asked == ["onnx"] * 3  # the encoder, and it tuned on each sample


@pytest.mark.parametrize("how", [TrainingError("the loss is no number"), KeyboardInterrupt()])
def test_what_ends_a_later_sample_leaves_those_before_it(
    cli: Cli, model: Path, data: Path, monkeypatch: pytest.MonkeyPatch, how: BaseException
) -> None:
    again = command._again

    def ending(args: Any, plan: Plan, told: Any) -> FewShotRun:
        if plan.seed == 44:
            raise how
        return again(args, plan, told)

    monkeypatch.setattr(command, "_again", ending)
    code = how.exit_code if isinstance(how, EmbedkitError) else 130
    told = cli("fewshot", data, "--shots", 2, "--seeds", 4, "-m", model, "-o", "few", *QUICK, code=code)
    assert "ended in sample 3 of 4; those before it are kept" in told.err
    assert [line.split()[0] for line in told.out.splitlines()[:4]] == ["seed", "42", "43", "mean"]
    assert [run["seed"] for run in metrics_of("few")["few_shot"]["samples"]["runs"]] == [42, 43]


def test_samples_are_told_as_a_table(cli: Cli, model: Path, data: Path) -> None:
    told = cli("fewshot", data, "--shots", 2, "--seeds", 2, "-m", model, "-o", "few", *QUICK)
    assert [line.split()[0] for line in told.out.splitlines()[:5]] == ["seed", "42", "43", "mean", "standard"]
    assert "sample of seed 43: accuracy 0." in told.err
    assert "in the mean of 2 samples" in told.err


@pytest.mark.parametrize("pairs", ["cross", "bi"])
def test_pairs_of_texts(cli: Cli, model: Path, tmp_path: Path, pairs: str) -> None:
    for name, nouns in (("train", NOUNS[:6]), ("test", NOUNS[6:])):
        rows = rows_of(nouns)
        table = [{"text": row["text"], "text2": f"a {row['label']} film", "label": row["label"]} for row in rows]
        write_csv(tmp_path / "pairs" / f"{name}.csv", table)
    named = ("--text-column", "text", "--pair-column", "text2", "--pairs", pairs)
    told = cli("fewshot", tmp_path / "pairs", "--shots", 4, *named, "-m", model, "-o", "few", *QUICK)
    # read together they are 8 inputs; apart, 8 texts and 2 partners
    assert f"encode {16 if pairs == 'cross' else 20} texts" in told.err
    found = load_frozen(Path("few"), store=False)
    assert found.kind == "pair"
    assert found.predict([("the film was good", "a pos film")]).codes.shape == (1,)


def test_several_labels(cli: Cli, model: Path, tmp_path: Path) -> None:
    for name, nouns in (("train", NOUNS[:6]), ("test", NOUNS[6:])):
        rows = rows_of(nouns)
        table = [
            {"text": row["text"], "labels": [row["label"], "any"][: 1 + place % 2]}
            for place, row in enumerate(rows)
        ]
        write_jsonl(tmp_path / "sets" / f"{name}.jsonl", table)
    cli("fewshot", tmp_path / "sets", "--shots", 4, "-m", model, "-o", "few", *QUICK)
    assert metrics_of("few")["few_shot"]["comparison"]["metric"] == "subset_accuracy"
    assert "labels" in answers(cli, "few", "the film was good")[0]


def test_a_plain_encoder_is_pooled_by_its_mean(cli: Cli, data: Path, tmp_path: Path) -> None:
    plain = make_encoder(tmp_path / "plain", "bert", layers=2)
    told = cli("fewshot", data, "--shots", 4, "-m", plain, "-o", "few", *QUICK)
    assert "is no sentence encoder" in told.err
    assert manifest_of("few")["encoder"]["settings"]["pooling"] == "mean"


def test_texts_of_the_domain_first(cli: Cli, data: Path, tmp_path: Path) -> None:
    plain = make_encoder(tmp_path / "plain", "bert", layers=2)
    (tmp_path / "texts.txt").write_text("\n".join(row["text"] for row in rows_of(NOUNS)), encoding="utf-8")
    told = cli(
        "fewshot", data, "--shots", 4, "-m", plain, "--adapt-on", tmp_path / "texts.txt", "-o", "few", *QUICK
    )
    assert "perplexity" in told.err
    assert "few_shot" in manifest_of("few")
    assert manifest_of("few")["base"]["name"] == str(plain)


# ---------------------------------------------------------------------------------------------- the reference


def test_setfit_gives_the_same_report(cli: Cli, model: Path, data: Path) -> None:
    flags = ("--shots", 4, "-m", model, "--no-store", "--threads", 1)
    few = ("--tuner", "setfit", "--pair-iterations", 1, "--epochs", 2, *flags)
    told = cli("fewshot", data, *few, "-o", "few", "--json").json
    manifest = manifest_of("few")
    assert manifest["few_shot"]["tuner"] == "setfit"
    assert manifest["head_settings"]["clf"] == "setfit"
    assert told["counts"] == {"positive": 16, "negative": 16, "texts": 64, "steps": 2}
    assert set(told["splits"]) == {"test"}
    assert told["comparison"]["first"] == told["splits"]["test"]["accuracy"]
    assert answers(cli, "few", "the film was good")
    with_head = cli("fewshot", data, "--tuner", "setfit", "--clf", "ridge", *flags, "-o", "other", "--json").json
    assert with_head["head"]["clf"] == "ridge"


@pytest.mark.usefixtures("nothing_encoded")
def test_without_setfit_the_extra_is_named(
    cli: Cli, model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str, **how: str) -> None:
        from embedkit.errors import MissingExtraError

        raise MissingExtraError(f"{name}: pip install 'embedkit[{how['extra']}]'")

    monkeypatch.setattr(reference, "require", missing)
    told = cli("fewshot", data, "--shots", 4, "--tuner", "setfit", "-m", model, "-o", "few", "--no-store", code=2)
    assert "embedkit[setfit]" in told.err
    assert not Path("few").exists()


# ------------------------------------------------------------------------------------------- checkpoints


def test_a_run_is_gone_on_with(cli: Cli, model: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how = ("fewshot", data, "--shots", 8, "-m", model, "--batch-size", 8, "--save-steps", 1, *QUICK)
    cli(*how, "-o", "one")
    step, steps = contrast._Steps.__getitem__, []

    def failing(self: Any, place: int) -> Any:
        steps.append(place)
        if len(steps) == 4:
            raise MemoryError
        return step(self, place)

    with monkeypatch.context() as patched:
        patched.setattr(contrast._Steps, "__getitem__", failing)
        told = cli(*how, "-o", "two", code=None)
    assert told.code not in (0, 2)
    assert "--resume goes on" in told.err
    assert not Path("two").exists()
    refused = cli(*how, "-o", "two", "--resume", "--precision", "auto", code=2)
    assert "precision was 'float32', is 'auto'" in refused.err
    told = cli(*how, "-o", "two", "--resume")
    assert "going on from step" in told.err
    assert manifest_of("one")["encoder"] == manifest_of("two")["encoder"]
    assert not Path("two.checkpoints").exists()


# --------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--shots", 0), "whole number from 1 up"),
        (("--tuner", "setfit", "--loss", "supcon"), "leave out --loss"),
        (("--tuner", "setfit", "--strategy", "unique", "--pair-iterations", 2), "leave one of them out"),
        (("--tuner", "setfit", "--epochs", 1.5), "epochs is 1.5; setfit takes a whole number"),
        (("--tuner", "none", "--epochs", 2), "leave out --epochs"),
        (("--pair-iterations", 2, "--epochs", 2), "leave out --strategy and --epochs"),
        (("--temperature", 0.2), "--loss supcon"),
        (("--seeds", 2, "--save-steps", 1), "leave out --seeds"),
        (("--clf", "logreg,ridge"), "one head"),
        (("--pooling", "cls+mean"), "takes one pooling"),
        (("--batch-size", 1), "two texts"),
        (("--trainer-arg", "max_steps=3"), "max_steps is not taken; use --epochs"),
        (("--trainer-arg", "dataloader_num_workers=2"), "not taken, which embedkit decides itself"),
        (("--trainer-arg", "gradient_checkpointing=true"), "not taken, which embedkit decides itself"),
    ],
)
@pytest.mark.usefixtures("nothing_encoded")
def test_flags_that_cannot_be(cli: Cli, model: Path, data: Path, flags: Sequence[object], message: str) -> None:
    told = cli("fewshot", data, "-m", model, "-o", "few", "--no-store", *flags, code=2)
    assert message in told.err
    assert not Path("few").exists()


def test_a_tuned_folder_is_for_its_head_alone(cli: Cli, few: Path, data: Path) -> None:
    assert "--refit-head" in cli("fewshot", few, "-o", "more", code=2).err
    for flag, value in (("--shots", 2), ("--test", data / "test.csv")):
        told = cli("fewshot", few, "--refit-head", data, flag, value, "-o", "more", code=2)
        assert f"leave out {flag}" in told.err


@pytest.mark.parametrize("encoder", [None, [1], "x", {}, {"name": ["."]}])
def test_a_folder_whose_manifest_says_nothing_of_an_encoder_holds_none(tmp_path: Path, encoder: Any) -> None:
    said = {"kind": "classifier", "few_shot": {"tuner": "embedkit"}}
    write_manifest(tmp_path, {**said, "encoder": {"name": "."}})
    assert holds_tuned(tmp_path)
    write_manifest(tmp_path, {**said, "encoder": encoder})
    assert not holds_tuned(tmp_path)


def with_texts(folder: Path, train: Sequence[tuple[str, str]]) -> Path:
    write_csv(folder / "train.csv", [{"text": text, "label": label} for text, label in train])
    write_csv(folder / "test.csv", rows_of(NOUNS[6:7]))
    return folder


def test_one_row_a_class_leaves_the_encoder_as_it_is(cli: Cli, model: Path, data: Path) -> None:
    told = cli("fewshot", data, "--shots", 1, "-m", model, "-o", "few", *QUICK)
    assert "there is no positive pair and nothing to tune by" in told.err
    assert "is not shown to help" in told.err
    assert "--tuner none" in told.err
    compared = metrics_of("few")["few_shot"]["comparison"]
    assert compared["difference"] == 0


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([("the film was good", "pos"), ("the film was fine", "pos")], "one class"),
        ([("the film", "pos"), ("the film", "neg"), ("the film", "pos")], "more than one label|also stands with"),
    ],
)
def test_data_that_cannot_be(
    cli: Cli, model: Path, tmp_path: Path, train: Sequence[tuple[str, str]], message: str
) -> None:
    import re

    told = cli("fewshot", with_texts(tmp_path / "odd", train), "-m", model, "-o", "few", *QUICK, code=65)
    assert re.search(message, told.err)
    assert not Path("few").exists()


def test_fewer_rows_than_shots_and_conflicting_ones_are_said(cli: Cli, model: Path, tmp_path: Path) -> None:
    train = [
        ("good film", "pos"),
        ("fine film", "pos"),
        ("bad film", "neg"),
        ("dull film", "neg"),
        ("a film", "neg"),
    ]
    odd = with_texts(tmp_path / "odd", [*train, ("the film", "pos"), ("the film", "neg")])
    told = cli("fewshot", odd, "--shots", 3, "-m", model, "-o", "few", *QUICK)
    assert "fewer, and all of them are taken" in told.err
    assert "more than one label" in told.err
    assert manifest_of("few")["few_shot"]["rows"] == [1, 2, 3, 4, 5]


def test_words_with_tags_are_refused(cli: Cli, model: Path, tmp_path: Path) -> None:
    (tmp_path / "words.conll").write_text("good O\nfilm O\n\nbad O\nfilm O\n" * 5, encoding="utf-8")
    told = cli("fewshot", tmp_path / "words.conll", "-m", model, "-o", "few", "--no-store", code=2)
    assert "words with tags" in told.err


# --------------------------------------------------------------------------------------------- publishing


def test_others_get_the_encoder_too_and_no_texts(few: Path, model: Path) -> None:
    shared = shareable(few)
    assert {"model.safetensors", "modules.json", "tokenizer.json", "head.safetensors"} <= set(shared.files)
    assert not any("not part of the classifier" in note for note in shared.notes)
    card = shared.files["README.md"]
    assert isinstance(card, bytes)
    assert "tuned on few texts" in card.decode()
    assert f"./{model.name}" in card.decode()  # the encoder that it began from, without its path
    for name in names(few):
        file = few / name
        if file.is_file() and not name.startswith("report/") and file.suffix == ".json":
            assert "the film was" not in file.read_text("utf-8")


# ------------------------------------------------------------------------------------------------ verdicts


ROWS = 1000


class _Sample(NamedTuple):
    seed: int
    split: Any


class _Run(NamedTuple):
    """Stands in for a `FewShotRun` with figures of one's own."""

    figures: tuple[float | None, float | None]
    seed: int = 0

    def right(self, frozen: bool = False) -> Any:
        share = self.figures[frozen]
        return None if share is None else np.arange(ROWS) < round(share * ROWS)

    @property
    def sample(self) -> Any:
        split = NamedTuple("Rows", [("rows", Any)])(np.array([1, 2]))  # type: ignore[misc]
        return _Sample(self.seed, split)

    @property
    def run(self) -> Any:
        return NamedTuple("Seconds", [("seconds", Any)])({"tune": 1.0})  # type: ignore[misc]


def repeated(*figures: tuple[float | None, float | None]) -> Repeated:
    found = Repeated()
    for seed, pair in enumerate(figures):
        found.add(_Run(pair, seed))  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(
    ("figures", "helps", "said"),
    [
        ([(0.8, 0.7), (0.82, 0.71), (0.81, 0.7)], True, "tuning helps: accuracy 0.810 beside 0.703"),
        ([(0.7, 0.8), (0.71, 0.82), (0.7, 0.81)], False, "tuning makes it worse"),
        ([(0.8, 0.7), (0.7, 0.8), (0.75, 0.74)], False, "tuning is not shown to help"),
        # equal differences of two samples are chance; the rows still tell what they tell
        ([(0.71, 0.7), (0.71, 0.7)], True, "difference +0.010, 95 % interval +0.004 to +0.016"),
        ([(0.701, 0.7), (0.701, 0.7)], False, "tuning is not shown to help"),
        ([(0.8, 0.7)], None, "nothing was compared"),
        ([(None, None)] * 3, None, "nothing was compared"),
    ],
)
def test_verdict_over_samples(figures: list[tuple[float, float]], helps: bool | None, said: str) -> None:
    found = repeated(*figures).verdict()
    assert found.helps is helps
    assert said in found.text
    assert ("--tuner none" in found.text) == (helps is False)


def test_nothing_judged_is_said() -> None:
    run = FewShotRun.__new__(FewShotRun)
    run.frozen, run.run = None, type("Run", (), {"judged": {}})()
    assert verdict(run).helps is None


@pytest.mark.parametrize("values", [[1.0, 2.0], [0.1, 0.5, 0.2, 0.9], list(range(30)), [3.0, 3.0, 3.0]])
def test_mean_interval_is_students(values: list[float]) -> None:
    mean, deviation, interval = mean_interval(values)
    assert (mean, deviation) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    error = stats.sem(values)
    expected = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=error) if error else (mean, mean)
    assert interval == pytest.approx(expected)


def test_mean_interval_with_what_values_share() -> None:
    """0.5, and rows whose share of the variance is all of it: the normal interval; in between Satterthwaite's."""
    mean, _, interval = mean_interval([0.5, 0.5], shared=0.01)
    assert (mean, interval) == (0.5, pytest.approx((0.5 - 0.1959964, 0.5 + 0.1959964)))
    values, shared = [0.4, 0.5, 0.6], 0.01
    of_runs = np.var(values, ddof=1) / 3
    freedom = (of_runs + shared) ** 2 / (of_runs**2 / 2)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(of_runs + shared)
    assert mean_interval(values, shared=shared)[2] == pytest.approx((0.5 - half, 0.5 + half))
    assert mean_interval([0.5, 0.5])[2] == (0.5, 0.5)


def test_mean_interval_of_one_value_and_of_none() -> None:
    assert mean_interval([0.5]) == (0.5, 0.0, None)
    with pytest.raises(DataError):
        mean_interval([])


def test_plans_are_checked() -> None:
    with pytest.raises(UsageError, match="allowed: embedkit, setfit, none"):
        Plan(4, HeadSpec(), 0, "other")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="only setfit has its own"):
        Plan(4, None, 0)
