"""Laws of freezing: which parameters learn, what the parts hold, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    XLMConfig,
    XLMForSequenceClassification,
)

from embedkit.errors import ModelError, UsageError
from embedkit.training.freezing import parse_freeze
from embedkit.training.parts import block_count, freeze_parts
from tests.tiny_models import FAMILIES, make_encoder

LAYERS = 3
SEPARATE = tuple(family for family in FAMILIES if family != "albert")
TASKS: dict[str, Any] = {
    "sequence": AutoModelForSequenceClassification,
    "tokens": AutoModelForTokenClassification,
    "masked": AutoModelForMaskedLM,
}
Build = Callable[..., Any]
pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Return a maker of tiny models; the same arguments give the same weights."""
    configs: dict[str, Any] = {}

    def make(family: str, task: str = "sequence", **changes: Any) -> Any:
        if family not in configs:
            folder = make_encoder(tmp_path_factory.mktemp("model"), family, layers=LAYERS)
            configs[family] = AutoConfig.from_pretrained(folder, num_labels=3)
        config = copy.deepcopy(configs[family])
        for name, value in changes.items():
            setattr(config, name, value)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return TASKS[task].from_config(config)

    return make


def step(model: Any, optimizer: torch.optim.Optimizer) -> None:
    """Take one step of a made-up task on any of the three heads."""
    ids = torch.arange(10, 26).reshape(2, 8)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    targets = torch.arange(logits[..., 0].numel()) % 3
    torch.nn.functional.cross_entropy(logits.flatten(0, -2), targets).backward()
    optimizer.step()
    optimizer.zero_grad()


# ------------------------------------------------------------------------------------------------ parsing


@given(st.integers(0, 10**6))
def test_a_number_means_itself_also_as_text(number: int) -> None:
    assert parse_freeze(number) == parse_freeze(str(number)) == number


@pytest.mark.parametrize("word", ["none", "embeddings", "head-only"])
def test_words_mean_themselves(word: str) -> None:
    assert parse_freeze(word) == word


@pytest.mark.parametrize("value", ["", "-1", -1, "4.0", 4.0, " 4", "٣", "all", "None", "Head-only", True, None])
def test_anything_else_is_refused_and_what_is_allowed_is_named(value: Any) -> None:
    with pytest.raises(UsageError, match=r"number of blocks from 0 on, 'embeddings', 'head-only' or 'none'"):
        parse_freeze(value)


# ------------------------------------------------------------------------------------------ what is frozen

BERT_BLOCK = (
    "attention.self.query.weight", "attention.self.query.bias", "attention.self.key.weight",
    "attention.self.key.bias", "attention.self.value.weight", "attention.self.value.bias",
    "attention.output.dense.weight", "attention.output.dense.bias", "attention.output.LayerNorm.weight",
    "attention.output.LayerNorm.bias", "intermediate.dense.weight", "intermediate.dense.bias",
    "output.dense.weight", "output.dense.bias", "output.LayerNorm.weight", "output.LayerNorm.bias",
)  # fmt: skip
BERT_EMBEDDINGS = (
    "word_embeddings.weight", "position_embeddings.weight", "token_type_embeddings.weight", "LayerNorm.weight",
    "LayerNorm.bias",
)  # fmt: skip


@pytest.mark.parametrize("freeze", [0, 1, LAYERS, "embeddings", "head-only", "none"])
def test_the_names_of_what_bert_learns(build: Build, freeze: Any) -> None:
    model = build("bert")
    freeze_parts(model, freeze, name="tiny")
    blocks = {i: {f"bert.encoder.layer.{i}.{name}" for name in BERT_BLOCK} for i in range(LAYERS)}
    pooler = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    learns = {"classifier.weight", "classifier.bias"}
    if freeze != "head-only":
        learns |= pooler.union(*(blocks[i] for i in range(freeze if isinstance(freeze, int) else 0, LAYERS)))
    if freeze == "none":
        learns |= {f"bert.embeddings.{name}" for name in BERT_EMBEDDINGS}
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == learns


STEMS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    # family: embeddings, shared (frozen from one block on), block
    "distilbert": (("distilbert.embeddings.",), (), "distilbert.transformer.layer.{}."),
    "roberta": (("roberta.embeddings.",), (), "roberta.encoder.layer.{}."),
    "xlm-roberta": (("roberta.embeddings.",), (), "roberta.encoder.layer.{}."),
    "electra": (("electra.embeddings.", "electra.embeddings_project."), (), "electra.encoder.layer.{}."),
    "modernbert": (("model.embeddings.",), (), "model.layers.{}."),
    "mpnet": (("mpnet.embeddings.",), ("mpnet.encoder.relative_attention_bias.",), "mpnet.encoder.layer.{}."),
    "deberta-v2": (
        ("deberta.embeddings.",),
        ("deberta.encoder.rel_embeddings.", "deberta.encoder.LayerNorm.", "deberta.encoder.conv."),
        "deberta.encoder.layer.{}.",
    ),
}


