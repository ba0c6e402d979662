"""Features on disk: computed once for each text and feature space, read by any number of processes.

What the store promises: a hit is bit for bit what the miss returned; a crash loses at most one unflushed buffer;
many processes may share a store; damage is found, named, and costs a recomputation; no code is ever loaded from
it; deleting any file costs time, not correctness.
"""

from __future__ import annotations

from embedkit.store.engines import EngineInfo, KeptEngine
from embedkit.store.feature_store import (
    STORED_DTYPE,
    CareReport,
    Damage,
    FeatureStore,
    Removal,
    SpaceInfo,
    VerifyReport,
    open_store,
    resolve_root,
)
from embedkit.store.identity import FileDigests, space_id
from embedkit.store.keys import distinct, text_keys
from embedkit.store.space import FLOAT16_MAX, Hits, RefusedVectorError, Space, Writer

__all__ = [
    "FLOAT16_MAX",
    "STORED_DTYPE",
    "CareReport",
    "Damage",
    "EngineInfo",
    "FeatureStore",
    "FileDigests",
    "Hits",
    "KeptEngine",
    "RefusedVectorError",
    "Removal",
    "Space",
    "SpaceInfo",
    "VerifyReport",
    "Writer",
    "distinct",
    "open_store",
    "resolve_root",
    "space_id",
    "text_keys",
]
