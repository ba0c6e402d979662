"""The store's promises when something goes wrong: kills, damage, races, full and forbidden disks."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from embedkit.errors import StoreError, StoreFullError
from embedkit.store import FeatureStore, FileDigests, Space, files, shards, text_keys
from embedkit.store import space as space_module

WORKER = Path(__file__).with_name("store_worker.py")
GOLDEN = Path(__file__).with_name("golden") / "store_v1"
DESCRIPTOR = {"test": 1}  # the worker's


def keys_of(start: int, stop: int) -> np.ndarray:
    return text_keys([f"text {i}" for i in range(start, stop)])


def vectors_of(keys: np.ndarray) -> np.ndarray:
    return keys.astype(np.float32) / 255


def put(space: Space, keys: np.ndarray) -> None:
    with space.writer() as writer:
        writer.put(keys, vectors_of(keys), keys[:, 0].astype(np.uint32), keys[:, 1] % 2 == 1)


def right(space: Space, keys: np.ndarray) -> np.ndarray:
    """Return which keys are found; their values must be the right ones."""
    hits = space.lookup(keys)
    if hits.found.any():
        np.testing.assert_array_equal(hits.vectors[hits.found], vectors_of(keys)[hits.found])
    np.testing.assert_array_equal(hits.tokens, np.where(hits.found, keys[:, 0], 0))
    np.testing.assert_array_equal(hits.truncated, hits.found & (keys[:, 1] % 2 == 1))
    return hits.found


def open_space(root: Path, **settings: int) -> Space:
    return FeatureStore(root, **settings).space(DESCRIPTOR)  # type: ignore[arg-type]


def worker(*args: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(WORKER), *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a worker; return its exit status, stdout and stderr."""
    out, err = process.communicate()
    return process.returncode, out, err


def parts(root: Path) -> list[Path]:
    return list(root.rglob("*.part"))


def quarantined(root: Path) -> list[Path]:
    return list(root.glob("v1/*/quarantine/*"))


# Kills


@pytest.mark.parametrize(
    ("point", "second_half", "leaves_part"),
    [
        ("before-write", False, True),
        ("mid-write", False, True),
        ("before-fsync", False, True),
        ("before-rename", False, True),
        ("after-rename", True, False),
        ("merge:mid-write", True, True),
        ("merge:before-rename", True, True),
        ("merge:after-rename", True, False),
        ("merge:before-unlink", True, False),
        ("merge:after-unlink", True, False),
    ],
)
def test_a_process_that_dies_at_any_point_loses_nothing_renamed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, point: str, second_half: bool, leaves_part: bool
) -> None:
    assert finish(worker("fault", tmp_path, "--point", point))[0] == 137
    space, store = open_space(tmp_path), FeatureStore(tmp_path)
    expected = [True] * 100 + [second_half] * 100
    assert right(space, keys_of(0, 200)).tolist() == expected
    assert store.verify().ok
    assert len(parts(tmp_path)) == leaves_part
    store.gc(delete=True)
    assert parts(tmp_path) == []
    assert right(space, keys_of(0, 200)).tolist() == expected
    assert len(space.listing()) == 1
    assert not quarantined(tmp_path)
    assert caplog.records == []


def test_kill_9_at_random_moments_loses_only_what_was_not_committed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    random = np.random.default_rng(0)
    keys, space, found = keys_of(0, 20_000), open_space(tmp_path), np.zeros(20_000, dtype=bool)
    killed = 0
    for _ in range(10):
        process = worker("write", tmp_path, "--stop", 20_000, "--batch", 20, "--flush", 40)
        assert process.stdout is not None
        process.stdout.readline()  # it has begun to write
        time.sleep(random.uniform(0, 0.25))
        process.kill()
        code, out, _ = finish(process)
        saved = [int(line) for line in out.split()]
        killed += code == -9
        now = right(space, keys)
        assert not (found & ~now).any()
        assert now.sum() - found.sum() >= max(saved, default=0)
        found = now
    assert killed >= 5
    assert FeatureStore(tmp_path).verify().ok
    FeatureStore(tmp_path).gc(delete=True)
    assert not parts(tmp_path)
    code, out, _ = finish(worker("write", tmp_path, "--stop", 20_000, "--batch", 5000, "--flush", 5000))
    assert code == 0
    assert max(map(int, out.split())) <= 20_000 - found.sum()
    assert right(space, keys).all()
    assert caplog.records == []


