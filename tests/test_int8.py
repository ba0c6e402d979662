"""int8: what is made small, by which setting, and whether it may be published."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from embedkit.data import LabelCodec, open_dataset
from embedkit.errors import DataError, ExportError, UsageError
from embedkit.evaluation.trial import classifier_trial, encoder_trial, held_out_trial, splits_trial, task_trial
from embedkit.export.quantize import Setting, int8_rows, quantize, settings, vnni
from embedkit.export.verdict import FEW, Outcome, Rows, Trial, Verdict, _compared, decide_int8, verdict_text

WORDS, WIDTH, BLOCKS = 600, 128, 3


# --- graphs ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model by hand: a table of embeddings, three blocks of two products and a softmax, a head."""
    rng = np.random.default_rng(0)
    weights = {"words": rng.normal(size=(WORDS, WIDTH)), "head": rng.normal(size=(WIDTH, 2)) / 16}
    nodes = [helper.make_node("Gather", ["words", "ids"], ["x0"], "embed")]
    for block in range(BLOCKS):
        x, mixed, shares, out = f"x{block}", f"a{block}", f"s{block}", f"x{block + 1}"
        weights[f"in{block}"], weights[f"out{block}"] = rng.normal(size=(2, WIDTH, WIDTH)) / np.sqrt(WIDTH)
        nodes += [
            helper.make_node("MatMul", [x, f"in{block}"], [mixed], f"in_{block}"),
            helper.make_node("Softmax", [mixed], [shares], f"softmax_{block}"),
            helper.make_node("MatMul", [x, f"out{block}"], [f"b{block}"], f"out_{block}"),
            helper.make_node("Add", [f"b{block}", shares], [out], f"add_{block}"),
        ]
    nodes += [
        helper.make_node("MatMul", [f"x{BLOCKS}", "head"], ["raw"], "classifier"),
        helper.make_node("ReduceMean", ["raw", "axis"], ["logits"], "mean", keepdims=0),
    ]
    stored = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    stored.append(numpy_helper.from_array(np.array([1]), "axis"))
    whole = helper.make_graph(
        nodes,
        "hand-made",
        [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["b", "l"])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["b", 2])],
        stored,
    )
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    onnx.save(helper.make_model(whole, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def run(path: Path, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"ids": ids})
    return np.asarray(logits)


def kept_in_float(path: Path) -> set[str]:
    """Return the names of the products with weights that are still in float."""
    model = onnx.load(path)
    weights = {entry.name for entry in model.graph.initializer}
    return {node.name for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in weights}


@pytest.mark.parametrize(
    ("setting", "in_float"),
    [
        (Setting(), {"classifier"}),
        (Setting(ends=False), {"classifier", "in_0", "out_0", "in_2", "out_2"}),
        (Setting(per_channel=False, embeddings=False), {"classifier"}),
        (Setting(reduced_range=True), {"classifier"}),
    ],
)
def test_what_becomes_int8(setting: Setting, in_float: set[str], graph: Path, tmp_path: Path) -> None:
    size = quantize(graph, tmp_path / "small.onnx", setting)
    assert size == (tmp_path / "small.onnx").stat().st_size < graph.stat().st_size
    assert kept_in_float(tmp_path / "small.onnx") == in_float
    stored = {entry.name: entry for entry in onnx.load(tmp_path / "small.onnx").graph.initializer}
    assert ("words" in stored) != setting.embeddings
    if setting.embeddings:
        assert stored["words_rows"].data_type == onnx.TensorProto.INT8
    ids = np.random.default_rng(1).integers(0, WORDS, (16, 9))
    full, small = run(graph, ids), run(tmp_path / "small.onnx", ids)
    assert 0 < np.abs(full - small).max() < 0.1 * np.abs(full).max()


def test_weights_of_reduced_range_have_7_bits(graph: Path, tmp_path: Path) -> None:
    quantize(graph, tmp_path / "small.onnx", Setting(reduced_range=True, embeddings=False))
    stored = [numpy_helper.to_array(entry) for entry in onnx.load(tmp_path / "small.onnx").graph.initializer]
    assert max(np.abs(array.astype(int)).max() for array in stored if array.dtype == np.int8 and array.ndim) <= 64


def test_the_same_graph_gives_the_same_file(graph: Path, tmp_path: Path) -> None:
    before = graph.read_bytes()
    for name in ("a", "b"):
        quantize(graph, tmp_path / name, Setting())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert graph.read_bytes() == before


def test_a_graph_without_products_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["logits"])
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in ("x", "logits")]
    whole = helper.make_graph([node], "none", ends[:1], ends[1:])
    onnx.save(helper.make_model(whole, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "m")
    with pytest.raises(ExportError, match="no matrix product"):
        quantize(tmp_path / "m", tmp_path / "small", Setting())


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2), elements=st.floats(-1e6, 1e6, width=32)))
def test_a_row_is_off_by_at_most_half_a_step(table: NDArray[np.float32]) -> None:
    rows, scales = int8_rows(table)
    assert rows.dtype == np.int8
    assert scales.shape == (len(table), 1)
    assert (np.abs(rows * scales.astype(np.float64) - table) <= 0.5001 * scales).all()


