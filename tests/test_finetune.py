"""Fine-tuning: order, losses, checkpoints, the loop, the artifact, the command."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score
from sklearn.utils.class_weight import compute_class_weight

import embedkit
from embedkit.cli import main
from embedkit.encoders import read_folder
from embedkit.errors import ArtifactError, ModelError, OutputExistsError, TrainingError, UsageError
from embedkit.estimators.start import open_start
from embedkit.evaluation.freezing import FreezePoint, choose, parse_sweep
from embedkit.hub import resolve_model
from embedkit.metrics.scores import running_scores
from embedkit.sharing import shareable
from embedkit.training.checkpoints import history_of, newest_whole, prepare, seal
from embedkit.training.loop import Place
from embedkit.training.losses import binary_cross_entropy, class_weights, cross_entropy
from embedkit.training.model import open_for_training
from embedkit.training.rows import IGNORED, training_order
from embedkit.training.sequence import Labelled, tune_sequence
from embedkit.training.settings import TuneSettings, parse_arguments, usual_rate
from embedkit.training.tuning import Tuned, Watch
from tests.tiny_classifiers import make_classifier
from tests.tiny_models import make_encoder, without_dropout

pytestmark = pytest.mark.usefixtures("one_torch_thread")

GOOD, BAD = ("good", "great", "brilliant", "moving"), ("bad", "dull", "boring", "awful")
NOUNS, DEGREES = ("film", "plot", "music", "script", "story", "drama"), ("very", "so", "too", "never", "just")


def sentences(count: int, seed: int = 0, longest: int = 21) -> tuple[list[str], list[str]]:
    """Sentences with a good or a bad word in them, after some others."""
    chance = random.Random(seed)
    texts, labels = [], []
    for number in range(count):
        words = [chance.choice(DEGREES) for _ in range(chance.randrange(1, longest))]
        word = chance.choice(GOOD + BAD)
        texts.append(f"the {chance.choice(NOUNS)} was {' '.join(words)} {word} {number}")
        labels.append("pos" if word in GOOD else "neg")
    return texts, labels


TEXTS, LABELS = sentences(96)
CODES = np.array([label == "pos" for label in LABELS], np.int64)
SHORT = [text.rsplit(" ", 1)[0] for text in sentences(160, 0, 2)[0]]  # which a tiny model learns within seconds
QUICK: dict[str, Any] = {"precision": "float32", "learning_rate": 2e-3, "epochs": 2, "batch_size": 8, "threads": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_encoder(tmp_path_factory.mktemp("models") / "bert", "bert", layers=2))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, count, seed in (("train", 160, 1), ("validation", 40, 2), ("test", 60, 3)):
        rows = zip(*sentences(count, seed), strict=True)
        (folder / f"{name}.csv").write_text("text,label\n" + "".join(f"{t},{x}\n" for t, x in rows))
    return folder


def tuned(model: str, validation: bool = True, place: Place | None = None, **how: Any) -> Tuned:
    start, texts = open_start(model), how.pop("texts", TEXTS)
    codes = np.array([text.split()[-1] in GOOD for text in texts]) * 1 if texts is SHORT else CODES
    callbacks = {name: how.pop(name) for name in ("told", "progress") if name in how}
    held = Labelled(texts[:32], codes[:32]) if validation else None
    return tune_sequence(
        start.folder,
        start.tokenizer,
        ("neg", "pos"),
        Labelled(texts[32:], codes[32:]),
        held,
        TuneSettings(**{**QUICK, **how}),
        place=place,
        watch=Watch(**callbacks),
    )


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# ------------------------------------------------------------------------------------------------- order


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=300), st.integers(1, 17), st.integers(0, 9), st.booleans()
)
def test_an_epoch_reads_each_row_once(lengths: list[int], batch: int, epoch: int, like: bool) -> None:
    how: dict[str, Any] = {"seed": 3, "epoch": epoch, "like_lengths": like}
    order = training_order(np.array(lengths), batch, **how)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    np.testing.assert_array_equal(order, training_order(np.array(lengths), batch, **how))


def test_batches_hold_like_lengths_and_epochs_differ() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 2000)

    def computed(order: np.ndarray[Any, Any]) -> int:
        return sum(16 * int(lengths[order[start : start + 16]].max()) for start in range(0, 2000, 16))

    sorted_ = [training_order(lengths, 16, seed=1, epoch=epoch) for epoch in (0, 1)]
    plain = training_order(lengths, 16, seed=1, epoch=0, like_lengths=False)
    assert computed(sorted_[0]) < 1.06 * lengths.sum() < 1.5 * lengths.sum() < computed(plain)
    assert not np.array_equal(*sorted_)
    means = lengths[sorted_[0]].reshape(-1, 16).mean(1)
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3  # short and long batches take turns


# ------------------------------------------------------------------------------------------------- losses


def test_balanced_weights_are_scikit_learn_s() -> None:
    codes = np.array([0] * 7 + [1] * 2 + [2] * 1)
    found = class_weights(codes, "balanced", ("a", "b", "c"))
    np.testing.assert_allclose(found, compute_class_weight("balanced", classes=np.arange(3), y=codes), rtol=1e-6)
    assert found is not None
    assert found[codes].mean() == pytest.approx(1)
    np.testing.assert_allclose(class_weights(codes, {"b": 2}, ("a", "b", "c")), [1, 2, 1])
    sets = np.array([[1, 0], [1, 1], [0, 0], [1, 0]])
    np.testing.assert_allclose(class_weights(sets, "balanced", ("a", "b")), [1 / 3, 3])


@pytest.mark.parametrize("weight", [{"x": 1}, {"a": 0}, {"a": -1.0}, {"a": True}, {"a": "heavy"}, "even"])
def test_weights_that_cannot_be_are_refused(weight: Any) -> None:
    with pytest.raises(UsageError, match="class_weight"):
        class_weights(np.array([0, 1]), weight, ("a", "b"))


def test_losses_are_torch_s_and_add_up_over_parts_of_a_step() -> None:
    chance = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(12, 3, generator=chance), torch.randint(0, 3, (12,), generator=chance)
    plain = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.1)
    torch.testing.assert_close(cross_entropy(None, 0.1)(logits, targets, None), plain)
    weighted = cross_entropy(np.array([1, 2, 3], np.float32), 0.0)
    parts = [weighted(logits[a:b], targets[a:b], 12) for a, b in ((0, 5), (5, 12))]
    torch.testing.assert_close(sum(parts), weighted(logits, targets, 12))
    targets[3] = IGNORED  # a label that training does not know counts for nothing
    keep = targets != IGNORED
    torch.testing.assert_close(weighted(logits, targets, None), weighted(logits[keep], targets[keep], None))
    sets = torch.randint(0, 2, (12, 3), generator=chance).float()
    binary = binary_cross_entropy(np.array([1, 2, 3], np.float32))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, sets, pos_weight=torch.tensor([1.0, 2, 3])
    )
    torch.testing.assert_close(binary(logits, sets, None), expected)
    torch.testing.assert_close(binary(logits[:5], sets[:5], 36) + binary(logits[5:], sets[5:], 36), expected)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_running_figures_are_scikit_learn_s(pairs: list[tuple[int, int]]) -> None:
    true, predicted = np.array(pairs).T
    found = running_scores(true, predicted, 4)
    how: dict[str, Any] = {"average": "macro", "zero_division": 0}
    assert found["accuracy"] == pytest.approx(accuracy_score(true, predicted))
    assert found["precision"] == pytest.approx(precision_score(true, predicted, **how))
    assert found["recall"] == pytest.approx(recall_score(true, predicted, **how))
    assert found["macro-f1"] == pytest.approx(f1_score(true, predicted, **how))


# ------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"epochs": 0}, "epochs"),
        ({"epochs": -1}, "above 0"),
        ({"epochs": float("nan")}, "epochs"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"learning_rate": -1e-5}, "above 0"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"label_smoothing": 1}, "label_smoothing"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"eval_strategy": "often"}, "epoch, steps, no"),
        ({"eval_steps": 5}, "belong together"),
        ({"eval_strategy": "steps"}, "belong together"),
        ({"eval_strategy": "no", "patience": 2}, "patience"),
        ({"freeze": "most"}, "freeze"),
        ({"seed": -1}, "seed"),
        ({"precision": "int8"}, "precision"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        TuneSettings(**wrong)


def test_the_usual_rate_falls_with_the_width() -> None:
    assert [usual_rate("sequence", hidden) for hidden in (384, 767, 768, 1024)] == [5e-5, 5e-5, 2e-5, 2e-5]
    assert [usual_rate("tokens", hidden) for hidden in (384, 768)] == [1e-4, 2e-5]


def test_arguments_of_the_trainer() -> None:
    assert parse_arguments(["a=1e-3", "b=cosine", "c=true", 'd={"x": 1}']) == {
        "a": 1e-3,
        "b": "cosine",
        "c": True,
        "d": {"x": 1},
    }
    for wrong in (["a"], ["=1"], ["a=1", "a=2"]):
        with pytest.raises(UsageError, match="name=value"):
            parse_arguments(wrong)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"learning_rate": 1}, "use --learning-rate"),
        ({"output_dir": "x"}, "use --output"),
        ({"load_best_model_at_end": True}, "decides itself"),
        ({"learnin_rate": 1}, "no such argument"),
        ({"lr_scheduler_type": "spiral"}, "spiral"),
    ],
)
def test_arguments_that_are_not_taken_are_refused(model: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        tuned(model, arguments=arguments)


# --------------------------------------------------------------------------------------------- checkpoints


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "out.checkpoints"
    prepare(folder, {"epochs": 2, "seed": 1}, resume=False)
    for step in (5, 10, 20):
        checkpoint = folder / f"checkpoint-{step}"
        checkpoint.mkdir()
        (checkpoint / "model.safetensors").write_bytes(b"weights" * step)
        (checkpoint / "training_args.bin").write_bytes(b"a pickle")
        seal(checkpoint, [{"step": step}], {"loss": 0.5, "steps": 1})
    return folder


def _cut(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-3])


def _without_manifest(checkpoint: Path) -> None:
    (checkpoint / "embedkit.json").unlink()


def _lacking(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()


@pytest.mark.parametrize("tear", [_cut, _without_manifest, _lacking])
def test_the_newest_whole_checkpoint_is_taken(run_folder: Path, tear: Callable[[Path], None]) -> None:
    assert newest_whole(run_folder) == (run_folder / "checkpoint-20", ["going on from step 20"])
    assert not list(run_folder.rglob("training_args.bin"))
    tear(run_folder / "checkpoint-20")
    found, notes = newest_whole(run_folder)
    assert found == run_folder / "checkpoint-10"
    assert "checkpoint-20 is torn and skipped" in notes[0]
    for step in (10, 5):
        tear(run_folder / f"checkpoint-{step}")
    found, notes = newest_whole(run_folder)
    assert found is None
    assert "training begins anew" in notes[-1]


def test_a_run_is_only_gone_on_with_if_it_is_the_same(run_folder: Path, tmp_path: Path) -> None:
    assert prepare(run_folder, {"epochs": 2, "seed": 1}, resume=True) == []
    with pytest.raises(UsageError, match="seed was 1, is 2"):
        prepare(run_folder, {"epochs": 2, "seed": 2}, resume=True)
    with pytest.raises(OutputExistsError, match="--resume goes on"):
        prepare(run_folder, {"epochs": 2, "seed": 1}, resume=False)
    prepare(run_folder, {"epochs": 3}, resume=False, overwrite=True)
    assert sorted(path.name for path in run_folder.iterdir()) == ["run.json"]
    (run_folder / "thesis.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"thesis\.txt"):
        prepare(run_folder, {"epochs": 3}, resume=False, overwrite=True)
    assert "begins anew" in prepare(tmp_path / "new.checkpoints", {}, resume=True)[0]


# ------------------------------------------------------------------------------------------------ the loop


def test_a_model_learns_and_its_history_is_kept(model: str) -> None:
    told: list[Mapping[str, Any]] = []
    steps: list[int] = []
    state = (random.getstate(), torch.get_rng_state().clone(), dict(os.environ))
    found = tuned(model, epochs=12, learning_rate=3e-3, texts=SHORT, told=told.append, progress=steps.append)
    assert (random.getstate(), dict(os.environ)) == (state[0], state[2])
    assert torch.equal(torch.get_rng_state(), state[1])
    history = found.trained.history
    assert told == history
    assert sum(steps) == found.trained.steps == 12 * 16
    assert [row["step"] for row in history] == list(range(16, 193, 16))
    assert list(history[0]) == [
        *("step", "epoch", "loss", "eval_loss", "accuracy", "precision", "recall", "macro_f1", "mcc"),
    ]
    best = max(history, key=lambda row: row["accuracy"])
    assert best["accuracy"] >= 0.9
    assert found.trained.best_step == next(row["step"] for row in history if row["accuracy"] == best["accuracy"])


def test_the_best_weights_are_kept(model: str, tmp_path: Path) -> None:
    place = Place(tmp_path / "run")
    (tmp_path / "run").mkdir()
    found = tuned(model, place=place, epochs=12, learning_rate=6e-3, patience=3)
    best = found.trained.best_step
    kept = load_file(tmp_path / "run" / f"checkpoint-{best}" / "model.safetensors")
    assert same(weights_of(found.model), kept)


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [("tokenizer.json", "post_processor", None), ("config.json", "hidden_dropout_prob", 0.3)],
)
def test_what_is_trained_depends_on_more_than_weights(tmp_path: Path, file: str, name: str, value: Any) -> None:
    """A folder whose tokenizer or configuration was mended is another start, for checkpoints and comparisons."""
    path = make_encoder(tmp_path / "m", "bert") / file
    before, again = (open_start(str(path.parent)).identity() for _ in range(2))
    told = json.loads(path.read_text(encoding="utf-8"))
    told[name] = value
    path.write_text(json.dumps(told), encoding="utf-8")
    after = open_start(str(path.parent)).identity()
    assert before == again
    assert before != after
    assert before["model"] == after["model"]


def test_a_run_depends_on_its_seed_alone(model: str) -> None:
    first, again, other = (weights_of(tuned(model, False, seed=seed).model) for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)


def test_accumulated_parts_learn_as_one_batch(tmp_path: Path) -> None:
    """Without dropout: 4 parts of 4 rows move weights as 16 rows do."""
    model = str(without_dropout(make_encoder(tmp_path / "bert", "bert", layers=2)))
    found = []
    for batch, parts in ((16, 1), (4, 4)):
        order = {"like_lengths": False, "class_weight": "balanced", "arguments": {"optim": "sgd"}}
        made = tuned(model, False, batch_size=batch, accumulation=parts, epochs=1, **order)
        found.append(weights_of(made.model))
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-4, atol=1e-6)


def test_states_that_are_computed_twice_change_nothing(model: str) -> None:
    """Dropout is on: the second pass draws what the first one drew."""
    plain, twice = (weights_of(tuned(model, checkpointing=again, epochs=1).model) for again in (False, True))
    assert same(plain, twice)


def test_a_family_that_computes_nothing_twice_says_so(tmp_path: Path) -> None:
    mpnet = str(make_encoder(tmp_path / "m", "mpnet", layers=1))
    with pytest.raises(UsageError, match=r"mpnet.*leave out --gradient-checkpointing"):
        tuned(mpnet, checkpointing=True)


@pytest.mark.parametrize(
    "how", [{"freeze": 1}, {"freeze": 1, "cache_prefix": "on"}, {"freeze": "head-only"}], ids=str
)
def test_frozen_parts_do_not_move(model: str, how: dict[str, Any]) -> None:
    before = weights_of(open_for_training(open_start(model).folder, "sequence", ("neg", "pos"), seed=42).model)
    after = weights_of(tuned(model, **how).model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    frozen = ("bert.embeddings.", "bert.encoder.layer.0.")
    assert moved
    assert not {name for name in moved if name.startswith(frozen)}
    assert any("encoder.layer.1" in name for name in moved) == (how["freeze"] == 1)


def test_kept_states_teach_the_same(model: str) -> None:
    plain, kept = (tuned(model, freeze=1, cache_prefix=cache) for cache in ("off", "on"))
    for first, second in zip(plain.trained.history, kept.trained.history, strict=True):
        assert first == pytest.approx(second, abs=1e-5)


class _StoppedError(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize("step", [3, 8, 13])
@pytest.mark.parametrize("how", [{}, {"freeze": 1, "cache_prefix": "on"}, {"accumulation": 2}], ids=str)
def test_a_run_that_is_gone_on_with_ends_in_the_same_weights(
    model: str, tmp_path: Path, step: int, how: dict[str, Any]
) -> None:
    """Dropout is on."""
    if "accumulation" in how:
        step = min(step, 7)
    undisturbed = tuned(model, save_steps=2, place=_place(tmp_path / "a"), **how)
    taken: list[int] = []

    def stop(count: int) -> None:
        taken.append(count)
        if len(taken) == step:
            raise _StoppedError

    with pytest.raises(_StoppedError):
        tuned(model, save_steps=2, place=_place(tmp_path / "b"), progress=stop, **how)
    resumed = tuned(model, save_steps=2, place=Place(tmp_path / "b", resume=True), **how)
    assert same(weights_of(resumed.model), weights_of(undisturbed.model))
    assert resumed.trained.history == undisturbed.trained.history
    assert f"going on from step {(step - 1) // 2 * 2}" in resumed.notes


def _place(folder: Path) -> Place:
    folder.mkdir()
    return Place(folder)


class _Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_in_a_checkpoint_never_runs(model: str, tmp_path: Path) -> None:
    place = _place(tmp_path / "run")
    tuned(model, save_steps=4, place=place)
    checkpoint, _ = newest_whole(tmp_path / "run")
    assert checkpoint is not None
    torch.save(_Canary(tmp_path / "sung"), checkpoint / "optimizer.pt")
    rows, kept = history_of(checkpoint)
    seal(checkpoint, rows, kept)
    with pytest.raises(ArtifactError, match="begin anew with --overwrite"):
        tuned(model, save_steps=4, place=Place(tmp_path / "run", resume=True))
    assert not (tmp_path / "sung").exists()
    torch.load(checkpoint / "optimizer.pt", weights_only=False)
    assert (tmp_path / "sung").exists()  # it would have run


@pytest.mark.parametrize("saves", [2, None])
def test_a_loss_that_is_no_number_stops_the_run(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: int | None
) -> None:
    calls: list[int] = []

    def broken(*_: object) -> Callable[..., torch.Tensor]:
        loss = cross_entropy(None, 0.0)

        def wrong(*given: Any) -> torch.Tensor:
            calls.append(1)
            return loss(*given) * (float("nan") if len(calls) == 6 else 1.0)

        return wrong

    monkeypatch.setattr("embedkit.training.sequence.cross_entropy", broken)
    kept = str(tmp_path / "run" / "checkpoint-4") if saves else "no checkpoint was kept before"
    with pytest.raises(TrainingError, match=r"the loss is nan at step 6; ") as caught:
        tuned(model, save_steps=saves, place=_place(tmp_path / "run"))
    assert kept in str(caught.value)


def test_weights_that_are_no_numbers_are_not_kept(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of step 4 is a number, its gradient is none."""
    calls: list[int] = []

    def broken(*_: object) -> Callable[..., torch.Tensor]:
        loss = cross_entropy(None, 0.0)

        def wrong(logits: torch.Tensor, *given: Any) -> torch.Tensor:
            calls.append(1)
            more = (0 * logits).sum().sqrt() if len(calls) == 4 else 0.0
            return loss(logits, *given) + more

        return wrong

    monkeypatch.setattr("embedkit.training.sequence.cross_entropy", broken)
    with pytest.raises(TrainingError, match=r"after step 4; the last good checkpoint is .*checkpoint-2;"):
        tuned(model, save_steps=2, place=_place(tmp_path / "run"))
    assert newest_whole(tmp_path / "run")[0] == tmp_path / "run" / "checkpoint-2"