# Many processes


def test_four_processes_leave_one_value_a_key_and_nothing_else(tmp_path: Path) -> None:
    """Each process writes values of its own, so that a second value of a key would show."""
    processes = [worker("write", tmp_path, "--stop", 2000, "--flush", 200, "--jitter") for _ in range(4)]
    assert [(code, err) for code, _, err in map(finish, processes)] == [(0, "")] * 4
    keys, space = keys_of(0, 2000), open_space(tmp_path)
    first = space.lookup(keys)
    assert first.found.all()
    whose = first.vectors - vectors_of(keys)
    assert np.ptp(whose, axis=1).max() < 1e-6  # no row is of two processes
    again = open_space(tmp_path).lookup(keys[::-1])
    np.testing.assert_array_equal(again.vectors[::-1], first.vectors)
    FeatureStore(tmp_path).gc(delete=True)
    assert [name.rows for name in space.listing()] == [2000]
    np.testing.assert_array_equal(space.lookup(keys).vectors, first.vectors)
    assert not parts(tmp_path)
    assert not quarantined(tmp_path)


def test_readers_beside_merges_always_find_the_same_values(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    space, keys = open_space(tmp_path), keys_of(0, 50)
    put(space, keys)
    churns = [worker("churn", tmp_path, "--start", start) for start in (1000, 3000)]
    rounds = 0
    while any(process.poll() is None for process in churns):
        assert right(space, keys).all()
        assert right(open_space(tmp_path), keys).all()
        rounds += 1
    assert [(code, err) for code, _, err in map(finish, churns)] == [(0, "")] * 2
    assert rounds > 10
    assert right(space, np.concatenate([keys_of(1000, 1600), keys_of(3000, 3600)])).all()
    assert not parts(tmp_path)
    assert caplog.records == []


@pytest.mark.parametrize("opened", [True, False])
def test_a_reader_whose_listing_is_old_lists_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: bool
) -> None:
    space, keys = open_space(tmp_path), keys_of(0, 40)
    put(space, keys[:20])
    put(space, keys[20:])
    if opened:
        space.lookup(keys[:1])
    real, old = shards.list_shards, space.listing()
    assert open_space(tmp_path).merge() == 2
    answers = [old]
    monkeypatch.setattr(space_module, "list_shards", lambda folder: answers.pop() if answers else real(folder))
    assert right(space, keys).all()
    assert answers == []


def test_a_listing_beside_a_merge_is_repeated_until_it_is_stable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, keys = open_space(tmp_path), keys_of(0, 40)
    put(space, keys)
    real, answers = shards._scan, [[]]
    monkeypatch.setattr(shards, "_scan", lambda folder: answers.pop() if answers else real(folder))
    assert right(space, keys).all()


def test_a_shard_that_never_opens_ends_in_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = open_space(tmp_path)
    put(space, keys_of(0, 4))
    old = space.listing()
    FeatureStore(tmp_path).purge()
    put(space, keys_of(0, 4))
    monkeypatch.setattr(space_module, "list_shards", lambda folder: old)
    with pytest.raises(StoreError, match="changes faster"):
        space.lookup(keys_of(0, 4))


def test_a_purge_beside_a_writer_costs_only_what_was_purged(tmp_path: Path) -> None:
    space, keys = open_space(tmp_path), keys_of(0, 40)
    with space.writer() as writer:
        for part in (keys[:20], keys[20:]):
            writer.flush()
            writer.put(part, vectors_of(part), part[:, 0].astype(np.uint32), part[:, 1] % 2 == 1)
        FeatureStore(tmp_path).purge()
    assert right(space, keys).tolist() == [False] * 20 + [True] * 20


