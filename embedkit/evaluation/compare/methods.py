"""Which methods are compared: what a user may ask for, and what is asked for where nothing is said."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Final

from embedkit.data.text import printable
from embedkit.encoders import EncoderSettings
from embedkit.errors import UsageError
from embedkit.evaluation.compare.result import Method
from embedkit.heads import HeadSpec
from embedkit.heads.spec import params_of, parse_params
from embedkit.training.freezing import Freeze, parse_freeze
from embedkit.training.pairs import LOSSES, STRATEGIES
from embedkit.training.settings import TuneSettings

KINDS: Final = ("majority", "tfidf", "frozen", "fewshot", "setfit", "finetune")
_OF_ENCODER = ("model", "pooling", "layers", "layer-join", "normalize")
_OF_HEAD = ("clf", "scale", "class-weight")
_OF_SIZES = ("from", "upto")
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "majority": (),
    "tfidf": ("ngrams", "analyzer", "C"),
    "frozen": (*_OF_ENCODER, *_OF_HEAD),
    "fewshot": ("model", "clf", "loss", "strategy", "pair-iterations", "epochs", "batch-size", "learning-rate"),
    "setfit": ("model", "iterations", "epochs", "batch-size", "learning-rate"),
    "finetune": ("model", "freeze", "epochs", "batch-size", "learning-rate"),
}
_FOR_TEXTS = ("tfidf", "fewshot", "setfit")
_UPTO = {
    "fewshot": 128,
    "setfit": 32,
}  # rows a class beyond which tuning by pairs has lost its point, or takes hours
_WORDS = {
    "majority": "most frequent label",
    "tfidf": "TF-IDF + logreg",
    "frozen": "frozen encoder",
    "fewshot": "few-shot tuning",
    "setfit": "setfit",
    "finetune": "fine-tuning",
}
# Where a sample is small, three passes are a handful of steps, after which nothing has been learnt yet: passes are
# added up to this many steps, and at most 20 (Mosbach et al., 2021, for small samples).
_EPOCHS, _LEAST_STEPS, _MOST_EPOCHS = 3.0, 60, 20.0
TFIDF_STEPS = 2000
"""Of logistic regression on TF-IDF, at most."""


def parse_methods(text: str) -> list[Method]:
    """Read methods as the command line has them.

    Methods are separated by commas, options by colons: ``frozen:pooling=mean:clf=ridge,finetune:freeze=4``. A
    value of several parts, ``clf=logreg|ridge``, is a method each. ``from=N`` and ``upto=N`` say from and up to
    how many rows a class a method is run (few-shot tuning up to 128, setfit up to 32, where nothing is said).

    Raises
    ------
    UsageError
        A method or an option is unknown, a value is not allowed, or a method stands twice.

    Examples
    --------
    >>> [method.name for method in parse_methods("tfidf,frozen:clf=logreg|ridge:layers=-2")]
    ['tfidf', 'frozen:clf=logreg:layers=-2', 'frozen:clf=ridge:layers=-2']
    """
    found = [method for part in text.split(",") for method in _expanded(part.strip())]
    names = [method.name for method in found]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise UsageError(f"--methods: {', '.join(doubled)} stands more than once")
    labels = [method.label for method in found]
    return [
        replace(method, label=_label(method.kind, method.options)) if labels.count(method.label) > 1 else method
        for method in found
    ]


def default_methods(kind: str) -> str:
    """Return what is compared where no method is named; what a budget has no room for is left out later."""
    if kind == "tokens":
        return "majority,frozen,finetune:freeze=half,finetune"
    return "majority,tfidf,frozen,fewshot,finetune:freeze=half,finetune"


def _expanded(text: str) -> list[Method]:
    kind, *parts = text.split(":")
    if kind not in KINDS:
        raise UsageError(f"--methods: there is no method {printable(kind, 60)!r}; there are {', '.join(KINDS)}")
    options = _options(kind, parts)
    values = [value.split("|") for value in options.values()]
    return [_method(kind, dict(zip(options, some, strict=True))) for some in product(*values)]


def _options(kind: str, parts: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals and found:  # of a value with a colon, such as sklearn:svm.SVC
            found[next(reversed(found))] += f":{part}"
            continue
        if not equals or not name or name in found:
            raise UsageError(f"--methods: an option of {kind} is written name=value, each once, not {part!r}")
        found[name] = value
    return found


def _method(kind: str, options: dict[str, str]) -> Method:
    name = ":".join([kind, *(f"{option}={value}" for option, value in options.items())])
    shown = {option: value for option, value in options.items() if option not in _OF_SIZES}
    method = Method(name, kind, options, _label(kind, shown))
    _check(method)
    return method


def _label(kind: str, options: Mapping[str, str]) -> str:
    shown = dict(options)
    if kind == "finetune":
        freeze = shown.pop("freeze", "none")
        said = {"none": "all blocks", "embeddings": "all blocks, embeddings frozen", "head-only": "the head alone",
                "half": "upper half of the blocks"}  # fmt: skip
        words = f"fine-tuning, {said.get(freeze, f'first {freeze} blocks frozen')}"
    elif kind in ("frozen", "fewshot"):
        words = f"{_WORDS[kind]} + {shown.pop('clf', 'logreg')}"
    else:
        words = _WORDS[kind]
    more = ", ".join(f"{option} {value}" for option, value in shown.items())
    return printable(f"{words} ({more})" if more else words, None)


def _check(method: Method) -> None:
    """Refuse what cannot be, before anything is opened."""
    known = (*_OPTIONS[method.kind], *_OF_SIZES)
    heads = params_of(_head(method)) if method.kind in ("frozen", "fewshot") else []
    unknown = [option for option in method.options if option not in (*known, *heads)]
    if unknown:
        allowed = ", ".join((*known, *heads))
        raise UsageError(f"--methods: {method.kind} has no option {unknown[0]!r}; it has {allowed}")
    reach_of(method)
    if method.kind == "tfidf":
        words_of(method)
    if method.kind in ("frozen", "fewshot"):
        spec_of(method, 42)
    _check_values(method)
    if method.kind == "frozen":
        encoder_of(method, EncoderSettings("minilm"))
    if method.kind == "finetune":
        tuning_of(method, 1, seed=42, blocks=2)


def _check_values(method: Method) -> None:
    numbers_of(method, "epochs", "learning-rate")
    whole = ("iterations", "pair-iterations", "batch-size", *(("epochs",) if method.kind == "setfit" else ()))
    for name in (name for name in whole if name in method.options):
        given = method.options[name]
        if (value := _number(method, name, given)) < 1 or value != int(value):
            raise UsageError(f"--methods: {method.kind}:{name} is a whole number from 1 up, not {given!r}")
    for name, allowed in (("strategy", STRATEGIES), ("loss", LOSSES)):
        if method.kind == "fewshot" and method.options.get(name, allowed[0]) not in allowed:
            given = printable(method.options[name], 60)
            raise UsageError(f"--methods: fewshot:{name} is {' or '.join(allowed)}, not {given!r}")


def _head(method: Method) -> str:
    """Return the name of a method's head; refuse one that there is not before its parameters are asked for."""
    return HeadSpec(method.options.get("clf", "logreg")).clf


