"""A head on frozen vectors of words: fitted, chosen, judged, saved; as many tags out as words in.

Layer 0 of a tiny model tells words apart; what its blocks with random weights make of them is no help.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedkit.artifact import load_arrays, staged
from embedkit.data import LabelCodec, Split, groups_of, stratified_folds
from embedkit.encoders import EncoderSettings, WordExtractor
from embedkit.errors import ArtifactError, DataError, InputMissingError, SpaceMismatchError, UsageError
from embedkit.estimators.frozen import load_frozen
from embedkit.estimators.frozen_tagger import FrozenTagger, answers_of, load_frozen_tagger
from embedkit.evaluation.frozen_tagger import sweep_words, train_frozen_tagger
from embedkit.heads import HeadSpec, fit_head
from embedkit.metrics.spans import entity_scores
from embedkit.store import FeatureStore
from tests import test_cli
from tests.test_cli import Cli, names, write_jsonl
from tests.test_sweep import told_by
from tests.tiny_models import WORDS, make_encoder

cli, model = test_cli.cli, test_cli.model
pytestmark = pytest.mark.usefixtures("one_torch_thread")
Sentence = tuple[list[str], list[str]]
BEGIN = {"ORG": ("bank", "company", "club"), "PER": ("actor", "director", "player")}
INSIDE = {"ORG": ("market", "shares", "team"), "PER": ("man", "woman", "people")}
PLAIN = WORDS[:40]  # none of those
ENTITIES = ("B-ORG", "B-PER", "I-ORG", "I-PER", "O")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the drawing out, which takes most of a run on few rows."""
    for module in ("report", "tag_report", "sweep"):
        monkeypatch.setattr(
            f"embedkit.evaluation.{module}.save_png", lambda figure, path: path.write_bytes(b""), raising=False
        )


def entities(count: int, seed: int = 0, *, odd: bool = True) -> list[Sentence]:
    """Return sentences whose entities show in their words; `odd` ones have words that hold nothing."""
    rng = random.Random(seed)
    found: list[Sentence] = []
    for i in range(count):
        words = rng.choices(PLAIN, k=rng.randrange(4))
        tags = ["O"] * len(words)
        kind, size = rng.choice(list(BEGIN)), rng.randrange(1, 4)
        words += [rng.choice(BEGIN[kind]), *rng.choices(INSIDE[kind], k=size - 1)]
        tags += [f"B-{kind}", *[f"I-{kind}"] * (size - 1)]
        more = rng.choices(PLAIN, k=rng.randrange(4))
        words, tags = words + more, tags + ["O"] * len(more)
        if odd and i % 7 == 3:
            place = rng.randrange(len(words) + 1)
            words.insert(place, "\ufe0f")
            tags.insert(place, "O")
        found.append((words, tags))
    return found


def singles(count: int, seed: int = 0) -> list[Sentence]:
    """Return sentences whose words have a class each."""
    nouns = {*chain(*BEGIN.values(), *INSIDE.values())}
    return [
        (words, ["NOUN" if word in nouns else "X" if word in PLAIN else "SYM" for word in words])
        for words, _ in entities(count, seed)
    ]


def split(sentences: Sequence[Sentence], name: str = "train") -> Split:
    words, tags = [list(words) for words, _ in sentences], [list(tags) for _, tags in sentences]
    return Split(name, "tokens", words, tags, np.arange(1, len(words) + 1), f"{name}.jsonl")


def folder_of(path: Path, **splits: Sequence[Sentence]) -> Path:
    for name, sentences in splits.items():
        write_jsonl(path / f"{name}.jsonl", [{"tokens": words, "tags": tags} for words, tags in sentences])
    return path


def opened(model: Path, store: Path | None = None, **how: Any) -> WordExtractor:
    return WordExtractor(EncoderSettings(model, **how), store=None if store is None else FeatureStore(store))


def fitted(model: Path, sentences: Sequence[Sentence], clf: str = "logreg", **how: Any) -> FrozenTagger:
    extractor = opened(model, **{"layers": 0, **how})
    return train_frozen_tagger({"train": split(sentences)}, extractor, HeadSpec(clf)).classifier


def saved(tagger: FrozenTagger, folder: Path) -> Path:
    with staged(folder) as stage:
        tagger.save(stage)
    return folder


