"""The page in a real browser: no script error, every section, every chart drawn, and what a reader can press."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from robustreg.report import write_report

pytest.importorskip("plotly", reason="the report needs plotly")
pytest.importorskip("jinja2", reason="the report needs jinja2")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SECTIONS = [
    "summary",
    "accuracy",
    "curve",
    "distances",
    "terms",
    "validation",
    "examples",
    "cost",
    "reproduce",
]

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: none of chromium, chromium-browser, google-chrome is on PATH"
)
needs_driver = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="no Chromium that can be driven: chromedriver is not on PATH"
)


def opened(page: Path, profile: Path) -> tuple[str, list[str]]:
    """The document after its scripts have run, and what they wrote to the console, errors included."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "--enable-logging=stderr", "--v=0"]
    command += ["--virtual-time-budget=5000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=180, check=True)
    messages = done.stderr.decode(errors="replace").splitlines()
    return done.stdout.decode(), [line for line in messages if "CONSOLE" in line]


@needs_chromium
def test_script_errors_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<!DOCTYPE html><p id=before></p><script>throw new Error('seen')</script>")
    document, console = opened(page, tmp_path / "profile")
    assert 'id="before"' in document
    assert len(console) == 1
    assert "seen" in console[0]


@needs_chromium
@pytest.mark.parametrize("kind", ["run", "comparison", "empty"])
def test_the_page_runs_without_errors(
    kind: str, make_run: Callable[..., Path], make_comparison: Callable[..., Path], tmp_path: Path
) -> None:
    if kind == "run":
        folder = make_run()
    elif kind == "comparison":
        folder = make_comparison(seeds=2, names={"penalty": "<script>alert(1)</script> & <b>"})
    else:
        folder = make_comparison()
        (folder / "compare.json").write_text('{"runs": []}')
    document, console = opened(write_report(folder), tmp_path / "profile")
    assert console == []
    found = re.findall(r'<section id="([a-z]+)"', document)
    assert found == (SECTIONS if kind == "run" else ["summary", "leaderboard", *SECTIONS[1:]])
    canvases = re.findall(r'id="chart-[a-z0-9-]+" class="canvas', document)
    assert len(canvases) == {"run": 7, "comparison": 9, "empty": 0}[kind]
    assert document.count('class="subplot xy"') == len(canvases)  # made by Plotly for each chart that it drew
    # Names are shown as they stand in what the browser made of the page, too.
    assert "<script>alert" not in document
    assert "<b>, " not in document


class Browser:
    """Just enough of the WebDriver protocol, over plain HTTP."""

    def __init__(self, profile: Path, width: int, dark: bool) -> None:
        self.process = subprocess.Popen([str(DRIVER), "--port=0"], stdout=subprocess.PIPE, text=True)
        try:
            self.base = f"http://127.0.0.1:{self._port()}"
            size = {
                "width": width,
                "height": 800,
                "pixelRatio": 1,
                "mobile": width < 600,
                "touch": width < 600,
            }
            options = {
                "binary": CHROMIUM,
                "args": [
                    *FLAGS,
                    f"--user-data-dir={profile}",
                    f"--blink-settings=preferredColorScheme={int(not dark)}",
                ],
                "mobileEmulation": {"deviceMetrics": size},
            }
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            made = self._send("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self.session = f"/session/{made['sessionId']}"
        except BaseException:
            self.process.terminate()
            raise

    def open(self, page: Path) -> None:
        self._send("POST", f"{self.session}/url", {"url": page.as_uri()})

    def run(self, script: str) -> Any:
        return self._send("POST", f"{self.session}/execute/sync", {"script": script, "args": []})

    def prefer(self, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        command = {"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}}
        self._send("POST", f"{self.session}/goog/cdp/execute", command)

    def console(self) -> list[Any]:
        messages: list[Any] = self._send("POST", f"{self.session}/se/log", {"type": "browser"})
        return messages

    def close(self) -> None:
        try:
            self._send("DELETE", self.session, None)
        finally:
            self.process.terminate()
            self.process.wait(timeout=30)
            assert self.process.stdout is not None
            self.process.stdout.close()

    def _port(self) -> int:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(r"started successfully on port (\d+)", line):
                return int(found[1])
        raise RuntimeError("chromedriver did not start")

    def _send(self, method: str, path: str, body: Any) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.base + path, data, {"Content-Type": "application/json"}, method=method
        )
        # A proxy from the environment has no business between this machine and itself.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            request, timeout=120
        ) as answer:
            return json.load(answer)["value"]


@pytest.fixture
def browse(tmp_path: Path) -> Iterator[Callable[..., Browser]]:
    made: list[Browser] = []

    def start(width: int = 1280, dark: bool = False) -> Browser:
        made.append(Browser(tmp_path / f"profile-{len(made)}", width, dark))
        return made[-1]

    yield start
    for browser in made:
        browser.close()


@needs_driver
def test_it_fits_a_phone_and_a_laptop_in_both_themes(
    browse: Callable[..., Browser], make_comparison: Callable[..., Path]
) -> None:
    page = write_report(
        make_comparison(names={"penalty": "gradient_norm_penalty_linf_with_a_very_long_name_0.1"})
    )
    for width in (390, 1280):
        browser = browse(width=width)
        browser.open(page)
        browser.run("for (const part of document.querySelectorAll('details')) part.open = true")
        assert browser.run("return innerWidth") == width
        assert browser.run("return document.documentElement.scrollWidth") <= width
        drawings = "[...document.querySelectorAll('.canvas .main-svg')]"
        right = browser.run(f"return {drawings}.map(drawing => drawing.getBoundingClientRect().right)")
        assert 0 < max(right) <= width
        paper = "getComputedStyle(document.body).backgroundColor"
        line = "[...document.querySelectorAll('#chart-curve-0 .js-line')].at(-1).style.stroke"
        light = browser.run(f"return [{paper}, {line}]")
        browser.prefer("dark")
        dark = light
        patience = time.monotonic() + 20  # the charts are redrawn after the page has turned
        while (dark[0] == light[0] or dark[1] == light[1]) and time.monotonic() < patience:
            dark = browser.run(f"return [{paper}, {line}]")
        assert light[0] != dark[0]
        assert light[1] != dark[1]
        assert browser.console() == []


@needs_driver
def test_the_leaderboard_sorts_and_the_legend_hides(
    browse: Callable[..., Browser], make_comparison: Callable[..., Path]
) -> None:
    browser = browse()
    browser.open(write_report(make_comparison()))
    board = "document.querySelector('#leaderboard table')"
    names = f"return [...{board}.tBodies[0].rows].map(row => row.cells[0].innerText.trim())"
    headings = f"return [...{board}.tHead.rows[0].cells].map(cell => cell.getAttribute('aria-sort'))"

    def press(column: int) -> None:
        browser.run(f"{board}.tHead.rows[0].cells[{column}].querySelector('button').click()")

    assert browser.run(names) == ["perturbed", "penalty", "plain"]
    press(1)
    assert browser.run(names) == ["perturbed", "plain", "penalty"]
    assert browser.run(headings)[:3] == [None, "descending", None]
    press(1)
    assert browser.run(names) == ["penalty", "plain", "perturbed"]
    press(0)
    assert browser.run(names) == ["penalty", "perturbed", "plain"]

    lines = "return document.querySelectorAll('#chart-curve-0 .js-line').length"
    button = "document.querySelector('#curve .legend button')"
    everything = browser.run(lines)
    browser.run(f"{button}.click()")
    assert browser.run(f"return {button}.getAttribute('aria-pressed')") == "false"
    fewer = browser.run(lines)
    assert 0 < fewer < everything
    browser.run(f"{button}.click()")
    assert browser.run(lines) == everything
    assert browser.console() == []
