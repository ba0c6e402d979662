"""Continued pre-training of an encoder on masked words (Gururangan et al., 2020)."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

from embedkit.encoders import ModelFolder
from embedkit.encoders.torch_encoder import load_model, open_pretrained, quiet, threads_set
from embedkit.errors import ArtifactError, InputMissingError, ModelError, UsageError
from embedkit.runtime.batching import plan
from embedkit.runtime.manifest import read_manifest
from embedkit.runtime.tokens import Tokenizer
from embedkit.training.checkpoints import history_of, seal
from embedkit.training.loop import CHOICE, Place, Task, Told, Trained, autocast, compute_of, train
from embedkit.training.losses import cross_entropy
from embedkit.training.masking import MaskedRows, MaskTokens
from embedkit.training.model import opened_with, seeded
from embedkit.training.parts import freeze_parts
from embedkit.training.rows import IGNORED, JUDGED
from embedkit.training.settings import TuneSettings, usual_rate

START = "checkpoint-start"  # beside the Trainer's own, whose names end in a number
HEAD_RATE = 1e-3
# What transformers reads a tokenizer from, and what sentence-transformers reads beside it.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                   "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "spm.model", "tokenizer.model",
                   "sentencepiece.bpe.model", "bpe.codes")  # fmt: skip


@dataclass(frozen=True)
class HeadSettings:
    """How an MLM head that the weights lack is trained before anything else, the encoder frozen.

    Attributes
    ----------
    epochs : float, default 1
    rate : float, default 0.001
        Highest learning rate.

    Raises
    ------
    UsageError
        A value is not above 0.
    """

    epochs: float = 1.0
    rate: float = HEAD_RATE

    def __post_init__(self) -> None:
        given: dict[str, object] = {"head_epochs": self.epochs, "head_rate": self.rate}
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise UsageError(f"{name} is {value!r}; it must be above 0")


@dataclass(eq=False)
class MaskedModel:
    """An encoder with an MLM head.

    Attributes
    ----------
    model : transformers.PreTrainedModel
    fresh : bool
        Whether the weights had no such head, and it was drawn by chance.
    lacking : tuple of str
        Tensors that the weights lack.
    """

    model: Any
    fresh: bool
    lacking: tuple[str, ...]


@dataclass(eq=False)
class Adapted:
    """An encoder that went on learning.

    Attributes
    ----------
    trained : Trained
    before, after : dict of str to float
        ``loss``, the mean over all masked tokens of validation, and ``perplexity``, its exponential. `before` is
        taken after a head that the weights lack was trained alone.
    fresh_head : bool
    rate : float
        Highest learning rate.
    seconds : float
        Wall time of all of it.
    notes : list of str
    """

    trained: Trained
    before: dict[str, float]
    after: dict[str, float]
    fresh_head: bool
    rate: float
    seconds: float
    notes: list[str] = field(default_factory=list)

    @property
    def model(self) -> Any:  # noqa: ANN401 - a family's own
        """The model with its MLM head, in float32 on the CPU."""
        return self.trained.model


# ------------------------------------------------------------------------------------------- the model


def open_masked(folder: ModelFolder, seed: int) -> MaskedModel:
    """Open an encoder with its MLM head; one that the weights lack is tied to its embeddings, by the seed.

    Raises
    ------
    ModelError
        transformers has no such head for this family or cannot open the folder, or the encoder's weights are not
        whole.
    """
    config = opened_with(AutoConfig, folder, "configuration")
    if type(config) not in AutoModelForMaskedLM._model_mapping:
        raise ModelError(
            f"{folder.resolved.name} is of the family {config.model_type!r}, for which transformers has no head "
            "that guesses masked words; choose an encoder such as BERT, RoBERTa, MPNet or ModernBERT"
        )
    opened = _open_masked(folder, None, seed)
    if opened.fresh and not getattr(config, "tie_word_embeddings", True):
        config.tie_word_embeddings = True
        opened = _open_masked(folder, config, seed)
    return opened


def _open_masked(folder: ModelFolder, config: Any, seed: int) -> MaskedModel:  # noqa: ANN401 - a family's own
    with seeded(seed):
        model, missing = open_pretrained(AutoModelForMaskedLM, folder.path, torch.float32, config=config)
    inner = f"{model.base_model_prefix}."
    lost = [name for name in missing if name.startswith(inner)]
    if lost:
        raise ModelError(
            f"{folder.path}: the weights lack {len(lost)} tensors of the encoder ({', '.join(lost[:3])}); the "
            "files do not belong together"
        )
    return MaskedModel(model, bool(missing), tuple(missing))


def pooler_of(folder: ModelFolder, model: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401 - a family's own
    """Return the trained tensors of an encoder that its model for masked words leaves out, by their full names."""
    encoder, has_pooler = load_model(folder, torch.float32)
    if not has_pooler:
        return {}
    known = set(model.base_model.state_dict())
    return {
        f"{model.base_model_prefix}.{name}": tensor
        for name, tensor in encoder.state_dict().items()
        if name not in known
    }


def open_tokenizer(folder: ModelFolder) -> Any:  # noqa: ANN401 - one of many classes
    """Open a tokenizer as transformers does; `ModelError` where it cannot."""
    return opened_with(AutoTokenizer, folder, "tokenizer")


def mask_tokens(folder: ModelFolder, tokenizer: Tokenizer) -> tuple[str, MaskTokens]:
    """Return how a model writes its mask token, and what masking must know of the vocabulary.

    Raises
    ------
    ModelError
        The tokenizer has no mask token, none that could stand between texts, or more tokens than the model.
    """
    theirs = open_tokenizer(folder)
    if theirs.mask_token_id is None or tokenizer.name(theirs.mask_token_id) != theirs.mask_token:
        raise ModelError(
            f"{folder.resolved.name} has no mask token; choose an encoder that was trained on masked words"
        )
    join = theirs.sep_token_id if theirs.sep_token_id is not None else theirs.eos_token_id
    if join is None:
        raise ModelError(
            f"{folder.resolved.name} has neither a separator nor an end token; choose another encoder"
        )
    added = {token for token, entry in theirs.added_tokens_decoder.items() if entry.special}
    special = np.array(sorted({*theirs.all_special_ids, *added, tokenizer.pad_id}), np.int64)
    all_ids = np.array(sorted(set(theirs.get_vocab().values())), np.int64)
    size = int(folder.config.get("vocab_size", all_ids[-1] + 1))
    if all_ids[-1] >= size:
        raise ModelError(
            f"{folder.path}: the tokenizer has ids up to {all_ids[-1]}, the model {size} embeddings; the files do "
            "not belong together"
        )
    return theirs.mask_token, MaskTokens(theirs.mask_token_id, join, special, np.setdiff1d(all_ids, special))


# ------------------------------------------------------------------------------------------- what is learnt


@contextlib.contextmanager
def masked_only(model: Any, inputs: dict[str, Any]) -> Iterator[None]:  # noqa: ANN401 - a family's own
    """Let the head see the hidden states of masked tokens alone; the vocabulary costs half of a step.

    Within the block the logits are of shape (1, M, V) for M masked tokens, and so are ``labels``, (1, M).
    """
    labels = inputs["labels"]
    places = (labels.flatten() != IGNORED).nonzero().squeeze(1)
    inputs["labels"] = labels.flatten()[places].unsqueeze(0)

    def gather(module: Any, given: Any, output: Any) -> Any:  # noqa: ANN401 - torch's own
        output.last_hidden_state = output.last_hidden_state.flatten(0, 1)[places].unsqueeze(0)
        return output

    hook = model.base_model.register_forward_hook(gather)
    try:
        yield
    finally:
        hook.remove()


def _sums(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the loss of each row and its masked tokens, shape (B, 2), from the logits of these."""
    masked = labels != IGNORED
    rows = masked.nonzero()[:, 0]
    each = functional.cross_entropy(logits[0, : len(rows)].float(), labels[masked], reduction="none")
    sums = torch.zeros(len(labels), dtype=each.dtype, device=each.device).index_add_(0, rows, each)
    return torch.stack([sums, masked.sum(1).to(each.dtype)], dim=1)