def valid(tags: Sequence[str | None]) -> bool:
    pairs = zip(("O", *tags), tags, strict=False)
    return all(tag is not None and (tag[0] != "I" or before in (tag, "B" + tag[1:])) for before, tag in pairs)


# --- a run from the command line -----------------------------------------------------------------------


class Run(NamedTuple):
    """A tagger, its data, and what was said of it."""

    folder: Path
    data: Path
    figures: dict[str, Any]


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("run")
    data = folder_of(root / "data", train=entities(80), validation=entities(20, 1), test=entities(30, 2))
    figures = told_by(["fit-head", data, "-m", model, "--task", "ner", "--layers", "0", "-o", root / "out"])
    return Run(root / "out", data, figures)


def test_a_run_leaves_a_judged_tagger_without_pickle(run: Run) -> None:
    assert run.figures["labels"] == list(ENTITIES)
    assert run.figures["splits"]["test"]["f1"] > 0.8
    assert set(run.figures["splits"]) == {"validation", "test"}
    assert set(run.figures["splits"]["test"]["per_type"]) == {"ORG", "PER"}
    assert (run.figures["rows"], run.figures["computed"]) == (130, run.figures["unique"])
    found = names(run.folder)
    assert {"embedkit.json", "head.safetensors", "metrics.json", "report"} <= found
    assert not [name for name in found if name.endswith((".pkl", ".pickle", ".joblib", ".bin"))]
    manifest = json.loads((run.folder / "embedkit.json").read_text("utf-8"))
    assert (manifest["kind"], manifest["task"], manifest["input"]) == ("classifier", "tokens", "tokens")
    assert manifest["encoder"]["settings"]["pooling"] == "first"
    assert json.loads((run.folder / "metrics.json").read_text("utf-8"))["splits"] == run.figures["splits"]


def test_evaluate_finds_the_same_figures(cli: Cli, run: Run) -> None:
    assert cli("evaluate", run.folder, run.data, "--json").json["splits"]["test"] == run.figures["splits"]["test"]
    assert "entity F1" in cli("evaluate", run.folder, run.data).out


def test_a_file_s_held_out_sentences_are_known_again(cli: Cli, model: Path) -> None:
    write_jsonl(Path("all.jsonl"), [{"tokens": words, "tags": tags} for words, tags in entities(60)])
    made = cli("fit-head", "all.jsonl", "-m", model, "--task", "ner", "--layers", 0, "-o", "out", "--json").json
    again = cli("evaluate", "out", "all.jsonl", "--json").json
    assert again["splits"] == made["splits"]
    assert again["splits"]["test"]["n"] == 12


