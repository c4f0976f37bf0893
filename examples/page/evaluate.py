"""Weight, largest paint, layout shift and accessibility of the built site in one number, smaller is better.

    score = kilobytes / --kilobytes + paint_ms / --paint_ms + layout_shift / --layout_shift + violations / --violations

It opens the site in headless Chromium with a throttled CPU and no network. All that it reads comes from the browser's
own events or from a world of JavaScript that the page's scripts cannot reach.
"""

import argparse
import io
import json
import math
import os
import shutil
import signal
import statistics
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import axe_playwright_python
import numpy as np
import pictures
from PIL import Image
from playwright.sync_api import Browser, CDPSession, Error, Page, Route, sync_playwright

SITE = "http://site.invalid/"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_NETWORK = (  # for what is no request that can be answered here, such as a WebSocket: no names, no proxy, no UDP
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--proxy-server=http://127.0.0.1:9",
    "--proxy-bypass-list=<-loopback>",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
)
CPU_SLOWDOWN = 4
SETTLE_MS = 500  # after the page shows all that it must say: what moves then still counts
WORDS_LOOKS = 20  # for that, so far apart
LOAD_LIMIT_MS = 60_000
PAGE_SECONDS = 240  # for all of a page; above what a busy machine takes
TEXTS = (
    "One pass for every ferry on the bay",
    "Hold the pass to the reader at the pier.",
    "38 a month, 390 a year",
    "Cancel a monthly pass on any day",
    "Harbour to Gull Island, every 20 minutes.",
    "Can two people share a pass?",
    "Four kilometres of beach",
    "the 9:40 to Gull Island leaves from pier 2 today",
)
LINKS = ("/buy", "/timetable", "/terms", "/companies", "/contact", "/privacy")
LEAST_PICTURE_WIDTH = 480
LEAST_DECIBELS = 26.0  # peak signal-to-noise ratio of a picture on the page to the one that was drawn
COMPARED_SIZE = (160, 90)
# A loop of known work, timed in the same browser: what the machine's other work adds to a paint is divided out.
REFERENCE_MS = 90.0  # that it takes with the throttle on an idle core of the machine of README.md
REFERENCE = """(() => { const begin = performance.now(); let x = 0;
  for (let i = 0; i < 1000000; i++) x += Math.sin(i) * Math.cos(x);
  return performance.now() - begin + 0 * x })()"""
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
LOOK = """(texts, links) => {
  const shown = one => one.checkVisibility({opacityProperty: true, visibilityProperty: true}) &&
    one.getClientRects().length > 0;
  const words = document.body.innerText.replace(/\\s+/g, ' ');
  const hrefs = [...document.links].filter(shown).map(one => one.getAttribute('href'));
  return {texts: texts.filter(text => !words.includes(text)), links: links.filter(link => !hrefs.includes(link))}}"""


class InvalidPage(Exception):
    """The page has lost something that it must have."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for part in ("kilobytes", "paint_ms", "layout_shift", "violations"):
        parser.add_argument(f"--{part}", type=float, required=True, help="what adds 1 to the score")
    units = vars(parser.parse_args())
    request = json.loads(sys.stdin.readline())
    viewports = json.loads(Path(request["files"][0]).read_text())
    site = Path(request["out"])
    with chromium() as browser:
        signal.signal(signal.SIGALRM, give_up)
        signal.alarm(PAGE_SECONDS)
        try:
            views = [measure(browser, site, viewport) for viewport in viewports]
        except (InvalidPage, Error) as error:
            say({"invalid": str(error).splitlines()[0]})
            return
        signal.alarm(0)
    parts = {part: statistics.fmean(view[part] for view in views) for part in units}
    say({"score": sum(parts[part] / unit for part, unit in units.items()), **parts})


def give_up(*_: object) -> None:
    """Ends the evaluation of a page that keeps the browser busy; the browser ends with this process."""
    say({"invalid": f"the page was not still within {PAGE_SECONDS} s"})
    os._exit(0)


def say(result: Mapping[str, object]) -> None:
    """Prints the last line of an evaluation."""
    print(json.dumps(result), flush=True)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium without a network."""
    path = next((found for name in BROWSERS if (found := shutil.which(name)) is not None), None)
    if path is None:
        sys.exit("no Chromium on PATH: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            chromium_sandbox=os.geteuid() != 0,  # it refuses root
            args=["--disable-gpu", *NO_NETWORK],
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, site: Path, viewport: Mapping[str, int]) -> Iterator[tuple[Page, CDPSession, list[int]]]:
    """A blank page that can reach nothing but the site's files; what they weigh is added to the list."""
    weights: list[int] = []

    def answer(route: Route) -> None:
        name = route.request.url.removeprefix(SITE).partition("?")[0] or "index.html"
        path = (site / name).resolve()
        if route.request.url.startswith(SITE) and path.is_relative_to(site.resolve()) and path.is_file():
            body = path.read_bytes()
            weights.append(len(body))
            route.fulfill(body=body, content_type=content_type(path))
        else:
            route.abort()

    context = browser.new_context(viewport=viewport, service_workers="block", offline=True, accept_downloads=False)
    try:
        page = context.new_page()
        page.set_default_timeout(LOAD_LIMIT_MS)
        page.route("**/*", answer)
        yield page, context.new_cdp_session(page), weights
    finally:
        context.close()