@pytest.mark.parametrize("freeze", [0, 1, 2, LAYERS])
@pytest.mark.parametrize("family", STEMS)
def test_the_frozen_names_of_each_family(build: Build, family: str, freeze: int) -> None:
    model = build(family, **({"conv_kernel_size": 3} if family == "deberta-v2" else {}))
    freeze_parts(model, freeze, name="tiny")
    embeddings, shared, block = STEMS[family]
    stems = (*embeddings, *(shared if freeze else ()), *(block.format(i) for i in range(freeze)))
    names = dict(model.named_parameters())
    assert all(any(name.startswith(stem) for name in names) for stem in stems)
    assert {name for name in names if name.startswith(stems)} == {
        name for name, parameter in names.items() if not parameter.requires_grad
    }


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_head_only_freezes_the_whole_base_model_and_what_the_head_takes_from_it(
    build: Build, family: str, task: str
) -> None:
    model = build(family, task)
    freeze_parts(model, "head-only", name="tiny")
    assert not any(parameter.requires_grad for parameter in model.base_model.parameters())
    base = {id(parameter) for parameter in model.base_model.parameters()}
    head = [parameter for parameter in model.parameters() if id(parameter) not in base]
    assert head
    assert all(parameter.requires_grad for parameter in head)


def test_the_pooler_that_no_weights_were_given_for_learns_with_the_head(build: Build) -> None:
    model = build("bert")
    frozen = freeze_parts(
        model, "head-only", name="tiny", fresh=["bert.pooler.dense.weight", "bert.pooler.dense.bias"]
    )
    with frozen.still():
        model.train()
    assert all(parameter.requires_grad for parameter in model.bert.pooler.parameters())
    assert not any(parameter.requires_grad for parameter in model.bert.encoder.parameters())
    assert model.bert.pooler.training
    assert not model.bert.encoder.layer[0].training


def test_freezing_again_forgets_what_was_frozen_before(build: Build) -> None:
    model = build("bert")
    freeze_parts(model, "head-only", name="tiny")
    assert freeze_parts(model, "none", name="tiny").trainable == sum(p.numel() for p in model.parameters())


# -------------------------------------------------------------------------------------------------- counts


def _freezes(family: str) -> list[Any]:
    return [*(range(LAYERS + 1) if family != "albert" else [0]), "embeddings", "head-only", "none"]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_is_counted_once_in_a_part_that_is_frozen_or_not(
    build: Build, family: str, task: str
) -> None:
    model = build(family, task)
    for freeze in _freezes(family):
        frozen = freeze_parts(model, freeze, name="tiny")
        sizes = [(parameter.requires_grad, parameter.numel()) for parameter in model.parameters()]
        assert frozen.trainable == sum(size for learns, size in sizes if learns)
        assert sum(count.trainable + count.frozen for count in frozen.counts) == sum(size for _, size in sizes)
        assert all((count.trainable == 0) != (count.frozen == 0) for count in frozen.counts)
        names = [count.name for count in frozen.counts]
        assert len(set(names)) == len(names)
        assert names[0] == "embeddings"
        assert names[-1] == "head"
        assert frozen.counts[-1].trainable > 0


