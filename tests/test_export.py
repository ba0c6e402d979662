"""An exported folder answers as what it was made of, or there is no folder."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from embedkit import runtime
from embedkit.artifact import write_manifest
from embedkit.data import LabelCodec
from embedkit.encoders import EncoderSettings, FeatureExtractor
from embedkit.errors import ArtifactError, DataError, ExportError, InputMissingError, OutputExistsError, UsageError
from embedkit.estimators.exported import open_exported
from embedkit.export import Trained, export_classifier, export_encoder
from embedkit.export.dense import CERTAIN, dense_of
from embedkit.export.graph import Graph
from embedkit.export.parity import Parity, compare, mixed_batches, parity_inputs
from embedkit.heads import (
    CalibratedHead,
    ConstantHead,
    GaussianHead,
    Head,
    LinearHead,
    MlpHead,
    PerLabelHead,
)
from embedkit.runtime.batching import plan
from embedkit.runtime.decide import Thresholds
from embedkit.runtime.manifest import MANIFEST, read_manifest
from embedkit.runtime.predictor import Description, Predictor
from embedkit.runtime.tokens import Text
from tests.tiny_models import FAMILIES, WORDS, make_encoder, make_sentence_transformer
from tests.untraced import leave_untraced

pytestmark = pytest.mark.usefixtures("one_torch_thread")

POSITIONS = 48


def some_texts(seed: int = 0, count: int = 120, longest: int = 60) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=n)) for n in rng.integers(1, longest, count)]


TEXTS = some_texts()
PAIRS: list[Text] = list(zip(some_texts(1), some_texts(2), strict=True))
LABELS = ("bad", "fine", "good")


def linear(width: int, rows: int, link: str, *, multi_label: bool = False, seed: int = 0) -> LinearHead:
    rng = np.random.default_rng(seed)
    scale = 2 / np.sqrt(width)
    return LinearHead(rng.normal(size=(rows, width)) * scale, rng.normal(size=rows), link, multi_label)


def mlp(width: int, out: int, activation: str = "relu", *, multi_label: bool = False) -> MlpHead:
    rng = np.random.default_rng(3)
    first = rng.normal(size=(width, 7)) / np.sqrt(width), rng.normal(size=7)
    return MlpHead([first, (rng.normal(size=(7, out)), rng.normal(size=out))], activation, multi_label)


def opened(model: str | Path, **settings: Any) -> FeatureExtractor:
    return FeatureExtractor(EncoderSettings(model, **settings))


def trained(extractor: FeatureExtractor, head: Head, kind: str = "text", **more: Any) -> Trained:
    labels = LABELS[: head.classes] if head.classes < 3 else LABELS
    return Trained(extractor, head, LabelCodec(tuple(labels)), kind, **more)


def check_equal(classifier: Trained, folder: Path, texts: Sequence[Text]) -> None:
    """The runtime gives the scores, labels and probabilities of the head on the extractor's features."""
    model = runtime.load(folder, threads=1, batch_tokens=200)
    vectors = classifier.extractor.transform(texts).vectors
    scores = classifier.head.decision_function(vectors)
    tolerance = 1e-4 * max(1, float(np.abs(scores[np.isfinite(scores)]).max()))
    found = model.decision_function(texts)
    finite = np.isfinite(scores)
    assert found.shape == scores.shape
    np.testing.assert_allclose(found[finite], scores[finite], rtol=0, atol=tolerance)
    probabilities = classifier.head.predict_proba(vectors) if classifier.head.has_probabilities else None
    if probabilities is not None:
        np.testing.assert_allclose(model.predict_proba(texts), probabilities, rtol=0, atol=tolerance)
    if classifier.thresholds is None:
        codes = classifier.head.predict(vectors)
    else:
        compared = scores if probabilities is None else probabilities
        codes = classifier.thresholds.decide(compared, multi_label=classifier.head.multi_label)
    names: list[Any] = list(classifier.codec.classes)
    if classifier.head.multi_label:
        assert model.predict(texts) == [[names[i] for i in np.flatnonzero(row)] for row in codes]
    else:
        assert model.predict(texts) == [names[code] for code in codes]


