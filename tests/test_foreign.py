"""ONNX folders that others made: what they say is believed where it can be checked, nothing outside is read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import embedkit
from embedkit import runtime
from embedkit.cli import main
from embedkit.errors import ArtifactError, EmbedkitError, InputMissingError, UsageError
from embedkit.runtime.loading import answers_alone
from embedkit.runtime.manifest import MANIFEST
from embedkit.runtime.session import external_files, open_session
from tests.tiny_models import WORDS, make_encoder, make_sentence_transformer

HIDDEN, LABELS, TAGS = 32, ("neg", "pos"), ("O", "B-X", "I-X")


def weights_of(columns: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(columns).normal(size=(400, columns)).astype(np.float32)


def graph_of(
    output: str,
    columns: int,
    *,
    states: bool = False,
    inputs: Sequence[str] = ("input_ids", "attention_mask", "token_type_ids"),
    shape: Sequence[Any] = ("batch", "length"),
    element: int = TensorProto.INT64,
    last: Any = None,
) -> onnx.ModelProto:
    """Return a graph that looks tokens up in `weights_of`; their masked sum, unless states are asked for."""
    rows = numpy_helper.from_array(weights_of(columns), "weights")
    one = numpy_helper.from_array(np.array([1], np.int64), "one")
    two = numpy_helper.from_array(np.array([2], np.int64), "two")
    nodes = [helper.make_node("Gather", ["weights", "input_ids"], ["states"])]
    if "token_type_ids" in inputs:
        nodes += [
            helper.make_node("Cast", ["token_type_ids"], ["types"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["types", "two"], ["more"]),
            helper.make_node("Add", ["states", "more"], ["typed"]),
        ]
    result = "typed" if "token_type_ids" in inputs else "states"
    nodes += [
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "two"], ["wide"]),
        helper.make_node("Mul", [result, "wide"], ["masked"]),
    ]
    if states:
        nodes.append(helper.make_node("Identity", [result], [output]))
    else:
        nodes.append(helper.make_node("ReduceSum", ["masked", "one"], [output], keepdims=0))
    given = [helper.make_tensor_value_info(name, element, list(shape)) for name in inputs]
    size = ["batch", *["length"] * states, columns if last is None else last]
    told = [helper.make_tensor_value_info(output, TensorProto.FLOAT, size)]
    made = helper.make_graph(nodes, "g", given, told, [rows, one, two])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def write(folder: Path, graph: onnx.ModelProto, name: str = "model.onnx", **config: Any) -> Path:
    (folder / name).parent.mkdir(exist_ok=True)
    onnx.save(graph, folder / name)
    change(folder / "config.json", **config)
    (folder / "model.safetensors").unlink(missing_ok=True)
    return folder


def change(path: Path, **changes: Any) -> None:
    found = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({k: v for k, v in (found | changes).items() if v != "absent"}))


def names(labels: Sequence[str]) -> dict[str, str]:
    return {str(code): name for code, name in enumerate(labels)}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("plain") / "m", "bert", layers=1, positions=24)


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    """Return a copy of a model folder, to which a graph is added."""
    return Path(shutil.copytree(plain, tmp_path / "foreign"))


@pytest.fixture
def sequence(folder: Path) -> Path:
    """Return a classifier of two labels."""
    config = {"architectures": ["BertForSequenceClassification"], "id2label": names(LABELS)}
    return write(folder, graph_of("logits", 2), **config)


def sums(folder: Path, texts: Sequence[Any], columns: int, types: bool = True) -> np.ndarray[Any, Any]:
    """Return what the graph must give: the sum of the rows of each token, and of its types."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    found = []
    for text in texts:
        parts = [text] if isinstance(text, str) else list(text)
        batch = tokenizer(*parts, truncation=True, max_length=24)
        rows = weights_of(columns)[batch["input_ids"]]
        found.append((rows + np.array(batch["token_type_ids"])[:, None] * types).sum(0))
    return np.stack(found)


TEXTS = ["a good film", "bad", "", " ".join(WORDS)]
PAIRS = [("good", "a film"), ("bad", "dull"), (" ".join(WORDS), "a")]

# --- tasks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.onnx", "onnx/model.onnx"])
@pytest.mark.parametrize("inputs", [TEXTS, PAIRS], ids=["texts", "pairs"])
def test_a_classifier_reads_texts_and_pairs(name: str, inputs: list[Any], folder: Path) -> None:
    config = {"architectures": ["BertForSequenceClassification"], "id2label": names(LABELS)}
    model = runtime.load(write(folder, graph_of("logits", 2), name, **config), threads=1)
    logits = sums(folder, inputs, 2)
    np.testing.assert_allclose(model.logits(inputs), logits, rtol=1e-4, atol=1e-4)
    assert model.predict(inputs) == [LABELS[code] for code in logits.argmax(1)]
    assert model.predict_proba(inputs).sum(1) == pytest.approx(1)
    assert answers_alone(folder)


