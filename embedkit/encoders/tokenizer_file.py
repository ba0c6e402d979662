"""A model's ``tokenizer.json``: its own, or one that transformers makes of an older tokenizer's files, once."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

from embedkit.encoders.folder import ModelFolder
from embedkit.errors import require
from embedkit.store import FeatureStore, FileDigests
from embedkit.store.files import check_folder, make_folder, make_store, write_bytes_durably

log = logging.getLogger("embedkit.encoders")


def tokenizer_file(
    folder: ModelFolder, store: FeatureStore | None, digests: FileDigests, temporary: ExitStack
) -> Path:
    """Return the folder's ``tokenizer.json``, else one made of its older files, kept beside the store's features.

    Where there is no store, or none that can be written, it lies in a folder that goes with `temporary`.
    """
    if folder.tokenizer is not None:
        return folder.tokenizer
    require_torch(f"making a tokenizer.json of {folder.path}")
    small = [p for p in sorted(folder.path.iterdir()) if p.is_file() and p not in folder.weights]
    about = [f"{p.name}={digests.sha256(p)}" for p in small if p.suffix in (".json", ".txt", ".model")]
    about += [f"{name}={version(name)}" for name in ("transformers", "tokenizers")]
    name = hashlib.sha256("\n".join(about).encode()).hexdigest()[:32] + ".json"
    kept = None if store is None else store.root / "tokenizers"
    if kept is not None and check_folder(kept) and (kept / name).exists():
        return kept / name
    from embedkit.encoders.torch_encoder import build_tokenizer

    made = build_tokenizer(folder.path).encode()
    if store is not None and kept is not None:
        try:
            make_store(store.root)
            make_folder(kept)
            write_bytes_durably(kept / name, made)
            return kept / name
        except OSError as error:
            log.info("the tokenizer that was made of %s is not kept: %s", folder.path, error.strerror)
    path = Path(temporary.enter_context(tempfile.TemporaryDirectory(prefix="embedkit-"))) / name
    path.write_bytes(made)
    return path


def require_torch(purpose: str) -> None:
    """Raise `MissingExtraError` unless a model could be opened."""
    require("torch", extra="train", purpose=purpose)
    require("transformers", extra="train", purpose=purpose)