def test_memory_that_is_full_names_what_to_lower(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Callable[..., torch.Tensor]:
        def allocate(*_: object) -> torch.Tensor:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

        return allocate

    monkeypatch.setattr("embedkit.training.sequence.cross_entropy", full)
    with pytest.raises(TrainingError, match=r"batch size of 8 and up to 64 tokens.*--batch-size.*--max-length"):
        tuned(model)


# ------------------------------------------------------------------------------------------------- the head


def test_a_head_for_the_same_labels_is_kept_and_another_is_drawn(tmp_path: Path) -> None:
    folder = read_folder(resolve_model(str(make_classifier(tmp_path / "m", "bert", labels=("a", "b", "c")))))
    own = load_file(folder.weights[0])["classifier.weight"]
    again = open_for_training(folder, "sequence", ("a", "b", "c"), seed=1)
    assert again.kept
    assert torch.equal(again.model.classifier.weight, own)
    for names in (("a", "c", "b"), ("x", "y", "z"), ("a", "b")):
        drawn = [open_for_training(folder, "sequence", names, seed=seed) for seed in (1, 1, 2)]
        assert not drawn[0].kept
        assert drawn[0].model.classifier.weight.shape == (len(names), 32)
        heads = [opened.model.classifier.weight for opened in drawn]
        assert torch.equal(heads[0], heads[1])
        assert not torch.equal(heads[0], heads[2])
        assert len(names) == 2 or not torch.equal(heads[0], own)
        assert drawn[0].model.config.id2label == dict(enumerate(names))


def test_a_family_that_transformers_does_not_know_is_named(tmp_path: Path) -> None:
    folder = Path(make_encoder(tmp_path / "m", "bert", layers=1))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "zebra"}))
    with pytest.raises(ModelError, match="cannot open this configuration"):
        open_for_training(read_folder(resolve_model(str(folder))), "sequence", ("a", "b"), seed=1)