def test_a_purge_in_the_middle_of_a_flush_makes_it_start_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, real, purges = open_space(tmp_path), space_module.write_shard, [1, 1]

    def write_shard(*args: object) -> object:
        if purges:
            purges.pop()
            FeatureStore(tmp_path).purge()
        return real(*args)

    monkeypatch.setattr(space_module, "write_shard", write_shard)
    put(space, keys_of(0, 20))
    assert purges == []
    assert right(space, keys_of(0, 20)).all()


def test_gc_leaves_the_parts_of_living_processes(tmp_path: Path) -> None:
    space = open_space(tmp_path)
    put(space, keys_of(0, 4))
    folder = space.folder / "parts"
    host, _, start, _ = files.part_name().split("-")
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    names = {
        "alive": files.part_name(),
        "dead": f"{host}-{dead.pid}-1-{'0' * 32}.part",
        "number given out again": f"{host}-{os.getpid()}-{int(start) + 1}-{'1' * 32}.part",
        "another host": f"elsewhere-{dead.pid}-1-{'2' * 32}.part",
        "another host, old": f"elsewhere-{dead.pid}-1-{'3' * 32}.part",
        "not ours": "notes.part",
    }
    for name in names.values():
        (folder / name).write_bytes(b"x")
    os.utime(folder / names["another host, old"], (time.time() - 49 * 3600,) * 2)
    FeatureStore(tmp_path).gc()
    assert len(list(folder.iterdir())) == 6
    FeatureStore(tmp_path).gc(delete=True)
    for _ in range(2):
        left = {label for label, name in names.items() if (folder / name).exists()}
        assert left == {"alive", "another host", "not ours"}
        FeatureStore(tmp_path).purge()


# Damage


def shard_of(root: Path) -> Path:
    [path] = root.glob("v1/*/shards/*.arrow")
    return path


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def find(path: Path, needle: bytes) -> int:
    at = path.read_bytes().find(needle)
    assert at >= 0
    return at


def rename(path: Path, field: int) -> None:
    """Change a digit of the file name."""
    fields = path.stem.split("-")
    fields[field] = ("2" if fields[field][0] == "1" else "1") + fields[field][1:]
    path.rename(path.with_name("-".join(fields) + ".arrow"))


