"""A trained classifier on frozen features: predicts, is saved and loaded, without scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedkit.artifact import CLASSIFIER, load_arrays, read_manifest, save_arrays, write_manifest
from embedkit.data.labels import LabelCodec
from embedkit.encoders import EncoderSettings, Extraction, FeatureExtractor
from embedkit.errors import ArtifactError, DataError, InputMissingError, ModelError, SpaceMismatchError, UsageError
from embedkit.heads import Head, head_from_state
from embedkit.runtime.tokens import Text
from embedkit.store import open_store

HEAD_FILE = "head.safetensors"
_ABOUT = ("head_settings", "data", "seed")
_VERSIONS = ("embedkit", "numpy", "scikit-learn", "tokenizers", "torch", "transformers")


class Predictions(NamedTuple):
    """Answers in input order.

    Attributes
    ----------
    codes : ndarray of int64, shape (n,)
        Classes.
    probabilities : ndarray of float64, shape (n, C)
    extraction : Extraction
        What the features cost.
    """

    codes: NDArray[np.int64]
    probabilities: NDArray[np.floating[Any]]
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
    """

    extractor: FeatureExtractor
    head: Head
    codec: LabelCodec
    kind: str
    about: Mapping[str, Any]

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
            nothing = np.empty((0, self.extractor.width(self.kind)), np.float32)
            return Predictions(self.head.predict(nothing), self.head.predict_proba(nothing), Extraction())
        features = self.extractor.transform(inputs, rows=rows)
        codes = self.head.predict(features.vectors)
        return Predictions(codes, self.head.predict_proba(features.vectors), features.extraction)

    def save(self, folder: Path) -> None:
        """Write the head and the manifest to a folder of `embedkit.artifact.staged`; call it last."""
        described, arrays = self.head.state()
        save_arrays(folder / HEAD_FILE, arrays)
        manifest = {
            "kind": CLASSIFIER,
            "task": "sequence",
            "input": self.kind,
            "labels": list(self.codec.classes),
            "label_dtype": self.codec.dtype,
            "encoder": self._encoder_entry(),
            "head": described,
            "thresholds": None,
            "versions": installed(_VERSIONS),
            **self.about,
        }
        write_manifest(folder, manifest)

    def _encoder_entry(self) -> dict[str, Any]:
        resolved = self.extractor.folder.resolved
        settings = asdict(exact_settings(self.extractor))
        return {
            "name": resolved.name,
            "repository": resolved.repository,
            "commit": resolved.commit,
            "weights": self.extractor.weights,
            "settings": settings,
            "space": self.extractor.space(self.kind),
            "width": self.extractor.width(self.kind),
            "stored_dtype": self.extractor.dtype,
        }


def exact_settings(extractor: FeatureExtractor) -> EncoderSettings:
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
        device="auto",
        threads=None,
    )


def installed(names: Sequence[str]) -> dict[str, str]:
    """Return the versions of packages, those that are installed, without importing them."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def load_frozen(
    folder: Path,
    *,
    model: str | None = None,
    store: str | Path | bool | None = None,
    device: str = "auto",
    batch_tokens: int | None = None,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
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
    device, batch_tokens, threads
        As in `EncoderSettings`; none of them changes an answer.
    progress : callable, optional
        Told the number of texts that became ready.

    Raises
    ------
    InputMissingError
        The folder or its encoder is not there.
    ArtifactError
        The folder is damaged or foreign.
    SpaceMismatchError
        The encoder gives other features than those that the head was trained on.
    """
    manifest = read_manifest(folder, kind=CLASSIFIER)
    try:
        encoder, described = manifest["encoder"], manifest["head"]
        codec = LabelCodec(tuple(manifest["labels"]), manifest["label_dtype"])
        kind, trained_in = manifest["input"], encoder["space"]
        settings = EncoderSettings(**encoder["settings"])
        about: dict[str, Any] = {
            name: manifest[name] for name in ("head_settings", "data", "seed") if name in manifest
        }
        dtype = encoder["stored_dtype"]
    except (KeyError, TypeError, UsageError) as error:
        raise ArtifactError(f"{folder}: its manifest lacks or garbles {error}; make the folder again") from None
    head = head_from_state(described, load_arrays(folder / HEAD_FILE))
    settings = replace(
        settings,
        model=model or settings.model,
        revision=None if model else settings.revision,
        device=device,
        batch_tokens=batch_tokens or settings.batch_tokens,
        threads=threads,
    )
    try:
        extractor = FeatureExtractor(settings, store=open_store(store, dtype), dtype=dtype, progress=progress)
    except (InputMissingError, ModelError) as error:
        hint = "" if model else f"; {folder} needs this encoder: name its folder with --model"
        raise type(error)(f"{error}{hint}") from error
    _check_space(folder, extractor, kind, trained_in, encoder.get("weights"))
    if head.classes != len(codec):
        raise ArtifactError(f"{folder}: {head.classes} classes in the head, {len(codec)} labels in the manifest")
    return FrozenClassifier(extractor, head, codec, kind, about)


def _check_space(folder: Path, extractor: FeatureExtractor, kind: str, trained_in: str, weights: object) -> None:
    """Refuse features of another space, also where they have the same width."""
    space = extractor.space(kind)
    if space != trained_in:
        what = "its settings or tokenizer differ" if weights == extractor.weights else "its weights differ"
        raise SpaceMismatchError(
            f"{folder}: the head was trained on the feature space {trained_in[:12]}, but "
            f"{extractor.folder.resolved.name} gives {space[:12]} ({what}); name the encoder that it was trained "
            "with, or train again"
        )
