"""Classical heads on frozen features: fit one, use it with numpy alone, save it without pickle."""

from embedkit.heads.fit import FittedHead, HeadSpec, available, fit_head, head_from_estimator, parse_params
from embedkit.heads.models import ConstantHead, Head, LinearHead, check_features, head_from_state

__all__ = [
    "ConstantHead",
    "FittedHead",
    "Head",
    "HeadSpec",
    "LinearHead",
    "available",
    "check_features",
    "fit_head",
    "head_from_estimator",
    "head_from_state",
    "parse_params",
]
