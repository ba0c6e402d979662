"""Classifiers that transformers trained, of texts, pairs and words: exported, or refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    TokenClassificationPipeline,
)

from embedkit import runtime
from embedkit.artifact import staged
from embedkit.data import LabelCodec
from embedkit.encoders import EncoderSettings, WordExtractor, read_folder
from embedkit.errors import ExportError, ModelError, UsageError
from embedkit.estimators.exported import ExportedTagger, open_exported
from embedkit.estimators.frozen_tagger import FrozenTagger
from embedkit.estimators.tagging import Tagged
from embedkit.estimators.tuned import load_tuned
from embedkit.estimators.tuned_tagger import TunedTagger
from embedkit.export import Trained, Tuned, export_classifier, export_task_model, task_of_folder
from embedkit.export.finetuned import TaskSource
from embedkit.export.graph import Traced
from embedkit.heads import LinearHead, MlpHead
from embedkit.hub import resolve_model
from embedkit.runtime.manifest import read_manifest
from embedkit.runtime.tokens import Tokenizer
from embedkit.runtime.words import split_words
from tests.tiny_classifiers import TAGS, make_classifier
from tests.tiny_models import FAMILIES, WORDS, make_encoder, make_sentence_transformer
from tests.untraced import leave_untraced

pytestmark = pytest.mark.usefixtures("one_torch_thread")
POSITIONS = 48
LABELS = ("bad", "fine", "good")


def some_texts(seed: int = 0, count: int = 100, longest: int = 60) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=n)) for n in rng.integers(1, longest, count)]


TEXTS = some_texts()
PAIRS = list(zip(some_texts(1), some_texts(2), strict=True))
SENTENCES = [text.split() for text in TEXTS]


def export(model: Path, task: str, target: Path, inputs: Sequence[Any], **more: Any) -> Any:
    return export_task_model(read_folder(resolve_model(model)), task, target, inputs, threads=1, **more)


class Made(NamedTuple):
    model: Path
    exported: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what makes and exports a classifier of a family and a task, once."""
    root = tmp_path_factory.mktemp("made")

    def make(family: str, task: str) -> Made:
        found = Made(root / family / task, root / family / f"{task}-onnx")
        if not found.exported.exists():
            blocks = 2 if family == "modernbert" else 1  # global and local attention
            labels = TAGS if task == "tokens" else LABELS
            make_classifier(found.model, family, task, labels=labels, layers=blocks, positions=POSITIONS)
            # BERT, ELECTRA and MPNet read pairs
            pairs = task == "sequence" and family in ("bert", "electra", "mpnet")
            export(found.model, task, found.exported, PAIRS if pairs else SENTENCES if task == "tokens" else TEXTS)
        return found

    return make


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_untraced(monkeypatch)


# --- families ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_and_pairs_have_the_labels_that_transformers_gives(family: str, made: Any) -> None:
    model, exported = made(family, "sequence")
    found = runtime.load(exported, threads=1)
    pairs = found.description.input == "pair"
    inputs: list[Any] = PAIRS[:25] if pairs else some_texts(7, 25)
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    theirs = AutoModelForSequenceClassification.from_pretrained(model, local_files_only=True).eval()
    columns = [list(part) for part in zip(*inputs, strict=True)] if pairs else [inputs]
    batch = tokenizer(*columns, padding=True, truncation=True, max_length=POSITIONS, return_tensors="pt")
    with torch.no_grad():
        logits = theirs(**batch).logits
    np.testing.assert_allclose(found.logits(inputs), logits.numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.predict_proba(inputs), logits.softmax(1).numpy(), rtol=0, atol=1e-4)
    assert found.predict(inputs) == [LABELS[code] for code in logits.argmax(1).tolist()]
    outputs = [output.name for output in found._session.handle.get_outputs()]
    assert outputs == ["logits", "probabilities"]


