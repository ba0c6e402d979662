"""Which columns hold the texts, the pairs, the words, the labels and the tags."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from embedkit.data.tables import Table
from embedkit.data.text import name_of, names_of, printable
from embedkit.errors import DataError, UsageError

Task = Literal["auto", "sequence", "tokens", "ner", "pos", "chunk"]
Kind = Literal["text", "pair", "tokens"]
LabelUse = Literal["optional", "required", "none"]

TEXT_NAMES = (
    "text", "sentence", "content", "review", "document", "body", "comment", "message", "tweet", "utterance",
)  # fmt: skip
PAIR_NAMES = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text", "text_pair"),
    ("text1", "text2"),
    ("question", "sentence"),
)
LABEL_NAMES = ("label", "labels", "target", "class", "category", "intent", "sentiment")
TOKEN_NAMES = ("tokens", "words")
TAG_NAMES = {
    "ner": ("ner_tags", "ner", "tags", "labels"),
    "pos": ("pos_tags", "pos", "upos", "tags", "labels"),
    "chunk": ("chunk_tags", "chunk", "tags", "labels"),
}
_ALL_TAG_NAMES = tuple(dict.fromkeys(name for names in TAG_NAMES.values() for name in names))
_TOKEN_TASKS = frozenset({"tokens", *TAG_NAMES})


@dataclass(frozen=True)
class Columns:
    """What the user named; None is found by the usual names.

    Attributes
    ----------
    text, pair, label, tokens, tags : str, int or None
        A name, or a number counted from 1 (from the right if negative). CoNLL files have numbers only, which may
        also be given as a string.
    label_separator : str or None
        Where given, the label column holds several labels a row, joined by this string.
    """

    text: str | int | None = None
    pair: str | int | None = None
    label: str | int | None = None
    tokens: str | int | None = None
    tags: str | int | None = None
    label_separator: str | None = None


@dataclass(frozen=True)
class Roles:
    """The columns that were found.

    Attributes
    ----------
    kind : "text", "pair" or "tokens"
    inputs : tuple of str
        One column; two for a pair.
    label : str or None
        The label or tag column; None where there is none or none is wanted.
    """

    kind: Kind
    inputs: tuple[str, ...]
    label: str | None

    def columns(self) -> Columns:
        """Return the same as a user would name it."""
        if self.kind == "tokens":
            return Columns(tokens=self.inputs[0], tags=self.label)
        return Columns(self.inputs[0], self.inputs[1] if len(self.inputs) == 2 else None, self.label)


def find_roles(
    table: Table, peek: Mapping[str, Sequence[Any]], columns: Columns, task: Task, labels: LabelUse
) -> Roles:
    """Find the columns of a table.

    Parameters
    ----------
    table : Table
    peek : mapping of str to sequence
        Some first values of each column: tells lists of words from texts.
    columns : Columns
    task : Task
    labels : LabelUse
        ``"required"`` raises where there is no label column, ``"none"`` looks for none unless it is named.

    Raises
    ------
    UsageError
        Several columns fit and the user must choose; a named column contradicts the task.
    DataError
        A column that is needed is not there.
    """
    finder = _Finder(table, peek, columns, task, labels)
    named_tokens = columns.tokens is not None or columns.tags is not None
    named_text = columns.text is not None or columns.pair is not None or columns.label is not None
    if named_tokens and (named_text or task == "sequence"):
        raise UsageError(
            "--tokens-column and --tags-column belong to token tasks, --text-column, --pair-column and "
            "--label-column and --task sequence to the others; give one kind"
        )
    if table.positional:
        return finder.conll()
    if task in _TOKEN_TASKS or named_tokens or (task == "auto" and not named_text and finder.seems_tokens()):
        return finder.tokens()
    return finder.sequence()


class _Finder:
    def __init__(
        self, table: Table, peek: Mapping[str, Sequence[Any]], columns: Columns, task: Task, labels: LabelUse
    ) -> None:
        self._table, self._peek, self._columns, self._task, self._labels = table, peek, columns, task, labels
        self._lower = {name: name.lower() for name in table.names}

    # ------------------------------------------------------------------------------------------- by name

    def _named(self, role: str) -> str | None:
        """Return the column that the user named for a role, None where none was named."""
        wanted: str | int | None = getattr(self._columns, role)
        names = self._table.names
        if wanted is None:
            return None
        if wanted in names:
            return str(wanted)
        if isinstance(wanted, int) or (self._table.positional and wanted.lstrip("+-").isdecimal()):
            number = int(wanted)
            if number == 0 or abs(number) > len(names):
                raise UsageError(
                    f"--{role}-column {number}: {self._table.name} has columns 1 to {len(names)}"
                    + self._examples(names)
                )
            return names[number - 1 if number > 0 else number]
        return self._missing(wanted)

    def _missing(self, wanted: str, hint: str = "") -> NoReturn:
        names = self._table.names
        close = difflib.get_close_matches(wanted.lower(), self._lower.values(), n=1, cutoff=0.6)
        guess = next((name for name in names if close and self._lower[name] == close[0]), None)
        if guess is not None:
            hint = f"; did you mean {name_of(guess)}?"
        elif len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
            hint = "; is the file separated by something else than commas? Save it with commas, or name it .tsv"
        raise DataError(
            f"no column {name_of(wanted)} in {self._table.name}; columns: {', '.join(self._plain())}{hint}"
        )

    def _plain(self) -> list[str]:
        return [printable(name, 60) for name in self._table.names[:40]]

    def _with(self, usual: Sequence[str]) -> list[str]:
        """Return the columns that have a usual name, upper or lower case."""
        return [name for name in self._table.names if self._lower[name] in usual]

    def _only(self, found: list[str], role: str, what: str) -> str | None:
        if len(found) > 1:
            ways = " or ".join(f"--{role}-column {printable(name, 60)}" for name in found)
            raise UsageError(
                f"{self._table.name} has the columns {names_of(found)}; say which one holds the {what}: {ways}"
                + (self._examples(found) if role == "tags" else "")
            )
        return found[0] if found else None

    def _examples(self, names: Sequence[str]) -> str:
        """List columns with the first values of each."""
        lines = []
        for name in names:
            values: Any = next((value for value in self._peek.get(name, ()) if value), [])
            shown = " ".join(map(str, values)) if isinstance(values, list) else str(values)
            lines.append(f"\n  {self._number(name)}: {printable(shown, 60)}")
        return "".join(lines)

    def _number(self, name: str) -> str:
        return str(self._table.names.index(name) + 1) if self._table.positional else name

    # ----------------------------------------------------------------------------------------- sequences

    def sequence(self) -> Roles:
        text, pair = self._named("text"), self._named("pair")
        if text is None:
            text, pair = self._usual_inputs(pair)
        inputs = (text,) if pair is None else (text, pair)
        if len(set(inputs)) < len(inputs):
            raise UsageError(f"{self._table.name}: text and pair cannot both be column {name_of(text)}")
        return Roles("text" if pair is None else "pair", inputs, self._label(inputs))

    def _usual_inputs(self, pair: str | None) -> tuple[str, str | None]:
        """Find the text column, and its partner where both columns of a usual pair are there."""
        label = self._named("label")
        pairs = [tuple(self._with((half,)) for half in both) for both in PAIR_NAMES]
        pairs = [both for both in pairs if all(both)]
        if pair is None and pairs:
            first, second = pairs[0][0][0], pairs[0][1][0]
            inside = {name for both in pairs for half in both for name in half}
            others = [name for name in self._with(TEXT_NAMES) if name not in inside and name != label]
            if len(pairs) > 1 or others:
                self._only([*(both[0][0] for both in pairs), *others], "text", "texts")
            return first, second
        found = [name for name in self._with(TEXT_NAMES) if name not in {pair, label}]
        if pair is not None:  # the partner of a named second column may be the first half of a usual pair
            found += [n for n in self._with([both[0] for both in PAIR_NAMES]) if n != pair and n not in found]
        text = self._only(found, "text", "texts")
        if text is None and label is not None and label in self._with(TEXT_NAMES):
            raise UsageError(f"{self._table.name}: text and label cannot both be column {name_of(label)}")
        if text is None:
            self._missing("text", "; name it with --text-column")
        return text, pair

    def _label(self, inputs: tuple[str, ...]) -> str | None:
        named = self._named("label")
        if named is not None:
            if named in inputs:
                raise UsageError(f"{self._table.name}: text and label cannot both be column {name_of(named)}")
            return named
        if self._labels == "none":
            return None
        usual = [name for name in self._with(LABEL_NAMES) if name not in inputs]
        found = self._only(usual, "label", "labels")
        if found is None and self._labels == "required":
            self._missing("label", "; name it with --label-column")
        return found

    # -------------------------------------------------------------------------------------------- tokens

    def _holds_lists(self, name: str) -> bool:
        return any(isinstance(value, list) for value in self._peek.get(name, ()))

    def seems_tokens(self) -> bool:
        """Whether a column of lists has a usual name, and there are tags to it or no texts beside it."""
        lists = [name for name in self._with(TOKEN_NAMES) if self._holds_lists(name)]
        tags = [name for name in self._with(_ALL_TAG_NAMES) if self._holds_lists(name)]
        return bool(lists) and (bool(tags) or not self._with(TEXT_NAMES))

    def tokens(self) -> Roles:
        name = self._named("tokens") or self._only(self._with(TOKEN_NAMES), "tokens", "words")
        if name is None:
            self._missing("tokens", "; name it with --tokens-column")
        values = [value for value in self._peek.get(name, ()) if value is not None]
        if values and not self._holds_lists(name):
            raise DataError(
                f"{self._table.name}: column {name_of(name)} holds no lists of words; token tasks read JSON "
                "lines, Parquet or CoNLL columns; for texts pass --task sequence"
            )
        return Roles("tokens", (name,), self._tags(name))

    def _tags(self, tokens: str) -> str | None:
        named = self._named("tags")
        if named is not None or self._labels == "none":
            return named
        usual = TAG_NAMES.get(self._task, _ALL_TAG_NAMES)
        lists = [n for n in self._with(usual) if n != tokens and self._holds_lists(n)]
        if self._task in TAG_NAMES:  # the task's own name goes before "tags" and "labels"
            lists = sorted(lists, key=lambda n: usual.index(self._lower[n]))[:1]
        found = self._only(lists, "tags", "tags")
        if found is None and self._labels == "required":
            self._missing(usual[0] if self._task in TAG_NAMES else "tags", "; name it with --tags-column")
        return found

    # --------------------------------------------------------------------------------------------- CoNLL

    def conll(self) -> Roles:
        columns, names = self._columns, self._table.names
        if columns.text is not None or columns.pair is not None or columns.label is not None:
            raise UsageError(
                f"{self._table.name} has CoNLL columns: --tokens-column and --tags-column apply, by number"
            )
        if self._task == "sequence":
            raise UsageError(f"{self._table.name} has CoNLL columns, which --task sequence does not read")
        tokens = self._named("tokens") or names[0]
        tags = self._named("tags")
        if tags is None and self._labels != "none":
            tags = self._conll_tags()
        if tags == tokens:
            raise UsageError(f"{self._table.name}: words and tags cannot both be column {self._number(tokens)}")
        return Roles("tokens", (tokens,), tags)

    def _conll_tags(self) -> str | None:
        names = self._table.names
        if len(names) == 1:
            if self._labels == "required":
                raise DataError(f"{self._table.name} has one column: words without tags")
            return None
        if len(names) == 2:
            return names[1]
        if self._task == "ner":
            return names[-1]
        if self._task == "pos":
            return names[1]
        if self._task == "chunk" and len(names) in {3, 4}:
            return names[2]
        raise UsageError(
            f"{self._table.name} has {len(names)} columns; say which one holds the tags, with --task ner, pos or "
            f"chunk or with --tags-column N:{self._examples(names)}"
        )
