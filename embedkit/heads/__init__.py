"""Classical heads on frozen features: fit one, use it with numpy alone, save it without pickle."""

from embedkit.heads.arrays import GaussianHead, KnnHead, MlpHead
from embedkit.heads.base import Head, check_features
from embedkit.heads.decision import Decided, Decision, fit_decided
from embedkit.heads.estimator import head_from_estimator
from embedkit.heads.fit import FittedHead, fit_head
from embedkit.heads.grid import Trial, cross_validate, specs_of
from embedkit.heads.linear import ConstantHead, LinearHead
from embedkit.heads.saved import head_from_state
from embedkit.heads.skops_head import SkopsHead
from embedkit.heads.spec import HeadSpec, check_class_names, parse_grid, parse_params
from embedkit.heads.table import available
from embedkit.heads.thresholds import THRESHOLD_METRICS
from embedkit.heads.wrapped import CalibratedHead, PerLabelHead

__all__ = [
    "THRESHOLD_METRICS",
    "CalibratedHead",
    "ConstantHead",
    "Decided",
    "Decision",
    "FittedHead",
    "GaussianHead",
    "Head",
    "HeadSpec",
    "KnnHead",
    "LinearHead",
    "MlpHead",
    "PerLabelHead",
    "SkopsHead",
    "Trial",
    "available",
    "check_class_names",
    "check_features",
    "cross_validate",
    "fit_decided",
    "fit_head",
    "head_from_estimator",
    "head_from_state",
    "parse_grid",
    "parse_params",
    "specs_of",
]
