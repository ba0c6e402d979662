"""What of a folder others may see: its listed files, without texts, paths of this machine and access tokens.

A folder that embedkit wrote may hold more than its owner means to publish: wrong rows with their texts, where the
data lay, vectors of training texts. `shareable` chooses, and says what it left out; the folder itself is not
touched.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from embedkit.artifact import scrub
from embedkit.data.text import counted, printable
from embedkit.errors import ArtifactError, UsageError
from embedkit.runtime.description import PROBLEMS
from embedkit.runtime.manifest import CLASSIFIER, ENCODER, EXPORTED, FINETUNED, MANIFEST, OWN, read_manifest

CARD = "README.md"
_METRICS = "metrics.json"
_REPORT = "report/"
_LOCAL = re.compile(r"[/~]|\.{1,2}[/\\]|[A-Za-z]:[/\\]|\\\\")
_TOKEN = re.compile(rb"hf_[A-Za-z0-9]{30,}")
_SHOWN = 20  # labels on a card
_TITLES = {"pair": "A classifier of pairs of texts", "tokens": "A tagger of words"}
_READ_BY_PEOPLE = (".json", ".md", ".txt", ".csv")
# Words of the user's that may look like a path, and are none.
_WORDS = ("labels", "prompt", "unseen_labels", "positive_label", "tags", "unseen_tags")
# Heads of scikit-learn whose saved form holds figures about the rows, and no row.
_WITHOUT_ROWS = re.compile(
    r"sklearn\.(ensemble\._(hist_gradient_boosting|forest|gb)\b|tree\.|linear_model\.|discriminant_analysis\."
    r"|naive_bayes\.|neural_network\.|dummy\.)"
)


@dataclass(frozen=True)
class Shareable:
    """What of a folder may be published.

    Attributes
    ----------
    files : mapping of str to Path or bytes
        By their names; where they are, or what is published instead.
    notes : tuple of str
        What was left out or changed, and what others need besides.
    """

    files: Mapping[str, Path | bytes]
    notes: tuple[str, ...]


def shareable(folder: Path, *, with_report: bool = False, with_vectors: bool = False) -> Shareable:
    """Choose what of a folder may be published, after checking every digest.

    - Files that the manifest does not list stay behind, except the card ``README.md``.
    - ``report/`` stays behind: it holds wrong rows with their texts, and pictures titled with the data's path.
    - Paths of this machine in ``embedkit.json``, ``metrics.json`` and the card are cut to their last part.
    - A classifier without a card gets a short one.
    - The card is not among the digests, because people edit it on the hub.

    Parameters
    ----------
    folder : Path
        A trained classifier or an exported folder. Nothing is written into it.
    with_report : bool, default False
        Take ``report/`` along.
    with_vectors : bool, default False
        Allow a head that holds vectors of the training texts.

    Raises
    ------
    InputMissingError, ArtifactError
        As of `embedkit.runtime.manifest.read_manifest`; also for a card that is a link.
    UsageError
        A file holds what looks like an access token; or the head holds vectors of texts.
    """
    manifest = read_manifest(folder)
    if manifest.get("kind") not in (CLASSIFIER, FINETUNED, ENCODER, EXPORTED):
        raise ArtifactError(
            f"{folder} is of the kind {manifest.get('kind')!r}; it must be {CLASSIFIER!r}, {FINETUNED!r} or "
            f"{ENCODER!r}, which were trained, or {EXPORTED!r}, which was exported"
        )
    if not with_vectors:
        _refuse_vectors(folder, manifest)
    return _Choice(folder, manifest, with_report).made()


def _refuse_vectors(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a head that keeps its training rows."""
    held = [described for described in _heads(manifest.get("head")) if _holds_rows(described)]
    if held:
        raise UsageError(
            f"the head of {folder} ({_head_name(held[0])}) may hold the vectors of the texts that it was trained "
            "on, from which short texts can be read back; train another head, such as logreg, or publish the "
            "vectors too with --with-vectors"
        )