@pytest.mark.parametrize("family", FAMILIES)
def test_words_have_the_tags_that_transformers_gives(family: str, made: Any) -> None:
    model, exported = made(family, "tokens")
    found = runtime.load(exported, threads=1)
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    theirs = AutoModelForTokenClassification.from_pretrained(model, local_files_only=True).eval()
    odd = ["", "Good", "\ufe0f", "18th", "don't"]
    sentences = [[*odd, *text.split()] for text in some_texts(8, 30, 30)]
    sentences = [
        some for some in sentences if len(tokenizer(some, is_split_into_words=True)["input_ids"]) <= POSITIONS
    ]
    assert len(sentences) > 9
    answers = found.tag(sentences)
    for words, tags, scores in zip(sentences, answers.tags, answers.scores, strict=True):
        batch = tokenizer(words, is_split_into_words=True, return_tensors="pt")
        with torch.no_grad():
            known = theirs(**batch).logits[0].softmax(1)
        firsts: dict[int, int] = {}
        for place, word in enumerate(batch.word_ids()):
            if word is not None:
                firsts.setdefault(word, place)
        expected = [TAGS[int(known[firsts[w]].argmax())] if w in firsts else "O" for w in range(len(words))]
        assert tags == expected
        for word, score in enumerate(scores):
            if word in firsts:
                assert score == pytest.approx(float(known[firsts[word]].max()), abs=1e-4)
            else:
                assert score is None
    assert [output.name for output in found._session.handle.get_outputs()] == ["logits"]


@pytest.mark.parametrize("task", ["sequence", "tokens"])
def test_the_folder_is_what_transformers_reads(task: str, made: Any) -> None:
    model, exported = made("bert", task)
    config = json.loads((exported / "config.json").read_text())
    labels = TAGS if task == "tokens" else LABELS
    assert config["id2label"] == {str(code): name for code, name in enumerate(labels)}
    assert config["architectures"] == [
        "BertForTokenClassification" if task == "tokens" else "BertForSequenceClassification"
    ]
    assert config["problem_type"] == (None if task == "tokens" else "single_label_classification")
    manifest = read_manifest(exported, kind="onnx")
    assert (manifest["task"], manifest["input"]) == (task, "tokens" if task == "tokens" else "pair")
    assert manifest["parity"]["longest"] == POSITIONS
    assert manifest["parity"]["labels_equal"] == 1
    card = (exported / "README.md").read_text()
    assert f"pipeline_tag: {'token' if task == 'tokens' else 'text'}-classification" in card
    assert f"a classifier of {len(labels)} labels" in card
    assert ("model.entities([...])" if task == "tokens" else "model.predict([(...)])") in card
    tokenizer = AutoTokenizer.from_pretrained(exported, local_files_only=True)
    theirs = tokenizer(["good", "18th"], is_split_into_words=True)["input_ids"]
    ours = AutoTokenizer.from_pretrained(model, local_files_only=True)(["good", "18th"], is_split_into_words=True)
    assert theirs == ours["input_ids"]


# --- what a folder says --------------------------------------------------------------------------------


@pytest.mark.usefixtures("untraced")
def test_several_labels_are_read_by_sigmoid(tmp_path: Path) -> None:
    model = make_classifier(tmp_path / "m", "distilbert", layers=1, problem_type="multi_label_classification")
    export(model, "sequence", tmp_path / "out", TEXTS)
    found = runtime.load(tmp_path / "out")
    logits = found.logits(TEXTS[:20])
    np.testing.assert_allclose(found.predict_proba(TEXTS[:20]), 1 / (1 + np.exp(-logits)), atol=1e-6)
    assert found.predict(TEXTS[:20]) == [[LABELS[i] for i in np.flatnonzero(row > 0)] for row in logits]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["problem_type"].startswith("multi")


@pytest.mark.usefixtures("untraced")
def test_two_labels_keep_their_two_logits(tmp_path: Path) -> None:
    model = make_classifier(tmp_path / "m", "distilbert", layers=1, labels=("no", "yes"))
    export(model, "sequence", tmp_path / "out", TEXTS)
    found = runtime.load(tmp_path / "out")
    logits = found.logits(TEXTS[:20])
    assert logits.shape == (20, 2)
    assert np.abs(logits[:, 0]).min() > 0
    np.testing.assert_allclose(found.decision_function(TEXTS[:20]), logits[:, 1] - logits[:, 0], atol=1e-6)
    assert found.predict(TEXTS[:20]) == [("no", "yes")[code] for code in logits.argmax(1)]


