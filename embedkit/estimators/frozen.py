"""A trained classifier on frozen features: predicts, is saved and loaded, without scikit-learn."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import NoneType
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from embedkit.artifact import installed, load_arrays, save_arrays, write_manifest
from embedkit.data.labels import LabelCodec
from embedkit.encoders import EncoderSettings, EngineMaker, Extraction, FeatureExtractor
from embedkit.encoders.opened import Opened, StoreDtype
from embedkit.encoders.settings import Engine
from embedkit.errors import (
    ArtifactError,
    DataError,
    InputMissingError,
    MissingExtraError,
    ModelError,
    OutputExistsError,
    SpaceMismatchError,
    UsageError,
)
from embedkit.export.engine import make_engine
from embedkit.heads import Head, HeadSpec, head_from_state
from embedkit.runtime.decide import Thresholds
from embedkit.runtime.description import PROBLEMS
from embedkit.runtime.manifest import (
    CLASSIFIER,
    MANIFEST,
    OWN,
    TAG_TASK,
    checked_tag_task,
    kind_of,
    read_manifest,
)
from embedkit.runtime.tokens import Text
from embedkit.store import open_store

HEAD_FILE = "head.safetensors"
_FILE = ".skops"  # ends the name of an array that is a file of its own
_INFINITE = "inf"  # a parameter that JSON has no number for
_TASKS = {"sequence": "classifies texts", "tokens": "tags words"}
_ABOUT = ("head_settings", "data", "seed", "rows", "base", "few_shot", TAG_TASK)
# What the encoder's settings are in a manifest, where it is not a string. A setting that is added later has to
# say what folders without it mean.
_WRITTEN: dict[str, Any] = {
    "revision": str | NoneType,
    "layers": list,
    "normalize": bool,
    "max_length": int,
    "device": str,
    "batch_tokens": int,
    "threads": NoneType,
}
_VERSIONS = ("embedkit", "numpy", "scikit-learn", "tokenizers", "torch", "transformers")
E = TypeVar("E", bound=Opened)


class Predictions(NamedTuple):
    """Answers in input order.

    Attributes
    ----------
    codes : ndarray of int64, shape (n,), or of bool, shape (n, C)
        Classes; or which labels each row has.
    probabilities : ndarray of float64, shape (n, C), or None
        None where the head has none.
    scores : ndarray of float64, shape (n,) or (n, C), or None
        Of `Head.decision_function`, where there are no probabilities.
    extraction : Extraction
        What the features cost.
    """

    codes: NDArray[Any]
    probabilities: NDArray[np.floating[Any]] | None
    scores: NDArray[np.floating[Any]] | None
    extraction: Extraction


@dataclass(frozen=True, eq=False)
class FrozenClassifier:
    """A frozen encoder, a fitted head and the labels.

    Attributes
    ----------
    extractor : FeatureExtractor
    head : Head
        Fitted in the extractor's feature space.
    codec : LabelCodec
    kind : {"text", "pair"}
        What an input is.
    about : dict
        What the manifest says of the training: ``head_settings``, ``data``, ``seed``.
    thresholds : Thresholds, optional
        What decides instead of the most probable class.
    """

    extractor: FeatureExtractor
    head: Head
    codec: LabelCodec
    kind: str
    about: Mapping[str, Any]
    thresholds: Thresholds | None = None

    @property
    def multi_label(self) -> bool:
        """Whether a text has any number of labels."""
        return self.head.multi_label

    def predict(self, inputs: Sequence[Text], *, rows: NDArray[np.int64] | None = None) -> Predictions:
        """Classify texts or pairs; `rows` are what messages call them.

        Raises
        ------
        DataError
            The inputs are pairs and the head was trained on texts, or the other way round.
        """
        if len(inputs) and isinstance(inputs[0], tuple) != (self.kind == "pair"):
            raise DataError(f"this classifier was trained on {self.kind}s; the input is of the other kind")
        if not len(inputs):
            return self.answer(np.empty((0, self.extractor.width(self.kind)), np.float32), Extraction())
        features = self.extractor.transform(inputs, rows=rows)
        return self.answer(features.vectors, features.extraction)

    def answer(self, vectors: NDArray[np.floating[Any]], extraction: Extraction) -> Predictions:
        """Classify features, shape (n, D)."""
        known = self.head.has_probabilities
        probabilities = self.head.predict_proba(vectors) if known else None
        scores = None if known else self.head.decision_function(vectors)
        if self.thresholds is None:
            codes = self.head.predict(vectors)
        else:
            compared = probabilities if probabilities is not None else scores
            assert compared is not None
            codes = self.thresholds.decide(compared, multi_label=self.multi_label)
        return Predictions(codes, probabilities, scores, extraction)

    def remarks(self, rows: int, truncated: int, empty: int) -> list[str]:
        """Say how many of some inputs lost tokens or held none, and what computed the features."""
        lost = self.extractor.remarks(Extraction(rows=rows, truncated=truncated, empty=empty))
        return [*lost, *self.extractor.engine_notes]

    def report_to(self, progress: Callable[[int], None]) -> None:
        """Tell `progress` the number of texts that became ready, `texts_per_row` for each input."""
        self.extractor.progress = progress

    @property
    def texts_per_row(self) -> int:
        """Texts that the encoder reads for one input."""
        return self.extractor.texts_per_row(self.kind)

    def save(self, folder: Path) -> None:
        """Write the head and the manifest to a folder of `embedkit.artifact.staged`; call it last."""
        manifest = {
            "task": "sequence",
            "problem_type": PROBLEMS[self.multi_label],
            "thresholds": None if self.thresholds is None else self.thresholds.to_json(),
            **self.about,
        }
        save_frozen(folder, self.extractor, self.head, self.codec, self.kind, manifest)


def save_frozen(
    folder: Path, extractor: Opened, head: Head, codec: LabelCodec, kind: str, manifest: Mapping[str, Any]
) -> None:
    """Write a head on frozen features to a folder of `embedkit.artifact.staged`; call it last.

    Parameters
    ----------
    folder : Path
    extractor : Opened
        Its encoder may lie in `folder` itself, which can then be moved with it; one that lies in another
        classifier's folder is copied from there.
    head : Head
        Fitted in the extractor's feature space.
    codec : LabelCodec
    kind : {"text", "pair", "tokens"}
        What an input is.
    manifest : mapping
        What else it says: its task, and of the training.
    """
    place = extractor.folder.resolved.folder
    if kind_of(place) == CLASSIFIER and not _is(place, folder):  # which may be written anew, or go
        copy_encoder(place, folder)
    described, arrays = head.state()
    for name in [name for name in arrays if name.endswith(_FILE)]:
        (folder / name).write_bytes(arrays.pop(name).tobytes())
    save_arrays(folder / HEAD_FILE, arrays)
    entry = {
        "kind": CLASSIFIER,
        "input": kind,
        "labels": list(codec.classes),
        "label_dtype": codec.dtype,
        "encoder": _encoder_entry(extractor, kind, folder),
        "head": described,
        "versions": installed(_VERSIONS),
    }
    write_manifest(folder, {**entry, **manifest})


def _encoder_entry(extractor: Opened, kind: str, folder: Path) -> dict[str, Any]:
    resolved, settings = extractor.folder.resolved, settings_in(folder, extractor)
    return {
        "name": OWN if settings.model == OWN else resolved.name,
        "repository": resolved.repository,
        "commit": resolved.commit,
        "weights": extractor.weights,
        "settings": asdict(settings),
        "space": extractor.space(kind),
        "width": extractor.width(kind),
        "stored_dtype": extractor.dtype,
    }


def settings_in(folder: Path, extractor: Opened) -> EncoderSettings:
    """Return `exact_settings` as `save_frozen` keeps them in a folder; an encoder that lies in it has no path."""
    settings, place = exact_settings(extractor), extractor.folder.resolved.folder
    return replace(settings, model=OWN) if _is(place, folder) or kind_of(place) == CLASSIFIER else settings


def _is(place: Path, folder: Path) -> bool:
    return place.exists() and place.samefile(folder)


def exact_settings(extractor: Opened) -> EncoderSettings:
    """Return settings that say all that changes a vector, so that no later default can."""
    recipe, resolved = extractor.recipe, extractor.folder.resolved
    model = str(resolved.folder.absolute()) if resolved.kind == "folder" else resolved.repository or resolved.name
    return replace(
        extractor.settings,
        model=resolved.name if resolved.kind == "packaged" else model,
        revision=resolved.commit,
        pooling="+".join(recipe.poolings),
        layers=tuple(-1 if layer == "last" else layer for layer in recipe.layers),
        layer_join=recipe.layer_join,
        normalize=recipe.normalize,
        max_length=recipe.max_length,
        side=recipe.side,
        prompt=recipe.prompt,
        precision=recipe.precision,
        engine="auto",
        device="auto",
        threads=None,
    )


def check_encoder_stays(target: Path, encoder: Path) -> None:
    """Raise if a folder that is to be replaced holds the encoder that the new one reads, and takes no copy of.

    Raises
    ------
    OutputExistsError
        It does.
    """
    held = encoder.is_dir() and encoder.resolve().is_relative_to(target.resolve())
    if held and kind_of(encoder) != CLASSIFIER:
        raise OutputExistsError(
            f"{target} is not overwritten, because it holds the encoder that the head reads; choose another output"
        )


def copy_encoder(source: Path, folder: Path) -> None:
    """Copy an encoder; out of a classifier's folder without its head, and with its digests checked first.

    Parameters
    ----------
    source : Path
        An encoder alone, or a classifier with its encoder in it.
    folder : Path
        Exists and is empty.

    Raises
    ------
    ArtifactError, InputMissingError
        The classifier's folder is damaged or not there.
    """
    if (source / MANIFEST).exists():
        names = [name for name in read_manifest(source, kind=CLASSIFIER)["files"] if not _of_head(name)]
    else:
        names = [path.relative_to(source).as_posix() for path in sorted(source.rglob("*")) if path.is_file()]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / name)


def _of_head(name: str) -> bool:
    """Whether a file of a classifier belongs to its head or to what was found with it."""
    return name in (HEAD_FILE, "metrics.json") or name.endswith(".skops") or name.startswith("report/")


def head_settings(spec: HeadSpec) -> dict[str, Any]:
    """Return what a manifest says of a head's settings."""
    weights = spec.class_weight
    return {
        "clf": spec.clf,
        "scale": spec.scale,
        "params": {name: _written(value) for name, value in spec.params.items()},
        "class_weight": {str(label): _written(value) for label, value in weights.items()}
        if isinstance(weights, Mapping)
        else weights,
    }