def _heads(described: Any) -> Iterator[Mapping[str, Any]]:  # noqa: ANN401 - JSON
    """Yield a head's description and those that are nested in it."""
    if isinstance(described, Mapping):
        if "kind" in described:
            yield described
        for inner in described.values():
            yield from _heads(inner)
    elif isinstance(described, list):
        for inner in described:
            yield from _heads(inner)


def _holds_rows(described: Mapping[str, Any]) -> bool:
    if described["kind"] == "skops":
        return not _WITHOUT_ROWS.match(str(described.get("class")))
    return bool(described["kind"] == "knn")


def _head_name(described: Mapping[str, Any]) -> str:
    name = described.get("class") if described["kind"] == "skops" else described["kind"]
    return printable(str(name).rpartition(".")[2], 60)


class _Choice:
    """One folder on its way out."""

    def __init__(self, folder: Path, manifest: dict[str, Any], with_report: bool) -> None:
        self._folder = folder
        self._manifest = manifest
        self._with_report = with_report
        self._listed: list[str] = sorted(manifest["files"])
        self._metrics = self._read_metrics()
        self._short = _shortened(manifest, self._metrics)

    def made(self) -> Shareable:
        """Return the files and what is worth knowing about them."""
        kept = [name for name in self._listed if self._with_report or not name.startswith(_REPORT)]
        files: dict[str, Path | bytes] = {name: self._folder / name for name in kept if name != CARD}
        if self._short and _METRICS in files:
            files[_METRICS] = _json(self._short.of(self._metrics))
        files[CARD] = self._card()
        files[MANIFEST] = self._new_manifest(files)
        _refuse_tokens(files)
        return Shareable(files, tuple(self._notes(files)))

    def _read_metrics(self) -> dict[str, Any]:
        if _METRICS not in self._listed:
            return {}
        try:
            found = json.loads((self._folder / _METRICS).read_bytes())
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ArtifactError(f"{self._folder / _METRICS} is no JSON object; make the folder again")
        return found

    def _card(self) -> bytes:
        """Return the folder's own card, or a new one."""
        path = self._folder / CARD
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise ArtifactError(f"{path} is a link or no plain file; an embedkit folder holds plain files only")
        if not path.exists():
            return _new_card(self._short.of(self._manifest), self._short.of(self._metrics)).encode()
        text = path.read_bytes()
        try:
            return self._short.in_text(text.decode()).encode()
        except UnicodeDecodeError:
            raise ArtifactError(f"{path} is not UTF-8; write it anew or remove it") from None

    def _new_manifest(self, files: Mapping[str, Path | bytes]) -> bytes:
        """Return the manifest of what is published: other digests where the content is another."""
        manifest = self._short.of(self._manifest)
        manifest["files"] = {
            name: hashlib.sha256(content).hexdigest()
            if isinstance(content, bytes)
            else self._manifest["files"][name]
            for name, content in files.items()
            if name != CARD
        }
        return _json(manifest)

    def _notes(self, files: Mapping[str, Path | bytes]) -> Iterator[str]:
        reports = [name for name in self._listed if name.startswith(_REPORT)]
        if reports and not self._with_report:
            yield "report/ stays here: it holds texts of your data; --with-report takes it along"
        elif reports:
            yield "report/ goes along, with texts of your data and where the data lay"
        unlisted = self._unlisted()
        if unlisted:
            stay = "stays" if unlisted == 1 else "stay"
            yield f"{counted(unlisted, 'file')} that embedkit did not write {stay} here"
        if self._short:
            yield "paths of this machine were cut to their last part in what is uploaded"
        if CARD not in self._listed and not (self._folder / CARD).exists():
            yield f"the folder has no {CARD}; a short one was made for the upload"
        encoder, classifies = self._manifest.get("encoder"), self._manifest["kind"] == CLASSIFIER
        own = isinstance(encoder, dict) and (encoder.get("repository") or encoder.get("name") == OWN)
        if classifies and isinstance(encoder, dict) and not own:
            yield "the encoder is a folder of yours, which is not part of the classifier; others need it too"

    def _unlisted(self) -> int:
        """Count the files that stay behind because nothing lists them."""
        known = {MANIFEST, CARD, *self._listed}
        found = (path for path in self._folder.rglob("*") if path.is_symlink() or not path.is_dir())
        return sum(path.relative_to(self._folder).as_posix() not in known for path in found)


