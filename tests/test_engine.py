"""An encoder as a graph: the same vectors as torch, made once, kept whole, and taken where it pays."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone

from embedkit.encoders import EncoderSettings, FeatureExtractor, engines
from embedkit.encoders.engines import EngineSource, Making, Pace
from embedkit.encoders.onnx_encoder import OnnxEncoder
from embedkit.encoders.recipe import View
from embedkit.errors import ExportError, UsageError
from embedkit.estimators.frozen import exact_settings
from embedkit.estimators.text_encoder import TextEncoder
from embedkit.export import engine as making
from embedkit.export import engine_graph
from embedkit.export.engine import TOLERANCE, make_engine
from embedkit.export.frozen import FrozenSource
from embedkit.runtime.batching import plan
from embedkit.runtime.tokens import Text
from embedkit.store import FeatureStore
from embedkit.store import engines as kept_engines
from tests.tiny_models import FAMILIES, WORDS, make_decoder, make_encoder

POSITIONS = 48


def some_texts(seed: int = 0, count: int = 90, longest: int = 60) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=n)) for n in rng.integers(1, longest, count)]


TEXTS = some_texts()
OTHERS = some_texts(1)
PAIRS: list[Text] = list(zip(some_texts(2, longest=20), some_texts(3, longest=20), strict=True))

Models = Callable[[str], Path]


@pytest.fixture(scope="module", autouse=True)
def small(one_torch_thread: None) -> None:
    """Compute on one thread."""


@pytest.fixture(autouse=True)
def nothing_open() -> Iterator[None]:
    """Let no test find what another one has opened or made."""
    engines._open.clear()
    engines._scratch.cache_clear()
    yield
    engines._open.clear()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Return a tiny encoder of a family, made once."""
    root = tmp_path_factory.mktemp("models")

    def model(family: str) -> Path:
        folder = root / family
        if folder.exists():
            return folder
        return make_decoder(folder) if family == "gpt2" else make_encoder(folder, family, positions=POSITIONS)

    return model


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store in which the graphs of all tests that need no new one are kept."""
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture
def with_graph(models: Models, graphs: Path, tmp_path: Path) -> Path:
    """Return a store with the graph of the BERT and without features."""
    extractor(models("bert"), FeatureStore(graphs), engine="onnx").encoder(TEXTS)
    store = FeatureStore(tmp_path / "store")
    (info,) = [info for info in FeatureStore(graphs).engines() if info.id == name_of(models("bert"))]
    kept = FeatureStore(graphs).engine(info.id)
    assert kept is not None
    store.keep_engine(info.id, kept.path, kept.about)
    return store.root


@pytest.fixture
def copied(models: Models, graphs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy the BERT's graph where one would be traced, which takes longer than all the rest."""
    extractor(models("bert"), FeatureStore(graphs), engine="onnx").encoder(TEXTS)
    kept = FeatureStore(graphs).engine(name_of(models("bert")))
    assert kept is not None
    outputs = [*(f"hidden_states.{layer}" for layer in range(3)), "last_hidden_state", "pooler_output"]

    def trace(source: EngineSource, inputs: Sequence[Any], path: Path) -> list[str]:
        assert source.folder.path == models("bert")
        shutil.copyfile(kept.path, path)
        return outputs

    monkeypatch.setattr(making, "_trace", trace)


def extractor(model: Path, store: FeatureStore | None = None, **settings: Any) -> FeatureExtractor:
    given = {"threads": 1, **settings}
    return FeatureExtractor(EncoderSettings(model, **given), store=store, engines=make_engine)


def name_of(model: Path) -> str:
    return extractor(model)._engines._source.engine_id


def vectors(opened: FeatureExtractor, texts: Sequence[Text] = TEXTS) -> np.ndarray[Any, np.dtype[np.float32]]:
    return opened.transform(texts).vectors


