"""Pages: whatever comes from data stays text, and a browser runs nothing but the scripts that were meant."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedkit.data.text import printable
from embedkit.pages import Html, asset, document, escaped, library, quoted, table, tag

HOSTILE = [
    "<img src=x onerror=1>", "</script><script>alert(1)</script>", '" onload="alert(1)', "' style='x", "<!-- ",
    "]]> &lt;b&gt; &#60;", "\x1b[31mred\x07", "\u202egnp.exe\u2066\u200f", "{at} %s {0}", "javascript:alert(1)",
    "a\x00b", "\u2028line\u2029", "\ud800", "__proto__", "</title></head>",
]  # fmt: skip


@dataclass
class Element:
    """An element, and the text that stands in it and in no element below it."""

    name: str
    attributes: dict[str, str | None]
    text: str = ""


class Parsed(HTMLParser):
    """A page as a browser takes it apart."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(page)
        self.close()
        assert self._open == [], f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, dict(attrs)))
        if tag not in {"meta", "br", "input", "img", "hr", "col"}:
            self._open.append(self.elements[-1])

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().name == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open[-1].text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    @property
    def tags(self) -> list[str]:
        return [element.name for element in self.elements]

    def inside(self, name: str) -> list[str]:
        """Return the text of each element of a name."""
        return [element.text for element in self.elements if element.name == name]

    def data(self) -> dict[str, Any]:
        """Return what the elements of JSON hold."""
        return {
            str(element.attributes["id"]): json.loads(element.text)
            for element in self.elements
            if element.attributes.get("type") == "application/json"
        }

    def policy(self) -> dict[str, list[str]]:
        """Return the page's Content-Security-Policy, which must stand before all that it is about."""
        (place,) = (at for at, found in enumerate(self.elements) if "http-equiv" in found.attributes)
        assert self.tags[: place + 1] == ["html", "head", "meta", "meta"]
        said = str(self.elements[place].attributes["content"])
        return {part.split()[0]: part.split()[1:] for part in said.split(";")}


def assert_closed(page: str) -> Parsed:
    """Nothing is loaded, nothing runs but what the policy names, and that is in the page."""
    parsed = Parsed(page)
    policy = parsed.policy()
    assert policy["default-src"] == ["'none'"]
    assert policy["base-uri"] == policy["form-action"] == ["'none'"]
    assert set(policy) <= {"default-src", "style-src", "script-src", "base-uri", "form-action"}
    assert not {"link", "iframe", "object", "embed", "base", "form", "img", "a"} & set(parsed.tags)
    for element in parsed.elements:
        assert not {"src", "href", "srcset", "style"} & set(element.attributes), element
        assert not [key for key in element.attributes if key.startswith("on")]
    for kind in ("script", "style"):
        bodies = [e.text for e in parsed.elements if e.name == kind and e.attributes.get("type") is None]
        assert policy.get(f"{kind}-src", []) == list(map(digest, bodies))
    return parsed


def digest(body: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'"


# ------------------------------------------------------------------------------------------------ markup


@given(st.text())
def test_any_text_stays_text(text: str) -> None:
    for made in (tag("p", text, {"title": text}), tag("p", [text], {"title": text})):
        parsed = Parsed(made)
        assert parsed.elements == [Element("p", {"title": printable(text, None)}, printable(text, None))]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_texts_stay_in_their_element(hostile: str) -> None:
    made = table([hostile, "n"], [[quoted(hostile), "1"]], caption=hostile)
    parsed = Parsed(made)
    cells = ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "bdi", "td"]
    assert parsed.tags == ["figure", "figcaption", "div", *cells]
    assert parsed.inside("bdi") == parsed.inside("figcaption") == [printable(hostile, None)]


def test_markup_is_put_in_as_it_is_and_texts_are_not() -> None:
    assert tag("p", [tag("b", "1 < 2"), "<b>"]) == "<p><b>1 &lt; 2</b>&lt;b&gt;</p>"
    assert tag("meta", "", {"content": Html("'none'")}) == "<meta content=\"'none'\">"
    assert isinstance(tag("p"), Html)
    assert escaped(3.5) == "3.5"


@pytest.mark.parametrize(
    ("name", "content", "attributes"),
    [("p onclick=1", "", {}), ("p", "", {"a b": ""}), ("P", "", {}), ("br", "x", {}), ("", "", {})],
)
def test_names_that_are_none_are_refused(name: str, content: str, attributes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"no name in HTML|has no content"):
        tag(name, content, attributes)


# ------------------------------------------------------------------------------------------------ documents


def test_a_page_runs_its_scripts_alone() -> None:
    page = document("A & B", tag("h1", "x"), styles=["p { margin: 0 }"], scripts=["let a = 1 < 2;", "a && 1"])
    parsed = assert_closed(page)
    assert page.startswith("<!doctype html>\n<html lang=")
    assert parsed.inside("title") == ["A & B"]
    assert parsed.inside("script") == ["let a = 1 < 2;", "a && 1"]
    assert "'unsafe-inline'" not in page
    assert "unsafe-eval" not in page


def test_a_page_without_scripts_may_run_none() -> None:
    policy = Parsed(document("t", "b", style_attributes=True)).policy()
    assert "script-src" not in policy
    assert policy["style-src"] == ["'unsafe-inline'"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(VALUES)
def test_data_come_out_as_they_went_in(value: Any) -> None:
    page = document("t", "b", data={"points": value})
    assert assert_closed(page).data() == {"points": value}
    page.encode()


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_data_stay_data(hostile: str) -> None:
    benign = Parsed(document("t", "x", data={"d": ["x"]}, scripts=["1"])).tags
    page = document(hostile, hostile, data={"d": [hostile]}, scripts=["1"])
    assert assert_closed(page).tags == benign
    assert Parsed(page).data() == {"d": [hostile]}


@pytest.mark.parametrize("code", ["let a = '</script>'", "</STYLE>", "<!-- x", "a\r\nb"])
def test_code_that_would_leave_its_element_is_refused(code: str) -> None:
    with pytest.raises(ValueError, match="would not hold"):
        document("t", "b", scripts=[code])


def test_numbers_that_json_has_not_are_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        document("t", "b", data={"d": float("nan")})


def test_digests_and_attributes_of_style_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="give one of them"):
        document("t", "b", styles=["p {}"], style_attributes=True)


# ------------------------------------------------------------------------------------------------ what is vendored


def test_the_library_is_the_published_file() -> None:
    """`npm pack echarts@6.1.0`: the file of package/dist, byte for byte."""
    found = hashlib.sha256(library().encode()).hexdigest()
    assert found == "61f13280aba3161f77fc801bf5f9c786f55f10432153a0683fc5cc0700b013d5"


def test_the_library_evaluates_no_text() -> None:
    assert not re.search(r"\bnew Function\b|[^.\w]eval\(|[^.\w]Function\(", library())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("LICENSE", "Apache License"),
        ("NOTICE", "Apache ECharts"),
        ("LICENSE-d3", "Mike Bostock"),
        ("LICENSE-zrender", "BSD 3-Clause"),
    ],
)
def test_licences_lie_beside_the_library(name: str, says: str) -> None:
    assert says in (files("embedkit.pages") / "assets" / "echarts" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["charts.js", "map.js", "page.css"])
def test_our_own_code_makes_no_html_of_texts(name: str) -> None:
    code = asset(name)
    risky = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|@import|url\("
    assert not re.search(risky, code)
    assert not re.search(r"https?://", code)
