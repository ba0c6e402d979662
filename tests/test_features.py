"""Features through the store: every text computed once, in input order, whatever fails on the way."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedkit.encoders import EncoderSettings, Extraction, FeatureExtractor, View, check_texts, require_texts
from embedkit.errors import DataError, ModelError, StoreError, StoreFullError, UsageError
from embedkit.hub import resolve_model
from embedkit.runtime import texts as texts_module
from embedkit.runtime.tokens import Text, Tokens
from embedkit.store import FeatureStore
from tests.extract_worker import FakeEncoder, texts_of
from tests.test_store_faults import read_only
from tests.tiny_models import make_decoder, make_encoder

WORKER = Path(__file__).with_name("extract_worker.py")
Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("model") / "m", "bert")


class Bench:
    """An extractor on a made-up encoder, and what it told about its progress."""

    def __init__(
        self,
        model: Path | str,
        store: Path | FeatureStore | None = None,
        *,
        encoder: FakeEncoder | None = None,
        dtype: str = "float32",
        keep_going: bool = True,
        **how: object,
    ) -> None:
        self.encoder = FakeEncoder() if encoder is None else encoder
        self.progress: list[int] = []
        kept = FeatureStore(store, dtype=dtype) if isinstance(store, Path) else store  # type: ignore[arg-type]
        self.extractor = FeatureExtractor(
            EncoderSettings(str(model), **how),  # type: ignore[arg-type]
            store=kept,
            dtype=dtype,  # type: ignore[arg-type]
            keep_going=keep_going,
            progress=self.progress.append,
            encoder=self.encoder,
        )

    def __call__(self, inputs: Sequence[Text], first_row: int = 1) -> tuple[Floats, Extraction]:
        rows = np.arange(first_row, first_row + len(inputs))
        done = self.extractor.transform(inputs, rows=rows)
        return done.vectors, done.extraction

    def expected(self, inputs: Sequence[Text]) -> Floats:
        """Return what the made-up encoder gives, one text at a time."""
        recipe, plain = self.extractor.recipe, FakeEncoder(self.encoder.width)
        rows = []
        for item in inputs:
            ids = self.extractor.tokenizer.encode([item]).ids.tobytes()
            rows.append(np.concatenate([plain.vector(ids, view) for view in recipe.views]))
        dtype = self.extractor.dtype
        return np.stack(rows).astype(dtype).astype(np.float32)


def stored(root: Path) -> int:
    """Count the rows in all spaces."""
    return sum(space.rows for space in FeatureStore(root).spaces())


def assert_equal(actual: Floats, expected: Floats) -> None:
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(actual, expected)


# ---------------------------------------------------------------------------------- order, repeats and hits

POOL = [*texts_of(0, 12), "", "market " * 80, "the bank", "The bank"]
inputs_of = st.lists(st.sampled_from(POOL), max_size=30)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=inputs_of, texts=inputs_of, batch_tokens=st.integers(1, 300), chunk=st.integers(1, 9))
def test_vectors_are_in_input_order_and_texts_computed_once(
    model: Path, before: list[str], texts: list[str], batch_tokens: int, chunk: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts_module, "CHUNK_ROWS", chunk)
        Bench(model, Path(folder))(before)
        bench = Bench(model, Path(folder), batch_tokens=batch_tokens)
        missing = bench.extractor.missing(texts)
        vectors, done = bench(texts)
        assert bench.extractor.missing(texts) == 0
        unique, known = set(texts), set(texts) & set(before)
        if texts:
            assert_equal(vectors, bench.expected(texts))
        assert vectors.shape == (len(texts), 32)
        assert (done.rows, done.unique, done.hits) == (len(texts), len(unique), len(known))
        assert done.computed == missing == len(unique) - len(known) == bench.encoder.windows
        assert sum(bench.progress) == len(texts)
        assert 0 not in bench.progress
        assert done.truncated == texts.count("market " * 80)
        assert done.empty == texts.count("")
        assert stored(Path(folder)) == len(set(texts) | set(before))


@pytest.mark.parametrize("pairs", ["cross", "bi"])
def test_pairs_are_in_input_order_and_computed_once(model: Path, tmp_path: Path, pairs: str) -> None:
    inputs = [(POOL[i % 5], POOL[i % 7]) for i in range(40)] + [("", ""), ("market " * 80, "bank " * 80)] * 2
    bench = Bench(model, tmp_path, pairs=pairs)
    missing = bench.extractor.missing(inputs)
    vectors, done = bench(inputs)
    assert (missing, bench.extractor.missing(inputs)) == (done.computed, 0)
    if pairs == "cross":
        assert_equal(vectors, bench.expected(inputs))
        assert done.unique == done.computed == len(set(inputs))
        assert done.empty == 2
    else:
        u, v = (bench.expected([pair[side] for pair in inputs]) for side in (0, 1))
        assert_equal(vectors, np.concatenate([u, v, np.abs(u - v), u * v], axis=1))
        assert done.unique == done.computed == len({text for pair in inputs for text in pair})
        assert done.empty == sum("" in pair for pair in inputs)
    assert (done.rows, done.truncated) == (44, 2)
    assert sum(bench.progress) == 44 * bench.extractor.texts_per_row("pair")
    assert 0 not in bench.progress
    again, hit = Bench(model, tmp_path, pairs=pairs)(inputs)
    assert_equal(again, vectors)
    assert (hit.computed, hit.rows, hit.truncated, hit.empty) == (0, 44, 2, done.empty)
    assert vectors.shape[1] == bench.extractor.width("pair")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_hit_is_bit_for_bit_the_miss(model: Path, tmp_path: Path, dtype: str) -> None:
    texts = [*POOL, *POOL[::-1]]
    how = {"dtype": dtype, "layers": "1,-1", "pooling": "cls+mean"}
    miss, first = Bench(model, tmp_path, **how)(texts)  # type: ignore[arg-type]
    hit, second = Bench(model, tmp_path, **how)(texts)  # type: ignore[arg-type]
    alone = Bench(model, **how)  # type: ignore[arg-type]
    assert (first.hits, first.computed, second.hits, second.computed) == (0, len(POOL), len(POOL), 0)
    assert_equal(hit, miss)
    assert_equal(alone(texts)[0], miss)
    assert_equal(miss, alone.expected(texts))
    assert (first.truncated, first.empty) == (second.truncated, second.empty) == (2, 2)
    raw = Bench(model, layers="1,-1", pooling="cls+mean").expected(texts)
    assert bool((raw == miss).all()) == (dtype == "float32")


def test_normalising_follows_the_rounding(model: Path, tmp_path: Path) -> None:
    """A hit in a float16 store is normalised as the miss was: after it was rounded."""
    miss, _ = Bench(model, tmp_path, dtype="float16", normalize=True)(POOL)
    hit, _ = Bench(model, tmp_path, dtype="float16", normalize=True)(POOL)
    assert_equal(hit, miss)
    np.testing.assert_allclose(np.linalg.norm(miss, axis=1), 1, atol=1e-6)


class Jitter(FakeEncoder):
    """Adds what an encoder never should, so that its answers can be told from stored ones."""

    def vector(self, ids: bytes, view: View) -> Floats:
        return super().vector(ids, view) + np.float32(1)


def test_what_some_views_lack_is_computed_and_the_rest_kept(model: Path, tmp_path: Path) -> None:
    texts = POOL[:6]
    Bench(model, tmp_path, layers=1, pooling="mean")(texts[:4])
    Bench(model, tmp_path, layers=2, pooling="mean")(texts[2:5])
    bench = Bench(model, tmp_path, layers=(1, 2), pooling="mean", encoder=Jitter())
    vectors, done = bench(texts)
    plain = bench.expected(texts)
    first, second = plain[:, :32], plain[:, 32:]
    known = np.array([[1], [1], [1], [1], [0], [0]], bool), np.array([[0], [0], [1], [1], [1], [0]], bool)
    assert_equal(vectors[:, :32], np.where(known[0], first, first + 1))
    assert_equal(vectors[:, 32:], np.where(known[1], second, second + 1))
    assert (done.hits, done.computed, done.unique) == (2, 4, 6)
    assert bench.encoder.views == [(View(1, "mean"), View(2, "mean"))]
    assert stored(tmp_path) == 12
    again, hit = Bench(model, tmp_path, layers=(2, 1), pooling="mean")(texts)
    assert_equal(again, np.concatenate([vectors[:, 32:], vectors[:, :32]], axis=1))
    assert hit.computed == 0


def test_extractions_of_a_stream_add_up(model: Path, tmp_path: Path) -> None:
    chunks = [POOL[:5], POOL[3:8], [], [POOL[0], *POOL[:2], ""], POOL[:8]]
    total = Extraction()
    assert total.unique == 0
    bench = Bench(model, tmp_path)
    for number, chunk in enumerate(chunks):
        done = bench(chunk)[1]
        assert done.hits + done.computed == done.unique == len(set(chunk))
        total += done
        assert total.unique == len(set().union(*chunks[: number + 1]))
    assert (total.rows, total.computed, total.hits) == (22, 9, 2 + 2 + 8)
    assert total.empty == 1
    assert sum(bench.progress) == total.rows
    assert total.tokens == sum(len(bench.extractor.tokenizer.encode([t]).ids) for t in {*POOL[:8], ""})
    assert total.seconds >= total.load_seconds + total.encode_seconds + total.store_seconds > 0


def test_what_was_lost_on_the_way_is_said(model: Path) -> None:
    extractor = Bench(model, max_length=9).extractor
    assert extractor.remarks(Extraction(rows=3)) == []
    done = Extraction(rows=4000, truncated=1200, empty=1)
    assert extractor.remarks(done) == [
        "1,200 of 4,000 inputs have more than 9 tokens and lost their end; see max_length and "
        "long='mean' (--max-length, --long mean)",
        "1 of 4,000 inputs hold nothing that the tokenizer knows",
    ]
    assert "lost their start" in Bench(model, side="left").extractor.remarks(done)[0]
    assert [extractor.texts_per_row(kind) for kind in ("text", "pair")] == [1, 1]
    apart = Bench(model, pairs="bi").extractor
    assert [apart.texts_per_row(kind) for kind in ("text", "pair")] == [1, 2]


def test_no_rows_are_no_work(model: Path, tmp_path: Path) -> None:
    for how, width in (({}, 32), ({"layers": "all", "pooling": "cls+mean"}, 256), ({"layers": "all"}, 128)):
        for join in ("concat", "mean"):
            bench = Bench(model, tmp_path, layer_join=join, **how)
            vectors, done = bench([])
            wide = width // 4 if join == "mean" and how else width
            assert vectors.shape == (0, wide)
            assert vectors.dtype == np.float32
            assert bench.extractor.width() == wide
            assert (done.rows, done.unique, done.computed, bench.encoder.views) == (0, 0, 0, [])
            assert bench(["a"])[0].shape == (1, wide)


def test_long_inputs_are_tokenised_apart(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts_module, "_CHUNK_CHARACTERS", 100)
    texts = [*POOL, "x" * 300]
    bench = Bench(model)
    assert_equal(bench(texts)[0], bench.expected(texts))
    assert len(bench.encoder.views) > 4
    pairs = [(text, text) for text in texts]
    bench = Bench(model)
    assert_equal(bench(pairs)[0], bench.expected(pairs))


class Overlapping(FakeEncoder):
    """As on a GPU: the next texts are tokenised by another thread."""

    overlaps = True


def test_tokenising_ahead_changes_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts_module, "CHUNK_ROWS", 3)
    bench = Bench(model, tmp_path, encoder=Overlapping())
    vectors, done = bench(POOL)
    assert_equal(vectors, bench.expected(POOL))
    assert done.computed == len(POOL)
    assert len(bench.encoder.views) == 6
    before = threading.active_count()
    with pytest.raises(UsageError, match="windows over long texts"):
        Bench(model, long="mean", encoder=Overlapping())([("a", "b")] * 2)
    assert threading.active_count() == before


def test_the_settings_reach_the_encoder(model: Path) -> None:
    seen: dict[str, Any] = {}

    class Spy(FakeEncoder):
        def run(self, tokens: Tokens, batches: Any, pad_id: int, views: Any, threads: int | None = None) -> Any:
            seen.update(pad_id=pad_id, threads=threads, largest=max(map(len, batches)))
            return super().run(tokens, batches, pad_id, views, threads)

    Bench(model, encoder=Spy(), threads=3, batch_tokens=20)(["a b"] + [f"{i} a" for i in range(9)])
    assert seen == {"pad_id": 0, "threads": 3, "largest": 5}


# ---------------------------------------------------------------------------------------------- bad inputs


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["a", None], "row 12 is of type NoneType, not a text"),
        ([None, "a"], "row 11 is of type NoneType, not a text"),
        (["a", 3, "b"], "row 12 is of type int, not a text"),
        (["a", float("nan")], "row 12 is of type float, not a text"),
        (["a", b"b"], "row 12 is of type bytes, not a text"),
        (["a", ("b", "c")], "row 12 is of type tuple, not a text"),
        ([("a", "b"), "cd"], "row 12 is of type str, not a pair of texts"),
        ([("a", "b"), ("a", "b", "c")], "row 12 is of type tuple, not a pair of texts"),
        ([("a", "b", "c")], "row 11 is of type tuple, not a pair of texts"),
        ([("a", None)], "row 11 is of type tuple, not a pair of texts"),
        ([["a", "b"]], "row 11 is of type list, not a text"),
        (["a", "b\ud800"], r"row 12: lone surrogate U\+D800 at char 1, which has no UTF-8; remove it or replace"),
        (["a", "\udfff", "\ud800"], r"row 12: lone surrogate U\+DFFF at char 0"),
        ([("a", "b"), ("a", "\ud800")], r"row 12: lone surrogate U\+D800 at char 0"),
    ],
    ids=str,
)
@pytest.mark.parametrize("pairs", ["cross", "bi"])
def test_what_is_no_text_is_named_by_its_row(model: Path, inputs: list[Any], message: str, pairs: str) -> None:
    bench = Bench(model, pairs=pairs)
    with pytest.raises(DataError, match=message):
        bench(inputs, first_row=11)
    assert bench.encoder.views == []
    with pytest.raises(DataError, match=message.replace("row 12", "row 2").replace("row 11", "row 1")):
        bench.extractor.transform(inputs)


def test_strings_of_numpy_are_texts(model: Path) -> None:
    bench = Bench(model)
    assert_equal(bench(np.array(["a", "the bank"]))[0], bench.expected(["a", "the bank"]))  # type: ignore[arg-type]


def test_the_checks_themselves() -> None:
    check_texts([])
    check_texts(["a", ""])
    check_texts([("a", "b")], [7])
    with pytest.raises(DataError, match="row 9 is of type int"):
        check_texts(["a", 1], [8, 9])
    require_texts("text")
    require_texts("pair")
    with pytest.raises(UsageError, match="lists of words with a tag each"):
        require_texts("tokens")


# ---------------------------------------------------------------------------------- an encoder that is wrong


class Poisoned(FakeEncoder):
    """Gives one text something else."""

    def __init__(self, ids: bytes, harm: Callable[[Floats], Floats]) -> None:
        super().__init__()
        self.ids, self.harm = ids, harm

    def vector(self, ids: bytes, view: View) -> Floats:
        vector = super().vector(ids, view)
        return self.harm(vector) if ids == self.ids else vector


def with_number(number: float) -> Callable[[Floats], Floats]:
    def harm(vector: Floats) -> Floats:
        return np.concatenate([vector[:5], np.float32([number]), vector[6:]])

    return harm


HARM: dict[str, tuple[Callable[[Floats], Floats], str, str]] = {
    "NaN": (with_number(np.nan), "float32", "a vector that is not finite; .* use precision float32 or bfloat16"),
    "infinity": (with_number(np.inf), "float32", "a vector that is not finite"),
    "minus infinity": (with_number(-np.inf), "float16", "a vector that is not finite"),
    "zeros": (np.zeros_like, "float32", "nothing but zeros; its weights are damaged"),
    "overflow": (with_number(-70000), "float16", "beyond 65504 does not fit float16; use --store-dtype float32"),
    "width": (lambda vector: vector[:31], "float32", "31 numbers where other texts have 32"),
}


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("kind", HARM)
def test_a_wrong_vector_is_named_by_its_row_and_earlier_rows_are_kept(
    model: Path, tmp_path: Path, kind: str, keep: bool
) -> None:
    harm, dtype, message = HARM[kind]
    texts = [*texts_of(0, 6), "bank", *texts_of(6, 12), "bank"]  # the shortest text comes last
    place = tmp_path / "store" if keep else None
    good = Bench(model, place, dtype=dtype)
    ids = good.extractor.tokenizer.encode(["bank"]).ids.tobytes()
    bad = Bench(model, place, dtype=dtype, batch_tokens=1, encoder=Poisoned(ids, harm))
    with pytest.raises(ModelError, match=rf"^row 107: the encoder gave {message}|^row 107: a number {message}"):
        bad(texts, first_row=101)
    assert sum(bad.progress) == 12
    vectors, done = good(texts)
    assert_equal(vectors, good.expected(texts))
    assert (done.hits, done.computed) == ((12, 1) if keep else (0, 13))


def test_what_does_not_fit_float16_fits_float32(model: Path, tmp_path: Path) -> None:
    ids = Bench(model).extractor.tokenizer.encode(["bank"]).ids.tobytes()
    bench = Bench(model, tmp_path, encoder=Poisoned(ids, with_number(70000)))
    assert bench(["bank"])[0][0, 5] == 70000
    bench = Bench(model, tmp_path, dtype="float16", encoder=Poisoned(ids, with_number(65504)))
    assert bench(["bank"])[0][0, 5] == 65504


def test_zeros_are_refused_in_any_view_but_not_for_a_text_without_tokens(model: Path, tmp_path: Path) -> None:
    class OneView(FakeEncoder):
        def vector(self, ids: bytes, view: View) -> Floats:
            return super().vector(ids, view) * (view.layer != 1)

    with pytest.raises(ModelError, match="row 3: the encoder gave nothing but zeros"):
        Bench(model, layers=(2, 1), encoder=OneView(), batch_tokens=1)(["", "a", "the bank"])
    vectors, done = Bench(model, tmp_path, layers=1, encoder=OneView())(["", " "])
    assert not vectors.any()
    assert (done.empty, done.unique) == (2, 2)


def test_an_interrupt_keeps_what_is_ready(model: Path, tmp_path: Path) -> None:
    class Interrupted(FakeEncoder):
        def run(self, *args: Any, **how: Any) -> Iterator[Any]:
            for number, done in enumerate(super().run(*args, **how)):
                if number == 3:
                    raise KeyboardInterrupt
                yield done

    texts = [*texts_of(0, 6), "bank"]
    with pytest.raises(KeyboardInterrupt):
        Bench(model, tmp_path, batch_tokens=1, encoder=Interrupted())(texts)
    bench = Bench(model, tmp_path)
    vectors, done = bench(texts)
    assert (done.hits, done.computed) == (3, 4)
    assert_equal(vectors, bench.expected(texts))


# ----------------------------------------------------------------------------------------- a store that fails


def full(*_: object) -> int:
    raise OSError(28, "No space left on device")


TEXTS = texts_of(0, 40)


def test_a_full_disk_ends_an_extraction_and_the_next_computes_the_rest(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(model, FeatureStore(tmp_path, flush_rows=10), keep_going=False, batch_tokens=16)
    bench(TEXTS[:5])
    with monkeypatch.context() as patch:
        write, room = os.write, [12_000]

        def limited(descriptor: int, data: bytes) -> int:
            room[0] -= len(data)
            return full() if room[0] < 0 else write(descriptor, data)

        patch.setattr(os, "write", limited)
        with pytest.raises(StoreFullError, match=r"\d+ rows of this run are saved, \d+ in memory are not; free"):
            bench(TEXTS)
    kept = stored(tmp_path)
    assert 5 < kept < 40
    assert not list(tmp_path.rglob("*.part"))
    again = Bench(model, tmp_path, keep_going=False)
    vectors, done = again(TEXTS)
    assert_equal(vectors, again.expected(TEXTS))
    assert (done.hits, done.computed) == (kept, 40 - kept)
    assert FeatureStore(tmp_path).verify().ok


@pytest.mark.parametrize("flush_rows", [4, 8192])
def test_a_full_disk_costs_a_fit_one_warning(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    flush_rows: int,
) -> None:
    store = FeatureStore(tmp_path, flush_rows=flush_rows, dtype="float16")
    bench = Bench(model, store, dtype="float16", layers="all", batch_tokens=32)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for chunk in (TEXTS[:15], TEXTS[15:], TEXTS):
            assert_equal(bench(chunk)[0], bench.expected(chunk))
    assert_equal(bench(TEXTS)[0], bench.expected(TEXTS))
    [record] = caplog.records
    assert (record.name, record.levelno) == ("embedkit.encoders", logging.WARNING)
    assert "No space left on device" in record.getMessage()
    assert record.getMessage().endswith("going on without keeping new features")
    assert not list(tmp_path.rglob("*.part"))
    assert stored(tmp_path) == 0


def test_a_file_size_limit_is_a_full_disk(model: Path, tmp_path: Path) -> None:
    """As ulimit -f, or a quota; in a process of its own."""
    assert run("extract", tmp_path, model, "--stop", 50)["computed"] == 50
    failed = start("extract", tmp_path, model, "--file-limit", 20_000)
    _, err = failed.communicate(timeout=60)
    assert failed.returncode == 74
    assert "0 rows of this run are saved, 350 in memory are not; free at least 1 MB there" in err
    assert not list(tmp_path.rglob("*.part"))
    again = run("extract", tmp_path, model)
    assert (again["hits"], again["computed"]) == (50, 350)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
@pytest.mark.parametrize("keep_going", [True, False])
@pytest.mark.parametrize("vocabulary_only", [False, True])
def test_a_read_only_store_serves_hits_and_says_once_that_it_keeps_nothing(
    model: Path, caplog: pytest.LogCaptureFixture, keep_going: bool, vocabulary_only: bool
) -> None:
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        root, folder = Path(place) / "store", Path(shutil.copytree(model, Path(place) / "model"))
        if vocabulary_only:
            words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
            (folder / "vocab.txt").write_text("\n".join(sorted(words, key=words.__getitem__)))
            (folder / "tokenizer.json").unlink()
        Bench(folder, root)(TEXTS[:10])
        before = sorted(root.rglob("*"))
        for path in folder.iterdir():
            path.chmod(0o644)
        with read_only(root):
            bench = Bench(folder, root, layers=(1, -1), keep_going=keep_going)
            assert_equal(bench(TEXTS)[0], bench.expected(TEXTS))
            bench = Bench(folder, root, keep_going=keep_going)
            assert bench(TEXTS[:10])[1].computed == 0
            assert len(caplog.records) == 1
            for chunk in (TEXTS, TEXTS[5:]):
                assert_equal(bench(chunk)[0], bench.expected(chunk))
        assert sorted(root.rglob("*")) == before
    assert [record.getMessage() for record in caplog.records] == [
        f"the store at {root} is read-only; going on without keeping new features"
    ] * 2


def test_a_store_that_cannot_be_trusted_is_an_error_in_any_case(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is a file where a folder of the store is needed"):
        Bench(model, tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(StoreError, match="is a symlink"):
        Bench(model, tmp_path / "link")


def test_a_damaged_shard_is_computed_again(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(model, tmp_path)
    vectors, _ = bench(TEXTS[:20])
    bench(TEXTS[20:])
    path = sorted(tmp_path.glob("v1/*/shards/*"))[0]
    os.truncate(path, path.stat().st_size - 1)
    again, done = Bench(model, tmp_path)(TEXTS[:20])
    assert_equal(again, vectors)
    assert done.computed == 20
    assert len(caplog.records) == 1
    assert Bench(model, tmp_path)(TEXTS)[1].computed == 0


# ----------------------------------------------------------------------------------------- other processes


def start(*args: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(WORKER), *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*args: object) -> dict[str, Any]:
    process = start(*args)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return dict(json.loads(out))


def test_kill_9_costs_only_what_was_not_committed(model: Path, tmp_path: Path) -> None:
    moments, n = random.Random(0), 3000
    before = 0
    for _ in range(4):
        killed = start(
            "extract", tmp_path, model, "--stop", n, "--flush", 20, "--batch-tokens", 1, "--delay", 0.002
        )
        deadline = time.monotonic() + 30
        while stored(tmp_path) == before and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        killed.kill()
        killed.communicate()
        assert killed.returncode == -9
        assert before < stored(tmp_path) < n
        before = stored(tmp_path)
    rest = run("extract", tmp_path, model, "--stop", n)
    assert (rest["rows"], rest["hits"], rest["computed"]) == (n, before, n - before)
    assert not {"torch", "transformers"} & set(rest["imported"])
    bench = Bench(model, tmp_path)
    vectors, done = bench(texts_of(0, n))
    assert done.computed == 0
    assert_equal(vectors, bench.expected(texts_of(0, n)))
    FeatureStore(tmp_path).gc(delete=True)
    assert not list(tmp_path.rglob("*.part"))
    assert FeatureStore(tmp_path).verify().ok
    assert stored(tmp_path) == n


def test_several_processes_fill_one_store(model: Path, tmp_path: Path) -> None:
    spans = [(0, 300), (100, 400), (0, 400)]
    workers = [start("extract", tmp_path, model, "--start", a, "--stop", b, "--chunk", 37) for a, b in spans]
    for worker in workers:
        _, err = worker.communicate(timeout=100)
        assert worker.returncode == 0, err
    bench = Bench(model, tmp_path)
    vectors, done = bench(texts_of(0, 400))
    assert done.computed == 0
    assert_equal(vectors, bench.expected(texts_of(0, 400)))
    assert not list(tmp_path.rglob("*.part"))
    assert FeatureStore(tmp_path).verify().ok


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_threads_a_forked_and_a_spawned_process_agree(model: Path, tmp_path: Path) -> None:
    done = run("together", tmp_path, model, "--stop", 60, "--threads", 2)
    assert (done["rows"], done["computed"]) == (60, 0)
    assert not list(tmp_path.rglob("*.part"))
    assert FeatureStore(tmp_path).verify().ok


def test_threads_share_an_extractor(model: Path, tmp_path: Path) -> None:
    bench = Bench(model, tmp_path, encoder=FakeEncoder(delay=0.001), batch_tokens=16)
    results: list[Floats] = []
    workers = [threading.Thread(target=lambda: results.append(bench(TEXTS)[0])) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 4
    for vectors in results:
        assert_equal(vectors, bench.expected(TEXTS))
    assert Bench(model, tmp_path)(TEXTS)[1].computed == 0


def test_rows_stream_through_little_memory(tmp_path: Path) -> None:
    """300,000 rows of 768 numbers are 920 MB."""
    model = make_encoder(tmp_path / "model", "bert", hidden=768, layers=1, heads=12)
    how = ("--stop", 300_000, "--chunk", 20_000, "--width", 768, "--batch-tokens", 4096)
    done = run("extract", tmp_path / "store", model, *how)
    assert (done["rows"], done["unique"], done["computed"]) == (300_000,) * 3
    assert done["grown"] < 400
    [space] = FeatureStore(tmp_path / "store").spaces()
    assert space.rows == 300_000
    assert space.bytes > 300_000 * 768 * 4
    shutil.rmtree(tmp_path / "store")


# ------------------------------------------------------------------------------------------ texts as they come


@pytest.fixture(scope="module")
def minilm() -> Path:
    return resolve_model("minilm").folder


def test_texts_without_tokens_are_counted_and_equal(minilm: Path) -> None:
    texts = ["", " ", "\ufe0f", "\u200d", "\u0301", "\ufeff", "\u00ad", "\u200f", "\ufffd", "\t\n", "film"]
    done = FeatureExtractor(EncoderSettings(str(minilm))).transform(texts)
    assert np.isfinite(done.vectors).all()
    np.testing.assert_allclose(done.vectors[1:-1], np.tile(done.vectors[0], (9, 1)), rtol=0, atol=1e-5)
    assert np.abs(done.vectors[-1] - done.vectors[0]).max() > 0.01
    assert (done.extraction.empty, done.extraction.unique, done.extraction.truncated) == (10, 11, 0)


def test_a_prompt_alone_is_not_an_empty_text(model: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert Bench(model, tmp_path, prompt="the ")(["", "a"])[1].empty == 0
        assert Bench(model, tmp_path, long="mean", max_length=5)(["", "a " * 20])[1].empty == 1


def test_a_decoder_s_text_without_tokens_is_counted_from_the_store_too(tmp_path: Path) -> None:
    decoder = make_decoder(tmp_path / "m")
    for _ in range(2):
        assert Bench(decoder, tmp_path / "store")(["", "a", "b"])[1].empty == 1


def test_words_that_look_like_nothing_are_texts(minilm: Path) -> None:
    vectors, done = Bench(minilm)(["NA", "null", "None", "nan", "N/A", "#N/A", "-", "0", "true"])
    assert (done.unique, done.empty) == (9, 0)
    assert len(np.unique(vectors, axis=0)) == 9


def test_characters_that_a_model_cannot_tell_apart_have_keys_of_their_own(minilm: Path) -> None:
    emoji = ["😀", "👩\u200d👩\u200d👧", "🇩🇪", "1\ufe0f\u20e3", "a\0b", "ab", "café", "cafe\u0301", "Café"]
    bench = Bench(minilm, normalize=False)
    vectors, done = bench(emoji)
    assert (done.unique, done.computed, done.empty) == (9, 9, 0)
    assert_equal(vectors, bench.expected(emoji))
    for first, second in ((4, 5), (6, 7), (6, 8)):
        assert_equal(vectors[first], vectors[second])


def test_texts_of_a_megabyte_are_cut_in_little_memory(tmp_path: Path) -> None:
    done = run("long", tmp_path, "minilm")
    assert (done["rows"], done["truncated"], done["empty"]) == (3, 1, 0)
    assert done["grown"] < 300


def test_a_resumed_run_is_the_clean_run(model: Path, tmp_path: Path) -> None:
    """With a real model, whose vectors depend a little on the batch they are in."""
    texts = [*POOL, *TEXTS]
    clean = FeatureExtractor(EncoderSettings(str(model), batch_tokens=512)).transform(texts).vectors
    for part in (texts[1::3], texts[2::3], texts):
        resumed = FeatureExtractor(EncoderSettings(str(model), batch_tokens=64), store=FeatureStore(tmp_path))
        vectors = resumed.transform(part).vectors
    assert resumed.transform(texts).extraction.computed == 0
    np.testing.assert_allclose(vectors, clean, rtol=0, atol=1e-5 * np.abs(clean).max())


def test_a_cached_run_never_opens_the_model(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = FeatureExtractor(EncoderSettings(str(model)), store=FeatureStore(tmp_path))
    vectors = opened.transform(TEXTS).vectors
    monkeypatch.setitem(sys.modules, "embedkit.encoders.torch_encoder", None)
    cached = FeatureExtractor(EncoderSettings(str(model)), store=FeatureStore(tmp_path))
    done = cached.transform(TEXTS)
    assert_equal(done.vectors, vectors)
    assert done.extraction.load_seconds == done.extraction.encode_seconds == 0
    with pytest.raises(ImportError):
        cached.transform(["something new"])


# -------------------------------------------------------------------------------------------------- discretion


def test_no_text_is_ever_said(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    texts = [f"secret{i} film" for i in range(9)]
    ids = Bench(model).extractor.tokenizer.encode(texts[:1]).ids.tobytes()
    said: list[str] = []

    def fails(bench: Bench, inputs: list[Any]) -> None:
        with pytest.raises((DataError, ModelError, UsageError, StoreError)) as caught:
            bench(inputs)
        said.append(str(caught.value))

    for harm, dtype, _ in HARM.values():
        fails(Bench(model, tmp_path, dtype=dtype, encoder=Poisoned(ids, harm), batch_tokens=1), texts[::-1])
    fails(Bench(model), ["secret\ud800"])
    fails(Bench(model), [("secret", "secret"), "secret"])
    fails(Bench(model, long="mean"), [("secret", "secret")])
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        Bench(model, tmp_path / "full")(texts)
        fails(Bench(model, tmp_path / "full", keep_going=False), texts)
    for path in tmp_path.glob("v1/*/shards/*"):
        os.truncate(path, 9)
    Bench(model, tmp_path)(texts)
    FeatureExtractor(EncoderSettings(str(model))).transform(texts)
    assert len(said) == 10
    assert len(caplog.records) >= 2
    assert "secret" not in "\n".join(said) + caplog.text


# ------------------------------------------------------------------------------- rows that are known by their keys


@pytest.mark.parametrize("pairs", ["cross", "bi"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", ["text", "pair"])
def test_recall_gives_what_transform_gave(model: Path, tmp_path: Path, kind: str, pairs: str, dtype: str) -> None:
    inputs: list[Any] = [*POOL, *POOL[::2]]
    if kind == "pair":
        inputs = [(one, POOL[(i * 5) % len(POOL)]) for i, one in enumerate(inputs)]
    bench = Bench(model, tmp_path, dtype=dtype, pairs=pairs, layers="1,-1", pooling="cls+mean")
    vectors, _ = bench(inputs)
    keys = bench.extractor.keys(inputs, np.arange(1, len(inputs) + 1))
    assert keys.shape == (len(inputs), 2 if (kind, pairs) == ("pair", "bi") else 1, 16)
    assert keys.dtype == np.uint8
    later = Bench(model, tmp_path, dtype=dtype, pairs=pairs, layers="1,-1", pooling="cls+mean")
    assert_equal(later.extractor.recall(keys), vectors)
    order = np.random.default_rng(0).permutation(len(inputs))
    assert_equal(later.extractor.recall(keys[order]), vectors[order])
    assert later.encoder.windows == 0
    assert later.extractor.recall(keys[:0]).shape[0] == 0


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(inputs=st.lists(st.tuples(st.sampled_from(POOL), st.sampled_from(POOL)), min_size=2, max_size=20))
def test_keys_are_equal_where_inputs_are(model: Path, inputs: list[tuple[str, str]]) -> None:
    for pairs in ("cross", "bi"):
        keys = Bench(model, pairs=pairs).extractor.keys(inputs, np.arange(len(inputs)))
        called = [key.tobytes() for key in keys]
        for i, one in enumerate(inputs):
            for j, other in enumerate(inputs):
                assert (called[i] == called[j]) == (one == other)


def test_keys_do_not_depend_on_the_encoder(model: Path, tmp_path: Path) -> None:
    rows = np.arange(1, len(POOL) + 1)
    plain = Bench(model).extractor.keys(POOL, rows)
    np.testing.assert_array_equal(
        plain, Bench(model, tmp_path, layers="0", long="mean").extractor.keys(POOL, rows)
    )


def test_recall_says_how_many_rows_the_store_lacks(model: Path, tmp_path: Path) -> None:
    bench = Bench(model, tmp_path / "store")
    bench(POOL[:5])
    keys = bench.extractor.keys(POOL, np.arange(len(POOL)))
    missing = f"lacks the features of {len(POOL) - 5} of {len(POOL)} earlier rows"
    with pytest.raises(DataError, match=missing):
        bench.extractor.recall(keys)
    assert_equal(bench.extractor.recall(keys[:5]), bench.expected(POOL[:5]))
    with pytest.raises(DataError, match="lacks the features of 5 of 5"):  # another view
        Bench(model, tmp_path / "store", layers="0").extractor.recall(keys[:5])
    with pytest.raises(DataError, match="lacks the features of 5 of 5"):
        Bench(model).extractor.recall(keys[:5])


def test_a_text_without_a_key_is_named_by_its_row(model: Path) -> None:
    with pytest.raises(DataError, match="row 8"):
        Bench(model).extractor.keys(["a", "\ud800"], np.array([3, 8]))
