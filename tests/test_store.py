"""The store's promises while nothing goes wrong: keys, spaces, hits, merging, and its care."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedkit.errors import DataError, InputMissingError, UsageError
from embedkit.store import (
    FeatureStore,
    FileDigests,
    RefusedVectorError,
    Space,
    identity,
    resolve_root,
    space_id,
    text_keys,
)
from embedkit.store import space as space_module
from embedkit.store.keys import Keys, shared

DESCRIPTOR = {"weights": "ab" * 32, "layers": [-1], "pooling": "mean", "normalize": True}


def keys_of(start: int, stop: int) -> np.ndarray:
    return text_keys([f"text {i}" for i in range(start, stop)])


def vectors_of(keys: np.ndarray, jitter: float = 0.0) -> np.ndarray:
    """16 numbers that follow from the key."""
    return keys.astype(np.float32) / 255 + np.float32(jitter)


def put(space: Space, keys: np.ndarray, jitter: float = 0.0) -> np.ndarray:
    with space.writer() as writer:
        return writer.put(keys, vectors_of(keys, jitter), keys[:, 0].astype(np.uint32), keys[:, 1] % 2 == 1)


def assert_stored(space: Space, keys: np.ndarray, jitter: float = 0.0) -> None:
    hits = space.lookup(keys)
    assert hits.found.all()
    np.testing.assert_array_equal(hits.vectors, vectors_of(keys, jitter))
    np.testing.assert_array_equal(hits.tokens, keys[:, 0])
    np.testing.assert_array_equal(hits.truncated, keys[:, 1] % 2 == 1)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "store")


@pytest.fixture
def space(store: FeatureStore) -> Space:
    return store.space(DESCRIPTOR)


# Keys


def blake(person: bytes, data: bytes) -> list[int]:
    return list(hashlib.blake2b(data, digest_size=16, person=person).digest())


def packed(*parts: str) -> bytes:
    encoded = [part.encode() for part in parts]
    return struct.pack("<I", len(parts)) + b"".join(struct.pack("<I", len(part)) + part for part in encoded)


@pytest.mark.parametrize(
    ("item", "person", "data"),
    [
        ("", b"embedkit/text/1", b""),
        (" caf\u00e9\0\n", b"embedkit/text/1", b" caf\xc3\xa9\0\n"),
        (("a", "b\u00e9"), b"embedkit/pair/1", packed("a", "b\u00e9")),
        (["a", "", "bc"], b"embedkit/words/1", packed("a", "", "bc")),
        ([], b"embedkit/words/1", packed()),
    ],
)
def test_a_key_is_blake2b_of_the_exact_bytes(item: object, person: bytes, data: bytes) -> None:
    assert text_keys([item]).tolist() == [blake(person, data)]  # type: ignore[list-item]


INPUTS = st.one_of(
    st.text(alphabet="ab-\0 \u00e9e\u0301", max_size=4),
    st.tuples(st.text(alphabet="ab-\0", max_size=3), st.text(alphabet="ab-\0", max_size=3)),
    st.lists(st.text(alphabet="ab-\0", max_size=3), max_size=3),
)


@given(st.lists(INPUTS, min_size=2, max_size=40))
def test_different_inputs_have_different_keys(items: list[object]) -> None:
    distinct = {repr(item) for item in items}
    assert len({key.tobytes() for key in text_keys(items)}) == len(distinct)  # type: ignore[arg-type]


def test_known_near_misses_differ_and_types_may_be_mixed() -> None:
    items = [["a", "b"], ["ab"], ["a-b"], "a\0b", "x", ["x"], ("a", "b"), "caf\u00e9", "cafe\u0301", "ab", "a"]
    assert len({key.tobytes() for key in text_keys(items)}) == len(items)  # type: ignore[arg-type]
    assert text_keys([]).shape == (0, 16)


def test_a_hundred_thousand_random_texts_do_not_collide() -> None:
    random = np.random.default_rng(0)
    points = random.integers(1, 0xD800, size=(100_000, 6))
    texts = {"".join(map(chr, row)) for row in points}
    assert len(np.unique(text_keys(sorted(texts)), axis=0)) == len(texts)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["a", "b", "ok \ud800"], r"row 3: lone surrogate U\+D800 at char 3"),
        ([("a", "\udfff")], r"row 1: lone surrogate U\+DFFF at char 0"),
        ([["a"], ["x", "b\udc00"]], r"row 2: lone surrogate U\+DC00 at char 1"),
        (["a", None], "row 2: NoneType where a text"),
        ([["a", 3]], "row 1: int where a text"),
        ([("a", "b", "c")], "row 1: tuple where a str, a pair"),
    ],
)
def test_what_has_no_key_is_named_by_row(items: list[object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        text_keys(items)  # type: ignore[arg-type]


HALVES = st.integers(0, 3) | st.sampled_from([2**63, 2**64 - 1])  # many ties, as no honest hash makes
PAIRS = st.lists(st.tuples(HALVES, HALVES), max_size=30)


def keys_from(pairs: list[tuple[int, int]]) -> Keys:
    raw = b"".join(hi.to_bytes(8, "big") + lo.to_bytes(8, "big") for hi, lo in pairs)
    return Keys.of(np.frombuffer(raw, dtype=np.uint8).reshape(-1, 16))


@given(PAIRS, PAIRS)
def test_shared_keys_are_the_intersection_also_where_halves_tie(
    left: list[tuple[int, int]], right: list[tuple[int, int]]
) -> None:
    a, b = sorted(set(left)), sorted(set(right))
    in_a, in_b = shared(keys_from(a), keys_from(b))
    assert {(a[i], b[j]) for i, j in zip(in_a, in_b, strict=True)} == {(x, x) for x in set(a) & set(b)}
    assert len(in_a) == len(set(a) & set(b))


@given(PAIRS)
def test_keys_sort_as_their_bytes_and_stably(pairs: list[tuple[int, int]]) -> None:
    keys = keys_from(pairs)
    assert keys.order().tolist() == sorted(range(len(pairs)), key=lambda i: pairs[i])
    assert keys_from(pairs).to_bytes().tobytes() == b"".join(
        hi.to_bytes(8, "big") + lo.to_bytes(8, "big") for hi, lo in pairs
    )


# Identity


def test_a_space_id_is_sha256_of_canonical_json() -> None:
    expected = hashlib.sha256('{"a":[1,true,null],"b":{"\u00e9":"x"}}'.encode()).hexdigest()[:32]
    assert space_id({"b": {"\u00e9": "x"}, "a": (1, True, None)}) == expected


FULL = {
    "pooling": "mean",
    "layers": [-1],
    "max_length": 256,
    "normalize": True,
    "prompt": "",
    "truncation_side": "right",
    "long": "truncate",
    "split_special_tokens": False,
    "precision": "float32",
    "tokenizer": "aa",
    "probe_ids": [[101, 102]],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pooling", "cls"),
        ("layers", [-2]),
        ("layers", [-1, -2]),
        ("max_length", 255),
        ("normalize", False),
        ("normalize", 1),
        ("prompt", "query: "),
        ("truncation_side", "left"),
        ("long", "mean"),
        ("split_special_tokens", True),
        ("precision", "bfloat16"),
        ("tokenizer", "ab"),
        ("probe_ids", [[101, 103]]),
        ("probe_ids", [[101], [102]]),
    ],
)
def test_each_part_of_a_description_changes_the_id(name: str, value: object, store: FeatureStore) -> None:
    assert space_id({**FULL, name: value}) != space_id(FULL)
    assert store.space({**FULL, name: value}).id != store.space(FULL).id


def test_order_of_a_description_does_not_matter_and_dtype_does(tmp_path: Path) -> None:
    assert space_id(dict(reversed(FULL.items()))) == space_id(FULL)
    ids = {FeatureStore(tmp_path, dtype=dtype).space(FULL).id for dtype in ("float32", "float16")}
    assert len(ids) == 2
    assert space_id({**FULL, "stored_dtype": "float16"}) in ids


@pytest.mark.parametrize("bad", [{"a": 0.5}, {"a": [{"b": 1.0}]}, {1: "a"}, {"a": b"x"}, {"a": np.int64(3)}])
def test_a_description_without_one_spelling_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(TypeError, match="description"):
        space_id(bad)


def test_the_store_owns_its_part_of_the_description(store: FeatureStore) -> None:
    with pytest.raises(UsageError, match="stored_dtype"):
        store.space({"stored_dtype": "float32"})


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files look older than the two seconds within which nothing is trusted."""
    now = time.time_ns
    monkeypatch.setattr(identity.time, "time_ns", lambda: now() + 10 * 10**9)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Record which files are really read."""
    real, seen = identity._digest_of, []
    monkeypatch.setattr(identity, "_digest_of", lambda path: (seen.append(path), real(path))[1])
    return seen


@pytest.mark.usefixtures("later")
def test_a_file_is_hashed_once_while_it_is_unchanged(tmp_path: Path, hashed: list[Path]) -> None:
    path, link = tmp_path / "weights", tmp_path / "link"
    path.write_bytes(b"abc")
    link.symlink_to(path)
    expected = hashlib.sha256(b"abc").hexdigest()
    for name in (path, link, path):
        assert FileDigests(tmp_path / "s").sha256(name) == expected
    assert hashed == [path]
    FileDigests(None).sha256(path)
    FileDigests(None).sha256(path)
    assert len(hashed) == 3


@pytest.mark.usefixtures("later")
def test_new_bytes_of_the_same_size_under_the_old_mtime_are_seen(tmp_path: Path) -> None:
    path, digests = tmp_path / "model.safetensors", FileDigests(tmp_path / "s")
    path.write_bytes(b"abc")
    before = path.stat()
    assert digests.sha256(path) == hashlib.sha256(b"abc").hexdigest()
    time.sleep(0.02)
    path.write_bytes(b"abd")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digests.sha256(path) == hashlib.sha256(b"abd").hexdigest()
    path.touch()
    assert digests.sha256(path) == hashlib.sha256(b"abd").hexdigest()


def test_a_file_that_has_just_changed_is_not_trusted(tmp_path: Path, hashed: list[Path]) -> None:
    path, digests = tmp_path / "f", FileDigests(tmp_path / "s")
    path.write_bytes(b"abc")
    digests.sha256(path)
    digests.sha256(path)
    assert len(hashed) == 2


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize(
    "memo", [b"", b"{", b"[]", b'{"sha256":[]}', b'{"sha256":{"%s":["x",1]}}', b"\xff\xfe", b"[" * 100_000]
)
def test_a_broken_memo_is_ignored(tmp_path: Path, memo: bytes) -> None:
    path, digests = tmp_path / "f", FileDigests(tmp_path / "s")
    path.write_bytes(b"abc")
    digests.sha256(path)
    memo_path = tmp_path / "s" / "v1" / "memo.json"
    assert str(path) in json.loads(memo_path.read_bytes())["sha256"]
    memo_path.write_bytes(memo.replace(b"%s", str(path).encode()))
    assert digests.sha256(path) == hashlib.sha256(b"abc").hexdigest()
    assert str(path) in json.loads(memo_path.read_bytes())["sha256"]


@pytest.mark.usefixtures("later")
def test_a_memo_that_is_a_link_is_not_believed(tmp_path: Path) -> None:
    path, digests = tmp_path / "f", FileDigests(tmp_path / "s")
    path.write_bytes(b"abc")
    right = digests.sha256(path)
    memo, planted = tmp_path / "s" / "v1" / "memo.json", tmp_path / "planted"
    planted.write_text(memo.read_text().replace(right, "0" * 64))
    memo.unlink()
    memo.symlink_to(planted)
    before = planted.read_text()
    assert digests.sha256(path) == right
    assert planted.read_text() == before


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match=r"model\.safetensors"):
        FileDigests(None).sha256(tmp_path / "model.safetensors")


def test_the_root_is_the_flag_else_the_variable_else_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDKIT_STORE", "/x/env")
    assert resolve_root("/x/flag") == Path("/x/flag")
    assert resolve_root(None) == Path("/x/env")
    assert resolve_root("~/f") == Path.home() / "f"
    monkeypatch.setenv("EMBEDKIT_STORE", "")
    assert resolve_root(None).name == "embedkit"
    monkeypatch.delenv("EMBEDKIT_STORE")
    assert resolve_root(None).name == "embedkit"


# Writing and looking up


def test_nothing_is_written_before_the_first_flush(store: FeatureStore, space: Space) -> None:
    assert space.lookup(keys_of(0, 5)).vectors.shape == (5, 0)
    assert store.info()["spaces"] == []
    with space.writer():
        assert not store.root.exists()
    assert not store.root.exists()


def test_partial_hits_in_any_order_and_repeated(space: Space) -> None:
    put(space, keys_of(0, 700))
    put(space, keys_of(700, 1000))
    order = np.random.default_rng(1).permutation(1500)
    order = np.concatenate([order, order[:200], [3, 3, 1400, 1400]])
    keys = keys_of(0, 1500)[order]
    hits = space.lookup(keys)
    np.testing.assert_array_equal(hits.found, order < 1000)
    np.testing.assert_array_equal(hits.vectors[hits.found], vectors_of(keys)[hits.found])
    np.testing.assert_array_equal(hits.tokens, np.where(hits.found, keys[:, 0], 0))
    assert not hits.truncated[~hits.found].any()


def test_rows_are_read_one_by_one_once_their_block_was_verified(space: Space) -> None:
    keys = keys_of(0, 3000)
    put(space, keys)
    assert_stored(space, keys)
    for start in range(0, 3000, 10):
        assert_stored(space, keys[start : start + 10])
    assert space.lookup(keys[:0]).vectors.shape == (0, 0)


def test_out_is_filled_also_as_a_memory_map(space: Space, tmp_path: Path) -> None:
    keys = keys_of(0, 20)
    put(space, keys)
    out = np.memmap(tmp_path / "out", dtype=np.float32, mode="w+", shape=(20, 16))
    assert space.lookup(keys, out).vectors is out
    np.testing.assert_array_equal(out, vectors_of(keys))
    with pytest.raises(ValueError, match=r"shape \(20, 16\)"):
        space.lookup(keys, np.empty((20, 15), dtype=np.float32))


def test_rows_of_other_processes_are_seen_at_the_next_call(tmp_path: Path) -> None:
    one, two = (FeatureStore(tmp_path).space(DESCRIPTOR) for _ in range(2))
    keys = keys_of(0, 10)
    assert not one.lookup(keys).found.any()
    put(two, keys)
    assert_stored(one, keys)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("rows", [1, 255, 256, 257, 1000])
@pytest.mark.parametrize("dim", [1, 3, 17])
def test_a_hit_returns_what_the_miss_returned_bit_for_bit(tmp_path: Path, dtype: str, rows: int, dim: int) -> None:
    keys = keys_of(0, rows)
    vectors = np.random.default_rng(rows).standard_normal((rows, dim)).astype(np.float32)
    vectors[0, 0] = -0.0
    space = FeatureStore(tmp_path, dtype=dtype).space(DESCRIPTOR)
    with space.writer() as writer:
        first = writer.put(keys, vectors, np.zeros(rows, np.uint32), np.zeros(rows, bool))
    second = FeatureStore(tmp_path, dtype=dtype).space(DESCRIPTOR).lookup(keys).vectors
    assert first.tobytes() == second.tobytes()
    np.testing.assert_array_equal(first, vectors.astype(dtype).astype(np.float32))


@pytest.mark.parametrize("contiguous", [True, False])
def test_the_buffer_is_a_copy(space: Space, contiguous: bool) -> None:
    keys = keys_of(0, 6)
    tokens, truncated = keys[:, 0].astype(np.uint32), keys[:, 1] % 2 == 1
    vectors = vectors_of(keys) if contiguous else np.repeat(vectors_of(keys), 2, axis=1)[:, ::2]
    assert vectors.flags.c_contiguous == contiguous
    given = keys.copy()
    with space.writer() as writer:
        writer.put(given, vectors, tokens, truncated)
        for array in (given, vectors, tokens, truncated):
            array[:] = 0
    assert_stored(space, keys)


def test_flush_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shards_after(puts: int, **rule: float) -> int:
        store = FeatureStore(tmp_path / str(rule), **rule)  # type: ignore[arg-type]
        space = store.space(DESCRIPTOR)
        writer = space.writer()
        for number in range(puts):
            keys = keys_of(10 * number, 10 * number + 10)
            writer.put(keys, vectors_of(keys), np.zeros(10, np.uint32), np.zeros(10, bool))
        return len(space.listing())

    assert shards_after(7, flush_rows=30) == 2
    assert shards_after(7, flush_bytes=10 * 16 * 4 * 2) == 3
    assert shards_after(7, flush_rows=4) == 14  # pieces of 4, 4 and 2; the last two join the next put's
    clock = iter(range(0, 1000, 5))
    monkeypatch.setattr(space_module.time, "monotonic", lambda: next(clock))
    assert shards_after(7, flush_seconds=9.0) >= 2


def test_saved_counts_committed_rows(tmp_path: Path) -> None:
    space = FeatureStore(tmp_path, flush_rows=10).space(DESCRIPTOR)
    with space.writer() as writer:
        for start, expected in ((0, 0), (6, 12), (12, 12)):
            keys = keys_of(start, start + 6)
            writer.put(keys, vectors_of(keys), np.zeros(6, np.uint32), np.zeros(6, bool))
            assert writer.saved == expected
    assert writer.saved == 18


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError])
def test_leaving_by_an_exception_flushes(space: Space, kind: type[BaseException]) -> None:
    keys = keys_of(0, 5)

    def interrupted() -> None:
        with space.writer() as writer:
            writer.put(keys, vectors_of(keys), keys[:, 0].astype(np.uint32), keys[:, 1] % 2 == 1)
            raise kind

    with pytest.raises(kind):
        interrupted()
    assert_stored(space, keys)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_row_and_nothing_of_it_stored(
    tmp_path: Path, dtype: str, bad: float
) -> None:
    space = FeatureStore(tmp_path, dtype=dtype).space(DESCRIPTOR)
    put(space, keys_of(0, 5))
    keys = keys_of(5, 5005)
    vectors = vectors_of(keys)
    vectors[4500, 3] = bad
    with (
        pytest.raises(RefusedVectorError, match=r"row 4501 .*float16 .*overflow") as caught,
        space.writer() as writer,
    ):
        writer.put(keys, vectors, np.zeros(5000, np.uint32), np.zeros(5000, bool))
    assert caught.value.row == 4500
    assert caught.value.exit_code == 65
    assert space.lookup(keys_of(0, 5005)).found.tolist() == [True] * 5 + [False] * 5000


def test_float16_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    keys = keys_of(0, 3)
    vectors = vectors_of(keys)
    vectors[1, 0], vectors[2, 0] = -65504.0, 70000.0
    args = (keys, vectors, np.zeros(3, np.uint32), np.zeros(3, bool))
    half = FeatureStore(tmp_path, dtype="float16").space(DESCRIPTOR)
    with pytest.raises(RefusedVectorError, match="--store-dtype float32") as caught, half.writer() as writer:
        writer.put(*args)
    assert caught.value.row == 2
    assert not half.lookup(keys).found.any()
    with FeatureStore(tmp_path).space(DESCRIPTOR).writer() as writer:
        np.testing.assert_array_equal(writer.put(*args), vectors)


@pytest.mark.parametrize("reopened", [True, False])
def test_another_width_is_refused(tmp_path: Path, reopened: bool) -> None:
    space = FeatureStore(tmp_path).space(DESCRIPTOR)
    put(space, keys_of(0, 5))
    if reopened:
        space = FeatureStore(tmp_path).space(DESCRIPTOR)
    keys = keys_of(5, 8)
    with space.writer() as writer, pytest.raises(RefusedVectorError, match="15 numbers for a space of 16"):
        writer.put(keys, np.zeros((3, 15), np.float32), np.zeros(3, np.uint32), np.zeros(3, bool))
    assert not space.lookup(keys).found.any()


def test_columns_of_unequal_length_are_a_programming_error(space: Space) -> None:
    keys = keys_of(0, 3)
    with space.writer() as writer, pytest.raises(ValueError, match="one row each"):
        writer.put(keys, vectors_of(keys), np.zeros(2, np.uint32), np.zeros(3, bool))


def test_pyarrow_reads_a_shard_as_a_table(space: Space, store: FeatureStore) -> None:
    keys = keys_of(0, 300)
    put(space, keys)
    [path] = store.root.glob("v1/*/shards/*.arrow")
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    read = np.frombuffer(b"".join(table["key"].to_pylist()), dtype=np.uint8).reshape(-1, 16)
    assert [row.tobytes() for row in read] == sorted(row.tobytes() for row in keys)
    np.testing.assert_array_equal(np.stack(table["vector"].to_pylist()).astype(np.float32), vectors_of(read))
    np.testing.assert_array_equal(table["tokens"], read[:, 0])
    np.testing.assert_array_equal(table["flags"], read[:, 1] % 2)
    metadata = table.schema.metadata
    assert (metadata[b"format"], metadata[b"min_reader"]) == (b"1", b"1")


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_folders_are_0700_and_files_0600(store: FeatureStore, space: Space) -> None:
    put(space, keys_of(0, 3))
    FileDigests(store.root).sha256(Path(__file__))
    modes = {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in (store.root, *store.root.rglob("*"))}
    assert modes == {(True, 0o700), (False, 0o600)}


def test_threads_share_a_space(tmp_path: Path) -> None:
    space = FeatureStore(tmp_path, flush_rows=20).space(DESCRIPTOR)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for start in range(0, 400, 40):
                put(space, keys_of(start, start + 40))
                assert_stored(space, keys_of(0, start + 40))
                space.merge()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert not list(tmp_path.rglob("*.part"))


# Duplicates and merging


def test_of_two_rows_of_one_key_the_first_committed_counts_and_keeps_counting(space: Space) -> None:
    put(space, keys_of(0, 40), jitter=1)
    put(space, keys_of(20, 60), jitter=2)
    put(space, keys_of(0, 80), jitter=3)

    def check() -> None:
        for bounds, jitter in (((0, 40), 1), ((40, 60), 2), ((60, 80), 3)):
            assert_stored(space, keys_of(*bounds), jitter)

    check()
    assert space.merge() == 3
    assert len(space.listing()) == 1
    check()
    put(space, keys_of(0, 90), jitter=4)
    assert_stored(space, keys_of(80, 90), 4)
    check()
    assert space.merge() == 2
    assert sum(name.rows for name in space.listing()) == 90
    check()


def test_a_key_twice_in_one_buffer_is_stored_once(space: Space) -> None:
    keys = keys_of(0, 4)
    with space.writer() as writer:
        for jitter in (0.0, 1.0):
            writer.put(keys, vectors_of(keys, jitter), keys[:, 0].astype(np.uint32), keys[:, 1] % 2 == 1)
    assert writer.saved == 4
    assert_stored(space, keys)


def test_merging_what_one_shard_already_holds_loses_nothing(space: Space) -> None:
    """The merged shard then has the very name of an old one, which must not be removed."""
    put(space, keys_of(0, 50))
    put(space, keys_of(10, 30), jitter=1)
    before = space.listing()[0]
    assert space.merge() == 1
    assert space.listing() == [before]
    assert_stored(space, keys_of(0, 50))


def test_a_merge_takes_the_newest_run_of_small_shards(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    put(space, keys_of(0, 10))
    put(space, keys_of(10, 500))
    put(space, keys_of(500, 510), jitter=1)
    put(space, keys_of(510, 520), jitter=1)
    large = space.listing()[1].size
    assert [name.rows for name in space.mergeable(below=large)] == [10, 10]
    assert space.merge(below=large) == 2
    assert [name.rows for name in space.listing()] == [10, 490, 20]
    monkeypatch.setattr(space_module, "MERGED_BYTES", large // 2)
    assert space.merge(below=large + 1) == 3
    assert len(space.listing()) == 3
    assert max(name.rows for name in space.listing()) < 200
    assert_stored(space, keys_of(0, 500))
    assert_stored(space, keys_of(500, 520), 1)


def test_closing_a_writer_merges_where_small_shards_are_many(tmp_path: Path) -> None:
    space = FeatureStore(tmp_path, flush_rows=1).space(DESCRIPTOR)
    put(space, keys_of(0, 64))
    assert len(space.listing()) == 64
    put(space, keys_of(64, 65))
    assert len(space.listing()) == 1
    assert_stored(space, keys_of(0, 65))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 30), st.integers(1, 12)),
        st.sampled_from([("flush",), ("merge",), ("reopen",)]),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_any_course_of_events_returns_the_first_value(
    tmp_path_factory: pytest.TempPathFactory, steps: list
) -> None:
    root = tmp_path_factory.mktemp("s")
    space = FeatureStore(root, flush_rows=15).space(DESCRIPTOR)
    keys, expected = keys_of(0, 50), {}
    writer = space.writer()
    for number, (kind, *args) in enumerate([*steps, ("flush",)]):
        if kind == "put":
            rows = range(args[0], args[0] + args[1])
            part = keys[rows]
            writer.put(part, vectors_of(part, number), np.zeros(len(part), np.uint32), np.zeros(len(part), bool))
            for row in rows:
                expected.setdefault(row, number)
        elif kind == "reopen":
            writer.flush()
            space = FeatureStore(root, flush_rows=15).space(DESCRIPTOR)
            writer = space.writer()
        else:
            writer.flush()
            if kind == "merge":
                space.merge()
    hits = space.lookup(keys)
    assert np.flatnonzero(hits.found).tolist() == sorted(expected)
    for row, number in expected.items():
        np.testing.assert_array_equal(hits.vectors[row], vectors_of(keys[[row]], number)[0])


# Care


def test_info_counts_what_is_there(store: FeatureStore, space: Space) -> None:
    put(space, keys_of(0, 30))
    put(space, keys_of(30, 40))
    info = json.loads(json.dumps(store.info()))
    assert (info["root"], info["writable"], info["rows"]) == (str(store.root), True, 40)
    [entry] = info["spaces"]
    assert (entry["id"], entry["shards"], entry["rows"], entry["quarantined"]) == (space.id, 2, 40, 0)
    assert entry["descriptor"] == {**DESCRIPTOR, "stored_dtype": "float32"}
    assert info["bytes"] == sum(p.stat().st_size for p in (store.root / "v1" / space.id).rglob("*") if p.is_file())
    assert abs(entry["last_used"] - time.time()) < 100
    [typed] = store.spaces()
    assert typed.id == space.id


def test_verify_reads_every_shard(store: FeatureStore, space: Space) -> None:
    assert store.verify().ok
    put(space, keys_of(0, 30))
    put(store.space({"other": 1}), keys_of(0, 10))
    report = store.verify()
    assert (report.ok, report.spaces, report.shards, report.rows) == (True, 2, 2, 40)


def test_verify_names_a_description_that_is_not_the_folders(store: FeatureStore, space: Space) -> None:
    put(space, keys_of(0, 30))
    path = store.root / "v1" / space.id / "space.json"
    assert hashlib.sha256(path.read_bytes()).hexdigest()[:32] == space.id
    path.write_bytes(b'{"other":1}')
    [damage] = store.verify().damaged
    assert (damage.path, damage.rows) == (str(path), 30)
    assert store.spaces()[0].descriptor is None
    put(space, keys_of(30, 31))
    assert store.verify().ok


@pytest.fixture
def three(store: FeatureStore) -> list[Space]:
    """Three spaces, the first unused for three hours, the second for two, the third for one."""
    spaces = [store.space({"number": number}) for number in range(3)]
    for age, one in zip((3, 2, 1), spaces, strict=True):
        put(one, keys_of(0, 100))
        for path in (one.folder, one.folder / "space.json", one.folder / "shards"):
            os.utime(path, (time.time() - 3600 * age,) * 2)
    return spaces


def left(store: FeatureStore) -> set[str]:
    return {entry.id for entry in store.spaces()}


def test_gc_evicts_by_age_and_is_a_dry_run_unless_told(store: FeatureStore, three: list[Space]) -> None:
    dry = store.gc(older_than=1.5 * 3600)
    assert (len(left(store)), len(dry.removed), dry.deleted) == (3, 2, False)
    done = store.gc(older_than=1.5 * 3600, delete=True)
    assert left(store) == {three[2].id}
    assert [removal.path for removal in done.removed] == [removal.path for removal in dry.removed]
    assert done.bytes == dry.bytes > 0
    assert not three[0].folder.exists()


def test_gc_evicts_the_longest_unused_until_the_size_fits(store: FeatureStore, three: list[Space]) -> None:
    three[0].lookup(keys_of(0, 1))  # a hit is a use
    size = store.spaces()[0].bytes
    store.gc(max_bytes=int(2.5 * size), delete=True)
    assert left(store) == {three[0].id, three[2].id}
    store.gc(max_bytes=0, space=three[2].id[:8], delete=True)
    assert left(store) == {three[0].id}
    with pytest.raises(UsageError, match="negative"):
        store.gc(max_bytes=-1)


def test_gc_merges_small_shards(store: FeatureStore, space: Space) -> None:
    for number in range(4):
        put(space, keys_of(10 * number, 10 * number + 10))
    assert store.gc().merged == 4
    assert len(space.listing()) == 4
    assert store.gc(delete=True).merged == 4
    assert len(space.listing()) == 1
    assert_stored(space, keys_of(0, 40))
    assert store.gc(delete=True).merged == 0


def test_purge_removes_one_space_or_all(store: FeatureStore, three: list[Space]) -> None:
    FileDigests(store.root).sha256(Path(__file__))
    with pytest.raises(UsageError, match="0 spaces start with"):
        store.purge("zz")
    with pytest.raises(UsageError, match="3 spaces start with ''"):
        store.purge("")
    store.purge(three[1].id)
    assert left(store) == {three[0].id, three[2].id}
    store.purge()
    assert left(store) == set()
    assert sorted(path.name for path in store.root.rglob("*")) == [".gitignore", "CACHEDIR.TAG", "v1"]
    put(three[0], keys_of(0, 5))
    assert_stored(three[0], keys_of(0, 5))


def test_a_store_that_is_not_there_is_empty(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "no" / "where")
    assert store.writable
    assert store.info()["spaces"] == []
    assert store.verify().ok
    assert store.gc(delete=True).removed == store.purge().removed == []
    put(store.space(DESCRIPTOR), keys_of(0, 3))
    assert_stored(store.space(DESCRIPTOR), keys_of(0, 3))


@pytest.mark.parametrize("bad", [{"dtype": "float64"}, {"flush_rows": 0}, {"flush_bytes": 0}])
def test_bad_settings_are_usage_errors(tmp_path: Path, bad: dict) -> None:
    with pytest.raises(UsageError):
        FeatureStore(tmp_path, **bad)


# Rows of fits


def rows_of(store: FeatureStore) -> dict[str, bytes]:
    folder = store.root / "v1" / "rows"
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


@pytest.mark.parametrize("data", [b"", b"rows", bytes(range(256)) * 5000])
def test_rows_are_kept_under_their_digest(store: FeatureStore, data: bytes) -> None:
    name = store.keep_rows(data)
    assert name == hashlib.blake2b(data, digest_size=16, person=b"embedkit/rows/1").hexdigest()
    assert store.keep_rows(data) == name
    assert FeatureStore(store.root).rows(name) == data
    assert rows_of(store) == {name: data}
    path = store.root / "v1" / "rows" / name
    assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) == (0o600, 0o700)
    assert store.info()["spaces"] == []  # rows are no space
    assert store.verify().ok


@pytest.mark.parametrize(
    "name", ["", "..", "../CACHEDIR.TAG", "a" * 31, "A" * 32, "g" * 32, "a" * 33, "a" * 32 + "\n"]
)
def test_what_names_no_rows_is_not_looked_up(store: FeatureStore, name: str) -> None:
    store.keep_rows(b"rows")
    assert store.rows(name) is None


def test_rows_that_are_not_there(tmp_path: Path, store: FeatureStore) -> None:
    assert FeatureStore(tmp_path / "no" / "where").rows("a" * 32) is None
    assert store.rows("a" * 32) is None
    store.keep_rows(b"rows")
    assert store.rows("a" * 32) is None


@pytest.mark.parametrize("damage", [b"", b"row", b"rows!", b"Rows"])
def test_damaged_rows_are_not_believed_and_are_written_again(store: FeatureStore, damage: bytes) -> None:
    name = store.keep_rows(b"rows")
    (store.root / "v1" / "rows" / name).write_bytes(damage)
    assert store.rows(name) is None
    assert store.keep_rows(b"rows") == name
    assert store.rows(name) == b"rows"
    assert set(rows_of(store)) == {name}


def test_a_link_in_place_of_rows_is_not_followed(store: FeatureStore, tmp_path: Path) -> None:
    name = store.keep_rows(b"rows")
    theirs, path = tmp_path / "theirs", store.root / "v1" / "rows" / name
    theirs.write_bytes(b"rows")
    path.unlink()
    path.symlink_to(theirs)
    assert store.rows(name) is None
    store.keep_rows(b"rows")
    assert not path.is_symlink()
    assert store.rows(name) == theirs.read_bytes() == b"rows"


def aged(store: FeatureStore, name: str, hours: float) -> None:
    os.utime(store.root / "v1" / "rows" / name, (time.time() - 3600 * hours,) * 2)


def test_gc_removes_rows_that_are_old_where_an_age_is_named(store: FeatureStore, three: list[Space]) -> None:
    old, new = store.keep_rows(b"old"), store.keep_rows(b"new")
    aged(store, old, 3)
    for limits in ({"older_than": 3600.0, "space": three[2].id}, {}, {"older_than": 4 * 3600.0}, {"max_bytes": 0}):
        store.gc(**limits, delete=True)  # type: ignore[arg-type]
        assert set(rows_of(store)) == {old, new}, limits
    dry = store.gc(older_than=2 * 3600)
    assert [Path(removal.path).name for removal in dry.removed] == [old]
    assert (dry.removed[0].why, dry.bytes) == ("unused", 3)
    assert set(rows_of(store)) == {old, new}
    assert [Path(removal.path).name for removal in store.gc(older_than=2 * 3600, delete=True).removed] == [old]
    assert set(rows_of(store)) == {new}


def test_keeping_rows_again_is_a_use(store: FeatureStore) -> None:
    name = store.keep_rows(b"rows")
    aged(store, name, 3)
    store.keep_rows(b"rows")
    store.gc(older_than=3600, delete=True)
    assert store.rows(name) == b"rows"


def test_purge_removes_rows_with_all_features_and_not_with_one_space(
    store: FeatureStore, three: list[Space]
) -> None:
    name = store.keep_rows(b"rows")
    foreign = store.root / "v1" / "rows" / "notes.txt"
    foreign.write_text("mine")
    store.purge(three[0].id)
    assert store.rows(name) == b"rows"
    store.gc(older_than=0, delete=True)
    assert foreign.read_text() == "mine"
    name = store.keep_rows(b"rows")
    report = store.purge()
    assert store.rows(name) is None
    assert str(store.root / "v1" / "rows" / name) in {removal.path for removal in report.removed}
    assert foreign.read_text() == "mine"