@pytest.mark.parametrize("saturates", [False, True])
def test_settings_are_distinct_and_safe_ones_come_first_where_products_saturate(saturates: bool) -> None:
    order = settings(saturates=saturates)
    assert len(set(order)) == len({setting.words for setting in order}) == len(order)
    assert order[0].reduced_range == saturates
    assert set(order) == set(settings(saturates=not saturates))


def test_the_cpu_says_what_it_has() -> None:
    assert vnni() in (True, False, None)


# --- the verdict ----------------------------------------------------------------------------------------


class Fake:
    """Answers that are known: float32 is always right, int8 is wrong on the first rows."""

    def __init__(self, graph: Path, wrong: Sequence[tuple[int, int]], rows: dict[str, NDArray[Any]]) -> None:
        self.graph = graph
        self.wrong = list(wrong)  # of each setting in turn: on the rows of choice, on those of the test
        self.rows = rows
        self.opened = 0
        self.asked: list[str] = []

    def open(self, path: Path) -> Callable[[Sequence[Any]], Outcome]:
        assert path.exists()
        wrong = (0, 0)
        if path != self.graph:
            wrong, self.opened = self.wrong[self.opened], self.opened + 1

        def answer(inputs: Sequence[Any]) -> Outcome:
            self.asked += [name for name, _ in inputs]
            predicted = np.array([self.rows[name][place] for name, place in inputs])
            limit = {"choice": wrong[0], "test": wrong[1]}
            flip = np.array([place < limit[name] for name, place in inputs])
            changed = ~predicted if predicted.dtype == bool else 1 - predicted
            predicted = np.where(flip.reshape(-1, *[1] * (predicted.ndim - 1)), changed, predicted)
            return Outcome(predicted, np.where(flip, 0.25, 0.5)[:, None])

        return answer


def rows_of(name: str, true: NDArray[Any]) -> Rows:
    return Rows([(name, place) for place in range(len(true))], true, 2, name)


def decided(
    graph: Path, tmp_path: Path, wrong: Sequence[tuple[int, int]], *, several: bool = False, test_rows: int = 1000
) -> tuple[Verdict, Fake, Path]:
    rng = np.random.default_rng(0)
    true = {name: rng.integers(0, 2, n) for name, n in (("choice", 100), ("test", test_rows))}
    if several:
        true = {name: np.column_stack([codes, codes]).astype(bool) for name, codes in true.items()}
    fake, target = Fake(graph, wrong, true), tmp_path / "small.onnx"
    trial = Trial(rows_of("choice", true["choice"]), rows_of("test", true["test"]))
    return decide_int8(trial, graph, target, fake.open, (("test", 0), 7), 2), fake, target


@pytest.mark.parametrize(
    ("wrong", "tried", "published"),
    [
        ([(0, 0)], 1, True),
        ([(1, 10)], 1, True),  # a hundredth is what is allowed, on both
        ([(2, 0), (1, 0)], 2, True),
        ([(2, 0), (30, 0), (0, 5)], 3, True),
        ([(0, 11)], 1, False),
    ],
)
def test_the_first_setting_that_holds_is_judged_once(
    wrong: list[tuple[int, int]], tried: int, published: bool, graph: Path, tmp_path: Path
) -> None:
    verdict, fake, target = decided(graph, tmp_path, wrong)
    assert len(verdict.tried) == fake.opened == tried
    assert verdict.published is target.exists() is published
    lost = wrong[-1][1] / 1000
    assert verdict.comparison["difference"] == pytest.approx(-lost)
    assert verdict.labels_equal == pytest.approx(1 - lost)
    assert verdict.largest_change == (0.25 if lost else 0)
    low, high = verdict.comparison["ci95"]
    assert low <= -lost <= high
    assert high <= (0 if lost else 0.0037)  # 1,000 rows of which none differs
    assert set(verdict.latency) == set(verdict.throughput) == set(verdict.sizes) == {"float32", "int8"}
    assert verdict.chosen == settings(saturates=verdict.vnni is False)[tried - 1]
    said = verdict_text(verdict)
    assert ("int8 is published" in said) is published
    assert f"difference {0 - lost:+.4f}" in said