@pytest.mark.usefixtures("untraced")
def test_texts_are_split_by_the_runtime_s_rule_for_words(tmp_path: Path) -> None:
    model = make_classifier(tmp_path / "m", "distilbert", "tokens", labels=TAGS, layers=1)
    source = TaskSource(read_folder(resolve_model(model)), "tokens", ["don't go", "a"])
    assert ["don", "'", "t", "go"] in source.inputs
    export(model, "tokens", tmp_path / "out", TEXTS, max_length=20)
    assert runtime.load(tmp_path / "out").description.max_length == 20
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["model_max_length"] == 20


@pytest.mark.parametrize(
    ("config", "labels", "said"),
    [
        ({"problem_type": "regression"}, LABELS, "problem_type regression means"),
        ({}, ("score",), "a single label means that the model gives a number"),
    ],
)
def test_a_model_that_gives_a_number_is_refused(config: Any, labels: Any, said: str, tmp_path: Path) -> None:
    model = make_classifier(tmp_path / "m", "distilbert", labels=labels, layers=1, **config)
    with pytest.raises(ModelError, match=said):
        export(model, "sequence", tmp_path / "out", TEXTS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", ["sequence", "tokens"])
def test_a_head_that_was_never_trained_is_refused(task: str, tmp_path: Path) -> None:
    model = make_encoder(tmp_path / "m", "bert", layers=1)
    with pytest.raises(
        ModelError, match=r"lack 2 tensors .*classifier.*the head was never trained.*--task encoder"
    ):
        export(model, task, tmp_path / "out", TEXTS)
    assert not (tmp_path / "out").exists()


def test_half_a_head_is_refused(tmp_path: Path) -> None:
    model = make_classifier(tmp_path / "m", "bert", layers=1)
    weights = load_file(model / "model.safetensors")
    del weights["classifier.bias"]
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 tensors of a classifier \(classifier.bias\)"):
        export(model, "sequence", tmp_path / "out", TEXTS)


@pytest.mark.parametrize(
    ("task", "inputs", "more", "said"),
    [
        ("sequence", TEXTS, {}, "was trained for the task tokens"),
        ("tokens", PAIRS, {}, "the data are pairs of texts"),
        ("tokens", TEXTS, {"max_length": 49}, "allowed: up to 48"),
    ],
)
def test_what_does_not_fit_is_refused(
    task: str, inputs: Any, more: dict[str, Any], said: str, made: Any, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        export(made("bert", "tokens").model, task, tmp_path / "out", inputs, **more)


def test_words_are_nothing_for_a_classifier_of_texts(made: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the data are lists of words"):
        export(made("bert", "sequence").model, "sequence", tmp_path / "out", SENTENCES)


def test_the_task_of_a_folder(made: Any, tmp_path: Path) -> None:
    for task in ("sequence", "tokens"):
        assert task_of_folder(read_folder(resolve_model(made("bert", task).model))) == task
    sentences = make_sentence_transformer(tmp_path / "st")
    config = json.loads((sentences / "config.json").read_text())
    (sentences / "config.json").write_text(json.dumps(config | {"architectures": ["BertForTokenClassification"]}))
    assert task_of_folder(read_folder(resolve_model(sentences))) == "encoder"
    assert task_of_folder(read_folder(resolve_model(make_encoder(tmp_path / "e", "bert")))) == "encoder"


# --- parity --------------------------------------------------------------------------------------------

read = Traced._read


def without_mask(graph: Any, ids: torch.Tensor, mask: torch.Tensor, types: Any, **how: bool) -> Any:
    return read(graph, ids, torch.ones_like(mask), types, **how)


def types_swapped(graph: Any, ids: torch.Tensor, mask: torch.Tensor, types: Any, **how: bool) -> Any:
    return read(graph, ids, mask, (1 - types) * mask, **how)


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("wrong", [without_mask, types_swapped], ids=["mask dropped", "type ids swapped"])
@pytest.mark.parametrize(("task", "inputs"), [("sequence", PAIRS), ("tokens", SENTENCES)])
def test_a_graph_that_answers_otherwise_is_not_published(
    task: str, inputs: Any, wrong: Any, made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Traced, "_read", wrong)
    with pytest.raises(ExportError, match=r"largest difference is \S+ where \S+ is allowed.* to 48 tokens"):
        export(made("bert", task).model, task, tmp_path / "out", inputs)
    assert list(tmp_path.iterdir()) == []


# --- the tokenizer that the model was trained with -----------------------------------------------------


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.usefixtures("untraced")
def test_the_tokenizer_is_the_one_that_transformers_makes(tmp_path: Path) -> None:
    """Its class lower-cases as tokenizer_config.json says, whatever stands in tokenizer.json."""
    model = make_classifier(tmp_path / "m", "bert", layers=1)
    stored = json.loads((model / "tokenizer.json").read_text())
    assert stored["normalizer"]["lowercase"] is True
    change(model / "tokenizer.json", normalizer=stored["normalizer"] | {"lowercase": False})
    texts = [text.upper() for text in TEXTS]
    theirs = AutoTokenizer.from_pretrained(model, local_files_only=True)
    export(model, "sequence", tmp_path / "out", texts)
    given = runtime.load(tmp_path / "out")._tokenizer.encode(texts[:1])
    assert given.ids.tolist() == theirs(texts[0], truncation=True, max_length=POSITIONS)["input_ids"]


@pytest.mark.usefixtures("untraced")
def test_words_begin_with_a_blank_where_the_tokenizer_s_settings_say_so(tmp_path: Path) -> None:
    """RoBERTa is trained on words with add_prefix_space, which a tokenizer.json of the hub does not know of."""
    model = make_classifier(tmp_path / "m", "roberta", "tokens", labels=TAGS, layers=1)
    assert json.loads((model / "tokenizer.json").read_text())["pre_tokenizer"]["add_prefix_space"] is False
    change(model / "tokenizer_config.json", add_prefix_space=True)
    export(model, "tokens", tmp_path / "out", SENTENCES)
    words = ["good", "film", "18th"]
    theirs = AutoTokenizer.from_pretrained(model, local_files_only=True)(words, is_split_into_words=True)
    given = runtime.load(tmp_path / "out")._tokenizer.encode_words([words])
    assert given.tokens.ids.tolist() == theirs["input_ids"]
    read_again = AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    assert read_again(words, is_split_into_words=True)["input_ids"] == theirs["input_ids"]


@pytest.mark.usefixtures("untraced")
def test_types_that_the_tokenizer_does_not_give_are_not_taken(tmp_path: Path) -> None:
    model = make_classifier(tmp_path / "m", "bert", layers=1)
    change(model / "tokenizer_config.json", model_input_names=["input_ids", "attention_mask"])
    export(model, "sequence", tmp_path / "out", PAIRS)
    assert set(runtime.load(tmp_path / "out")._session.inputs) == {"input_ids", "attention_mask"}
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    theirs = AutoModelForSequenceClassification.from_pretrained(model, local_files_only=True).eval()
    batch = tokenizer(*map(list, zip(*PAIRS[:9], strict=True)), padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        logits = theirs(**batch).logits.numpy()
    np.testing.assert_allclose(runtime.load(tmp_path / "out").logits(PAIRS[:9]), logits, rtol=0, atol=1e-4)


# --- taggers of ours -----------------------------------------------------------------------------------

ODD_WORDS = ["", "\ufe0f", "18th", "don't", "unwatchable", "zxq" * 30]
TAG_SENTENCES = [[*ODD_WORDS, *text.split()] for text in some_texts(9, 12, 50)] + [[], [""], ["good"] * 150]


def tuned_tagger(folder: Path, family: str) -> TunedTagger:
    """Return a tagger as fine-tuning leaves it, its weights drawn by chance."""
    model = make_classifier(folder, family, "tokens", labels=TAGS, layers=1, positions=POSITIONS)
    base = read_folder(resolve_model(model))
    tokenizer = Tokenizer.from_file(model / "tokenizer.json", max_length=POSITIONS, pad_id=base.pad_id)
    found = AutoModelForTokenClassification.from_pretrained(model, local_files_only=True).eval()
    return TunedTagger(found, tokenizer, LabelCodec(TAGS, "str"), {"seed": 1}, device="cpu")


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_tagger_of_ours_answers_alike_from_its_graph(family: str, tmp_path: Path) -> None:
    tagger = tuned_tagger(tmp_path / "m", family)
    with staged(tmp_path / "ner") as stage:
        tagger.save(stage, read_folder(resolve_model(tmp_path / "m")))
    said = Tuned(TAGS, "str", "tokens", tagger.about)
    export(tmp_path / "ner", "tokens", tmp_path / "out", SENTENCES, max_length=POSITIONS, tuned=said)
    manifest = read_manifest(tmp_path / "out", kind="onnx")
    assert manifest["words"] == {"split": "unicode", "aggregation": "first", "decoding": "bio"}
    assert (manifest["labels"], manifest["label_dtype"], manifest["seed"]) == (list(TAGS), "str", 1)
    assert manifest["parity"]["longest"] == POSITIONS
    exported = open_exported(tmp_path / "out", threads=1)
    assert isinstance(exported, ExportedTagger)
    assert (exported.labels, exported.spans, exported.kind, exported.about["seed"]) == (TAGS, True, "tokens", 1)
    for how in ("first", "average", "max", "none"):
        ours, theirs = (found.predict(TAG_SENTENCES, aggregation=how) for found in (tagger, exported))
        assert ours.words == theirs.words
        assert [len(tags) for tags in theirs.tags] == [len(words) for words in theirs.words]
        assert alike(ours, theirs)
    loaded = load_tuned(tmp_path / "ner", device="cpu")
    assert isinstance(loaded, TunedTagger)
    assert alike(loaded.predict(TEXTS[:9]), exported.predict(TEXTS[:9]))
    counts: list[int] = []
    exported.report_to(counts.append)
    exported.predict(TAG_SENTENCES)
    assert sum(counts) == len(TAG_SENTENCES)


def test_a_tagger_of_ours_answers_in_valid_tags(tmp_path: Path) -> None:
    """Those of the most probable tags of each word, where these are valid together."""
    tagger = tuned_tagger(tmp_path / "m", "bert")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.nn.init.normal_(tagger.model.classifier.weight)  # so that all tags are found
    apart = replace(tagger, about={"tag_task": "pos"})
    each = apart.predict(TAG_SENTENCES).tags
    assert sum(not is_valid(tags) for tags in each) > 10
    for ours, alone in zip(tagger.predict(TAG_SENTENCES).tags, each, strict=True):
        assert is_valid(ours)
        assert ours == [tag or "O" for tag in alone] or not is_valid(alone)
    pieces, theirs = (found.predict(TAG_SENTENCES, aggregation="none") for found in (tagger, apart))
    assert pieces.tags == theirs.tags  # each token answers for itself


def is_valid(tags: Sequence[Any]) -> bool:
    """Whether I-X stands only after B-X or I-X."""
    before = [None, *tags]
    return all(not str(b).startswith("I-") or str(a)[1:] == b[1:] for a, b in zip(before, tags, strict=False))


@pytest.mark.parametrize("aggregation", ["first", "average", "max"])
def test_words_are_aggregated_as_transformers_aggregates_them(aggregation: Any, tmp_path: Path) -> None:
    tagger = replace(tuned_tagger(tmp_path / "m", "bert"), about={"tag_task": "pos"})  # each word for itself
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m", local_files_only=True)
    pipeline = TokenClassificationPipeline(
        model=tagger.model, tokenizer=tokenizer, aggregation_strategy=aggregation, device="cpu"
    )
    pipeline.group_entities = lambda entities: entities  # leave its words apart
    for text in ("unwatchable films by zxqzxq", "the 18th movie", *some_texts(11, 5, 12)):
        found = tagger.predict([text], aggregation=aggregation)
        theirs = pipeline(text, ignore_labels=[])
        assert [one["entity"] for one in theirs] == found.tags[0]
        assert [one["score"] for one in theirs] == pytest.approx(found.scores[0], abs=1e-5)
        assert [(one["start"], one["end"]) for one in theirs] == split_words(text)


def alike(ours: Tagged, theirs: Tagged) -> bool:
    """Say whether tags are equal, and scores within what float32 leaves."""
    scores = [
        np.array([-1.0 if score is None else score for some in found.scores for score in some])
        for found in (ours, theirs)
    ]
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-4)
    return ours.tags == theirs.tags


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("labels", [TAGS, ("NN", "VB", "DT"), ("NN", "VB")], ids=["spans", "single", "two"])
@pytest.mark.parametrize(("pooling", "layers"), [("first", "-1"), ("mean", "-1,0"), ("mean", "-1")])
def test_a_frozen_tagger_answers_alike_from_its_graph(
    labels: tuple[str, ...], pooling: str, layers: str, tmp_path: Path
) -> None:
    tagger = frozen_tagger(tmp_path / "m", labels, pooling, layers)
    trained = Trained(tagger.extractor, tagger.head, tagger.codec, "tokens", about=tagger.about)
    export_classifier(trained, tmp_path / "out", SENTENCES, threads=1)
    exported = open_exported(tmp_path / "out", threads=1)
    assert alike(tagger.predict(TAG_SENTENCES), exported.predict(TAG_SENTENCES))
    words = read_manifest(tmp_path / "out")["words"]
    assert words["aggregation"] == {"first": "first", "mean": "logits"}[pooling]
    assert words["decoding"] == ("bio" if labels is TAGS else "argmax")


def frozen_tagger(folder: Path, labels: Sequence[str], pooling: str, layers: str, **more: Any) -> FrozenTagger:
    make_encoder(folder, "bert", layers=1, positions=POSITIONS)
    settings = EncoderSettings(folder, pooling=pooling, layers=layers, threads=1, engine="torch", device="cpu")
    extractor = WordExtractor(settings)
    rng, width = np.random.default_rng(0), extractor.width("tokens")
    rows = 1 if len(labels) == 2 else len(labels)
    link = "sigmoid" if rows == 1 else "softmax"
    head = more.get("head") or LinearHead(rng.normal(size=(rows, width)), rng.normal(size=rows), link, False)
    return FrozenTagger(extractor, head, LabelCodec(tuple(labels), "str"), {})


def test_a_frozen_tagger_is_traced(tmp_path: Path) -> None:
    tagger = frozen_tagger(tmp_path / "m", TAGS, "mean", "-1,0")
    trained = Trained(tagger.extractor, tagger.head, tagger.codec, "tokens", about=tagger.about)
    export_classifier(trained, tmp_path / "out", TEXTS, threads=1)
    exported = open_exported(tmp_path / "out", threads=1)
    assert alike(tagger.predict(TAG_SENTENCES), exported.predict(TAG_SENTENCES))
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "do not read long texts in windows, nor keep to valid IOB2 tags" in card


def test_a_joined_pooling_of_words_is_refused(tmp_path: Path) -> None:
    tagger = frozen_tagger(tmp_path / "m", TAGS, "first+mean", "-1")
    with pytest.raises(ExportError, match="pooling first\\+mean joins vectors"):
        export_classifier(Trained(tagger.extractor, tagger.head, tagger.codec, "tokens"), tmp_path / "out", TEXTS)


def test_the_mean_of_a_word_is_no_mean_of_an_mlp(tmp_path: Path) -> None:
    width = frozen_tagger(tmp_path / "m", TAGS, "mean", "-1").extractor.width("tokens")
    layers = [(np.ones((width, 4)), np.ones(4)), (np.ones((4, 5)), np.ones(5))]
    mlp = MlpHead(layers, "relu")
    tagger = frozen_tagger(tmp_path / "m", TAGS, "mean", "-1", head=mlp)
    with pytest.raises(ExportError, match="for linear heads alone; train with --pooling first"):
        export_classifier(Trained(tagger.extractor, tagger.head, tagger.codec, "tokens"), tmp_path / "out", TEXTS)


def test_a_tagger_of_ours_keeps_the_tokenizer_that_it_was_trained_with(tmp_path: Path) -> None:
    """Whatever the settings of transformers, which the words were not split by."""
    model = make_classifier(tmp_path / "m", "roberta", "tokens", labels=TAGS, layers=1)
    change(model / "tokenizer_config.json", add_prefix_space=True)
    own = Tokenizer.from_file(model / "tokenizer.json", max_length=POSITIONS, pad_id=1)
    words = [["good", "film", "18th"]]
    for tuned, same in ((Tuned(TAGS, "str", "tokens", {}), True), (None, False)):
        found = TaskSource(read_folder(resolve_model(model)), "tokens", SENTENCES, tuned=tuned).tokenizer
        ids = [one.encode_words(words).tokens.ids.tolist() for one in (found, own)]
        assert (ids[0] == ids[1]) is same
