"""Documents: links and named files exist, lines are short enough to read in a terminal."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
MAX_COLUMNS = 100
MAX_README_LINES = 110
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_NAMED = re.compile(r"\bdocs/[\w./-]+\.(?:md|svg)\b")
_FILE = re.compile(r"`([\w.-]+/[\w./-]+\.(?:py|sh|flags|md|jsonl))`")
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Lines outside of code blocks, with their numbers from 1."""
    in_code = False
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        elif not in_code and not line.startswith("    "):
            yield number, line


def anchors(document: Path) -> set[str]:
    """Anchors that GitHub gives the headings of a document."""
    text = "\n".join(line for _, line in prose(document.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(text)}


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in listed.split("\0") if name]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(document: Path):
    for target in _LINK.findall(document.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = document if not name else (document.parent / name).resolve()
        assert found.exists(), f"{target}: no such file"
        assert not anchor or anchor in anchors(found), f"{target}: no such heading"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_is_wrapped(document: Path):
    lines = prose(document.read_text(encoding="utf-8"))
    assert [n for n, line in lines if len(line) > MAX_COLUMNS and not line.lstrip().startswith("|")] == []


def test_documents_named_in_code_and_settings_exist():
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in tracked_files()
        if path.exists() and path.suffix in (".py", ".sh", ".flags", ".cfg", ".toml", ".md", ".jsonl")
        for name in _NAMED.findall(path.read_text(encoding="utf-8"))
        if not (ROOT / name).exists()
    ]
    assert missing == []


def test_files_named_in_documents_exist():
    missing = [
        f"{document.relative_to(ROOT)}: {name}"
        for document in DOCUMENTS
        for name in _FILE.findall(document.read_text(encoding="utf-8"))
        if not (ROOT / name).exists() and not (ROOT / "autoresearch_jax" / name).exists()
    ]
    assert missing == []


def test_an_experiment_passes_at_most_20_files():
    text = (ROOT / "docs" / "reference" / "architecture.md").read_text(encoding="utf-8")
    table = text[text.index("## The files that one experiment passes") : text.index("`engine/plan.py` computes")]
    assert 0 < len(re.findall(r"`[\w/]+\.py`", table)) <= 20


def test_every_document_is_listed():
    index = ROOT / "docs" / "README.md"
    listed = {(index.parent / target.partition("#")[0]).resolve() for target in _LINK.findall(index.read_text())}
    assert set((ROOT / "docs").rglob("*.md")) - {index} <= listed


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES
