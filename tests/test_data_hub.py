"""Data sets of the hub, with `datasets` in memory instead of the network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, DatasetDict, Features, Value
from datasets.exceptions import DatasetNotFoundError

from embedkit.data import open_dataset
from embedkit.errors import DataError, EmbedkitError, InputMissingError, UsageError

Load = Callable[..., Any]


def texts(labels: list[int], names: list[str] | None = None) -> datasets.Dataset:
    features = Features({"text": Value("string"), "label": ClassLabel(names=names) if names else Value("int64")})
    return datasets.Dataset.from_dict({"text": [f"t{i}" for i in range(len(labels))], "label": labels}, features)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Load], None]:
    """Put a function in the place of ``datasets.load_dataset``."""
    monkeypatch.chdir(tmp_path)
    return lambda load: monkeypatch.setattr(datasets, "load_dataset", load)


def test_splits_labels_and_notes(hub: Callable[[Load], None]) -> None:
    found = DatasetDict(
        unsupervised=texts([-1], ["worse", "better"]),
        train=texts([1, 0, 1], ["worse", "better"]),
        validation=texts([0], ["worse", "better"]),
        test=texts([-1, -1], ["worse", "better"]),
    )
    hub(lambda *_, **__: found)
    dataset = open_dataset("hf:org/reviews", labels="required")
    assert list(dataset.sources) == ["train", "validation", "test"]
    assert dataset.declared == ("worse", "better")
    assert dataset.split("train").labels == ["better", "worse", "better"]
    assert dataset.split("train").inputs == ["t0", "t1", "t2"]
    assert dataset.split("train").columns["label"] == [1, 0, 1]
    assert dataset.split("test").labels is None
    assert dataset.notes == [
        "hf:org/reviews: the splits 'unsupervised' are not used",
        "hf:org/reviews:test: all labels are missing or -1: the test split is unlabelled",
    ]
    assert [len(chunk) for chunk in dataset.sources["train"].chunks(2)] == [2, 1]
    assert not dataset.single


def test_shuffled_and_filtered_rows_keep_their_order(hub: Callable[[Load], None]) -> None:
    rows = texts([0, 1, 0, 1]).select([3, 1, 0])
    hub(lambda *_, **__: DatasetDict(train=rows))
    split = open_dataset("hf:reviews").split("train")
    assert (split.inputs, split.labels) == (["t3", "t1", "t0"], [1, 1, 0])


def test_lists_of_class_labels(hub: Callable[[Load], None]) -> None:
    features = Features(
        {
            "tokens": datasets.List(Value("string")),
            "ner_tags": datasets.List(ClassLabel(names=["O", "B-ORG"])),
            "pos_tags": datasets.List(Value("int64")),
        }
    )
    values = {"tokens": [["EU", "said"], []], "ner_tags": [[1, 0], []], "pos_tags": [[7, 8], []]}
    hub(lambda *_, **__: DatasetDict(train=datasets.Dataset.from_dict(values, features)))
    dataset = open_dataset("hf:conll2003", task="ner")
    assert dataset.declared == ("O", "B-ORG")
    assert dataset.split("train").labels == [["B-ORG", "O"], []]
    assert open_dataset("hf:conll2003", task="pos").split("train").labels == [["7", "8"], []]


def test_files_that_datasets_writes(tmp_path: Path, hub: Callable[[Load], None]) -> None:
    rows = texts([1, 0], ["worse", "better"])
    datasets.disable_progress_bars()
    rows.to_parquet(str(tmp_path / "train.parquet"))
    rows.save_to_disk(str(tmp_path / "saved"))
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    for path in (tmp_path / "train.parquet", arrow):
        dataset = open_dataset(path)
        (name,) = dataset.sources
        assert dataset.declared == ("worse", "better")
        assert dataset.split(name).labels == ["better", "worse"]
        assert dataset.notes == []


@pytest.mark.parametrize(
    ("address", "there", "called"),
    [
        ("hf:imdb", "imdb", [("imdb", None, None)]),
        ("hf:org/x", "org/x", [("org/x", None, None)]),
        ("hf:glue/mrpc", "glue", [("glue/mrpc", None, None), ("glue", "mrpc", None)]),
        ("hf:org/x/en", "org/x", [("org/x", "en", None)]),
        ("hf:org/x@refs/convert/parquet", "org/x", [("org/x", None, "refs/convert/parquet")]),
    ],
)
def test_addresses(
    hub: Callable[[Load], None], address: str, there: str, called: list[tuple[str, str | None, str | None]]
) -> None:
    calls = []

    def load(name: str, config: str | None, *, revision: str | None) -> DatasetDict:
        """Has no trust_remote_code, so passing one fails."""
        calls.append((name, config, revision))
        if name != there:
            raise DatasetNotFoundError(name)
        return DatasetDict(train=texts([0, 1]))

    hub(load)
    assert len(open_dataset(address).split("train")) == 2
    assert calls == called


def raising(error: Exception) -> Load:
    def load(*_: object, **__: object) -> DatasetDict:
        raise error

    return load


@pytest.mark.parametrize(
    ("raised", "error", "said"),
    [
        (
            RuntimeError("Dataset scripts are no longer supported, but found x.py"),
            DataError,
            "hf:org/x@refs/convert/parquet, or download its files",
        ),
        (ValueError("The repository needs trust_remote_code=True"), DataError, "refs/convert/parquet"),
        (ValueError("Config name is missing. Please pick one: ['a', 'b']"), UsageError, "hf:org/x/config"),
        (DatasetNotFoundError("no"), InputMissingError, "no data set 'hf:org/x' on the hub"),
        (ConnectionError("Couldn't reach"), InputMissingError, "cannot be reached (ConnectionError)"),
        (KeyError("odd"), DataError, "cannot be loaded (KeyError)"),
    ],
)
def test_what_datasets_raises(
    hub: Callable[[Load], None], raised: Exception, error: type[EmbedkitError], said: str
) -> None:
    hub(raising(raised))
    with pytest.raises(error) as caught:
        open_dataset("hf:org/x")
    assert said in str(caught.value)


@pytest.mark.parametrize("address", ["hf:", "hf:/x", "hf:a/b/c/d", "hf:a//b", "hf:@main"])
def test_addresses_that_are_none(address: str, hub: Callable[[Load], None]) -> None:
    hub(raising(AssertionError("asked the hub")))
    with pytest.raises(UsageError, match="hf:owner/name"):
        open_dataset(address)


def test_a_local_folder_of_the_same_name_is_not_read_by_mistake(hub: Callable[[Load], None]) -> None:
    Path("emotion").mkdir()
    hub(raising(AssertionError("read the folder")))
    with pytest.raises(UsageError, match="there is a local 'emotion'"):
        open_dataset("hf:emotion")


def test_a_data_set_without_usual_splits(hub: Callable[[Load], None]) -> None:
    hub(lambda *_, **__: DatasetDict(auxiliary=texts([0])))
    with pytest.raises(DataError, match="has the splits 'auxiliary', none of train, validation, test"):
        open_dataset("hf:org/x")