# ----------------------------------------------------------------------------------------------- paths


@dataclass(frozen=True)
class _Short:
    """Paths of this machine and what others see instead."""

    names: Mapping[str, str]

    def __bool__(self) -> bool:
        return bool(self.names)

    def of(self, value: Any, key: str = "") -> Any:  # noqa: ANN401 - JSON
        """Return JSON with the paths replaced."""
        if key in _WORDS:
            return value
        if isinstance(value, str):
            return self.names.get(value, value)
        if isinstance(value, dict):
            return {inner: self.of(content, inner) for inner, content in value.items()}
        return [self.of(inner) for inner in value] if isinstance(value, list) else value

    def in_text(self, text: str) -> str:
        """Return text with the paths replaced, also where they stand as `printable` shows them."""
        for name in sorted(self.names, key=len, reverse=True):
            for shown in dict.fromkeys((name, printable(name, None), printable(name, 100))):
                whole = rf"(?<![\w./\\-]){re.escape(shown)}(?![\w-])"
                text = re.sub(whole, lambda _, name=name: self.names[name], text)  # type: ignore[misc]
        return text


def _shortened(manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> _Short:
    """Find the paths of this machine: what looks like one, and what the run was given as data and encoder."""
    labels = {str(label) for label in manifest.get("labels") or ()}
    found = {text for text in (*_strings(manifest), *_strings(metrics)) if _LOCAL.match(text)}
    encoder, settings = manifest.get("encoder") or manifest.get("base"), metrics.get("settings")
    if isinstance(encoder, dict) and not encoder.get("repository"):
        found.add(str(encoder.get("name")))
    # also relative paths, where nothing but data can stand
    data = [settings.get("data")] if isinstance(settings, dict) else []
    verdict = manifest.get("int8")
    data += [verdict.get(name) for name in ("choice", "test")] if isinstance(verdict, dict) else []
    found |= {text for text in data if isinstance(text, str) and not text.startswith("hf:")}
    paths = (path for path in found - labels if re.search(r"[/\\]", path) and PureWindowsPath(path).name)
    short = {path: f"./{PureWindowsPath(path).name}" for path in paths}  # never taken for a name of the hub
    return _Short({path: name for path, name in short.items() if path != name})


def _strings(value: Any, key: str = "") -> Iterator[str]:  # noqa: ANN401 - JSON
    """Yield the strings of JSON, without the user's own words and the names of files in the folder."""
    if key in (*_WORDS, "files", "graphs"):
        return
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner, content in value.items():
            yield from _strings(content, inner)
    elif isinstance(value, list):
        for content in value:
            yield from _strings(content)


# ------------------------------------------------------------------------------------------------ content


def _json(value: Mapping[str, Any]) -> bytes:
    """Return JSON as `embedkit.artifact.write_json` has it."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False).encode("ascii") + b"\n"


def _refuse_tokens(files: Mapping[str, Path | bytes]) -> None:
    for name, content in files.items():
        if not name.endswith(_READ_BY_PEOPLE):
            continue
        if _TOKEN.search(content if isinstance(content, bytes) else content.read_bytes()):
            raise UsageError(f"{name} holds what looks like an access token; remove it before it is published")


def _new_card(manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """Return a card of what manifest and figures say."""
    found = (manifest.get(name) for name in ("encoder", "base"))
    encoder = next((one for one in found if isinstance(one, dict) and one.get("name") != OWN), {})
    repository, alone = encoder.get("repository"), manifest.get("kind") == ENCODER
    task = "token-classification" if manifest.get("input") == "tokens" else "text-classification"
    lines = [
        "---",
        "library_name: embedkit",
        f"pipeline_tag: {'fill-mask' if alone else task}",
        "tags: [embedkit]",
        *([f"base_model: {json.dumps(repository)}"] if repository else []),
        "---",
        *(_of_encoder(manifest, encoder) if alone else _of_classifier(manifest, encoder, metrics)),
        "```",
        "",
    ]
    text: str = scrub("\n".join(lines))
    return text


def _of_classifier(
    manifest: Mapping[str, Any], encoder: Mapping[str, Any], metrics: Mapping[str, Any]
) -> Iterator[str]:
    settings = manifest.get("head_settings") or {}
    yield f"# {_TITLES.get(str(manifest.get('input')), 'A classifier of texts')}"
    yield ""
    yield f"{_made_of(manifest, settings)} {code(encoder.get('name', 'unknown'))}, made with embedkit."
    yield ""
    yield label_line(manifest.get("labels") or [], several=manifest.get("problem_type") == PROBLEMS[1])
    yield from figure_lines(metrics)
    yield from ("", "```sh", "hf download THIS_REPOSITORY --local-dir classifier")
    yield "embedkit predict classifier --input FILE"


def _of_encoder(manifest: Mapping[str, Any], base: Mapping[str, Any]) -> Iterator[str]:
    figures = manifest.get("mlm") or {}
    before, after = ((figures.get(when) or {}).get("perplexity") for when in ("before", "after"))
    yield from ("# An encoder adapted to a domain", "")
    yield f"{code(base.get('name', 'unknown'))}, trained further on masked words, made with embedkit."
    if isinstance(before, float) and isinstance(after, float):
        yield from ("", f"- Perplexity on texts held out: {before:.1f} before, {after:.1f} after.")
    yield from ("", "```sh", "embedkit fit-head DATA -m THIS_REPOSITORY -o DIR")


def _made_of(manifest: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    if manifest.get("kind") == FINETUNED:
        return "A fine-tuned"
    features = "features tuned on few texts" if "few_shot" in manifest else "frozen features"
    return f"A head of the kind {code(settings.get('clf', 'unknown'))} on {features} of the encoder"


# ------------------------------------------------------------------------------------- lines of any card


def label_line(names: Sequence[str], *, several: bool) -> str:
    """Return a card's line on the labels, the first of many; `several` where a text may have any number."""
    more = len(names) - _SHOWN
    shown = ", ".join(map(code, names[:_SHOWN])) + (f" and {more} more" if more > 0 else "")
    return f"- Labels: {shown}." + (" A text may have any number of them." if several else "")


def figure_lines(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield a card's line for each split that ``metrics.json`` has figures of."""
    for name, split in (metrics.get("splits") or {}).items():
        names = ("accuracy", "subset accuracy", "macro f1", *(("f1",) if "per_type" in split else ()))
        known = [("entity f1" if word == "f1" else word, split.get(word.replace(" ", "_"))) for word in names]
        said = [f"{word} {value:.3f}" for word, value in known if isinstance(value, float)]
        interval = split.get("accuracy_ci95")
        if said and isinstance(interval, list) and said[0].startswith("accuracy"):
            said[0] += f" (95 % interval {interval[0]:.3f} to {interval[1]:.3f})"
        if said:
            rows = "sentences" if "words" in split else "rows"
            yield f"- {code(name)}, {split.get('n')} {rows}: {', '.join(said)}."


def code(value: object) -> str:
    """Return text that Markdown leaves alone, on one line."""
    return f"`{printable(str(value), 100).replace('`', chr(39))}`"
