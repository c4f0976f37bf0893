import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from nights import write_night

from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.report.history import read_history
from autoresearch_jax.report.markdown import ALL_DIFFS, JOINER, markdown_page, words


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "[a link](javascript:alert(1)) | a | cell | `code` ![](https://example.org/x.png)",
        "# no heading",
        "- no list",
        "1. no list",
        "12. no list",
        "12)",
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
    assert shown.replace(JOINER, "") == text


@pytest.mark.parametrize("text", ["@someone", "see #12", "https://example.org", "www.example.org"])
def test_words_of_others_link_to_nothing_and_call_no_one(text: str) -> None:
    shown = words(text).replace("\\", "")
    assert JOINER in shown
    assert text not in shown


def test_all_diffs_of_a_page_together_are_bounded_and_the_last_are_there(night: RunFolder) -> None:
    with closing(Ledger.open_to_read(night.ledger)) as ledger:
        history = read_history(ledger, night)
        history = replace(history, kept=[*history.kept] * 20)
        sources = {edit.point.row.id: f"x = {edit.point.row.id}\n" * 2000 for edit in history.kept}
        page = markdown_page([history], [lambda number: sources.get(number, "")], ["autoresearch run"])
    assert page.count("```diff") < len(history.kept)
    assert f"<summary>Experiment {history.kept[-1].point.row.id}<" in page
    assert "are left out here" in page
    assert sum(map(len, re.findall("```diff.*?```", page, re.DOTALL))) < ALL_DIFFS + 2000


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
