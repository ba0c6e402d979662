"""Parquet files, Arrow and Feather files, and hub data sets as tables: everything that is Arrow underneath."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.data.tables import Batch
from embedkit.data.text import name_of, names_of
from embedkit.errors import DataError, InputMissingError, UsageError, require

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

SPLIT_NAMES = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
"""What a split may be called, and what we call it."""

# A repository of the hub: what is written otherwise, such as ../x, `datasets` would take for a place on this disk.
_REPOSITORY = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)?")


def declared_labels(features: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the label names in the JSON form of `datasets.Features`, by column; also those of lists of labels."""
    found = {}
    for column, feature in features.items():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else None
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" and _are_names(inner.get("names")):
            found[column] = tuple(inner["names"])
    return found


def _are_names(names: object) -> bool:
    return isinstance(names, list) and bool(names) and all(isinstance(name, str) for name in names)


def _declared_in(metadata: Mapping[bytes, bytes] | None) -> dict[str, tuple[str, ...]]:
    """Return the label names that `datasets` writes into the schema of its files."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return declared_labels(features)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


class ArrowTable:
    """Record batches with a schema, read as Python values.

    Parameters
    ----------
    name : str
        For messages.
    schema : pyarrow.Schema
    read : callable
        ``read(rows, columns)`` gives an iterator of record batches or tables of at most `rows` rows.
    declared : mapping, optional
        Label names by column; by default those in the schema's metadata.
    """

    positional = False

    def __init__(
        self,
        name: str,
        schema: pa.Schema,
        read: Callable[[int, list[str] | None], Iterator[Any]],
        declared: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self.name = name
        self.names: tuple[str, ...] = tuple(schema.names)
        self.declared = _declared_in(schema.metadata) if declared is None else declared
        self.notes: list[str] = []
        self._read = read
        twice = sorted({column for column in self.names if self.names.count(column) > 1})
        if twice:
            raise DataError(f"{name} has more than one column {names_of(twice)}; every column needs its own name")

    def batches(self, rows: int, only: Sequence[str] | None = None) -> Iterator[Batch]:
        """Yield batches; see `embedkit.data.tables.Table.batches`."""
        first = 1
        with _readable(self.name):
            for batch in self._read(rows, None if only is None else list(only)):
                columns = {name: self._values(name, batch.column(name), first) for name in (only or self.names)}
                if batch.num_rows:
                    yield Batch(first, columns)
                first += batch.num_rows

    def _values(self, column: str, array: pa.Array, first: int) -> list[Any]:
        try:
            values: list[Any] = array.to_pylist()
        except UnicodeDecodeError:
            row = first + next(i for i, value in enumerate(array) if not _decodes(value))
            raise DataError(
                f"{self.name}: row {row}, column {name_of(column)} is not valid UTF-8; write the file anew from "
                "its source with the right encoding"
            ) from None
        return values


def _decodes(value: pa.Scalar) -> bool:
    try:
        value.as_py()
    except UnicodeDecodeError:
        return False
    return True


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turn the errors of pyarrow into ours."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{name} cannot be read; it is damaged or of another format: {said}") from None


def open_parquet(path: Path, name: str) -> ArrowTable:
    """Open a Parquet file; batches stream, whatever the size of its row groups."""
    require("pyarrow", extra="train", purpose=f"reading {name}")
    import pyarrow.parquet as pq

    def read(rows: int, columns: list[str] | None) -> Iterator[Any]:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=rows, columns=columns)

    with _readable(name), pq.ParquetFile(path) as file:
        return ArrowTable(name, file.schema_arrow, read)


def open_arrow(path: Path, name: str) -> ArrowTable:
    """Open an Arrow IPC file (also Feather version 2) or an Arrow stream, as `datasets` saves them."""
    require("pyarrow", extra="train", purpose=f"reading {name}")
    import pyarrow as pa

    with path.open("rb") as file:
        is_file = file.read(6) == b"ARROW1"
        file.seek(max(path.stat().st_size - 4, 0))
        ends = file.read(4) == b"\0\0\0\0"

    def read(rows: int, columns: list[str] | None) -> Iterator[Any]:
        with pa.memory_map(str(path)) as source:
            if is_file:
                reader = pa.ipc.open_file(source)
                batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
            else:
                batches = iter(pa.ipc.open_stream(source))
            for batch in batches:
                for start in range(0, batch.num_rows, rows):
                    yield batch.slice(start, rows)

    with _readable(name), pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
        table = ArrowTable(name, reader.schema, read)
    if not is_file and not ends:
        table.notes.append(f"{name} lacks the mark that ends an Arrow stream: rows at its end may be missing")
    return table


# -------------------------------------------------------------------------------------------------- hub


def open_hub(address: str) -> tuple[dict[str, ArrowTable], list[str]]:
    """Load ``hf:name[/config][@revision]`` through `datasets`; no code of a data set is ever run.

    Returns
    -------
    tables : dict of str to ArrowTable
        By our split names; only the usual splits.
    notes : list of str
        Which further splits there are.

    Raises
    ------
    UsageError
        The address is malformed, or a configuration must be chosen.
    InputMissingError
        There is no such data set, or the hub cannot be reached and nothing is cached.
    DataError
        The data set needs a script, or has none of the usual splits.
    """
    require("datasets", extra="train", purpose=f"reading {address}")
    loaded = _load(address)
    tables: dict[str, ArrowTable] = {}
    for split, rows in loaded.items():
        ours = SPLIT_NAMES.get(str(split))
        if ours is not None and ours not in tables:
            tables[ours] = _hub_table(f"{address}:{split}", rows)
    if not tables:
        raise DataError(f"{address} has the splits {names_of(map(str, loaded))}, none of train, validation, test")
    others = [str(split) for split in loaded if f"{address}:{split}" not in {t.name for t in tables.values()}]
    notes = [f"{address}: the splits {names_of(others)} are not used"] if others else []
    return tables, notes


def _hub_table(name: str, rows: datasets.Dataset) -> ArrowTable:
    def read(count: int, columns: list[str] | None) -> Iterator[Any]:
        chosen = rows if columns is None else rows.select_columns(columns)
        yield from chosen.with_format("arrow").iter(batch_size=count)

    return ArrowTable(name, rows.features.arrow_schema, read, declared_labels(rows.features.to_dict()))


def _candidates(address: str) -> tuple[list[tuple[str, str | None]], str | None]:
    """Return the (name, configuration) pairs that an address may mean, the likeliest first, and the revision."""
    path, _, revision = address.removeprefix("hf:").partition("@")
    parts = path.split("/")
    if len(parts) > 3 or not _REPOSITORY.fullmatch("/".join(parts[:2])) or not all(parts):
        raise UsageError(
            f"{name_of(address)} is not a data set's address; write hf:name, hf:owner/name, hf:name/config or "
            "hf:owner/name/config, with @revision behind it where needed"
        )
    if len(parts) == 3:
        return [(f"{parts[0]}/{parts[1]}", parts[2])], revision or None
    whole: list[tuple[str, str | None]] = [(path, None)]
    return whole + ([(parts[0], parts[1])] if len(parts) == 2 else []), revision or None


def _is_format(name: str) -> bool:
    """Whether `datasets` would read whatever lies in the current folder; older releases read pickles too."""
    from datasets import packaged_modules

    return (Path(packaged_modules.__path__[0]) / name).is_dir()


def _load(address: str) -> Mapping[str, Any]:
    from datasets import load_dataset  # type: ignore[import-untyped,unused-ignore]
    from datasets.exceptions import DatasetNotFoundError

    candidates, revision = _candidates(address)
    for name, config in candidates:
        if Path(name).exists():  # load_dataset would read it instead of the hub
            raise UsageError(f"{address}: there is a local {name_of(name)} here; give that path, or run elsewhere")
        if _is_format(name):
            raise UsageError(
                f"{address}: {name_of(name)} is a format, no data set of the hub; give the file or folder itself"
            )
        try:
            loaded: Mapping[str, Any] = load_dataset(name, config, revision=revision)
        except DatasetNotFoundError:
            continue
        except Exception as error:
            raise _hub_error(address, name, error) from error
        return loaded
    raise InputMissingError(
        f"no data set {name_of(address)} on the hub, or it is private or gated: check the name, log in with "
        "`hf auth login`, or download it and give the folder"
    )


def _hub_error(address: str, name: str, error: Exception) -> Exception:
    """Say in our words what `datasets` raised."""
    from datasets.exceptions import DatasetGenerationError

    said = " ".join(str(error).split())[:300]
    if (isinstance(error, RuntimeError) and "script" in said.lower()) or "trust_remote_code" in said:
        return DataError(
            f"{address} is a data set with a script, and scripts are not run; use its Parquet revision, "
            f"{address.partition('@')[0]}@refs/convert/parquet, or download its files and give the folder"
        )
    if "config" in said.lower() and isinstance(error, ValueError):
        return UsageError(f"{address} needs a configuration, as in hf:{name}/config: {said}")
    if isinstance(error, (ConnectionError, TimeoutError)) or "offline" in said.lower():
        return InputMissingError(
            f"{address} is not in the local cache and the hub cannot be reached ({type(error).__name__}); "
            "connect, or give a local folder"
        )
    if isinstance(error, DatasetGenerationError):  # whose message quotes the rows
        said = "its files are not what they should be; load it with datasets.load_dataset to see where"
    return DataError(f"{address} cannot be loaded ({type(error).__name__}): {said}")
