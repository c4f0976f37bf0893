"""Tests of folders of findings: what is stored, what is put together, what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from autoresearch_jax.edits import apply_edits, read_edits
from autoresearch_jax.findings.folder import SHIPPED, FindingFolder, FindingStore, Library, id_of_content
from autoresearch_jax.findings.format import Evidence, FindingError, read_finding

SEEN = Evidence("cpu", "abc", "20 s", 1, "discard", "2026-11-29", -0.01, 0.002, 0.01)
OTHER = replace(SEEN, device_class="NVIDIA H100 80GB HBM3", decision="keep", effect=0.01, probability=0.98)


def as_folder(path: Path, notice) -> FindingStore:
    return FindingFolder(path, notice)


def as_library(path: Path, notice) -> FindingStore:
    return Library([FindingFolder(path / "shipped", notice), FindingFolder(path / "own", notice)], notice)


@pytest.fixture(params=[as_folder, as_library])
def store(request, tmp_path) -> FindingStore:
    return request.param(tmp_path, [].append)


def test_a_store_gives_what_was_added(store, make_finding, base):
    assert store.findings() == []
    assert store.base_text(make_finding("a").base) is None
    for finding in (make_finding("b"), make_finding("a", replace="return 0")):
        assert store.add(finding, base) == "added"
    assert [finding.id for finding in store.findings()] == ["a", "b"]
    assert store.base_text(make_finding("a").base) == base


def test_the_same_change_again_adds_its_evidence(store, make_finding, base):
    first = make_finding("a", status="refuted", evidence=(SEEN,))
    assert store.add(make_finding("a"), base) == "added"
    assert store.add(first, base) == "evidence added"
    assert store.add(first, base) == "is there already"
    assert store.findings() == [first]
    assert store.add(make_finding("a", status="kept", evidence=(OTHER,)), None) == "evidence added"
    (found,) = store.findings()
    assert (found.status, found.evidence) == ("unclear", (SEEN, OTHER))


def test_another_change_under_the_same_id_is_refused_and_nothing_is_lost(store, make_finding, base):
    store.add(make_finding("a"), base)
    with pytest.raises(FindingError, match="a: another finding"):
        store.add(make_finding("a", replace="return 0"), base)
    assert store.findings() == [make_finding("a")]


def test_a_finding_that_does_not_fit_its_base_is_refused(store, make_finding, base):
    with pytest.raises(FindingError, match="its own base"):
        store.add(make_finding("a", search="return y"), base)
    with pytest.raises(FindingError, match=r"bases/"):
        store.add(make_finding("a"), f"{base}\n")
    assert store.findings() == []


def test_a_page_has_a_twin_in_json_with_a_diff(tmp_path, make_finding, base):
    finding = make_finding("a", status="refuted", evidence=(SEEN,))
    FindingFolder(tmp_path, print).add(finding, base)
    twin = json.loads((tmp_path / "a.json").read_text())
    assert apply_edits(base, read_edits(twin["change"])) == apply_edits(base, finding.edits)
    assert twin["evidence"][0]["effect"] == SEEN.effect
    assert {name: twin[name] for name in ("id", "status", "base")} == {
        "id": "a",
        "status": "refuted",
        "base": finding.base,
    }
    assert read_finding(tmp_path / "a.md") == finding


def test_a_page_that_cannot_be_read_is_told_of_once_until_it_is_mended(tmp_path, make_finding, base):
    told: list[str] = []
    folder = FindingFolder(tmp_path, told.append)
    folder.add(make_finding("a"), base)
    whole = (tmp_path / "a.md").read_text()
    (tmp_path / "b.md").write_text("# no finding\n")
    for _ in range(2):
        assert [finding.id for finding in folder.findings()] == ["a"]
    assert len(told) == 1
    assert "b.md:1" in told[0]
    (tmp_path / "b.md").write_text(whole.replace("id: a", "id: b"))
    assert [finding.id for finding in folder.findings()] == ["a", "b"]


def test_a_damaged_base_is_no_base(tmp_path, make_finding, base):
    folder = FindingFolder(tmp_path, print)
    folder.add(make_finding("a"), base)
    path = tmp_path / "bases" / f"{make_finding('a').base}.txt"
    path.write_text("x = 1\n")
    assert folder.base_text(make_finding("a").base) is None


def test_a_library_puts_evidence_together_and_leaves_out_what_has_anothers_id(tmp_path, make_finding, base):
    told: list[str] = []
    folders = [FindingFolder(tmp_path / name, told.append) for name in ("shipped", "own")]
    folders[0].add(make_finding("a"), base)
    folders[1].add(make_finding("a", status="refuted", evidence=(SEEN,)), base)
    folders[1].add(make_finding("a-again"), base)
    folders[0].add(make_finding("b", replace="return 2"), base)
    folders[1].add(make_finding("b", replace="return 0"), base)
    library = Library(folders, told.append)
    for _ in range(2):
        first, second = library.findings()
    assert (first.status, first.evidence) == ("refuted", (SEEN,))
    assert second == make_finding("b", replace="return 2")
    assert [line.startswith("b: ") for line in told] == [True]
    assert library.get("a") == library.get(id_of_content(make_finding("of-a-peer"))) == first
    assert library.add(make_finding("other-words", evidence=(OTHER,)), base) == "evidence added, as a"
    with pytest.raises(FindingError, match="none"):
        library.get("none")
    assert library.add(make_finding("c", replace="return 1"), base) == "added"
    assert (tmp_path / "own" / "c.md").exists()


def test_the_shipped_library_is_beside_the_code():
    assert SHIPPED.parent.name == "autoresearch_jax"


def test_an_exact_id_comes_before_the_same_digits(make_finding, base, tmp_path):
    library, plain = as_library(tmp_path, [].append), make_finding("b")
    edited = make_finding(id_of_content(plain), replace="return 0")  # exported from a peer's, and changed since
    for finding in (plain, edited):
        library.add(finding, base)
    assert library.get(edited.id) == edited
    assert library.get(f"other-words-{edited.id.rpartition('-')[2]}") == plain
