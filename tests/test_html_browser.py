"""The page of `tcpwatch report --html` in a browser: what it loads, shows and prints."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser
from html_pages import a_bad_week, page_file

PHONE, DESK = 390, 1280


class Server(http.server.ThreadingHTTPServer):
    """Serves a directory on loopback, and keeps what it was asked for."""

    def __init__(self, directory: Path) -> None:
        self.asked: list[str] = []
        server = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments: object) -> None:
                super().__init__(*arguments, directory=str(directory))  # type: ignore[arg-type]

            def log_message(self, format: str, *arguments: object) -> None:
                server.asked.append(self.path)

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pages")
    page_file(directory / "page.html", a_bad_week())
    return directory


@pytest.fixture(scope="module")
def server(pages: Path) -> Iterator[Server]:
    with Server(pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def url(server: Server) -> str:
    server.asked.clear()
    return f"http://127.0.0.1:{server.server_address[1]}/page.html"


def test_nothing_but_the_page_is_requested(browser: Browser, server: Server, url: str) -> None:
    browser.show(url, width=DESK)
    assert server.asked == ["/page.html"]
    requested = [each["request"]["url"] for each in browser.named("Network.requestWillBeSent")]
    assert [each for each in requested if not each.startswith("data:")] == [url]
    assert browser.named("Log.entryAdded") == [], "nothing is refused or wrong"


def test_the_text_is_there(browser: Browser, url: str) -> None:
    browser.show(url, width=DESK)
    text = browser.evaluate("document.body.innerText")
    for words in (
        "stalls",
        "Diagnosis",
        "10.66.2.2:3306",
        "idle-drop",
        "What to do",
        "tcp_keepalive_time=",
        "Evidence",
    ):
        assert words in text, words
    assert "worker & <script>alert(1)</script>" in text, "a hostile name is text"
    assert browser.evaluate("document.scripts.length") == 0


@pytest.mark.parametrize("width", [320, PHONE, 768, DESK])
def test_the_text_never_scrolls_sideways(browser: Browser, url: str, width: int) -> None:
    browser.show(url, width=width)
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    outside = browser.evaluate(
        "[...document.querySelectorAll('h1,h2,h3,p,li,td,code,dd')].filter(e => e.getClientRects().length"
        " && (e.getBoundingClientRect().right > innerWidth + 1 || e.scrollWidth > e.clientWidth + 1"
        " && getComputedStyle(e).display != 'inline')).map(e => e.outerHTML.slice(0, 200))"
    )
    assert outside == []
    squeezed = browser.evaluate(
        "[...document.querySelectorAll('h1,h2,h3,p,li,caption,dd')].filter(e => e.innerText.length > 40"
        " && e.getClientRects().length && e.getBoundingClientRect().width < 120).map(e => e.outerHTML)"
    )
    assert squeezed == []
    smallest = browser.evaluate(
        "Math.min(...[...document.querySelectorAll('p,li,td,code,svg text')].filter(e => e.getClientRects().length)"
        ".map(e => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert smallest >= 10


def test_drawings_fit_the_screen_and_the_marks_stay_inside(browser: Browser, url: str) -> None:
    for width in (PHONE, DESK):
        browser.show(url, width=width)
        outside = browser.evaluate(
            "[...document.querySelectorAll('.row svg :is(use, rect, line, text)')].filter(e => {"
            "const r = e.getBoundingClientRect(); return r.right > innerWidth || r.left < 0}).map(e => e.outerHTML)"
        )
        assert outside == []
        # A shape that is used has a size: its definition was found.
        assert browser.evaluate(
            "[...document.querySelectorAll('.row svg use')].every(e => e.getBoundingClientRect().height > 0)"
        )


def contrast(one: str, other: str) -> float:
    """The contrast of two CSS colours `rgb(…)` (WCAG 2)."""

    def luminance(colour: str) -> float:
        parts = [int(each) / 255 for each in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_are_readable(browser: Browser, url: str, dark: bool) -> None:
    browser.show(url, width=DESK, dark=dark)

    def style(selector: str, name: str) -> str:
        value = browser.evaluate(f"getComputedStyle(document.querySelector('{selector}')).{name}")
        assert isinstance(value, str)
        return value

    back = style("body", "backgroundColor")
    assert (contrast(back, "rgb(0,0,0)") < 2) == dark
    for selector, name in (
        ("body", "color"), (".numbers", "color"), ("b.fatal", "color"), ("b.survived", "color"),
        ("svg text", "fill"),
    ):  # fmt: skip
        assert contrast(style(selector, name), back) >= 4.5, selector
    for selector in ("rect.fatal", "rect.survived", "#predicted path"):
        assert contrast(style(selector, "fill"), back) >= 3, selector
    panel = style("section.advice", "backgroundColor")
    assert contrast(style("section.advice", "color"), panel) >= 4.5


def test_it_prints(browser: Browser, url: str) -> None:
    browser.show(url, width=DESK, dark=True)
    paper = browser.pdf()
    assert paper.startswith(b"%PDF-") and len(paper) > 20_000
    assert 2 <= paper.count(b"/Type /Page\n") + paper.count(b"/Type /Page ") + paper.count(b"/Type /Page>") <= 30