# ------------------------------------------------------------------------------------------------ the command


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


FLAGS = (
    "--precision",
    "float32",
    "--learning-rate",
    "2e-3",
    "--batch-size",
    "8",
    "--threads",
    "1",
    "--device",
    "cpu",
)


@pytest.fixture(scope="module")
def artifact(model: str, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("out") / "ft"
    assert run("finetune", data, "-m", model, "-o", out, "--epochs", 3, "--freeze", 1, "--quiet", *FLAGS) == 0
    return out


def test_the_artifact_says_all_and_everybody_opens_it(artifact: Path, data: Path) -> None:
    metrics = json.loads((artifact / "metrics.json").read_text())
    assert set(metrics["splits"]) == {"validation", "test"}
    assert metrics["splits"]["validation"]["used_to_tune"]
    assert len(metrics["history"]) == 3
    assert metrics["seconds"]["tune"] > 0
    assert (artifact / "report" / "learning_curve.png").stat().st_size > 5000
    assert not list(artifact.parent.glob("*.checkpoints"))
    config = json.loads((artifact / "config.json").read_text())
    assert config["id2label"] == {"0": "neg", "1": "pos"}
    from transformers import pipeline

    rows = [line.rsplit(",", 1)[0] for line in (data / "test.csv").read_text().splitlines()[1:]]
    theirs = pipeline("text-classification", str(artifact), top_k=None)(rows)
    classifier = embedkit.load(artifact)
    ours = classifier.predict_proba(rows)
    expected = [[{x["label"]: x["score"] for x in row}[name] for name in ("neg", "pos")] for row in theirs]
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    true = [line.rsplit(",", 1)[1] for line in (data / "test.csv").read_text().splitlines()[1:]]
    assert classifier.score(rows, true) == pytest.approx(metrics["splits"]["test"]["accuracy"])


def test_evaluate_gives_the_figures_of_the_run(
    artifact: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", artifact, data, "--json", "--quiet") == 0
    found = json.loads(capsys.readouterr().out)["splits"]["test"]
    kept = json.loads((artifact / "metrics.json").read_text())["splits"]["test"]
    assert {name: found[name] for name in ("n", "accuracy", "macro_f1")} == {
        name: kept[name] for name in ("n", "accuracy", "macro_f1")
    }


def test_what_others_may_see_of_it(artifact: Path) -> None:
    found = shareable(artifact)
    assert {"config.json", "model.safetensors", "tokenizer.json", "embedkit.json", "README.md"} <= set(found.files)
    assert not [name for name in found.files if name.startswith("report/")]
    card, manifest = (found.files[name] for name in ("README.md", "embedkit.json"))
    assert isinstance(card, bytes)
    assert isinstance(manifest, bytes)
    assert b"A fine-tuned `./bert`" in card
    assert str(artifact.parent).encode() not in card + manifest


def test_an_export_answers_as_the_artifact(
    artifact: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("export-onnx", artifact, "-o", tmp_path / "onnx", "--quiet") == 0
    capsys.readouterr()
    texts = ["the film was good", "a dull plot", ""]
    answers = []
    for folder in (artifact, tmp_path / "onnx"):
        assert run("predict", folder, "--quiet", *texts) == 0
        answers.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    for ours, exported in zip(*answers, strict=True):
        assert ours["label"] == exported["label"]
        assert ours["scores"] == pytest.approx(exported["scores"], abs=1e-5)
    assert run("evaluate", tmp_path / "onnx", data, "--json", "--quiet") == 0


def test_several_labels_and_pairs(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f'{t},"{"good;long" if i % 3 else ""}"\n' for i, t in enumerate(TEXTS))
    (tmp_path / "sets.csv").write_text("text,label\n" + rows)
    out = tmp_path / "sets"
    how = ("--epochs", 1, "--quiet", "--class-weight", "balanced", *FLAGS)
    assert run("finetune", tmp_path / "sets.csv", "-m", model, "-o", out, "--label-separator", ";", *how) == 0
    assert embedkit.load(out).predict(["the film"])[0] in ([], ["good"], ["long"], ["good", "long"])
    pairs = "".join(f"{t},the film,{'same' if i % 2 else 'other'}\n" for i, t in enumerate(TEXTS))
    (tmp_path / "pairs.csv").write_text("sentence1,sentence2,label\n" + pairs)
    assert (
        run("finetune", tmp_path / "pairs.csv", "-m", model, "-o", tmp_path / "pairs", "--epochs", 1, *FLAGS) == 0
    )
    capsys.readouterr()
    assert run("predict", tmp_path / "pairs", "a film", "the plot", "--quiet") == 0
    assert json.loads(capsys.readouterr().out)["label"] in ("same", "other")


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"validation": "text,label\ngood,\n"}, 65, "missing label"),
        ({"train": "text,label\na,pos\nb,pos\nc,pos\n"}, 65, "one class"),
        ({"train": 'text,label\n"",pos\n"",neg\n"",pos\n"",neg\n'}, 65, "nothing to learn from"),
    ],
)
def test_data_that_cannot_be_learnt_from_are_refused(
    model: str,
    data: Path,
    tmp_path: Path,
    change: dict[str, str],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for file in data.iterdir():
        (tmp_path / file.name).write_text(change.get(file.stem, file.read_text()))
    missing = ("--missing-text", "empty")
    assert run("finetune", tmp_path, "-m", model, "-o", tmp_path / "o", "--epochs", 1, *missing, *FLAGS) == code
    assert said in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test.csv", "train.csv", "validation.csv"]


def test_new_labels_in_test_count_as_errors(model: str, data: Path, tmp_path: Path) -> None:
    for file in data.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "test.csv").write_text("text,label\na good film,neutral\na bad film,neutral\n")
    out = tmp_path / "o"
    assert run("finetune", tmp_path, "-m", model, "-o", out, "--epochs", 1, "--quiet", *FLAGS) == 0
    found = json.loads((out / "metrics.json").read_text())["splits"]["test"]
    assert found["accuracy"] == 0
    assert found["unseen_labels"] == ["neutral"]


