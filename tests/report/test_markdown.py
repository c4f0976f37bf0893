from contextlib import closing
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from nights import write_night

from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.report.history import read_history
from autoresearch_jax.report.markdown import markdown_page, words


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "[a link](javascript:alert(1)) | a | cell | `code` ![](https://example.org/x.png)",
        "# no heading",
        "- no list",
        "1. no list",
        "*not* __strong__ ~~gone~~ $x$ @someone #12",
        "\\",
    ],
)
def test_words_of_others_are_shown_as_they_are(text: str) -> None:
    html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(words(text))
    shown = html.strip().removeprefix("<p>").removesuffix("</p>")
    assert "<" not in shown
    for character, entity in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        shown = shown.replace(character, entity)
    assert shown == text


def test_the_page_of_a_hostile_run_is_the_markup_that_we_wrote(tmp_path: Path) -> None:
    folder = write_night(tmp_path / "evil", 60, hostile=True, audited=True)
    with closing(Ledger.open_to_read(folder.ledger)) as ledger:
        history = read_history(ledger, folder)
        page = markdown_page([history], [ledger.source], ["autoresearch run --tag=again"])
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(page)
    assert "<img" not in html
    assert "<script" not in html
    assert "<a " not in html
    assert html.count("<details>") == len(history.kept) + 1
    assert html.count("<tr>") == len(history.kept) + 1
    assert "autoresearch run --tag=again" in html
    assert history.audits
    assert "Audit" in html