def test_several_labels_by_the_problem_type(folder: Path) -> None:
    graph = graph_of("logits", 3)
    model = runtime.load(write(folder, graph, id2label=names("abc"), problem_type="multi_label_classification"))
    logits = sums(folder, TEXTS, 3)
    assert model.predict(TEXTS) == [["abc"[i] for i in np.flatnonzero(row > 0)] for row in logits]


def test_labels_without_names_are_numbered_as_transformers_does(folder: Path) -> None:
    model = runtime.load(write(folder, graph_of("logits", 2), architectures="absent", id2label="absent"))
    assert model.labels == ("LABEL_0", "LABEL_1")


def test_words_are_tagged(folder: Path) -> None:
    graph = graph_of("logits", 3, states=True)
    config = {"architectures": ["BertForTokenClassification"], "id2label": names(TAGS)}
    model = runtime.load(write(folder, graph, **config))
    assert model.description.task == "tokens"
    ids = model._tokenizer.encode_words([["good", "film"]]).tokens.ids
    expected = [TAGS[code] for code in weights_of(3)[ids[1:3]].argmax(1)]
    assert model.predict_tokens([["good", "film"]]) == [expected]


# --- encoders ------------------------------------------------------------------------------------------


def states(folder: Path, text: str) -> np.ndarray[Any, Any]:
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder, local_files_only=True)(text, truncation=True, max_length=24)
    return weights_of(HIDDEN)[ids["input_ids"]]


POOLED: dict[str, Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]] = {
    "cls": lambda rows: rows[0],
    "mean": lambda rows: rows.mean(0),
    "max": lambda rows: rows.max(0),
    "lasttoken": lambda rows: rows[-1],
    "cls+mean": lambda rows: np.concatenate([rows[0], rows.mean(0)]),
}


@pytest.mark.parametrize("pooling", POOLED)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("output", ["last_hidden_state", "token_embeddings"])
def test_states_are_pooled_as_sentence_transformers_says(
    pooling: str, normalize: bool, output: str, tmp_path: Path
) -> None:
    made = make_sentence_transformer(tmp_path / "st", pooling=pooling, normalize=normalize, positions=24)
    model = runtime.load(write(made, graph_of(output, HIDDEN, states=True), "onnx/model.onnx"))
    found = model.encode(TEXTS)
    expected = np.stack([POOLED[pooling](states(made, text)) for text in TEXTS])
    if normalize:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_a_plain_encoder_takes_the_first_token(folder: Path) -> None:
    model = runtime.load(write(folder, graph_of("last_hidden_state", HIDDEN, states=True)))
    expected = np.stack([states(folder, text)[0] for text in TEXTS])
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=1e-6)


@pytest.mark.parametrize("last", [None, "width"])
def test_vectors_of_the_graph_are_taken_as_they_are_and_normalised(last: Any, tmp_path: Path) -> None:
    made = make_sentence_transformer(tmp_path / "st", dense=True, positions=24)
    model = runtime.load(write(made, graph_of("sentence_embedding", 16, last=last)))
    expected = sums(made, TEXTS, 16)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=1e-5)


def test_prompt_lower_case_and_length_are_the_folder_s(tmp_path: Path) -> None:
    made = make_sentence_transformer(
        tmp_path / "st", prompts={"q": "film : "}, default_prompt="q", do_lower_case=True, max_seq_length=9
    )
    model = runtime.load(write(made, graph_of("token_embeddings", HIDDEN, states=True)))
    assert model.description.max_length == 9
    np.testing.assert_array_equal(model.encode(["GOOD"]), model.encode(["good"]))
    expected = states(made, "film : good").mean(0)
    np.testing.assert_allclose(model.encode(["good"])[0], expected / np.linalg.norm(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"dense": True}, "its module Dense is not supported"),
        ({"pooling": "weightedmean"}, "weightedmean is not supported"),
        ({"prompts": {"q": "x"}, "default_prompt": "q", "include_prompt": False}, "leaves the prompt out"),
    ],
)
def test_pooling_that_cannot_be_followed_is_refused(more: Any, said: str, tmp_path: Path) -> None:
    made = make_sentence_transformer(tmp_path / "st", **more)
    write(made, graph_of("token_embeddings", HIDDEN, states=True))
    with pytest.raises(ArtifactError, match=said):
        runtime.load(made)