_COMMANDS: Mapping[str, tuple[str, ...]] = {
    "frozen": ("fit-head",),
    "fewshot": ("fewshot",),
    "setfit": ("fewshot", "--tuner", "setfit"),
    "finetune": ("finetune",),
}


def recipe_of(
    method: Method,
    model: str,
    *,
    rows: int,
    shots: int,
    blocks: int,
    seed: int,
    kind: str = "text",
    sets: bool = False,
) -> str:
    """Return how a method's model is made outside a comparison; empty where there is no short way.

    Parameters
    ----------
    method : Method
    model : str
        The usual one.
    rows, shots : int
        What it learnt from, in all and of the largest class.
    blocks : int
        Of the model that is fine-tuned.
    seed : int
    kind : {"text", "pair", "tokens"}
    sets : bool
        Whether rows have several labels.
    """
    if method.kind == "tfidf" and kind == "text" and not sets:
        told = words_of(method)
        counted = f"ngram_range={told.ngrams}, analyzer={told.analyzer!r}, sublinear_tf=True"
        fitted = f"LogisticRegression(C={told.c:g}, max_iter={TFIDF_STEPS:_})"
        return f"make_pipeline(TfidfVectorizer({counted}), {fitted}) of scikit-learn"
    if method.kind not in _COMMANDS:
        return ""
    begin = ["embedkit", *_COMMANDS[method.kind], "DATA", "-m", str(model_of(method, model))]
    if method.kind == "finetune":
        tuned = tuning_of(method, rows, seed=seed, blocks=blocks)
        begin += ["--eval-strategy", "no", "--epochs", f"{tuned.epochs:g}", "--freeze", str(tuned.freeze)]
    if method.kind in ("fewshot", "setfit"):
        begin += ["--shots", str(shots)]
    if method.kind in ("frozen", "fewshot") and sets:  # a comparison tunes no thresholds
        begin += ["--thresholds", "none"]
    return shlex.join([*begin, *_flags(method), "--seed", str(seed), "-o", "DIR"])


