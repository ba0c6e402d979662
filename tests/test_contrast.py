"""Contrastive tuning: losses by hand, what a step encodes, what it moves, checkpoints, the folder."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from embedkit.encoders import EncoderSettings, FeatureExtractor
from embedkit.errors import DataError, ModelError, TrainingError, UsageError
from embedkit.estimators.frozen import copy_encoder
from embedkit.estimators.tuned_encoder import write_encoder
from embedkit.training import contrast
from embedkit.training.contrast import (
    ContrastSettings,
    TunedEncoder,
    cosine_loss,
    supcon_loss,
    tune_encoder,
    usual_training,
    with_pooling,
)
from embedkit.training.loop import Place
from embedkit.training.pairs import PairCounts, PairPlan, PairSettings
from embedkit.training.sequence import Labelled
from tests.tiny_models import FAMILIES, make_encoder, make_sentence_transformer

pytestmark = pytest.mark.usefixtures("one_torch_thread", "little_garbage")

GOOD = ("good", "great", "best", "fine", "fresh", "moving", "brilliant", "beautiful")
BAD = ("bad", "worst", "dull", "boring", "terrible", "awful", "never", "old")
TEXTS = [f"the {noun} was {word}" for word in GOOD + BAD for noun in ("film", "movie story")]
CODES = np.repeat([0, 1], 16)
DATA = Labelled(TEXTS, CODES)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sentence_transformer(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("models") / "plain", "bert", layers=2)


def told(loss: Any = "cosine", pairs: PairSettings | None = None, **training: Any) -> ContrastSettings:
    usual = {"epochs": 3.0, "learning_rate": 1e-3, "precision": "float32", "threads": 1, "seed": 0}
    return ContrastSettings(
        pairs or PairSettings(), loss, training=replace(usual_training(), **{**usual, **training})
    )


def tuned(model: Path, data: Labelled = DATA, how: ContrastSettings | None = None, **more: Any) -> TunedEncoder:
    base = FeatureExtractor(EncoderSettings(model, **more.pop("encoder", {})))
    return tune_encoder(base, data, how or told(), **more)


def weights_of(found: TunedEncoder) -> dict[str, torch.Tensor]:
    return dict(found.model.state_dict())


def same(one: TunedEncoder, other: TunedEncoder) -> bool:
    first, second = weights_of(one), weights_of(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def lost(vectors: np.ndarray[Any, Any], loss: str) -> float:
    """Return the loss over all pairs."""
    first, second = (torch.from_numpy(places) for places in np.triu_indices(len(CODES), 1))
    pairs = first, second, torch.from_numpy(CODES)[first] == torch.from_numpy(CODES)[second]
    rows = torch.from_numpy(vectors)
    return (cosine_loss(rows, *pairs) if loss == "cosine" else supcon_loss(rows, *pairs, temperature=0.1)).item()


# ------------------------------------------------------------------------------------------------- losses


def test_cosine_loss_by_hand() -> None:
    rows = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    first, second = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 2])
    found = cosine_loss(rows, first, second, torch.tensor([False, True, True]))
    assert found.item() == pytest.approx(2 * (1 - math.sqrt(0.5)) ** 2 / 3)


def test_supcon_loss_by_hand() -> None:
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 5.0]])
    first, second = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 2])
    found = supcon_loss(rows, first, second, torch.tensor([True, False, False]), temperature=0.5)
    assert found.item() == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + 1)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=12), st.integers(0, 99), st.floats(0.05, 2.0))
def test_supcon_over_all_pairs_is_that_of_the_paper(codes: list[int], seed: int, temperature: float) -> None:
    rows = torch.randn(len(codes), 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    pairs = list(itertools.combinations(range(len(codes)), 2))
    first, second = (torch.tensor(side) for side in zip(*pairs, strict=True))
    positive = torch.tensor([codes[one] == codes[other] for one, other in pairs])
    unit = rows / rows.norm(dim=1, keepdim=True)
    each = []
    for i, code in enumerate(codes):
        others = [a for a in range(len(codes)) if a != i]
        alike = [p for p in others if codes[p] == code]
        below = sum(math.exp(float(unit[i] @ unit[a]) / temperature) for a in others)
        if alike:
            logs = [float(unit[i] @ unit[p]) / temperature - math.log(below) for p in alike]
            each.append(-sum(logs) / len(alike))
    found = supcon_loss(rows, first, second, positive, temperature=temperature).item()
    assert found == pytest.approx(sum(each) / len(each) if each else 0.0, abs=1e-9)


def test_rows_in_no_pair_have_no_part_in_the_loss() -> None:
    """The last of four rows is in none: its gradient is zero, and all are numbers."""
    rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    pairs = torch.tensor([0, 0]), torch.tensor([1, 2]), torch.tensor([True, False])
    for found in (supcon_loss(rows, *pairs, temperature=0.1), cosine_loss(rows, *pairs)):
        (moved,) = torch.autograd.grad(found, rows)
        assert torch.isfinite(moved).all()
        assert (moved.abs().sum(dim=1) > 0).tolist() == [True, True, True, False]


@pytest.mark.parametrize("loss", ["cosine", "supcon"])
def test_no_pairs_and_no_positive_ones_give_a_loss_that_moves_nothing_or_little(loss: str) -> None:
    rows = torch.eye(3, requires_grad=True)
    none = torch.empty(0, dtype=torch.int64)
    step = {"views": torch.arange(3)[:, None], "first": none, "second": none, "positive": none.bool()}

    class Given(torch.nn.Module):
        def forward(self, features: Any) -> Any:
            return {"sentence_embedding": rows}

    found = contrast._Loss(Given(), told(loss))([{}], step)  # type: ignore[arg-type]
    found.backward()
    assert found.item() == 0
    assert rows.grad is not None
    assert not rows.grad.any()


# ---------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("loss", ["cosine", "supcon"])
@pytest.mark.parametrize(
    "pairs",
    [PairSettings(), PairSettings("undersampling"), PairSettings("unique"), PairSettings(iterations=8)],
    ids=lambda pairs: str(pairs.iterations or pairs.strategy),
)
def test_texts_of_a_class_come_together(model: Path, loss: Any, pairs: PairSettings) -> None:
    found = tuned(model, how=told(loss, pairs, epochs=8.0, batch_size=16, learning_rate=3e-3))
    before = FeatureExtractor(EncoderSettings(model)).transform(TEXTS).vectors
    with torch.inference_mode():
        body = contrast.open_sentence_model(found.base)
        body[0].model = found.model
        after = body.encode(TEXTS)
    assert lost(after, loss) < 0.97 * lost(before, loss)
    assert found.counts.steps == 16
    assert found.counts.texts == 8 * 32
    assert found.precision == "float32"
    assert found.notes == []


def test_each_text_is_encoded_once_a_step(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """256 pairs of 16 texts and more, but the model sees 16 texts."""
    seen: list[int] = []
    forward = SentenceTransformer.forward

    def counting(self: Any, features: dict[str, torch.Tensor], **more: Any) -> Any:
        seen.append(len(features["input_ids"]))
        return forward(self, features, **more)

    monkeypatch.setattr(SentenceTransformer, "forward", counting)
    found = tuned(model, how=told(epochs=2.0, batch_size=16))
    assert sum(seen) == found.counts.texts == 64
    assert found.counts.pairs == 4 * 2 * 64


def test_what_will_be_done_is_said_before_it_is(model: Path) -> None:
    said: list[str] = []
    done: list[int] = []
    tuned(model, how=told(pairs=PairSettings(iterations=2)), say=said.append, progress=done.append)
    assert said == [
        "128 pairs (64 positive, 64 negative) among 32 texts; 2 passes in 2 steps encode 64 texts (loss cosine, "
        "learning rate 0.001, float32, seed 0)"
    ]
    assert done == [1, 1]


@pytest.mark.parametrize(("longest", "lengths"), [(64, {16, 32, 48}), (40, {16, 32, 40})])
def test_batches_have_few_shapes(
    model: Path, monkeypatch: pytest.MonkeyPatch, longest: int, lengths: set[int]
) -> None:
    """Each shape costs kernels that are compiled and kept; no batch is longer than what the model reads."""
    seen: list[tuple[int, ...]] = []
    forward = SentenceTransformer.forward

    def looking(self: Any, features: dict[str, torch.Tensor], **more: Any) -> Any:
        seen.append(tuple(features["input_ids"].shape))
        assert features["attention_mask"].sum(dim=1).min() > 2
        return forward(self, features, **more)

    monkeypatch.setattr(SentenceTransformer, "forward", looking)
    texts = ["good " * count for count in range(1, 41)]
    data = Labelled(texts, np.arange(40) % 2)
    tuned(model, data, told(batch_size=20, epochs=4.0), encoder={"max_length": longest})
    assert {16, max(lengths)} <= {length for _, length in seen} <= lengths
    assert {rows for rows, _ in seen} == {16, 4}


def test_each_pass_is_dealt_anew(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Trainer tells the pass before it asks for its steps."""
    asked: list[tuple[int, int]] = []
    step = PairPlan.step

    def noted(self: PairPlan, epoch: int, place: int) -> Any:
        asked.append((epoch, place))
        return step(self, epoch, place)

    monkeypatch.setattr(PairPlan, "step", noted)
    tuned(model, how=told(epochs=3.0, batch_size=16))
    assert asked == list(itertools.product(range(3), range(2)))