Models = Callable[..., Path]


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_untraced(monkeypatch)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Return a tiny encoder of a family, made once."""
    root = tmp_path_factory.mktemp("models")

    def model(family: str, layers: int = 1) -> Path:
        folder = root / f"{family}-{layers}"
        return folder if folder.exists() else make_encoder(folder, family, positions=POSITIONS, layers=layers)

    return model


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a sentence-transformers model that lower-cases by itself and has a prompt."""
    folder = tmp_path_factory.mktemp("sentences") / "model"
    return make_sentence_transformer(
        folder, prompts={"q": "film : "}, default_prompt="q", do_lower_case=True, positions=POSITIONS
    )


# --- families ------------------------------------------------------------------------------------------


class View(NamedTuple):
    """What is tried with a family: poolings, layers, kinds, heads and windows are shared out among them."""

    settings: dict[str, Any]
    blocks: int = 1
    kind: str = "text"
    head: Callable[[int], Head] = lambda width: linear(width, 3, "softmax")


VIEWS = {
    "bert": View({"pooling": "mean", "max_length": 24}),
    "distilbert": View(
        {"pooling": "max", "layers": (0, -1), "long": "mean", "normalize": True, "max_length": 10},
        head=lambda width: linear(width, 1, "sigmoid"),
    ),
    "roberta": View({"pooling": "mean", "layers": (1, 2), "layer_join": "mean"}, blocks=2),
    "xlm-roberta": View({"pooling": "last", "normalize": True}),
    "mpnet": View({"pooling": "mean_sqrt_len"}, kind="pair"),
    "electra": View({"pooling": "cls+mean", "layers": (1,), "normalize": True}, blocks=2, kind="pair"),
    "deberta-v2": View({"pooling": "mean+max", "normalize": True}),
    "modernbert": View({"pooling": "mean", "layers": "all"}, blocks=2),
    "albert": View({"pooling": "pooler"}, head=lambda width: mlp(width, 3, "tanh", multi_label=True)),
}


class Made(NamedTuple):
    """A classifier, what it was exported to, and what it was compared on."""

    classifier: Trained
    folder: Path
    parity: Parity
    inputs: Sequence[Text]


def make(family: str, models: Models, folder: Path, **more: Any) -> Made:
    view = VIEWS[family]
    extractor = opened(models(family, view.blocks), **view.settings)
    classifier = trained(extractor, view.head(extractor.width()), view.kind, **more)
    inputs = PAIRS if view.kind == "pair" else TEXTS
    exported = export_classifier(classifier, folder, inputs, threads=1)
    return Made(classifier, folder, exported.parity, inputs)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory, models: Models) -> Made:
    """Return an exported classifier of three labels."""
    metrics = {"splits": {"test": {"n": 50, "accuracy": 0.75, "accuracy_ci95": [0.6, 0.85], "macro_f1": 0.7}}}
    target = tmp_path_factory.mktemp("exported") / "out"
    return make("bert", models, target, about={"seed": 7}, metrics=metrics)


@pytest.fixture(scope="module")
def folder(bert: Made) -> Path:
    return bert.folder


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_answers_as_in_torch(family: str, bert: Made, models: Models, tmp_path: Path) -> None:
    made = bert if family == "bert" else make(family, models, tmp_path / "out")
    assert made.parity.longest == VIEWS[family].settings.get("max_length", POSITIONS)
    assert made.parity.labels_equal == 1
    check_equal(made.classifier, made.folder, made.inputs[:40])
    check_probabilities_of_the_graph(runtime.load(made.folder))


@pytest.fixture(scope="module")
def encoder(models: Models, tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureExtractor, Path]:
    """Return an encoder of a layer that is not the last, and what it was exported to."""
    extractor = opened(models("modernbert", 2), pooling="mean", normalize=True, layers=1)
    folder = tmp_path_factory.mktemp("encoder") / "out"
    export_encoder(extractor, folder, TEXTS, threads=1)
    return extractor, folder


