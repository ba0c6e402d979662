"""From a trained classifier or an encoder to a folder that answers without torch; no parity, no folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedkit.artifact import installed, scrub, staged, write_manifest
from embedkit.data.labels import LabelCodec
from embedkit.encoders import FeatureExtractor
from embedkit.errors import ExportError, require
from embedkit.export.dense import Dense, dense_of
from embedkit.export.folder import GRAPH, card, write_config, write_tokenizer
from embedkit.export.parity import Parity, compare, parity_texts
from embedkit.export.speed import Latency, latency
from embedkit.heads import Head
from embedkit.runtime.decide import Thresholds
from embedkit.runtime.description import Description
from embedkit.runtime.manifest import EXPORTED
from embedkit.runtime.model_folder import TOKENIZER
from embedkit.runtime.predictor import Predictor
from embedkit.runtime.session import open_session
from embedkit.runtime.tokens import Text

if TYPE_CHECKING:
    from embedkit.export.graph import Graph

_SENTENCE = 25  # tokens
_VERSIONS = ("embedkit", "numpy", "tokenizers", "torch", "transformers", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, eq=False)
class Trained:
    """What a classifier on a frozen encoder is made of.

    Attributes
    ----------
    extractor : FeatureExtractor
    head : Head
    codec : LabelCodec
    kind : {"text", "pair"}
    thresholds : Thresholds, optional
    about : mapping
        What the folder shall keep of the training: ``data``, ``seed``, ``head_settings``.
    metrics : mapping, optional
        ``metrics.json``.
    """

    extractor: FeatureExtractor
    head: Head
    codec: LabelCodec
    kind: str = "text"
    thresholds: Thresholds | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes
    ----------
    folder : Path
    parity : Parity
    size : int
        Bytes of the graph.
    latency : Latency
        Of one text, of about 25 tokens where there is one.
    """

    folder: Path
    parity: Parity
    size: int
    latency: Latency


def export_classifier(
    trained: Trained, target: Path, texts: Sequence[Text], *, overwrite: bool = False, threads: int | None = None
) -> Exported:
    """Write a classifier as one graph from token ids to logits, with all that its folder needs.

    Parameters
    ----------
    trained : Trained
    target : Path
        Where the folder shall be.
    texts : sequence of str, or of (str, str)
        Real ones, from which the texts of the parity check are chosen.
    overwrite : bool, default False
        Replace an embedkit folder that is there.
    threads : int, optional
        Of the check.

    Raises
    ------
    ExportError
        The head or the encoder's settings have no form as a graph, or the graph answers otherwise. Nothing is
        left behind.
    OutputExistsError
        The target is there and may not be replaced.
    """
    dense = dense_of(trained.head)
    _check(trained.extractor, trained.kind, dense)
    link = ("sigmoid" if trained.head.multi_label else "softmax") if trained.head.has_probabilities else None
    recipe = trained.extractor.recipe
    description = _described(
        trained.extractor,
        task="sequence",
        input=trained.kind,
        labels=trained.codec.classes,
        multi_label=trained.head.multi_label,
        has_probabilities=trained.head.has_probabilities,
        thresholds=trained.thresholds,
        bias=tuple(dense.bias) if recipe.long == "mean" and recipe.normalize else (),
    )
    return _Export(trained, description, texts, dense, link, threads).write(target, overwrite)


def export_encoder(
    extractor: FeatureExtractor,
    target: Path,
    texts: Sequence[str],
    *,
    overwrite: bool = False,
    threads: int | None = None,
) -> Exported:
    """Write an encoder as one graph from token ids to the last hidden state and the text's vector.

    Parameters and errors are those of `export_classifier`.
    """
    _check(extractor, "text", None)
    description = _described(extractor, task="encoder")
    return _Export(extractor, description, texts, None, None, threads).write(target, overwrite)


def _check(extractor: FeatureExtractor, kind: str, dense: Dense | None) -> None:
    """Refuse what one float32 graph cannot compute, before anything heavy is opened."""
    for module in ("torch", "transformers", "onnx", "onnxscript", "onnxruntime"):
        require(module, extra="train", purpose="exporting to ONNX")
    recipe = extractor.recipe
    if kind == "pair" and recipe.pairs == "bi":
        raise ExportError(
            "pairs that are read apart (--pairs bi) need two passes through the encoder, which one graph of one "
            "input cannot hold; train with --pairs cross"
        )
    if recipe.precision != "float32":
        raise ExportError(
            f"the features were computed in {recipe.precision}, and a graph in float32 would give others; train "
            "with --precision float32"
        )
    if scrub(recipe.prompt) != recipe.prompt:
        raise ExportError("the prompt holds what looks like a password or a token, which no manifest may keep")
    if dense is not None and len(dense.layers) > 1 and recipe.long == "mean":
        raise ExportError(
            "windows of long texts (--long mean) are averaged before the head, which a graph of one window can "
            "follow for linear heads alone; train with --long truncate or another head"
        )


