"""Plain text files: one text a line, no labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from embedkit.data.arrow import SPLIT_NAMES
from embedkit.data.conll import looks_like_conll
from embedkit.data.dataset import Split, local_path
from embedkit.data.tables import bad_byte, checked_encoding, decoding_error, open_text
from embedkit.errors import DataError, InputMissingError, UsageError

PLAIN = ".txt"


def plain_files(
    data: str, *, train: str | None = None, validation: str | None = None, encoding: str = "utf-8"
) -> dict[str, Path]:
    """Return the plain text file of each split that DATA stands for; none where DATA is anything else.

    Parameters
    ----------
    data : str
        A ``.txt`` file, or a folder with ``train.txt`` and maybe ``validation.txt`` (``valid``, ``val``, ``dev``).
        A ``.txt`` file in CoNLL columns is none.
    train, validation : str, optional
        Files that stand for a split instead.
    encoding : str, default "utf-8"

    Raises
    ------
    UsageError
        Plain text and tables stand beside each other, or a file stands for a split that `train` names too.
    """
    path = local_path(data)
    given = {name: local_path(file) for name, file in (("train", train), ("validation", validation)) if file}
    if path.is_dir():
        found = _in_folder(path)
    elif path.is_file() and path.suffix.lower() == PLAIN:
        if train is not None:
            raise UsageError(f"{data} is a file and stands for train, as --train does; give one of them")
        found = {"train": path}
    else:
        found = {}
    found |= given
    if "train" not in found or not _is_plain(found["train"], encoding):
        return {}
    other = [file for file in found.values() if file.suffix.lower() != PLAIN]
    if other:
        raise UsageError(
            f"{found['train']} is plain text and {other[0]} is not; give both as .txt, or both as tables "
            "such as .csv"
        )
    return found


def _in_folder(folder: Path) -> dict[str, Path]:
    """Return the files of train and validation; none where two files could be train."""
    named = [file for file in sorted(folder.iterdir()) if file.is_file() and file.stem.lower() in SPLIT_NAMES]
    found = {SPLIT_NAMES[file.stem.lower()]: file for file in named if file.suffix.lower() == PLAIN}
    several = [file for file in named if SPLIT_NAMES[file.stem.lower()] == "train"]
    return {} if len(several) > 1 else {name: file for name, file in found.items() if name != "test"}


def _is_plain(path: Path, encoding: str) -> bool:
    if path.suffix.lower() != PLAIN or not path.is_file():
        return False
    return path.stat().st_size == 0 or not looks_like_conll(path, str(path), checked_encoding(encoding))


def read_lines(path: Path, name: str, *, encoding: str = "utf-8") -> Split:
    """Read a plain text file: each line that holds more than blanks is a text.

    Parameters
    ----------
    path : Path
    name : str
        Of the split.
    encoding : str, default "utf-8"
        A byte order mark is dropped.

    Returns
    -------
    Split
        Unlabelled; ``rows`` are line numbers.

    Raises
    ------
    InputMissingError
        The file is not there or empty.
    DataError
        It has no line with a text, or is not in this encoding; names the line.
    """
    if not path.is_file():
        raise InputMissingError(f"{path} is not there: no such file")
    if path.stat().st_size == 0:
        raise InputMissingError(f"{path} is empty (0 bytes)")
    codec = checked_encoding(encoding)
    texts, rows = [], []
    try:
        with open_text(path, codec, newline=None) as file:
            for line, text in enumerate(file, 1):
                if text.strip():
                    texts.append(text.removesuffix("\n"))
                    rows.append(line)
    except UnicodeError:
        wrong = bad_byte(path, codec)[1]
        raise decoding_error(str(path), path, codec, f"line {wrong}") from None
    if not texts:
        raise DataError(f"{path} has no line with a text; give one text a line")
    return Split(name, "text", texts, None, np.array(rows, np.int64), str(path))
