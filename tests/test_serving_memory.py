"""Answering files of any length takes no more memory than answering the first few thousand rows.

Each run answers some rows, forbids itself to take much more than it then has (RLIMIT_DATA, which counts what a
process may write to: unlike RLIMIT_AS it leaves out mapped libraries and the address space that an allocator
only reserves), and answers far more rows. What a run may not keep is shown to be more than the limit allows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import TextIO

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA and /proc are Linux's")

_ROOM = 24 << 20  # bytes beyond what the first rows needed
_FIRST = 10_000  # more than a chunk, so that a full one has been seen
_CODE = f"""
import io, resource, sys

def held():
    fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(fields["VmData"].split()[0]) << 10

def limit():
    resource.setrlimit(resource.RLIMIT_DATA, (held() + {_ROOM}, resource.RLIM_INFINITY))
"""
_PREDICT = f"""{_CODE}
from embedkit.cli import main
folder, first, rest = sys.argv[1:]
assert main(["predict", folder, "--threads", "1", "--input", first]) == 0
limit()
sys.exit(main(["predict", folder, "--threads", "1", "--input", rest]))
"""
_READ = f"""{_CODE}
from embedkit.data import open_dataset
dataset = open_dataset(sys.argv[2], labels="none")
rows = dataset.sources["first"].chunks()
next(rows)
limit()
try:
    print(len(open_dataset(sys.argv[3], labels="none").split("rest")))
except MemoryError:
    print("too much")
"""

_LONG = "x" * 1500  # a word that the tokenizer does not know: a single token, but memory if it is kept


def start(code: str, *arguments: object, stdin: int | None = None) -> subprocess.Popen[str]:
    """Start Python on one thread, so that stacks and arenas of threads are no part of what is measured."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS", "MALLOC_ARENA_MAX"), "1")
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | one,
    )


def json_lines(path: Path, rows: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for i in range(rows):
            file.write(json.dumps({"text": f"good film {i}", "id": i, "note": "short"}) + "\n")


def table(path: Path, rows: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write("id,text,note\n")
        for i in range(rows):
            file.write(f"{i},good film {i},{_LONG}\n")


def check(process: subprocess.Popen[str], rows: int) -> None:
    """Check that all rows after the first ones were answered, in their order, and nothing was said."""
    assert process.stdout is not None
    assert process.stderr is not None
    last = -1
    for place, line in enumerate(islice(process.stdout, _FIRST, None)):
        last = int(json.loads(line)["id"])
        assert last == place
    said = process.stderr.read()
    assert (process.wait(), last + 1) == (0, rows), said


@pytest.mark.slow
@pytest.mark.parametrize(("write", "suffix", "rows"), [(json_lines, "jsonl", 300_000), (table, "csv", 40_000)])
def test_a_long_file_is_answered_in_the_memory_of_a_short_one(
    write: Callable[[Path, int], None], suffix: str, rows: int, served: Path, tmp_path: Path
) -> None:
    first, rest = tmp_path / f"first.{suffix}", tmp_path / f"rest.{suffix}"
    write(first, _FIRST)
    write(rest, rows)
    with start(_READ, "", first, rest) as process:  # the limit is one that the rows exceed
        assert process.communicate()[0] == "too much\n"
    with start(_PREDICT, served, first, rest) as process:
        check(process, rows)


def test_a_long_stream_is_answered_in_the_memory_of_a_short_file(served: Path, tmp_path: Path) -> None:
    rows, text = 25_000, f"good {_LONG}\n"
    assert rows * len(text) > 1.4 * _ROOM
    json_lines(tmp_path / "first.jsonl", _FIRST)
    with start(_PREDICT, served, tmp_path / "first.jsonl", "-", stdin=subprocess.PIPE) as process:
        found = islice(_answers(process, text, rows), _FIRST, None)
        first = next(found)
        assert first["label"] in ("bad", "good")
        assert sum(answer == first for answer in found) == rows - 1
        assert process.wait() == 0


def _answers(process: subprocess.Popen[str], text: str, rows: int) -> Iterator[dict[str, object]]:
    """Yield the answers while a thread writes the rows."""
    assert process.stdout is not None
    writer = Thread(target=_write, args=(process.stdin, text, rows))
    writer.start()
    for line in process.stdout:
        yield json.loads(line)
    writer.join()


def _write(stream: TextIO, text: str, rows: int) -> None:
    with suppress(BrokenPipeError), stream:  # the process may have given up
        for _ in range(rows):
            stream.write(text)