def test_an_encoder_gives_states_first_and_then_vectors(encoder: tuple[FeatureExtractor, Path]) -> None:
    extractor, folder = encoder
    texts = some_texts(8, 30)
    model = runtime.load(folder, threads=1)
    found = model.encode(texts)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, extractor.transform(texts).vectors, rtol=0, atol=1e-5)
    outputs = [output.name for output in model._session.handle.get_outputs()]
    assert outputs == ["last_hidden_state", "sentence_embedding"]
    with pytest.raises(UsageError, match="an encoder, which gives no labels"):
        model.predict(texts)


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize(
    ("pooling", "normalize", "prompt"),
    [("cls", False, ""), ("mean", True, ""), ("max", False, ""), ("mean_sqrt_len", True, "film : ")],
)
def test_sentence_transformers_reads_an_encoder_s_folder(
    pooling: str, normalize: bool, prompt: str, models: Models, tmp_path: Path
) -> None:
    """With weights beside its files, torch there gives what the folder gives."""
    from sentence_transformers import SentenceTransformer

    source = models("bert")
    extractor = opened(source, pooling=pooling, normalize=normalize, prompt=prompt)
    export_encoder(extractor, tmp_path / "out", TEXTS, threads=1)
    shutil.copy(source / "model.safetensors", tmp_path / "out")
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu", local_files_only=True)
    texts = some_texts(6, 20)
    found = extractor.transform(texts).vectors
    np.testing.assert_allclose(theirs.encode(texts), found, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("settings", [{"pooling": "cls+mean"}, {"layers": 0, "pooling": "mean"}])
def test_what_sentence_transformers_cannot_follow_it_is_not_told(
    settings: dict[str, Any], models: Models, tmp_path: Path
) -> None:
    export_encoder(opened(models("bert"), **settings), tmp_path / "out", TEXTS, threads=1)
    assert not (tmp_path / "out" / "modules.json").exists()


# --- heads ---------------------------------------------------------------------------------------------


HEADS: dict[str, tuple[Callable[[int], Head], Thresholds | None]] = {
    "binary": (lambda d: linear(d, 1, "sigmoid"), Thresholds((0.7,), "probability", "f1", 0)),
    "labels": (
        lambda d: mlp(d, 3, "tanh", multi_label=True),
        Thresholds((0.2, 0.5, 0.8), "probability", "f1"),
    ),
    "margins": (lambda d: linear(d, 3, "none"), None),
    "calibrated mlp": (lambda d: CalibratedHead(mlp(d, 1), np.array([0.5]), np.array([-0.3])), None),
    "mlp": (lambda d: mlp(d, 3), None),
}


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("name", HEADS)
def test_heads_are_folded_in(name: str, models: Models, tmp_path: Path) -> None:
    head, thresholds = HEADS[name]
    extractor = opened(models("distilbert"), pooling="mean")
    classifier = trained(extractor, head(extractor.width()), thresholds=thresholds)
    export_classifier(classifier, tmp_path / "out", TEXTS, threads=1)
    check_equal(classifier, tmp_path / "out", some_texts(9, 40))
    model = runtime.load(tmp_path / "out")
    assert list(model._session.outputs) == ["logits", *["probabilities"] * classifier.head.has_probabilities]
    if name == "margins":
        with pytest.raises(UsageError, match="scores and no probabilities"):
            model.predict_proba(TEXTS[:1])
    else:
        check_probabilities_of_the_graph(model)


def check_probabilities_of_the_graph(model: Predictor) -> None:
    """Other tools take them, or make them of the logits."""
    ids = np.array([[5, 6, 7]], np.int64)
    fed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    logits, given = model._session.answer(["logits", "probabilities"], fed)
    if model.description.multi_label:
        expected = 1 / (1 + np.exp(-logits))
    else:
        expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(given, expected, atol=1e-6)


def test_two_classes_are_two_logits_of_which_the_first_is_0() -> None:
    dense = dense_of(LinearHead(np.array([[1.0, 2.0]]), np.array([3.0]), "sigmoid"))
    ((weights, bias),) = dense.layers
    assert weights.tolist() == [[0, 1], [0, 2]]
    assert bias.tolist() == [0, 3]
    dense = dense_of(LinearHead(np.array([[1.0, 2.0], [5.0, 5.0]]), np.array([1.0, 3.0]), "softmax"))
    assert dense.layers[0][0].tolist() == [[0, 4], [0, 3]]
    assert dense.bias == [0, 2]


def test_what_never_occurred_has_a_finite_logit() -> None:
    dense = dense_of(LinearHead(np.ones((3, 2)), np.array([1.0, -np.inf, 0.0]), "softmax"))
    assert dense.bias == [1, -CERTAIN, 0]


@pytest.mark.parametrize(
    "head",
    [
        GaussianHead(np.zeros((2, 4)), np.ones((2, 4)), np.zeros(2)),
        ConstantHead(np.array([0.5, 0.5]), 4),
        PerLabelHead([mlp(4, 1), mlp(4, 1)]),
        CalibratedHead(GaussianHead(np.zeros((2, 4)), np.ones((2, 4)), np.zeros(2)), np.ones(1), np.zeros(1)),
    ],
    ids=lambda head: str(head.kind),
)
def test_other_heads_are_refused_by_name(head: Head) -> None:
    kind = "gaussian" if head.kind == "calibrated" else head.kind
    with pytest.raises(ExportError, match=f"a {kind} head cannot be exported: .*; train with --clf logreg"):
        dense_of(head)


# --- settings ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("untraced")
def test_prompt_lower_case_and_the_side_are_the_folder_s(sentences: Path, tmp_path: Path) -> None:
    extractor = opened(sentences, side="left", max_length=12)
    classifier = trained(extractor, linear(extractor.width(), 1, "sigmoid"))
    export_classifier(classifier, tmp_path / "out", TEXTS, threads=1)
    texts = [text.upper() if i % 2 else text for i, text in enumerate(some_texts(11, 30))]
    check_equal(classifier, tmp_path / "out", texts)
    manifest = read_manifest(tmp_path / "out")
    assert manifest["tokens"] == {
        "max_length": 12,
        "side": "left",
        "prompt": "film : ",
        "lowercase": False,
        "pad_id": 0,
    }
    assert "before every text" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kind", ["two", "labels", "encoder"])
def test_windows_of_long_texts_are_averaged_before_the_head(
    normalize: bool, kind: str, models: Models, tmp_path: Path
) -> None:
    extractor = opened(models("distilbert"), pooling="mean", normalize=normalize, long="mean", max_length=10)
    texts = [*some_texts(12, 25), ""]
    if kind == "encoder":
        export_encoder(extractor, tmp_path / "out", TEXTS, threads=1)
        found = runtime.load(tmp_path / "out").encode(texts)
        np.testing.assert_allclose(found, extractor.transform(texts).vectors, rtol=0, atol=1e-5)
        return
    several = kind == "labels"
    head = linear(extractor.width(), 3 if several else 1, "sigmoid", multi_label=several)
    classifier = trained(extractor, head)
    export_classifier(classifier, tmp_path / "out", TEXTS, threads=1)
    check_equal(classifier, tmp_path / "out", texts)


@pytest.mark.usefixtures("untraced")
def test_pairs_that_are_read_together(models: Models, tmp_path: Path) -> None:
    extractor = opened(models("bert"), pooling="cls", max_length=20)
    classifier = trained(extractor, linear(extractor.width(), 3, "softmax"), "pair")
    export_classifier(classifier, tmp_path / "out", PAIRS, threads=1)
    check_equal(classifier, tmp_path / "out", PAIRS[:30])
    with pytest.raises(DataError, match="reads pairs"):
        runtime.load(tmp_path / "out").predict(["a text"])


@pytest.mark.parametrize(
    ("settings", "kind", "head", "said"),
    [
        ({"pairs": "bi"}, "pair", lambda d: linear(4 * d, 3, "softmax"), "two passes"),
        ({"long": "mean"}, "text", lambda d: mlp(d, 3), "for linear heads alone"),
        ({"precision": "bfloat16"}, "text", lambda d: linear(d, 3, "softmax"), "computed in bfloat16"),
        ({"prompt": "https://me:secret@host"}, "text", lambda d: linear(d, 3, "softmax"), "looks like a password"),
    ],
    ids=["bi", "windows before an mlp", "bfloat16", "secret"],
)
def test_what_one_graph_cannot_compute_is_refused_with_the_reason(
    settings: dict[str, Any],
    kind: str,
    head: Callable[[int], Head],
    said: str,
    models: Models,
    tmp_path: Path,
) -> None:
    extractor = opened(models("bert"), **settings)
    with pytest.raises(ExportError, match=said):
        export_classifier(trained(extractor, head(extractor.width()), kind), tmp_path / "out", TEXTS)
    assert list(tmp_path.iterdir()) == []


# --- parity --------------------------------------------------------------------------------------------


def without_mask(graph: Graph, ids: torch.Tensor, mask: torch.Tensor, types: Any, **how: bool) -> Any:
    return read(graph, ids, torch.ones_like(mask), types, **how)


def types_swapped(graph: Graph, ids: torch.Tensor, mask: torch.Tensor, types: Any, **how: bool) -> Any:
    return read(graph, ids, mask, (1 - types) * mask, **how)


read = Graph._read


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        ("Traced._read", without_mask),
        ("Traced._read", types_swapped),
        ("Graph._pool", lambda graph, output, mask: output.last_hidden_state.mean(1)),
        ("_normalised", lambda vectors: vectors),
    ],
    ids=["mask dropped", "type ids swapped", "padding pooled", "normalise missing"],
)
def test_a_graph_that_answers_otherwise_is_not_published(
    place: str, wrong: Any, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"embedkit.export.graph.{place}", wrong)
    extractor = opened(models("bert"), pooling="mean", normalize=True)
    classifier = trained(extractor, linear(extractor.width(), 3, "softmax"), "pair")
    with pytest.raises(ExportError, match=r"largest difference is \S+ where \S+ is allowed.*64 texts of 5 to 48"):
        export_classifier(classifier, tmp_path / "out", PAIRS, threads=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("longest", [20, 3000, 20_000])
def test_mixed_batches_have_every_text_once_and_a_bounded_size(longest: int) -> None:
    lengths = np.random.default_rng(0).integers(1, longest, 64)
    groups = mixed_batches(lengths)
    assert sorted(np.concatenate(groups).tolist()) == list(range(64))
    for group in groups:
        assert len(group) == 1 or lengths[group].max() * len(group) <= 8192
        assert len(group) <= 8
    assert longest > 8192 or any(len(set(lengths[group].tolist())) > 1 for group in groups)


EXPECTED = np.array([[1.0, 5.0], [2.0, -3.0]])


@pytest.mark.parametrize(
    ("given", "holds"),
    [
        (EXPECTED, True),
        (EXPECTED + 4.9e-4, True),
        (EXPECTED + 5.1e-4, False),
        (EXPECTED * np.nan, False),
        (EXPECTED[::-1], False),
    ],
)
def test_differences_are_measured_against_the_largest_value(given: Any, holds: bool) -> None:
    rows = dict(zip("ab", given, strict=True))
    texts, lengths = ["a", "b"], np.array([3, 4])

    def answer(some: Sequence[Text]) -> Any:
        return np.array([rows[str(text)] for text in some])

    if holds:
        found = compare(texts, lengths, EXPECTED, answer, lambda scores: scores.argmax(1))
        assert found.allowed == 5e-4
        assert (found.texts, found.shortest, found.longest) == (2, 3, 4)
    else:
        with pytest.raises(ExportError, match="nothing was written"):
            compare(texts, lengths, EXPECTED, answer, lambda scores: scores.argmax(1))


def test_equal_numbers_with_another_label_do_not_pass() -> None:
    scores = np.array([[1.0, 1.00001]])
    with pytest.raises(ExportError, match="2 of 2 answers have another label"):
        compare(["a"], np.array([3]), scores, lambda some: scores[:, ::-1], lambda values: values.argmax(1))


@pytest.mark.parametrize(("bias", "holds"), [(-CERTAIN, True), (0.0, False), (CERTAIN, False)])
def test_certain_answers_stay_certain(bias: float, holds: bool) -> None:
    wanted, given = np.array([[1.0, -np.inf]]), np.array([[1.0, bias]])
    if holds:
        assert compare(["a"], np.array([3]), wanted, lambda some: given).difference == 0
    else:
        with pytest.raises(ExportError):
            compare(["a"], np.array([3]), wanted, lambda some: given)


def test_texts_of_all_lengths_are_chosen(models: Models) -> None:
    tokenizer = opened(models("bert")).tokenizer
    chosen = parity_inputs(some_texts(5, 500), tokenizer)
    lengths = tokenizer.count(chosen)
    assert len(chosen) == 64
    assert lengths.min() == 3
    assert lengths.max() > POSITIONS
    assert len(set(lengths.tolist())) > 40
    assert parity_inputs(["good"], tokenizer)[0] == "good"
    assert len(parity_inputs(["\x00"], tokenizer)) == 3  # nothing that the tokenizer knows: it ends all the same
    with pytest.raises(ExportError, match="--parity-data"):
        parity_inputs(["", ""], tokenizer)


# --- the folder ----------------------------------------------------------------------------------------


def test_the_layout_is_what_other_tools_read(folder: Path) -> None:
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        *("README.md", "config.json", MANIFEST, "onnx/model.onnx", "special_tokens_map.json"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "bad", "1": "fine", "2": "good"}
    assert config["label2id"] == {"bad": 0, "fine": 1, "good": 2}
    assert config["num_labels"] == 3
    assert config["problem_type"] == "single_label_classification"
    assert config["architectures"] == ["BertForSequenceClassification"]
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    assert tokenizer["truncation"] is tokenizer["padding"] is None
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == 24
    assert settings["tokenizer_class"] == "BertTokenizer"
    assert json.loads((folder / "special_tokens_map.json").read_text())["pad_token"] == "[PAD]"
    card = (folder / "README.md").read_text()
    assert "accuracy 0.750 (95 % interval 0.600 to 0.850), macro f1 0.700" in card
    assert re.search(r"One text of \d+ tokens: [\d.]+ ms \(median; p99 [\d.]+\) with 1 thread of `", card)
    manifest = read_manifest(folder, kind="onnx")
    assert manifest["seed"] == 7
    assert manifest["parity"]["difference"] <= manifest["parity"]["allowed"]


def test_a_generic_tokenizer_gets_the_class_that_transformers_4_knows(
    encoder: tuple[FeatureExtractor, Path],
) -> None:
    settings = json.loads((encoder[1] / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["model_input_names"] == ["input_ids", "attention_mask"]


def test_transformers_reads_tokenizer_and_labels(folder: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    assert config.id2label == {0: "bad", 1: "fine", 2: "good"}
    model = runtime.load(folder)
    texts = some_texts(20, 8)
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="np")
    (logits, _) = model._session.handle.run(
        None, {name: batch[name].astype(np.int64) for name in model._session.inputs}
    )
    np.testing.assert_allclose(logits, model.decision_function(texts), atol=1e-4)


def test_the_graph_holds_nothing_of_this_machine(folder: Path) -> None:
    graph = (folder / "onnx" / "model.onnx").read_bytes()
    for written in (str(Path(torch.__file__).parent), "site-packages", "embedkit/export", "tests/"):
        assert written.encode() not in graph


def test_an_output_that_is_there_is_kept(folder: Path, models: Models) -> None:
    with pytest.raises(OutputExistsError, match="--overwrite"):
        export_encoder(opened(models("bert")), folder, TEXTS)


# --- the runtime ---------------------------------------------------------------------------------------


def test_it_answers_without_torch(folder: Path) -> None:
    code = f"""
import sys
from embedkit import runtime
model = runtime.load({str(folder)!r})
assert model.predict(["a good film", "bad"]), model.labels
assert model.predict_proba([]).shape == (0, 3)
heavy = {{"torch", "transformers", "sklearn", "pyarrow", "huggingface_hub", "safetensors", "onnx"}}
print(sorted(heavy & set(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def copy_of(folder: Path, target: Path, **changes: Any) -> Path:
    """Write a folder again with valid digests and a changed manifest."""
    import shutil

    shutil.copytree(folder, target)
    manifest = json.loads((target / MANIFEST).read_text())
    for ours in ("format", "format_version", "min_reader", "files"):
        del manifest[ours]
    (target / MANIFEST).unlink()
    write_manifest(target, {name: value for name, value in (manifest | changes).items() if value != "absent"})
    return target


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_graph_is_refused_before_it_is_opened(
    damage: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = copy_of(folder, tmp_path / "copy")
    graph = target / "onnx" / "model.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data if damage == "flipped" else data[:1000])
    if damage == "gone":
        graph.unlink()
    monkeypatch.setattr("embedkit.runtime.loading.open_session", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(ArtifactError, match=r"model\.onnx"):
        runtime.load(target)


@pytest.mark.parametrize("content", [b"", b"not a graph", bytes(range(256)) * 10])
def test_what_is_no_graph_is_refused_with_any_digest(content: bytes, folder: Path, tmp_path: Path) -> None:
    copy_of(folder, tmp_path / "copy")
    (tmp_path / "copy" / "onnx" / "model.onnx").write_bytes(content)
    target = copy_of(tmp_path / "copy", tmp_path / "again")
    with pytest.raises(ArtifactError, match=r"model\.onnx is empty|is no ONNX graph"):
        runtime.load(target)


@pytest.mark.parametrize("place", ["../secret.bin", "/etc/hostname", "absent.bin"])
def test_weights_outside_of_the_folder_are_never_read(place: str, folder: Path, tmp_path: Path) -> None:
    """Threat: a graph that names a file of the machine as its weights (CVE-2024-27318)."""
    import onnx
    from onnx import TensorProto, helper

    np.ones(4, np.float32).tofile(tmp_path / "secret.bin")
    weights = TensorProto(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    entry = weights.external_data.add()
    entry.key, entry.value = "location", place
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [4])]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["logits"])], "g", inputs, outputs, [weights])
    copy_of(folder, tmp_path / "copy")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "copy" / "onnx" / "model.onnx")
    with pytest.raises(ArtifactError, match=r"has weights in .*, which is not read"):
        runtime.load(copy_of(tmp_path / "copy", tmp_path / "again"))


def test_weights_beside_the_graph_need_a_digest(folder: Path, tmp_path: Path) -> None:
    import onnx
    from onnx.external_data_helper import convert_model_to_external_data

    expected = runtime.load(folder).logits(TEXTS[:4])
    copy_of(folder, tmp_path / "copy")
    graph = onnx.load(tmp_path / "copy" / "onnx" / "model.onnx")
    convert_model_to_external_data(graph, location="weights")
    onnx.save(graph, tmp_path / "copy" / "onnx" / "model.onnx")
    target = copy_of(tmp_path / "copy", tmp_path / "again")
    np.testing.assert_array_equal(runtime.load(target).logits(TEXTS[:4]), expected)
    manifest = json.loads((target / MANIFEST).read_text())
    del manifest["files"]["onnx/weights"]
    (target / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="has weights in 'weights', which is not read"):
        runtime.load(target)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "classifier"}, "of the kind 'classifier', but 'onnx' is needed"),
        ({"graphs": "absent"}, "lacks 'graphs'"),
        ({"graphs": {"float32": "../x.onnx"}}, "is not among its files"),
        ({"graphs": {"float32": "onnx/other.onnx"}}, "is not among its files"),
        ({"graphs": {"float32": 3}}, "not str"),
        ({"graphs": []}, "damaged"),
        ({"labels": ["a", "a", "b"]}, "some of them equal"),
        ({"labels": []}, "0 labels of the task sequence"),
        ({"labels": [None, "a", "b"]}, "not strings or numbers"),
        ({"task": "other"}, "'other' is none of"),
        ({"tokens": {}}, "lacks 'max_length'"),
        ({"thresholds": {"values": [0.5], "on": "probability", "metric": "f1", "positive": 1}}, "do not fit"),
        ({"labels": "abc"}, "not list"),
        ({"labels": ["a", "b"]}, "logits is of shape .* but 2 numbers a text are described"),
        ({"task": "encoder", "labels": []}, "is not what sentence_embedding can be had of"),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value)[:24],
)
def test_a_manifest_that_cannot_be_is_refused(
    changes: dict[str, Any], said: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match=said):
        runtime.load(copy_of(folder, tmp_path / "copy", **changes))


def test_what_is_asked_wrongly_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputMissingError):
        runtime.load(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no graph in int8; there is float32"):
        runtime.load(folder, "int8")
    with pytest.raises(UsageError, match="threads is 0"):
        runtime.load(folder, threads=0)
    model = runtime.load(folder)
    with pytest.raises(UsageError, match="a classifier, which gives no vectors"):
        model.encode(["a"])
    assert model.predict(np.array(["a", "b"])) == model.predict(["a", "b"])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a list of texts"):
        model.predict("a text")
    with pytest.raises(DataError, match="row 2 is of type int"):
        model.predict(["a", 3])  # type: ignore[list-item]
    with pytest.raises(DataError, match="row 9: lone surrogate"):
        model.answer(["a", "\ud800"], rows=np.array([8, 9]))
    with pytest.raises(DataError, match="reads texts"):
        model.predict([("a", "b")])


def test_answers_do_not_depend_on_neighbours_or_threads(folder: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    texts, model = some_texts(30, 60), runtime.load(folder, batch_tokens=64)
    together = model.decision_function(texts)
    alone = np.concatenate([model.decision_function([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(model.decision_function, [texts] * 8):
            np.testing.assert_array_equal(found, together)


def test_lost_and_empty_texts_are_counted(folder: Path) -> None:
    answers = runtime.load(folder).answer(["film " * 100, "", "good"])
    assert answers.truncated.tolist() == [True, False, False]
    assert answers.empty.tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", ["int64", "no dtype", None, 3])
def test_labels_of_another_dtype_are_refused(dtype: object, folder: Path, tmp_path: Path) -> None:
    target = copy_of(folder, tmp_path / "copy", label_dtype=dtype)
    with pytest.raises(ArtifactError, match="not of the dtype"):
        open_exported(target)


@pytest.mark.slow
def test_minilm_for_real(tmp_path: Path) -> None:
    extractor = opened("minilm")
    classifier = trained(extractor, linear(extractor.width(), 1, "sigmoid"))
    exported = export_classifier(classifier, tmp_path / "out", some_texts(3, 100, 40))
    assert exported.size < 91_000_000
    assert exported.parity.longest == 256
    check_equal(classifier, tmp_path / "out", TEXTS[:40])


def test_a_description_is_read_back(folder: Path) -> None:
    description = runtime.load(folder).description
    assert Description.from_json(description.to_json()) == description


def test_the_usual_batching_is_by_tokens(folder: Path) -> None:
    assert runtime.load(folder)._batching is plan
