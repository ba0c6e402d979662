"""Continued pre-training from splits to an encoder's folder, as `adapt` runs it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from embedkit.artifact import installed, scrub, write_json, write_manifest
from embedkit.data import Dataset, Split
from embedkit.data.text import counted
from embedkit.encoders import ModelFolder
from embedkit.errors import DataError
from embedkit.estimators.start import Start, base_said, depends_on, open_start, settings_said
from embedkit.evaluation.finetuned import VALIDATION
from embedkit.evaluation.judged import TRAIN
from embedkit.evaluation.plots import learning_figure, save_png
from embedkit.runtime.manifest import ENCODER
from embedkit.runtime.model_folder import read_modules
from embedkit.training.loop import Place, Told
from embedkit.training.masking import MaskedRows, MaskSettings, masked_rows
from embedkit.training.mlm import (
    Adapted,
    HeadSettings,
    TokenizerFiles,
    adapt_model,
    mask_tokens,
    pooler_of,
    save_weights,
)
from embedkit.training.rows import JUDGED
from embedkit.training.settings import TuneSettings

_SHARE = 0.1  # of the distinct texts, where there is no validation split
_VERSIONS = ("embedkit", "numpy", "tokenizers", "torch", "transformers", "accelerate")
# settings that have no meaning here
_NOT_OURS = ("class_weight", "metric", "freeze", "cache_prefix", "label_smoothing")
# What of a module's folder is copied: no pickles.
_PLAIN = (".json", ".txt", ".safetensors")


@dataclass(frozen=True, eq=False)
class MaskedData:
    """Texts made into rows.

    Attributes
    ----------
    rows, validation : MaskedRows
    truncated : float
        Share of the training texts that lost tokens.
    notes : list of str
    """

    rows: MaskedRows
    validation: MaskedRows
    truncated: float
    notes: list[str]


@dataclass(eq=False)
class AdaptedRun:
    """An adapted encoder and how it came about.

    Attributes
    ----------
    adapted : Adapted
    start : Start
    about : dict
        What the manifest says of the training.
    truncated : float
    seconds : dict of str to float
        Wall time of ``tune`` and ``total``.
    notes : list of str
    """

    adapted: Adapted
    start: Start
    about: dict[str, Any]
    truncated: float
    seconds: dict[str, float]
    notes: list[str] = field(default_factory=list)

    @property
    def figures(self) -> dict[str, dict[str, float]]:
        """Loss and perplexity of the validation texts before and after."""
        return {"before": self.adapted.before, "after": self.adapted.after}


# -------------------------------------------------------------------------------------------------- texts


def texts_of(dataset: Dataset, seed: int) -> dict[str, Split]:
    """Return the texts of train and validation, without labels; the test split is not read.

    Of one file with labels, the rows that other commands hold out as test are left out here too.

    Raises
    ------
    UsageError
        There is no train split.
    DataError
        As reading has it.
    """
    if dataset.single:
        (source,) = dataset.sources.values()
        share = 0.0 if source.roles.label is None else 0.2
        read = dataset.splits(test_share=share, seed=seed, columns=False)
    else:
        dataset.source(TRAIN)
        there = [name for name in (TRAIN, VALIDATION) if name in dataset.sources]
        read = {name: dataset.split(name, columns=False) for name in there}
    return {name: _as_texts(read[name]) for name in (TRAIN, VALIDATION) if name in read}


def _as_texts(split: Split) -> Split:
    """Return a split of texts alone: both of a pair, and words with blanks between."""
    inputs: list[str] = []
    rows = split.rows
    if split.kind == "pair":
        inputs = [text for pair in split.inputs for text in pair]
        rows = np.repeat(rows, 2)
    elif split.kind == "tokens":
        inputs = [" ".join(words) for words in split.inputs]
    else:
        inputs = cast("list[str]", split.inputs)
    return Split(split.name, "text", inputs, None, rows, split.source)


def with_held_out(splits: Mapping[str, Split], seed: int) -> tuple[dict[str, Split], list[str]]:
    """Return texts to learn from and to judge by: a tenth of train where there is no validation split.

    Raises
    ------
    DataError
        There are no texts, or too few to hold any out.
    """
    found = dict(splits)
    train = found[TRAIN]
    if not len(train):
        raise DataError(f"{train.source} has no texts; give at least one to learn from")
    if VALIDATION in found and len(found[VALIDATION]):
        return found, []
    distinct = list(dict.fromkeys(cast("list[str]", train.inputs)))
    if len(distinct) < 2:
        raise DataError(
            f"{train.source} holds one distinct text; two are the least, one to learn from and one to judge by: "
            "add texts, or give --validation FILE"
        )
    count = max(1, round(_SHARE * len(distinct)))
    held = {distinct[place] for place in np.random.default_rng(seed).permutation(len(distinct))[:count].tolist()}
    inside = np.array([text in held for text in train.inputs])
    found[TRAIN] = train.take(np.flatnonzero(~inside))
    found[VALIDATION] = train.take(np.flatnonzero(inside), VALIDATION)
    said = f"{counted(count, 'distinct text')} of train"
    return found, [f"{train.source}: {said}, drawn by seed {seed}, are held out to judge training by"]


def masked_data(splits: Mapping[str, Split], start: Start, masks: MaskSettings, seed: int) -> MaskedData:
    """Tokenise the texts of `with_held_out`.

    Raises
    ------
    DataError
        No text has a token that could be hidden, or none is hidden in those of validation.
    ModelError
        As `embedkit.training.mlm.mask_tokens`.
    """
    _, vocabulary = mask_tokens(start.folder, start.tokenizer)
    found: dict[str, MaskedRows] = {}
    truncated: dict[str, float] = {}
    notes = []
    for name in (TRAIN, VALIDATION):
        split = splits[name]
        texts = cast("list[str]", split.inputs)
        rows, truncated[name] = masked_rows(start.tokenizer, texts, vocabulary, masks, seed=seed)
        found[name] = rows
        if not len(rows):
            raise DataError(
                f"{split.source} ({name}): no text holds anything that the tokenizer knows, so nothing can be "
                "hidden"
            )
        if not masks.pack and len(rows) < len(texts):
            empty = counted(len(texts) - len(rows), "text")
            notes.append(f"{name}: {empty} of {len(texts):,} hold nothing that could be hidden and are left out")
    if not found[VALIDATION].counted(JUDGED):
        raise DataError(
            f"{splits[VALIDATION].source} ({VALIDATION}): {counted(len(found[VALIDATION]), 'row')} are too few "
            "for a token to be hidden; give more, or raise --mask-share"
        )
    if truncated[TRAIN]:
        notes.append(
            f"{truncated[TRAIN]:.1%} of the training texts have more than {start.tokenizer.max_length} tokens "
            "and lost the rest; --max-length raises that, and --pack leaves nothing out"
        )
    return MaskedData(found[TRAIN], found[VALIDATION], truncated[TRAIN], notes)


# ---------------------------------------------------------------------------------------------------- run


def run_of(
    splits: Mapping[str, Split], start: Start, settings: TuneSettings, masks: MaskSettings, head: HeadSettings
) -> dict[str, Any]:
    """Return all that a run's weights depend on, as `embedkit.training.checkpoints.prepare` compares it."""
    read = {name: splits[name].fingerprint() for name in (TRAIN, VALIDATION)}
    return {**depends_on(start, settings, read, free=_NOT_OURS), **asdict(masks), "head": asdict(head)}


