"""Answers of a tagger judged on words with tags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from embedkit.data import LabelCodec, Split
from embedkit.data.schemes import iob2_tags
from embedkit.estimators.tagging import Tagged, Tagger
from embedkit.evaluation.judged import tuned_on
from embedkit.evaluation.tag_report import tag_text, write_tag_report
from embedkit.metrics.spans import tagging
from embedkit.runtime.entities import OUTSIDE

if TYPE_CHECKING:
    from embedkit.runtime.tokens import Words


@dataclass(frozen=True, eq=False)
class TagJudged:
    """A split of words with what a tagger made of it.

    Attributes
    ----------
    split : Split
        Its tags are IOB2 where they stand for spans.
    tagged : Tagged
    metrics : dict
        Of `embedkit.metrics.spans.tagging`.
    """

    split: Split
    tagged: Tagged
    metrics: dict[str, Any]

    @property
    def source(self) -> str:
        """Where its rows are from, as printed."""
        return f"{self.split.source} ({self.split.name})"

    def text(self) -> str:
        """Return its figures as a table."""
        return tag_text(self.metrics, self.source)

    def write(self, folder: Path, *, pictures: bool = True) -> None:
        """Write `report/`; `pictures` need matplotlib."""
        write_tag_report(
            folder,
            true=cast("list[list[str]]", self.split.labels),
            predicted=cast("list[list[str | None]]", self.tagged.tags),
            sentences=cast("list[list[str]]", self.split.inputs),
            rows=self.split.rows,
            source=self.source,
            metrics=self.metrics,
            pictures=pictures,
        )


def tag_judged(split: Split, tagger: Tagger, *, strict: bool = False) -> TagJudged:
    """Tag a labelled split and judge it; tags that training never saw count as errors.

    Parameters
    ----------
    split : Split
        Lists of words; its tags are IOB2 where they stand for spans.
    tagger : Tagger
    strict : bool, default False
        Whether an entity must begin with ``B-`` to count.
    """
    tagged = tagger.predict(cast("list[str | Words]", split.inputs), rows=split.rows)
    true = cast("list[list[str]]", split.labels)
    predicted = cast("list[list[str | None]]", tagged.tags)
    if tagger.spans and not {"B", "I", OUTSIDE} >= {label.partition("-")[0] for label in tagger.labels}:
        predicted = [list[str | None](iob2_tags(tags)) for tags in predicted]  # of others, in BIOES and the like
    metrics = tagging(true, predicted, spans=tagger.spans, strict=strict)
    unseen = LabelCodec(tagger.labels).extended(true).classes[len(tagger.labels) :]
    if unseen:
        metrics["unseen_tags"] = list(unseen)
    if tuned_on(tagger.about) == split.fingerprint():
        metrics["used_to_tune"] = True
    return TagJudged(split, tagged, metrics)
