"""The folders that `scripts/check_loaders.py` hands to other tools, and what their sources in torch answer."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedkit.cli import main as embedkit_cli
from embedkit.cli.demo import bbc_news
from embedkit.encoders import EncoderSettings, FeatureExtractor
from embedkit.estimators.frozen import load_frozen
from embedkit.runtime.decide import decide

FLOAT, INT8 = "onnx/model.onnx", "onnx/model_quantized.onnx"
ODD = (
    *("", " ", "a", "Good.", "a good film", "A GOOD FILM!", "best best best best", "  two  spaces  ", "!" * 50),
    *("new\nlines\r\nand\ttabs", "zero\u200bwidth \u00a0 nbsp \u00ad soft", "e\u0301 and \u00e9", "x" * 300),
    *("naïve café, Zürich, Ångström, ﬁne", "今天天气很好。 映画は最高！", "Это хороший фильм", "מצוין 👍🏽 مرحبا"),
    *("🙂🙃 👩\u200d👩\u200d👧\u200d👦 🏳\ufe0f\u200d🌈", "don't can't I'm it's", "1,234.56 £ € $ % 3/4 ½ ²"),
    *("[SEP] [MASK] </s> <s>", "https://example.org/a?b=c&d=1 @me #tag", "word " * 700),
)
Scores = NDArray[np.float64]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass
class Case:
    """An exported folder, and what its source in torch answers.

    Attributes
    ----------
    name : str
    folder : Path
    task : {"encoder", "sequence", "tokens"}
    what : str
        In words, for the table.
    expected : list of ndarray
        For each text its vector, its logits, or the logits of its tokens.
    labels : tuple of str
        In the order of the logits.
    multi : bool
        Whether a text may have any number of labels.
    pooling : str
    normalize : bool
    notes : list of str
    source : Path, optional
        Of a model that transformers saved.
    """

    name: str
    folder: Path
    task: str
    what: str
    expected: list[Scores]
    labels: tuple[str, ...] = ()
    multi: bool = False
    pooling: str = "mean"
    normalize: bool = True
    notes: list[str] = field(default_factory=list)
    source: Path | None = None

    def scores(self, values: Sequence[Any]) -> list[Scores]:
        """Return values as they can be compared: of two classes only the difference of the logits counts."""
        arrays = [np.asarray(value, dtype=np.float64) for value in values]
        if self.task == "sequence" and len(self.labels) == 2 and not self.multi:
            return [np.atleast_1d(row if row.size == 1 else row[1] - row[0]) for row in arrays]
        return arrays

    def names(self, values: Sequence[Any]) -> list[Any]:
        """Return the labels of values: one a text, a sorted list where there may be several, or one a token."""
        rows = self.scores(values)
        if self.task == "tokens":
            return [[self.labels[code] for code in row.argmax(axis=1)] for row in rows]
        table = np.stack(rows)
        codes = decide(table[:, 0] if table.shape[1] == 1 else table, multi_label=self.multi)
        if self.multi:
            return [sorted(self.labels[place] for place in np.flatnonzero(row)) for row in codes]
        return [self.labels[int(code)] for code in codes]


def command(*arguments: object) -> None:
    """Run a command of embedkit; 1 is a gate that was missed, which the folder survives."""
    code = embedkit_cli([str(argument) for argument in arguments])
    if code not in (0, 1):
        raise RuntimeError(f"embedkit {arguments[0]} ended with {code}")


def write_splits(folder: Path, texts: Sequence[str], labels: Sequence[str]) -> Path:
    """Write every fourth text to test.csv and the others to train.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(zip(texts, labels, strict=True))
    for name, part in {"train": [row for i, row in enumerate(rows) if i % 4], "test": rows[::4]}.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *part])
    return folder


def news() -> tuple[list[str], list[str]]:
    """Return every fifth article, with its topic."""
    texts, topics = bbc_news()
    return texts[::5], topics[::5]


def the_texts() -> list[str]:
    """Return odd texts, articles as they are (most are longer than the model reads) and the starts of some."""
    articles = news()[0][::20]
    return [*ODD, *articles[:10], *(" ".join(text.split()[:25]) for text in articles[10:])]


def export(source: object, folder: Path, data: Path, *flags: object, int8: bool = False) -> None:
    """Export once; int8 is published whatever it costs on data as few as these."""
    if folder.exists():
        return
    say(f"exporting {folder.name}")
    more = ("--int8", "--eval-data", data, "--max-drop", "0.99") if int8 else ()
    command("export-onnx", source, "-o", folder, "--parity-data", data, "--quiet", *flags, *more)


def minilm(work: Path, texts: list[str]) -> Iterator[Case]:
    """Yield the real encoder alone."""
    data = write_splits(work / "data/topics", *news())
    folder = work / "folders/encoder-minilm"
    export("minilm", folder, data, int8=True)
    vectors = FeatureExtractor(EncoderSettings("minilm", device="cpu")).transform(texts).vectors
    yield Case(folder.name, folder, "encoder", "all-MiniLM-L6-v2, mean, normalised", list(vectors))


def frozen(work: Path, texts: list[str]) -> Iterator[Case]:
    """Yield MiniLM frozen, with logistic regression: two classes, five, and several labels a text."""
    articles, topics = news()
    priced = ["£" in text or "$" in text for text in articles]
    several = [f"{topic}; money" if money else topic for topic, money in zip(topics, priced, strict=True)]
    tasks: dict[str, tuple[list[str], list[str]]] = {
        "2 classes": (["sports" if topic == "sports" else "other" for topic in topics], []),
        "5 classes": (topics, []),
        "several labels": (several, ["--label-separator", ";"]),
    }
    for what, (labels, flags) in tasks.items():
        name = f"frozen-{what.replace(' ', '-')}"
        data = write_splits(work / f"data/{name}", articles, labels)
        trained, folder = work / "trained" / name, work / "folders" / name
        if not trained.exists():
            command("fit-head", data, "-m", "minilm", "-o", trained, "--store", work / "store", "--quiet", *flags)
        export(trained, folder, data, *flags, int8=True)
        yield frozen_case(name, trained, folder, what, texts)