def test_the_test_rows_are_not_looked_at_where_no_setting_holds(graph: Path, tmp_path: Path) -> None:
    verdict, fake, target = decided(graph, tmp_path, [(50, 0)] * 6)
    assert len(verdict.tried) == 6
    assert "test" not in fake.asked
    assert not verdict.published
    assert not target.exists()
    assert verdict.chosen is None
    assert "not looked at" in verdict_text(verdict)
    assert verdict.to_json()["published"] is False


@pytest.mark.parametrize(("rows", "warned"), [(FEW - 1, True), (FEW, False)])
def test_few_rows_are_said_to_be_few(rows: int, warned: bool, graph: Path, tmp_path: Path) -> None:
    verdict, _, _ = decided(graph, tmp_path, [(0, 1)], test_rows=rows)
    assert (f"{rows} rows are few" in verdict_text(verdict)) is warned


def test_several_labels_are_judged_by_micro_f1(graph: Path, tmp_path: Path) -> None:
    verdict, _, _ = decided(graph, tmp_path, [(0, 4)], several=True)
    assert verdict.metric == "micro_f1"
    assert verdict.labels_equal == 0.996


def test_labels_that_training_never_saw_are_errors_of_both(graph: Path, tmp_path: Path) -> None:
    true = np.array([[True, False, True]] * 4)  # the graph knows two labels
    fake = Fake(graph, [(0, 0)], {"test": true[:, :2], "choice": true[:, :2]})
    choice, test = (replace(rows_of(name, true), classes=3) for name in ("choice", "test"))
    trial = Trial(choice, test)
    verdict = decide_int8(trial, graph, tmp_path / "small.onnx", fake.open, (("test", 0), 7), 2)
    assert verdict.comparison["first"] == pytest.approx(2 / 3)  # of 2 labels a row, 1 is found: 2 * 1 / (1 + 2)


def test_no_rows_are_said(graph: Path, tmp_path: Path) -> None:
    none = rows_of("nothing", np.zeros(0, np.int64))
    with pytest.raises(ExportError, match="nothing has no rows"):
        decide_int8(Trial(none, none), graph, tmp_path / "small.onnx", Fake(graph, [], {}).open, ("", 1), 1)


# --- whose rows -----------------------------------------------------------------------------------------


class Trained:
    """What a verdict asks of a classifier."""

    codec = LabelCodec(("a", "b"), "str")
    kind = "text"
    multi_label = False
    thresholds = None

    def __init__(self, about: dict[str, Any] | None = None) -> None:
        self.about = about or {}


def write(folder: Path, **splits: int) -> Path:
    folder.mkdir()
    for name, rows in splits.items():
        lines = [f"{name} {i},{'ab'[i % 2]}" for i in range(rows)]
        (folder / f"{name}.csv").write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("splits", "choice"),
    [({"train": 40, "validation": 6, "test": 10}, "validation"), ({"train": 40, "test": 10}, "train")],
)
def test_settings_are_chosen_on_validation_or_a_tenth_of_train(
    splits: dict[str, int], choice: str, tmp_path: Path
) -> None:
    trial = classifier_trial(open_dataset(str(write(tmp_path / "d", **splits))), Trained(), None)
    assert [text.split()[0] for text in trial.test.inputs] == ["test"] * 10
    assert {text.split()[0] for text in trial.choice.inputs} == {choice}
    assert len(trial.choice.inputs) == (6 if choice == "validation" else 4)
    assert trial.test.true.tolist() == [0, 1] * 5


