"""``embedkit export-onnx``, and the commands that read what it wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from transformers import AutoModelForTokenClassification

from embedkit import runtime
from embedkit.artifact import staged, write_json
from embedkit.cli import main
from embedkit.data import LabelCodec, open_dataset
from embedkit.encoders import read_folder
from embedkit.estimators.tuned_tagger import TunedTagger
from embedkit.evaluation.trial import encoder_trial
from embedkit.heads import HeadSpec, fit_head
from embedkit.hub import resolve_model
from embedkit.metrics.spans import entity_scores
from embedkit.runtime import load
from embedkit.runtime.manifest import read_manifest
from embedkit.runtime.tokens import Tokenizer
from tests.tiny_classifiers import TAGS, make_classifier
from tests.tiny_models import WORDS, make_encoder, make_sentence_transformer
from tests.untraced import leave_untraced

pytestmark = pytest.mark.usefixtures("one_torch_thread")


class Told(NamedTuple):
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Cli = Callable[..., Told]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, code: int = 0) -> Told:
        capsys.readouterr()
        try:
            given = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            given = int(stop.code or 0)
        told = Told(given, *capsys.readouterr())
        assert given == code, told
        return told

    return run


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_untraced(monkeypatch)


class Made(NamedTuple):
    """A trained classifier, what it was exported to, and their data."""

    data: Path
    model: Path
    trained: Path
    exported: Path


def write_rows(path: Path, start: int, count: int) -> None:
    rng = np.random.default_rng(start)
    lines = ["text,label"]
    for i in range(count):
        words = " ".join(rng.choice(WORDS, size=int(rng.integers(1, 70))))
        lines.append(f"{words} {'good fine' if i % 2 else 'bad dull'},{'pos' if i % 2 else 'neg'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("made")
    found = Made(root / "data", root / "model", root / "trained", root / "exported")
    make_sentence_transformer(found.model)
    write_rows(found.data / "train.csv", 1, 60)
    write_rows(found.data / "test.csv", 2, 40)
    store = ["--store", str(root / "store"), "--quiet"]
    how = ["--thresholds", "balanced-accuracy", *store]
    fit = ["fit-head", found.data, "-m", found.model, "-o", found.trained, *how]
    assert main([str(argument) for argument in fit]) == 0
    # what so few rows lose to int8 is chance
    export = ["export-onnx", found.trained, "-o", found.exported, "--int8", "--max-drop", "0.5", "--quiet"]
    assert main([str(argument) for argument in export]) == 0
    return found


def test_the_training_data_are_compared_on_where_they_still_are(made: Made) -> None:
    parity = read_manifest(made.exported, kind="onnx")["parity"]
    assert parity["texts"] >= 50
    assert parity["longest"] == 64


def test_predict_gives_the_same_answers(cli: Cli, made: Made) -> None:
    given = ["--input", made.data / "test.csv"]
    before = cli("predict", made.trained, *given, "--no-store").lines
    after = cli("predict", made.exported, *given).lines
    assert len(after) == 40
    for old, new in zip(before, after, strict=True):
        assert (new["label"], new["text"], new["input_label"]) == (old["label"], old["text"], old["input_label"])
        assert new["scores"] == pytest.approx(old["scores"], abs=1e-4)
        assert new["score"] == pytest.approx(old["score"], abs=1e-4)


def test_evaluate_gives_the_same_figures(cli: Cli, made: Made) -> None:
    (before,) = cli("evaluate", made.trained, made.data, "--json", "--no-store").lines
    (after,) = cli("evaluate", made.exported, made.data, "--json").lines
    assert after["splits"] == before["splits"]
    cli("evaluate", made.exported, made.data, "-o", "judged")
    assert json.loads(Path("judged/metrics.json").read_text())["splits"]["test"] == before["splits"]["test"]


def test_int8_answers_where_it_is_asked_for(cli: Cli, made: Made) -> None:
    given = ["--input", made.data / "test.csv"]
    full, small = (cli("predict", made.exported, *given, "--precision", how).lines for how in ("float32", "int8"))
    assert cli("predict", made.exported, *given).lines == full
    assert full != small
    for one, other in zip(full, small, strict=True):
        assert other["scores"] == pytest.approx(one["scores"], abs=0.2)
    (judged,) = cli("evaluate", made.exported, made.data, "--precision", "int8", "--json").lines
    manifest = read_manifest(made.exported, kind="onnx")
    assert manifest["int8"]["published"] is True
    assert manifest["int8"]["comparison"]["first"] == judged["splits"]["test"]["accuracy"]
    assert manifest["graphs"] == {"float32": "onnx/model.onnx", "int8": "onnx/model_quantized.onnx"}
    assert "- int8 (`onnx/model_quantized.onnx`)" in (made.exported / "README.md").read_text(encoding="utf-8")
    assert "is none" in cli("predict", made.trained, "a text", "--precision", "int8", code=2).err


def test_a_missed_verdict_leaves_float32_alone(
    cli: Cli, made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("embedkit.export.verdict.holds", lambda drop, limit: False)
    told = cli("export-onnx", made.trained, "-o", tmp_path / "out", "--int8", "--eval-data", made.data, code=1)
    assert "int8 is not published" in told.out
    assert sorted(path.name for path in (tmp_path / "out" / "onnx").iterdir()) == ["model.onnx"]
    manifest = read_manifest(tmp_path / "out", kind="onnx")
    assert (manifest["int8"]["published"], manifest["graphs"]) == (False, {"float32": "onnx/model.onnx"})
    assert "holds no graph in int8" in cli("predict", tmp_path / "out", "a", "--precision", "int8", code=2).err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--eval-data", "x"], "give --int8 too"),
        (["--max-drop", "0.1"], "give --int8 too"),
        (["--int8", "--max-drop", "1"], "allowed: from 0 to below 1"),
        (["--int8", "--max-drop", "nan"], "allowed: from 0 to below 1"),
    ],
)
def test_flags_of_int8_that_make_no_sense(flags: list[str], said: str, cli: Cli, made: Made) -> None:
    assert said in cli("export-onnx", made.trained, "-o", "out", *flags, code=2).err


def test_what_is_lost_is_said(cli: Cli, made: Made) -> None:
    told = cli("predict", made.exported, "good " * 100, "")
    assert "1 of 2 inputs have more than 64 tokens and lost their end" in told.err
    assert "1 of 2 inputs hold nothing that the tokenizer knows" in told.err
    assert (
        "rows that the classifier was trained on"
        in cli("evaluate", made.exported, made.data, "--split", "train").err
    )


@pytest.mark.parametrize(
    ("flags", "named"),
    [(["-m", "minilm"], "--model"), (["--store", "s"], "--store"), (["--device", "cuda"], "--device")],
)
def test_what_an_exported_folder_does_not_need_is_refused(
    flags: list[str], named: str, cli: Cli, made: Made
) -> None:
    assert f"leave out {named}" in cli("predict", made.exported, *flags, "a text", code=2).err


def test_predict_and_evaluate_need_the_base_install_alone(made: Made) -> None:
    code = f"""