def content_type(path: Path) -> str:
    """The media type of a file of the site."""
    types = {".html": "text/html", ".png": "image/png", ".jpeg": "image/jpeg", ".webp": "image/webp"}
    types |= {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    return types.get(path.suffix, "application/octet-stream")


def measure(browser: Browser, site: Path, viewport: Mapping[str, int]) -> dict[str, float]:
    """The parts of the score in one viewport, of one load with an empty cache.

    Raises:
      InvalidPage: it paints nothing, or has lost what it must have.
    """
    with opened(browser, site, viewport) as (page, session, weights):
        paints: list[float] = []
        shifts: list[float] = []
        begins: list[float] = []

        def note(event: Any) -> None:
            if (paint := event["event"].get("lcpDetails")) is not None:
                paints.append(paint["renderTime"] or paint["loadTime"])
            if (shift := event["event"].get("layoutShiftDetails")) is not None:
                shifts.append(shift["value"])

        session.on("PerformanceTimeline.timelineEventAdded", note)
        session.on("Network.requestWillBeSent", lambda event: begins.append(event["wallTime"]))
        session.send("Network.enable")
        session.send("Emulation.setCPUThrottlingRate", {"rate": CPU_SLOWDOWN})
        slowness = page.evaluate(REFERENCE) / REFERENCE_MS
        session.send("PerformanceTimeline.enable", {"eventTypes": ["largest-contentful-paint", "layout-shift"]})
        page.goto(SITE, wait_until="load")
        require_words(page, session)
        page.wait_for_timeout(SETTLE_MS)
        if not paints or not begins:
            raise InvalidPage("the browser painted no content")
        parts = {"paint_ms": 1000 * (paints[-1] - begins[0]) / slowness, "layout_shift": sum(shifts)}
        parts["kilobytes"] = sum(weights) / 1000
        session.send("Emulation.setCPUThrottlingRate", {"rate": 1})
        parts["violations"] = violations(session)
        require_pictures(page, session)
        return parts


def violations(session: CDPSession) -> int:
    """Elements of the page that break a rule of axe-core, one for each rule."""
    count = "found.violations.reduce((sum, rule) => sum + rule.nodes.length, 0)"
    return int(alone(session, f"{AXE}; axe.run(document).then(found => {count})"))


def alone(session: CDPSession, expression: str) -> Any:
    """The value of an expression in a world where the page's scripts have changed nothing.

    Raises:
      InvalidPage: it has none.
    """
    frame = session.send("Page.getFrameTree")["frameTree"]["frame"]["id"]
    world = session.send("Page.createIsolatedWorld", {"frameId": frame})["executionContextId"]
    options = {"contextId": world, "awaitPromise": True, "returnByValue": True}
    found = session.send("Runtime.evaluate", {"expression": expression, **options})
    if "exceptionDetails" in found:
        raise InvalidPage(f"the page cannot be read: {found['exceptionDetails']['text']}")
    return found["result"]["value"]


def require_words(page: Page, session: CDPSession) -> None:
    """Waits until the page shows all that it must say.

    Raises:
      InvalidPage: a text or a link does not appear.
    """
    for _ in range(WORDS_LOOKS):
        lost = alone(session, f"({LOOK})({json.dumps(TEXTS)}, {json.dumps(LINKS)})")
        if not any(lost.values()):
            return
        page.wait_for_timeout(SETTLE_MS)
    kind, missing = next((kind, missing) for kind, missing in lost.items() if missing)
    raise InvalidPage(f"{kind} that must stay are gone: {', '.join(missing)}")


def require_pictures(page: Page, session: CDPSession) -> None:
    """Compares the pictures with the originals.

    Raises:
      InvalidPage: one is gone, too small, or another.
    """
    for name in pictures.NAMES:
        picture = page.locator(f'img[data-picture="{name}"]')
        if picture.count() != 1:
            raise InvalidPage(f"the page must have one picture {name}")
        picture.scroll_into_view_if_needed()
        element = f"document.querySelector('img[data-picture={name}]')"
        width = alone(session, f"{element}.decode().then(() => {element}.naturalWidth)")
        if width < LEAST_PICTURE_WIDTH:
            raise InvalidPage(f"picture {name} is {width} pixels wide, at least {LEAST_PICTURE_WIDTH} are asked for")
        if (decibels := likeness(picture.screenshot(), name)) < LEAST_DECIBELS:
            raise InvalidPage(
                f"picture {name} is not like the original: {decibels:.1f} dB, {LEAST_DECIBELS:g} at least"
            )


def likeness(screenshot: bytes, name: str) -> float:
    """Peak signal-to-noise ratio of a picture on the page to the one that was drawn, in decibels."""
    found, drawn = (
        np.asarray(image.convert("RGB").resize(COMPARED_SIZE, Image.Resampling.LANCZOS), dtype=np.float64)
        for image in (Image.open(io.BytesIO(screenshot)), pictures.draw(name, 640))
    )
    error = float(((found - drawn) ** 2).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


if __name__ == "__main__":
    main()
