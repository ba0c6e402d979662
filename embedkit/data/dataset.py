"""What a user calls DATA, opened: a folder of split files, one file, or a data set of the hub."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from embedkit.data.arrow import SPLIT_NAMES, open_arrow, open_hub, open_parquet
from embedkit.data.columns import Columns, Kind, LabelUse, Roles, Task, find_roles
from embedkit.data.conll import ConllTable, looks_like_conll
from embedkit.data.rows import Inputs, Labels, MissingText, Source, is_unlabelled, label_kind
from embedkit.data.splits import groups_of, holdout
from embedkit.data.tables import DelimitedTable, JsonLinesTable, Table, checked_encoding
from embedkit.data.text import counted, name_of, names_of, printable
from embedkit.errors import DataError, InputMissingError, UsageError

SPLITS = ("train", "validation", "test")
_JSON_LINES = frozenset({".jsonl", ".ndjson", ".json-lines", ".json"})
_CONLL = frozenset({".conll", ".bio", ".iob", ".txt"})
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
EXTENSIONS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json-lines", ".json", ".parquet", ".arrow", ".feather",
              ".conll", ".bio", ".iob", ".txt")  # fmt: skip
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|[A-Za-z0-9+]+::")
_PEEK = 64


@dataclass(frozen=True, eq=False)
class Split:
    """A whole split in memory, checked.

    Attributes
    ----------
    name : str
        ``"train"``, ``"validation"``, ``"test"``, or the file's name without its extension.
    kind : "text", "pair" or "tokens"
    inputs : list of str, of (str, str) or of list of str
    labels : list of str, of int or of list of str, or None
        One label a row; several labels a row; for tokens one tag a word. None for an unlabelled split.
    rows : ndarray of int64, shape (n,)
        Data rows of `source`, counted from 1.
    source : str
        Path or address as the user wrote it.
    columns : dict of str to list
        All columns as read; empty where they were not asked for.
    """

    name: str
    kind: Kind
    inputs: Inputs = field(repr=False)
    labels: Labels | None = field(repr=False)
    rows: NDArray[np.int64] = field(repr=False)
    source: str
    columns: dict[str, list[Any]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, positions: Sequence[int] | NDArray[np.int64], name: str | None = None) -> Split:
        """Return the rows at `positions` (from 0), in that order."""
        places = np.asarray(positions, dtype=np.int64)
        chosen = places.tolist()
        return Split(
            self.name if name is None else name,
            self.kind,
            [self.inputs[i] for i in chosen],
            None if self.labels is None else [self.labels[i] for i in chosen],
            self.rows[places],
            self.source,
            {column: [values[i] for i in chosen] for column, values in self.columns.items()},
        )

    def fingerprint(self) -> str:
        """Return 128 bits in hexadecimal that stand for the inputs and labels in their order (BLAKE2b)."""
        digest = hashlib.blake2b(digest_size=16)
        labels: Sequence[Any] = self.labels if self.labels is not None else [None] * len(self)
        for value, label in zip(self.inputs, labels, strict=True):
            digest.update(repr((value, label)).encode("utf-8"))
        return digest.hexdigest()


@dataclass(frozen=True)
class Tally:
    """What a pass over a split has counted: its rows, and the rows of each label (words of each tag)."""

    rows: int
    labels: dict[Any, int] | None


@dataclass(frozen=True, eq=False)
class Dataset:
    """Splits that are open, not read yet.

    Attributes
    ----------
    name : str
        What the user wrote.
    kind : "text", "pair" or "tokens"
    sources : dict of str to Source
        In the order train, validation, test; for one file under its name without extension.
    declared : tuple of str or None
        Label names in the order that the data declare (ClassLabel).
    single : bool
        Whether the data are one file, of which a part must be held out.
    notes : list of str
        What is worth saying to the user; grows while the data are read.
    """

    name: str
    kind: Kind
    sources: dict[str, Source]
    declared: tuple[str, ...] | None
    single: bool
    notes: list[str]

    def source(self, name: str) -> Source:
        """Return a split's stream; raise `UsageError` where there is no such split."""
        if name not in self.sources:
            raise UsageError(f"{self.name} has no split {name_of(name)}; it has {names_of(self.sources)}")
        return self.sources[name]

    def split(self, name: str, *, columns: bool = True) -> Split:
        """Read a whole split into memory.

        Parameters
        ----------
        name : str
            A key of `sources`.
        columns : bool, default True
            Whether to keep all columns, not only inputs and labels.

        Raises
        ------
        UsageError
            There is no such split.
        DataError
            A row is wrong; see `Source.chunks`.
        """
        source = self.source(name)
        inputs: list[Any] = []
        labels: list[Any] | None = None if source.roles.label is None else []
        rows: list[NDArray[np.int64]] = []
        kept: dict[str, list[Any]] = {}
        for chunk in source.chunks(columns=columns):
            for column, values in chunk.columns.items():  # a key may first appear late in JSON lines
                kept.setdefault(column, [None] * len(inputs)).extend(values)
            inputs.extend(chunk.inputs)
            if labels is not None and chunk.labels is not None:
                labels.extend(chunk.labels)
            rows.append(chunk.rows)
        numbers = np.concatenate(rows) if rows else np.array([], dtype=np.int64)
        return Split(name, self.kind, inputs, labels, numbers, source.name, kept)

    def check(self) -> dict[str, Tally]:
        """Read every split once, keeping nothing: raises what `split` would, and counts rows and labels."""
        found = {}
        for name, source in self.sources.items():
            rows, labels = 0, Counter[Any]()
            for chunk in source.chunks(columns=False):
                rows += len(chunk)
                for label in chunk.labels or []:
                    labels.update(label if isinstance(label, list) else (label,))
            found[name] = Tally(rows, None if source.roles.label is None else dict(labels))
        return found

    def splits(
        self, *, test_share: float = 0.2, validation_share: float = 0.0, seed: int = 42, columns: bool = True
    ) -> dict[str, Split]:
        """Read all splits, and hold rows out where a split is needed and missing.

        Equal texts stay on one side, and classes keep their shares; each hold-out adds a note.

        Parameters
        ----------
        test_share : float, default 0.2
            Part of a single file that becomes ``"test"``, the rest is ``"train"``; 0 makes all of it train.
            A folder without a test split gets none.
        validation_share : float, default 0
            Part of train that becomes ``"validation"`` where there is none.
        seed : int, default 42
        columns : bool, default True
            As in `split`.

        Returns
        -------
        dict of str to Split
            In the order train, validation, test.
        """
        found = {name: self.split(name, columns=columns) for name in self.sources}
        if self.single:
            ((_, whole),) = found.items()
            found = {"train": replace(whole, name="train")}
            if test_share:
                found = self._hold_out(whole, "test", test_share, seed)
        if validation_share and "validation" not in found and "train" in found:
            held = self._hold_out(found["train"], "validation", validation_share, seed)
            found = {**found, **held}
        return {name: found[name] for name in SPLITS if name in found}

    def _hold_out(self, whole: Split, name: str, share: float, seed: int) -> dict[str, Split]:
        labels = None if self.kind == "tokens" else whole.labels
        train, held = holdout(labels, groups_of(whole.inputs), share, seed)
        how = "stratified by label, " if labels is not None else ""
        self._note(
            f"{whole.source}: {len(held):,} of {counted(len(whole), 'row')} ({share:.0%}) held out as {name}, "
            f"{how}equal texts together, seed {seed}"
        )
        return {"train": whole.take(train, "train"), name: whole.take(held, name)}

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