import sys
absent = "torch transformers sklearn pyarrow xxhash scipy safetensors platformdirs huggingface_hub matplotlib " \
         "tqdm joblib onnx pandas skops"
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent.split():
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from embedkit.cli import main
assert main(["predict", {str(made.exported)!r}, "a good film"]) == 0
assert main(["evaluate", {str(made.exported)!r}, {str(made.data)!r}, "--json"]) == 0
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[1])["splits"]["test"]["n"] == 40


@pytest.mark.usefixtures("untraced")
def test_an_encoder_is_exported_with_texts_to_compare(cli: Cli, made: Made) -> None:
    assert "--parity-data" in cli("export-onnx", made.model, "-o", "out", code=2).err
    told = cli("export-onnx", made.model, "-o", "out", "--parity-data", made.data / "train.csv", "--json")
    (figures,) = told.lines
    assert figures["parity"]["difference"] <= 1e-4
    assert figures["bytes"] == (Path("out") / "onnx" / "model.onnx").stat().st_size
    assert "an encoder, which gives no labels" in cli("predict", "out", "a text", code=2).err
    assert "an exported folder already" in cli("export-onnx", "out", "-o", "out2", code=2).err


def test_int8_of_an_encoder_is_judged_by_a_classifier_on_its_vectors(cli: Cli, made: Made) -> None:
    how = ["-o", "out", "--parity-data", made.data / "train.csv", "--int8"]
    assert "--eval-data" in cli("export-onnx", made.model, *how, code=2).err
    (figures,) = cli(
        "export-onnx", made.model, *how, "--eval-data", made.data, "--max-drop", "0.9", "--json"
    ).lines
    models = {precision: load("out", precision) for precision in ("float32", "int8")}
    full, small = (model.encode(["good film", "bad"]) for model in models.values())
    assert 0 < np.abs(full - small).max() < 0.2
    trial = encoder_trial(open_dataset(str(made.data)))
    fit, test = trial.fit, trial.test
    assert fit is not None
    head = fit_head(HeadSpec("logreg"), models["float32"].encode(fit.inputs), fit.true, fit.classes).head
    for name, precision in (("second", "float32"), ("first", "int8")):
        right = head.predict(models[precision].encode(test.inputs)) == test.true
        assert figures["int8"]["comparison"][name] == pytest.approx(right.mean())