def _described(extractor: FeatureExtractor, **own: Any) -> Description:  # noqa: ANN401 - of Description
    """Return a description, for an encoder unless `own` says more."""
    recipe = extractor.recipe
    plain = {
        "input": "text",
        "labels": (),
        "multi_label": False,
        "has_probabilities": False,
        "thresholds": None,
        "bias": (),
    }
    return Description(
        **{**plain, **own},
        graphs={"float32": GRAPH},
        max_length=recipe.max_length,
        side=recipe.side,
        prompt=recipe.prompt,
        lowercase=False,  # the tokenizer that is written does it
        pad_id=recipe.pad_id,
        long=recipe.long,
        normalize=recipe.normalize,
        width=extractor.width("text"),
    )


class _Export:
    """One export on its way."""

    def __init__(
        self,
        source: Trained | FeatureExtractor,
        description: Description,
        texts: Sequence[Text],
        dense: Dense | None,
        link: str | None,
        threads: int | None,
    ) -> None:
        self._trained = source if isinstance(source, Trained) else None
        self._extractor = source.extractor if isinstance(source, Trained) else source
        self._description = description
        self._texts = parity_texts(texts, self._extractor.tokenizer)
        self._dense = dense
        self._link = link
        self._threads = threads

    def write(self, target: Path, overwrite: bool) -> Exported:
        """Build the folder beside its place, and move it there if the graph answers as its source."""
        with staged(target, overwrite=overwrite) as stage:
            (stage / GRAPH).parent.mkdir()
            size, inputs = self._trace(stage / GRAPH)
            write_tokenizer(stage, self._extractor, inputs, self._texts)
            write_config(stage, self._extractor, self._description)
            session = open_session(stage / GRAPH, self._threads)
            predictor = Predictor(self._description, stage / TOKENIZER, session, batching=_together)
            exported = Exported(target, self._compare(predictor), size, self._time(predictor))
            (stage / "README.md").write_text(self._card(exported), encoding="utf-8")
            write_manifest(stage, self._manifest(exported.parity))
        return exported

    def _card(self, exported: Exported) -> str:
        metrics = None if self._trained is None else self._trained.metrics
        name = self._extractor.folder.resolved.name
        return card(self._description, name, metrics, exported.parity, exported.latency, exported.size)

    def _trace(self, path: Path) -> tuple[int, list[str]]:
        from embedkit.export.graph import open_graph, write_graph

        recipe = self._extractor.recipe
        pooled = self._description.merges
        graph: Graph = open_graph(self._extractor.folder, recipe, self._dense, self._link, pooled=pooled)
        tokens = self._extractor.tokenizer.encode(self._texts[1:3] or self._texts)
        examples = np.split(tokens.ids, tokens.offsets[1:-1])
        return write_graph(graph, path, examples, recipe.pad_id), graph.inputs

    def _compare(self, predictor: Predictor) -> Parity:
        """Compare what was written, opened as the runtime does, with the source in torch, in float32."""
        settings = replace(self._extractor.settings, device="cpu", threads=self._threads)
        vectors = FeatureExtractor(settings).transform(self._texts).vectors
        lengths = self._extractor.tokenizer.encode(self._texts).lengths
        if self._trained is None:
            return compare(self._texts, lengths, vectors, predictor.encode)
        scores = self._trained.head.decision_function(vectors)
        return compare(
            self._texts, lengths, scores, predictor.decision_function, lambda s: self._description.decide(s)[1]
        )

    def _time(self, predictor: Predictor) -> Latency:
        """Time one text of about the length of a sentence."""
        lengths = self._extractor.tokenizer.encode(self._texts).lengths
        place = int(np.abs(lengths - _SENTENCE).argmin())
        text = [self._texts[place]]
        answer = predictor.encode if self._trained is None else predictor.answer
        return latency(lambda: answer(text), int(lengths[place]), self._threads)

    def _manifest(self, parity: Parity) -> dict[str, Any]:
        extractor, trained = self._extractor, self._trained
        resolved = extractor.folder.resolved
        manifest: dict[str, Any] = {
            "kind": EXPORTED,
            **self._description.to_json(),
            "encoder": {
                "name": resolved.name,
                "repository": resolved.repository,
                "commit": resolved.commit,
                "weights": extractor.weights,
                "space": extractor.space(self._description.input),
            },
            "parity": parity.to_json(),
            "versions": installed(_VERSIONS),
        }
        if trained is not None:
            manifest["label_dtype"] = trained.codec.dtype
            manifest |= {
                name: trained.about[name] for name in ("data", "seed", "head_settings") if name in trained.about
            }
        return manifest


def _together(lengths: NDArray[np.int64], batch_tokens: int) -> list[NDArray[np.int64]]:
    """Put all windows into one batch, however much of it is padding."""
    return [np.arange(len(lengths))]