def test_a_run_depends_on_its_seed_alone(model: Path) -> None:
    how = told(batch_size=8)
    first = tuned(model, how=how)
    torch.rand(7)
    assert same(first, tuned(model, how=how))
    assert not same(first, tuned(model, how=told(batch_size=8, seed=1)))


def test_chance_and_settings_of_torch_stay_as_they_were(model: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    tuned(model)
    assert torch.equal(torch.rand(3), expected)


def test_no_positive_pair_leaves_the_encoder_as_it_is(model: Path) -> None:
    said: list[str] = []
    found = tuned(model, Labelled(TEXTS[:2] + TEXTS[-1:], np.array([0, 1, 2])), say=said.append)
    base = contrast.open_sentence_model(found.base).transformers_model.state_dict()
    assert all(torch.equal(base[name], value) for name, value in weights_of(found).items())
    assert found.counts.pairs == found.counts.steps == 0
    assert said == ["there are no pairs to tune by"]
    assert "nothing to tune by" in found.notes[0]


@pytest.mark.parametrize(
    ("targets", "texts"), [(CODES, 2), (np.ones((32, 1), np.bool_), 32)], ids=["steps of two", "one label for all"]
)
def test_steps_without_pairs_of_both_kinds_leave_the_encoder_as_it_is_and_say_so(
    model: Path, targets: Any, texts: int
) -> None:
    found = tuned(model, Labelled(TEXTS, targets), told(batch_size=texts))
    base = contrast.open_sentence_model(found.base).transformers_model.state_dict()
    assert all(torch.equal(base[name], value) for name, value in weights_of(found).items())
    assert found.counts == PairCounts()
    assert [note for note in found.notes if "nothing to tune by" in note and "--strategy unique" in note]
    unique = told(pairs=PairSettings("unique"), batch_size=texts)
    assert tuned(model, Labelled(TEXTS, targets), unique).counts.pairs


def test_several_labels(model: Path) -> None:
    targets = np.stack([CODES == 0, np.arange(32) % 2 == 0], axis=1)
    found = tuned(model, Labelled(TEXTS, targets))
    assert found.counts.positive == found.counts.negative > 0


@pytest.mark.parametrize("pairs", ["cross", "bi"])
def test_pairs_of_texts(model: Path, pairs: str) -> None:
    inputs = list(zip(TEXTS, TEXTS[1:] + TEXTS[:1], strict=True))
    found = tuned(model, Labelled(inputs, CODES), encoder={"pairs": pairs})
    # read apart, each of the 32 texts is in two pairs, and encoded once a step all the same
    assert found.counts.texts == 3 * 32
    before = FeatureExtractor(found.base.settings).transform(inputs).vectors
    assert before.shape[1] == (4 if pairs == "bi" else 1) * 32


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, tmp_path: Path) -> None:
    model = make_encoder(tmp_path / family, family, layers=2)
    settings_, notes = with_pooling(EncoderSettings(model))
    assert settings_.pooling == "mean"
    assert "no sentence encoder" in notes[0]
    found = tune_encoder(FeatureExtractor(settings_), DATA, told(epochs=1.0))
    (tmp_path / "tuned").mkdir()
    after = FeatureExtractor(write_encoder(tmp_path / "tuned", found)).transform(TEXTS).vectors
    theirs = SentenceTransformer(str(tmp_path / "tuned"), device="cpu", trust_remote_code=False).encode(TEXTS)
    np.testing.assert_allclose(after, theirs, atol=1e-5)