# ------------------------------------------------------------------------------------------------- opening


def open_dataset(
    data: str | Path,
    *,
    columns: Columns | None = None,
    task: Task = "auto",
    encoding: str = "utf-8",
    train: str | Path | None = None,
    validation: str | Path | None = None,
    test: str | Path | None = None,
    missing_text: MissingText = "error",
    bad_unicode: str = "error",
    labels: LabelUse = "optional",
) -> Dataset:
    """Open data without reading them all: find the files, the format of each, and the columns.

    Parameters
    ----------
    data : str or Path
        A folder with split files (``train``; ``validation``, ``valid``, ``val`` or ``dev``; ``test``), one file,
        or ``hf:name[/config]``. Formats: csv, tsv, JSON lines, Parquet, Arrow and Feather, CoNLL columns.
    columns : Columns, optional
        Columns by name; those not named are found by the usual names.
    task : {"auto", "sequence", "tokens", "ner", "pos", "chunk"}, default "auto"
        ``"auto"`` takes lists of words and CoNLL files for tokens, all else for sequences.
    encoding : str, default "utf-8"
        Of text files; a byte order mark is dropped.
    train, validation, test : str or Path, optional
        Files that stand for a split, instead of what `data` has under it.
    missing_text : {"error", "empty", "drop"}, default "error"
        What becomes of a row without a text: refused, an empty text, or left out.
    bad_unicode : {"error", "replace"}, default "error"
        What becomes of a lone surrogate in JSON: refused, or U+FFFD.
    labels : {"optional", "required", "none"}, default "optional"
        Whether every split needs a label column, may have one, or none is looked for. A test split whose labels
        are all missing or -1 is unlabelled, and said so in `Dataset.notes`.

    Raises
    ------
    InputMissingError
        A file or folder is not there, or is empty.
    UsageError
        An argument is wrong, or several columns or files fit.
    DataError
        A file is not what its name says, or a column is missing.
    """
    for value, allowed, flag in (
        (task, get_args(Task), "--task"),
        (missing_text, get_args(MissingText), "--missing-text"),
        (bad_unicode, ("error", "replace"), "--bad-unicode"),
        (labels, get_args(LabelUse), "labels"),
    ):
        if value not in allowed:
            raise UsageError(f"{flag} {name_of(value)} is unknown; allowed: {', '.join(allowed)}")
    columns = columns or Columns()
    if columns.label_separator == "":
        raise UsageError("--label-separator must not be empty; an example: --label-separator ';'")
    overrides = {"train": train, "validation": validation, "test": test}
    given = {split: path for split, path in overrides.items() if path is not None}
    tables, notes, single = _tables(str(data), given, checked_encoding(encoding), bad_unicode)
    sources = _sources(tables, columns, task, labels, missing_text, notes)
    first = next(iter(sources.values()))
    declared = next((source.declared for source in sources.values() if source.declared), None)
    return Dataset(str(data), first.kind, sources, declared, single, notes)