def _judge(sums: NDArray[Any], targets: NDArray[Any]) -> dict[str, float]:
    nll = float(sums[:, 0].sum(dtype=np.float64) / sums[:, 1].sum(dtype=np.float64))
    return {"nll": nll, "perplexity": _exp(nll), CHOICE: -nll}


def _exp(nll: float) -> float:
    """Return the perplexity; what is beyond all numbers is the largest one, as JSON has no infinity."""
    return math.exp(min(nll, 709.0))


def measure(model: Any, rows: MaskedRows, settings: TuneSettings) -> dict[str, float]:  # noqa: ANN401
    """Return the loss and the perplexity of masked rows, with the masks that rows are always judged with.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Put into evaluation mode; on the CPU again afterwards.
    rows : MaskedRows
    settings : TuneSettings
        ``device``, ``precision`` and ``threads`` are used.
    """
    device, precision = compute_of(settings)
    model.to(device).eval()
    total, count = 0.0, 0
    with threads_set(settings.threads), torch.inference_mode():
        for batch in plan(rows.tokens.lengths, _BATCH_TOKENS):
            given = {
                name: torch.from_numpy(array).to(device) for name, array in rows.inputs(batch, JUDGED).items()
            }
            labels = given["labels"]
            with autocast(device, precision), masked_only(model, given):
                logits = model(**{name: value for name, value in given.items() if name != "labels"}).logits
            sums = _sums(logits, labels).double().sum(0).cpu()
            total, count = total + float(sums[0]), count + int(sums[1])
    model.to("cpu")
    return {"loss": total / count, "perplexity": _exp(total / count)}


_BATCH_TOKENS = 4096


# ------------------------------------------------------------------------------------------------ the run


