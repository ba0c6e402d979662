"""setfit as the reference: it is the library itself, its head is taken over, and nothing of it stays behind."""

from __future__ import annotations

import logging
import os
import random
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from transformers import PrinterCallback

from embedkit.encoders import EncoderSettings, FeatureExtractor
from embedkit.errors import DataError, MissingExtraError, TrainingError, UsageError
from embedkit.heads import LinearHead
from embedkit.training.reference import (
    SetFitSettings,
    SetFitTuned,
    check_setfit,
    count_setfit_pairs,
    tune_setfit,
)
from embedkit.training.sequence import Labelled
from tests.tiny_models import make_encoder, make_sentence_transformer

pytestmark = pytest.mark.usefixtures("one_torch_thread", "little_garbage")

GOOD, BAD = ("good", "great", "brilliant", "moving"), ("bad", "dull", "boring", "awful")
TEXTS = [f"the {noun} was {word}" for noun in ("film", "plot", "music") for word in (*GOOD, *BAD)]
NEW = [f"a {word} {noun}" for noun in ("story", "script", "drama") for word in (*GOOD, *BAD, "", "new")]
NOUNS = np.array([("film", "plot", "music").index(text.split()[1]) for text in TEXTS])
RIGHT = np.array([text.split()[-1] in GOOD for text in TEXTS])
TARGETS: dict[str, NDArray[Any]] = {
    "two classes": RIGHT.astype(np.int64),
    "three classes": NOUNS,
    "several labels": np.column_stack([RIGHT, NOUNS == 1, ~RIGHT & (NOUNS == 0)]),
}
QUICK = SetFitSettings(iterations=3, learning_rate=1e-3, seed=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sentence_transformer(tmp_path_factory.mktemp("models") / "m", "bert", new_style=True)


def base_of(model: Path, **how: Any) -> FeatureExtractor:
    return FeatureExtractor(EncoderSettings(str(model), **how))


def as_its_readme_has_it(model: Path, targets: NDArray[Any], place: Path, told: SetFitSettings) -> Any:
    """Run setfit by itself."""
    from datasets import Dataset, disable_progress_bars
    from setfit import SetFitModel, Trainer, TrainingArguments

    disable_progress_bars()
    several = targets.ndim == 2
    body = SentenceTransformer(str(model), device="cpu", trust_remote_code=False, local_files_only=True)
    head = OneVsRestClassifier(LogisticRegression()) if several else LogisticRegression()
    mine = SetFitModel(body, head, multi_target_strategy="one-vs-rest" if several else None)
    rows = Dataset.from_dict({"text": TEXTS, "label": targets.astype(int).tolist()})
    arguments = TrainingArguments(
        output_dir=str(place), num_iterations=told.iterations, sampling_strategy=told.strategy,
        body_learning_rate=told.learning_rate, seed=told.seed, report_to="none", show_progress_bar=False,
    )  # fmt: skip
    trainer = Trainer(model=mine, args=arguments, train_dataset=rows)
    trainer.remove_callback(PrinterCallback)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train()
    return mine


def vectors(tuned: SetFitTuned, folder: Path, model: Path, texts: list[str]) -> NDArray[np.float32]:
    """Return what the tuned weights give, pooled as before."""
    source = make_copy(model, folder)
    tuned.encoder.model.save_pretrained(source)
    return base_of(source).transform(texts).vectors


def make_copy(model: Path, folder: Path) -> Path:
    for path in model.rglob("*"):
        if path.is_file():
            there = folder / path.relative_to(model)
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize(
    ("sets", "missing"),
    [([[True, False]] * 4, "no pair without"), (np.eye(4, dtype=bool)[:, :2] * 0, "in common")],
)
def test_pairs_that_are_not_there_are_not_balanced(model: Path, sets: Any, missing: str) -> None:
    """setfit would take the first of none."""
    data = Labelled(TEXTS[:4], np.array(sets, dtype=bool))
    with pytest.raises(DataError, match=missing):
        tune_setfit(base_of(model), data, QUICK)


@pytest.mark.parametrize("case", TARGETS)
def test_it_answers_as_setfit_itself_does(model: Path, case: str, tmp_path: Path) -> None:
    """To the bit the same weights; what setfit's own `predict` says of new texts."""
    targets = TARGETS[case]
    theirs = as_its_readme_has_it(model, targets, tmp_path / "theirs", QUICK)
    tuned = tune_setfit(base_of(model), Labelled(TEXTS, targets), QUICK)
    expected = theirs.model_body.transformers_model.state_dict()
    found = tuned.encoder.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    before = base_of(model).transform(TEXTS).vectors
    after = vectors(tuned, tmp_path / "tuned", model, [*TEXTS, *NEW])
    assert np.abs(after[: len(TEXTS)] - before).max() > 0.01
    assert isinstance(tuned.head, LinearHead)
    answers = theirs.predict([*TEXTS, *NEW], as_numpy=True)
    np.testing.assert_array_equal(tuned.head.predict(after), answers)
    assert 0 < answers[len(TEXTS) :].mean() < answers.max()
    shares = theirs.predict_proba([*TEXTS, *NEW], as_numpy=True)
    np.testing.assert_allclose(tuned.head.predict_proba(after), shares, atol=1e-5)


def test_a_strategy_instead_of_iterations(model: Path, tmp_path: Path) -> None:
    told = SetFitSettings(iterations=None, strategy="undersampling", seed=5)
    theirs = as_its_readme_has_it(model, RIGHT.astype(int), tmp_path / "theirs", told)
    tuned = tune_setfit(base_of(model), Labelled(TEXTS, RIGHT.astype(int)), told)
    expected = theirs.model_body.transformers_model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tuned.encoder.model.state_dict().items())


