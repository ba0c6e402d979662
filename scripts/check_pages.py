"""Open pages in headless Chromium, use them as a person would, and keep screenshots to be looked at.

    apt-get install chromium
    python scripts/check_pages.py out/map.html out/report.html --shots out/shots

For each page: no error on the console, no request but for the page itself, nothing wider than the screen, in
light, dark and on a phone; it prints. Of a map: hover shows a text, the legend hides a group, the search finds,
the wheel zooms, and how long these take. Of a report: its charts are drawn, hover shows figures, legends hide.
Exit code 1 where something is wrong.

Chromium is driven through a pipe (``--remote-debugging-pipe``), so that nothing else is needed.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DESKTOP, PHONE = (1280, 900), (390, 844)
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
          "--disable-component-update", "--remote-debugging-pipe", "--force-device-scale-factor=1")  # fmt: skip
_BAD = ("error", "warning", "assert")
_PATIENCE = 60.0  # seconds for an answer


class Browser:
    """A Chromium that answers to the DevTools protocol: JSON texts, each ended by a NUL."""

    def __init__(self, profile: str) -> None:
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()

        def connect() -> None:  # Chromium reads commands from 3 and writes to 4
            ours, theirs = os.dup(to_read), os.dup(to_write)
            os.dup2(ours, 3)
            os.dup2(theirs, 4)

        executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        if executable is None:
            sys.exit("chromium is not installed: apt-get install chromium")
        self._process = subprocess.Popen(
            [executable, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=connect, close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_read)
        os.close(to_write)
        self._number, self._rest, self.session = 0, b"", ""
        self.events: list[dict[str, Any]] = []

    def open_tab(self) -> None:
        """Attach to a new tab."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        self.session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, params: Mapping[str, object] | None = None) -> dict[str, Any]:
        """Send a command and wait for its answer; events on the way are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params or {}}
        if self.session:
            message["sessionId"] = self.session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + _PATIENCE
        while (answer := self._next(end)) is not None:
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)
        raise RuntimeError(f"{method}: no answer in {_PATIENCE:g} s")

    def _next(self, end: float) -> dict[str, Any] | None:
        """Return the next message, None where none comes until `end`."""
        while b"\0" not in self._rest:
            if not select.select([self._from], [], [], max(0.0, end - time.monotonic()))[0]:
                return None
            data = os.read(self._from, 1 << 16)
            if not data:
                raise RuntimeError("chromium has ended")
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def run(self, code: str) -> Any:  # noqa: ANN401 - whatever the expression is
        """Return what a JavaScript expression is, a promise's value included."""
        answer = self.call("Runtime.evaluate", {"expression": code, "awaitPromise": True, "returnByValue": True})
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{code[:80]}: {answer['exceptionDetails'].get('exception', answer)}")
        return answer["result"].get("value")

    def mouse(self, kind: str, x: float, y: float, more: Mapping[str, object] | None = None) -> None:
        """Move or press at a place of the window."""
        self.call("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **(more or {})})

    def click(self, x: float, y: float) -> None:
        """Press and let go."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, {"button": "left", "clickCount": 1})

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


@contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium with a profile of its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        opened = Browser(profile)
        try:
            opened.open_tab()
            yield opened
        finally:
            opened.close()


def look(tab: Browser, page: Path, *, size: tuple[int, int], scheme: str) -> None:
    """Open a page anew and wait until it is drawn."""
    tab.events.clear()
    width, height = size
    phone = size == PHONE
    tab.call(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone},
    )
    tab.call("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    tab.call("Page.navigate", {"url": page.resolve().as_uri()})
    for _ in range(300):
        if tab.run("document.readyState === 'complete' && location.protocol === 'file:'"):
            break
        time.sleep(0.1)
    settle(tab)


def settle(tab: Browser, seconds: float = 0.0) -> None:
    """Wait for two frames, and some seconds more."""
    tab.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
    time.sleep(seconds)


def complaints(tab: Browser, page: Path) -> list[str]:
    """Return errors and warnings of the console, and requests beside the page's own."""
    found = []
    for event in tab.events:
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            found.append(f"exception: {details.get('exception', {}).get('description', details['text'])}"[:400])
        elif event.get("method") == "Log.entryAdded":
            found.append(f"console: {params['entry']['text']}"[:300])
        elif event.get("method") == "Runtime.consoleAPICalled" and params["type"] in _BAD:
            found.append(f"console: {params['args']}"[:300])
        elif event.get("method") == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if url != page.resolve().as_uri() and not url.startswith("data:"):
                found.append(f"request: {url}")
    wide = tab.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    said = [f"{text} ({times} times)" for text, times in Counter(found).items()]
    return [*said, *([f"{wide} pixels wider than the screen"] if wide > 0 else [])]


def shoot(tab: Browser, path: Path, *, whole: bool = False) -> None:
    """Keep a screenshot."""
    shot = tab.call("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})
    path.write_bytes(base64.b64decode(shot["data"]))


def shoot_print(tab: Browser, path: Path) -> None:
    """Keep a screenshot of what is printed, on one long page."""
    tab.call("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    page = {"width": 720, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    tab.call("Emulation.setDeviceMetricsOverride", page)
    tab.run("window.dispatchEvent(new Event('beforeprint'))")
    settle(tab, 0.3)
    shoot(tab, path, whole=True)
    tab.call("Emulation.setEmulatedMedia", {"media": ""})


def check_map(tab: Browser, shots: Path, name: str) -> tuple[list[str], dict[str, Any]]:
    """Use a map; return what is wrong and how long things take."""
    wrong: list[str] = []
    tab.run("document.querySelector('.map-stage').scrollIntoView({block: 'start'})")
    settle(tab, 0.3)
    box = tab.run("(({x, y, width, height}) => [x, y, width, height])"
                  "(document.querySelector('.map-chart').getBoundingClientRect())")  # fmt: skip
    shown = sweep(tab, box)
    if shown is None:
        wrong.append("hover shows nothing")
    shoot(tab, shots / f"{name}-hover.png")
    before = tab.run("document.querySelector('.map-count').textContent")
    tab.run("document.querySelector('.map-legend button').click()")
    settle(tab, 0.2)
    hidden = tab.run("document.querySelector('.map-count').textContent")
    if hidden == before:
        wrong.append("the legend hides nothing")
    tab.run("document.querySelector('.map-all').click()")
    modes = tab.run("[...document.querySelector('.map-colour').options].map((o) => o.textContent)")
    for place, mode in enumerate(modes):
        tab.run(f"(() => {{ const s = document.querySelector('.map-colour'); s.selectedIndex = {place};"
                "s.dispatchEvent(new Event('change')); })()")  # fmt: skip
        settle(tab, 0.2)
        shoot(tab, shots / f"{name}-{mode.lower().replace(' ', '-')}.png")
    if tab.run("document.querySelector('.map-search') !== null"):
        wrong += check_search(tab, shots, name, shown or "")
    facts = {"points": before, "modes": modes, **timings(tab)}
    tab.mouse("mouseWheel", box[0] + box[2] / 2, box[1] + box[3] / 2, {"deltaX": 0, "deltaY": -240})
    settle(tab, 0.4)
    shoot(tab, shots / f"{name}-zoomed.png")
    tab.run("document.querySelector('.map-whole').click()")
    return wrong, facts


def sweep(tab: Browser, box: list[float]) -> str | None:
    """Move over the map until a card is shown; return its text."""
    x, y, width, height = box
    for down in range(1, 20):
        for along in range(1, 20):
            tab.mouse("mouseMoved", x + width * along / 20, y + height * down / 20)
            said = tab.run(
                "((card) => card.hidden ? null : (card.querySelector('.quote') ?? card).textContent)"
                "(document.querySelector('.map-card'))"
            )
            if said:
                return str(said)
    return None


def check_search(tab: Browser, shots: Path, name: str, shown: str) -> list[str]:
    """Look for the word of a text that hover has shown, and for one that is nowhere."""
    word = max(shown.split(), key=len, default="a")[:12]
    found = []
    for wanted in ("\u0001nowhere", word):
        tab.run(f"(() => {{ const s = document.querySelector('.map-search'); s.value = {json.dumps(wanted)};"
                "s.dispatchEvent(new Event('input')); })()")  # fmt: skip
        settle(tab, 0.5)
        found.append(tab.run("document.querySelectorAll('.map-found li').length"))
    shoot(tab, shots / f"{name}-search.png")
    tab.run("document.querySelector('.map-found button')?.click()")
    settle(tab, 0.2)
    pinned = tab.run("document.querySelector('.map-card').hasAttribute('data-pinned')")
    tab.run("(() => { const s = document.querySelector('.map-search'); s.value = ''; "
            "s.dispatchEvent(new Event('input')); })()")  # fmt: skip
    settle(tab, 0.4)
    wrong = [f"the search finds {found[0]} rows with what is nowhere"] if found[0] else []
    return wrong + ([] if found[1] and pinned else [f"the search for {word!r} finds nothing, or pins no point"])


def timings(tab: Browser) -> dict[str, Any]:
    """Return milliseconds that a move of the pointer and a step of the wheel take, frames included."""
    code = """(async () => {
      const canvas = document.querySelector('.map-chart canvas'), box = canvas.getBoundingClientRect();
      const frame = () => new Promise((done) => requestAnimationFrame(done));
      const ways = {
        hover: (i) => new MouseEvent('mousemove', { bubbles: true,
          clientX: box.x + box.width * (0.1 + 0.8 * ((i * 37) % 100) / 100),
          clientY: box.y + box.height * (0.1 + 0.8 * ((i * 61) % 100) / 100) }),
        zoom: (i) => new WheelEvent('wheel', { bubbles: true, cancelable: true, deltaY: i % 2 ? 100 : -100,
          clientX: box.x + box.width / 2, clientY: box.y + box.height / 2 }),
      };
      const found = {};
      for (const [name, make] of Object.entries(ways)) {
        const work = [], frames = [];
        for (let i = 0; i < (name === 'hover' ? 100 : 20); i++) {
          const begin = performance.now();
          canvas.dispatchEvent(make(i));
          work.push(performance.now() - begin);
          await frame(); await frame();
          frames.push((performance.now() - begin) / 2);
        }
        const middle = (values) => Math.round(values.sort((a, b) => a - b)[values.length >> 1] * 100) / 100;
        found[name + '_ms'] = middle(work); found[name + '_frame_ms'] = middle(frames);
      }
      return found;
    })()"""
    return dict(tab.run(code))


def check_charts(tab: Browser) -> list[str]:
    """Hover over each chart of a report, and press names of its legend; say where nothing follows."""
    wrong = []
    for name in tab.run("[...document.querySelectorAll('.chart')].map((place) => place.id)"):
        place = f"document.getElementById({json.dumps(name)})"
        tab.run(f"{place}.scrollIntoView({{block: 'center'}})")
        settle(tab, 0.3)
        x, y, width, height = tab.run(
            f"(({{x, y, width, height}}) => [x, y, width, height])({place}.getBoundingClientRect())"
        )
        card = f"[...{place}.children].some((e) => e.innerText?.trim() && getComputedStyle(e).opacity > 0.5)"
        places = [
            (x + width * along / 80, y + height * down / 40) for along in range(4, 80) for down in range(5, 36)
        ]
        if not any(tab.mouse("mouseMoved", *spot) or tab.run(card) for spot in places):
            wrong.append(f"hover shows nothing on the chart {name}")
        drawn = f"{place}.querySelector('canvas').toDataURL()"
        tab.mouse("mouseMoved", x + 2, y + height - 2)  # what the pointer was on is no longer drawn larger
        settle(tab, 0.3)
        before = tab.run(drawn)
        for along in range(2, 40):
            tab.click(x + width * along / 40, y + 14)
            tab.mouse("mouseMoved", x + 2, y + height - 2)
            settle(tab, 0.05)
            if tab.run(drawn) != before:
                tab.click(x + width * along / 40, y + 14)
                break
        else:
            wrong.append(f"the legend of the chart {name} hides nothing")
    return wrong


def check_report(tab: Browser) -> list[str]:
    """Say which charts of a report are empty."""
    code = """[...document.querySelectorAll('.chart')].filter((place) => {
      const canvas = place.querySelector('canvas');
      if (!canvas) return true;
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      return !data.some((value) => value);
    }).map((place) => place.id)"""
    return [f"the chart {name} is empty" for name in tab.run(code)]


def check(tab: Browser, page: Path, shots: Path) -> tuple[list[str], dict[str, Any]]:
    """Check one page in every way."""
    wrong: list[str] = []
    facts: dict[str, Any] = {}
    for scheme, size, kind in (("light", DESKTOP, "light"), ("dark", DESKTOP, "dark"), ("light", PHONE, "phone")):
        name = f"{page.stem}-{kind}"
        look(tab, page, size=size, scheme=scheme)
        settle(tab, 0.5)
        shoot(tab, shots / f"{name}.png", whole=True)
        wrong += [f"{kind}: {said}" for said in check_report(tab)]
        if kind == "light":
            wrong += [f"{kind}: {said}" for said in check_charts(tab)]
        if tab.run("document.querySelector('.map') !== null"):
            said, found = check_map(tab, shots, name)
            wrong += [f"{kind}: {each}" for each in said]
            facts[kind] = found
        wrong += [f"{kind}: {said}" for said in complaints(tab, page)]
    look(tab, page, size=DESKTOP, scheme="dark")
    shoot_print(tab, shots / f"{page.stem}-print.png")
    look(tab, page, size=DESKTOP, scheme="dark")
    printed = tab.call("Page.printToPDF", {"printBackground": True})
    (shots / f"{page.stem}.pdf").write_bytes(base64.b64decode(printed["data"]))
    return wrong + [f"print: {said}" for said in complaints(tab, page)], facts


def main() -> int:
    """Check the pages that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path, metavar="PAGE")
    parser.add_argument("--shots", type=Path, default=Path("out/shots"), metavar="DIR", help="default out/shots")
    args = parser.parse_args()
    args.shots.mkdir(parents=True, exist_ok=True)
    failed = False
    with browser() as tab:
        for page in args.pages:
            wrong, facts = check(tab, page, args.shots)
            print(json.dumps({"page": str(page), "bytes": page.stat().st_size, **facts}, indent=1))
            for each in wrong:
                print(f"WRONG: {each}")
            failed |= bool(wrong)
    print("screenshots and prints in", args.shots)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
