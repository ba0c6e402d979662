"""Contrastive tuning of a sentence encoder, through the trainer of sentence-transformers.

Each step encodes each of its texts once and takes the loss over the pairs among them (`embedkit.training.pairs`),
so that its cost follows the texts and not the pairs; texts of like lengths go through the model together.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from embedkit.data.text import counted
from embedkit.encoders import EncoderSettings, FeatureExtractor
from embedkit.encoders.torch_encoder import load_model, loading, takes_types
from embedkit.errors import DataError, ModelError, UsageError
from embedkit.hub import resolve_model
from embedkit.runtime.model_folder import read_modules
from embedkit.runtime.tokens import Text
from embedkit.training.checkpoints import newest_whole
from embedkit.training.loop import (
    Guarded,
    Place,
    arguments_of,
    check_told,
    compute_of,
    put_weights,
    surroundings,
)
from embedkit.training.pairs import EPOCHS, LOSSES, LossName, PairCounts, PairPlan, PairSettings
from embedkit.training.rows import padded_inputs
from embedkit.training.sequence import Labelled
from embedkit.training.settings import TuneSettings

TEXTS = 32  # of a step
RATE, WIDTH = 2e-4, 384  # of encoders with states so wide; of wider ones in proportion less
TEMPERATURE = 0.1
# Steps are dealt anew in each pass. Were their batches of any shape, oneDNN would compile and keep kernels for
# each: 0.7 GB in 30 steps of short texts. Of 16 texts and lengths in sixteens there are few.
_TOGETHER, _MULTIPLE = 16, 16
# What sentence-transformers calls our poolings.
_MODES = {
    "cls": "cls",
    "mean": "mean",
    "max": "max",
    "mean_sqrt_len": "mean_sqrt_len_tokens",
    "last": "lasttoken",
}
# What the Trainer is not told here: steps and their texts are `PairPlan`'s, and nothing is judged.
_OTHERWISE = {
    "max_steps": "--epochs",
    **dict.fromkeys(
        ("eval_strategy", "eval_steps", "metric_for_best_model", "gradient_accumulation_steps",
         "gradient_checkpointing", "activation_checkpointing", "label_smoothing_factor", "auto_find_batch_size",
         "dataloader_drop_last", "dataloader_num_workers", "dataloader_pin_memory",
         "dataloader_persistent_workers", "dataloader_prefetch_factor"),
        "",
    ),
}  # fmt: skip
_NO_PAIRS = (
    "no step holds both a pair with a label in common and one without, so there is nothing to tune by; give texts "
    "of more labels, a larger --batch-size, or --strategy unique"
)


def usual_training() -> TuneSettings:
    """Return how long, how fast and in what steps an encoder is tuned where nothing else is said."""
    return TuneSettings(epochs=EPOCHS, batch_size=TEXTS, eval_strategy="no")


@dataclass(frozen=True)
class ContrastSettings:
    """How an encoder is tuned by pairs.

    Attributes
    ----------
    pairs : PairSettings
        Its iterations, where there are some, stand for the epochs of `training`.
    loss : {"cosine", "supcon"}
        The mean squared difference between the cosine of two vectors and 1 (a label in common) or 0, as SetFit has
        it (Tunstall et al., 2022); or supervised contrastive over the pairs of a step, L_out of Khosla et al.
        (2020).
    temperature : float, default 0.1
        Of supcon.
    training : TuneSettings
        ``batch_size`` is the texts of a step, ``epochs`` are passes over all texts. Nothing is judged meanwhile,
        and all weights learn. Default: `usual_training`.

    Raises
    ------
    UsageError
        A value is not allowed.
    """

    pairs: PairSettings = field(default_factory=PairSettings)
    loss: LossName = "cosine"
    temperature: float = TEMPERATURE
    training: TuneSettings = field(default_factory=usual_training)

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise UsageError(f"loss is {self.loss!r}; allowed: {', '.join(LOSSES)}")
        if not 0 < self.temperature < math.inf:
            raise UsageError(f"temperature is {self.temperature!r}; it must be above 0")
        if self.training.batch_size < 2:
            raise UsageError("batch_size is 1; a step needs two texts for a pair")
        if self.training.eval_strategy != "no" or self.training.freeze != "none":
            raise UsageError("contrastive tuning judges nothing and freezes nothing; leave both out")

    @property
    def epochs(self) -> float:
        """Passes over the texts."""
        return self.pairs.iterations or self.training.epochs

    def rate(self, hidden: int) -> float:
        """Return the highest learning rate of an encoder with states of so many numbers.

        Where none is asked for it is inverse to the width, as the best rate of Adam is (Yang et al., 2022, "Tensor
        Programs V").
        """
        return self.training.learning_rate or RATE * min(1.0, WIDTH / hidden)

    def to_json(self) -> dict[str, Any]:
        """Return all that a tuned encoder depends on but the seed."""
        told = self.training
        return {
            "strategy": self.pairs.strategy if self.pairs.iterations is None else None,
            "pair_iterations": self.pairs.iterations,
            "loss": self.loss,
            "temperature": self.temperature if self.loss == "supcon" else None,
            "epochs": self.epochs,
            "learning_rate": self.training.learning_rate,
            **{name: getattr(told, name) for name in ("batch_size", "weight_decay", "warmup", "accumulation")},
            "arguments": dict(told.arguments),
        }


@dataclass(eq=False)
class TunedEncoder:
    """An encoder whose weights were moved by pairs.

    Attributes
    ----------
    model : transformers.PreTrainedModel
        Frozen, on the CPU, in float32.
    base : FeatureExtractor
        What tuning began from.
    counts : PairCounts
        All zero where there was nothing to tune by: the weights are then those of `base`.
    precision : str
        Of matrix products.
    rate : float
        Highest learning rate.
    seconds : float
        Wall time, without opening the model.
    notes : list of str
    """

    model: Any
    base: FeatureExtractor
    counts: PairCounts
    precision: str
    rate: float
    seconds: float
    notes: list[str] = field(default_factory=list)


def tune_encoder(
    base: FeatureExtractor,
    data: Labelled,
    settings: ContrastSettings,
    *,
    place: Place | None = None,
    say: Callable[[str], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> TunedEncoder:
    """Tune an encoder so that texts of a class lie together.

    Where no two texts have a label in common, or no step has the pairs that the strategy wants, there is nothing
    to tune by: the encoder stays as it is, and a note says so.

    Parameters
    ----------
    base : FeatureExtractor
        The encoder and what is taken from it; see `check_tunable`.
    data : Labelled
        Few texts or pairs, with codes or sets of labels.
    settings : ContrastSettings
    place : Place, optional
        Where checkpoints are kept, with ``settings.training.save_steps``.
    say : callable, optional
        Given a line on pairs, texts and steps before training.
    progress : callable, optional
        Told of each finished step.

    Raises
    ------
    UsageError
        What is taken from the encoder cannot be tuned, or a setting is not what the machine has.
    DataError
        There are not two texts that could be a pair, or no text holds a token.
    ModelError
        The model cannot be opened.
    TrainingError
        The loss is no number, or memory is full.
    """
    check_contrast(settings)
    check_tunable(base)
    plan_ = PairPlan(
        data.inputs,
        data.targets,
        settings.pairs,
        texts=settings.training.batch_size,
        seed=settings.training.seed,
    )
    model = open_sentence_model(base)
    steps = _Steps(base, data.inputs, plan_, types=takes_types(model.transformers_model.config))
    counts, notes = steps.count(settings.epochs) if plan_.has_positive else PairCounts(), list(plan_.notes)
    if plan_.has_positive and not counts.pairs:
        counts, notes = PairCounts(), [*notes, _NO_PAIRS]
    rate = settings.rate(base.folder.hidden)
    if say is not None:
        say(_said(counts, plan_, settings, rate))
    start = time.perf_counter()
    if counts.pairs:
        notes += _train(model, steps, settings, place or Place(), progress)
    model.to("cpu").eval().requires_grad_(False)
    seconds, (_, precision) = time.perf_counter() - start, compute_of(settings.training)
    return TunedEncoder(model.transformers_model, base, counts, precision, rate, seconds, [*notes, *steps.notes])


def with_pooling(settings: EncoderSettings) -> tuple[EncoderSettings, list[str]]:
    """Return settings with the mean as pooling where the model's folder says none, and a note that says so.

    Raises
    ------
    InputMissingError, UsageError, ModelError, HubError
        The model is not there.
    """
    resolved = resolve_model(settings.model, revision=settings.revision)
    if settings.pooling is not None or read_modules(resolved.folder):
        return settings, []
    note = (
        f"{resolved.name} is no sentence encoder (its folder says no pooling), so the mean of its tokens is "
        "taken; give --pooling for another"
    )
    return replace(settings, pooling="mean"), [note]


def check_contrast(settings: ContrastSettings) -> None:
    """Check, before a model is opened, what settings ask of the machine and of the Trainer.

    Raises
    ------
    UsageError
        As of `embedkit.training.loop.check_told`; or there are several processes, which would share out the steps.
    """
    check_told(settings.training, _OTHERWISE)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("few-shot tuning runs in one process; start it without accelerate launch")


def check_tunable(base: FeatureExtractor) -> None:
    """Raise `UsageError` unless a tuned encoder would be one that sentence-transformers can follow."""
    recipe = base.recipe
    if recipe.layers != ("last",):
        raise UsageError("few-shot tuning moves the last layer's states; leave --layers at -1")
    if len(recipe.poolings) != 1 or recipe.poolings[0] not in _MODES:
        raise UsageError(
            f"few-shot tuning takes one pooling of {', '.join(_MODES)}, not {'+'.join(recipe.poolings)}"
        )
    if recipe.long == "mean":
        raise UsageError("few-shot tuning reads one window of a text; leave --long at truncate")
    if recipe.precision != "float32":
        raise UsageError("a tuned encoder's features are computed in float32; leave --precision out")


# ---------------------------------------------------------------------------------------------- what is read


class _Steps(Dataset[dict[str, Any]]):
    """The steps of a pass, each as what the trainer gives to the model and to the loss."""

    def __init__(self, base: FeatureExtractor, inputs: Sequence[Text], plan_: PairPlan, *, types: bool) -> None:
        self.epoch, self.plan, self.hidden = 0, plan_, base.folder.hidden
        texts, self._places = _texts_of(inputs, apart=base.recipe.pairs == "bi")
        self._tokens = base.tokenizer.encode(texts)
        self._pad_id, self._types, self._most = base.recipe.pad_id, types, base.recipe.max_length
        if not self._tokens.content.any():
            raise DataError("no text holds anything that the tokenizer knows; there is nothing to learn from")
        self.notes: list[str] = []
        if cut := int(self._tokens.truncated.sum()):
            of = counted(len(texts), "text")
            self.notes.append(f"{cut:,} of {of} that were tuned on have more than {base.recipe.max_length} tokens")

    def __len__(self) -> int:
        return self.plan.steps

    def count(self, epochs: float) -> PairCounts:
        """Return what so many passes will see; of pairs that are read apart each distinct text counts."""
        counts = self.plan.count(epochs)
        if self._places.shape[1] == 1:
            return counts
        dealt = (rows for epoch in range(math.ceil(epochs)) for rows in self.plan.deal(epoch))
        return replace(
            counts, texts=sum(len(np.unique(self._places[rows])) for rows in islice(dealt, counts.steps))
        )

    def __getitem__(self, place: int) -> dict[str, Any]:
        """Return the texts of a step in batches of like lengths (``0_input_ids`` and so on), and ``label``.

        ``label`` holds ``views``, the places of each row's texts among those of all batches, (B, 1) or (B, 2); and
        of the pairs ``first``, ``second`` and ``positive``, (P,).
        """
        step = self.plan.step(self.epoch, place)
        texts, which = np.unique(self._places[step.rows], return_inverse=True)
        order = np.argsort(-self._tokens.lengths[texts], kind="stable")
        batches = [order[start : start + _TOGETHER] for start in range(0, len(order), _TOGETHER)]
        given: dict[str, Any] = {}
        for number, batch in enumerate(batches):
            arrays = self._padded(texts[batch])
            given |= {f"{number}_{name}": torch.from_numpy(array) for name, array in arrays.items()}
        where = np.argsort(np.concatenate(batches))
        views = where[which.reshape(len(step.rows), -1)]
        pairs = {"first": step.first, "second": step.second, "positive": step.positive}
        label = {"views": views, **pairs}
        return {**given, "label": {name: torch.from_numpy(array) for name, array in label.items()}}

    def _padded(self, texts: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """Return a batch whose length is a multiple of 16, as far as the model reads so many tokens."""
        arrays = padded_inputs(self._tokens, texts, self._pad_id, types=self._types)
        length = arrays["input_ids"].shape[1]
        more = max(0, min(-(-length // _MULTIPLE) * _MULTIPLE, self._most) - length)
        fill = {"input_ids": self._pad_id}
        return {
            name: np.pad(array, ((0, 0), (0, more)), constant_values=fill.get(name, 0))
            for name, array in arrays.items()
        }


def _texts_of(inputs: Sequence[Text], *, apart: bool) -> tuple[list[Text], NDArray[np.int64]]:
    """Return distinct texts, and the places of each input's among them: (n, 1), or (n, 2) for pairs read apart."""
    parts = [part if apart and isinstance(part, tuple) else (part,) for part in inputs]
    found: dict[Text, int] = {}
    places = [[found.setdefault(text, len(found)) for text in part] for part in parts]
    return list(found), np.array(places, np.int64)


def _said(counts: PairCounts, plan_: PairPlan, settings: ContrastSettings, rate: float) -> str:
    """Say how much there is to do, before it is done."""
    if not counts.pairs:
        return "there are no pairs to tune by"
    told, (_, precision) = settings.training, compute_of(settings.training)
    passes = f"{settings.epochs:g} {'pass' if settings.epochs == 1 else 'passes'}"
    return (
        f"{counted(counts.pairs, 'pair')} ({counts.positive:,} positive, {counts.negative:,} negative) among "
        f"{counted(len(plan_.rows), 'text')}; {passes} in {counted(counts.steps, 'step')} encode "
        f"{counted(counts.texts, 'text')} (loss {settings.loss}, learning rate {rate:g}, {precision}, "
        f"seed {told.seed})"
    )


# -------------------------------------------------------------------------------------------------- model


def open_sentence_model(base: FeatureExtractor) -> SentenceTransformer:
    """Return the encoder with its pooling and normalising as a model of sentence-transformers, trainable.

    Raises
    ------
    ModelError
        It cannot be opened, or its weights are not whole.
    """
    _, has_pooler = load_model(base.folder, torch.float32)  # refuses weights that are not whole
    local = {"trust_remote_code": False, "local_files_only": True}
    with loading():
        try:
            transformer = Transformer(
                str(base.folder.path),
                model_kwargs={**local, "dtype": torch.float32, "use_safetensors": True},
                processor_kwargs=dict(local),
                config_kwargs=dict(local),
                max_seq_length=base.recipe.max_length,
            )
        except Exception as error:  # it and transformers raise many kinds
            reason = " ".join(str(error).split())[:300]
            raise ModelError(
                f"{base.folder.path}: sentence-transformers cannot open this model: {reason}"
            ) from error
    if not has_pooler and getattr(transformer.model, "pooler", None) is not None:
        transformer.model.pooler = None  # drawn by chance, and to be saved as if it were trained
    modules = [transformer, Pooling(base.folder.hidden, _MODES[base.recipe.poolings[0]])]
    if base.recipe.normalize:
        modules.append(Normalize())
    return SentenceTransformer(modules=modules, device="cpu", trust_remote_code=False).requires_grad_(True)


class _Loss(torch.nn.Module):
    """The loss of a step: encodes its texts, then compares."""

    def __init__(self, model: SentenceTransformer, settings: ContrastSettings) -> None:
        super().__init__()
        self.model = model
        self._name, self._temperature = settings.loss, settings.temperature

    def forward(self, features: Sequence[dict[str, torch.Tensor]], label: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return a scalar, float32."""
        vectors = torch.cat([self.model(dict(batch))["sentence_embedding"].float() for batch in features])
        rows = _composed(vectors, label["views"])
        with torch.autocast(rows.device.type, enabled=False):
            if not len(label["first"]):  # a step without pairs moves nothing
                return rows.sum() * 0.0
            pairs = label["first"], label["second"], label["positive"]
            return (
                cosine_loss(rows, *pairs)
                if self._name == "cosine"
                else supcon_loss(rows, *pairs, temperature=self._temperature)
            )


def _composed(vectors: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
    """Return the vector of each row; of pairs that are read apart (u, v, |u - v|, u * v)."""
    if views.shape[1] == 1:
        return vectors[views[:, 0]]
    first, second = vectors[views[:, 0]], vectors[views[:, 1]]
    return torch.cat([first, second, (first - second).abs(), first * second], dim=1)


def cosine_loss(
    rows: torch.Tensor, first: torch.Tensor, second: torch.Tensor, positive: torch.Tensor
) -> torch.Tensor:
    """Return the mean over pairs of the squared difference between cosine and 1 or 0.

    Parameters
    ----------
    rows : tensor of float32, shape (B, D)
    first, second : tensor of int64, shape (P,)
        Rows of each pair.
    positive : tensor of bool, shape (P,)
    """
    unit = functional.normalize(rows, dim=1)
    cosines = (unit @ unit.T)[first, second]
    return functional.mse_loss(cosines, positive.to(cosines.dtype))


def supcon_loss(
    rows: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    positive: torch.Tensor,
    *,
    temperature: float,
) -> torch.Tensor:
    """Return the supervised contrastive loss over pairs, L_out of Khosla et al. (2020).

    A row is compared with those that it is in a pair with; the loss is the mean over rows with a positive one.
    Parameters are those of `cosine_loss`; a pair counts once, in both directions.
    """
    unit = functional.normalize(rows, dim=1)
    paired = torch.zeros(len(rows), len(rows), dtype=torch.bool, device=rows.device)
    alike = paired.clone()
    for ones, others in ((first, second), (second, first)):
        paired[ones, others] = True
        alike[ones[positive], others[positive]] = True
    logits = (unit @ unit.T / temperature).masked_fill(~paired, -torch.inf)
    each = logits - logits.logsumexp(dim=1, keepdim=True)
    count = alike.sum(dim=1)
    of_rows = each.masked_fill(~alike, 0.0).sum(dim=1)[count > 0] / count[count > 0]
    return -of_rows.mean() if len(of_rows) else rows.sum() * 0.0


# --------------------------------------------------------------------------------------------------- loop


def _train(
    model: SentenceTransformer,
    steps: _Steps,
    settings: ContrastSettings,
    place: Place,
    progress: Callable[[int], None] | None,
) -> list[str]:
    """Move the weights; return what is worth saying."""
    told = replace(settings.training, epochs=settings.epochs)
    notes: list[str] = []
    with surroundings(model, place, told) as folder, _without_dropout(model.transformers_model):
        kind = SentenceTransformerTrainingArguments
        arguments = arguments_of(told, settings.rate(steps.hidden), folder, judged=False, kept=place, kind=kind)
        trainer = _Trainer(model, arguments, steps, _Loss(model, settings), told)
        trainer.watch(None, progress)
        checkpoint = None
        if place.resume:
            checkpoint, notes = newest_whole(folder)
        trainer.run(checkpoint)
        trainer.unwrap()
    return notes


@contextmanager
def _without_dropout(model: Any) -> Iterator[None]:  # noqa: ANN401 - a family's own
    """Keep an encoder in evaluation mode while it learns: a run on few texts is too short to be regularised."""
    vars(model.eval())["train"] = lambda mode=True: model
    try:
        yield
    finally:
        del vars(model)["train"]


class _Trainer(Guarded, SentenceTransformerTrainer):  # type: ignore[misc]  # no types for mypy
    """The trainer of sentence-transformers, which reads `_Steps` and writes no card: it would hold texts."""

    relief = "--batch-size or --max-length"

    def __init__(
        self,
        model: SentenceTransformer,
        arguments: SentenceTransformerTrainingArguments,
        steps: _Steps,
        loss: _Loss,
        settings: TuneSettings,
    ) -> None:
        self.prepare(model, settings, int(model.max_seq_length or 0))
        self._steps = steps
        super().__init__(model, arguments, data_collator=_only, loss=loss, callbacks=[self.history])
        self.settle()

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Do without."""

    def get_train_dataloader(self) -> Any:  # noqa: ANN401 - accelerate's
        """Return the steps of a pass, in their order."""
        self._train_dataloader = self.accelerator.prepare(DataLoader(self._steps, batch_size=1, collate_fn=_only))
        return self._train_dataloader

    def at_epoch(self, epoch: int) -> None:
        """Deal anew for this pass."""
        self._steps.epoch = epoch

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        """Take the weights alone, from safetensors."""
        put_weights(self.model.transformers_model, Path(checkpoint_path))

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ANN401
        """Write a checkpoint as a folder of sentence-transformers."""
        self.model.save_pretrained(output_dir or self.args.output_dir, create_model_card=False)


def _only(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a step, which is a batch already."""
    return items[0]