def footer_of(path: Path) -> int:
    data = path.read_bytes()
    return len(data) - 10 - int.from_bytes(data[-10:-6], "little") // 2


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "shorter by a byte": (lambda path: os.truncate(path, path.stat().st_size - 1), "size"),
    "empty": (lambda path: os.truncate(path, 0), "size"),
    "half": (lambda path: os.truncate(path, path.stat().st_size // 2), "size"),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "size"),
    "zeros": (lambda path: path.write_bytes(bytes(path.stat().st_size)), "frame"),
    "vector": (lambda path: flip(path, find(path, vectors_of(KEYS)[150].tobytes()) + 5), "vectors"),
    "key": (lambda path: flip(path, find(path, KEYS[150].tobytes()) + 3), "index"),
    "metadata": (lambda path: flip(path, find(path, b"block_rows")), "frame"),
    "checksum": (lambda path: flip(path, find(path, b"block_xxh3_64") + 30), "frame"),
    "footer": (lambda path: flip(path, footer_of(path)), "frame"),
    "magic": (lambda path: flip(path, 0), "frame"),
    "rows in the name": (lambda path: rename(path, 1), "layout"),
    "size in the name": (lambda path: rename(path, 2), "size"),
    "digest in the name": (lambda path: rename(path, 3), "frame"),
}
KEYS = keys_of(0, 400)


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("found_by", ["lookup", "verify", "merge", "gc"])
def test_damage_is_found_named_once_set_aside_and_computed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, found_by: str
) -> None:
    harm, reason = DAMAGE[kind]
    space, store = open_space(tmp_path), FeatureStore(tmp_path)
    put(space, KEYS[100:300])
    good = shard_of(tmp_path)
    put(space, np.concatenate([KEYS[:100], KEYS[300:]]))
    [other] = set(good.parent.iterdir()) - {good}
    harm(good)
    [path] = set(good.parent.iterdir()) - {other}
    space = open_space(tmp_path)
    if found_by == "verify":
        [damage] = store.verify().damaged
        assert (damage.path, damage.reason) == (str(path), reason)
        assert store.verify().ok
    elif found_by == "merge":
        space.merge()
    elif found_by == "gc":
        store.gc(delete=True)
    assert right(space, KEYS).tolist() == [True] * 100 + [False] * 200 + [True] * 100
    [record] = caplog.records
    assert record.name == "embedkit.store"
    assert record.levelno == logging.WARNING
    assert str(path) in record.getMessage()
    assert f"({reason})" in record.getMessage()
    assert [moved.name for moved in quarantined(tmp_path)] == [f"{path.name}.{reason}"]
    caplog.clear()
    put(space, KEYS[100:300])
    assert right(open_space(tmp_path), KEYS).all()
    assert store.verify().ok
    assert store.info()["spaces"][0]["quarantined"] == 1
    store.gc(delete=True)
    assert not quarantined(tmp_path)
    assert right(space, KEYS).all()
    assert caplog.records == []


def test_no_flipped_byte_anywhere_gives_a_wrong_value_or_a_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = keys_of(0, 3)
    put(open_space(tmp_path), keys)
    path = shard_of(tmp_path)
    good = path.read_bytes()
    harmless = 0
    for at in range(len(good)):
        flip(path, at)
        caplog.clear()
        found = right(open_space(tmp_path), keys)
        assert found.all() or not found.any()
        assert len(caplog.records) == (not found.any())
        harmless += int(found.all())
        path.write_bytes(good)
    # What nobody reads: Arrow's end mark (8 bytes) and the padding of 3 token counts (4) and 3 flags (5).
    assert harmless == 8 + 4 + 5


def test_a_shard_of_another_space_is_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A copy between folders would otherwise be a hit with another model's vectors."""
    store = FeatureStore(tmp_path)
    one, two = open_space(tmp_path), store.space({"other": 1})
    put(one, KEYS[:10])
    put(two, KEYS[10:20])
    shutil.copy(next((one.folder / "shards").iterdir()), two.folder / "shards")
    assert right(two, KEYS[:20]).tolist() == [False] * 10 + [True] * 10
    assert "(foreign)" in caplog.text


def test_a_shard_that_rots_under_a_reader_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    space = open_space(tmp_path)
    put(space, KEYS)
    space.lookup(KEYS[:1])
    os.truncate(shard_of(tmp_path), 20_000)
    assert not right(space, KEYS).any()
    assert len(caplog.records) == 1


def test_shards_for_later_readers_and_alien_files_are_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, store = open_space(tmp_path), FeatureStore(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "MIN_READER", 99)
        put(space, KEYS[:10])
    folder = space.folder / "shards"
    later = shard_of(tmp_path)
    aliens = [folder / ".DS_Store", folder / "notes.txt", folder / "x.arrow", space.folder / "notes"]
    aliens += [tmp_path / "v1" / "notes", tmp_path / "mine"]
    for path in aliens:
        path.write_text("mine")
    for part in (KEYS[10:15], KEYS[15:20]):
        put(space, part)
    fresh = open_space(tmp_path)
    caplog.clear()
    for _ in range(2):
        assert right(fresh, KEYS[:20]).tolist() == [False] * 10 + [True] * 10
    [record] = caplog.records
    assert "later embedkit" in record.getMessage()
    # Processes that meet the shard for the first time while they merge, verify or collect.
    assert open_space(tmp_path).merge() == 2
    assert store.verify().ok
    store.gc(delete=True)
    assert later.exists()
    assert not quarantined(tmp_path)
    assert right(fresh, KEYS[:20]).sum() == 10
    store.purge()
    assert not later.exists()
    assert all(path.read_text() == "mine" for path in aliens)