def test_a_model_that_is_no_sentence_encoder_is_pooled_as_asked(tmp_path: Path) -> None:
    plain = make_encoder(tmp_path / "plain", "bert", layers=1)
    tuned = tune_setfit(base_of(plain, pooling="mean"), Labelled(TEXTS, RIGHT.astype(int)), QUICK)
    assert tuned.head.n_features == 32
    with pytest.raises(UsageError, match="--layers"):
        tune_setfit(base_of(plain, layers=(0,)), Labelled(TEXTS, RIGHT.astype(int)), QUICK)


# ------------------------------------------------------------------------------------------------ how much


labelled = st.one_of(
    st.lists(st.integers(0, 3), min_size=2, max_size=12).map(lambda codes: np.array(codes, np.int64)),
    st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=2, max_size=12).map(np.array),
)


@settings(max_examples=60, deadline=None)
@given(
    targets=labelled,
    strategy=st.sampled_from(["oversampling", "undersampling", "unique"]),
    iterations=st.sampled_from([None, 1, 4]),
    epochs=st.integers(1, 3),
    batch_size=st.integers(1, 40),
)
def test_pairs_are_counted_as_setfit_draws_them(
    targets: NDArray[Any], strategy: Any, iterations: int | None, epochs: int, batch_size: int
) -> None:
    from setfit.sampler import ContrastiveDataset

    told = SetFitSettings(iterations, strategy, epochs=epochs, batch_size=batch_size)
    counts = count_setfit_pairs(targets, told)
    texts = [str(row) for row in range(len(targets))]
    theirs = ContrastiveDataset(texts, targets.astype(int).tolist(), targets.ndim == 2, iterations, strategy)
    assert (counts.positive, counts.negative) == (epochs * theirs.len_pos_pairs, epochs * theirs.len_neg_pairs)
    assert counts.texts == 2 * counts.pairs
    assert counts.steps == epochs * -(-len(theirs) // batch_size)


def test_iterations_are_counted_without_looking_at_all_pairs() -> None:
    targets = np.arange(100_000) % 3  # whose matrix would be 10 GB
    assert count_setfit_pairs(targets, SetFitSettings()).pairs == 4_000_000


def test_the_usual_number_of_pairs(model: Path) -> None:
    assert count_setfit_pairs(np.repeat([0, 1], 16), SetFitSettings()).pairs == 1280
    said: list[str] = []
    tune_setfit(base_of(model), Labelled(TEXTS, RIGHT.astype(int)), SetFitSettings(1), say=said.append)
    assert said == ["setfit: 48 pairs in 3 steps encode 96 texts, two a pair (seed 42)"]


# ------------------------------------------------------------------------------------------------ containment


def process_state() -> list[Any]:
    of_numpy = str(np.random.get_state())  # noqa: NPY002
    levels = [logging.getLogger(name).level for name in ("setfit", "transformers", "sentence_transformers")]
    return [
        random.getstate(),
        of_numpy,
        torch.get_rng_state().tolist(),
        dict(os.environ),
        warnings.filters,
        levels,
    ]


def test_nothing_is_printed_or_changed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    import setfit  # noqa: F401 - its import changes the level of its own logger, and the filters of warnings

    before, threads = process_state(), torch.get_num_threads()
    tuned = tune_setfit(base_of(model), Labelled(TEXTS, RIGHT.astype(int)), SetFitSettings(1, threads=2))
    assert process_state() == before
    assert torch.get_num_threads() == threads
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    assert not any(weight.requires_grad for weight in tuned.encoder.model.parameters())
    assert not tuned.encoder.model.training


def test_a_head_that_does_not_converge_is_noted(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = LogisticRegression.fit

    def impatient(self: LogisticRegression, X: Any, y: Any) -> LogisticRegression:  # noqa: N803
        return fit(self.set_params(max_iter=1), X, y)

    monkeypatch.setattr(LogisticRegression, "fit", impatient)
    tuned = tune_setfit(base_of(model), Labelled(TEXTS, NOUNS), SetFitSettings(1))
    assert len(tuned.encoder.notes) == 1
    assert tuned.encoder.notes[0].startswith("setfit's head: lbfgs failed to converge")


def test_threads_take_turns(model: Path) -> None:
    """What setfit changes in a process is put back by the last of them too."""
    import setfit  # noqa: F401 - as above

    before = process_state()
    with ThreadPoolExecutor(2) as threads:
        data = Labelled(TEXTS, RIGHT.astype(int))
        runs = [threads.submit(tune_setfit, base_of(model), data, SetFitSettings(1)) for _ in range(2)]
        heads = [run.result(120).head for run in runs]
    assert [head.n_features for head in heads] == [32, 32]
    assert process_state() == before


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA"), RuntimeError("can't allocate memory")]
)
def test_full_memory_is_said(model: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("setfit.Trainer.train", fail)
    before = process_state()
    with pytest.raises(TrainingError, match=r"steps of 16 pairs of texts of up to \d+ tokens; lower --batch-size"):
        tune_setfit(base_of(model), Labelled(TEXTS, RIGHT.astype(int)), QUICK)
    assert process_state() == before


def test_other_errors_stay_as_they_are(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("another")

    monkeypatch.setattr("setfit.Trainer.train", fail)
    with pytest.raises(RuntimeError, match="another"):
        tune_setfit(base_of(model), Labelled(TEXTS, RIGHT.astype(int)), QUICK)


def test_weights_that_are_no_numbers_are_said(model: Path) -> None:
    with pytest.raises(TrainingError, match="no numbers any more; lower --learning-rate"):
        tune_setfit(base_of(model), Labelled(TEXTS, NOUNS), SetFitSettings(2, batch_size=4, learning_rate=1e38))


def test_a_pickle_in_the_folder_is_not_read(model: Path, tmp_path: Path) -> None:
    folder = make_copy(model, tmp_path / "trapped")
    (folder / "model_head.pkl").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    tune_setfit(base_of(folder), Labelled(TEXTS, RIGHT.astype(int)), SetFitSettings(1))
    assert not (tmp_path / "ran").exists()


# ------------------------------------------------------------------------------------------------ refused


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"the tuner setfit needs .*pip install 'embedkit\[setfit\]'"):
        check_setfit(TEXTS)


def test_pairs_are_refused(model: Path) -> None:
    pairs = [(text, "a film") for text in TEXTS]
    with pytest.raises(UsageError, match="setfit knows no pairs of texts"):
        tune_setfit(base_of(model), Labelled(pairs, RIGHT.astype(int)), QUICK)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"iterations": 0}, "pair_iterations is 0; setfit takes a whole number from 1 up"),
        ({"iterations": 1.5}, "pair_iterations is 1.5"),
        ({"epochs": 0.5}, "epochs is 0.5; setfit takes a whole number"),
        ({"batch_size": True}, "batch_size is True"),
        ({"strategy": "all"}, "strategy is 'all'; allowed: oversampling, undersampling, unique"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
    ],
)
def test_settings_that_are_none(how: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        SetFitSettings(**how)