def adapt(
    splits: Mapping[str, Split],
    data: MaskedData,
    start: Start,
    settings: TuneSettings,
    masks: MaskSettings,
    head: HeadSettings,
    *,
    place: Place | None = None,
    told: Told | None = None,
    say: Callable[[str], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> AdaptedRun:
    """Go on training an encoder on texts.

    Parameters
    ----------
    splits : mapping of str to Split
        Of `with_held_out`.
    data : MaskedData
        Of `masked_data`.
    start : Start
    settings : TuneSettings
    masks : MaskSettings
    head : HeadSettings
        Of the head that the weights may lack.
    place, told, say, progress
        As for `embedkit.training.mlm.adapt_model`.
    """
    began = time.perf_counter()
    adapted = adapt_model(
        start.folder,
        data.rows,
        data.validation,
        settings,
        head,
        max_length=start.tokenizer.max_length,
        place=place,
        told=told,
        say=say,
        progress=progress,
    )
    trained = adapted.trained
    said = {
        **settings_said(settings, trained, adapted.rate, free=_NOT_OURS),
        **asdict(masks),
        "max_length": start.tokenizer.max_length,
        "head": asdict(head) if adapted.fresh_head else None,
    }
    about = {
        "base": base_said(start.folder),
        "data": {name: {"texts": len(of), "fingerprint": of.fingerprint()} for name, of in splits.items()},
        "seed": settings.seed,
        "settings": said,
    }
    seconds = {"tune": trained.seconds, "total": time.perf_counter() - began}
    return AdaptedRun(adapted, start, about, data.truncated, seconds, list(adapted.notes))


def adapt_encoder(
    texts: Mapping[str, Split],
    model: str | Path,
    folder: Path,
    settings: TuneSettings,
    *,
    revision: str | None = None,
    say: Callable[[str], None],
) -> AdaptedRun:
    """Adapt an encoder in the usual way, and write it to a folder.

    Parameters
    ----------
    texts : mapping of str to Split
        Of `texts_of`.
    model : str or Path
    folder : Path
        Exists and is empty.
    settings : TuneSettings
    revision : str, optional
        Of a hub id.
    say : callable
        Given lines before and while it is done.
    """
    splits, notes = with_held_out(texts, settings.seed)
    masks, head = MaskSettings(), HeadSettings()
    start = open_start(model, revision=revision)
    data = masked_data(splits, start, masks, settings.seed)
    for note in (*notes, *data.notes):
        say(f"note: {note}")
    run = adapt(splits, data, start, settings, masks, head, say=say)
    for note in (*run.notes, *write_adapted(folder, run, {"model": str(model)})):
        say(f"note: {note}")
    return run


# ------------------------------------------------------------------------------------------------- folder


def write_adapted(folder: Path, run: AdaptedRun, told: Mapping[str, Any]) -> list[str]:
    """Write an encoder, usable wherever its base is, to a folder of `embedkit.artifact.staged`.

    Tokenizer, pooling and normalisation are the base's own files; weights are those of encoder and MLM head, and
    the base's pooler where it has one.

    Parameters
    ----------
    folder : Path
        Exists and is empty.
    run : AdaptedRun
    told : mapping
        What the run was told, beside its training settings.

    Returns
    -------
    list of str
        What is worth saying.
    """
    base, model, history = run.start.folder, run.adapted.model, run.adapted.trained.history
    save_weights(folder, model, pooler_of(base, model))
    TokenizerFiles(base.path).save_pretrained(folder)
    notes = _write_modules(folder, base)
    metrics = {
        "splits": {},
        "seconds": run.seconds,
        "history": history,
        "settings": {**told, **run.about["settings"]},
        "truncated": run.truncated,
        "mlm": run.figures,
    }
    write_json(folder / "metrics.json", scrub(metrics))
    if history:
        (folder / "report").mkdir()
        title = f"{base.resolved.name}: learning curve"
        figure = learning_figure(history, run.adapted.trained.best_step, title=title)
        save_png(figure, folder / "report" / "learning_curve.png")
    write_manifest(folder, {"kind": ENCODER, **run.about, "mlm": run.figures, "versions": installed(_VERSIONS)})
    return notes


def _write_modules(folder: Path, base: ModelFolder) -> list[str]:
    """Copy what sentence-transformers reads beside the encoder; its own folder becomes the root."""
    root = base.resolved.folder
    modules = read_modules(root)
    if not modules:
        return []
    inner = [path for _, path in modules[1:] if path]
    if any(file.suffix not in _PLAIN for path in inner for file in _files(root / path)):
        said = "a module beside the encoder holds pickled weights, so that none is copied"
        return [f"{said}; give --pooling where the folder is used"]
    listed = json.loads((root / "modules.json").read_bytes())
    listed[0]["path"] = ""
    (folder / "modules.json").write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")
    for path in inner:
        for file in _files(root / path):
            to = folder / path / file.relative_to(root / path)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, to)
    prompts = root / "config_sentence_transformers.json"
    for file in (*sorted(base.path.glob("sentence_*_config.json")), *([prompts] if prompts.is_file() else [])):
        shutil.copyfile(file, folder / file.name)
    return []


def _files(folder: Path) -> Sequence[Path]:
    return [file for file in sorted(folder.rglob("*")) if file.is_file()] if folder.is_dir() else []
