"""The comparison: what is asked for, sampled, estimated and kept, and what is advised."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedkit.cli.main import build_parser
from embedkit.data import LabelCodec, Split
from embedkit.encoders import EncoderSettings, Extraction, FeatureExtractor, WordExtractor
from embedkit.errors import OutputExistsError, UsageError
from embedkit.estimators.frozen import Predictions
from embedkit.evaluation.compare.advice import advise, rounded
from embedkit.evaluation.compare.budget import Estimates, Work, parse_budget, time_said
from embedkit.evaluation.compare.cells import Shelf, Truth, answers_of, cell_name, detail_of
from embedkit.evaluation.compare.methods import (
    answers_by,
    encoder_of,
    parse_methods,
    reach_of,
    recipe_of,
    spec_of,
    tuning_of,
    why_not,
)
from embedkit.evaluation.compare.plan import Plan
from embedkit.evaluation.compare.result import Cell, Point, Served, Size
from embedkit.evaluation.compare.runners import Memory, Workshop, _OneTag
from embedkit.evaluation.compare.samples import beyond, draw, parse_shots, size_of, usual_shots
from embedkit.evaluation.judge import Judgement
from embedkit.evaluation.judged import Judged
from embedkit.evaluation.tagged import tag_judged
from embedkit.metrics.repeated import SCORES, Repeated, row_patterns
from tests import comparisons, test_cli
from tests.comparisons import compared, figures, text_split
from tests.test_frozen_tagger import entities, split

model, plan = test_cli.model, comparisons.plan
pytestmark = pytest.mark.usefixtures("one_torch_thread", "little_garbage")


class TestAskedFor:
    @pytest.mark.parametrize(
        ("text", "names"),
        [
            ("tfidf", ["tfidf"]),
            ("majority, tfidf", ["majority", "tfidf"]),
            ("frozen:clf=logreg|ridge", ["frozen:clf=logreg", "frozen:clf=ridge"]),
            ("frozen:clf=sklearn:svm.SVC:scale=none", ["frozen:clf=sklearn:svm.SVC:scale=none"]),
            ("finetune:freeze=half|2", ["finetune:freeze=half", "finetune:freeze=2"]),
        ],
    )
    def test_methods(self, text: str, names: list[str]) -> None:
        assert [method.name for method in parse_methods(text)] == names

    def test_methods_are_called_apart(self) -> None:
        """By labels that page and pictures show alone."""
        text = f"finetune:from=8,finetune:upto=8,finetune,frozen:model={'x' * 90}:layers=-1|-2"
        labels = [method.label for method in parse_methods(text)]
        assert len(set(labels)) == 5
        assert labels[0] == "fine-tuning, all blocks (from 8)"

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("bayes", "no method 'bayes'; there are majority, tfidf"),
            ("", "no method ''"),
            ("tfidf,tfidf", "more than once"),
            ("tfidf:clf=ridge", "has no option 'clf'; it has ngrams"),
            ("frozen:clf", "written name=value"),
            ("frozen:clf=forest", "unknown head 'forest'"),
            ("frozen:C=-1", "C must be"),
            ("frozen:pooling=median", "pooling"),
            ("frozen:normalize=yes", "true or false"),
            ("finetune:freeze=-3", "freeze"),
            ("finetune:epochs=many", "epochs is a number"),
            ("tfidf:ngrams=3-1", "ngrams"),
            ("tfidf:analyzer=letters", "analyzer"),
            ("tfidf:C=0", "C is a number above 0"),
            ("fewshot:epochs=many", "epochs is a number"),
            ("setfit:iterations=-1", "iterations is a number"),
            ("fewshot:upto=x", "upto is a number"),
            ("fewshot:loss=cosin", "loss is cosine or supcon, not 'cosin'"),
            ("fewshot:strategy=x", "strategy is oversampling or"),
            ("fewshot:batch-size=16.5", "batch-size is a whole number from 1 up, not '16.5'"),
            ("fewshot:pair-iterations=0", "pair-iterations is a whole number"),
            ("setfit:epochs=1.5", "epochs is a whole number"),
            ("finetune:batch-size=16.5", "batch-size is a whole number"),
        ],
    )
    def test_what_cannot_be_is_refused_before_anything_is_opened(self, text: str, said: str) -> None:
        with pytest.raises(UsageError, match=said):
            parse_methods(text)

    def test_options_reach_what_they_are_for(self) -> None:
        (method,) = parse_methods("frozen:clf=logreg:C=0.5:scale=none:pooling=cls:layers=-2:normalize=true")
        spec, encoder = spec_of(method, 7), encoder_of(method, EncoderSettings("minilm", threads=3))
        assert (spec.clf, spec.params, spec.scale, spec.seed) == ("logreg", {"C": 0.5}, "none", 7)
        assert (encoder.pooling, encoder.layers, encoder.normalize, encoder.threads) == ("cls", (-2,), True, 3)

    @pytest.mark.parametrize(
        ("name", "recipe"),
        [
            ("majority", ""),
            (
                "tfidf:ngrams=1-3",
                "make_pipeline(TfidfVectorizer(ngram_range=(1, 3), analyzer='word', sublinear_tf=True), "
                "LogisticRegression(C=10, max_iter=2_000)) of scikit-learn",
            ),
            (
                "frozen:clf=ridge:alpha=2:layers=-2:normalize=false:upto=9",
                "embedkit fit-head DATA -m base --clf ridge --clf-param alpha=2 --layers -2 --no-normalize "
                "--seed 7 -o DIR",
            ),
            (
                "fewshot:loss=supcon:model=other",
                "embedkit fewshot DATA -m other --shots 16 --loss supcon --seed 7 -o DIR",
            ),
            (
                "fewshot:pair-iterations=5.0:epochs=1",
                "embedkit fewshot DATA -m base --shots 16 --pair-iterations 5 --seed 7 -o DIR",
            ),
            (
                "setfit:iterations=5",
                "embedkit fewshot --tuner setfit DATA -m base --shots 16 --pair-iterations 5 --seed 7 -o DIR",
            ),
            (
                "finetune:freeze=half:batch-size=8",
                "embedkit finetune DATA -m base --eval-strategy no --epochs 15 --freeze 3 --batch-size 8 --seed 7 "
                "-o DIR",
            ),
        ],
    )
    def test_how_a_model_is_made_outside_a_comparison(self, name: str, recipe: str) -> None:
        (method,) = parse_methods(name)
        assert recipe_of(method, "base", rows=32, shots=16, blocks=6, seed=7) == recipe
        if recipe.startswith("embedkit"):
            build_parser().parse_args(shlex.split(recipe)[1:])

    def test_what_a_recipe_says_of_several_labels_and_of_pairs(self) -> None:
        sizes: dict[str, Any] = {"rows": 32, "shots": 16, "blocks": 6, "seed": 7}
        words, frozen = parse_methods("tfidf,frozen")
        assert recipe_of(words, "base", **sizes, kind="pair") == ""
        assert recipe_of(words, "base", **sizes, sets=True) == ""
        told = "embedkit fit-head DATA -m base --thresholds none --seed 7 -o DIR"
        assert recipe_of(frozen, "base", **sizes, sets=True) == told

    def test_few_rows_are_learnt_from_more_often(self) -> None:
        (method,) = parse_methods("finetune")
        epochs = [tuning_of(method, rows, seed=1, blocks=6).epochs for rows in (8, 64, 256, 1000, 10**6)]
        assert epochs == [20, 15, 4, 3, 3]
        (told,) = parse_methods("finetune:epochs=2:freeze=half")
        assert (tuning_of(told, 8, seed=1, blocks=6).epochs, tuning_of(told, 8, seed=1, blocks=6).freeze) == (2, 3)

    def test_no_row_chooses_an_epoch(self) -> None:
        """All labels that are counted are learnt from, and none are used beside them."""
        (method,) = parse_methods("finetune")
        assert tuning_of(method, 100, seed=1, blocks=6).eval_strategy == "no"

    @pytest.mark.parametrize(
        ("name", "kind", "count", "why"),
        [
            ("fewshot", "text", 128, ""),
            ("fewshot", "text", 129, "run up to 128 rows a class"),
            ("fewshot:upto=full", "text", 5000, ""),
            ("setfit", "text", 33, "run up to 32"),
            ("setfit", "pair", 8, "reads no pairs"),
            ("tfidf", "tokens", 8, "is for texts"),
            ("finetune:from=128", "text", 32, "asked for from 128 rows a class on"),
            ("finetune:from=128", "tokens", 32, "asked for from 128 sentences on"),
            ("frozen", "tokens", 8, ""),
        ],
    )
    def test_what_a_method_is_not_run_on(self, name: str, kind: str, count: int, why: str) -> None:
        (method,) = parse_methods(name)
        found = why_not(method, kind, count)
        assert why in found
        assert bool(found) == bool(why)

    @pytest.mark.parametrize("text", ["0", "8,8", "8,all", "", "-1", "1.5"])
    def test_sizes_that_are_none(self, text: str) -> None:
        with pytest.raises(UsageError, match="--shots"):
            parse_shots(text)

    @pytest.mark.parametrize("text", ["10", "0m", "ten", "-5m", "10m30s"])
    def test_budgets_that_are_none(self, text: str) -> None:
        with pytest.raises(UsageError, match="--budget"):
            parse_budget(text)

    @pytest.mark.parametrize(
        ("one", "other", "alike"),
        [
            ("fewshot", "fewshot:upto=512", True),
            ("finetune:from=8:freeze=2", "finetune:freeze=2:from=128", True),
            ("frozen:clf=ridge:layers=-2", "frozen:layers=-2:clf=ridge", True),
            ("finetune", "finetune:freeze=2", False),
        ],
    )
    def test_where_a_method_is_run_changes_none_of_its_answers(self, one: str, other: str, alike: bool) -> None:
        assert (len({answers_by(parse_methods(name)[0]) for name in (one, other)}) == 1) == alike

    def test_usual_sizes_are_smaller_than_train(self) -> None:
        assert usual_shots(text_split("train", 80)) == [8, 32, None]

    def test_times_in_words(self) -> None:
        assert [time_said(seconds) for seconds in (0.2, 45, 200, 7200)] == ["1 s", "45 s", "3 min", "2.0 h"]


class TestSamples:
    def test_a_smaller_one_lies_inside_a_larger_one(self) -> None:
        train = text_split("train", 60)
        small, large = (set(draw(train, shots, 3)[0].rows.tolist()) for shots in (4, 16))
        assert small < large
        assert len(small) == 8
        assert small != set(draw(train, 4, 4)[0].rows.tolist())

    def test_of_sentences_so_many_in_all_and_each_once(self) -> None:
        train = split([*entities(30), *entities(30)])
        small, large = (draw(train, shots, 3)[0] for shots in (5, 20))
        assert (len(small), len(large)) == (5, 20)
        assert set(small.rows.tolist()) < set(large.rows.tolist())
        assert len({tuple(words) for words in large.inputs}) == 20
        fewer, notes = draw(train, 40, 3)
        assert (len(fewer), notes) == (30, ["30 of the 60 sentences of train are different: all are taken"])

    def test_sizes_rise_with_what_is_learnt_from_where_classes_are_small(self) -> None:
        labels = ["a"] * 200 + [label for label in "bcde" for _ in range(10)]
        train = Split("train", "text", list(map(str, range(240))), labels, np.arange(1, 241), "train.csv")
        found = [size_of(train, draw(train, shots, 3)[0], shots) for shots in (8, 32, 128, None)]
        assert [(size.rows, size.per_class) for size in found] == [(40, 8), (72, 14.4), (168, 33.6), (240, 48)]

    def test_all_of_train_is_as_it_is(self) -> None:
        train = text_split("train", 12)
        assert draw(train, None, 3)[0] is train

    def test_more_than_there_are(self) -> None:
        train = text_split("train", 12)
        assert beyond(train, 6) == ""
        assert "at most 6 rows of a class" in beyond(train, 7)


class TestKept:
    def test_another_comparison_is_refused(self, plan: Plan, tmp_path: Path) -> None:
        told = replace(plan, methods=parse_methods("majority"), shots=[2])
        compared(told, tmp_path / "out")
        other = replace(told, splits={**plan.splits, "train": text_split("train", 30)})
        with pytest.raises(UsageError, match="on other data"):
            compared(other, tmp_path / "out")
        assert compared(other, tmp_path / "out", overwrite=True).sizes[0].rows == 4

    def test_what_is_no_comparison_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("years of work")
        for overwrite in (False, True):
            with pytest.raises(OutputExistsError, match="holds no comparison"):
                Shelf.open(tmp_path / "mine", {}, overwrite=overwrite)

    def test_what_others_put_there_stays(self, plan: Plan, tmp_path: Path) -> None:
        told = replace(plan, methods=parse_methods("majority"), shots=[2])
        compared(told, tmp_path / "out")
        (tmp_path / "out" / "notes.txt").write_text("mine")
        compared(told, tmp_path / "out", overwrite=True)
        assert (tmp_path / "out" / "notes.txt").read_text() == "mine"

    @pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"cell": {}}'])
    def test_a_damaged_cell_is_run_again(self, plan: Plan, tmp_path: Path, damage: bytes) -> None:
        told = replace(plan, methods=parse_methods("majority"), shots=[2], seeds=[1])
        first = compared(told, tmp_path / "out")
        (path,) = (tmp_path / "out" / "cells").glob("majority*.json")
        path.write_bytes(damage)
        assert figures(compared(told, tmp_path / "out")) == figures(first)

    def test_a_name_says_all_that_answers_depend_on(self) -> None:
        base: dict[str, Any] = {"data": ["a", "b"], "on": "space"}
        names = [
            cell_name("tfidf", "8", 1, base),
            cell_name("tfidf:C=1", "8", 1, base),
            cell_name("tfidf", "8", 2, base),
            cell_name("tfidf", "8", 1, {**base, "on": "other"}),
            cell_name("tfidf", "8", 1, {**base, "data": ["a", "c"]}),
        ]
        assert len(set(names)) == len(names)
        assert cell_name("tfidf", "8", 1, dict(reversed(base.items()))) == names[0]

    def test_a_name_is_one_of_a_file(self) -> None:
        name = cell_name("frozen:model=../../x/y:clf=ridge", "full", 1, {})
        assert "/" not in name
        assert name.startswith("frozen_model=")

    def test_tags_are_kept_as_codes(self) -> None:
        given = split(entities(12, 3), "test")
        codec = LabelCodec.fit(given.labels or [])
        judged = tag_judged(given, _OneTag(codec, "auto", "B-PER"))
        answers = answers_of(judged)
        truth = Truth(given.labels or [], (), spans=True)
        found = Repeated.of({"a": {0: truth.patterns(answers, "f1")}}, SCORES["f1"])
        assert found.mean("a") == pytest.approx(judged.metrics["f1"])

    def test_of_several_labels_the_surest_wrong_one_is_the_confidence(self) -> None:
        """A right label that is sure makes no confident error; the last label was never trained."""
        true = np.array([[True, False, False], [True, True, False], [False, False, True]])
        given = np.array([[True, True, False], [True, False, False], [False, False, False]])
        shares = np.array([[0.99, 0.6], [0.95, 0.1], [0.2, 0.3]])
        rows = Split("test", "text", ["x", "y", "z"], [["a"], ["a", "b"], ["new"]], np.array([1, 2, 3]), "t.csv")
        answered = Predictions(given[:, :2], shares, None, Extraction())
        found = detail_of(Judged(rows, answered, Judgement(("a", "b", "new"), true, given, {})), "m", "full", 1)
        assert [(error.row, error.confidence) for error in found.errors] == [(2, 0.9), (1, 0.6), (3, None)]

    def test_sets_of_labels_are_kept_as_codes(self) -> None:
        true = np.array([[True, False], [False, False], [True, True]])
        truth = Truth([[], [], []], ("a", "b"), true)
        table = truth.patterns({"labels": ["a", "b"], "codes": "0 - 1"}, "accuracy")
        assert table[:, 0].tolist() == [1, 1, 0]


class TestEstimates:
    def test_cells_that_are_done_correct_them(self) -> None:
        (method,) = parse_methods("finetune")
        estimates = Estimates(lambda method: 0.01)
        before = estimates.of(method, Work(1000, 100, 6))
        estimates.learn(method, Work(100, 100, 6), 2 * estimates.of(method, Work(100, 100, 6)))
        assert estimates.of(method, Work(1000, 100, 6)) == pytest.approx(2 * before)

    def test_small_cells_say_little_of_a_large_one(self) -> None:
        """They are over in a moment, which is less than was put down for them; it is the rows that take time."""
        (method,) = parse_methods("frozen")
        estimates = Estimates(lambda method: 0.01)
        large = Work(8000, 1000, 1, 9000)
        before = estimates.of(method, large)
        estimates.learn(method, Work(16, 1000, 1, 1016), estimates.of(method, Work(16, 1000, 1, 1016)))
        for _ in range(4):
            estimates.learn(method, Work(16, 1000, 1, 0), 0.1)
        assert estimates.of(method, large) > 0.5 * before

    def test_features_from_the_store_do_not_make_an_encoder_look_quick(self) -> None:
        """The cells after the first find the judged rows in the store, and the largest finds few of its own."""
        (method,) = parse_methods("frozen")
        estimates = Estimates(lambda method: 0.01)
        for size, new in ((16, 1016), (64, 48), (256, 192)):
            estimates.learn(method, Work(size, 1000, 1, new), 1 + 0.001 * (size + 1000) + 0.01 * new)
        assert estimates.of(method, Work(8000, 1000, 1, 7744)) == pytest.approx(1 + 0.001 * 9000 + 0.01 * 7744)
        assert estimates.of(method, Work(8000, 1000, 1, 0)) == pytest.approx(1 + 0.001 * 9000)

    def test_what_serving_took_corrects_what_it_will_take(self) -> None:
        frozen, words = parse_methods("frozen,tfidf")
        estimates = Estimates(lambda method: 0.01)
        before = estimates.serving(frozen, 100, 1000)
        assert before > estimates.serving(frozen, 100, 100) > 0 == estimates.serving(words, 100, 1000)
        estimates.learn_serving(frozen, 100, 1000, before / 4)
        assert estimates.serving(frozen, 100, 1000) == pytest.approx(before / 4)

    def test_nothing_is_measured_where_nothing_is_estimated(self) -> None:
        """Of a comparison that is finished no encoder needs to be opened."""
        estimates = Estimates(lambda method: pytest.fail("an encoder was opened"))
        estimates.learn(parse_methods("frozen")[0], Work(16, 1000, 1, 16), 3.0)

    def test_more_work_takes_longer(self) -> None:
        estimates = Estimates(lambda method: 0.01)
        frozen, fewshot, setfit, tuned, upper = (
            estimates.of(method, Work(32, 1000, 6, 1032))
            for method in parse_methods("frozen,fewshot,setfit,finetune,finetune:freeze=half")
        )
        assert frozen < fewshot < setfit
        assert frozen < upper < tuned


Table = Mapping[str, Mapping[str, tuple[float, ...]]]


def repeated_of(table: Table, rows: int = 4000) -> tuple[Repeated[tuple[str, str]], list[Point], list[Size]]:
    """Return what a comparison has where each method is right on the first rows of each seed, by size."""
    runs: dict[tuple[str, str], dict[int, Any]] = {}
    for method, sizes in table.items():
        for size, shares in sizes.items():
            for seed, share in enumerate(shares):
                right = (np.arange(rows) < round(share * rows)).astype(np.int64)
                runs.setdefault((method, size), {})[seed] = row_patterns(
                    np.ones(rows, np.int64), right, 2, "accuracy"
                )
    repeated = Repeated.of(runs, SCORES["accuracy"], resamples=400)
    points = [
        Point(method, size, len(found), repeated.mean((method, size)), *repeated.interval((method, size)),
              repeated.mean((method, size)), 0.5, 1.0, None)
        for (method, size), found in repeated.observed.items()
    ]  # fmt: skip
    names = list(dict.fromkeys(size for sizes in table.values() for size in sizes))
    known = {
        "8": Size("8", 8, 16, 8.0),
        "128": Size("128", 128, 256, 128.0),
        "full": Size("full", None, 8000, 4000.0),
    }
    return repeated, points, [known[name] for name in names]


SERVED = (
    Served("tfidf", "full", 1, "scikit-learn", 0.3),
    Served("frozen", "full", 1, "onnx float32", 2.2),
    Served("frozen", "full", 1, "onnx int8", 0.1),
    Served("finetune", "full", 1, "onnx float32", 4.5),
)


class TestAdvice:
    """By the rule, on made-up scores; words are tested where they carry the answer."""

    def advice(
        self,
        table: Table,
        *,
        points: int | None = None,
        served: list[Served] | None = None,
        cells: list[Cell] | None = None,
        **told: Any,
    ) -> Any:
        repeated, every, sizes = repeated_of(table)
        usual: dict[str, Any] = {
            "metric": "accuracy",
            "rows": 4000,
            "margin": 0.01,
            "cost": "serve",
            "tokens": False,
        }
        some = SERVED if served is None else served
        return advise(every[:points], repeated, sizes, some, cells or [], **usual | told)

    def test_curves_that_cross(self) -> None:
        table = {
            "tfidf": {"8": (0.80,), "128": (0.80,), "full": (0.80,)},
            "finetune": {"8": (0.60,), "128": (0.90,), "full": (0.95,)},
        }
        found = self.advice(table)
        assert [(size.size, size.pick) for size in found.sizes] == [
            ("8", "tfidf"),
            ("128", "finetune"),
            ("full", "finetune"),
        ]
        (crossing,) = found.crossings
        assert (crossing.before, crossing.after, crossing.low, crossing.high) == ("tfidf", "finetune", 8, 128)
        assert crossing.at == pytest.approx(8 * 16 ** (2 / 3))
        assert found.text[0].startswith("With all 8,000 rows take finetune: accuracy 0.950")
        assert found.text[1] == (
            "With fewer than about 51 labels a class take tfidf, from there on finetune: there their curves cross."
        )

    def test_where_the_advice_changes_and_curves_do_not_cross(self) -> None:
        """The dearer method is better throughout, but only with many labels by more than the margin."""
        table = {
            "tfidf": {"8": (0.700,), "full": (0.80,)},
            "finetune": {"8": (0.702,), "full": (0.95,)},
        }
        found = self.advice(table)
        assert [size.pick for size in found.sizes] == ["tfidf", "finetune"]
        assert found.crossings[0].at is None
        assert found.text[1] == "Up to 8 labels a class take tfidf, from 4,000 on finetune."

    @pytest.mark.parametrize(
        ("few", "tuned", "said"),
        [
            (0.78, 0.905, "Up to 8 labels a class take tfidf, at 128 few, from 4,000 on finetune."),
            (
                0.60,
                0.905,
                "With fewer than about 30 labels a class take tfidf, from there to 128 few, from 4,000 on "
                "finetune: there their curves cross.",
            ),
            (
                0.78,
                0.60,
                "Up to 8 labels a class take tfidf, from 128 to about 2,100 few, from there on finetune: "
                "there their curves cross.",
            ),
        ],
    )
    def test_a_method_for_the_sizes_between(self, few: float, tuned: float, said: str) -> None:
        table = {
            "tfidf": {"8": (0.78,), "128": (0.70,), "full": (0.70,)},
            "few": {"8": (few,), "128": (0.90,), "full": (0.91,)},
            "finetune": {"8": (0.50,), "128": (tuned,), "full": (0.98,)},
        }
        costs = {"tfidf": 1.0, "few": 2.0, "finetune": 5.0}
        served = [Served(name, "full", 1, "onnx float32", cost) for name, cost in costs.items()]
        assert self.advice(table, served=served).text[1] == said

    def test_one_method_at_every_size(self) -> None:
        table = {"tfidf": {"8": (0.9,), "full": (0.95,)}, "finetune": {"8": (0.6,), "full": (0.9,)}}
        assert self.advice(table).text[1] == "That holds at every size from 8 labels a class on: take tfidf."

    def test_what_was_left_out_where_few_labels_are_is_named_too(self) -> None:
        """The advice speaks of all sizes: a method without figures at one of them was not outdone there."""
        table = {"tfidf": {"8": (0.8,), "128": (0.8,), "full": (0.9,)}, "few": {"8": (0.85,), "full": (0.89,)}}
        cells = [
            Cell("few", "128", 1, "skipped", "estimated 2 min, and 1 s of the budget are left"),
            Cell("slow", "8", 1, "missing", "not run yet"),
            Cell("slow", "full", 1, "missing", "not run yet"),
            Cell("slow", "512", 1, "missing", "not run yet"),
        ]
        assert self.advice(table, cells=cells).text[-1] == (
            "Not in the advice: slow at 8, full (not run yet); few at 128 (estimated 2 min, and 1 s of the budget "
            "are left)."
        )

    def test_what_was_run_with_fewer_seeds_is_said_together(self) -> None:
        table = {
            "tfidf": {"8": (0.8, 0.8), "128": (0.8, 0.8), "full": (0.9, 0.9)},
            "frozen": {"8": (0.8,), "128": (0.8,), "full": (0.9, 0.9)},
            "finetune": {"8": (0.8,), "128": (0.8,)},
        }
        said = "Run with fewer seeds than others, and compared on these: frozen, finetune at 8, 128 (1 of 2)."
        assert said in self.advice(table).text

    def test_sizes_without_figures_are_named(self) -> None:
        """The largest size is what most ask about: that nothing is known of it is part of the advice."""
        whole = {"tfidf": {"8": (0.8,), "128": (0.8,), "full": (0.9,)}}
        few = self.advice(whole, points=1)
        assert few.text[-1] == "Of 128, all 8,000 rows there are no figures, so the advice does not reach there."
        assert not any("no figures" in line for line in self.advice(whole).text)

    def test_the_cheapest_within_the_margin(self) -> None:
        table = {"tfidf": {"full": (0.80,)}, "frozen": {"full": (0.948,)}, "finetune": {"full": (0.95,)}}
        found = self.advice(table).sizes[0]
        assert (found.pick, found.best, found.good) == ("frozen", "finetune", ["frozen", "finetune"])
        assert "the cheapest to serve of those that lose at most 1 point against the best" in found.text

    def test_int8_does_not_make_a_method_cheap(self) -> None:
        served = [Served("frozen", "full", 1, "onnx float32", 9.0), Served("frozen", "full", 1, "onnx int8", 0.1),
                  Served("finetune", "full", 1, "onnx float32", 3.0)]  # fmt: skip
        table = {"frozen": {"full": (0.95,)}, "finetune": {"full": (0.95,)}}
        assert self.advice(table, served=served).sizes[0].pick == "finetune"

    def test_the_data_cannot_tell(self) -> None:
        """Runs that vary from one sample to the next leave open what would do."""
        table = {"tfidf": {"full": (0.92, 0.97, 0.94)}, "finetune": {"full": (0.95, 0.95, 0.95)}}
        found = self.advice(table)
        assert found.sizes[0].pick == "finetune"
        assert found.sizes[0].undecided == {"tfidf": None}
        assert any("more seeds would have to tell" in line for line in found.text)

    def test_what_has_no_figures_is_named(self) -> None:
        cells = [Cell("finetune", "full", 1, "skipped", "estimated 2.0 h, and 1 s of the budget are left")]
        found = self.advice({"tfidf": {"full": (0.9,)}}, cells=cells)
        assert found.text[-1] == (
            "Not in the advice: finetune at full (estimated 2.0 h, and 1 s of the budget are left)."
        )

    def test_what_shares_no_seed_with_the_best_is_named(self) -> None:
        repeated, points, sizes = repeated_of({"tfidf": {"full": (0.8, 0.8)}, "finetune": {"full": (0.9, 0.9)}})
        apart = Repeated(
            {("tfidf", "full"): {0: 0.8}, ("finetune", "full"): {1: 0.9}},
            repeated.drawn,
            repeated.rows,
            repeated.seed,
        )
        cells = [Cell("tfidf", "full", 0, "done"), Cell("tfidf", "full", 1, "failed", "odd")]
        told: dict[str, Any] = {"metric": "accuracy", "rows": 4000, "margin": 0.01, "cost": "serve"}
        found = advise(points, apart, sizes, SERVED, cells, **told, tokens=False)
        assert found.sizes[0].good == ["finetune"]
        assert found.text[-1] == "Not in the advice: tfidf at full (no seed in common with the others)."

    def test_a_method_that_was_cut_after_an_easy_sample_is_not_the_best(self) -> None:
        """On the seed that both have it is the worse one, though its mean is higher."""
        found = self.advice({"finetune": {"full": (0.80, 0.70, 0.70)}, "tfidf": {"full": (0.75,)}})
        assert (found.sizes[0].best, found.sizes[0].pick) == ("finetune", "finetune")
        assert "Run with fewer seeds than others, and compared on these: tfidf at full (1 of 3)." in found.text
        found = self.advice({"finetune": {"full": (0.80, 0.70, 0.70)}, "tfidf": {"full": (0.85,)}})
        assert found.sizes[0].best == "tfidf"
        found = self.advice({"finetune": {"full": (0.80, 0.70, 0.70)}, "tfidf": {"full": (0.799,)}}).sizes[0]
        assert (found.best, found.pick) == ("finetune", "tfidf")
        assert found.text.endswith("against the best (finetune, on the seeds that both have).")

    @pytest.mark.parametrize("names", [("tfidf", "finetune"), ("finetune", "tfidf")])
    def test_of_equal_methods_the_cheapest_is_the_best_in_whichever_order(self, names: tuple[str, ...]) -> None:
        found = self.advice({name: {"full": (0.9,)} for name in names}).sizes[0]
        assert (found.best, found.pick, sorted(found.good)) == ("tfidf", "tfidf", ["finetune", "tfidf"])

    def test_where_nothing_beats_the_most_frequent_label(self) -> None:
        table = {"majority": {"full": (0.6,)}, "finetune": {"full": (0.6,)}}
        served = [
            Served("majority", "full", 1, "constant", 0.01),
            Served("finetune", "full", 1, "onnx float32", 4.0),
        ]
        found = self.advice(table, served=served)
        assert "no method is better by more than 1 point than" in found.text[0]

    def test_the_most_frequent_label_alone_is_compared_with_nothing(self) -> None:
        found = self.advice({"majority": {"full": (0.6,)}})
        assert found.text[0].startswith("With all 8,000 rows take majority: accuracy 0.600 [")
        assert found.text[0].endswith("], the only one.")

    def test_what_was_not_timed_is_named_where_it_decides(self) -> None:
        """Good enough, and perhaps the cheapest, but nobody knows."""
        served = [Served("finetune", "full", 1, "onnx float32", 4.5),
                  Served("frozen", "full", 1, "onnx float32", why="internal error (OSError)")]  # fmt: skip
        found = self.advice({"frozen": {"full": (0.95,)}, "finetune": {"full": (0.95,)}}, served=served)
        assert found.sizes[0].pick == "finetune"
        assert found.text[-1].startswith("No latency was measured of frozen: what has none counts as the dearest")

    def test_without_latencies_the_time_to_train_decides(self) -> None:
        found = self.advice({"tfidf": {"full": (0.9,)}, "frozen": {"full": (0.9,)}}, served=[])
        assert any("No latency was measured" in line for line in found.text)

    @pytest.mark.parametrize(("number", "said"), [(8, 8), (51.2, 51), (4265, 4300), (123456, 120000)])
    def test_numbers_are_rounded(self, number: float, said: int) -> None:
        assert rounded(number) == said


def test_a_speed_is_measured_once(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop = Workshop(EncoderSettings(model, threads=1), FeatureExtractor, WordExtractor, tmp_path)
    train = text_split("train", 20)
    (method,) = parse_methods("frozen")
    calls: list[int] = []
    transform: Callable[..., Any] = FeatureExtractor.transform
    monkeypatch.setattr(
        FeatureExtractor,
        "transform",
        lambda self, given, **told: (calls.append(1), transform(self, given, **told))[1],
    )
    first = workshop.seconds_a_text(method, train)
    assert first > 0
    count = len(calls)
    assert workshop.seconds_a_text(method, train) == first
    assert len(calls) == count


def test_memory_is_what_was_added() -> None:
    """100 MB that are held at once and let go again; what lay there before does not count."""
    before = np.ones(25_000_000 // 8)
    memory = Memory.begin()
    np.ones(100_000_000 // 8).sum()
    found = memory.added_mb()
    assert found is not None
    assert 95 < found < 120
    again = Memory.begin().added_mb()
    assert again is not None
    assert again < 20
    assert before.sum() > 0


def test_reach() -> None:
    (method,) = parse_methods("fewshot:from=4:upto=64")
    assert reach_of(method) == (4, 64)
