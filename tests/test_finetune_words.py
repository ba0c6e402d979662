"""Fine-tuning taggers: targets of sub-tokens, windows, figures, the artifact, the command."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from transformers import AutoTokenizer, BertConfig, BertForTokenClassification, BertModel, BertTokenizer, pipeline

import embedkit
from embedkit.cli import main
from embedkit.errors import DataError, UsageError
from embedkit.estimators.start import open_start
from embedkit.estimators.token_classifier import TokenClassifier
from embedkit.estimators.tuned import load_tuned
from embedkit.metrics.spans import entity_scores, tagging
from embedkit.runtime.tokens import Tokenizer
from embedkit.sharing import shareable
from embedkit.training.losses import cross_entropy
from embedkit.training.rows import IGNORED
from embedkit.training.settings import TuneSettings
from embedkit.training.subtokens import RULES, continuing_codes, subtoken_targets
from embedkit.training.tuning import Tuned, Watch
from embedkit.training.words import WordTags, tune_words, words_of
from tests.tiny_models import make_encoder, without_dropout

pytestmark = pytest.mark.usefixtures("one_torch_thread", "little_garbage")

NAMES = ("B-LOC", "B-PER", "I-PER", "O")
FILLERS = ("the", "film", "was", "very", "good", "and", "shares", "profit", "said", "old")
QUICK: dict[str, Any] = {"precision": "float32", "learning_rate": 5e-3, "epochs": 8, "batch_size": 8, "threads": 1}


def sentences(count: int, seed: int = 0, longest: int = 9) -> tuple[list[list[str]], list[list[str]]]:
    """Sentences in which coaches are persons, a player behind one too, and markets are places."""
    chance = random.Random(seed)
    listed, tags = [], []
    for _ in range(count):
        words, own = [], []
        for _ in range(chance.randrange(1, longest)):
            kind = chance.randrange(5)
            if kind == 0:
                more = chance.randrange(3)
                words += [f"coach{chance.choice(('', '18'))}", *["player"] * more]
                own += ["B-PER", *["I-PER"] * more]
            elif kind == 1:
                words.append("market")
                own.append("B-LOC")
            else:
                words.append(chance.choice(FILLERS))
                own.append("O")
        listed.append(words)
        tags.append(own)
    return listed, tags


def conll(path: Path, count: int, seed: int) -> None:
    rows = zip(*sentences(count, seed), strict=True)
    text = "\n\n".join("\n".join(f"{word} X {tag}" for word, tag in zip(*row, strict=True)) for row in rows)
    path.write_text(f"-DOCSTART- X O\n\n{text}\n", encoding="utf-8")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_encoder(tmp_path_factory.mktemp("models") / "bert", "bert", layers=2))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, count, seed in (("train", 160, 1), ("validation", 40, 2), ("test", 40, 3)):
        conll(folder / f"{name}.conll", count, seed)
    return folder


@pytest.fixture(scope="module")
def folder(model: str, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "ner"
    how = ["--epochs", "8", "--learning-rate", "0.005", "--batch-size", "8"]
    assert main(["finetune", str(data), "--task", "ner", "-m", model, "-o", str(out), *how, *ALONE]) == 0
    return out


ALONE = ["--device", "cpu", "--precision", "float32", "--threads", "1", "--quiet"]


def tuned(model: str, train: WordTags, held: WordTags | None = None, **how: Any) -> Tuned:
    start = open_start(model, max_length=how.pop("max_length", None))
    watch = Watch(told=how.pop("told", None))
    rule = how.pop("subtokens", "first")
    told = TuneSettings(**{**QUICK, **how})
    return tune_words(start.folder, start.tokenizer, NAMES, train, held, told, subtokens=rule, watch=watch)


# ------------------------------------------------------------------------------------------------ targets


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("first", [IGNORED, 3, 1, IGNORED, IGNORED, 2, 0, IGNORED, IGNORED, IGNORED]),
        ("all", [IGNORED, 3, 1, 1, 1, 2, 0, 0, 0, IGNORED]),
        ("continue", [IGNORED, 3, 1, 2, 2, 2, 0, IGNORED, IGNORED, IGNORED]),  # no I-LOC is a label
    ],
)
def test_a_word_that_splits_in_three_learns_by_the_rule(model: str, rule: Any, expected: list[int]) -> None:
    tokenizer = open_start(model).tokenizer
    given = tokenizer.encode_words([["the", "coach18", "player", "market18"]])
    codes = np.array([3, 1, 2, 0])
    found = subtoken_targets(codes, given.words, given.first, given.chosen, rule, continuing_codes(NAMES))
    assert found.tolist() == expected


def test_tags_that_training_does_not_know_are_learnt_by_no_token(model: str) -> None:
    given = open_start(model).tokenizer.encode_words([["coach18", "the"]])
    for rule in RULES:
        found = subtoken_targets(
            np.array([-1, 3]), given.words, given.first, given.chosen, rule, continuing_codes(NAMES)
        )
        assert found.tolist() == [IGNORED, IGNORED, IGNORED, IGNORED, 3, IGNORED]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.text(max_size=8), max_size=30), min_size=1, max_size=6), st.integers(4, 12))
def test_each_word_with_a_token_is_learnt_once_wherever_windows_end(
    listed: list[list[str]], max_length: int
) -> None:
    tokenizer = Tokenizer(_backend(), max_length=max_length, pad_id=0)
    given = tokenizer.encode_words(listed)
    words = words_of(given, listed)
    count = sum(map(len, listed))
    targets = subtoken_targets(
        np.arange(count), words, given.first, given.chosen, "first", np.arange(max(1, count))
    )
    learnt = targets[targets != IGNORED]
    assert len(set(learnt.tolist())) == len(learnt) == int(given.known.sum())


_MADE: dict[str, Any] = {}


def _backend() -> Any:
    """Return a copy of a small tokenizer, which each `Tokenizer` owns."""
    if not _MADE:
        from tokenizers import Tokenizer as Backend
        from tokenizers import models, pre_tokenizers, processors

        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh0123", *(f"##{c}" for c in "abcdefgh0123")]
        made = Backend(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        _MADE["json"] = made.to_str()
    from tokenizers import Tokenizer as Backend

    return Backend.from_str(_MADE["json"])


# ----------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("rule", RULES)
def test_a_tagger_learns_and_its_history_is_what_its_answers_say(model: str, rule: Any) -> None:
    train, held = WordTags(*sentences(160)), WordTags(*sentences(40, 9))
    rows: list[Any] = []
    found = tuned(model, train, held, told=rows.append, subtokens=rule)
    assert [row["step"] for row in rows] == [*range(20, 161, 20)]
    assert {"precision", "recall", "f1", "accuracy", "eval_loss"} <= rows[-1].keys()
    best = max(rows, key=lambda row: row["f1"])
    assert found.trained.best_step == best["step"]
    answers = _answers(model, found, held)
    assert best["f1"] == entity_scores(held.tags, answers)["f1"] > 0.9


def _answers(model: str, found: Tuned, held: WordTags) -> list[list[Any]]:
    from embedkit.data import LabelCodec
    from embedkit.estimators.tuned_tagger import TunedTagger

    tagger = TunedTagger(found.model, open_start(model).tokenizer, LabelCodec(NAMES), {}, device="cpu")
    return tagger.predict(list(held.sentences)).tags


def test_the_validation_loss_is_the_mean_over_words_whatever_the_batches(model: str) -> None:
    train, held = WordTags(*sentences(40)), WordTags(*sentences(33, 9))
    losses = []
    for size in (4, 16):
        found = tuned(model, train, held, epochs=1, batch_size=8, arguments={"per_device_eval_batch_size": size})
        losses.append(found.trained.history[0]["eval_loss"])
    start = open_start(model)
    given = start.tokenizer.encode_words(held.sentences)
    targets = torch.from_numpy(held.codes(NAMES)[words_of(given, held.sentences)[given.first]])
    logits = []
    for row in range(len(held.sentences)):
        ids = given.tokens.ids[given.tokens.offsets[row] : given.tokens.offsets[row + 1]]
        first = given.first[given.tokens.offsets[row] : given.tokens.offsets[row + 1]]
        with torch.no_grad():
            logits.append(found.model(torch.from_numpy(ids[None]).long()).logits[0][torch.from_numpy(first)])
    expected = float(torch.nn.functional.cross_entropy(torch.cat(logits), targets))
    assert losses == pytest.approx([expected, expected], rel=1e-4)


def test_each_word_weighs_the_same_whichever_batch_it_is_in() -> None:
    """One batch of 2 words and one of 8 weigh 1 to 4, and together as one batch of all."""
    chance = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(10, 4, generator=chance), torch.arange(10) % 4
    loss = cross_entropy(None, 0.0, a_step=5.0)
    parts = [loss(logits[None, :2], targets[None, :2], 2), loss(logits[None, 2:], targets[None, 2:], 8)]
    whole = torch.nn.functional.cross_entropy(logits, targets)
    assert torch.allclose(torch.stack(parts).mean(), whole)
    assert torch.allclose(
        loss(logits[None, :2], targets[None, :2], None), torch.nn.functional.cross_entropy(logits[:2], targets[:2])
    )


@pytest.mark.parametrize("batch", [16, 15])
def test_groups_of_a_batch_learn_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """Two halves move weights as all rows at once do; fifteen rows have no halves and are one group."""
    model = str(without_dropout(make_encoder(tmp_path / "bert", "bert", layers=1)))
    found = []
    for groups in (1, 2):
        monkeypatch.setattr("embedkit.training.words._GROUPS", groups)
        made = tuned(model, WordTags(*sentences(batch)), batch_size=batch, epochs=3, arguments={"optim": "sgd"})
        assert made.trained.steps == 3
        found.append(made.model.state_dict())
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_words_beyond_the_maximum_are_learnt_in_windows(model: str) -> None:
    """All persons stand behind the first six tokens, so that a model that saw no more could not know them."""
    chance = random.Random(3)
    listed = [[chance.choice(FILLERS) for _ in range(8)] + [chance.choice(("coach", "old"))] for _ in range(160)]
    tags = [["O"] * 8 + ["B-PER" if words[-1] == "coach" else "O"] for words in listed]
    held = WordTags(listed[:40], tags[:40])
    found = tuned(model, WordTags(listed[40:], tags[40:]), held, max_length=8)
    assert found.trained.history[-1]["f1"] > 0.9
    assert found.truncated == 0


def test_tags_that_only_validation_has_count_as_errors(model: str) -> None:
    listed, tags = sentences(80)
    other = [["B-ORG" if tag == "B-LOC" else tag for tag in row] for row in sentences(40, 9)[1]]
    held = WordTags(sentences(40, 9)[0], other)
    found = tuned(model, WordTags(listed, tags), held, epochs=6)
    assert found.trained.history[-1]["f1"] < 0.9
    assert found.trained.history[-1]["recall"] < 0.9


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"metric": "mcc"}, "no metric 'mcc' where tags stand for spans; allowed: f1, precision, recall"),
        ({"subtokens": "last"}, "label_subtokens is 'last'; allowed: first, all, continue"),
    ],
)
def test_what_makes_no_sense_is_refused(model: str, how: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        tuned(model, WordTags(*sentences(8)), **how)


# ----------------------------------------------------------------------------------- artifact and command


def test_the_command_trains_judges_and_writes_what_others_read(
    folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = json.loads((folder / "metrics.json").read_text())["splits"]["test"]
    assert kept["f1"] > 0.9
    assert set(kept["per_type"]) == {"LOC", "PER"}
    listed, tags = sentences(40, 3)
    tagger = load_tuned(folder, device="cpu", threads=1)
    answers: Any = tagger.predict(listed).tags  # type: ignore[arg-type, union-attr]
    assert [*map(len, answers)] == [*map(len, listed)]
    assert kept["f1"] == tagging(tags, answers, spans=True)["f1"]
    theirs = pipeline("token-classification", str(folder), aggregation_strategy="first", device="cpu")
    text = "the coach18 player said market was good"
    found = theirs(text)
    assert [(e["entity_group"], e["start"], e["end"]) for e in found] == [("PER", 4, 18), ("LOC", 24, 30)]
    capsys.readouterr()
    assert main(["predict", str(folder), text, "--device", "cpu", "--threads", "1"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["tokens"] == text.split()
    own = [(e["entity_group"], e["start"], e["end"]) for e in answer["entities"]]
    assert own == [("PER", 4, 18), ("LOC", 24, 30)]
    for entity, other in zip(answer["entities"], found, strict=True):
        assert text[entity["start"] : entity["end"]] == entity["word"]
        assert entity["score"] == pytest.approx(float(other["score"]), abs=1e-5)
    how = ["--json", "--device", "cpu", "--threads", "1"]  # the column of tags is the one of training
    assert main(["evaluate", str(folder), str(data), *how]) == 0
    judged = json.loads(capsys.readouterr().out)["splits"]["test"]
    assert judged == kept


def test_the_card_says_what_a_tagger_is(folder: Path) -> None:
    found = shareable(folder)
    card = found.files["README.md"]
    assert isinstance(card, bytes)
    assert b"pipeline_tag: token-classification" in card
    assert b"# A tagger of words" in card
    assert b"40 sentences: accuracy" in card
    assert b"entity f1" in card
    assert not any(name.startswith("report/") for name in found.files)


def test_strict_figures_are_by_flag(folder: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    how = ["--task", "ner", "--json", "--device", "cpu", "--threads", "1", "--strict"]
    assert main(["evaluate", str(folder), str(data), *how]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["test"]["mode"] == "strict"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--positive-label", "PER"], "--positive-label is for labels of texts"),
        (["--metric", "mcc"], "no metric 'mcc'"),
    ],
)
def test_flags_of_texts_are_refused_for_words(
    model: str, data: Path, tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["finetune", str(data), "--task", "ner", "-m", model, "-o", str(tmp_path / "o"), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_flags_of_words_are_refused_for_texts(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data.csv").write_text("text,label\n" + "good film,1\nbad film,0\n" * 20, encoding="utf-8")
    told = ["finetune", str(tmp_path / "data.csv"), "-m", model, "-o", str(tmp_path / "o")]
    assert main([*told, "--label-subtokens", "all"]) == 2
    assert "--label-subtokens is for words with tags" in capsys.readouterr().err


def test_blocks_are_swept_by_the_f1_of_entities(
    model: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = ["--sweep-freeze", "0,head-only", "--epochs", "1", "--learning-rate", "0.003", "--json", *ALONE]
    told = ["finetune", str(data), "--task", "ner", "-m", model, "-o", str(tmp_path / "o"), *how]
    assert main(told) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["search"]["metric"] == "entity F1"
    assert {point["freeze"] for point in found["search"]["points"]} == {0, "head-only"}
    assert found["splits"]["test"]["f1"] > 0


# ---------------------------------------------------------------------------------------------- estimator


def test_the_estimator_learns_saves_and_loads(model: str, tmp_path: Path) -> None:
    listed, tags = sentences(160)
    tagger = TokenClassifier(
        model, **{name: value for name, value in QUICK.items() if name != "threads"}, device="cpu", threads=1
    )
    assert clone(tagger).get_params() == tagger.get_params()
    tagger.fit(listed, tags)
    assert tagger.scheme_ == "IOB2"
    assert tagger.classes_.tolist() == list(NAMES)
    others, right = sentences(40, 9)
    assert tagger.score(others, right) > 0.9
    tagger.save(tmp_path / "ner")
    loaded = embedkit.load(tmp_path / "ner", device="cpu", threads=1)
    assert isinstance(loaded, TokenClassifier)
    assert loaded.predict(others) == tagger.predict(others)
    text = "the coach18 player said market was good"
    (found,) = loaded.entities([text])
    assert [text[e["start"] : e["end"]] for e in found] == ["coach18 player", "market"]


@pytest.mark.usefixtures("store")
def test_the_estimator_learns_on_frozen_vectors_too(model: str, tmp_path: Path) -> None:
    listed, tags = sentences(160)
    others, right = sentences(40, 9)
    tagger = TokenClassifier(model, mode="frozen", head_params={"C": 10.0}, layers=0, device="cpu", threads=1)
    assert clone(tagger).get_params() == tagger.get_params()
    assert tagger.fit(listed, tags).score(others, right) > 0.9
    tagger.save(tmp_path / "ner")
    loaded = embedkit.load(tmp_path / "ner", device="cpu", threads=1)
    assert isinstance(loaded, TokenClassifier)
    assert (loaded.mode, loaded.head_params) == ("frozen", {"C": 10.0})
    assert loaded.predict(others) == tagger.predict(others)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"mode": "frozen", "epochs": 5}, "epochs: of mode 'finetune' alone"),
        ({"head": "lda"}, "head: of mode 'frozen' alone"),
        ({"mode": "both"}, "mode is 'both'; allowed: finetune, frozen"),
    ],
)
def test_what_the_other_mode_has_is_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        TokenClassifier("/nowhere", **how).fit([["a"]], [["O"]])


def test_a_head_without_probabilities_is_refused_before_a_model_is_opened() -> None:
    with pytest.raises(UsageError, match="ridge gives no probabilities"):
        TokenClassifier("/nowhere", mode="frozen", head="ridge").fit([["a", "b"]], [["O", "B-PER"]])


@pytest.mark.parametrize(
    ("X", "y", "said"),
    [
        ([["a", "b"]], [["O"]], "row 1: 2 words, 1 tags"),
        ([["a"]], [["O"], ["O"]], "X has 1 rows, y has 2"),
        (["a text"], [["O"]], "row 1"),
        ([["a", "b"]], [["A", "B-PER"]], "A"),
        ([["a", "b"]], [["O", "O"]], "only one class"),
    ],
)
def test_bad_rows_are_said_before_a_model_is_opened(X: Any, y: Any, said: str) -> None:  # noqa: N803
    with pytest.raises(DataError, match=said):
        TokenClassifier("/nowhere").fit(X, y)


# --------------------------------------------------------------------------------- a character is a word


def test_chinese_goes_from_characters_to_entities(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """CoNLL files with a character a line, nine tags, evaluation and checkpoints by steps."""
    characters = (
        "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动王李张京沪市公司银行"
    )
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    tokenizer = BertTokenizer(vocab={piece: i for i, piece in enumerate(vocabulary)}, model_max_length=32)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=32, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    model = tmp_path / "model"
    BertModel(config).save_pretrained(model)
    tokenizer.save_pretrained(model)
    data = tmp_path / "data"
    data.mkdir()
    for name, count, seed in (("train", 200, 1), ("dev", 40, 2), ("test", 40, 3)):
        _chinese(data / f"{name}.txt", characters, count, seed)
    out = tmp_path / "out"
    how = ["--eval-strategy", "steps", "--eval-steps", "120", "--save-steps", "50", "--epochs", "12"]
    told = ["finetune", str(data), "--task", "ner", "-m", str(model), "-o", str(out), "--learning-rate", "0.005"]
    assert main([*told, *how, "--batch-size", "8", "--json", *ALONE]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["labels"]) == 9
    assert [row["step"] for row in found["history"]] == [120, 240, 300]
    assert found["splits"]["test"]["f1"] > 0.9
    text = "我在北京市和王大人"
    assert main(["predict", str(out), text, "--device", "cpu", "--threads", "1"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["tokens"] == list(text)
    assert all(text[e["start"] : e["end"]] == e["word"] for e in answer["entities"])
    assert ("PER", "王大人") in {(e["entity_group"], e["word"]) for e in answer["entities"]}


def _chinese(path: Path, characters: str, count: int, seed: int) -> None:
    chance = random.Random(seed)
    kinds = {"PER": ("王李张", "大人"), "LOC": ("京沪", "市"), "ORG": ("公银", "司"), "TIME": ("年时", "动")}
    lines = []
    for _ in range(count):
        for _ in range(chance.randrange(2, 6)):
            lines += [f"{chance.choice(characters[:8])} O" for _ in range(chance.randrange(1, 3))]
            kind = chance.choice(sorted(kinds))
            first, others = kinds[kind]
            lines += [f"{chance.choice(first)} B-{kind}", *(f"{other} I-{kind}" for other in others)]
        lines.append("")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_the_folder_is_one_of_transformers(folder: Path) -> None:
    theirs = BertForTokenClassification.from_pretrained(folder, trust_remote_code=False)
    assert theirs.config.id2label == dict(enumerate(NAMES))
    assert AutoTokenizer.from_pretrained(folder, trust_remote_code=False).model_max_length == 64