def test_texts_that_are_all_cut_off_are_told(
    model: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = ("--epochs", 1, "--max-length", 6, *FLAGS)
    assert run("finetune", data, "-m", model, "-o", tmp_path / "o", *how) == 0
    assert "every training text has more than 6 tokens" in capsys.readouterr().err
    assert run("finetune", data, "-m", model, "-o", tmp_path / "p", "--max-length", 100, *FLAGS) == 2
    assert run("finetune", data, "-m", model, "-o", tmp_path / "o", *FLAGS) == 2  # it is in use


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ([0.80, 0.81, 0.82], 0),  # all within a standard error of the best: the fewest parameters
        ([0.70, 0.81, 0.82], 1),
        ([0.70, 0.71, 0.82], 2),
        ([0.82, 0.70, 0.71], 0),
    ],
)
def test_the_smallest_good_model_is_chosen(scores: list[float], chosen: int) -> None:
    """The standard error of an interval of ±0.05 is 0.0255."""
    points = [
        FreezePoint(2 - n, n, 100 * n + 1, 1.0, "macro F1", f1, (f1 - 0.05, f1 + 0.05))
        for n, f1 in enumerate(scores)
    ]
    assert choose(points) is points[chosen]
    assert choose(points[::-1]) is points[chosen]


@pytest.mark.parametrize("text", ["3", "1,1", "1,most", "", "0,-1"])
def test_sweeps_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_sweep(text, 3)
    assert parse_sweep("all", 2) == ["none", 0, 1, 2, "head-only"]


