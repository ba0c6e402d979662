"""What fine-tuning begins from, and what an artifact says of it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.encoders import EncoderSettings, ModelFolder, make_recipe, read_folder
from embedkit.encoders.tokenizer_file import tokenizer_file
from embedkit.hub import Resolved, resolve_model
from embedkit.runtime.tokens import Side, Tokenizer
from embedkit.store import FileDigests
from embedkit.training.settings import TuneSettings

if TYPE_CHECKING:
    from embedkit.training.sequence import Tuned


@dataclass(frozen=True, eq=False)
class Start:
    """A pre-trained model and how it reads.

    Attributes
    ----------
    folder : ModelFolder
    tokenizer : Tokenizer
    """

    folder: ModelFolder
    tokenizer: Tokenizer

    def digests(self) -> list[str]:
        """Return the digests of the weights."""
        digests = FileDigests(None)
        return [digests.sha256(path) for path in self.folder.weights]

    @classmethod
    def of_folder(cls, folder: Path, tokenizer: Tokenizer) -> Start:
        """Return a start from a folder that is there, read by a tokenizer that is open."""
        return cls(read_folder(Resolved(folder, str(folder), "folder")), tokenizer)


def open_start(
    model: str, *, revision: str | None = None, max_length: int | None = None, side: Side | None = None
) -> Start:
    """Resolve a model to begin from, and its tokenizer.

    Parameters
    ----------
    model : str
        A packaged name, a folder or a hub id.
    revision : str, optional
    max_length : int, optional
        Most tokens of an input. Default: the folder's.
    side : {"right", "left"}, optional
        The end that truncation cuts off. Default: the folder's.

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
        path = tokenizer_file(folder, None, FileDigests(None), temporary)
        return Start(folder, recipe.tokenizer(path))


def base_said(start: Start) -> dict[str, Any]:
    """Return what a manifest says of the model that training began from."""
    resolved = start.folder.resolved
    return {
        "name": resolved.name,
        "repository": resolved.repository,
        "commit": resolved.commit,
        "weights": start.digests(),
    }


def settings_said(settings: TuneSettings, tuned: Tuned) -> dict[str, Any]:
    """Return all that a run was told and decided, as JSON."""
    said = {name: value for name, value in asdict(settings).items() if name not in ("device", "threads", "seed")}
    trained = tuned.trained
    return {
        **said,
        "learning_rate": tuned.rate,
        "precision": trained.precision,
        "steps": trained.steps,
        "best_step": trained.best_step,
        "trainable_parameters": sum(part.trainable for part in tuned.parts),
    }
