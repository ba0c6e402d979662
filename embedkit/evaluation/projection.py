"""Vectors in two dimensions: UMAP, t-SNE or principal components, and how much of the neighbourhoods is left."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from embedkit.errors import DataError, UsageError, require

Method: TypeAlias = Literal["umap", "pca", "tsne"]
Floats: TypeAlias = NDArray[np.float32]
LEAST = 5  # different vectors, below which there is nothing to lay out
NEAREST = 10  # neighbours that are looked for again in the map
_ASKED = 1000  # vectors whose neighbours are looked for
_USUAL = {"umap": 15, "tsne": 30}  # what the libraries take


@dataclass(frozen=True)
class ProjectionSettings:
    """How vectors are laid out.

    Parameters
    ----------
    method : {"umap", "pca", "tsne"}, default "umap"
        UMAP (McInnes et al., 2018) and t-SNE (van der Maaten & Hinton, 2008) by cosine distance, both from
        principal components on (Kobak & Linderman, 2021); or principal components alone.
    neighbors : int, optional
        Of UMAP the neighbours that a vector is held close to (default 15), of t-SNE the perplexity (default 30);
        fewer where there are fewer vectors. Principal components have none.
    min_dist : float, default 0.1
        Of UMAP: how close points may lie, 0 to 1.
    seed : int, default 42

    Raises
    ------
    UsageError
        A value is not allowed.
    """

    method: Method = "umap"
    neighbors: int | None = None
    min_dist: float = 0.1
    seed: int = 42

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise UsageError(f"method is {self.method!r}; allowed: {', '.join(get_args(Method))}")
        if self.neighbors is not None and self.method == "pca":
            raise UsageError("neighbors are for umap and tsne; leave them out, or choose one of these")
        if self.neighbors is not None and self.neighbors < 2:
            raise UsageError(f"neighbors are {self.neighbors}; allowed: an integer of at least 2")
        if not 0 <= self.min_dist <= 1:
            raise UsageError(f"min_dist is {self.min_dist}; allowed: 0 to 1")

    def check_installed(self, purpose: str) -> None:
        """Raise `MissingExtraError` where what computes is not installed."""
        if self.method == "umap":
            require("umap", extra="umap", purpose=f"{purpose} with UMAP (principal components do without)")
        require("sklearn", extra="train", purpose=purpose)


@dataclass(frozen=True, eq=False)
class Projection:
    """Where vectors lie on a map.

    Attributes
    ----------
    points : ndarray of float32, shape (n, 2)
    said : str
        How they came there.
    kept : float
        Of the 10 nearest neighbours of a vector by cosine, the share that is among its 10 nearest in the map; over
        1,000 vectors drawn by the seed, or all where there are fewer.
    chance : float
        What a map without any order would have there.
    """

    points: Floats
    said: str
    kept: float
    chance: float


def project(vectors: NDArray[np.floating[Any]], settings: ProjectionSettings) -> Projection:
    """Lay vectors out in two dimensions; equal vectors are laid out once and lie on one point.

    Parameters
    ----------
    vectors : ndarray of float, shape (n, D)
    settings : ProjectionSettings

    Raises
    ------
    DataError
        Fewer than 5 of the vectors are different.
    MissingExtraError
        umap-learn is not installed.
    """
    given = np.ascontiguousarray(vectors, dtype=np.float32)
    distinct, which = np.unique(given, axis=0, return_inverse=True)
    if len(distinct) < LEAST:
        raise DataError(f"a map needs at least {LEAST} different texts, and these data have {len(distinct)}")
    unit = distinct / np.maximum(np.linalg.norm(distinct, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    if settings.method == "pca":
        points, said = _components(distinct, settings.seed)
    elif settings.method == "tsne":
        points, said = _tsne(unit, settings)
    else:
        points, said = _umap(unit, settings)
    kept = neighbours_kept(unit, points, settings.seed)
    return Projection(points[which.reshape(-1)], said, kept, min(NEAREST, len(unit) - 1) / (len(unit) - 1))


def _components(vectors: Floats, seed: int) -> tuple[Floats, str]:
    from sklearn.decomposition import PCA

    pca = PCA(n_components=2, random_state=seed)
    points = pca.fit_transform(vectors)
    first, second = pca.explained_variance_ratio_
    return points, f"principal components, which have {first:.1%} and {second:.1%} of the variance"


def _tsne(unit: Floats, settings: ProjectionSettings) -> tuple[Floats, str]:
    from sklearn.manifold import TSNE

    perplexity = _bounded(settings, (len(unit) - 1) / 3)
    tsne = TSNE(n_components=2, perplexity=perplexity, metric="cosine", init="pca", random_state=settings.seed)
    return tsne.fit_transform(unit), f"t-SNE by cosine distance, perplexity {perplexity:g}, seed {settings.seed}"


def _umap(unit: Floats, settings: ProjectionSettings) -> tuple[Floats, str]:
    settings.check_installed("a map")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # of a part that needs tensorflow, and is not used
        from umap import UMAP

    neighbors = int(_bounded(settings, len(unit) - 1))
    umap = UMAP(
        n_neighbors=neighbors,
        min_dist=settings.min_dist,
        metric="cosine",
        init="pca",
        random_state=settings.seed,
        n_jobs=1,  # on several threads a seed does not decide
    )
    said = f"UMAP by cosine distance, {neighbors} neighbours, minimum distance {settings.min_dist:g}"
    return umap.fit_transform(unit), f"{said}, seed {settings.seed}"


def _bounded(settings: ProjectionSettings, most: float) -> float:
    return min(float(settings.neighbors or _USUAL[settings.method]), most)


def neighbours_kept(unit: Floats, points: Floats, seed: int) -> float:
    """Return the share of nearest neighbours that a map keeps, as `Projection.kept` says."""
    n = len(unit)
    nearest = min(NEAREST, n - 1)
    asked = np.random.default_rng(seed).permutation(n)[:_ASKED]
    found = []
    for place in asked.tolist():
        apart = 1 - unit @ unit[place]
        on_map = ((points - points[place]) ** 2).sum(axis=1)
        apart[place] = on_map[place] = np.inf
        near, shown = (np.argpartition(distance, nearest - 1)[:nearest] for distance in (apart, on_map))
        found.append(len(np.intersect1d(near, shown)))
    return float(np.mean(found)) / nearest
