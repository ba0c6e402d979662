"""What a graph is made of, as the export sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedkit.export.parity import Input, Values
from embedkit.runtime.description import Description
from embedkit.runtime.predictor import Predictor
from embedkit.runtime.tokens import Tokenizer

if TYPE_CHECKING:
    from embedkit.encoders import ModelFolder
    from embedkit.export.graph import Traced

Answer: TypeAlias = Callable[[Sequence[Any]], Values]


class Source(Protocol):
    """A classifier or an encoder in torch, and how its answers are compared."""

    @property
    def folder(self) -> ModelFolder:
        """The encoder's folder."""

    @property
    def description(self) -> Description:
        """What the folder that is written will say."""

    @property
    def tokenizer(self) -> Tokenizer:
        """What splits its inputs."""

    @property
    def inputs(self) -> list[Input]:
        """What it is compared on."""

    @property
    def about(self) -> Mapping[str, Any]:
        """What the manifest keeps beside the description."""

    @property
    def beside(self) -> Mapping[str, Any]:
        """Further JSON files of the folder, by name."""

    @property
    def metrics(self) -> Mapping[str, Any] | None:
        """Figures of the source, for the card."""

    def graph(self) -> Traced:
        """Open the weights for tracing."""

    def expected(self, threads: int | None) -> Values:
        """Return what torch answers to `inputs`."""

    def answer_of(self, predictor: Predictor) -> Answer:
        """Return what gives the same from a graph."""

    def decide(self, values: NDArray[np.floating[Any]]) -> NDArray[Any]:
        """Return the labels of such answers, all the same where there are none."""