def adapt_model(
    folder: ModelFolder,
    rows: MaskedRows,
    validation: MaskedRows,
    settings: TuneSettings,
    head: HeadSettings,
    *,
    max_length: int,
    place: Place | None = None,
    told: Told | None = None,
    say: Callable[[str], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Adapted:
    """Go on training an encoder on masked rows.

    Where the weights have no MLM head, one is trained alone first, the encoder frozen. What training starts from
    is then kept in the folder of the checkpoints, with its tokenizer, and found there by a run that is resumed.

    Parameters
    ----------
    folder : ModelFolder
    rows, validation : MaskedRows
    settings : TuneSettings
    head : HeadSettings
    max_length : int
        Named where memory is full.
    place : Place, optional
    told : callable, optional
        Given each row of the history.
    say : callable, optional
        Given a line before each phase.
    progress : callable, optional
        Told of each finished step; those of a head that is trained alone do not count.

    Raises
    ------
    ModelError, UsageError, TrainingError
        As `open_masked` and `train` have them.
    """
    begun = time.perf_counter()
    place, say = place or Place(), say or (lambda line: None)
    start = None if place.folder is None else place.folder / START
    tokenizer = TokenizerFiles(folder.path)
    loss = cross_entropy(None, 0.0)
    task = Task(loss, _judge, folder.resolved.name, max_length, _sums, masked_only, tokenizer)
    found = _kept_start(start, folder, settings.seed) if start is not None and place.resume else None
    if found is None:
        found = _begin(folder, rows, validation, settings, head, task, start, say)
    model, before, fresh = found
    say(f"before: validation loss {before['loss']:.4f}, perplexity {before['perplexity']:.2f}")
    rate = settings.learning_rate or usual_rate("mlm", folder.hidden)
    epochs, seed = f"{settings.epochs:g} epochs", settings.seed
    say(f"learning rate {rate:g}, {epochs}, batches of {settings.batch_size}, seed {seed}")
    frozen = freeze_parts(model, "none", name=folder.resolved.name)
    judged = None if settings.eval_strategy == "no" else validation
    trained = train(model, task, rows, judged, frozen, settings, rate, place=place, told=told, progress=progress)
    after = measure(trained.model, validation, settings)
    return Adapted(trained, before, after, fresh, rate, time.perf_counter() - begun, list(trained.notes))


_Begun = tuple[Any, dict[str, float], bool]  # model, figures before, whether the head is new


def _begin(
    folder: ModelFolder,
    rows: MaskedRows,
    validation: MaskedRows,
    settings: TuneSettings,
    head: HeadSettings,
    task: Task,
    start: Path | None,
    say: Callable[[str], None],
) -> _Begun:
    """Open the model, train a head that the weights lack, and keep what training starts from."""
    opened = open_masked(folder, settings.seed)
    if start is not None:
        _write_start(start, opened.model, task.beside)
    if opened.fresh:
        say(
            f"{folder.resolved.name} has no head that guesses masked words: one tied to its embeddings is trained "
            f"alone first, the encoder frozen ({head.epochs:g} epochs, learning rate {head.rate:g})"
        )
        frozen = freeze_parts(opened.model, "head-only", name=folder.resolved.name)
        alone = replace(
            settings, epochs=head.epochs, eval_strategy="no", eval_steps=None, save_steps=None, patience=None
        )
        train(opened.model, task, rows, None, frozen, alone, head.rate)
    before = measure(opened.model, validation, settings)
    if start is not None:
        _write_start(start, opened.model, task.beside)
        if _is_main():
            seal(start, [], {"before": before, "fresh": opened.fresh})
    return opened.model, before, opened.fresh


def _kept_start(start: Path, folder: ModelFolder, seed: int) -> _Begun | None:
    """Return what an interrupted run started from; None where it did not come so far."""
    try:
        read_manifest(start)
        _, kept = history_of(start)
    except (ArtifactError, InputMissingError, OSError, ValueError):
        return None
    model, missing = open_pretrained(AutoModelForMaskedLM, start, torch.float32)
    return None if missing else (model, kept["before"], bool(kept["fresh"]))


def _write_start(start: Path, model: Any, tokenizer: TokenizerFiles) -> None:  # noqa: ANN401 - a family's own
    """Write the model and its tokenizer, so that an interrupted run leaves a folder that can be opened."""
    if not _is_main():
        return
    shutil.rmtree(start, ignore_errors=True)
    start.mkdir(parents=True)
    with quiet():
        tokenizer.save_pretrained(start)
        model.save_pretrained(start)


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class TokenizerFiles:
    """The files of a folder's tokenizer, which are the same after training.

    Attributes
    ----------
    source : Path
    """

    source: Path

    def save_pretrained(self, folder: str | Path) -> None:
        """Copy them; called so because the Trainer calls it so."""
        for name in TOKENIZER_FILES:
            if (self.source / name).is_file():
                shutil.copyfile(self.source / name, Path(folder) / name)


def save_weights(folder: Path, model: Any, pooler: Mapping[str, torch.Tensor]) -> None:  # noqa: ANN401
    """Write ``config.json`` and ``model.safetensors``: encoder, MLM head and the pooler that the encoder had."""
    with quiet():
        model.save_pretrained(folder, state_dict={**model.state_dict(), **pooler})