# Full disks and short writes


@contextmanager
def failing_write(monkeypatch: pytest.MonkeyPatch, after: int, code: int) -> Iterator[None]:
    """Let writing fail once `after` bytes were written."""
    real, room = os.write, [after]

    def write(descriptor: int, data: memoryview) -> int:
        if room[0] <= 0:
            raise OSError(code, os.strerror(code))
        count = real(descriptor, data[: room[0]])
        room[0] -= count
        return count

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        yield


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("after", [0, 100, 5000])
def test_a_full_disk_says_what_was_saved_and_leaves_nothing_half_done(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    code: int,
    after: int,
) -> None:
    space = open_space(tmp_path, flush_rows=100)
    put(space, KEYS[300:])
    writer = space.writer()

    def fill() -> None:
        with writer:
            for start in range(0, 200, 50):
                part = KEYS[start : start + 50]
                writer.put(part, vectors_of(part), part[:, 0].astype(np.uint32), part[:, 1] % 2 == 1)
                if writer.saved == 100:
                    stack.enter_context(failing_write(monkeypatch, after, code))

    stack = ExitStack()
    with (
        stack,
        pytest.raises(
            StoreFullError, match=r"100 rows of this run are saved, 100 .* free at least 1 MB"
        ) as caught,
    ):
        fill()
    assert str(space.folder) in str(caught.value)
    assert caught.value.exit_code == 74
    assert caplog.records == []  # said once, by the error
    assert parts(tmp_path) == []
    assert right(open_space(tmp_path), KEYS).tolist() == [True] * 100 + [False] * 200 + [True] * 100
    put(space, KEYS)
    assert right(space, KEYS).all()


def test_a_flush_that_failed_can_be_repeated_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_space(tmp_path).writer() as writer:
        writer.put(KEYS, vectors_of(KEYS), KEYS[:, 0].astype(np.uint32), KEYS[:, 1] % 2 == 1)
        with failing_write(monkeypatch, 0, errno.ENOSPC), pytest.raises(StoreFullError):
            writer.flush()
        writer.flush()
    assert writer.saved == len(KEYS)
    assert right(open_space(tmp_path), KEYS).all()


def test_the_error_that_leaves_the_block_is_not_hidden_by_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer = open_space(tmp_path).writer()

    def interrupted() -> None:
        with writer:
            writer.put(KEYS, vectors_of(KEYS), KEYS[:, 0].astype(np.uint32), KEYS[:, 1] % 2 == 1)
            raise KeyboardInterrupt

    with failing_write(monkeypatch, 0, errno.ENOSPC), pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "0 rows of this run are saved, 400" in caplog.text


def test_a_file_size_limit_ends_the_process_with_74(tmp_path: Path) -> None:
    command = ("write", tmp_path, "--stop", 3000, "--batch", 100, "--flush", 300)
    code, _, message = finish(worker(*command, "--file-limit", 20_000))
    assert code == 74
    assert "0 rows of this run are saved, 300" in message
    assert "Traceback" not in message
    assert parts(tmp_path) == []
    assert finish(worker(*command))[::2] == (0, "")
    assert right(open_space(tmp_path), keys_of(0, 3000)).all()


def test_a_full_disk_while_merging_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space, store = open_space(tmp_path), FeatureStore(tmp_path)
    put(space, KEYS[:200])
    put(space, KEYS[200:])
    with failing_write(monkeypatch, 3000, errno.ENOSPC):
        with pytest.raises(StoreFullError, match="nothing is lost"):
            store.gc(delete=True)
        monkeypatch.setattr(space_module, "AUTO_MERGE_SHARDS", 1)
        with space.writer():
            pass  # closing a writer merges, quietly where it cannot
    assert right(space, KEYS).all()
    assert parts(tmp_path) == []


