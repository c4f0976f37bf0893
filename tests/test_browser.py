"""What tests of pages would not notice by themselves is noticed by the browser's helper."""

import pytest
from browser import VIEWS, showing

PAGE = """<!doctype html><html lang="en"><title>A page</title><main><h1>A page</h1>
<p id="grey" style="color: #bbb">hardly to be read</p><img src="https://example.org/x.png">
<button id="first">first</button><button id="bare" style="outline: none">bare</button>
<div tabindex="0" id="stop">a stop</div>
<script>console.error("said"); document.getElementById("bare").tabIndex = -1; alert("asked"); nothing()</script>
</main></html>"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory, chromium):
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(PAGE)
    with showing(chromium) as show:
        yield show(path.as_uri(), VIEWS[-1])


def test_what_goes_wrong_in_a_page_is_known(shown):
    said = "\n".join(shown.errors)
    assert all(words in said for words in ("said", "a dialog: asked", "nothing is not defined"))
    assert shown.off_loopback == ["https://example.org/x.png"]
    assert shown.page.evaluate("[innerWidth, matchMedia('(prefers-color-scheme: dark)').matches]") == [390, True]


def test_violations_are_told_by_rule_and_element(shown):
    assert "image-alt" in shown.violations()
    assert "#grey" in shown.violations()


def test_a_stop_that_the_keyboard_does_not_reach_shows(shown):
    assert shown.tab_stops() == ["BUTTON first", "BUTTON bare", "DIV stop"]
    assert shown.tabbed() == ["BUTTON first", "DIV stop"]
