"""Every error that embedkit raises on purpose, each with the exit code of the command line.

::

    EmbedkitError
    ├── UsageError (ValueError)            2    an argument or a flag is wrong
    │   ├── MissingExtraError              2    a package of an extra is not installed
    │   └── OutputExistsError              2    the output is there and --overwrite was not given
    ├── DataError (ValueError)            65    the user's rows are wrong; names file and row
    ├── ModelError (ValueError)           65    a model folder is incomplete, damaged or unsupported
    ├── ArtifactError (ValueError)        65    an embedkit folder is damaged, foreign or too new
    │   └── SpaceMismatchError            65    features of another space than the head was trained on
    ├── ExportError (ValueError)          65    what cannot be a graph, or a graph that answers otherwise
    ├── TrainingError                     65    a training run cannot go on; says at which step, and what is kept
    ├── InputMissingError                 66    a file or folder that was named is not there
    ├── StoreError                        74    reading or writing features failed
    │   └── StoreFullError                74    the disk is full; says what was saved
    └── HubError                          74    the hub cannot be reached, or refuses an upload

A message says what was given, what is allowed, and what to do.
"""

from __future__ import annotations

from typing import ClassVar


class EmbedkitError(Exception):
    """Base of all; `exit_code` is what the command line exits with."""

    exit_code: ClassVar[int] = 65


class UsageError(EmbedkitError, ValueError):
    """An argument or a flag is wrong."""

    exit_code = 2


class MissingExtraError(UsageError, ImportError):
    """A package that this command needs is not installed; the message names the extra."""


class OutputExistsError(UsageError):
    """The output exists and may not be overwritten."""


class DataError(EmbedkitError, ValueError):
    """Rows, columns or labels are wrong."""


class ModelError(EmbedkitError, ValueError):
    """A model folder is incomplete, damaged or of a kind that is not supported."""


class ArtifactError(EmbedkitError, ValueError):
    """An embedkit folder is damaged, not one of ours, or of a newer format."""


class SpaceMismatchError(ArtifactError):
    """Features come from another feature space than the head was trained on."""


class ExportError(EmbedkitError, ValueError):
    """Something has no form as an ONNX graph, or the graph answers otherwise than what it was made of."""


class TrainingError(EmbedkitError):
    """Training cannot go on: the loss is no number, or memory is full; checkpoints that were kept stay."""


class InputMissingError(EmbedkitError):
    """A file or folder that was named does not exist."""

    exit_code = 66


class StoreError(EmbedkitError):
    """The feature store cannot be read or written."""

    exit_code = 74


class StoreFullError(StoreError):
    """No space is left; what was committed before stays usable."""


class HubError(EmbedkitError):
    """The hub cannot be reached, or refuses an upload."""

    exit_code = 74


def require(module: str, *, extra: str, purpose: str) -> None:
    """Raise `MissingExtraError` unless `module` can be imported; does not import it.

    Parameters
    ----------
    module : str
        Top-level import name, such as ``"torch"``.
    extra : str
        The extra of embedkit that installs it.
    purpose : str
        What needs it, as the message's subject: ``"embedkit extract"``.
    """
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise MissingExtraError(
            f"{purpose} needs the package {module!r}, which is not installed; "
            f"install it with: pip install 'embedkit[{extra}]'"
        )