def test_the_limit_is_that_of_a_frozen_encoder(folder: Path) -> None:
    from embedkit.encoders import EncoderSettings, FeatureExtractor

    torch.manual_seed(0)
    write(folder, graph_of("last_hidden_state", HIDDEN, states=True))
    change(folder / "tokenizer_config.json", model_max_length=1000)
    model = runtime.load(folder)
    make_encoder(folder, "bert", layers=1, positions=24)
    change(folder / "tokenizer_config.json", model_max_length=1000)
    assert model.description.max_length == FeatureExtractor(EncoderSettings(folder)).recipe.max_length == 24


# --- precisions and kinds of numbers -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["onnx/model_quantized.onnx", "model_int8.onnx"])
def test_int8_is_asked_for_by_name(name: str, sequence: Path) -> None:
    with pytest.raises(UsageError, match="no graph in int8; there is float32"):
        runtime.load(sequence, "int8")
    write(sequence, graph_of("logits", 2), name)
    assert runtime.load(sequence, "int8").predict(TEXTS) == runtime.load(sequence).predict(TEXTS)
    (sequence / "model.onnx").unlink()
    with pytest.raises(UsageError, match="no graph in float32; there is int8"):
        runtime.load(sequence)


def test_int32_inputs_are_fed_as_such(folder: Path) -> None:
    graph = graph_of("logits", 2, element=TensorProto.INT32)
    model = runtime.load(write(folder, graph, id2label=names(LABELS)))
    np.testing.assert_allclose(model.logits(TEXTS), sums(folder, TEXTS, 2), rtol=1e-4, atol=1e-4)


# --- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("graph", "config", "said"),
    [
        ({"inputs": ("input_ids", "attention_mask", "position_ids")}, {}, "position_ids.* cannot be fed"),
        ({"shape": (1, "length")}, {}, "of any batch and length are needed"),
        ({"element": TensorProto.FLOAT16}, {}, "onnxruntime cannot open|integers of any batch"),
        ({"output": "pooler"}, {}, "gives pooler; supported are logits, sentence_embedding"),
        ({}, {"architectures": ["BertForMaskedLM"]}, "logits of BertForMaskedLM are not those of labels"),
        ({}, {"architectures": ["BertForTokenClassification"]}, "do not belong together"),
        ({"states": True}, {"architectures": ["BertForSequenceClassification"]}, "do not belong together"),
        ({"columns": 3}, {}, "of shape .* but 2 numbers a text are described"),
        ({"columns": 3, "last": "many"}, {}, "of shape .* but 2 numbers a text are described"),
        ({"columns": 1}, {"id2label": {"0": "score"}}, "a single label means that the model gives a number"),
        ({}, {"problem_type": "regression"}, "problem_type regression"),
        ({}, {"id2label": {"1": "a"}}, "id2label does not name"),
        ({}, {"model_type": "absent"}, "names no model_type"),
        (
            {"output": "last_hidden_state", "columns": 16, "states": True},
            {},
            "but 32 numbers a token",
        ),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value)[:30],
)
def test_what_cannot_be_answered_with_is_refused(
    graph: dict[str, Any], config: dict[str, Any], said: str, folder: Path
) -> None:
    how = {"output": "logits", "columns": 2, **graph}
    given = {"architectures": "absent", "id2label": names(LABELS)} | config
    write(folder, graph_of(how.pop("output"), how.pop("columns"), **how), **given)
    with pytest.raises(ArtifactError, match=said):
        runtime.load(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_file_that_is_needed_and_missing_is_named(name: str, sequence: Path) -> None:
    (sequence / name).unlink()
    with pytest.raises(InputMissingError, match=f"{name} is missing"):
        runtime.load(sequence)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "modules.json", "special_tokens_map.json"]
)
@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "null", "[" * 100_000, "version https://git-lfs.x\n"])
def test_damaged_json_is_named(name: str, content: str, sequence: Path) -> None:
    (sequence / name).write_text(content)
    with pytest.raises(EmbedkitError, match=name) as raised:
        runtime.load(sequence)
    assert raised.value.exit_code == 65


@pytest.mark.parametrize(
    "content", [b"", b"\x00", b"not a graph", bytes(range(256)) * 9, b"\x3a\xff\xff\xff\xff\x0f"]
)
def test_what_is_no_graph_is_named(content: bytes, sequence: Path) -> None:
    (sequence / "model.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.onnx"):
        runtime.load(sequence)


