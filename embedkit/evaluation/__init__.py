"""Judge predictions and write what came out: figures, a report for people, pictures."""

from embedkit.evaluation.judge import Judgement, judge, judge_sets
from embedkit.evaluation.report import write_metrics, write_report

__all__ = ["Judgement", "judge", "judge_sets", "write_metrics", "write_report"]
