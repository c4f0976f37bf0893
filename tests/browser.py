"""A real Chromium for tests of pages: what goes wrong in it, or asks for anything off this machine, fails the test."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Locator, LocatorAssertions, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HEIGHT = 900
WAIT_SECONDS = 20.0  # for what a page does by itself: a busy machine may take long, a test fails by it alone
LOCAL_SCHEMES = ("file", "data", "blob", "about")
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
# What a person can come to by the Tab key; of radio buttons the checked one stands for its group.
STOPS = "a[href], button, select, textarea, summary, [tabindex='0'], input:not([type=radio]), input[type=radio]:checked"
_VISIBLE_STOPS = """stops => [...document.querySelectorAll(stops)].filter(
  one => one.checkVisibility() && !one.disabled && one.getClientRects().length).map(name)"""
_NAME = """name = one => `${one.tagName} ${one.id || one.name || one.getAttribute('aria-label') || one.textContent}`
  .replace(/\\s+/g, ' ').slice(0, 80)"""


@dataclass(frozen=True)
class View:
    """How a page is looked at."""

    width: int = 1280
    scheme: str = "light"

    def __str__(self) -> str:
        return f"{self.width}-{self.scheme}"


VIEWS = tuple(View(width, scheme) for width in (1280, 390) for scheme in ("light", "dark"))
# The first and the last represent the others in the fast suite.
EACH_VIEW = [pytest.param(view, id=str(view), marks=[pytest.mark.slow] * (view in VIEWS[1:-1])) for view in VIEWS]


@dataclass
class Shown:
    """A page that is open, and what it did so far.

    Attributes:
      page: playwright's.
      errors: what it said on its console, threw or asked in a dialog.
      requests: all addresses that it asked for.
    """

    page: "Page"
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def off_loopback(self) -> list[str]:
        """Requests to anywhere but this machine."""
        return [url for url in self.requests if not _is_local(url)]

    def violations(self) -> str:
        """What axe-core finds, readable; empty if it finds nothing."""
        from axe_playwright_python.sync_playwright import Axe

        results = Axe().run(self.page)
        return "" if results.violations_count == 0 else results.generate_report()

    def tab_stops(self) -> list[str]:
        """Where focus should come to by the Tab key, by name."""
        return list(self.page.evaluate(f"stops => {{ const {_NAME}; return ({_VISIBLE_STOPS})(stops) }}", STOPS))

    def tabbed(self) -> list[str]:
        """Where focus comes to by the Tab key, from the beginning of the page; "(unseen)" after one without a ring."""
        self.page.evaluate("document.activeElement.blur(), window.scrollTo(0, 0)")
        self.page.mouse.click(1, 1)
        found: list[str] = []
        for _ in range(2 * len(self.tab_stops()) + 5):
            self.page.keyboard.press("Tab")
            name = self.page.evaluate(
                f"""() => {{ const {_NAME}, one = document.activeElement;
                if (!one || one === document.body) return null;
                return name(one) + (parseFloat(getComputedStyle(one).outlineWidth) > 0 ? '' : ' (unseen)') }}"""
            )
            if name is None or name in found[:1]:
                break
            found.append(name)
        return found

    def points(self) -> "Locator":
        """The markers that the chart of progress has drawn."""
        return self.page.locator("#progress .scatterlayer .point")


Show = Callable[..., Shown]


def expect(locator: "Locator", seconds: float = WAIT_SECONDS) -> "LocatorAssertions":
    """Playwright's assertions, which wait until they hold, and fail if that takes too long."""
    from playwright.sync_api import expect

    expect.set_options(timeout=1000 * seconds)
    return expect(locator)


def find_chromium() -> str | None:
    """The path of a Chromium that is installed on this machine."""
    return next((path for name in NAMES if (path := shutil.which(name)) is not None), None)


@contextmanager
def running_chromium() -> Iterator["Browser"]:
    """A headless Chromium; skips the test where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: ./scripts/setup.sh dev")
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium on PATH: apt-get install chromium")
    only_here = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"
    flags = ["--no-sandbox", "--disable-gpu", only_here]  # Chromium's own sandbox refuses root
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def showing(browser: "Browser") -> Iterator[Show]:
    """A function that opens an address in a view; its pages are closed at the end."""
    contexts = []

    def show(url: str, view: View = View()) -> Shown:
        context = browser.new_context(
            viewport={"width": view.width, "height": HEIGHT},
            color_scheme=view.scheme,
        )
        contexts.append(context)
        context.set_default_timeout(1000 * WAIT_SECONDS)
        shown = Shown(context.new_page())
        page = shown.page

        def said(message: "ConsoleMessage") -> None:
            if message.type == "error":
                shown.errors.append(f"{message.text} ({message.location.get('url', '')})")

        page.on("console", said)
        page.on("pageerror", lambda error: shown.errors.append(str(error)))
        page.on("dialog", lambda dialog: (shown.errors.append(f"a dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: shown.requests.append(request.url))
        page.goto(url, wait_until="domcontentloaded")
        return shown

    try:
        yield show
    finally:
        for context in contexts:
            context.close()


def _is_local(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in LOCAL_SCHEMES or parts.hostname in LOCAL_HOSTS
