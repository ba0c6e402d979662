"""HTML from Python: whatever is not marked as HTML is escaped where it is put into a page."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from embedkit.data.text import printable

_NAME = re.compile(r"[a-z][a-z0-9-]*")
_VOID = frozenset({"br", "col", "hr", "img", "input", "meta"})


class Html(str):
    """Markup that stands in a page as it is; made by `tag` and `escaped`, or of constants."""

    __slots__ = ()


Content: TypeAlias = str | Iterable["Content"]
"""A text, which is escaped; `Html`, which is not; or several of them."""


def escaped(text: object) -> Html:
    r"""Return text that is inert in HTML, with control and bidirectional characters written out.

    Examples
    --------
    >>> escaped("<b>\x1b & 'quoted'")
    '&lt;b&gt;\\x1b &amp; &#x27;quoted&#x27;'
    """
    return Html(html.escape(printable(str(text), None), quote=True))


def tag(name: str, content: Content = "", attributes: Mapping[str, str] | None = None) -> Html:
    """Return an element.

    Parameters
    ----------
    name : str
        Of the element.
    content : str, Html or several
        Texts are escaped.
    attributes : mapping of str to str, optional
        Values are escaped as texts are.

    Raises
    ------
    ValueError
        A name is none, or an element that is always empty was given content.

    Examples
    --------
    >>> tag("p", ["1 < 2 ", tag("b", "&")], {"class": "note"})
    '<p class="note">1 &lt; 2 <b>&amp;</b></p>'
    """
    given = attributes or {}
    for each in (name, *given):
        if not _NAME.fullmatch(each):
            raise ValueError(f"{each!r} is no name in HTML")
    opened = name + "".join(f' {key}="{joined(value)}"' for key, value in given.items())
    inside = joined(content)
    if name in _VOID:
        if inside:
            raise ValueError(f"<{name}> has no content")
        return Html(f"<{opened}>")
    return Html(f"<{opened}>{inside}</{name}>")


def joined(content: Content) -> Html:
    """Return contents one after the other, texts escaped."""
    if isinstance(content, Html):
        return content
    if isinstance(content, str):
        return escaped(content)
    return Html("".join(map(joined, content)))


def quoted(text: object) -> Html:
    """Return a text of the user, whose direction of writing does not leave it."""
    return tag("bdi", str(text))


def table(
    heads: Sequence[Content],
    rows: Iterable[Sequence[Content]],
    *,
    caption: Content = "",
    left: frozenset[int] = frozenset({0}),
    kind: str = "",
) -> Html:
    """Return a table that scrolls sideways on a narrow screen.

    Parameters
    ----------
    heads : sequence of content
        One a column.
    rows : iterable of sequences of content
        As many cells as `heads`; a cell may be a ``td`` or ``th`` of its own.
    caption : content, optional
    left : frozenset of int, default {0}
        Columns of words; the others are numbers and stand to the right.
    kind : str, optional
        A class of the style sheet.
    """
    head = tag("tr", [_cell("th", text, at in left, {"scope": "col"}) for at, text in enumerate(heads)])
    body = [tag("tr", [_cell("td", text, at in left, {}) for at, text in enumerate(row)]) for row in rows]
    whole = tag("table", [tag("thead", head), tag("tbody", body)], {"class": kind} if kind else {})
    above = [tag("figcaption", caption)] if caption else []
    return tag("figure", [*above, tag("div", whole, {"class": "wide", "tabindex": "0"})])


def _cell(name: str, content: Content, words: bool, attributes: Mapping[str, str]) -> Html:
    if isinstance(content, Html) and content.startswith(("<td", "<th")):
        return content
    return tag(name, content, {**attributes, **({"class": "words"} if words else {})})