@pytest.mark.parametrize("validation", [True, False])
def test_many_rows_are_not_all_chosen_on(tmp_path: Path, validation: bool) -> None:
    sizes = {"train": 400, "test": 10, **({"validation": 40} if validation else {})}
    splits = open_dataset(str(write(tmp_path / "d", **sizes))).splits()
    whole, some = (splits_trial(splits, Trained.codec, most=most) for most in (None, 7))
    assert (len(whole.choice.inputs), len(some.choice.inputs)) == (40, 7)
    assert set(some.choice.inputs) < set(whole.choice.inputs)
    assert some.test.inputs == whole.test.inputs


def test_a_file_of_its_own_is_judged_whole_and_the_training_data_are_chosen_on(tmp_path: Path) -> None:
    trained_on = str(write(tmp_path / "d", train=40, test=10))
    (tmp_path / "new.csv").write_text("text,label\none,a\ntwo,c\n", encoding="utf-8")
    data = open_dataset(str(tmp_path / "new.csv"))
    trial = classifier_trial(data, Trained(), lambda: open_dataset(trained_on))
    assert trial.test.inputs == ["one", "two"]
    assert trial.test.true.tolist() == [0, 2]
    assert trial.test.classes == 3
    assert len(trial.choice.inputs) == 4
    with pytest.raises(UsageError, match="no validation and no train split"):
        classifier_trial(data, Trained(), None)


