"""embedkit: good text classifiers that run fast on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from embedkit.estimators.embedding_classifier import EmbeddingClassifier
    from embedkit.estimators.fewshot_classifier import FewShotClassifier
    from embedkit.estimators.finetuned_classifier import FineTunedClassifier
    from embedkit.estimators.text_encoder import TextEncoder
    from embedkit.estimators.token_classifier import TokenClassifier
    from embedkit.evaluation.compare.api import compare

__version__ = "0.1.0"
__all__ = [
    "EmbeddingClassifier",
    "FewShotClassifier",
    "FineTunedClassifier",
    "TextEncoder",
    "TokenClassifier",
    "__version__",
    "compare",
    "load",
]

_HOME = {
    "EmbeddingClassifier": "embedkit.estimators.embedding_classifier",
    "FewShotClassifier": "embedkit.estimators.fewshot_classifier",
    "FineTunedClassifier": "embedkit.estimators.finetuned_classifier",
    "TextEncoder": "embedkit.estimators.text_encoder",
    "TokenClassifier": "embedkit.estimators.token_classifier",
    "compare": "embedkit.evaluation.compare.api",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name is
    """Import a public name when it is asked for (PEP 562), so that importing embedkit costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'embedkit' has no attribute {name!r}")
    from importlib import import_module

    _require_learning(f"embedkit.{name}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def _require_learning(purpose: str) -> None:
    """Name the extra where what the estimators import is not installed."""
    from embedkit.errors import require

    for module in ("sklearn", "pyarrow", "xxhash"):
        require(module, extra="train", purpose=purpose)


def _refuse_exported(folder: str | Path) -> None:
    from pathlib import Path

    from embedkit.errors import ArtifactError
    from embedkit.runtime.loading import answers_alone

    if answers_alone(Path(folder)):
        raise ArtifactError(
            f"{folder} is an ONNX folder, which answers without what learns; open it with "
            "embedkit.runtime.load(folder)"
        )


def load(
    folder: str | Path,
    *,
    model: str | None = None,
    store: str | Path | bool | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> EmbeddingClassifier | FewShotClassifier | FineTunedClassifier | TokenClassifier:
    """Open a folder that embedkit wrote.

    Parameters
    ----------
    folder : str or Path
        An artifact of ``embedkit fit-head``, ``fewshot`` or ``finetune``, or of an estimator's `save`.
    model : str, optional
        Where the frozen encoder is now, if it has moved.
    store : str, Path, False or None, default None
        Folder of the feature store; None for the usual one, False for none.
    device, threads
        As for `TextEncoder`.

    Returns
    -------
    EmbeddingClassifier, FewShotClassifier, FineTunedClassifier or TokenClassifier
        Fitted. What setfit tuned is an EmbeddingClassifier.

    Raises
    ------
    InputMissingError
        The folder or its encoder is not there.
    ArtifactError
        The folder is damaged, foreign or too new, or was trained in another feature space; or it is an ONNX
        folder, which `embedkit.runtime.load` opens.
    """
    _refuse_exported(folder)
    _require_learning("embedkit.load")
    from pathlib import Path

    from embedkit.runtime.manifest import FINETUNED, kind_of, task_of, tuner_of

    if task_of(Path(folder)) == "tokens":
        from embedkit.estimators.token_classifier import TokenClassifier

        return TokenClassifier.load(folder, model=model, store=store, device=device, threads=threads)
    if kind_of(Path(folder)) == FINETUNED:
        from embedkit.estimators.finetuned_classifier import FineTunedClassifier

        return FineTunedClassifier.load(folder, device=device, threads=threads)
    if tuner_of(Path(folder)) == "embedkit":
        from embedkit.estimators.fewshot_classifier import FewShotClassifier

        return FewShotClassifier.load(folder, model=model, store=store, device=device, threads=threads)
    from embedkit.estimators.embedding_classifier import EmbeddingClassifier

    return EmbeddingClassifier.load(folder, model=model, store=store, device=device, threads=threads)