def _flags(method: Method) -> list[str]:
    """Return the options of a method as those of its command."""
    said = {*_OF_SIZES, "model", *(("epochs", "freeze") if method.kind == "finetune" else ())}
    if "pair-iterations" in method.options:
        said |= {"epochs", "strategy"}  # instead of these
    whole = numbers_of(method, "iterations", "pair-iterations", "batch-size")
    flags: list[str] = []
    for name, value in method.options.items():
        if name in said:
            continue
        if name == "normalize":
            flags.append("--normalize" if _truth(method, name) else "--no-normalize")
        elif name in _OPTIONS[method.kind]:
            number = whole.get(name.replace("-", "_"), value)
            flags += ["--pair-iterations" if name == "iterations" else f"--{name}", str(number)]
        else:
            flags += ["--clf-param", f"{name}={value}"]
    return flags


# ------------------------------------------------------------------------------- what the options say to each


def reach_of(method: Method) -> tuple[float, float]:
    """Return from and up to how many rows a class a method is run."""
    low, high = method.options.get("from", "0"), method.options.get("upto", str(_UPTO.get(method.kind, "full")))
    return _number(method, "from", low), math.inf if high == "full" else _number(method, "upto", high)


def why_not(method: Method, kind: str, rows: int) -> str:
    """Say why a method is not run on inputs of a kind with so many rows a class; empty where it is."""
    if kind == "tokens" and method.kind in _FOR_TEXTS:
        return f"{_WORDS[method.kind]} is for texts, and these are words with tags"
    if kind == "pair" and method.kind == "setfit":
        return "setfit reads no pairs"
    low, high = reach_of(method)
    unit = "sentences" if kind == "tokens" else "rows a class"
    if rows < low:
        return f"asked for from {low:g} {unit} on"
    if rows > high:
        return f"run up to {high:g} {unit} ({method.kind}:upto=N moves that)"
    return ""


def answers_by(method: Method) -> str:
    """Return a method without what its answers do not depend on: where it is run, and the order of its options."""
    told = (f"{name}={value}" for name, value in sorted(method.options.items()) if name not in _OF_SIZES)
    return ":".join([method.kind, *told])


@dataclass(frozen=True)
class CountedWords:
    """What TF-IDF counts: n-grams of words or characters, and the inverse strength of the penalty."""

    ngrams: tuple[int, int]
    analyzer: str
    c: float