def test_the_file_of_training_is_judged_where_it_was_held_out(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(
        "\n".join(["text,label", *(f"t{i},{'ab'[i % 2]}" for i in range(50))]), encoding="utf-8"
    )
    data = open_dataset(str(tmp_path / "d.csv"))
    splits = data.splits(seed=7)
    about = {"seed": 7, "data": {"train": {"fingerprint": splits["train"].fingerprint()}}}
    trial = classifier_trial(data, Trained(about), None)
    assert trial.test.inputs == splits["test"].inputs
    assert not set(trial.choice.inputs) & set(trial.test.inputs)


def test_an_encoder_is_judged_by_a_classifier_of_train(tmp_path: Path) -> None:
    trial = encoder_trial(open_dataset(str(write(tmp_path / "d", train=40, test=10))))
    assert trial.fit is not None
    parts = [set(rows.inputs) for rows in (trial.fit, trial.choice, trial.test)]
    assert [len(part) for part in parts] == [36, 4, 10]
    assert not parts[0] & parts[1]
    with pytest.raises(UsageError, match="no test split"):
        encoder_trial(open_dataset(str(write(tmp_path / "e", train=40))))


def test_words_are_judged_in_their_sentences(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    for name, rows in {"train": 20, "test": 3}.items():
        lines = [
            json.dumps({"tokens": [name, str(i)], "tags": ["B-X", "O" if i else "B-NEW"]}) for i in range(rows)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    codec = LabelCodec(("B-X", "O"), "str")
    trial = held_out_trial(open_dataset(str(folder), task="tokens"), codec)
    assert trial.test.inputs == [["test", "0"], ["test", "1"], ["test", "2"]]
    assert trial.test.true.tolist() == ["B-X", "B-NEW", "B-X", "O", "B-X", "O"]
    assert trial.test.words is not None
    assert trial.test.words.tolist() == [2, 2, 2]
    assert trial.test.metric == "entity_f1"
    assert len(trial.choice.inputs) == 2
    (folder / "test.jsonl").unlink()
    with pytest.raises(UsageError, match="needs a test split"):
        held_out_trial(open_dataset(str(folder), task="tokens"), codec)


def write_words(folder: Path, rows: Sequence[tuple[Sequence[str], Sequence[str]]]) -> Path:
    folder.mkdir()
    lines = [
        json.dumps({"tokens": [f"{words[0]}{i}", *words[1:]], "tags": tags})
        for i, (words, tags) in enumerate(rows)
    ]
    for name in ("train", "test"):
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_a_tagger_of_ours_is_tried_on_sentences(tmp_path: Path) -> None:
    data = open_dataset(str(write_words(tmp_path / "d", [(list("abc"), ["B-X", "O", "B-X"])] * 20)))
    tagger = Trained()
    with pytest.raises(DataError, match="holds lists of words with tags, but the classifier answers for texts"):
        classifier_trial(data, tagger, None)
    tagger.kind, tagger.codec = "tokens", LabelCodec(("O", "B-X", "I-X"), "str")
    trial = classifier_trial(data, tagger, None)
    assert trial.test.words is not None
    assert (len(trial.test.inputs), len(trial.choice.inputs)) == (20, 2)
    assert (trial.test.words.tolist(), trial.test.metric) == ([3] * 20, "entity_f1")
    texts = open_dataset(str(write(tmp_path / "e", train=40, test=10)))
    with pytest.raises(DataError, match="holds texts with one label each, but the classifier answers for lists"):
        classifier_trial(texts, tagger, None)


@pytest.mark.parametrize(
    ("labels", "tags", "said"),
    [
        (("O", "B-PER", "I-PER"), ["B-NP", "I-NP", "O"], "labels are 'NP', and the classifier gives 'PER'"),
        (("NN", "VB"), ["B-NP", "I-NP", "O"], "the classifier gives 'NN', 'VB'"),
        (("O", "B-PER", "I-PER"), ["NN", "VB", "NN"], "the classifier gives 'PER'"),
        (("O", "B-PER", "I-PER"), ["O", "O", "O"], None),
        (("O", "I-PER"), ["B-PER", "O", "B-PER"], None),  # schemes may differ
    ],
)
def test_tags_of_other_kinds_are_said(labels: Any, tags: list[str], said: str | None, tmp_path: Path) -> None:
    data = open_dataset(str(write_words(tmp_path / "d", [(list("abc"), tags)] * 20)))
    codec = LabelCodec(labels, "str")
    if said is None:
        assert held_out_trial(data, codec).test.true.tolist()[:3] == tags
        return
    with pytest.raises(DataError, match=said):
        held_out_trial(data, codec)


def test_true_tags_are_made_iob2(tmp_path: Path) -> None:
    rows = [(list("abc"), ["I-X", "I-X", "O"]), (list("abc"), ["I-X", "B-X", "I-Y"])] * 10
    data = open_dataset(str(write_words(tmp_path / "d", rows)))
    trial = held_out_trial(data, LabelCodec(("O", "B-X", "I-X", "B-Y", "I-Y"), "str"))
    assert trial.test.true.tolist()[:6] == ["B-X", "I-X", "O", "B-X", "B-X", "B-Y"]


@pytest.mark.parametrize("spans", [True, False])
def test_taggers_are_compared_as_their_metric_says(spans: bool) -> None:
    """One of two entities right and one found in half: by words three of five are right."""
    tags = ["B-X", "O", "B-X", "I-X", "O"]
    small = ["B-X", "O", "B-X", "O", None]
    rows = Rows([list("ab"), list("cde")], np.array(tags, object), 3, "test", np.array([2, 3]), spans)
    found = _compared(rows, np.array(small, object), np.array(tags, object))
    assert found["second"] == 1
    assert found["first"] == pytest.approx(0.5 if spans else 0.6)
    assert rows.metric == ("entity_f1" if spans else "accuracy")


def test_labels_of_another_kind_are_said(tmp_path: Path) -> None:
    data = open_dataset(str(write(tmp_path / "d", train=40, test=10)))
    other = Trained()
    other.codec = LabelCodec(("LABEL_0", "LABEL_1"), "str")
    with pytest.raises(DataError, match="its labels are 'a', 'b', and the classifier gives 'LABEL_0', 'LABEL_1'"):
        classifier_trial(data, other, None)


@pytest.mark.parametrize(
    ("task", "config", "said"),
    [
        ("sequence", {}, None),
        ("tokens", {}, "holds texts with one label each, but the classifier answers for lists of words"),
        (
            "sequence",
            {"problem_type": "multi_label_classification"},
            "answers for texts with any number of labels",
        ),
    ],
)
def test_one_file_is_split_for_a_classifier_of_others(
    task: str, config: dict[str, Any], said: str | None, tmp_path: Path
) -> None:
    path = write(tmp_path / "d", all=50) / "all.csv"
    described = {"id2label": {"0": "a", "1": "b"}, **config}
    if said is not None:
        with pytest.raises(DataError, match=said):
            task_trial(open_dataset(str(path)), described, tmp_path, task)
        return
    trial = task_trial(open_dataset(str(path)), described, tmp_path, task)
    assert (len(trial.test.inputs), len(trial.choice.inputs)) == (10, 4)
    assert not set(trial.test.inputs) & set(trial.choice.inputs)