def test_the_folder_of_a_sentence_encoder_says_its_pooling(model: Path) -> None:
    given = EncoderSettings(model)
    assert with_pooling(given) == (given, [])
    asked = EncoderSettings(model, pooling="cls")
    assert with_pooling(asked) == (asked, [])


# --------------------------------------------------------------------------------------------- the folder


@pytest.mark.parametrize(
    "encoder", [{}, {"pooling": "cls", "normalize": False}, {"max_length": 6}, {"prompt": "good : "}]
)
def test_the_folder_answers_as_sentence_transformers_does(
    model: Path, tmp_path: Path, encoder: dict[str, Any]
) -> None:
    found = tuned(model, encoder=encoder)
    settings_ = write_encoder(tmp_path, found)
    ours = FeatureExtractor(settings_)
    texts = [*TEXTS, " ".join(TEXTS), "Good", "?"]
    theirs = SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=False).encode(texts)
    np.testing.assert_allclose(ours.transform(texts).vectors, theirs, atol=1e-5)
    assert ours.recipe == FeatureExtractor(EncoderSettings(model, **encoder)).recipe
    assert ours.weights != found.base.weights
    assert ours.space() != found.base.space()
    assert FeatureExtractor(EncoderSettings(tmp_path)).space() == ours.space()  # its files alone say the same
    assert not list(tmp_path.rglob("*.bin"))
    assert not list(tmp_path.rglob("README*"))


