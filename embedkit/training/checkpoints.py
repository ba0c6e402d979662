"""The folder beside an output in which a run keeps its checkpoints until it is finished.

transformers writes a checkpoint file by file, so that a process that is killed leaves a torn one. A checkpoint
counts when `seal` has written its manifest, which lists every file with its digest; others are skipped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embedkit.artifact import write_json, write_manifest
from embedkit.errors import ArtifactError, OutputExistsError, UsageError
from embedkit.runtime.manifest import read_manifest

_RUN, _HISTORY = "run.json", "history.json"
_KIND = "checkpoint"
_PREFIX = "checkpoint-"
_PICKLED = "training_args.bin"  # written by transformers, read by nothing


def checkpoints_beside(output: Path) -> Path:
    """Return where the checkpoints of an output are kept."""
    return output.with_name(f"{output.name}.checkpoints")


def prepare(folder: Path, run: Mapping[str, Any], *, resume: bool, overwrite: bool = False) -> list[str]:
    """Make the folder of a run, or find it again; return what is worth saying.

    Parameters
    ----------
    folder : Path
        Of `checkpoints_beside`.
    run : mapping
        All that the weights depend on, as JSON. A run is only gone on with if it is the same.
    resume, overwrite : bool

    Raises
    ------
    OutputExistsError
        There are checkpoints, and neither `resume` nor `overwrite` says what to do with them.
    UsageError
        They are of another run; names what differs.
    """
    if folder.exists() and not resume:
        if not overwrite:
            raise OutputExistsError(
                f"{folder} holds the checkpoints of a run that did not finish; --resume goes on with it, "
                "--overwrite begins anew"
            )
        _check_ours(folder)
        shutil.rmtree(folder)
    if folder.exists():
        _check_same(folder, run)
        return []
    folder.mkdir(parents=True)
    write_json(folder / _RUN, run)
    return [f"there is no {folder} to go on with; training begins anew"] if resume else []


def _check_ours(folder: Path) -> None:
    foreign = [p.name for p in folder.iterdir() if p.name != _RUN and not p.name.startswith((_PREFIX, "states"))]
    if not (folder / _RUN).exists() or foreign:
        raise OutputExistsError(
            f"{folder} is not overwritten, because it holds what embedkit did not write there: "
            f"{', '.join(sorted(foreign)[:3]) or 'no ' + _RUN}; move it away"
        )


def _check_same(folder: Path, run: Mapping[str, Any]) -> None:
    try:
        before = json.loads((folder / _RUN).read_bytes())
    except (OSError, ValueError):
        raise ArtifactError(f"{folder / _RUN} is missing or damaged; begin anew with --overwrite") from None
    now = json.loads(json.dumps(run))
    differing = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    if differing:
        said = "; ".join(f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in differing[:4])
        raise UsageError(
            f"{folder} holds the checkpoints of another run ({said}); give the same settings and data to go on "
            "with it, or begin anew with --overwrite"
        )


def seal(checkpoint: Path, history: Sequence[Mapping[str, Any]], kept: Mapping[str, Any]) -> None:
    """Make a checkpoint count: keep the run's history in it, and write its manifest.

    Parameters
    ----------
    checkpoint : Path
        As transformers has written it.
    history : sequence of mapping
        What was judged so far.
    kept : mapping
        Sums that the next row of the history starts from, as JSON.
    """
    (checkpoint / _PICKLED).unlink(missing_ok=True)
    write_json(checkpoint / _HISTORY, {"rows": list(history), "kept": dict(kept)})
    write_manifest(checkpoint, {"kind": _KIND})


def newest_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint that is whole, every digest checked; and which newer ones were skipped."""
    numbered = {int(p.name.removeprefix(_PREFIX)): p for p in folder.glob(f"{_PREFIX}*") if _is_numbered(p)}
    notes = []
    for step in sorted(numbered, reverse=True):
        try:
            read_manifest(numbered[step], kind=_KIND)
        except (ArtifactError, OSError):
            notes.append(f"{numbered[step]} is torn and skipped")
            shutil.rmtree(numbered[step], ignore_errors=True)  # its number will be written again
            continue
        return numbered[step], [*notes, f"going on from step {step}"]
    return None, [*notes, "there is no whole checkpoint; training begins anew"]


def _is_numbered(path: Path) -> bool:
    return path.is_dir() and path.name.removeprefix(_PREFIX).isdecimal()


def history_of(checkpoint: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return what `seal` kept of the history."""
    found = json.loads((checkpoint / _HISTORY).read_bytes())
    return found["rows"], found["kept"]