def _written(value: Any) -> Any:  # noqa: ANN401 - of a parameter
    """Return a parameter as JSON can hold it."""
    plain = value.item() if isinstance(value, np.generic) else value
    return _INFINITE if isinstance(plain, float) and plain == math.inf else plain


def head_params(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that `head_settings` wrote; none where something else stands there."""
    params = settings.get("params")
    if not isinstance(params, Mapping):
        return {}
    return {name: math.inf if value == _INFINITE else value for name, value in params.items()}


def load_frozen(
    folder: Path,
    *,
    model: str | None = None,
    store: str | Path | bool | None = None,
    device: str = "auto",
    engine: Engine = "auto",
    batch_tokens: int | None = None,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
    engines: EngineMaker = make_engine,
) -> FrozenClassifier:
    """Open a classifier that `FrozenClassifier.save` wrote.

    Parameters
    ----------
    folder : Path
        The artifact.
    model : str, optional
        Where the encoder is now, if it has moved.
    store : str, Path, bool, optional
        Folder of the feature store; None is the usual one, False none.
    device, engine, batch_tokens, threads
        As in `EncoderSettings`; none of them changes an answer.
    progress : callable, optional
        Told the number of texts that became ready.
    engines : EngineMaker
        Makes a graph of the encoder where `engine` wants one. Default: `embedkit.export.engine.make_engine`.

    Raises
    ------
    InputMissingError
        The folder or its encoder is not there.
    ArtifactError
        The folder is damaged or foreign.
    SpaceMismatchError
        The encoder gives other features than those that the head was trained on.
    """
    return classifier_at(folder, Here(model, store, device, engine, batch_tokens, threads, progress, engines))


def classifier_at(folder: Path, here: Here) -> FrozenClassifier:
    """Open a classifier; errors are those of `load_frozen`."""
    read = read_frozen(folder, "sequence", FeatureExtractor, here)
    return FrozenClassifier(read.extractor, read.head, read.codec, read.kind, read.about, read.thresholds)


class Here(NamedTuple):
    """Where an encoder is and what computes, on the machine where a folder is opened; see `load_frozen`."""

    model: str | None
    store: str | Path | bool | None
    device: str
    engine: Engine
    batch_tokens: int | None
    threads: int | None
    progress: Callable[[int], None] | None
    engines: EngineMaker


@dataclass(frozen=True, eq=False)
class Read(Generic[E]):
    """What a folder of `save_frozen` holds, checked, with its encoder opened.

    Attributes
    ----------
    extractor : FeatureExtractor or WordExtractor
    head : Head
    codec : LabelCodec
    kind : {"text", "pair", "tokens"}
    about : dict
        What the manifest says of the training.
    thresholds : Thresholds or None
    """

    extractor: E
    head: Head
    codec: LabelCodec
    kind: str
    about: dict[str, Any]
    thresholds: Thresholds | None


def read_frozen(folder: Path, task: str, extractor: Callable[..., E], here: Here) -> Read[E]:
    """Read what `save_frozen` wrote, and open the encoder.

    Parameters
    ----------
    folder : Path
    task : {"sequence", "tokens"}
        What the folder must be for.
    extractor : class
        `FeatureExtractor` or `WordExtractor`.
    here : Here

    Raises
    ------
    InputMissingError, ArtifactError, SpaceMismatchError
        As of `load_frozen`.
    UsageError
        The folder is for another task.
    """
    entry = _parse(folder, read_manifest(folder, kind=CLASSIFIER))
    if entry.task != task:
        raise UsageError(f"{folder} {_TASKS[entry.task]}, but what {_TASKS[task]} is needed")
    head = head_from_state(entry.head, {**load_arrays(folder / HEAD_FILE), **_files(folder, entry.files)})
    if head.classes != len(entry.codec):
        raise ArtifactError(
            f"{folder}: {head.classes} classes in the head, {len(entry.codec)} labels in the manifest"
        )
    _check_decisions(folder, head, entry)
    opened = _opened(folder, entry, extractor, here)
    _check_space(folder, opened, entry)
    if head.n_features != opened.width(entry.kind):
        raise ArtifactError(
            f"{folder}: the head takes {head.n_features} numbers, its encoder gives {opened.width(entry.kind)}"
        )
    return Read(opened, head, entry.codec, entry.kind, entry.about, entry.thresholds)


def _opened(folder: Path, entry: _Entry, extractor: Callable[..., E], here: Here) -> E:
    settings = replace(
        entry.settings,
        model=here.model or (folder if entry.settings.model == OWN else entry.settings.model),
        revision=None if here.model else entry.settings.revision,
        device=here.device,
        engine=here.engine,
        batch_tokens=here.batch_tokens or entry.settings.batch_tokens,
        threads=here.threads,
    )
    features = open_store(here.store, entry.dtype)
    try:
        return extractor(settings, store=features, dtype=entry.dtype, progress=here.progress, engines=here.engines)
    except (InputMissingError, ModelError) as error:
        hint = (
            "" if here.model else f"; {folder} needs this encoder: name its folder with --model (in Python model=)"
        )
        raise type(error)(f"{error}{hint}") from error
    except UsageError as error:
        if here.model or isinstance(error, MissingExtraError):
            raise
        raise ArtifactError(f"{folder}: the encoder cannot do what the manifest says: {error}") from None


def _files(folder: Path, names: Iterable[str]) -> dict[str, NDArray[np.uint8]]:
    """Read the parts of a head that are files of their own."""
    read = {name: (folder / name).read_bytes() for name in names if name.endswith(_FILE)}
    return {name: np.frombuffer(data, dtype=np.uint8) for name, data in read.items()}


def _check_decisions(folder: Path, head: Head, entry: _Entry) -> None:
    """Refuse a manifest whose labels or thresholds are not of the kind that the head has."""
    if head.multi_label != entry.multi_label:
        raise ArtifactError(f"{folder}: head and manifest differ on whether a text has several labels")
    if entry.thresholds is None:
        return
    wanted = len(entry.codec) if head.multi_label else 1
    if len(entry.thresholds.values) != wanted or (not head.multi_label and head.classes > 2):
        raise ArtifactError(f"{folder}: {len(entry.thresholds.values)} thresholds do not fit its labels")
    if (entry.thresholds.on == "probability") != head.has_probabilities:
        raise ArtifactError(f"{folder}: its thresholds are on what the head does not give")


class _Entry(NamedTuple):
    """What a manifest says, checked."""

    task: str
    codec: LabelCodec
    kind: str
    settings: EncoderSettings
    space: str
    weights: object
    dtype: StoreDtype
    head: dict[str, Any]
    about: dict[str, Any]
    files: list[str]
    multi_label: bool
    thresholds: Thresholds | None


def _parse(folder: Path, manifest: Mapping[str, Any]) -> _Entry:
    """Read a manifest; raise `ArtifactError` for whatever in it cannot be what was written."""
    try:
        if HEAD_FILE not in manifest["files"]:
            raise ValueError(f"{HEAD_FILE} is not among its files")
        encoder = _of_type(manifest, "encoder", dict)
        head = _of_type(manifest, "head", dict)
        _of_type(head, "kind", str)
        task = _one_of(manifest, "task", tuple(_TASKS))
        thresholds = manifest["thresholds"] if task == "sequence" else None
        return _Entry(
            task,
            _codec(manifest),
            _one_of(manifest, "input", ("text", "pair") if task == "sequence" else ("tokens",)),
            _settings(_of_type(encoder, "settings", dict)),
            _of_type(encoder, "space", str),
            encoder.get("weights"),
            _one_of(encoder, "stored_dtype", ("float32", "float16")),
            head,
            _about(manifest),
            list(manifest["files"]),
            # folders of 0.1 do not say it: there were no several labels
            _one_of({"problem_type": PROBLEMS[0], **manifest}, "problem_type", PROBLEMS) == PROBLEMS[1],
            None if thresholds is None else Thresholds.from_json(thresholds),
        )
    except KeyError as error:
        raise ArtifactError(f"{folder}: its manifest lacks {error}; make the folder again") from None
    except (TypeError, ValueError, OverflowError) as error:  # also UsageError
        raise ArtifactError(f"{folder}: its manifest is damaged: {error}; make the folder again") from None


def _of_type(entry: Mapping[str, Any], name: str, kind: type) -> Any:  # noqa: ANN401 - of that type
    value = entry[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{name} is of type {type(value).__name__}, not {kind.__name__}")
    return value


def _one_of(entry: Mapping[str, Any], name: str, allowed: tuple[Any, ...]) -> Any:  # noqa: ANN401 - one of those
    if entry[name] not in allowed:
        raise ValueError(f"{name} is {entry[name]!r}; this embedkit knows {', '.join(map(repr, allowed))}")
    return entry[name]


def _codec(manifest: Mapping[str, Any]) -> LabelCodec:
    return LabelCodec.said(_of_type(manifest, "labels", list), _of_type(manifest, "label_dtype", str))


def _settings(given: Mapping[str, Any]) -> EncoderSettings:
    """Return settings that say all, each of the type that `exact_settings` writes."""
    for field in fields(EncoderSettings):
        value = given[field.name]
        if not isinstance(value, _WRITTEN.get(field.name, str)):
            raise TypeError(f"{field.name} is of type {type(value).__name__}")
    return EncoderSettings(**given)


def _about(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said of the training."""
    about = {name: manifest[name] for name in _ABOUT if name in manifest}
    checked_tag_task(manifest)
    kinds = {"head_settings": dict, "data": dict, "seed": int, "base": dict, "few_shot": dict}
    for name, kind in kinds.items():
        if name in about:
            _of_type(about, name, kind)
    for split in about.get("data", {}):
        _of_type(about["data"], split, dict)
    return about


def _check_space(folder: Path, extractor: Opened, entry: _Entry) -> None:
    """Refuse features of another space, also where they have the same width."""
    space = extractor.space(entry.kind)
    if space != entry.space:
        what = "its settings or tokenizer differ" if entry.weights == extractor.weights else "its weights differ"
        raise SpaceMismatchError(
            f"{folder}: the head was trained on the feature space {entry.space[:12]}, but "
            f"{extractor.folder.resolved.name} gives {space[:12]} ({what}); name the encoder that it was trained "
            "with, or train again"
        )
