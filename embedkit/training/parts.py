"""The parts of a model (embeddings, blocks, what these share, pooler, final norm, head), some of them frozen."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from embedkit.errors import ModelError, UsageError
from embedkit.training.freezing import Freeze

_EMBEDDINGS, _SHARED, _FIRST_BLOCK = "embeddings", "shared", "block 1"
_POOLER, _NORM, _HEAD = "pooler", "final norm", "head"
# What stands beside the blocks inside an encoder, by family: names alone do not say what it is for.
_BESIDE_BLOCKS: Mapping[str, Mapping[str, str]] = {
    "albert": {"embedding_hidden_mapping_in": _EMBEDDINGS},
    "deberta": {"rel_embeddings": _SHARED},
    "deberta-v2": {"rel_embeddings": _SHARED, "LayerNorm": _SHARED, "conv": _FIRST_BLOCK},
    "mpnet": {"relative_attention_bias": _SHARED},
}


@dataclass(frozen=True)
class PartCount:
    """Parameters of a part; those that two parts share are counted in the first.

    Attributes
    ----------
    name : str
    trainable, frozen : int
    """

    name: str
    trainable: int
    frozen: int


@dataclass(frozen=True, eq=False)
class Frozen:
    """What `freeze_parts` did.

    Attributes
    ----------
    freeze : Freeze
    blocks : int
        How many of the first blocks never change. Also 0 with ``"head-only"`` on a model whose blocks cannot be
        told from its other parts.
    total_blocks : int
        Blocks of the model; 0 where they cannot be told.
    counts : tuple of PartCount
        Parts that have parameters: embeddings, shared, blocks, pooler, final norm, head.
    prefix : tuple of torch.nn.Module
        What gives the first `blocks` blocks' output, in the order in which it acts.
    following : torch.nn.Module or None
        The block after these; None if there is none.
    embeddings : torch.nn.Module or None
        What the first block reads; None where that is not of one module.
    """

    freeze: Freeze
    blocks: int
    total_blocks: int
    counts: tuple[PartCount, ...]
    prefix: tuple[nn.Module, ...] = field(repr=False)
    following: nn.Module | None = field(repr=False)
    embeddings: nn.Module | None = field(repr=False)
    _still: tuple[nn.Module, ...] = field(repr=False)

    @property
    def trainable(self) -> int:
        """Parameters that learn."""
        return sum(count.trainable for count in self.counts)

    @contextmanager
    def still(self) -> Iterator[None]:
        """Keep frozen parts in evaluation mode, without dropout, whatever ``model.train()`` says meanwhile."""
        for module in self._still:
            vars(module.eval())["train"] = _staying(module)
        try:
            yield
        finally:
            for module in self._still:
                vars(module).pop("train", None)


def _staying(module: nn.Module) -> Callable[[bool], nn.Module]:
    """Return a ``train`` that changes nothing."""

    def train(mode: bool = True) -> nn.Module:
        return module

    return train


def freeze_parts(model: PreTrainedModel, freeze: Freeze, *, name: str, fresh: Collection[str] = ()) -> Frozen:
    """Freeze parts of a model and let the others learn.

    A number freezes the embeddings, so many of the first blocks, and what all blocks share (from one block on: it
    changes what frozen blocks answer); ``"embeddings"`` is the same as 0. ``"head-only"`` freezes all that was
    pre-trained. Weights that the head takes from the embeddings (a masked language model's) are frozen with them.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        With a head. Every parameter's ``requires_grad`` is set.
    freeze : Freeze
    name : str
        What messages call the model.
    fresh : collection of str, default=()
        Parameters that the pre-trained weights lack; a pooler of these learns with the head.

    Returns
    -------
    Frozen

    Raises
    ------
    UsageError
        The model has fewer blocks, its blocks share their weights, or its head would be frozen.
    ModelError
        The model has no head, or its blocks cannot be found.
    """
    anatomy = _anatomy_for(model, freeze, name)
    _refuse_number(freeze, anatomy, name)
    still = _frozen_parts(anatomy, freeze, _fresh_pooler(model, anatomy, fresh))
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    for part in still:
        for parameter in anatomy.parameters(part):
            parameter.requires_grad_(False)
    if freeze != "none" and not any(parameter.requires_grad for parameter in anatomy.parameters(_HEAD)):
        raise UsageError(
            f"freeze {freeze!r} would freeze the head of {name}, whose weights are those of its embeddings; "
            "take freeze 'none'"
        )
    blocks = anatomy.layers if freeze == "head-only" else freeze if isinstance(freeze, int) else 0
    beginning = anatomy.modules.get(_EMBEDDINGS, ())
    return Frozen(
        freeze,
        blocks,
        anatomy.layers,
        tuple(_counts(anatomy)),
        prefix=tuple(module for part in anatomy.blocks[:blocks] for module in anatomy.modules[part]),
        following=anatomy.modules[anatomy.blocks[blocks]][0] if 0 < blocks < len(anatomy.blocks) else None,
        embeddings=beginning[0] if len(beginning) == 1 else None,
        _still=tuple(module for part in still for module in anatomy.modules[part]),
    )


def block_count(model: PreTrainedModel) -> int:
    """Return the number of blocks of a model; `ModelError` where they cannot be found."""
    return _anatomy(model, type(model).__name__).layers


def _refuse_number(freeze: Freeze, anatomy: _Anatomy, name: str) -> None:
    if not isinstance(freeze, int) or freeze == 0:
        return
    if freeze > anatomy.layers:
        raise UsageError(
            f"freeze {freeze} is more than the {anatomy.layers} blocks of {name}; give 0 to {anatomy.layers}, "
            "'embeddings', 'head-only' or 'none'"
        )
    if anatomy.layers > len(anatomy.blocks):
        raise UsageError(
            f"freeze {freeze}: the {anatomy.layers} blocks of {name} share the weights of {len(anatomy.blocks)}, "
            "so none can be frozen alone; give 'embeddings', 'head-only' or 'none'"
        )


def _frozen_parts(anatomy: _Anatomy, freeze: Freeze, fresh_pooler: bool) -> list[str]:
    """Return the names of the parts that are frozen."""
    if freeze == "none":
        return []
    if freeze == "head-only":
        return [part for part in anatomy.modules if part != _HEAD and not (part == _POOLER and fresh_pooler)]
    blocks = 0 if freeze == "embeddings" else freeze
    still = [_EMBEDDINGS, *([_SHARED] if blocks else []), *anatomy.blocks[:blocks]]
    return [part for part in still if part in anatomy.modules]


def _fresh_pooler(model: PreTrainedModel, anatomy: _Anatomy, fresh: Collection[str]) -> bool:
    pooler = {id(parameter) for parameter in anatomy.parameters(_POOLER)}
    return any(id(parameter) in pooler for name, parameter in model.named_parameters() if name in fresh)


def _counts(anatomy: _Anatomy) -> Iterator[PartCount]:
    seen: set[int] = set()
    for part in anatomy.modules:
        new = {id(parameter): parameter for parameter in anatomy.parameters(part) if id(parameter) not in seen}
        seen |= set(new)
        sizes = [(parameter.requires_grad, parameter.numel()) for parameter in new.values()]
        if sizes:
            learning = sum(size for learns, size in sizes if learns)
            yield PartCount(part, learning, sum(size for _, size in sizes) - learning)


# --------------------------------------------------------------------------------------------- which is which


@dataclass(frozen=True, eq=False)
class _Anatomy:
    """Modules by part, in the order of `Frozen.counts`, and parameters that stand outside modules.

    Parts without parameters are kept: they may have dropout.
    """

    modules: Mapping[str, tuple[nn.Module, ...]]
    bare: Mapping[str, tuple[nn.Parameter, ...]]
    blocks: tuple[str, ...]
    layers: int

    def parameters(self, part: str) -> Iterator[nn.Parameter]:
        for module in self.modules.get(part, ()):
            yield from module.parameters()
        yield from self.bare.get(part, ())


def _anatomy_for(model: PreTrainedModel, freeze: Freeze, name: str) -> _Anatomy:
    """Return the parts; encoder and head alone where its blocks are not needed and cannot be found."""
    if model.base_model is model:
        raise ModelError(f"{name}: a {type(model).__name__} has no head that could learn a task")
    try:
        return _anatomy(model, name)
    except ModelError:
        if freeze not in ("none", "head-only"):
            raise
        return _Anatomy({"encoder": (model.base_model,), _HEAD: _head(model)}, {_HEAD: _bare(model)}, (), 0)


def _anatomy(model: PreTrainedModel, name: str) -> _Anatomy:
    """Find the parts by the structure of the base model, and check that each parameter is in one of them."""
    base, kind = model.base_model, str(model.config.model_type)
    path, blocks = _find_blocks(base, model.config, name)
    layers = int(model.config.num_hidden_layers)
    names = _block_names(layers, len(blocks))
    found: dict[str, list[nn.Module]] = {part: [] for part in (_EMBEDDINGS, _SHARED, *names, _POOLER, _NORM)}
    for part, block in zip(names, blocks, strict=True):
        found[part].append(block)
    for part, module in _beside(base, path, kind, name):
        found[names[0] if part == _FIRST_BLOCK else part].append(module)
    modules = {part: tuple(ones) for part, ones in found.items() if ones}
    if base is not model:
        modules[_HEAD] = _head(model)
    anatomy = _Anatomy(modules, {_HEAD: _bare(model)}, names, layers)
    _require_partition(base, anatomy, name)
    return anatomy


def _find_blocks(base: nn.Module, config: Any, name: str) -> tuple[list[str], list[nn.Module]]:  # noqa: ANN401
    """Return the path to the list of blocks and the blocks; ALBERT has one for several layers."""
    wanted = getattr(config, "num_hidden_groups", None) or getattr(config, "num_hidden_layers", 0)
    lists = {
        path: list(module)
        for path, module in base.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == wanted
        and len({type(block) for block in module}) == 1
    }
    outer = [path for path in lists if not any(path.startswith(f"{other}.") for other in lists)]
    if len(outer) != 1:
        raise _unknown(name, config.model_type, f"it has {len(outer)} lists of {wanted} blocks")
    return outer[0].split("."), lists[outer[0]]


def _block_names(layers: int, groups: int) -> tuple[str, ...]:
    """Return ``block 1`` and so on; where layers share weights in groups, as ALBERT's do, ``blocks 1-12``."""
    of = [int(layer / (layers / groups)) for layer in range(layers)]  # as transformers computes it
    spans = [[layer + 1 for layer in range(layers) if of[layer] == group] for group in range(groups)]
    return tuple(f"block {span[0]}" if len(span) == 1 else f"blocks {span[0]}-{span[-1]}" for span in spans)


def _beside(base: nn.Module, path: list[str], kind: str, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield what the base model has beside its blocks, with the part that it belongs to."""
    owner = base
    for depth, step in enumerate(path):
        before = True
        for child, module in owner.named_children():
            if child == step:
                before = False
            elif part := _part_beside(child, module, kind, depth, before):
                yield part, module
            elif any(True for _ in module.parameters()):
                raise _unknown(name, kind, f"what {type(module).__name__} {child!r} is for is not known")
        owner = owner.get_submodule(step)


def _part_beside(child: str, module: nn.Module, kind: str, depth: int, before: bool) -> str | None:
    if depth and child in _BESIDE_BLOCKS.get(kind, {}):
        return _BESIDE_BLOCKS[kind][child]
    if before:
        return None if depth else _EMBEDDINGS
    if child.startswith("pooler"):
        return _POOLER
    return _NORM if "Norm" in type(module).__name__ else None


def _head(model: PreTrainedModel) -> tuple[nn.Module, ...]:
    return tuple(child for child in model.children() if child is not model.base_model)


def _bare(model: PreTrainedModel) -> tuple[nn.Parameter, ...]:
    """Return the parameters that the model itself holds; they are the head's."""
    return () if model.base_model is model else tuple(model.parameters(recurse=False))


def _require_partition(base: nn.Module, anatomy: _Anatomy, name: str) -> None:
    """Raise `ModelError` unless each parameter of the base model is in exactly one part of it."""
    parts = [{id(p) for p in anatomy.parameters(part)} for part in anatomy.modules if part != _HEAD]
    together: set[int] = set().union(*parts)
    lost = [path for path, parameter in base.named_parameters() if id(parameter) not in together]
    if lost or sum(map(len, parts)) > len(together):
        what = f"{lost[0]!r} is in none of its parts" if lost else "its parts share parameters"
        raise _unknown(name, type(base).__name__, what)


def _unknown(name: str, kind: str, why: str) -> ModelError:
    return ModelError(
        f"{name}: the blocks of a {kind!r} model cannot be told from its other parts ({why}); take freeze "
        "'head-only' or 'none'"
    )