def test_a_sweep_trains_one_model_for_each_and_judges_test_once(
    model: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    how = ("--sweep-freeze", "1,head-only", "--epochs", 2, "--json", "--quiet", *FLAGS)
    assert run("finetune", data, "-m", model, "-o", out, *how) == 0
    found = json.loads(capsys.readouterr().out)
    points = found["search"]["points"]
    assert [point["freeze"] for point in points] == [1, "head-only"]
    assert points[0]["trainable"] > points[1]["trainable"] > 0
    assert set(found["splits"]) == {"validation", "test"}
    assert (out / "report" / "freeze.png").stat().st_size > 5000
    assert len((out / "report" / "freeze.csv").read_text().splitlines()) == 3
    chosen = next(point for point in points if point["freeze"] == found["search"]["chosen"])
    assert chosen["f1"] == found["splits"]["validation"]["macro_f1"]
    capsys.readouterr()
    assert run("evaluate", out, data, "--json", "--quiet") == 0
    judged = json.loads(capsys.readouterr().out)["splits"]["test"]
    assert judged["accuracy"] == found["splits"]["test"]["accuracy"]
    for wrong in (("--freeze", 1), ("--resume",), ("--eval-strategy", "no")):
        assert run("finetune", data, "-m", model, "-o", tmp_path / "x", *how, *wrong) == 2


SECOND_IS_LATE = """
import os, sys, time
from embedkit.cli.main import main
from embedkit.training import loop

save, seal = loop._Trainer._save_rng_state, loop.seal

def late(trainer, folder):
    time.sleep(2 * int(os.environ["RANK"]))
    save(trainer, folder)

def sealed(checkpoint, history, kept):
    seal(checkpoint, history, kept)
    assert "rng_state_1.pth" in (checkpoint / "embedkit.json").read_text()

loop._Trainer._save_rng_state, loop.seal = late, sealed
sys.exit(main(sys.argv[1:]))
"""


def test_two_processes_share_the_steps_and_one_writes(model: str, data: Path, tmp_path: Path) -> None:
    """As ``accelerate launch`` starts them; 160 rows in batches of 8 are 10 steps for each of two.

    The first waits for what the second keeps in a checkpoint before it seals it, and before it removes it.
    """
    script = tmp_path / "late.py"
    script.write_text(SECOND_IS_LATE)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    how = ["finetune", str(data), "-m", model, "-o", str(tmp_path / "out"), "--epochs", "1", "--json", *FLAGS]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *how], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)  # one object: the other process says nothing
    assert found["settings"]["steps"] == 10
    assert [row["step"] for row in found["history"]] == [10]
    assert embedkit.load(tmp_path / "out").predict(["a film"])[0] in ("neg", "pos")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["late.py", "out"]


def test_a_killed_run_is_gone_on_with(model: str, data: Path, tmp_path: Path) -> None:
    """kill -9 at a random step, then --resume: the weights are bit-equal to those of an undisturbed run."""
    how = [
        *("finetune", str(data), "-m", model, "--epochs", "8", "--save-steps", "7", "--quiet", "--debug", *FLAGS),
    ]
    assert run(*how, "-o", tmp_path / "a") == 0
    command = [sys.executable, "-m", "embedkit", *how, "-o", str(tmp_path / "b")]
    process = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "b.checkpoints").glob("checkpoint-*/embedkit.json"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(random.Random().random() * 0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "b").exists()
    assert run(*how, "-o", tmp_path / "b", "--resume") == 0
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert same(first, second)
    history = [json.loads((tmp_path / name / "metrics.json").read_text())["history"] for name in "ab"]
    assert history[0] == history[1]
    assert not (tmp_path / "b.checkpoints").exists()