def test_a_merge_does_not_start_without_room_for_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = open_space(tmp_path)
    put(space, KEYS[:200])
    put(space, KEYS[200:])
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(space_module.shutil, "disk_usage", lambda path: usage)
    assert space.merge() == 0
    assert right(space, KEYS).all()


def test_a_system_that_writes_one_byte_a_call_still_writes_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:1]))
    space = open_space(tmp_path)
    put(space, KEYS[:30])
    assert right(space, KEYS[:30]).all()
    assert FeatureStore(tmp_path).verify().ok


# Places that cannot or must not be used


@contextmanager
def read_only(root: Path) -> Iterator[None]:
    """Take the right to write from a store; root first becomes somebody for whom rights count."""
    was_root = os.geteuid() == 0
    paths = [root, *root.rglob("*")]
    if was_root:
        for path in paths:
            os.chown(path, 65534, 65534)
        os.seteuid(65534)
    for path in paths:
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        yield
    finally:
        for path in paths:
            path.chmod(0o700 if path.is_dir() else 0o600)
        if was_root:
            os.seteuid(0)


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that other users can reach, which pytest's own is not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "store"


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
@pytest.mark.parametrize("damaged", [False, True])
def test_a_read_only_store_serves_hits_and_refuses_writers(
    open_place: Path, caplog: pytest.LogCaptureFixture, damaged: bool
) -> None:
    space = open_space(open_place)
    put(space, KEYS[:100])
    put(space, KEYS[100:200])
    assert space.writable
    assert FeatureStore(open_place).writable
    if damaged:
        flip(open_place / "v1" / space.id / "shards" / space.listing()[0].file, 0)
    before = sorted(open_place.rglob("*"))
    with read_only(open_place):
        space = open_space(open_place)
        for _ in range(2):
            assert right(space, KEYS[:300]).tolist() == [not damaged] * 100 + [True] * 100 + [False] * 100
        assert not space.writable
        assert not FeatureStore(open_place).writable
        assert not FeatureStore(open_place).info()["writable"]
        with pytest.raises(StoreError, match="read-only"):
            space.writer()
        assert FeatureStore(open_place).space({"new": 1}).writable is False
        assert len(FileDigests(open_place).sha256(WORKER)) == 64
    assert sorted(open_place.rglob("*")) == before
    assert [record.getMessage().count("left in place") for record in caplog.records] == [1] * damaged


def test_a_store_that_becomes_read_only_stops_the_writer(open_place: Path) -> None:
    space = open_space(open_place)
    put(space, KEYS[:100])
    writer = space.writer()
    with read_only(open_place):
        writer.put(KEYS, vectors_of(KEYS), KEYS[:, 0].astype(np.uint32), KEYS[:, 1] % 2 == 1)
        with pytest.raises(StoreError, match="0 rows of this run are saved, 400") as caught:
            writer.flush()
    assert not isinstance(caught.value, StoreFullError)
    assert str(space.folder) in str(caught.value)


def all_uses(root: Path) -> list[Callable[[], object]]:
    return [
        lambda: open_space(root).lookup(KEYS),
        lambda: put(open_space(root), KEYS),
        lambda: FeatureStore(root).info(),
        lambda: FeatureStore(root).verify(),
        lambda: FeatureStore(root).gc(delete=True),
        lambda: FeatureStore(root).purge(),
    ]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("file", "is a file"),
        ("under a file", "cannot be opened: Not a directory"),
        ("symlink", "is a symlink"),
        ("foreign", "belongs to user"),
        ("writable by all", "is writable by everybody"),
    ],
)
def test_a_root_that_cannot_be_trusted_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, says: str
) -> None:
    root = tmp_path / "store"
    real = tmp_path / "real"
    real.mkdir()
    if kind == "file":
        root.write_text("mine")
    elif kind == "under a file":
        (tmp_path / "f").write_text("mine")
        root = tmp_path / "f" / "store"
    elif kind == "symlink":
        root.symlink_to(real)
    else:
        root.mkdir()
        root.chmod(0o777 if kind == "writable by all" else 0o755)
    if kind == "foreign":
        user = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    for use in [*all_uses(root), lambda: FileDigests(root).sha256(WORKER)]:
        with pytest.raises(StoreError, match=f"{root} {says}"):
            use()
    assert list(real.iterdir()) == []


