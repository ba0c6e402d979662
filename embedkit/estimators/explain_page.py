"""An explanation as HTML: no script, nothing loaded, no text of the user in an attribute."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from embedkit.pages import Html, document, escaped

if TYPE_CHECKING:
    from embedkit.estimators.explain import Explanation, WordContribution

# Blue and orange stay apart for every kind of colour blindness; black text is readable on both.
_TOWARDS, _AWAY = (33, 102, 172), (230, 97, 1)
_STRONGEST = 0.6  # of the colour on white
_MOST_FOLDED = 10  # classes beside the one that is shown
_MOST_SPANS = 20_000  # of the classes that are folded, so that a long text of many classes is no page of 100 MB
_TOP = 10

_STYLE = """<style>
.embedkit-explanation { max-width: 60em; margin: 0 auto; padding: 1em; font: 16px/1.5 system-ui, sans-serif;
  background: #fff; color: #111; }
.embedkit-explanation h2 { font-size: 1.1em; margin: 1em 0 0.3em; }
.embedkit-explanation .text { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.9; }
.embedkit-explanation .text span { border-radius: 3px; padding: 1px 0; }
.embedkit-explanation .away { border-bottom: 2px dotted #a34700; }
.embedkit-explanation .other { font: 0.75em monospace; outline: 1px solid #999; margin: 0 2px; }
.embedkit-explanation .unread { color: #666; text-decoration: line-through; }
.embedkit-explanation table { border-collapse: collapse; margin: 0.5em 2em 0.5em 0; display: inline-table;
  vertical-align: top; }
.embedkit-explanation th, .embedkit-explanation td { border-top: 1px solid #ddd; padding: 1px 8px;
  text-align: left; font-weight: normal; }
.embedkit-explanation td { text-align: right; font-variant-numeric: tabular-nums; }
.embedkit-explanation .note { color: #444; font-size: 0.85em; }
</style>
"""
_SUMS = (("word", "words"), ("space", "white space"), ("prompt", "prompt"), ("special", "special tokens"))


def page(explanation: Explanation, at: int, *, alone: bool) -> str:
    """Return `fragment` as a page of its own, which may load nothing and run nothing."""
    body = Html(fragment(explanation, at, alone=alone))
    return document("What the words add to the score", body, style_attributes=True)


def fragment(explanation: Explanation, at: int, *, alone: bool) -> str:
    """Return the text, coloured by what its words add to the score of a class, as one ``div``.

    Parameters
    ----------
    explanation : Explanation
    at : int
        The class.
    alone : bool
        Whether to leave the other classes out. For two classes they are: the other's score is the negative.
    """
    others = [] if alone or explanation.negated else _others(explanation, at)
    folded = "".join(
        f"<details><summary>{_heading(explanation, other)}</summary>\n{_section(explanation, other)}</details>\n"
        for other in others
    )
    hidden = len(explanation.classes) - 1 - len(others)
    more = f'<p class="note">{hidden:,} more classes are left out here.</p>\n' if others and hidden else ""
    notes = "".join(f'<p class="note">{escaped(note)}</p>\n' for note in _notes(explanation))
    return (
        f'<div class="embedkit-explanation">\n{_STYLE}<p>Predicted: {_predicted(explanation)}</p>\n'
        f"<h2>{_heading(explanation, at)}</h2>\n{_section(explanation, at)}{folded}{more}{notes}</div>\n"
    )


def _others(explanation: Explanation, at: int) -> list[int]:
    """Return the other classes, the highest scores first, as many as a page bears."""
    ranked = sorted(range(len(explanation.classes)), key=lambda c: -explanation.scores[c])
    most = min(_MOST_FOLDED, _MOST_SPANS // max(1, len(explanation.words)))
    return [c for c in ranked if c != at][:most]


def _label(explanation: Explanation, at: int) -> str:
    return f"<bdi>{escaped(explanation.classes[at])}</bdi>"


def _predicted(explanation: Explanation) -> str:
    labels = explanation.label if isinstance(explanation.label, tuple) else (explanation.label,)
    return ", ".join(f"<bdi>{escaped(label)}</bdi>" for label in labels) or "no label"


def _heading(explanation: Explanation, at: int) -> str:
    return f"Score of {_label(explanation, at)}: {explanation.scores[at]:+.4g}"


def _section(explanation: Explanation, at: int) -> str:
    words = [abs(word.contributions[at]) for word in explanation.words if word.kind == "word"]
    peak = max(words, default=0) or max((abs(word.contributions[at]) for word in explanation.words), default=0)
    return (
        f'<p class="note">{_legend(explanation, at, peak)}</p>\n'
        f"{_text(explanation, at, peak)}{_sums(explanation, at)}{_top(explanation, at)}\n"
    )


def _legend(explanation: Explanation, at: int, peak: float) -> str:
    blue = f'<span style="{_colour(1)}">&nbsp;blue&nbsp;</span>'
    orange = f'<span class="away" style="{_colour(-1)}">&nbsp;orange, dotted&nbsp;</span>'
    this = _label(explanation, at)
    if explanation.negated:
        other = _label(explanation, 1 - at)
        sign = f"One score tells the two apart: above 0 speaks for {this}, below 0 for {other}. "
        pushes = f"{blue} pushes towards {this}, {orange} towards {other}"
    else:
        sign, pushes = "", f"{blue} adds to the score of {this}, {orange} takes from it"
    return (
        f"{sign}{pushes}; the full colour is {peak:.3g}. Framed is what the model reads beside the words; "
        '<span class="unread">struck out</span> is what it does not read.'
    )


def _colour(strength: float) -> str:
    """Return the background for a strength from -1 to 1."""
    part = _STRONGEST * min(1.0, abs(strength))
    red, green, blue = (round(255 + (c - 255) * part) for c in (_TOWARDS if strength > 0 else _AWAY))
    return f"background:rgb({red},{green},{blue})"


def _text(explanation: Explanation, at: int, peak: float) -> str:
    texts = (explanation.text,) if isinstance(explanation.text, str) else explanation.text
    lines: list[list[str]] = [[] for _ in texts]
    part, cursor = 0, 0
    for word in explanation.words:
        if word.part is not None and word.part - 1 > part:
            lines[part].append(_visible(texts[part][cursor:]))
            part, cursor = word.part - 1, 0
        if word.start is not None and word.end is not None:
            lines[part].append(_visible(texts[part][cursor : word.start]))
            cursor = word.end
        lines[part].append(_span(word, at, peak))
    return "".join(f'<p class="text" dir="auto">{"".join(line)}</p>\n' for line in lines)


def _visible(text: str) -> str:
    """Return escaped text that keeps its line breaks."""
    return "\n".join(map(escaped, text.split("\n")))


def _span(word: WordContribution, at: int, peak: float) -> str:
    term = word.contributions[at]
    if not word.read:
        why = "beyond the maximum length: not read" if word.cut else "no token of the tokenizer"
        return f'<span class="unread" title="{why}">{_visible(word.word)}</span>'
    names = [*["away"] * (term < 0), *["other"] * (word.kind in ("prompt", "special"))]
    classes = f' class="{" ".join(names)}"' if names else ""
    partly = f", read in part: {word.read} of {word.read + word.cut} tokens" if word.cut else ""
    colour = _colour(term / peak if peak else 0.0)
    return f'<span{classes} style="{colour}" title="{term:+.4g}{partly}">{_visible(word.word)}</span>'


def _sums(explanation: Explanation, at: int) -> str:
    """Return the table that adds up to the score."""
    rows = []
    for kind, name in _SUMS:
        terms = [word.contributions[at] for word in explanation.words if word.kind == kind]
        if terms:
            rows.append((name, sum(terms)))
    rows += [("the head's intercept", explanation.intercept[at]), ("rounding", explanation.rounding[at])]
    body = "".join(_row(escaped(name), value) for name, value in [*rows, ("score", explanation.scores[at])])
    return f"<table>{body}</table>"


def _top(explanation: Explanation, at: int) -> str:
    """Return the words that weigh most, with signs, for whom colours say nothing."""
    body = "".join(_row(escaped(word), term) for word, term in explanation.top(explanation.classes[at], _TOP))
    return f"<table>{body}</table>" if body else ""


def _row(name: str, value: float) -> str:
    return f"<tr><th>{name}</th><td>{value:+.4g}</td></tr>"


def _notes(explanation: Explanation) -> Iterator[str]:
    for remark in explanation.remarks:
        yield f"{remark[0].upper()}{remark[1:]}."
    if explanation.norm_held is None:
        yield "Exact for this text: the terms add up to the score."
    else:
        yield (
            "Exact for this text, up to normalisation: the terms add up to the score with the vector's length "
            f"before normalising, {explanation.norm_held:.4g}, held at its value; it belongs to no word."
        )
    yield (
        "A word's state also holds its neighbours: a term is the word's share of this score, not the change that "
        "leaving the word out would make."
    )