def test_int8_of_a_tagger_is_judged_by_its_words(cli: Cli, tmp_path: Path) -> None:
    model = make_classifier(tmp_path / "model", "bert", "tokens", labels=TAGS)
    rng = np.random.default_rng(0)
    for name, count in (("train", 40), ("test", 12)):
        rows = [[str(word) for word in rng.choice(WORDS, size=int(rng.integers(1, 9)))] for _ in range(count)]
        lines = [json.dumps({"tokens": words, "tags": ["B-PER"] * len(words)}) for words in rows]
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    data = tmp_path / "data"
    how = ["--parity-data", data, "--int8", "--eval-data", data, "--max-drop", "0.9"]
    (figures,) = cli("export-onnx", model, "-o", "tagger", *how, "--json").lines
    verdict = figures["int8"]
    assert (verdict["published"], verdict["rows"]) == (True, 12)
    assert verdict["comparison"]["method"].endswith("sentences drawn whole")
    assert verdict["metric"] == "entity_f1"
    sentences = [json.loads(line)["tokens"] for line in (data / "test.jsonl").read_text().splitlines()]
    found = load("tagger", "int8").predict_tokens(sentences)
    true = [["B-PER"] * len(words) for words in sentences]
    assert verdict["comparison"]["first"] == pytest.approx(entity_scores(true, found)["f1"], abs=0.1)


@pytest.mark.usefixtures("untraced")
def test_data_that_have_gone_are_asked_for(cli: Cli, made: Made, tmp_path: Path) -> None:
    write_rows(tmp_path / "own.csv", 3, 40)
    cli("fit-head", "own.csv", "-m", made.model, "-o", "own", "--no-store")
    (tmp_path / "own.csv").rename(tmp_path / "moved.csv")
    told = cli("export-onnx", "own", "-o", "out", code=66)
    assert "own.csv" in told.err
    assert "--parity-data FILE" in told.err
    assert not (tmp_path / "out").exists()
    assert "labels equal" in cli("export-onnx", "own", "-o", "out", "--parity-data", "moved.csv").out


@pytest.mark.parametrize(
    ("clf", "said"),
    [("knn", "a knn head cannot be exported"), ("hist-gb", "a skops head cannot be exported: it is an object")],
)
def test_heads_without_a_graph_are_refused(clf: str, said: str, cli: Cli, made: Made) -> None:
    cli("fit-head", made.data, "-m", made.model, "--clf", clf, "-o", "out", "--no-store")
    assert said in cli("export-onnx", "out", "-o", "graph", code=65).err
    assert not Path("graph").exists()


def test_what_does_not_fit_is_said_at_once(cli: Cli, made: Made) -> None:
    assert "--overwrite" in cli("export-onnx", made.trained, "-o", made.exported, code=2).err
    assert "leave out --pooling" in cli("export-onnx", made.trained, "-o", "o", "--pooling", "cls", code=2).err
    assert "leave out --task" in cli("export-onnx", made.trained, "-o", "o", "--task", "sequence", code=2).err
    assert "name a model" in cli("export-onnx", "nowhere", "-o", "o", "-m", "minilm", code=2).err
    Path("pairs.csv").write_text("text,text_pair\na,b\n", encoding="utf-8")
    told = cli("export-onnx", made.trained, "-o", "o", "--parity-data", "pairs.csv", code=65)
    assert "holds pairs, but" in told.err