@pytest.mark.parametrize("planted", ["v1", "space", "shards", "shard"])
def test_planted_symlinks_are_refused_by_name_and_their_targets_untouched(tmp_path: Path, planted: str) -> None:
    target = tmp_path / "target"
    space = open_space(target)
    put(space, KEYS)
    root = tmp_path / "store"
    link = root / space.folder.relative_to(target)
    link = {"v1": link.parent, "space": link, "shards": link / "shards"}.get(planted, link / "shards" / "x")
    if planted == "shard":
        link = link.with_name(space.listing()[0].file)
    link.parent.mkdir(parents=True)
    link.symlink_to(target / link.relative_to(root))
    before = {path: path.lstat().st_mtime_ns for path in target.rglob("*")}
    for use in all_uses(root):
        with pytest.raises(StoreError, match=f"{link} is a symlink"):
            use()
    assert {path: path.lstat().st_mtime_ns for path in target.rglob("*")} == before


@pytest.mark.parametrize("planted", ["parts", "quarantine"])
def test_links_in_place_of_the_other_folders_are_refused_too(tmp_path: Path, planted: str) -> None:
    space, target = open_space(tmp_path / "s"), tmp_path / "target"
    put(space, KEYS)
    target.mkdir()
    (target / f"h-1-1-{'0' * 32}.part").write_text("mine")
    shutil.rmtree(space.folder / planted, ignore_errors=True)
    (space.folder / planted).symlink_to(target)
    with pytest.raises(StoreError, match=planted):
        FeatureStore(tmp_path / "s").gc(delete=True)
    assert len(list(target.iterdir())) == 1


def test_a_part_name_that_is_taken_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space, target = open_space(tmp_path / "s"), tmp_path / "target"
    put(space, KEYS[:10])
    target.write_text("mine")
    name = files.part_name()
    (space.folder / "parts" / name).symlink_to(target)
    monkeypatch.setattr(files, "part_name", lambda: name)
    with pytest.raises(StoreError, match="0 rows of this run are saved"):
        put(space, KEYS[10:20])
    assert target.read_text() == "mine"


# The format for ever


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_golden_store_of_version_1_reads_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    """Written once by the first release. Never write it anew: readers must stay able to read it."""
    shutil.copytree(GOLDEN, tmp_path / "s")
    for path in (tmp_path / "s", *(tmp_path / "s").rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    store = FeatureStore(tmp_path / "s", dtype=dtype)  # type: ignore[arg-type]
    space = store.space({"golden": [1, "caf\u00e9", True, None]})
    keys = np.concatenate(
        [text_keys([f"golden {i}" for i in range(300)]), text_keys([("a", "b")]), text_keys([["a", "b"]])]
    )
    # Multiples of 1/4 up to 150: exact in float32 and in float16.
    rows = np.arange(302, dtype=np.float32)[:, None]
    expected = np.concatenate([rows / 4 - 37.75, -rows / 2, np.full_like(rows, 0.25)], axis=1)
    hits = space.lookup(keys)
    assert hits.found.all()
    assert hits.vectors.tobytes() == expected.tobytes()
    assert hits.tokens.tolist() == list(range(302))
    assert hits.truncated.tolist() == [i % 3 == 0 for i in range(302)]
    assert store.verify().ok
