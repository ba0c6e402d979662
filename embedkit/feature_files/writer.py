"""Opening a file of features: which format, whether it may be there, whole or not at all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from embedkit.artifact import check_file, staged_file
from embedkit.data.labels import LabelCodec
from embedkit.errors import UsageError, require
from embedkit.feature_files.arrays import NpzFile, SafetensorsFile
from embedkit.feature_files.base import ColumnChunk, FeatureFile, Plan
from embedkit.feature_files.parquet import ParquetFile

_FORMATS: dict[str, type[FeatureFile]] = {
    ".parquet": ParquetFile,
    ".npz": NpzFile,
    ".safetensors": SafetensorsFile,
}


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse a path that `feature_file` could not write to; changes nothing.

    Parameters
    ----------
    path : Path
        Ends in ``.parquet``, ``.npz`` or ``.safetensors``.
    overwrite : bool
        Whether a file that is there may be replaced. Folders, links and devices never are.

    Raises
    ------
    UsageError
        The ending is another one, or no file can be made there.
    OutputExistsError
        Something is there that may not be replaced.
    MissingExtraError
        Writing Parquet needs pyarrow, and it is not installed.
    """
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise UsageError(
            f"{path}: features are written as {', '.join(_FORMATS)}, by the ending of the name; choose one of them"
        )
    if path.suffix.lower() == ".parquet":
        require("pyarrow", extra="train", purpose=f"writing {path}")
    check_file(path, overwrite=overwrite)


@contextmanager
def feature_file(
    path: Path,
    *,
    rows: Mapping[str, int],
    width: int,
    codec: LabelCodec | None,
    labelled: Collection[str],
    columns: Iterable[ColumnChunk] | None = None,
    overwrite: bool = False,
) -> Iterator[FeatureFile]:
    """Open a file of features for writing; it is there, whole, when the block has ended without an error.

    - ``.parquet``: the columns of the input and ``hidden_state`` (a list of `width` float32); in front of them
      ``split``, a string, where there are several splits. One row group for each `FeatureFile.write`. A
      column that a split or a JSON line lacks is null there. Integers stand as floats where a column has both
      and none changes by that.
    - ``.npz``: ``X_<split>``, float32 of shape (rows, width); for each split with labels ``y_<split>``, int64
      codes of shape (rows,), or booleans of shape (rows, classes) where a row has several labels; and
      ``label_names``, the class of each code. Not compressed, no pickle.
    - ``.safetensors``: the same arrays; ``label_names`` is a JSON list in the metadata.

    In names of arrays, ``/``, a backslash, NUL and dots in front of a split's name are ``_``. The file has the
    mode that the umask gives.

    Parameters
    ----------
    path : Path
        As `check_target` wants it. Missing parents are made.
    rows : mapping of str to int
        Splits and their rows, in the order in which they will be written.
    width : int
        Numbers in a vector.
    codec : LabelCodec or None
        Knows the labels of all splits; None writes no labels (Parquet has them in its columns).
    labelled : collection of str
        Splits that have labels.
    columns : iterable of (str, mapping, ndarray), optional
        All rows of all splits, without vectors: source, values by column, data rows. Parquet must know every
        column and its type before the first row, so this is read to its end before the block runs; the other
        formats do not touch it.
    overwrite : bool, default False
        Replace a file; it stays until the new one is whole.

    Yields
    ------
    FeatureFile

    Raises
    ------
    UsageError, OutputExistsError, MissingExtraError
        Before the block runs, as `check_target`.
    DataError
        Before the block runs: a column holds values of several kinds or of one that is not written, or has a
        name that the file needs itself.
    ValueError
        What was written is not what was promised. As after every other exception, Ctrl-C included, nothing is
        left and a file that was there stays.
    OSError
        The file system refuses; the disk is full.
    """
    check_target(path, overwrite=overwrite)
    plan = Plan(rows, width, codec, labelled, columns)
    file = _FORMATS[path.suffix.lower()](plan)
    target = path.absolute()
    with staged_file(target, check=lambda: check_file(target, overwrite=overwrite)) as raw:
        file._start(raw)
        try:
            yield file
            file._turn_to(None)
            file._finish()
        except BaseException:
            file._discard()
            raise