def test_declared_names_order_the_tags(cli: Cli, model: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Sequence, Value

    declared = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"]
    table = {"tokens": [words for words, _ in entities(40)], "ner_tags": [tags for _, tags in entities(40)]}
    kinds = Features({"tokens": Sequence(Value("string")), "ner_tags": Sequence(ClassLabel(names=declared))})
    Path("d").mkdir()
    Dataset.from_dict(table, features=kinds).to_parquet("d/train.parquet")
    told = cli("fit-head", "d", "-m", model, "--task", "ner", "--layers", 0, "-o", "out", "--json")
    assert told.json["labels"] == declared[:5]  # those that occur
    tagger = load_frozen_tagger(Path("out"))
    assert tagger.predict([["bank", "market", "\ufe0f", "actor"]]).tags == [["B-ORG", "I-ORG", "O", "B-PER"]]


def test_a_text_s_entities_have_offsets(cli: Cli, run: Run) -> None:
    text = "the  bank market, was"
    found = cli("predict", run.folder, text).lines[0]
    assert found["tokens"] == ["the", "bank", "market", ",", "was"]
    assert len(found["tags"]) == len(found["scores"]) == 5
    assert valid(found["tags"])
    assert [(one["start"], one["end"], one["entity_group"]) for one in found["entities"]] == [(5, 16, "ORG")]
    assert all(text[one["start"] : one["end"]] == one["word"] for one in found["entities"])


def test_a_second_run_computes_nothing(cli: Cli, model: Path, run: Run) -> None:
    how = ("--layers", 0, "--store", "words")
    first = cli("fit-head", run.data, "-m", model, "--task", "ner", *how, "-o", "a", "--json").json
    second = cli("fit-head", run.data, "-m", model, "--task", "ner", *how, "-o", "b", "--json").json
    without = cli(
        "fit-head", run.data, "-m", model, "--task", "ner", "--layers", 0, "-o", "c", "--json", "--no-store"
    ).json
    assert (first["hits"], second["computed"]) == (first["unique"] - first["computed"], 0)
    assert first["splits"] == second["splits"] == without["splits"] == run.figures["splits"]


def test_parts_of_speech_are_judged_by_themselves(cli: Cli, model: Path, tmp_path: Path) -> None:
    data = folder_of(tmp_path / "d", train=singles(60), test=singles(20, 1))
    found = cli(
        "fit-head", data, "-m", model, "--task", "pos", "--layers", 0, "--pooling", "mean", "-o", "out", "--json"
    ).json
    assert found["splits"]["test"]["accuracy"] > 0.8
    assert set(found["splits"]["test"]["per_tag"]) >= {"NOUN", "X"}
    tagger = load_frozen_tagger(Path("out"))
    assert not tagger.spans
    tagged = tagger.predict([["bank", "\ufe0f", "the"]])
    assert tagged.tags[0][1] is tagged.scores[0][1] is None
    assert tagged.entities is None


def test_tags_that_training_never_saw_count_as_errors(cli: Cli, model: Path, tmp_path: Path) -> None:
    strange = [(["the", "bank"], ["O", "B-LOC"])]
    data = folder_of(tmp_path / "d", train=entities(40), test=[*entities(10, 1), *strange])
    found = cli("fit-head", data, "-m", model, "--task", "ner", "-o", "out", "--json").json["splits"]["test"]
    assert found["unseen_tags"] == ["B-LOC"]
    assert found["per_type"]["LOC"]["recall"] == 0


@pytest.mark.parametrize("scheme", ["IOB1", "BIOES"])
def test_other_schemes_are_learnt_as_iob2(cli: Cli, model: Path, run: Run, tmp_path: Path, scheme: str) -> None:
    def rewritten(sentence: Sentence) -> Sentence:
        words, tags = sentence
        changed = list(tags)
        for place, tag in enumerate(tags):
            last = [*tags, "O"][place + 1][:1] != "I"
            if tag != "O" and scheme == "BIOES":
                changed[place] = {"B": "S" if last else "B", "I": "E" if last else "I"}[tag[0]] + tag[1:]
            elif tag != "O":  # no two entities stand side by side
                changed[place] = "I" + tag[1:]
        return words, changed

    parts = {"train": entities(80), "validation": entities(20, 1), "test": entities(30, 2)}
    written = {name: [rewritten(one) for one in some] for name, some in parts.items()}
    if scheme == "IOB1":  # else nothing tells it from IO
        written["train"].append((["bank", "actor", "actor"], ["I-ORG", "I-PER", "B-PER"]))
    data = folder_of(tmp_path / "d", **written)
    told = cli("fit-head", data, "-m", model, "--task", "ner", "--layers", 0, "-o", "out", "--json")
    assert f"scheme {scheme}" in told.err
    assert told.json["labels"] == list(ENTITIES)
    assert told.json["splits"]["test"]["f1"] > 0.8
    if scheme != "IOB1":
        assert told.json["splits"] == run.figures["splits"]


# --- tags of any words ---------------------------------------------------------------------------------

any_word = st.one_of(st.sampled_from(["bank", "actor", "", "\ufe0f", "the"]), st.text(max_size=5)).filter(
    lambda word: not any(0xD800 <= ord(character) < 0xE000 for character in word)
)


@pytest.fixture(scope="module")
def tagger(run: Run) -> FrozenTagger:
    return load_frozen_tagger(run.folder, store=False)


@settings(max_examples=60, deadline=None)
@given(sentences=st.lists(st.lists(any_word, max_size=12), max_size=6))
def test_as_many_tags_as_words_each_in_its_place(tagger: FrozenTagger, sentences: list[list[str]]) -> None:
    tagged = tagger.predict(sentences)
    assert tagged.words == sentences
    assert [list(map(len, (a, b))) for a, b in zip(tagged.tags, tagged.scores, strict=True)] == [
        [len(words)] * 2 for words in sentences
    ]
    empty = tagger.extractor.transform(sentences).empty
    assert tagged.extraction.empty == empty.sum()
    scores = list(chain.from_iterable(tagged.scores))
    assert [score is None for score in scores] == empty.tolist()
    tags = list(chain.from_iterable(tagged.tags))
    assert all(tag == "O" for tag, nothing in zip(tags, empty.tolist(), strict=True) if nothing)
    assert all(map(valid, tagged.tags))
    for words, tags in zip(sentences, tagged.tags, strict=True):
        assert tagger.predict([words]).tags == [tags]


def test_a_span_never_goes_on_over_what_was_not_read(tagger: FrozenTagger) -> None:
    assert tagger.predict([["bank", "market"]]).tags == [["B-ORG", "I-ORG"]]
    tags = tagger.predict([["bank", "\ufe0f", "market"]]).tags[0]
    assert tags[:2] == ["B-ORG", "O"]
    assert tags[2] in ("O", "B-ORG", "B-PER")


def test_long_sentences_are_tagged_to_their_end(model: Path) -> None:
    tagger = fitted(model, entities(80), max_length=16)
    words = [*WORDS[:30], "bank", *WORDS[:30], "actor"]
    tags = tagger.predict([words]).tags[0]
    assert (tags[30], tags[61], len(tags)) == ("B-ORG", "B-PER", 62)


def test_words_that_hold_nothing_have_no_part_in_the_fit(model: Path) -> None:
    """They neither change other words' vectors nor are learnt, whatever their tags."""
    plain = entities(40, odd=False)
    odd = [([*words, "\ufe0f", ""], [*tags, "B-ORG", "B-PER"]) for words, tags in plain]
    heads = [fitted(model, some).head.state().arrays for some in (plain, odd)]
    for name, array in heads[0].items():
        np.testing.assert_allclose(heads[1][name], array, atol=1e-4)


# --- saved and loaded ----------------------------------------------------------------------------------


@pytest.mark.parametrize("clf", ["logreg", "knn", "hist-gb", "naive-bayes"])
def test_a_loaded_tagger_answers_as_the_saved_one(model: Path, tmp_path: Path, clf: str) -> None:
    tagger = fitted(model, entities(40), clf, pooling="mean", layers=(-1, 1))
    loaded = load_frozen_tagger(saved(tagger, tmp_path / "t"))
    sentences = [words for words, _ in entities(15, 3)]
    before, after = tagger.predict(sentences), loaded.predict(sentences)
    assert (before.tags, before.scores) == (after.tags, after.scores)
    assert (loaded.labels, loaded.spans, loaded.kind) == (ENTITIES, True, "tokens")
    assert loaded.about["head_settings"]["clf"] == clf


def test_another_encoder_is_refused(model: Path, tmp_path: Path) -> None:
    folder = saved(fitted(model, entities(20)), tmp_path / "t")
    other = make_encoder(tmp_path / "other", "bert", seed=9)
    with pytest.raises(SpaceMismatchError, match="its weights differ"):
        load_frozen_tagger(folder, model=str(other))
    with pytest.raises(InputMissingError):
        load_frozen_tagger(folder, model=str(tmp_path / "none"))


def drop(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest.pop(name)


def change(*path: str, to: Any) -> Callable[[dict[str, Any]], object]:
    def act(manifest: dict[str, Any]) -> None:
        for name in path[:-1]:
            manifest = manifest[name]
        manifest[path[-1]] = to

    return act


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (drop("task"), "lacks 'task'"),
        (drop("labels"), "lacks 'labels'"),
        (change("task", to=["tokens"]), "task is"),
        (change("task", to="speech"), "task is 'speech'"),
        (change("input", to="text"), "input is 'text'"),
        (change("labels", to=["O", "O", "B-X", "I-X", "B-Y"]), "labels are not distinct"),
        (change("labels", to=["O", "B-X", "I-X"]), "5 classes in the head, 3 labels"),
        (change("encoder", "settings", "pooling", to="cls"), "cannot do what the manifest says"),
        (change("encoder", "settings", "normalize", to=True), "cannot do what the manifest says"),
        (change("head", "kind", to="unheard"), "unheard"),
    ],
)
def test_a_damaged_manifest_is_refused(
    run: Run, tmp_path: Path, damage: Callable[[dict[str, Any]], object], said: str
) -> None:
    folder = tmp_path / "t"
    shutil.copytree(run.folder, folder)
    manifest = json.loads((folder / "embedkit.json").read_text("utf-8"))
    damage(manifest)
    (folder / "embedkit.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(ArtifactError, match=said):
        load_frozen_tagger(folder)


def test_a_pooling_that_is_not_the_trained_one_is_another_space(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "t"
    shutil.copytree(run.folder, folder)
    manifest = json.loads((folder / "embedkit.json").read_text("utf-8"))
    change("encoder", "settings", "pooling", to="mean")(manifest)
    (folder / "embedkit.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(SpaceMismatchError):
        load_frozen_tagger(folder)


def test_a_tagger_is_no_classifier_of_texts_and_none_is_a_tagger(run: Run, cli: Cli, model: Path) -> None:
    with pytest.raises(UsageError, match="tags words, but what classifies texts is needed"):
        load_frozen(run.folder)
    write_jsonl(Path("d/train.jsonl"), [{"text": f"the {word}", "label": i % 2} for i, word in enumerate(WORDS)])
    cli("fit-head", "d", "-m", model, "-o", "texts")
    with pytest.raises(UsageError, match="classifies texts, but what tags words is needed"):
        load_frozen_tagger(Path("texts"))


def test_a_head_without_probabilities_cannot_be_slipped_in(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "t"
    shutil.copytree(run.folder, folder)
    manifest = json.loads((folder / "embedkit.json").read_text("utf-8"))
    change("head", "link", to="none")(manifest)
    (folder / "embedkit.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(ArtifactError, match="no probabilities"):
        load_frozen_tagger(folder)


# --- the choice ----------------------------------------------------------------------------------------


def test_candidates_are_scored_as_the_tagger_answers_by_folds_of_sentences(model: Path, tmp_path: Path) -> None:
    train = split([*entities(50), *entities(10)])  # ten stand twice
    codec = LabelCodec.fit(train.labels or [])
    extractor = opened(model, tmp_path)
    views = [
        EncoderSettings(model, layers=layer, pooling=pooling) for layer in (-1, 1) for pooling in ("first", "mean")
    ]
    specs = [HeadSpec(params={"C": c}) for c in (0.01, 1.0)]
    told: list[int] = []
    sweep = sweep_words(
        train, codec, views, specs, lambda view: WordExtractor(view, store=extractor.store), folds=3, jobs=1,
        progress=told.append,
    )  # fmt: skip
    assert (len(sweep.candidates), sweep.metric, sweep.unit, sweep.rows) == (8, "f1", "sentences", 60)
    assert sum(told) == 60
    assert sweep.extraction.computed == 50  # one pass for all views
    features = extractor.transform(train.inputs)  # type: ignore[arg-type]
    wanted: dict[str, list[float]] = {"f1": [], "accuracy": []}
    for learnt, held in stratified_folds(None, groups_of(train.inputs), 3, 42):
        assert not {tuple(train.inputs[i]) for i in learnt} & {tuple(train.inputs[i]) for i in held}
        rows = [np.arange(*features.offsets[i : i + 2]) for i in range(60)]
        some = np.concatenate([rows[i] for i in learnt])
        some = some[~features.empty[some]]
        codes = codec.encode(list(chain.from_iterable(train.labels or [])))
        head = fit_head(HeadSpec(params={"C": 1.0}, scale="standard"), features.vectors[some], codes[some], 5).head
        true = [train.labels[i] for i in held]  # type: ignore[index]
        given_ = [
            answers_of(
                head,
                features.vectors[rows[i]],
                ~features.empty[rows[i]],
                np.array([len(rows[i])]),
                ENTITIES,
                spans=True,
            )
            for i in held
        ]
        scores = entity_scores(true, [answer.tags[0] for answer in given_])  # type: ignore[arg-type, misc]
        for name, values in wanted.items():
            values.append(scores[name])
    (found,) = [
        one.trial for one in sweep.candidates
        if (one.layers, one.pooling, one.trial.spec.params["C"]) == ("3", "first", 1.0)
    ]  # fmt: skip
    for name, values in wanted.items():
        assert found.scores[name] == pytest.approx(tuple(values), abs=1e-9)


def test_the_winner_is_trained_and_the_table_shown(cli: Cli, model: Path, run: Run) -> None:
    told = cli(
        "fit-head", run.data, "-m", model, "--task", "ner", "--layers", "all", "--pooling", "first,mean",
        "--clf-param", "C=0.1,1", "--cv", 3, "--jobs", 1, "-o", "out",
    )  # fmt: skip
    assert "3-fold cross-validation on train (80 sentences, equal ones together, seed 42)" in told.out
    metrics = json.loads(Path("out/metrics.json").read_text("utf-8"))
    chosen = metrics["search"]["chosen"]
    assert metrics["search"]["candidates"] == 16
    assert {"f1", "precision", "recall", "accuracy"} <= set(chosen)
    manifest = json.loads(Path("out/embedkit.json").read_text("utf-8"))
    assert manifest["encoder"]["settings"]["pooling"] == chosen["pooling"]
    assert manifest["head_settings"]["params"] == chosen["params"]
    assert {"report/search.csv", "report/search.png"} <= names(Path("out"))


def test_single_tags_are_chosen_by_accuracy(model: Path, tmp_path: Path) -> None:
    train = split(singles(40))
    store = FeatureStore(tmp_path)
    how = [EncoderSettings(model, layers=0)], [HeadSpec()], lambda view: WordExtractor(view, store=store)
    codec = LabelCodec.fit(train.labels or [])
    sweep = sweep_words(train, codec, *how, folds=3, jobs=1)
    assert sweep.metric == "accuracy"
    assert set(sweep.chosen.trial.scores) == {"accuracy", "macro-f1", "mcc"}
    assert 0.7 < sweep.chosen.trial.mean("accuracy") < 1  # words that were not read count as errors
    with pytest.raises(
        UsageError, match="no metric 'f1' where tags are of single words; allowed: accuracy, macro-f1"
    ):
        sweep_words(train, codec, *how, metric="f1")


# --- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--label-separator", ";"], "--label-separator"),
        (["--positive-label", "B-ORG"], "--positive-label is for labels of texts"),
        (["--thresholds", "f1"], "--thresholds is for labels of texts"),
        (["--calibrate"], "--calibrate is for labels of texts"),
        (["--calibrate", "--rare", "drop"], "--calibrate, --rare are for labels of texts"),
        (["--clf", "ridge"], "ridge gives no probabilities"),
        (["--clf", "logreg,linear-svm"], "linear-svm gives no probabilities"),
        (["--metric", "micro-f1"], "there is no metric 'micro-f1' where tags stand for spans; allowed: f1"),
        (["--class-weight", '{"B-XYZ": 2}'], "unknown labels: B-XYZ"),
        (["--pooling", "cls"], "allowed: first, mean"),
        (["--normalize"], "normalize is of texts"),
        (["--prompt", "query: "], "prompt is of texts"),
        (["--long", "mean"], "long is of texts"),
        (["--cv", "90"], "too few for 90 folds"),
    ],
)
def test_what_is_of_texts_is_refused(cli: Cli, model: Path, run: Run, flags: list[str], said: str) -> None:
    code = 65 if "folds" in said else 2
    told = cli("fit-head", run.data, "-m", model, "--task", "ner", "-o", "out", *flags, code=code)
    assert said in told.err
    assert not Path("out").exists()


def test_an_earlier_tagger_takes_no_more_rows(cli: Cli, run: Run) -> None:
    told = cli("fit-head", run.data, "--task", "ner", "--update", run.folder, "-o", "out", code=2)
    assert "tags words, but what classifies texts is needed" in told.err


def test_another_aggregation_is_refused(tagger: FrozenTagger) -> None:
    with pytest.raises(UsageError, match="pooling first, chosen in training"):
        tagger.predict([["bank"]], aggregation="average")


def test_one_tag_alone_is_refused(cli: Cli, model: Path, tmp_path: Path) -> None:
    data = folder_of(tmp_path / "d", train=[([word], ["O"]) for word in WORDS[:9]], test=entities(5))
    told = cli("fit-head", data, "-m", model, "--task", "ner", "-o", "out", code=65)
    assert "only one class ('O'" in told.err
    with pytest.raises(DataError):
        train_frozen_tagger({"train": split([(["a"], ["O"])])}, opened(model), HeadSpec())


def test_a_saved_head_is_arrays(run: Run) -> None:
    assert {name: array.shape for name, array in load_arrays(run.folder / "head.safetensors").items()} == {
        "coef": (5, 32),
        "intercept": (5,),
    }
