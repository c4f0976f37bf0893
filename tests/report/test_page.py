"""What a page, its Markdown, its picture and its diffs say of a run, without a browser."""

import io
import re
import warnings
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from ideas import HOSTILE
from markdown_it import MarkdownIt
from matplotlib.image import imread
from nights import write_night

from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.engine.certifying import Certificate, Word
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.report.diffs import MOST_ROWS, compare, unified
from autoresearch_jax.report.history import History, KeptEdit, read_history
from autoresearch_jax.report.markdown import ALL_DIFFS, JOINER, markdown_page, words
from autoresearch_jax.report.page import run_parts
from autoresearch_jax.report.picture import HEIGHT, WIDTH, progress_png, score_range


@pytest.fixture(scope="module")
def history(night: RunFolder) -> History:
    with closing(Ledger.open_to_read(night.ledger)) as ledger:
        return read_history(ledger, night)


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> History:
    """Of a run of hostile words."""
    folder = write_night(tmp_path_factory.mktemp("runs") / "evil", 60, hostile=True, audited=True)
    with closing(Ledger.open_to_read(folder.ledger)) as ledger:
        return read_history(ledger, folder)


def said_of(history: History, edit: KeptEdit) -> str:
    """What the page says of one kept edit, as text."""
    parts = run_parts(replace(history, kept=[edit]), lambda number: "", "")
    html = parts[f"kept-{edit.point.row.id}"].html
    return " ".join(re.sub("<[^>]*>", "", html).replace("&nbsp;", " ").split())


@pytest.fixture(scope="module")
def edit(history: History) -> KeptEdit:
    """A kept edit with a certificate."""
    found = Certificate(Word.KEPT, Estimate(0.01, 0.002), 0.8)
    return replace(history.kept[0], effect=found.gain, probability=found.probability, certificate=found)


def test_only_an_estimate_with_an_error_has_an_interval(history: History, edit: KeptEdit) -> None:
    assert "interval" in said_of(history, edit)
    greedy = replace(edit, effect=Estimate(0.01, 0.0), probability=None, certificate=None)
    assert "better" in said_of(history, greedy)
    assert "interval" not in said_of(history, greedy)


def test_a_probability_says_of_what_it_is(history: History, edit: KeptEdit) -> None:
    assert "real" in said_of(history, edit)
    revert = replace(edit, certificate=None)
    assert "takes out" in said_of(history, revert)


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


def test_all_diffs_of_a_page_together_are_bounded_and_the_last_are_there(history: History) -> None:
    history = replace(history, kept=[*history.kept] * 20)
    page = markdown_page([history], [lambda number: f"x = {number}\n" * 2000], ["autoresearch run"])
    assert page.count("```diff") < len(history.kept)
    assert f"<summary>Experiment {history.kept[-1].point.row.id}<" in page
    assert "are left out here" in page
    assert sum(map(len, re.findall("```diff.*?```", page, re.DOTALL))) < ALL_DIFFS + 2000


def test_the_page_of_a_hostile_run_is_the_markup_that_we_wrote(evil: History) -> None:
    hostile = "\n".join(HOSTILE)
    page = markdown_page([evil], [lambda number: f"x = {number}\n{hostile}\n```\n"], ["autoresearch run --tag=again"])
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(page)
    assert "<img" not in html
    assert "<script" not in html
    assert "<a " not in html
    assert html.count("<details>") == len(evil.kept) + 1
    assert html.count("<tr>") == len(evil.kept) + 1
    assert "autoresearch run --tag=again" in html
    assert evil.audits
    assert "Audit" in html


def test_the_picture_has_its_size_and_the_colours_of_what_it_shows(evil: History) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = imread(io.BytesIO(progress_png([evil])), format="png")
    assert picture.shape[:2] == (HEIGHT, WIDTH)
    colours = {
        tuple(colour) for colour in np.unique((picture[..., :3] * 255).round().astype(int).reshape(-1, 3), axis=0)
    }
    assert {(0x0B, 0x5F, 0xAE), (0x00, 0x73, 0x4F), (0xB3, 0x40, 0x2A)} <= colours


def test_a_wild_score_does_not_squash_the_others(evil: History) -> None:
    low, high = score_range([evil])
    champions = [point.row.score for point in evil.champions]
    assert low < min(champions)
    assert max(champions) < high
    assert high - low < 12 * (max(champions) - min(champions))


def test_several_runs_are_drawn_over_each_other(evil: History) -> None:
    assert progress_png([evil, evil]) != progress_png([evil])


BEFORE = "".join(f"line {number}\n" for number in range(30))


def test_changed_lines_stand_beside_each_other_with_three_lines_around_them() -> None:
    found = compare(BEFORE, BEFORE.replace("line 10\n", "line ten\nand a half\n"))
    assert (found.added, found.removed, found.left_out) == (2, 1, 0)
    assert [row.old for row in found.rows][:4] == ["line 7", "line 8", "line 9", "line 10"]
    changed = [(row.old_number, row.old, row.new_number, row.new) for row in found.rows if row.is_changed]
    assert changed == [(11, "line 10", 11, "line ten"), (None, None, 12, "and a half")]
    assert len(found.rows) == 8


def test_lines_that_are_left_out_between_changes_are_a_gap() -> None:
    found = compare(BEFORE, BEFORE.replace("line 2\n", "").replace("line 25\n", "line 25 \n"))
    assert sum(row.is_gap for row in found.rows) == 1
    assert [row.old for row in found.rows if row.is_changed] == ["line 2", "line 25"]


def test_a_long_change_is_cut_and_says_so() -> None:
    found = compare("", "x\n" * (MOST_ROWS + 7))
    assert len(found.rows) == MOST_ROWS
    assert found.left_out == 7
    assert found.added == MOST_ROWS + 7


def test_a_unified_diff_names_the_file() -> None:
    assert unified("a\n", "b\n", "train_lib.py").splitlines() == [
        *("--- a/train_lib.py", "+++ b/train_lib.py", "@@ -1 +1 @@", "-a", "+b")
    ]
