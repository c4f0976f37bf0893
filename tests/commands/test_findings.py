"""Tests of `autoresearch findings`: list, show, export, import."""

import json
import shutil
from contextlib import closing
from pathlib import Path

import pytest
from nights import write_night

from autoresearch_jax import cli
from autoresearch_jax.engine.certifying import Word, certificates
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.findings import folder as folder_module
from autoresearch_jax.findings.folder import SHIPPED, FindingFolder
from autoresearch_jax.findings.format import Evidence, Finding, base_digest, read_finding

BASE = "x = 1\ny = 2\n"
SEEN = Evidence("cpu", "abc", "20 s", 3, "keep", "2026-11-29", 0.01, 0.002, 0.97, certified=True)


def finding(id: str, new: str = "x = 2", **given) -> Finding:
    change = f"<<<<<<< SEARCH\nx = 1\n=======\n{new}\n>>>>>>> REPLACE\n"
    words = {"title": "Two", "category": "numerics", "status": "kept", "source": "a run", "evidence": (SEEN,)}
    return Finding(id, base=base_digest(BASE), about="Why.", change=change, **{**words, **given})


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(capsys, *words: str) -> tuple[int, str, str]:
    status = cli.main(["findings", *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def none_shipped(place, monkeypatch) -> None:
    """Reading all that are shipped takes a second."""
    monkeypatch.setattr(folder_module, "SHIPPED", place / "none")


def test_what_is_shipped_and_what_was_added_is_listed_and_shown(place, capsys, monkeypatch):
    FindingFolder(place / "runs" / "findings", print).add(finding("doubled"), BASE)
    status, out, err = call(capsys, "list")
    assert (status, err) == (0, "")
    assert len(out.splitlines()) == 2 + len(list(SHIPPED.glob("*.md")))
    (line,) = [line for line in out.splitlines() if line.startswith("doubled ")]
    assert "certified" in line
    assert "0.0100 +- 0.0020 better" in line
    monkeypatch.setattr(folder_module, "SHIPPED", place / "none")
    assert "certified" not in call(capsys, "list", "--device_class=TPU v4")[1]
    assert [one["id"] for one in json.loads(call(capsys, "list", "--format=json")[1])] == ["doubled"]
    assert call(capsys, "show", "doubled")[1] == (place / "runs/findings/doubled.md").read_text()
    shown = json.loads(call(capsys, "show", "doubled", "--format=json")[1])
    assert shown == json.loads((place / "runs/findings/doubled.json").read_text())
    assert shown["change"].startswith("--- a/")


@pytest.mark.parametrize("hostile", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_run_is_exported_and_imported_again(place, none_shipped, capsys, hostile):
    write_night(place / "runs" / "night", 40, seed=1, hostile=hostile)
    status, out, err = call(capsys, "export", "--tag=night", "--to=out")
    assert (status, err) == (0, "")
    pages = sorted((place / "out").glob("*.md"))
    assert len(pages) > 3
    assert all(character.isprintable() or character == "\n" for character in out)
    assert f"\nfindings:            {len(pages)}\n" in out
    read = [read_finding(page) for page in pages]
    assert {one.status for one in read} >= {"kept", "refuted"}
    with closing(Ledger.open_to_read(place / "runs" / "night" / "ledger.db")) as ledger:
        certified = sum(found.word is Word.CERTIFIED for found in certificates(ledger).values())
    assert sum(item.certified for one in read for item in one.evidence) == certified
    assert all(page.with_suffix(".json").exists() for page in pages)
    assert all((place / "out" / "bases" / f"{one.base}.txt").exists() for one in read)

    status, out, err = call(capsys, "import", "out")
    assert (status, err) == (0, "")
    assert [line.partition(": ")[2] for line in out.splitlines()] == ["added"] * len(pages)
    assert call(capsys, "import", str(pages[0]))[1] == f"{pages[0].stem}: is there already\n"
    assert read_finding(place / "runs" / "findings" / pages[0].name) == read[0]
    status, out, _ = call(capsys, "export", "--tag=night")
    assert "is there already" in out


def test_import_refuses_what_is_damaged_or_has_anothers_id_and_takes_the_rest(place, none_shipped, capsys):
    theirs = FindingFolder(place / "theirs", print)
    for one in (finding("a"), finding("b", "x = 4"), finding("c", "x = 5"), finding("same")):
        theirs.add(one, BASE)
    (place / "theirs" / "d.md").write_text("# nothing\n")
    FindingFolder(place / "runs" / "findings", print).add(finding("b", "x = 3"), BASE)
    page = place / "theirs" / "c.md"
    page.write_text(page.read_text().replace("x = 1", "x = 7"))
    status, out, err = call(capsys, "import", "theirs")
    assert status == 1
    assert out == "a: added\nsame: is there already, as a\n"
    assert [name in line for name, line in zip(("b:", "c:", "d.md:1"), err.splitlines(), strict=True)] == [True] * 3
    assert read_finding(place / "runs/findings/b.md") == finding("b", "x = 3")
    FindingFolder(place / "baseless", print).add(finding("e", "x = 6"), None)
    shutil.rmtree(place / "runs")
    assert call(capsys, "import", "baseless/e.md") == (0, "e: added, without its base\n", "")


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("show",), 2, "show ID"),
        (("lost",), 2, "import DIR|FILE"),
        (("show", "no-such"), 1, "no-such"),
        (("export",), 2, "--tag"),
        (("export", "--tag=none"), 1, "no ledger"),
        (("import", "nowhere.md"), 1, "nowhere.md"),
        (("import", "."), 2, "ID.md"),
        (("import", "a.json"), 2, "a.md"),
    ],
)
def test_mistakes_are_one_line(none_shipped, capsys, words, status, says):
    found, _, err = call(capsys, *words)
    assert (found, err.count("\n")) == (status, 1)
    assert says in err