def words_of(method: Method) -> CountedWords:
    """Return what the options of TF-IDF say. Default: single words and pairs of them, C = 10."""
    analyzer = method.options.get("analyzer", "word")
    if analyzer not in ("word", "char", "char_wb"):
        raise UsageError(f"--methods: tfidf:analyzer is word, char or char_wb, not {analyzer!r}")
    text = method.options.get("ngrams", "1-2" if analyzer == "word" else "2-5")
    low, dash, high = text.partition("-")
    if not (low.isdecimal() and (high.isdecimal() if dash else True) and 0 < int(low) <= int(high or low) < 20):
        raise UsageError(f"--methods: tfidf:ngrams is a length or two, such as 1-2, not {text!r}")
    strength = _number(method, "C", method.options.get("C", "10"))
    if not strength:
        raise UsageError("--methods: tfidf:C is a number above 0")
    return CountedWords((int(low), int(high or low)), analyzer, strength)


def spec_of(method: Method, seed: int) -> HeadSpec:
    """Return the head that the options say."""
    options = method.options
    clf = options.get("clf", "logreg")
    given = [
        f"{name}={options[name]}" for name in params_of(clf) if name in options and name not in _reserved(method)
    ]
    weight = options.get("class-weight")
    return HeadSpec(clf, options.get("scale", "auto"), weight, parse_params(given), seed)


def _reserved(method: Method) -> tuple[str, ...]:
    return (*_OPTIONS[method.kind], *_OF_SIZES)


def encoder_of(method: Method, usual: EncoderSettings) -> EncoderSettings:
    """Return the encoder that the options say, the rest of it as usual."""
    options = method.options
    told: dict[str, Any] = {}
    if "model" in options:
        told |= {"model": options["model"], "revision": None}
    for name in ("pooling", "layers"):
        if name in options:
            told[name] = options[name]
    if "layer-join" in options:
        told["layer_join"] = options["layer-join"]
    if "normalize" in options:
        told["normalize"] = _truth(method, "normalize")
    return replace(usual, **told)


def model_of(method: Method, usual: str | Path) -> str | Path:
    """Return the model that a method begins from."""
    return method.options.get("model", usual)


def tuning_of(
    method: Method, rows: int, *, seed: int, blocks: int, device: str = "auto", threads: int | None = None
) -> TuneSettings:
    """Return how a sample of so many rows is fine-tuned on: all rows are learnt from, none choose an epoch.

    Without a number of epochs these are 3, on few rows as many as make 60 steps, but at most 20.
    """
    options = method.options
    batch = int(_number(method, "batch-size", options.get("batch-size", "16")))
    steps = max(1, math.ceil(rows / max(1, batch)))
    usual = min(_MOST_EPOCHS, max(_EPOCHS, math.ceil(_LEAST_STEPS / steps)))
    rate = options.get("learning-rate")
    return TuneSettings(
        epochs=_number(method, "epochs", options["epochs"]) if "epochs" in options else usual,
        batch_size=batch,
        learning_rate=None if rate is None else _number(method, "learning-rate", rate),
        eval_strategy="no",
        freeze=_freeze(options.get("freeze", "none"), blocks),
        seed=seed,
        device=device,
        threads=threads,
    )


def _freeze(text: str, blocks: int) -> Freeze:
    return max(1, blocks // 2) if text == "half" else parse_freeze(text)


def numbers_of(method: Method, *names: str) -> dict[str, Any]:
    """Return those options that were given, as numbers, by their names in Python."""
    found: dict[str, Any] = {}
    for name in names:
        if name in method.options:
            value = _number(method, name, method.options[name])
            found[name.replace("-", "_")] = (
                int(value) if value == int(value) and name != "learning-rate" else value
            )
    return found


def _number(method: Method, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UsageError(f"--methods: {method.kind}:{name} is a number from 0 up, not {text!r}")
    return value


def _truth(method: Method, name: str) -> bool:
    text = method.options[name]
    if text not in ("true", "false"):
        raise UsageError(f"--methods: {method.kind}:{name} is true or false, not {text!r}")
    return text == "true"