def test_a_cut_graph_is_named(sequence: Path) -> None:
    data = (sequence / "model.onnx").read_bytes()
    for end in (1, 10, len(data) // 2, len(data) - 1):
        (sequence / "model.onnx").write_bytes(data[:end])
        with pytest.raises(ArtifactError, match=r"model\.onnx"):
            runtime.load(sequence)


def test_a_tokenizer_with_other_tokens_than_the_graph_is_said(sequence: Path) -> None:
    tokenizer = json.loads((sequence / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["good"] = 10_000
    (sequence / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ArtifactError, match="the graph fails on a batch of tokens"):
        runtime.load(sequence).predict(["good"])


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.onnx", "1_Pooling/config.json"])
def test_links_that_lead_out_are_refused(name: str, tmp_path: Path) -> None:
    made = make_sentence_transformer(tmp_path / "st")
    write(made, graph_of("token_embeddings", HIDDEN, states=True))
    (made / name).rename(tmp_path / "elsewhere")
    (made / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="is a link out of the folder"):
        runtime.load(made)


def test_a_module_that_leads_out_is_refused(tmp_path: Path) -> None:
    made = make_sentence_transformer(tmp_path / "st")
    write(made, graph_of("token_embeddings", HIDDEN, states=True))
    modules = json.loads((made / "modules.json").read_text())
    modules[1]["path"] = "../other"
    (made / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ArtifactError, match="lies outside the folder"):
        runtime.load(made)


def test_the_hub_s_cache_is_a_folder_of_links(sequence: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--x" / "snapshots" / ("a" * 40), tmp_path / "models--x" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for place, path in enumerate(sequence.iterdir()):
        path.rename(blobs / str(place))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(place))
    assert len(runtime.load(snapshot).predict(TEXTS)) == len(TEXTS)


# --- weights in other files ----------------------------------------------------------------------------


def with_external(folder: Path, location: str, file: Path | None, name: str = "model.onnx") -> None:
    """Put the weights of a graph in a file, and let the graph say that they are at `location`."""
    graph = onnx.load(folder / name)
    (weights,) = (tensor for tensor in graph.graph.initializer if tensor.name == "weights")
    if file is not None:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(weights.raw_data)
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    entry = weights.external_data.add()
    entry.key, entry.value = "location", location
    (folder / name).write_bytes(graph.SerializeToString())


@pytest.mark.parametrize("location", ["model.onnx_data", "data/weights"])
def test_weights_in_a_file_of_the_folder_are_read(location: str, sequence: Path) -> None:
    before = runtime.load(sequence).logits(TEXTS)
    with_external(sequence, location, sequence / location)
    assert external_files(sequence / "model.onnx") == {location}
    np.testing.assert_array_equal(runtime.load(sequence).logits(TEXTS), before)


@pytest.mark.parametrize("place", ["above", "absolute", "link", "link to a folder", "memory", "backslash"])
def test_weights_outside_of_the_folder_are_never_read(place: str, sequence: Path, tmp_path: Path) -> None:
    """Threat: a graph that names a file of the machine as its weights (CVE-2024-27318)."""
    outside = tmp_path / "outside" / "weights"
    location = {
        "above": "../outside/weights",
        "absolute": str(outside),
        "link": "weights",
        "link to a folder": "inside/weights",
        "memory": "*/_ORT_MEM_ADDR_/*",
        "backslash": "..\\outside\\weights",
    }[place]
    with_external(sequence, location, outside)
    if place == "link":
        (sequence / "weights").symlink_to(outside)
    if place == "link to a folder":
        (sequence / "inside").symlink_to(outside.parent)
    with pytest.raises((ArtifactError, InputMissingError), match=r"no path inside|a link out of|is missing"):
        runtime.load(sequence)


def test_weights_that_are_missing_are_named(sequence: Path) -> None:
    with_external(sequence, "model.onnx_data", None)
    with pytest.raises(InputMissingError, match=r"model\.onnx_data is missing"):
        runtime.load(sequence)


def test_weights_that_are_cut_off_are_said(sequence: Path) -> None:
    with_external(sequence, "model.onnx_data", sequence / "model.onnx_data")
    (sequence / "model.onnx_data").write_bytes(b"12")
    with pytest.raises(ArtifactError, match="onnxruntime cannot open this graph"):
        runtime.load(sequence)


def test_no_other_file_is_read_unless_it_was_allowed(sequence: Path) -> None:
    with_external(sequence, "data", sequence / "data")
    with pytest.raises(ArtifactError, match="has weights in 'data', which is not read"):
        open_session(sequence / "model.onnx")


def tensor(location: str) -> TensorProto:
    found = TensorProto(name="t", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    entry = found.external_data.add()
    entry.key, entry.value = "location", location
    return found


def test_every_place_of_a_graph_is_looked_at(tmp_path: Path) -> None:
    inner = helper.make_graph([], "inner", [], [], [tensor("in a graph")])
    sparse = onnx.SparseTensorProto(values=tensor("values"), indices=tensor("indices"), dims=[1])
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner)
    for name, value in {"t": tensor("attribute")}.items():
        node.attribute.append(helper.make_attribute(name, value))
    node.attribute.append(onnx.AttributeProto(name="ts", type=9, tensors=[tensor("several")]))
    deep = helper.make_graph([helper.make_node("Loop", [], [], body=inner)], "deep", [], [], [tensor("deep")])
    node.attribute.append(onnx.AttributeProto(name="gs", type=10, graphs=[deep]))
    node.attribute.append(onnx.AttributeProto(name="s", type=11, sparse_tensor=sparse))
    constant = helper.make_node("Constant", [], ["z"])
    constant.attribute.append(helper.make_attribute("value", tensor("function")))
    function = onnx.FunctionProto(name="f", domain="d", node=[constant])
    graph = helper.make_graph([node], "g", [], [], [tensor("initializer")])
    graph.sparse_initializer.append(
        onnx.SparseTensorProto(values=tensor("sparse initializer"), indices=TensorProto(), dims=[1])
    )
    model = onnx.ModelProto(ir_version=10, graph=graph, functions=[function])
    model.training_info.append(onnx.TrainingInfoProto(algorithm=helper.make_graph([], "a", [], [], [tensor("t")])))
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    assert external_files(path) == {
        *("in a graph", "values", "indices", "attribute", "several", "deep", "function", "initializer"),
        *("sparse initializer", "t"),
    }


def test_external_data_without_a_place_are_found(tmp_path: Path) -> None:
    nowhere = TensorProto(name="t", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    model = helper.make_model(helper.make_graph([], "g", [], [], [nowhere]))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert external_files(tmp_path / "m.onnx") == {""}


def test_a_field_number_beyond_32_bits_is_refused(tmp_path: Path) -> None:
    """A reader that keeps 32 bits of a tag would see field 7, the graph."""
    (tmp_path / "m.onnx").write_bytes(b"\xba\x80\x80\x80\x80\x01\x00")
    with pytest.raises(ArtifactError, match="no ONNX graph"):
        external_files(tmp_path / "m.onnx")


# --- doors ---------------------------------------------------------------------------------------------


def test_predict_answers_with_it(sequence: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(sequence), *TEXTS[:2]]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["label"] for line in lines] == runtime.load(sequence).predict(TEXTS[:2])
    assert set(lines[0]["scores"]) == set(LABELS)


@pytest.mark.parametrize("columns", ["text", "text,text_pair"])
def test_predict_and_evaluate_take_texts_and_pairs(
    columns: str, sequence: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = ",".join(["good"] * len(columns.split(",")))
    (tmp_path / "d.csv").write_text(f"{columns},label\n{cells},pos\n{cells},neg\n")
    assert main(["predict", str(sequence), "--input", str(tmp_path / "d.csv")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["evaluate", str(sequence), str(tmp_path / "d.csv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["d"]["accuracy"] == 0.5


def test_words_are_answered_with_the_base_install_alone(folder: Path) -> None:
    write(folder, graph_of("logits", 3, states=True), id2label=names(TAGS))
    code = f"""
import sys
absent = "torch transformers sklearn pyarrow xxhash scipy safetensors platformdirs huggingface_hub matplotlib " \\
         "tqdm joblib onnx pandas skops"
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent.split():
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from embedkit.cli import main
assert main(["predict", {str(folder)!r}, "a good film"]) == 0
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["tokens"] == ["a", "good", "film"]


def test_embedkit_load_says_what_opens_it(sequence: Path) -> None:
    with pytest.raises(ArtifactError, match=r"open it with embedkit\.runtime\.load"):
        embedkit.load(sequence)


def test_a_folder_without_a_graph_says_what_it_is(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=f"holds no {MANIFEST}: it looks like a transformers model"):
        runtime.load(plain)
    with pytest.raises(InputMissingError, match="does not exist"):
        runtime.load(tmp_path / "nowhere")
    assert not answers_alone(plain)
    assert not answers_alone(tmp_path / "nowhere")


def test_a_manifest_that_is_there_is_never_gone_around(sequence: Path) -> None:
    (sequence / MANIFEST).write_text("{}")
    with pytest.raises(ArtifactError, match="was not written by embedkit"):
        runtime.load(sequence)
