"""A whole page in one file: what it shows, its styles, scripts and data, and a policy that allows nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

from embedkit.pages.markup import Content, Html, joined, tag

# What ends an element of script or style, or lets one swallow what follows it (HTML standard, 13.2.5.4).
_ENDS = re.compile(r"</(script|style)|<!--|\r", re.IGNORECASE)
# In JSON all of these may be written as \u: '<' starts an end tag, the others end a line or are no UTF-8.
_UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


@cache
def asset(name: str) -> str:
    """Return a file of ours that goes into pages."""
    return (files("embedkit.pages") / "assets" / name).read_text(encoding="utf-8")


def library() -> str:
    """Return what draws: Apache ECharts 6.1.0, npm's ``dist/echarts.common.min.js`` unchanged."""
    return asset("echarts/echarts.common.min.js")


def document(
    title: str,
    body: Content,
    *,
    styles: Sequence[str] = (),
    scripts: Sequence[str] = (),
    data: Mapping[str, object] | None = None,
    style_attributes: bool = False,
) -> str:
    """Return a page that loads nothing, and runs the scripts that it was made with and no others.

    Parameters
    ----------
    title : str
    body : content
        Texts are escaped.
    styles, scripts : sequence of str
        Ours, or a library's; never made of data. The page's Content-Security-Policy names each by its SHA-256.
    data : mapping of str to JSON values, optional
        What scripts read, by the id of the element that holds it.
    style_attributes : bool, default False
        Whether the body has attributes and elements of style, which no digest can name.

    Returns
    -------
    str
        HTML, to be written as UTF-8.

    Raises
    ------
    ValueError
        A script or style would end its element, a number is NaN or infinite, or attributes of style stand beside
        digests, which switch them off.
    """
    if style_attributes and styles:
        raise ValueError("styles named by their digest switch attributes of style off; give one of them")
    held = [_data(name, value) for name, value in (data or {}).items()]
    head = [
        tag("meta", "", {"charset": "utf-8"}),
        tag(
            "meta",
            "",
            {"http-equiv": "Content-Security-Policy", "content": Html(_policy(styles, scripts, style_attributes))},
        ),
        tag("meta", "", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        tag("title", title),
        *(_element("style", code) for code in styles),
    ]
    parts = [tag("head", _lines(head)), tag("body", _lines([joined(body), *held, *map(_script, scripts)]))]
    return f"<!doctype html>\n{tag('html', _lines(parts), {'lang': 'en'})}\n"


def _policy(styles: Sequence[str], scripts: Sequence[str], style_attributes: bool) -> str:
    """Return what the page may do: nothing is fetched, sent, framed or evaluated."""
    allowed = {
        "default-src": ["'none'"],
        "style-src": ["'unsafe-inline'"] if style_attributes else [_digest(code) for code in styles],
        "script-src": [_digest(code) for code in scripts],
    }
    said = [f"{what} {' '.join(sources)}" for what, sources in allowed.items() if sources]
    return "; ".join([*said, "base-uri 'none'", "form-action 'none'"])


def _digest(code: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"


def _script(code: str) -> Html:
    return _element("script", code)


def _element(name: str, code: str, attributes: str = "") -> Html:
    """Return an element whose content is no HTML; a digest is of exactly what stands between its tags."""
    found = _ENDS.search(code)
    if found:
        raise ValueError(f"<{name}> would not hold {found[0]!r}")
    return Html(f"<{name}{attributes}>{code}</{name}>")


def _data(name: str, value: object) -> Html:
    """Return JSON that a script reads and no browser runs."""
    written = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    safe = _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", written)
    return tag("script", Html(safe), {"type": "application/json", "id": name})


def _lines(parts: Sequence[Html]) -> Html:
    return Html("\n" + "\n".join(parts) + "\n")