@pytest.mark.parametrize(
    ("family", "beside"),
    [
        ("bert", ["pooler"]),
        ("distilbert", []),
        ("mpnet", ["shared"]),
        ("deberta-v2", ["shared"]),
        ("modernbert", ["final norm"]),
        ("albert", ["pooler"]),
    ],
)
def test_the_parts_of_a_family(build: Build, family: str, beside: list[str]) -> None:
    names = [count.name for count in freeze_parts(build(family), "none", name="tiny").counts]
    blocks = ["blocks 1-3"] if family == "albert" else ["block 1", "block 2", "block 3"]
    shared = [name for name in beside if name == "shared"]
    after = [name for name in beside if name != "shared"]
    assert names == ["embeddings", *shared, *blocks, *after, "head"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_number_of_blocks(build: Build, family: str) -> None:
    model = build(family)
    assert block_count(model) == LAYERS
    told = {freeze: freeze_parts(model, freeze, name="tiny") for freeze in _freezes(family)}
    assert all(frozen.total_blocks == LAYERS for frozen in told.values())
    assert {freeze: frozen.blocks for freeze, frozen in told.items()} == {
        freeze: {"none": 0, "embeddings": 0, "head-only": LAYERS}.get(freeze, freeze) for freeze in told
    }


def test_albert_with_a_group_for_each_layer_is_frozen_by_number(build: Build) -> None:
    model = build("albert", num_hidden_groups=LAYERS)
    frozen = freeze_parts(model, 1, name="tiny")
    groups = model.albert.encoder.albert_layer_groups
    assert [any(p.requires_grad for p in group.parameters()) for group in groups] == [False, True, True]
    assert [count.name for count in frozen.counts][1:4] == ["block 1", "block 2", "block 3"]


# ----------------------------------------------------------------------------------------------- in training


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_parts_stay_in_evaluation_mode_and_no_other(build: Build, family: str) -> None:
    model = build(family)
    for freeze in _freezes(family):
        frozen = freeze_parts(model, freeze, name="tiny")
        with frozen.still():
            model.train()
        for name, module in model.named_modules():
            own = [parameter.requires_grad for parameter in module.parameters()]
            assert module.training or not all(own) or not own, (freeze, name)
        parts = [(model.base_model.embeddings, freeze != "none"), *((block, True) for block in frozen.prefix)]
        parts += [] if frozen.following is None else [(frozen.following, False)]
        for part, still in parts:
            modes = {m.training for m in part.modules() if isinstance(m, torch.nn.Dropout)}
            assert modes == {not still}, (freeze, type(part).__name__)
        assert all(module.training for module in model.train().modules()), freeze


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_steps_change_exactly_what_learns(build: Build, family: str, task: str) -> None:
    for freeze in ("embeddings" if family == "albert" else 1, "head-only"):
        model = build(family, task)
        frozen = freeze_parts(model, freeze, name="tiny")
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
        with frozen.still():
            model.train()
        for _ in range(3):
            step(model, optimizer)
        after = dict(model.named_parameters())
        changed = {name for name in after if not torch.equal(after[name], before[name])}
        assert changed == {name for name, parameter in after.items() if parameter.requires_grad}


# --------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("family", SEPARATE)
def test_more_blocks_than_there_are_is_refused_with_their_number(build: Build, family: str) -> None:
    with pytest.raises(UsageError, match=r"freeze 4 is more than the 3 blocks of tiny; give 0 to 3"):
        freeze_parts(build(family), LAYERS + 1, name="tiny")


def test_the_blocks_of_albert_cannot_be_frozen_alone(build: Build) -> None:
    with pytest.raises(UsageError, match=r"the 3 blocks of tiny share the weights of 1"):
        freeze_parts(build("albert"), 1, name="tiny")


def test_a_model_without_a_head_is_refused(build: Build) -> None:
    with pytest.raises(ModelError, match=r"tiny: a BertModel has no head"):
        freeze_parts(AutoModel.from_config(build("bert").config), 1, name="tiny")


def _gpt2(kind: Any) -> Any:
    return kind(GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2, pad_token_id=0))


def test_a_family_that_is_not_in_any_table_is_frozen_by_its_structure() -> None:
    model = _gpt2(GPT2ForSequenceClassification)
    frozen = freeze_parts(model, 1, name="tiny")
    stems = ("transformer.wte.", "transformer.wpe.", "transformer.h.0.")
    names = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert names == {name for name, _ in model.named_parameters() if name.startswith(stems)}
    assert [count.name for count in frozen.counts] == ["embeddings", "block 1", "block 2", "final norm", "head"]
    with frozen.still():
        model.train()
    assert not model.transformer.drop.training


def test_a_head_that_is_nothing_but_the_embeddings_is_not_frozen() -> None:
    model = _gpt2(GPT2LMHeadModel)
    with pytest.raises(UsageError, match=r"freeze 0 would freeze the head of tiny"):
        freeze_parts(model, 0, name="tiny")
    assert freeze_parts(model, "none", name="tiny").trainable == sum(p.numel() for p in model.parameters())


def test_where_blocks_cannot_be_told_apart_numbers_are_refused_and_words_hold() -> None:
    model = XLMForSequenceClassification(XLMConfig(vocab_size=40, emb_dim=16, n_layers=2, n_heads=2))
    with pytest.raises(ModelError, match=r"tiny: the blocks of a 'xlm' model cannot be told"):
        freeze_parts(model, 1, name="tiny")
    frozen = freeze_parts(model, "head-only", name="tiny")
    assert [count.name for count in frozen.counts] == ["encoder", "head"]
    assert frozen.counts[0].trainable == frozen.counts[1].frozen == frozen.blocks == frozen.total_blocks == 0
    assert freeze_parts(model, "none", name="tiny").trainable == sum(p.numel() for p in model.parameters())
