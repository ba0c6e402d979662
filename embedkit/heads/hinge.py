"""Linear support vectors by L-BFGS: the objective of liblinear's L2-loss classifier, a fraction of its time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embedkit.heads.base import Floats


class HingeFit(NamedTuple):
    """What was learnt.

    Attributes
    ----------
    coef : numpy.ndarray of float64, shape (D,)
    intercept : float
    iterations : int
    converged : bool
    """

    coef: Floats
    intercept: float
    iterations: int
    converged: bool


def squared_hinge(
    features: Floats,
    positive: npt.NDArray[np.bool_],
    weights: Floats | None = None,
    *,
    C: float = 1.0,  # noqa: N803 - scikit-learn's name
    fit_intercept: bool = True,
    tol: float = 1e-4,
    max_iter: int = 10_000,
) -> HingeFit:
    """Minimise (|w|^2 + b^2) / 2 + C sum_i c_i max(0, 1 - y_i (w x_i + b))^2.

    The objective of scikit-learn's LinearSVC (loss ``"squared_hinge"``; Fan et al. 2008), which penalises the
    intercept too. It is convex with a continuous gradient, so that L-BFGS applies and takes a fraction of the
    time of liblinear's trust-region Newton method (`scripts/bench_heads.py`).

    Parameters
    ----------
    features : numpy.ndarray of float32 or float64, shape (N, D)
    positive : numpy.ndarray of bool, shape (N,)
        Whether y_i is 1, else -1.
    weights : numpy.ndarray of float64, shape (N,), optional
        The c_i; default 1.
    C : float
        Inverse strength of the penalty.
    fit_intercept : bool
        Whether b is learnt; else it is 0.
    tol : float
        Largest entry of the gradient, of the objective divided by C and the sum of the weights, at which to stop.
    max_iter : int
        Iterations at most.

    Returns
    -------
    HingeFit
    """
    from scipy.optimize import minimize

    signs = np.where(positive, 1.0, -1.0)
    costs = np.ones(len(features)) if weights is None else weights
    total = costs.sum()
    penalty = 1.0 / (C * total)

    def objective(point: Floats) -> tuple[float, Floats]:
        coef, intercept = point[:-1], point[-1] if fit_intercept else 0.0
        scores = features @ coef.astype(features.dtype) + intercept
        slack = np.maximum(0.0, 1.0 - signs * scores)
        pull = (-2.0 / total) * costs * signs * slack
        loss = float((costs * slack * slack).sum()) / total + 0.5 * penalty * float(coef @ coef + intercept**2)
        slope = pull.astype(features.dtype) @ features + penalty * coef
        tilt = pull.sum() + penalty * intercept if fit_intercept else 0.0
        return loss, np.append(slope.astype(np.float64), tilt)

    start = np.zeros(features.shape[1] + 1)
    options = {"maxiter": max_iter, "maxls": 50, "gtol": tol, "ftol": 64 * np.finfo(float).eps}
    found = minimize(objective, start, method="L-BFGS-B", jac=True, options=options)
    return HingeFit(found.x[:-1], float(found.x[-1]), int(found.nit), int(found.nit) < max_iter)