def frozen_case(name: str, trained: Path, folder: Path, what: str, texts: list[str]) -> Case:
    found = load_frozen(trained, store=False, device="cpu")
    vectors = found.extractor.transform(texts).vectors
    scores = np.asarray(found.head.decision_function(vectors), dtype=np.float64).reshape(len(texts), -1)
    case = Case(name, folder, "sequence", f"MiniLM + logreg, {what}", list(scores), found.codec.names)
    case.multi = found.multi_label
    if found.thresholds is not None:
        own = found.thresholds.decide(found.head.predict_proba(vectors), multi_label=True)
        moved = int((own != (scores > 0)).any(axis=1).sum())
        case.notes.append(f"cut at 0.5: the thresholds in embedkit.json give {moved} of {len(texts)} texts others")
    return case


def tiny_encoders(work: Path, texts: list[str]) -> Iterator[Case]:
    """Yield one small encoder of each family, with random weights."""
    from tests.tiny_models import FAMILIES, make_encoder

    for family in FAMILIES:
        source, folder = work / f"models/{family}", work / f"folders/encoder-{family}"
        if not source.exists():
            make_encoder(source, family)
        export(
            source,
            folder,
            write_splits(work / "data/topics", *news()),
            "--pooling",
            "mean",
            "--normalize",
            int8=True,
        )
        settings = EncoderSettings(str(source), pooling="mean", normalize=True, device="cpu")
        vectors = FeatureExtractor(settings).transform(texts).vectors
        yield Case(folder.name, folder, "encoder", f"tiny {family}, mean, normalised", list(vectors))


def tiny_classifiers(work: Path, texts: list[str]) -> Iterator[Case]:
    """Yield small classifiers of texts and of words, as transformers saves them."""
    from tests.tiny_classifiers import TAGS, make_classifier
    from tests.tiny_models import FAMILIES

    kinds: list[tuple[str, str, str]] = [
        *((family, "sequence", "") for family in FAMILIES),
        ("bert", "sequence", "several labels"),
        *((family, "tokens", "") for family in FAMILIES),
        *((family, task, GENERIC) for family in ("roberta", "xlm-roberta") for task in ("sequence", "tokens")),
    ]
    for family, task, special in kinds:
        name = "-".join(filter(None, (task, family, special.replace(" ", "-"))))
        source, folder = work / f"models/{name}", work / f"folders/{name}"
        labels = TAGS if task == "tokens" else ("bad", "fine", "good")
        several = {"problem_type": "multi_label_classification"} if special == "several labels" else {}
        if not source.exists():
            make_classifier(source, family, task, labels=labels, **several)
            if special == GENERIC:
                make_generic(source)
        expected, columns = torch_answers(source, task, texts)
        data = eval_data(work, name, task, labels)
        flags = ("--label-separator", ";") if several else ()
        export(source, folder, data, *flags, int8=True)
        case = Case(name, folder, task, f"tiny {family}, {task} {special}".strip(), expected, columns)
        case.multi, case.source = bool(several), source
        yield case


GENERIC = "generic tokenizer"


def make_generic(folder: Path) -> None:
    """Save the tokenizer as one that has no class of its own, which transformers 5 does for many."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    own = AutoTokenizer.from_pretrained(folder)
    names = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    special = {name: getattr(own, name) for name in names}
    plain = PreTrainedTokenizerFast(
        tokenizer_object=own.backend_tokenizer, model_max_length=own.model_max_length, **special
    )
    for path in folder.glob("*token*"):
        path.unlink()
    plain.save_pretrained(folder)


def torch_answers(
    source: Path | None, task: str, inputs: Sequence[str] | Sequence[list[str]]
) -> tuple[list[Scores], tuple[str, ...]]:
    """Return the logits of each text or list of words, or of its tokens, one at a time; and the labels."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

    kind: Any = AutoModelForTokenClassification if task == "tokens" else AutoModelForSequenceClassification
    model, tokenizer = kind.from_pretrained(source).eval(), AutoTokenizer.from_pretrained(source)
    found = []
    for given in inputs:
        split = isinstance(given, list)
        batch = tokenizer(given, is_split_into_words=split, truncation=True, return_tensors="pt")
        with torch.no_grad():
            found.append(model(**batch).logits[0].numpy().astype(np.float64))
    return found, tuple(model.config.id2label[code] for code in range(model.config.num_labels))


def eval_data(work: Path, name: str, task: str, labels: Sequence[str]) -> Path:
    """Write starts of articles with labels in turn, which mean nothing: int8 is not judged here."""
    starts, folder = [" ".join(text.split()[:60]) for text in news()[0]], work / f"data/{name}"
    if task == "sequence":
        return write_splits(folder, starts, [labels[place % len(labels)] for place in range(len(starts))])
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["\n".join(f"{word} {labels[i % 2]}" for i, word in enumerate(text.split())) for text in starts]
    for split, part in {"train": lines[::2], "test": lines[1::2]}.items():
        (folder / f"{split}.conll").write_text("\n\n".join(part) + "\n", encoding="utf-8")
    return folder


GROUPS: dict[str, Callable[[Path, list[str]], Iterator[Case]]] = {
    "minilm": minilm,
    "frozen": frozen,
    "tiny-encoders": tiny_encoders,
    "tiny-classifiers": tiny_classifiers,
}