def _tables(
    data: str, given: Mapping[str, str | Path], encoding: str, bad_unicode: str
) -> tuple[dict[str, Table], list[str], bool]:
    """Open the table of each split; say whether it is one file alone."""
    notes: list[str] = []
    found: dict[str, Table] = {}
    single = False
    if data.startswith("hf:"):
        hub, notes = open_hub(data)
        found.update(hub)
    else:
        path = _existing(data, "DATA")
        if path.is_dir():
            files = _split_files(path, data, needed=not given)
        elif given:
            if "train" in given:
                raise UsageError(f"{data} is a file and stands for train, as --train does; give one of them")
            files = {"train": path}
        else:
            single, files = True, {path.stem or path.name: path}
        files = {split: file for split, file in files.items() if split not in given}
        for split, file in files.items():
            found[split] = open_table(file, encoding=encoding, bad_unicode=bad_unicode)
    for split, override in given.items():
        file = _existing(str(override), f"--{split}")
        if file.is_dir():
            raise UsageError(f"--{split} {override} is a folder; give a file")
        found[split] = open_table(file, encoding=encoding, bad_unicode=bad_unicode)
    order = [*(split for split in SPLITS if split in found), *(split for split in found if split not in SPLITS)]
    return {split: found[split] for split in order}, notes, single


def local_path(given: str) -> Path:
    """Return the path that a user wrote, ``~`` spelled out where there is such a user."""
    try:
        return Path(given).expanduser()
    except RuntimeError:  # ~nobody
        return Path(given)


def _existing(given: str, flag: str) -> Path:
    """Return a path that is there; never looks anywhere else."""
    if _URL.match(given) and not Path(given).exists():
        raise UsageError(
            f"{flag} {name_of(given)} is an address; addresses are not read: download the file, or name a data "
            "set of the hub as hf:owner/name"
        )
    path = local_path(given)
    try:
        there = path.exists()
    except (OSError, ValueError):  # a name that is too long, or holds NUL
        there = False
    if not there:
        hub = (
            ""
            if re.search(r"[\\.~]|^/|/.*/", given)
            else f"; a data set of the hub is written hf:{printable(given)}"
        )
        raise InputMissingError(f"{flag} {name_of(given)} is not there: no such file or folder{hub}")
    return path


def _split_files(folder: Path, shown: str, *, needed: bool) -> dict[str, Path]:
    """Find one file for each split in a folder."""
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        split = SPLIT_NAMES.get(file.stem.lower())
        if split is None or file.suffix.lower() not in EXTENSIONS or not file.is_file():
            continue
        if split in found:
            raise UsageError(
                f"{shown} has two files for {split}: {found[split].name} and {file.name}; choose with "
                f"--{split} FILE"
            )
        found[split] = file
    if not found and needed:
        names = sorted(entry.name for entry in folder.iterdir())
        holds = f"it holds {names_of(names, 8)}" if names else "it is empty"
        raise DataError(
            f"{shown} has no split files; {holds}. Expected train, validation (valid, val, dev) and test with one "
            f"of the extensions {' '.join(EXTENSIONS)}; or give one file as DATA, or --train FILE"
        )
    return found


