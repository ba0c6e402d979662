"""What fine-tuning begins from, and what an artifact says of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.encoders import EncoderSettings, ModelFolder, make_recipe, read_folder
from embedkit.encoders.recipe import config_digest
from embedkit.encoders.tokenizer_file import tokenizer_file
from embedkit.export.folder import TOKENIZER_SETTINGS
from embedkit.hub import Resolved, resolve_model
from embedkit.runtime.tokens import Side, Tokenizer
from embedkit.store import FileDigests
from embedkit.training.settings import TuneSettings

if TYPE_CHECKING:
    from embedkit.training.loop import Trained


@dataclass(frozen=True, eq=False)
class Start:
    """A pre-trained model and how it reads.

    Attributes
    ----------
    folder : ModelFolder
    tokenizer : Tokenizer
    tokenizer_digest : str
        SHA-256 of its file.
    """

    folder: ModelFolder
    tokenizer: Tokenizer
    tokenizer_digest: str

    def identity(self) -> dict[str, Any]:
        """Return all of it that what is trained from it depends on."""
        return {
            "model": self.digests(),
            "config": config_digest(self.folder.config),
            "tokenizer": self.tokenizer_digest,
            "max_length": self.tokenizer.max_length,
            "side": self.tokenizer.side,
        }

    def digests(self) -> list[str]:
        """Return the digests of the weights."""
        return _weights(self.folder)


@dataclass(frozen=True, eq=False)
class TokenizerSettings:
    """What a folder says of its tokenizer to transformers, in memory: the folder may change, or stay behind.

    Attributes
    ----------
    folder : ModelFolder
    files : mapping of str to bytes
    """

    folder: ModelFolder
    files: Mapping[str, bytes]

    @classmethod
    def of(cls, folder: ModelFolder) -> TokenizerSettings:
        """Read them."""
        there = [folder.path / name for name in TOKENIZER_SETTINGS if (folder.path / name).is_file()]
        return cls(folder, {path.name: path.read_bytes() for path in there})

    @classmethod
    def of_path(cls, folder: Path) -> TokenizerSettings:
        """Read those of a folder by its path."""
        return cls.of(read_folder(Resolved(folder, str(folder), "folder")))

    @contextmanager
    def laid_out(self) -> Iterator[ModelFolder]:
        """Put them into a folder for the length of a block."""
        with tempfile.TemporaryDirectory(prefix="embedkit-") as path:
            for name, data in self.files.items():
                (Path(path) / name).write_bytes(data)
            yield replace(self.folder, path=Path(path))


def open_start(
    model: str | Path,
    *,
    revision: str | None = None,
    max_length: int | None = None,
    side: Side | None = None,
    words: bool = False,
) -> Start:
    """Resolve a model to begin from, and its tokenizer.

    Parameters
    ----------
    model : str or Path
        A packaged name, a folder or a hub id.
    revision : str, optional
    max_length : int, optional
        Most tokens of an input. Default: the folder's.
    side : {"right", "left"}, optional
        The end that truncation cuts off. Default: the folder's.
    words : bool, default False
        Whether inputs are lists of words, which then begin with a blank as in texts.

    Raises
    ------
    ModelError, UsageError, InputMissingError, HubError
        As resolving and reading have them; or `max_length` is more than the model has positions for.
    """
    folder = read_folder(resolve_model(model, revision=revision))
    # nothing is pooled, so that a model without a pooling of its own is no problem here
    recipe = make_recipe(
        EncoderSettings(model, pooling="cls", max_length=max_length, side=side, prompt=""), folder
    )
    with ExitStack() as temporary:
        digests = FileDigests(None)
        path = tokenizer_file(folder, None, digests, temporary)
        return Start(folder, replace(recipe, words=words).tokenizer(path), digests.sha256(path))


def _weights(folder: ModelFolder) -> list[str]:
    digests = FileDigests(None)
    return [digests.sha256(path) for path in folder.weights]


def base_said(folder: ModelFolder) -> dict[str, Any]:
    """Return what a manifest says of the model that training began from."""
    resolved = folder.resolved
    return {
        "name": resolved.name,
        "repository": resolved.repository,
        "commit": resolved.commit,
        "weights": _weights(folder),
    }


def depends_on(
    start: Start, settings: TuneSettings, data: Mapping[str, str], *, free: Sequence[str]
) -> dict[str, Any]:
    """Return what a run's weights depend on; settings called `free` change none of them."""
    return {
        **_without(settings, "device", "threads", *free),
        "data": dict(data),
        **start.identity(),
    }


def settings_said(
    settings: TuneSettings, trained: Trained, rate: float, *, free: Sequence[str] = ()
) -> dict[str, Any]:
    """Return all that a run was told and decided, as JSON, but settings called `free`."""
    return {
        **_without(settings, "device", "threads", "seed", *free),
        "learning_rate": rate,
        "precision": trained.precision,
        "steps": trained.steps,
        "best_step": trained.best_step,
    }


def _without(settings: TuneSettings, *names: str) -> dict[str, Any]:
    return {name: value for name, value in asdict(settings).items() if name not in names}