@pytest.mark.usefixtures("untraced")
def test_a_plain_encoder_takes_the_pooling_that_is_asked_for(cli: Cli, made: Made, tmp_path: Path) -> None:
    from embedkit import runtime
    from embedkit.encoders import EncoderSettings, FeatureExtractor

    make_encoder(tmp_path / "plain", "distilbert")
    flags = ["--pooling", "max", "--normalize", "--max-length", "20"]
    cli("export-onnx", "plain", "-o", "out", "--parity-data", made.data / "train.csv", *flags)
    settings = EncoderSettings(tmp_path / "plain", pooling="max", normalize=True, max_length=20)
    texts = ["a good film " * 20, "bad"]
    expected = FeatureExtractor(settings).transform(texts).vectors
    np.testing.assert_allclose(runtime.load("out").encode(texts), expected, atol=1e-5)


# --- classifiers of transformers -----------------------------------------------------------------------


@pytest.fixture
def tagger(cli: Cli, untraced: None, tmp_path: Path) -> Path:
    """Return an exported token classifier."""
    make_classifier(tmp_path / "ner", "distilbert", "tokens", labels=TAGS, layers=1)
    lines = [f"{word} O" if place % 9 else f"{word} O\n" for place, word in enumerate(WORDS)]
    (tmp_path / "words.conll").write_text("\n".join(lines) + "\n", encoding="utf-8")
    told = cli("export-onnx", "ner", "-o", "tagger", "--parity-data", "words.conll")
    assert "labels equal, on" in told.out
    return tmp_path / "tagger"


def test_words_are_answered_one_object_a_text(cli: Cli, tagger: Path) -> None:
    from embedkit import runtime

    text = "Bob's  film, the 18th 😀"
    (line,) = cli("predict", tagger, text).lines
    assert line["tokens"] == ["Bob", "'", "s", "film", ",", "the", "18th", "😀"]
    model = runtime.load(tagger)
    found = model.tag([line["tokens"]])
    assert line["tags"] == found.tags[0]
    assert line["scores"] == found.scores[0]
    assert line["entities"] == model.entities([text])[0]
    assert list(line) == ["tokens", "tags", "scores", "entities"]


def test_words_that_are_given_stay_as_they_are(cli: Cli, tagger: Path) -> None:
    rows = [{"id": 1, "tokens": ["New York", "", "is", "good"]}, {"id": 2, "tokens": []}]
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    told = cli("predict", tagger, "--input", "in.jsonl")
    first, second = told.lines
    assert (first["id"], first["tokens"]) == (1, rows[0]["tokens"])
    assert (first["tags"][1], first["scores"][1]) == ("O", None)
    text = " ".join(first["tokens"])
    assert all(text[found["start"] : found["end"]] == found["word"] for found in first["entities"])
    assert second == {"id": 2, "tokens": [], "tags": [], "scores": [], "entities": []}
    assert "1 word of 2 inputs hold nothing that the tokenizer knows" in told.err


def test_texts_of_a_file_and_words_of_a_file_give_the_same(cli: Cli, tagger: Path) -> None:
    Path("texts.csv").write_text("text,id\nthe good film,1\nbad,2\n", encoding="utf-8")
    Path("words.conll").write_text("the O\ngood O\nfilm O\n\nbad O\n", encoding="utf-8")
    texts = cli("predict", tagger, "--input", "texts.csv").lines
    words = cli("predict", tagger, "--input", "words.conll").lines
    assert [line["id"] for line in texts] == ["1", "2"]
    for text, word in zip(texts, words, strict=True):
        assert (text["tokens"], text["tags"], text["entities"]) == (word["tokens"], word["tags"], word["entities"])


def test_words_beyond_the_maximum_are_read_too(cli: Cli, tagger: Path) -> None:
    told = cli("predict", tagger, "good " * 50, "bad")
    assert told.err == ""
    assert len(told.lines[0]["tags"]) == 50
    assert None not in told.lines[0]["scores"]


