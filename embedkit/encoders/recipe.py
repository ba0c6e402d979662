"""Settings and a model folder made into one exact recipe: what is computed for a text, and what that is called."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedkit.encoders.folder import ModelFolder
from embedkit.encoders.settings import (
    WORD_POOLINGS,
    EncoderSettings,
    Join,
    Long,
    Pairs,
    Side,
    parse_layers,
    parse_pooling,
)
from embedkit.errors import UsageError
from embedkit.runtime.tokens import PROBE_WORDS, Tokenizer
from embedkit.store import FileDigests, space_id

SCHEMA = 1
WINDOWS = "quarter"  # how `Tokenizer.encode_words` reads long sentences, and chooses the window of a word
Floats: TypeAlias = NDArray[np.float32]
# What a configuration says about its writer, not about its model.
_COSMETIC = frozenset({"_name_or_path", "_commit_hash", "transformers_version"})


class View(NamedTuple):
    """One pooled layer: what a feature space of the store holds."""

    layer: int | Literal["last"]
    pooling: str


@dataclass(frozen=True)
class Recipe:
    """How a text becomes a vector, with every default filled in.

    Attributes
    ----------
    layers : tuple of int or "last"
        Distinct layers in the order asked for.
    poolings : tuple of str
        In the order asked for.
    layer_join, normalize, pairs
        How pooled layers become one vector, in this order.
    max_length, side, long, prompt, lowercase, pad_id
        How a text becomes tokens.
    precision : {"float32", "bfloat16", "float16"}
        Of the model.
    words : bool
        Whether vectors are of words, which have no prompt, are never cut off, never normalised, and begin with
        the blank that stands before them in texts.
    """

    layers: tuple[int | Literal["last"], ...]
    poolings: tuple[str, ...]
    layer_join: Join
    normalize: bool
    pairs: Pairs
    max_length: int
    side: Side
    long: Long
    prompt: str
    lowercase: bool
    pad_id: int
    precision: Literal["float32", "bfloat16", "float16"]
    words: bool = False

    @property
    def views(self) -> tuple[View, ...]:
        """Every pooled layer that a forward pass must give."""
        return tuple(View(layer, pooling) for layer in self.layers for pooling in self.poolings)

    def tokenizer(self, path: Path) -> Tokenizer:
        """Open a ``tokenizer.json`` as this recipe wants it."""
        return Tokenizer.from_file(
            path,
            max_length=self.max_length,
            pad_id=self.pad_id,
            side=self.side,
            prompt=self.prompt,
            lowercase=self.lowercase,
            spaced=self.words,
        )

    def compose(self, views: Sequence[Floats]) -> Floats:
        """Join the pooled layers of texts and normalise.

        Parameters
        ----------
        views : sequence of ndarray of float32, each of shape (n, H)
            In the order of `views`; may be changed.

        Returns
        -------
        ndarray of float32, shape (n, D)
        """
        step = len(self.poolings)
        layers = [_joined(views[start : start + step]) for start in range(0, len(views), step)]
        if self.layer_join == "mean" and len(layers) > 1:
            vectors: Floats = np.mean(np.stack(layers), axis=0, dtype=np.float32)
        else:
            vectors = _joined(layers)
        if self.normalize:
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors /= np.where(norms > 0, norms, 1)
        return vectors

    def space(self, view_ids: Sequence[str], kind: str) -> str:
        """Return the id of the feature space that a head is trained in.

        Parameters
        ----------
        view_ids : sequence of str
            Ids of the spaces of `views`, in their order.
        kind : {"text", "pair", "tokens"}
            What an input is.
        """
        combined = {
            "schema": SCHEMA,
            "views": list(view_ids),
            "layer_join": self.layer_join,
            "poolings": len(self.poolings),
            "normalize": self.normalize,
            "pairs": self.pairs if kind == "pair" else None,
        }
        return space_id(combined)


def _joined(parts: Sequence[Floats]) -> Floats:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def pair_features(first: Floats, second: Floats) -> Floats:
    """Return (u, v, |u - v|, u * v) (Reimers & Gurevych, 2019), shape (n, 4 D)."""
    return np.concatenate([first, second, np.abs(first - second), first * second], axis=1)


def make_recipe(settings: EncoderSettings, folder: ModelFolder) -> Recipe:
    """Fill in what the settings leave to the folder.

    Raises
    ------
    UsageError
        The settings ask for what the model does not have.
    """
    if settings.pooling is None and folder.pooling_error:
        raise UsageError(f"{folder.resolved.name}: {folder.pooling_error} (for example pooling 'mean')")
    poolings = parse_pooling(settings.pooling or folder.pooling)
    layers = _layers(settings, folder)
    if "pooler" in poolings and layers != ("last",):
        raise UsageError("pooling 'pooler' is computed from the last layer only; leave layers at -1")
    return Recipe(
        layers=layers,
        poolings=poolings,
        layer_join=settings.layer_join if len(layers) > 1 else "concat",
        normalize=folder.normalize if settings.normalize is None else settings.normalize,
        pairs=settings.pairs,
        max_length=_max_length(settings, folder),
        side=settings.side or folder.side,
        long=settings.long,
        prompt=_prompt(settings, folder),
        lowercase=folder.lowercase,
        pad_id=folder.pad_id,
        precision="float32" if settings.precision == "auto" else settings.precision,
    )


def make_word_recipe(settings: EncoderSettings, folder: ModelFolder) -> Recipe:
    """Fill in what the settings leave to the folder, for vectors of words.

    A folder's own prompt and normalising are of texts, and left aside.

    Raises
    ------
    UsageError
        The settings ask for what the model does not have, or for what is of texts alone.
    """
    for name, given in (
        ("normalize", settings.normalize),
        ("prompt", settings.prompt),
        ("long", settings.long == "mean"),
        ("side", settings.side == "left"),
        ("pairs", settings.pairs == "bi"),
    ):
        if given:
            raise UsageError(
                f"{name} is of texts; vectors of words have no prompt, are not normalised, and long sentences are "
                "read whole, in overlapping windows; leave it out"
            )
    layers = _layers(settings, folder)
    return Recipe(
        layers=layers,
        poolings=parse_pooling(settings.pooling or WORD_POOLINGS[0], WORD_POOLINGS),
        layer_join=settings.layer_join if len(layers) > 1 else "concat",
        normalize=False,
        pairs="cross",
        max_length=_max_length(settings, folder),
        side="right",
        long="truncate",
        prompt="",
        lowercase=folder.lowercase,
        pad_id=folder.pad_id,
        precision="float32" if settings.precision == "auto" else settings.precision,
        words=True,
    )


def _layers(settings: EncoderSettings, folder: ModelFolder) -> tuple[int | Literal["last"], ...]:
    """Return the one name of each layer: its index in ``hidden_states``, or ``"last"``."""
    asked = parse_layers(settings.layers)
    count = folder.layers
    numbers = range(count + 1) if asked == "all" else asked
    wrong = [number for number in numbers if not -count - 1 <= number <= count]
    if wrong:
        raise UsageError(
            f"layer {wrong[0]} does not exist: {folder.resolved.name} has layers 0 (embeddings) to {count}, "
            f"or -1 (the last) to {-count - 1}"
        )
    indices = [number % (count + 1) for number in numbers]
    if len(set(indices)) < len(indices):
        raise UsageError(f"layers {settings.layers!r} name one layer twice ({count + 1} layers, -1 is {count})")
    return tuple("last" if index == count else index for index in indices)


def _max_length(settings: EncoderSettings, folder: ModelFolder) -> int:
    length = settings.max_length or folder.max_length
    if folder.positions is not None and length > folder.positions:
        raise UsageError(
            f"max_length {length} is more than {folder.resolved.name} has positions for; allowed: up to "
            f"{folder.positions}"
        )
    return length


def _prompt(settings: EncoderSettings, folder: ModelFolder) -> str:
    if settings.prompt is None:
        prompt = folder.prompts.get("", "")
    else:
        prompt = folder.prompts.get(settings.prompt, settings.prompt) if settings.prompt else ""
    if prompt and not folder.prompt_pooled:
        raise UsageError(f"{folder.resolved.name} leaves the prompt out of its pooling, which is not supported")
    return prompt


def view_descriptors(
    recipe: Recipe,
    folder: ModelFolder,
    tokenizer: Tokenizer,
    tokenizer_path: Path,
    digests: FileDigests,
    engine: str,
) -> list[dict[str, Any]]:
    """Describe everything that changes a view's vectors, and nothing else.

    Names, paths, devices, batch sizes and threads are left out; so is what happens after the store (joining,
    normalising, pairing), so that one stored view serves all of it.
    """
    if recipe.words:
        of_inputs = {"unit": "word", "windows": WINDOWS, "word_probe": _word_probe(tokenizer)}
    else:
        of_inputs = {"prompt": recipe.prompt, "side": recipe.side, "long": recipe.long}
    common = {
        "schema": SCHEMA,
        "weights": [digests.sha256(path) for path in folder.weights],
        "config": config_digest(folder.config),
        "tokenizer": digests.sha256(tokenizer_path),
        "probe": tokenizer.probe(),
        "pad_id": recipe.pad_id,
        "lowercase": recipe.lowercase,
        "max_length": recipe.max_length,
        **of_inputs,
        # Engines agree within 1e-5 in float32 alone.
        "precision": recipe.precision if recipe.precision == "float32" else f"{recipe.precision}/{engine}",
    }
    return [{**common, "layer": view.layer, "pooling": view.pooling} for view in recipe.views]


def _word_probe(tokenizer: Tokenizer) -> str:
    """Digest of the ids that 64 fixed words get, alone and as one sentence: words may be split unlike texts."""
    given = tokenizer.encode_words([*([word] for word in PROBE_WORDS), list(PROBE_WORDS)])
    parts = (given.tokens.ids, given.tokens.offsets, given.words, given.chosen)
    return hashlib.sha256(b"".join(part.astype(np.int64).tobytes() for part in parts)).hexdigest()[:32]


def config_digest(config: Mapping[str, Any]) -> str:
    """Return the digest of what a model's configuration says of its answers."""
    kept = {key: value for key, value in config.items() if key not in _COSMETIC}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