def test_a_pooler_drawn_by_chance_is_not_written(plain: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    lacking = tmp_path / "lacking"
    copy_encoder(plain, _made(lacking))
    weights = load_file(lacking / "model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if "pooler" not in name}, lacking / "model.safetensors"
    )
    found = tuned(lacking, encoder={"pooling": "mean"})
    write_encoder(_made(tmp_path / "tuned"), found)
    assert not any("pooler" in name for name in load_file(tmp_path / "tuned" / "model.safetensors"))


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


# ------------------------------------------------------------------------------------------- checkpoints


class Stop(Exception):  # noqa: N818 - no error
    """What ends a run in the middle."""


def test_an_interrupted_run_is_gone_on_with(model: Path, tmp_path: Path) -> None:
    how = told(epochs=3.0, batch_size=8, save_steps=2)  # 12 steps
    undisturbed = tuned(model, how=how)
    steps: list[int] = []

    def stop(count: int) -> None:
        steps.append(count)
        if len(steps) == 7:
            raise Stop

    with pytest.raises(Stop):
        tuned(model, how=how, place=Place(tmp_path), progress=stop)
    kept = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert kept == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    assert not list(tmp_path.rglob("training_args.bin"))
    assert not list(tmp_path.rglob("README.md"))
    SentenceTransformer(str(tmp_path / kept[-1]), device="cpu", trust_remote_code=False).encode(["good"])
    resumed = tuned(model, how=how, place=Place(tmp_path, resume=True))
    assert "going on from step 6" in resumed.notes
    assert same(undisturbed, resumed)


def test_a_loss_that_is_no_number_ends_the_run(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrast, "cosine_loss", lambda rows, *pairs: rows.sum() * math.nan)
    with pytest.raises(TrainingError, match="loss is nan at step 1"):
        tuned(model)


# --------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ({"layers": 1}, "leave --layers at -1"),
        ({"pooling": "cls+mean"}, "takes one pooling"),
        ({"pooling": "pooler"}, "takes one pooling"),
        ({"long": "mean"}, "leave --long at truncate"),
        ({"precision": "bfloat16"}, "computed in float32"),
    ],
)
def test_what_cannot_be_tuned_is_refused(model: Path, encoder: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tuned(model, encoder=encoder)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"loss": "triplet"}, "allowed: cosine, supcon"),
        ({"temperature": 0.0}, "above 0"),
        ({"training": replace(usual_training(), batch_size=1)}, "two texts for a pair"),
        ({"training": replace(usual_training(), eval_strategy="epoch")}, "judges nothing"),
        ({"training": replace(usual_training(), freeze=1)}, "freezes nothing"),
    ],
)
def test_wrong_settings_are_refused(given_: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ContrastSettings(**given_)


@pytest.mark.parametrize(("hidden", "rate"), [(32, 2e-4), (384, 2e-4), (768, 1e-4), (1024, 7.5e-5)])
def test_wide_encoders_learn_in_smaller_steps(hidden: int, rate: float) -> None:
    assert ContrastSettings().rate(hidden) == pytest.approx(rate)
    asked = ContrastSettings(training=replace(usual_training(), learning_rate=1e-3))
    assert asked.rate(hidden) == 1e-3


def test_several_processes_are_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="one process; start it without accelerate launch"):
        tuned(model)


def test_settings_are_json() -> None:
    found = ContrastSettings(PairSettings(iterations=4)).to_json()
    assert json.loads(json.dumps(found)) == found
    assert (found["epochs"], found["pair_iterations"], found["strategy"]) == (4, 4, None)


def test_equal_texts_and_texts_of_nothing_are_refused(model: Path) -> None:
    with pytest.raises(DataError, match="all texts are equal"):
        tuned(model, Labelled(["good"] * 4, np.array([0, 0, 1, 1])))
    with pytest.raises(DataError, match="nothing to learn from"):
        tuned(model, Labelled(["", " ", "  ", "   "], np.array([0, 0, 1, 1])))


def test_texts_that_lose_tokens_are_said(model: Path) -> None:
    found = tuned(model, encoder={"max_length": 6})
    assert found.notes == ["16 of 32 texts that were tuned on have more than 6 tokens"]


def test_a_folder_that_cannot_be_opened_is_said(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **more: Any) -> Any:
        raise ValueError("no such thing")

    monkeypatch.setattr(contrast, "Transformer", fail)
    with pytest.raises(ModelError, match="sentence-transformers cannot open this model: no such thing"):
        tuned(model)
