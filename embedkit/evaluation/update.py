"""Rows added to an earlier fit: the features of the old ones come from the store, only new texts are encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from embedkit.data import LabelCodec, Split
from embedkit.data.splits import has_label_sets
from embedkit.data.text import counted
from embedkit.errors import DataError, UsageError
from embedkit.estimators.frozen import FrozenClassifier, head_params
from embedkit.estimators.rows import Rows
from embedkit.evaluation.frozen import targets_of
from embedkit.evaluation.judge import extended_codec
from embedkit.evaluation.judged import TRAIN, TUNING, fingerprints_of
from embedkit.heads import Decision, HeadSpec


@dataclass(frozen=True, eq=False)
class Update:
    """An earlier fit that rows are added to.

    Attributes
    ----------
    folder : Path
    classifier : FrozenClassifier
    earlier : Rows
    spec : HeadSpec
    """

    folder: Path
    classifier: FrozenClassifier
    earlier: Rows
    spec: HeadSpec

    @classmethod
    def of(cls, folder: Path, classifier: FrozenClassifier) -> Update:
        """Find the rows that an artifact was trained on.

        Parameters
        ----------
        folder : Path
            The artifact.
        classifier : FrozenClassifier
            Opened from it.

        Raises
        ------
        DataError
            The store does not have its rows.
        UsageError
            Its head was fitted in Python and has no name.
        """
        about = classifier.about
        settings = about.get("head_settings", {})
        try:
            spec = HeadSpec(
                settings["clf"], settings["scale"], settings["class_weight"], head_params(settings), about["seed"]
            )
        except (KeyError, TypeError, UsageError):
            raise DataError(
                f"{folder}: its head was fitted in Python; fit it there again with more rows"
            ) from None
        earlier = Rows.read(classifier.extractor, about.get("rows"), str(folder))
        return cls(folder, classifier, earlier, spec)

    @property
    def of_encoder(self) -> dict[str, Any]:
        """What the manifest says of how the encoder was tuned, which stays true."""
        return {name: self.classifier.about[name] for name in TUNING if name in self.classifier.about}

    def new_rows(self, splits: Mapping[str, Split]) -> tuple[dict[str, Split], list[str]]:
        """Leave rows out of train that the earlier fit had already, with the same label; say what is known of all.

        Raises
        ------
        DataError
            Inputs or labels are of another kind, or nothing new is left.
        """
        train, classifier = splits[TRAIN], self.classifier
        if train.kind != classifier.kind:
            raise DataError(f"{self.folder} was trained on {classifier.kind}s, {train.source} holds {train.kind}s")
        if has_label_sets(train.labels) != classifier.multi_label:
            raise DataError(f"{self.folder} and {train.source} differ on whether a row has several labels")
        known = set(_ids(self.earlier))
        new = _ids(Rows.of(classifier.extractor, train, targets_of(train, self._codec(train))))
        fresh = [place for place, row in enumerate(new) if row not in known]
        if not fresh:
            raise DataError(f"{train.source}: all {len(train):,} rows of train were in the earlier fit already")
        notes = [f"{counted(len(fresh), 'row')} are added to the {len(self.earlier):,} of {self.folder}"]
        if len(fresh) < len(train):
            notes.append(f"{counted(len(train) - len(fresh), 'row')} of train were there already, with this label")
        texts = {key for key, _ in known}
        for name, split in splits.items():
            if name != TRAIN:
                leaked = sum(key in texts for key in _keys(classifier.extractor.keys(_inputs(split), split.rows)))
                if leaked:
                    notes.append(
                        f"{name}: {counted(leaked, 'text')} of {len(split):,} also in the earlier fit's train; "
                        "figures on them flatter the model"
                    )
        return {**splits, TRAIN: train.take(fresh)}, notes

    def _codec(self, train: Split) -> LabelCodec:
        return extended_codec(self.classifier.codec, train.labels or [], train.source)

    def how(self, read: Split, positive: str | None) -> dict[str, Any]:
        """Return what `train_frozen` is to be told; `read` is train with the rows that were there already."""
        settings, thresholds = self.classifier.about["head_settings"], self.classifier.thresholds
        codec = self._codec(read)
        if (
            positive is None
            and thresholds is not None
            and thresholds.metric == "f1"
            and not self.classifier.multi_label
        ):
            positive = codec.names[thresholds.positive]
        decision = Decision(bool(settings.get("calibrate")), settings.get("thresholds"), seed=self.spec.seed)
        return {
            "codec": codec,
            "decision": decision,
            "positive": positive,
            "earlier": self.earlier,
            "trained_on": [*fingerprints_of(self.classifier.about), read.fingerprint()],
        }


def _inputs(split: Split) -> Any:  # noqa: ANN401 - texts or pairs
    return cast("Any", split.inputs)


def _keys(keys: NDArray[np.uint8]) -> list[bytes]:
    return [key.tobytes() for key in keys]


def _ids(rows: Rows) -> list[tuple[bytes, Any]]:
    """Return each row's key and target; labels that a matrix lacks are labels that the row has not."""
    if rows.targets.ndim == 1:
        return list(zip(_keys(rows.keys), rows.targets.tolist(), strict=True))
    sets = [tuple(np.flatnonzero(row).tolist()) for row in rows.targets]
    return list(zip(_keys(rows.keys), sets, strict=True))