def open_table(path: Path, *, encoding: str = "utf-8", bad_unicode: str = "error") -> Table:
    """Open one file by its extension.

    Raises
    ------
    InputMissingError
        The file is empty.
    DataError
        The extension is not supported, or the file is not what it says.
    """
    name, extension = str(path), path.suffix.lower()
    if not path.is_file():
        raise DataError(f"{name} is not a regular file")
    if extension not in EXTENSIONS:
        raise DataError(
            f"{name}: files of type {name_of(extension)} are not read; supported: {' '.join(EXTENSIONS)}"
        )
    if path.stat().st_size == 0:
        raise InputMissingError(f"{name} is empty (0 bytes)")
    if extension in _DELIMITERS:
        return DelimitedTable(path, name, encoding, _DELIMITERS[extension])
    if extension in _JSON_LINES:
        return JsonLinesTable(path, name, encoding, "replace" if bad_unicode == "replace" else "error")
    if extension in _CONLL:
        if extension == ".txt" and not looks_like_conll(path, name, encoding):
            raise DataError(
                f"{name} is not in CoNLL columns (one word and its tags a line, a blank line after each "
                f"sentence), and plain text is not read; write texts as .csv or .jsonl, rename "
                f"true CoNLL to .conll. Supported: {' '.join(EXTENSIONS)}"
            )
        return ConllTable(path, name, encoding)
    return open_parquet(path, name) if extension == ".parquet" else open_arrow(path, name)


def _sources(
    tables: Mapping[str, Table],
    columns: Columns,
    task: Task,
    labels: LabelUse,
    missing_text: MissingText,
    notes: list[str],
) -> dict[str, Source]:
    """Find the columns of each split: those after the first as the first has them."""
    sources: dict[str, Source] = {}
    first: tuple[Table, Roles] | None = None
    kinds: dict[str, str] = {}
    for split, table in tables.items():
        peek = _peek(table)
        if first is None or first[0].positional != table.positional:
            roles = find_roles(table, peek, columns, task, labels)
        else:
            roles = _roles_like(first[1], table, peek, columns, labels, notes)
        if first is None:
            first = (table, roles)
        elif roles.kind != first[1].kind:
            raise DataError(f"{table.name} holds {roles.kind} rows, {first[0].name} {first[1].kind} rows")
        if split == "test" and roles.label is not None and _is_unlabelled(table, roles.label):
            notes.append(f"{table.name}: all labels are missing or -1: the test split is unlabelled")
            roles = replace(roles, label=None)
        if roles.label is not None and roles.kind != "tokens" and columns.label_separator is None:
            _same_label_kind(kinds, table, roles.label, peek)
        sources[split] = Source(table.name, roles, table, missing_text, columns.label_separator, notes)
    return sources


def _peek(table: Table) -> dict[str, list[Any]]:
    batch = next(table.batches(_PEEK), None)
    if batch is None:
        raise DataError(f"{table.name} has no data rows{', only a header' if table.names else ''}")
    return batch.columns


def _roles_like(
    roles: Roles,
    table: Table,
    peek: Mapping[str, Sequence[Any]],
    columns: Columns,
    labels: LabelUse,
    notes: list[str],
) -> Roles:
    """Find in a later split what the first has; a label column may be absent unless it is needed or named."""
    wanted = roles.columns()
    task: Task = "tokens" if roles.kind == "tokens" else "sequence"
    named = columns.tags if roles.kind == "tokens" else columns.label
    if roles.label is not None and roles.label not in table.names and labels == "optional" and named is None:
        notes.append(f"{table.name} has no column {name_of(roles.label)}: this split is unlabelled")
        wanted, labels = replace(wanted, label=None, tags=None), "none"
    return find_roles(table, peek, wanted, task, "none" if roles.label is None else labels)


def _is_unlabelled(table: Table, label: str) -> bool:
    """Whether no row has a label; stops at the first that has."""
    values = chain.from_iterable(batch.columns[label] for batch in table.batches(1024, [label]))
    return all(is_unlabelled(value) for value in values)


def _same_label_kind(kinds: dict[str, str], table: Table, label: str, peek: Mapping[str, Sequence[Any]]) -> None:
    """Refuse strings in one split and integers in another: they would never match."""
    value = next((value for value in peek.get(label, ()) if not is_unlabelled(value)), None)
    kind = "strings" if table.declared.get(label) else label_kind(value)
    if kind is None:
        return
    for name, other in kinds.items():
        if other != kind:
            raise DataError(f"labels are {other} in {name} and {kind} in {table.name}; write them in one way")
    kinds[table.name] = kind