def test_words_with_a_blank_between_two_are_taken_as_they_are(cli: Cli, tagger: Path) -> None:
    texts = ["don't  stop 18th,", "", " a"]
    words = [["don't", "", "stop", "18th,"], [], ["", "a"]]
    Path("texts.csv").write_text('text\n"don\'t  stop 18th,"\n""\n" a"\n', encoding="utf-8")
    lines = "".join(json.dumps({"tokens": some}) + "\n" for some in words)
    Path("words.jsonl").write_text(lines, encoding="utf-8")
    given = cli("predict", tagger, *texts, "--pretokenized").lines
    assert [line["tokens"] for line in given] == words
    for line, text in zip(given, texts, strict=True):
        assert all(text[found["start"] : found["end"]] == found["word"] for found in line["entities"])
    read = cli("predict", tagger, "--input", "texts.csv", "--missing-text", "empty", "--pretokenized").lines
    assert [{name: line[name] for name in given[0]} for line in read] == given
    assert cli("predict", tagger, "--input", "words.jsonl").lines == given
    told = cli("predict", tagger, "--input", "words.jsonl", "--pretokenized", code=2)
    assert "holds lists of words, which need no --pretokenized" in told.err


def test_aggregations_are_asked_for_by_name(cli: Cli, tagger: Path) -> None:
    text = "unwatchable 18th films"
    plain, *lines = (
        cli("predict", tagger, text, *how).lines[0]
        for how in ([], *(["--aggregation", name] for name in ("first", "average", "max", "none")))
    )
    assert lines[0] == plain
    assert all(line["tokens"] == plain["tokens"] for line in lines[:3])
    assert lines[1]["scores"] != plain["scores"]
    assert "".join(lines[3]["tokens"]) == "".join(plain["tokens"])
    assert len(lines[3]["tokens"]) > len(plain["tokens"])
    told = cli("predict", tagger, text, "--aggregation", "mean", code=2)
    assert "there is no aggregation 'mean'; allowed: first, average, max, none, logits" in told.err


def test_flags_about_words_are_nothing_for_texts(cli: Cli, made: Made) -> None:
    for flags in (["--pretokenized"], ["--aggregation", "max"]):
        told = cli("predict", made.exported, "a text", *flags, code=2)
        assert f"{flags[0]} is about words, and" in told.err


def test_what_a_token_classifier_does_not_do_is_said(cli: Cli, tagger: Path) -> None:
    Path("pairs.csv").write_text("text,text_pair\na,b\n", encoding="utf-8")
    told = cli("predict", tagger, "--input", "pairs.csv", code=65)
    assert "holds pairs of texts, but this classifier reads texts or lists of words" in told.err
    assert "an exported folder already" in cli("export-onnx", tagger, "-o", "again", code=2).err


@pytest.mark.usefixtures("untraced")
def test_a_fine_tuned_tagger_answers_and_is_judged_as_its_folder_is(cli: Cli, tmp_path: Path) -> None:
    make_tagger(tmp_path)
    assert "leave out --task" in cli("export-onnx", "ner", "-o", "out", "--task", "tokens", code=2).err
    assert "labels equal, on" in cli("export-onnx", "ner", "-o", "out").out
    assert runtime.load(tmp_path / "out").description.max_length == 20
    for how in ([], ["--aggregation", "average"], ["--aggregation", "none"]):
        ours, theirs = (
            cli("predict", folder, "the 18th film, and so " * 9, *how).lines for folder in ("ner", "out")
        )
        assert ours[0]["tokens"] == theirs[0]["tokens"]
        assert ours[0]["tags"] == theirs[0]["tags"]
        assert ours[0]["scores"] == pytest.approx(theirs[0]["scores"], abs=1e-5)
    ours, theirs = (cli("evaluate", folder, "data", "--task", "ner", "--json").lines for folder in ("ner", "out"))
    assert ours[0]["splits"] == theirs[0]["splits"]
    assert ours[0]["splits"]["test"]["n"] == 30


def test_int8_of_a_fine_tuned_tagger_is_judged_on_the_data_of_training(cli: Cli, tmp_path: Path) -> None:
    """Of whose four columns the run said which one has the tags; another may be named."""
    make_tagger(tmp_path)
    told = cli("export-onnx", "ner", "-o", "out", "--int8", "--max-drop", "0.9", "--json")
    verdict = told.lines[0]["int8"]
    assert (verdict["published"], verdict["metric"], verdict["rows"]) == (True, "entity_f1", 30)
    assert "data/test.txt" in verdict["test"].replace(os.sep, "/")
    told = cli("export-onnx", "ner", "-o", "out2", "--int8", "--eval-data", "data", "--task", "chunk", code=65)
    assert "its labels are 'NP', and the classifier gives 'LOC', 'PER', so nothing can be judged" in told.err