def check_close(given: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> None:
    assert given.shape == wanted.shape
    assert np.abs(given - wanted).max() <= TOLERANCE * max(1, np.abs(wanted).max())


# --- the same vectors ----------------------------------------------------------------------------------

# Poolings, layers and texts are shared out, so that each of them is tried with some family.
VIEWS: dict[str, dict[str, Any]] = {
    "bert": {"pooling": "pooler"},
    "distilbert": {"pooling": "max", "layers": (0, -1)},
    "roberta": {"pooling": "mean", "layers": (1, 2), "layer_join": "mean"},
    "xlm-roberta": {"pooling": "last", "normalize": True},
    "mpnet": {"pooling": "mean_sqrt_len", "long": "mean"},
    "electra": {"pooling": "cls", "layers": (2,)},
    "deberta-v2": {"pooling": "mean+max", "normalize": True},
    "modernbert": {"pooling": "cls+mean", "layers": "all"},
    "albert": {"pooling": "mean", "batch_tokens": 64},
    "gpt2": {},
}


@pytest.mark.parametrize("family", [*FAMILIES, "gpt2"])
def test_every_family_gives_the_vectors_of_torch(family: str, models: Models, graphs: Path) -> None:
    settings = VIEWS[family]
    in_torch = vectors(extractor(models(family), engine="torch", **settings))
    store = FeatureStore(graphs)
    opened = extractor(models(family), engine="onnx", **settings)
    opened._engines._source = replace(opened._engines._source, store=store)  # graphs are kept, features are not
    check_close(vectors(opened), in_torch)
    assert opened.engine == "onnx"
    assert in_torch.std() > 0.01  # else nothing was compared


@pytest.mark.parametrize("pairs", ["cross", "bi"])
def test_pairs(pairs: str, models: Models, graphs: Path) -> None:
    in_torch, opened = (
        extractor(models("bert"), engine=engine, pairs=pairs, pooling="mean") for engine in ("torch", "onnx")
    )
    opened._engines._source = replace(opened._engines._source, store=FeatureStore(graphs))
    check_close(vectors(opened, PAIRS), vectors(in_torch, PAIRS))


def test_states_of_tokens(models: Models, graphs: Path) -> None:
    found = {}
    for engine in ("torch", "onnx"):
        opened = extractor(models("modernbert"), engine=engine, layers=(0, 2, -1), batch_tokens=100)
        opened._engines._source = replace(opened._engines._source, store=FeatureStore(graphs))
        tokens = opened.tokenizer.encode(TEXTS)
        states = np.empty((3, len(tokens.ids), 32), np.float32)
        for places, part in opened.token_states(tokens):
            states[:, places] = part
        found[engine] = states
    check_close(found["onnx"], found["torch"])


def test_an_engine_enters_no_feature_space_and_no_manifest(models: Models, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    spaces = {
        engine: extractor(models("bert"), store, engine=engine).space() for engine in ("auto", "torch", "onnx")
    }
    assert len(set(spaces.values())) == 1
    assert exact_settings(extractor(models("bert"), engine="onnx")).engine == "auto"


def test_what_torch_kept_is_a_hit_for_a_graph(models: Models, with_graph: Path) -> None:
    store = FeatureStore(with_graph)
    first = vectors(extractor(models("bert"), store, engine="torch"))
    later = extractor(models("bert"), store, engine="onnx")
    assert np.array_equal(vectors(later), first)
    assert later.engine is None  # nothing was left to compute


def test_only_what_is_asked_for_leaves_the_graph(models: Models, with_graph: Path) -> None:
    opened = extractor(models("bert"), FeatureStore(with_graph), engine="onnx", layers=(1, -1), pooling="cls+mean")
    encoder = opened.encoder(TEXTS)
    assert isinstance(encoder, OnnxEncoder)
    session = encoder._open(1)
    asked = []

    class Watched:
        def run(self, names: list[str], given: dict[str, Any]) -> Any:
            asked.append(names)
            return session.handle.run(names, given)

    encoder._session = (*encoder._session[:2], session._replace(handle=Watched()))  # type: ignore[index]
    vectors(opened)
    assert {tuple(names) for names in asked} == {("hidden_states.1", "last_hidden_state")}


def test_large_batches_are_cut_and_small_ones_are_not(models: Models, with_graph: Path) -> None:
    opened = extractor(models("bert"), FeatureStore(with_graph), engine="onnx")
    tokens = opened.tokenizer.encode([*TEXTS, *OTHERS])
    encoder = opened.encoder(TEXTS)
    for batches in (plan(tokens.lengths, 200), [np.arange(180)], [np.arange(5), np.arange(5, 180)]):
        done = [windows for windows, _ in encoder.run(tokens, batches, 0, [View("last", "mean")], 1)]
        assert np.array_equal(np.concatenate(done), np.concatenate(batches))
        assert max(len(part) * int(tokens.lengths[part].max()) for part in done) <= 1024
        assert len(done) == len(batches) or max(map(len, batches)) > 100


def test_a_pooler_that_was_never_trained_is_refused(models: Models, graphs: Path) -> None:
    opened = extractor(models("distilbert"), engine="onnx", pooling="pooler")
    opened._engines._source = replace(opened._engines._source, store=FeatureStore(graphs))
    with pytest.raises(UsageError, match="has no trained pooler; choose pooling cls or mean"):
        vectors(opened)


# --- what a graph cannot do ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "bfloat16"}, "engine onnx computes in float32; for precision bfloat16 take engine torch"),
        ({"precision": "float16"}, "computes in float32; for precision float16"),
        ({"device": "cuda"}, "engine onnx runs on the CPU; for device cuda take engine torch"),
        ({"device": "cuda:1"}, "for device cuda:1"),
        ({"device": "mps"}, "for device mps"),
    ],
)
def test_a_graph_is_float32_on_the_cpu(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        EncoderSettings("minilm", engine="onnx", **settings)


def test_auto_takes_torch_for_another_precision(models: Models, with_graph: Path) -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no bfloat16")
    opened = extractor(models("bert"), FeatureStore(with_graph), precision="bfloat16")
    vectors(opened)
    assert (opened.engine, opened.engine_notes) == ("torch", [])


def test_an_exported_graph_is_compared_with_torch(models: Models, with_graph: Path) -> None:
    opened = extractor(models("bert"), FeatureStore(with_graph), engine="onnx")
    source = FrozenSource(opened, TEXTS)
    in_torch = vectors(extractor(models("bert"), engine="torch"), source.inputs)  # type: ignore[arg-type]
    assert np.array_equal(source.expected(1), in_torch)


def test_a_graph_that_nothing_makes_is_refused(models: Models) -> None:
    with pytest.raises(UsageError, match="nothing here makes graphs"):
        FeatureExtractor(EncoderSettings(models("bert"), engine="onnx"))


# --- no graph that answers otherwise -------------------------------------------------------------------


class _Wrong(engine_graph.LayersGraph):
    """Traced in place of the right one."""

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        return self.wrong(input_ids, attention_mask, token_type_ids)

    def wrong(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        raise NotImplementedError

    def right(self, *given: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        return super().forward(*given)  # type: ignore[arg-type]


class _Shifted(_Wrong):
    def wrong(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        first, *rest = self.right(ids, mask, types)
        return (first + 1e-3, *rest)


class _WithoutMask(_Wrong):
    def wrong(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        return self.right(ids, mask * 0 + 1, types)


class _NotANumber(_Wrong):
    def wrong(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        first, second, *rest = self.right(ids, mask, types)
        return (first, second / 0 * 0, *rest)


class _Swapped(_Wrong):
    def wrong(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        first, second, *rest = self.right(ids, mask, types)
        return (second, first, *rest)


@pytest.mark.parametrize("wrong", [_Shifted, _WithoutMask, _NotANumber, _Swapped])
def test_a_graph_that_answers_otherwise_is_not_kept(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: type[_Wrong]
) -> None:
    monkeypatch.setattr(engine_graph, "LayersGraph", wrong)
    store = FeatureStore(tmp_path)
    with pytest.raises(ExportError, match=r"does not answer as torch does: in layer .* take --engine torch"):
        vectors(extractor(models("bert"), store, engine="onnx"))
    assert store.engines() == []
    assert list(engines._scratch().glob("*.onnx")) == []


def test_few_texts_are_compared_with_sentences_of_ours(models: Models, copied: None) -> None:
    seen = []
    opened = extractor(models("bert"), engine="onnx")
    compare = making._compare

    def watched(source: EngineSource, *rest: Any) -> dict[str, Any]:
        seen.append(compare(source, *rest))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "_compare", watched)
        vectors(opened, ["film"])
    assert seen[0]["texts"] >= 8
    assert seen[0]["longest"] == POSITIONS
    assert 0 < seen[0]["difference"] <= seen[0]["allowed"]


def test_mixed_batches_are_compared_whole_where_they_are_cut(
    models: Models, copied: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedkit.encoders.onnx_encoder.BATCH_TOKENS", 60)
    opened = extractor(models("bert"), engine="onnx")
    check_close(vectors(opened), vectors(extractor(models("bert"), engine="torch")))


# --- kept, whole or not at all -------------------------------------------------------------------------


def test_a_graph_is_made_once_and_kept_privately(
    models: Models, with_graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "_trace", None)  # nothing can be made
    store = FeatureStore(with_graph)
    opened = extractor(models("bert"), store, engine="onnx")
    vectors(opened)
    assert opened.engine_notes == ["engine: onnx (a graph is kept from an earlier run)"]
    (info,) = store.engines()
    folder = kept_engines.engines_folder(store.root) / info.id
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "model.onnx": 0o600,
        "engine.json": 0o600,
    }
    assert folder.stat().st_mode & 0o777 == 0o700
    assert str(models("bert")) not in (folder / "engine.json").read_text(encoding="utf-8")
    assert not any(text.encode() in (folder / "model.onnx").read_bytes() for text in TEXTS if len(text) > 20)


def test_other_versions_and_weights_have_another_graph(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {name_of(models("bert")), name_of(models("electra"))}
    assert name_of(models("bert")) in names
    monkeypatch.setattr(engines, "installed", lambda _: {"torch": "9.0"})
    names |= {name_of(models("bert"))}
    monkeypatch.setattr(engines, "OPSET", 21)
    names |= {name_of(models("bert"))}
    assert len(names) == 4


def _flipped(folder: Path) -> None:
    data = bytearray((folder / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.onnx").write_bytes(bytes(data))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit": _flipped,
    "cut off": lambda folder: (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-1]),
    "no graph": lambda folder: (folder / "model.onnx").unlink(),
    "no JSON": lambda folder: (folder / "engine.json").write_bytes(b"{"),
    "another digest": lambda folder: (folder / "engine.json").write_text('{"sha256": "00"}'),
    "a list": lambda folder: (folder / "engine.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=list(DAMAGE))
def test_a_damaged_graph_is_said_and_made_again(
    models: Models,
    with_graph: Path,
    copied: None,
    damage: Callable[[Path], object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = FeatureStore(with_graph)
    (info,) = store.engines()
    damage(kept_engines.engines_folder(store.root) / info.id)
    opened = extractor(models("bert"), store, engine="onnx")
    with caplog.at_level(logging.WARNING, "embedkit.store"):
        check_close(vectors(opened), vectors(extractor(models("bert"), engine="torch")))
    assert sum("is damaged and is not used" in message for message in caplog.messages) == 1
    assert "was made in" in opened.engine_notes[0]
    assert store.engine(info.id) is not None
    assert store.verify().ok


def test_damage_is_found_by_verify_and_removed(with_graph: Path) -> None:
    store = FeatureStore(with_graph)
    report = store.verify()
    assert (report.ok, report.engines) == (True, 1)
    (info,) = store.engines()
    assert (
        report.bytes
        == info.bytes - (kept_engines.engines_folder(store.root) / info.id / "engine.json").stat().st_size
    )
    _flipped(kept_engines.engines_folder(store.root) / info.id)
    (damage,) = store.verify().damaged
    assert damage.reason == "checksum"
    assert store.engines() == []
    assert store.verify().ok


def test_care(with_graph: Path) -> None:
    store = FeatureStore(with_graph)
    (info,) = store.engines()
    assert json.loads(json.dumps(store.info()))["engines"][0]["id"] == info.id
    assert store.info()["bytes"] == info.bytes > 1000
    assert store.gc(older_than=3600).removed == []
    assert [removal.why for removal in store.gc(max_bytes=10).removed] == ["over the size limit"]
    assert [removal.bytes for removal in store.gc(older_than=0).removed] == [info.bytes]
    assert len(store.engines()) == 1  # it was only reported
    store.gc(older_than=0, delete=True)
    assert store.engines() == []
    assert list(kept_engines.engines_folder(store.root).iterdir()) == []


def test_a_purge_removes_graphs(with_graph: Path) -> None:
    store = FeatureStore(with_graph)
    store.purge()
    assert store.engines() == []


def test_a_writer_that_was_stopped_leaves_nothing_that_counts(with_graph: Path) -> None:
    store = FeatureStore(with_graph)
    (info,) = store.engines()
    (kept_engines.engines_folder(store.root) / info.id / "engine.json").unlink()
    assert store.engine(info.id) is None
    assert store.verify().ok


def test_without_a_store_a_graph_lasts_as_long_as_the_process(models: Models, copied: None) -> None:
    opened = extractor(models("bert"), engine="onnx")
    vectors(opened)
    assert opened.engine_notes[0].endswith("for this run alone)")
    (path,) = engines._scratch().iterdir()
    assert engines._scratch().stat().st_mode & 0o777 == 0o700
    later = extractor(models("bert"), engine="onnx", pooling="mean")
    check_close(vectors(later), vectors(extractor(models("bert"), engine="torch", pooling="mean")))
    assert list(engines._scratch().iterdir()) == [path]
    assert later.engine_notes == []


def test_a_store_that_cannot_be_written_loses_no_work(
    models: Models, copied: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FeatureStore(tmp_path)
    monkeypatch.setattr(kept_engines, "_copy", _full)
    opened = extractor(models("bert"), store, engine="onnx")
    check_close(vectors(opened), vectors(extractor(models("bert"), engine="torch")))
    assert opened.engine_notes[0].endswith("for this run alone)")
    assert store.engines()[0].about is None


def _full(*_: object) -> str:
    raise OSError(28, "No space left on device")


# --- auto ----------------------------------------------------------------------------------------------


def made(torch_rate: float, onnx_rate: float, device: str = "cpu", imports: float = 0.0) -> Making:
    return Making(Pace(imports, 0.0, torch_rate), Pace(0.0, 1.0, onnx_rate), 9.0, device, {})


def about_kept(root: Path, known: Making) -> FeatureStore:
    """Return the store after other figures were written of the graph in it."""
    store = FeatureStore(root)
    (info,) = store.engines()
    path = kept_engines.engines_folder(root) / info.id / "engine.json"
    old = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**known.about(), "sha256": old["sha256"]}), encoding="utf-8")
    return store


@pytest.mark.parametrize(
    ("known", "texts", "taken"),
    [
        (made(10.0, 1e6), 90, "onnx"),  # 1 s to start, then at once; torch takes minutes
        (made(1e6, 10.0), 90, "torch"),
        (made(100.0, 1e9), 1, "torch"),  # one text is not worth the start
        (made(1e3, 1.0, device="cuda"), 90, "torch"),  # auto means the GPU there
        (made(1.0, 1e6, device="cuda"), 90, "torch"),
    ],
)
def test_auto_takes_a_kept_graph_where_it_should_be_done_first(
    models: Models, with_graph: Path, known: Making, texts: int, taken: str
) -> None:
    store = about_kept(with_graph, known)
    opened = extractor(models("bert"), store)
    wanted = vectors(extractor(models("bert"), engine="torch"), TEXTS[:texts])
    check_close(vectors(opened, TEXTS[:texts]), wanted)
    assert opened.engine == taken
    assert opened.engine_notes[0].startswith(f"engine: {taken} (")


def test_the_imports_of_torch_count_where_it_is_not_imported() -> None:
    pace = Pace(imports=4.0, start=1.0, rate=10.0)
    assert (pace.seconds(20, imported=False), pace.seconds(20, imported=True)) == (7.0, 3.0)


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"torch": 1, "onnx": 2, "seconds": 3, "device": "cpu", "parity": {}},
        {**made(1, 1).about(), "torch": {"imports": 0, "start": 0, "rate": 0}},
        {**made(1, 1).about(), "onnx": {"imports": 0, "start": 0, "rate": float("inf")}},
        {**made(1, 1).about(), "seconds": "long"},
    ],
)
def test_figures_that_are_none_are_not_used(about: dict[str, Any], models: Models, with_graph: Path) -> None:
    assert Making.of(about) is None
    assert Making.of(json.loads(json.dumps(made(2, 3).about()))) == made(2, 3)


def test_auto_starts_with_torch_where_nothing_is_kept(models: Models, tmp_path: Path) -> None:
    opened = extractor(models("bert"), FeatureStore(tmp_path))
    vectors(opened)
    assert (opened.engine, FeatureStore(tmp_path).engines()) == ("torch", [])
    assert opened.engine_notes == ["engine: torch (no graph of this encoder is kept; --engine onnx makes one)"]


@pytest.mark.parametrize(("faster", "taken"), [(True, "onnx"), (False, "torch")])
def test_auto_makes_a_graph_when_torch_has_worked_long_enough(
    models: Models, copied: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faster: bool, taken: str
) -> None:
    monkeypatch.setattr(engines, "_WORTH", 1e9)
    monkeypatch.setattr(making, "_time", lambda *_: [1.0, 2.0 if faster else 0.5])
    store = FeatureStore(tmp_path)
    opened = extractor(models("bert"), store, pooling="mean")
    wanted, calls = extractor(models("bert"), engine="torch", pooling="mean"), 0
    check_close(vectors(opened, TEXTS[:2]), vectors(wanted, TEXTS[:2]))
    opened._engines._worked = 0.0
    monkeypatch.setattr(engines, "_WORTH", 10)
    monkeypatch.setattr(engines, "_MAKING", 0.01)
    while not store.engines():
        opened.encoder((), worked=0.04)
        calls += 1
    assert calls == 3  # which is 0.12 s
    assert opened.engine == taken
    check_close(vectors(opened, OTHERS), vectors(wanted, OTHERS))
    assert opened.engine_notes[0].startswith("engine: torch")
    before = store.engines()
    opened.encoder((), worked=100.0)
    assert [info.id for info in store.engines()] == [info.id for info in before]


def test_the_seconds_of_torch_are_counted(
    models: Models, copied: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "_MAKING", 1e-9)
    store = FeatureStore(tmp_path)
    opened = extractor(models("bert"), store)
    vectors(opened)
    assert len(store.engines()) == 1


def test_making_is_expected_to_take_as_long_as_it_did(models: Models, with_graph: Path) -> None:
    store = about_kept(with_graph, replace(made(1, 1), seconds=1e6))
    assert engines._expected(store) == 1e6
    opened = extractor(models("electra"), store)
    opened.encoder(TEXTS)
    opened.encoder(TEXTS, worked=9e6)
    assert opened.engine == "torch"
    assert len(store.engines()) == 1


def test_an_encoder_that_cannot_be_traced_stays_in_torch(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Making:
        raise ExportError("this model cannot be traced into an ONNX graph: loops")

    settings = EncoderSettings(models("bert"))
    opened = FeatureExtractor(settings, store=FeatureStore(tmp_path), engines=refuse)  # type: ignore[arg-type]
    vectors(opened)
    opened.encoder((), worked=1e6)
    assert (opened.engine, opened.engine_notes) == (
        "torch",
        ["engine: torch (no graph can be made of this encoder)"],
    )
    vectors(opened, OTHERS)
    forced = FeatureExtractor(replace(settings, engine="onnx"), engines=refuse)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="cannot be traced"):
        vectors(forced)


def test_no_graph_is_made_that_cannot_be_kept(models: Models) -> None:
    opened = extractor(models("bert"))
    opened.encoder(TEXTS)
    opened.encoder(TEXTS, worked=1e9)
    assert opened.engine == "torch"


# --- processes and threads -----------------------------------------------------------------------------

_NO_TORCH = """
import sys
from embedkit.cli import main
code = main(sys.argv[1:])
heavy = sorted({"torch", "transformers", "onnx", "sklearn"} & set(sys.modules))
assert not heavy, heavy
sys.exit(code)
"""


@pytest.mark.parametrize("engine", ["onnx", "auto"])
def test_a_run_with_a_kept_graph_imports_no_torch(
    models: Models, with_graph: Path, tmp_path: Path, engine: str
) -> None:
    about_kept(with_graph, made(1.0, 1e6))
    data = tmp_path / "data.csv"
    data.write_text("text\n" + "\n".join(TEXTS), encoding="utf-8")
    arguments = ["extract", str(data), "-m", str(models("bert")), "--store", str(with_graph), "--engine", engine]
    command = [sys.executable, "-c", _NO_TORCH, *arguments, "--threads", "1", "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["engine"], facts["computed"]) == ("onnx", len(set(TEXTS)))
    assert "note: engine: onnx (" in done.stderr
    found = vectors(extractor(models("bert"), FeatureStore(with_graph)))
    check_close(found, vectors(extractor(models("bert"), engine="torch")))


def test_a_forked_process_opens_the_graph_for_itself(models: Models, with_graph: Path) -> None:
    opened = extractor(models("bert"), FeatureStore(with_graph), engine="onnx", threads=2)
    encoder = opened.encoder(TEXTS)
    tokens = opened.tokenizer.encode(TEXTS)
    wanted = _digest(encoder, tokens)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sender.send(_digest(encoder, tokens)))
    child.start()
    assert receiver.poll(60), "the forked process hangs"
    assert receiver.recv() == wanted
    child.join(60)
    assert child.exitcode == 0
    assert _digest(encoder, tokens) == wanted


def _digest(encoder: Any, tokens: Any) -> str:
    batches = plan(tokens.lengths, 200)
    parts = [found.tobytes() for _, found in encoder.run(tokens, batches, 0, [View("last", "mean")], 2)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_threads_are_those_that_are_asked_for(models: Models, with_graph: Path) -> None:
    encoder = extractor(models("bert"), FeatureStore(with_graph), engine="onnx").encoder(TEXTS)
    assert isinstance(encoder, OnnxEncoder)
    first = encoder._open(1)
    assert encoder._open(1) is first
    assert first.handle.get_session_options().intra_op_num_threads == 1
    assert encoder._open(3).handle.get_session_options().intra_op_num_threads == 3
    assert encoder._open(None).handle.get_session_options().intra_op_num_threads == 0  # one a core


def test_opened_graphs_are_shared_and_few(models: Models, with_graph: Path) -> None:
    store = FeatureStore(with_graph)
    first, second = (
        extractor(models("bert"), store, engine="onnx", pooling=how).encoder(TEXTS) for how in ("cls", "max")
    )
    assert first is second
    for name in "abc":
        engines.open_graph(Path(name), name, name)
    assert len(engines._open) == 2


def test_the_scikit_learn_face(models: Models, with_graph: Path) -> None:
    own = TextEncoder(models("bert"), pooling="mean", threads=1, store=False, engine="torch")
    other = clone(own).set_params(engine="onnx", store=with_graph)
    check_close(other.fit_transform(TEXTS), own.fit_transform(TEXTS))
    assert other._open().engine == "onnx"