def make_tagger(root: Path) -> None:
    """Write data of four columns and a tagger as ``finetune data --task ner -o ner`` leaves it."""
    model = make_classifier(root / "m", "bert", "tokens", labels=TAGS, layers=1)
    write_conll(root / "data", train=40, test=30)
    base = read_folder(resolve_model(model))
    tokenizer = Tokenizer.from_file(model / "tokenizer.json", max_length=20, pad_id=base.pad_id)
    weights = AutoModelForTokenClassification.from_pretrained(model, local_files_only=True).eval()
    with staged(root / "ner") as stage:
        write_json(stage / "metrics.json", {"splits": {}, "settings": {"data": "data"}})
        TunedTagger(weights, tokenizer, LabelCodec(TAGS, "str"), {"seed": 1, "tag_task": "ner"}).save(stage, base)


def write_conll(folder: Path, **splits: int) -> None:
    """Write files of four columns, as those of CoNLL-2003."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, count in splits.items():
        rows = [rng.choice(WORDS, size=int(rng.integers(1, 40))) for _ in range(count)]
        blocks = [
            "\n".join(f"{word} NN B-NP {rng.choice(['O', 'B-PER', 'I-LOC'])}" for word in row) for row in rows
        ]
        (folder / f"{name}.txt").write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


@pytest.mark.usefixtures("untraced")
def test_tags_of_single_words_make_no_entities(cli: Cli, tmp_path: Path) -> None:
    make_classifier(tmp_path / "pos", "distilbert", "tokens", labels=("NN", "VB"), layers=1)
    Path("in.csv").write_text("text\nthe good film\nbad\n", encoding="utf-8")
    cli("export-onnx", "pos", "-o", "out", "--parity-data", "in.csv")
    assert list(cli("predict", "out", "good").lines[0]) == ["tokens", "tags", "scores"]


@pytest.mark.usefixtures("untraced")
def test_the_task_is_told_by_the_architecture_or_the_user(cli: Cli, made: Made, tmp_path: Path) -> None:
    make_classifier(tmp_path / "m", "distilbert", labels=("neg", "pos"), layers=1)
    data = ["--parity-data", made.data / "train.csv"]
    cli("export-onnx", "m", "-o", "out", *data, "--max-length", "20")
    (line,) = cli("predict", "out", "good").lines
    assert set(line["scores"]) == {"neg", "pos"}
    cli("evaluate", "out", made.data)
    cli("export-onnx", "m", "-o", "vectors", *data, "--task", "encoder")
    assert read_manifest(tmp_path / "vectors")["task"] == "encoder"
    assert "--parity-data" in cli("export-onnx", "m", "-o", "o", code=2).err
    assert "leave out --pooling" in cli("export-onnx", "m", "-o", "o", *data, "--pooling", "cls", code=2).err
    told = cli("export-onnx", "m", "-o", "o", *data, "--task", "tokens", code=2)
    assert "was trained for the task sequence" in told.err
    assert not (tmp_path / "o").exists()


@pytest.mark.usefixtures("untraced")
def test_a_model_of_the_hub_is_exported_from_its_cached_copy(
    cli: Cli, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    commit, root = "b" * 40, tmp_path / "hub" / "models--org--m"
    make_classifier(root / "snapshots" / commit, "distilbert", labels=("neg", "pos"), layers=1)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    cli("export-onnx", "org/m", "-o", "out", "--parity-data", made.data / "train.csv")
    encoder = read_manifest(tmp_path / "out")["encoder"]
    assert (encoder["repository"], encoder["commit"]) == ("org/m", commit)
    assert set(cli("predict", "out", "good").lines[0]["scores"]) == {"neg", "pos"}


@pytest.mark.usefixtures("untraced")
def test_pairs_are_told_by_the_data(cli: Cli, tmp_path: Path) -> None:
    make_classifier(tmp_path / "m", "bert", labels=("no", "yes"), layers=1)
    rows = "".join(f"{a},{b}\n" for a, b in zip(WORDS, WORDS[5:], strict=False))
    Path("pairs.csv").write_text(f"premise,hypothesis\n{rows}", encoding="utf-8")
    cli("export-onnx", "m", "-o", "out", "--parity-data", "pairs.csv")
    assert "give two each" in cli("predict", "out", "one", code=2).err
    assert len(cli("predict", "out", "one", "two", "three", "four").lines) == 2
