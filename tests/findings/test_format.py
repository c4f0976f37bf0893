"""Tests of a finding's page: read, written, applied to the text it was made for and to others."""

from dataclasses import replace

import pytest

from autoresearch_jax.edits import apply_edits
from autoresearch_jax.findings.format import (
    Evidence,
    FindingError,
    apply_finding,
    base_digest,
    device_class,
    diff_change,
    finding_text,
    parse_finding,
    read_finding,
    write_finding,
)

BASE = "LR = 0.5\n\n\ndef loss(x):\n    return x * x\n\n\ndef rate(x):\n    return x\n"
PAGE = f"""---
id: absolute-loss
title: Absolute loss
category: regularization      # robust
status: idea
source: https://example.org/paper?x=1
base: {base_digest(BASE)}
evidence: []
---

Outliers weigh less.

## Change

```
<<<<<<< SEARCH
    return x * x
=======
    return abs(x)
>>>>>>> REPLACE
```
"""
EVIDENCE = Evidence(
    "cpu", "abc", "20 s", 3, "keep", "2026-11-29", 0.0123, 0.002, 0.97, certified=True, replay="autoresearch run"
)


def never_merges(base, ours, theirs):
    return None


def test_a_page_is_read_as_it_is_written(tmp_path):
    finding = parse_finding(PAGE, "page")
    assert (finding.id, finding.category, finding.status) == ("absolute-loss", "regularization", "idea")
    assert finding.about == "Outliers weigh less."
    measured = replace(finding, title='No: "a" # b', base="123456789012", evidence=(EVIDENCE, EVIDENCE))
    path = tmp_path / "absolute-loss.md"
    write_finding(path, measured)
    assert read_finding(path) == measured
    assert finding_text(read_finding(path)) == path.read_text()


def test_the_first_change_that_has_a_place_is_made():
    finding = parse_finding(PAGE, "page")
    changed = BASE.replace("x * x", "abs(x)")
    assert apply_finding(finding, BASE, None, never_merges) == changed
    moved = BASE.replace("def loss(x):\n    return x * x", "def loss(y):\n    return y * y")
    with pytest.raises(FindingError, match=f"absolute-loss.*{base_digest(BASE)}"):
        apply_finding(finding, moved, None, never_merges)
    with pytest.raises(FindingError, match="same lines"):
        apply_finding(finding, moved, BASE, never_merges)
    sides = []
    assert apply_finding(finding, moved, BASE, lambda *texts: sides.append(texts) or "x = 1\n") == "x = 1\n"
    assert sides == [(BASE, moved, changed)]


def test_a_change_that_is_there_already_or_does_not_parse_is_refused():
    finding = parse_finding(PAGE, "page")
    changed = BASE.replace("x * x", "abs(x)")
    with pytest.raises(FindingError, match="already"):
        apply_finding(finding, changed, BASE, lambda base, ours, theirs: ours)
    with pytest.raises(FindingError, match="parse"):
        apply_finding(finding, changed, BASE, lambda *texts: "x = (\n")
    with pytest.raises(FindingError, match="restore"):
        apply_finding(finding, changed, BASE + "#", never_merges)


@pytest.mark.parametrize(
    ("old", "new", "line", "what"),
    [
        ("---\nid", "id", 1, "---"),
        ("id: absolute-loss", "id: Absolute_loss", 2, "Absolute_loss"),
        ("title: Absolute loss\n", "", 8, "no title"),
        ("title: Absolute loss", "title: [a]", 3, "title"),
        ("status: idea", "status: good", 5, "good"),
        ("status: idea", "status: idea\nstatus: idea", 6, "twice"),
        ("status: idea", "status: 'idea", 8, "YAML"),
        ("status: idea", "later: 2", 5, "later"),
        (f"base: {base_digest(BASE)}", "base: main", 7, "main"),
        ("evidence: []", "evidence: many", 8, "evidence"),
        ("evidence: []", "evidence:\n  - runs: 3", 9, "device_class"),
        ("## Change", "## Changes", 22, "## Change"),
        ("<<<<<<< SEARCH\n", "", 13, "change"),
        ("<<<<<<< SEARCH\n    return x * x\n=======\n    return abs(x)\n>>>>>>> REPLACE", "none", 13, "SEARCH"),
    ],
)
def test_what_is_no_finding_is_refused_with_file_and_line(old, new, line, what):
    assert old in PAGE
    with pytest.raises(FindingError) as caught:
        parse_finding(PAGE.replace(old, new, 1), "page.md")
    assert str(caught.value).startswith(f"page.md:{line}: ")
    assert what in str(caught.value)


@pytest.mark.parametrize("value", ["runs: -1", "runs: many", "effect: .nan", "probability: 2", "certified: 1"])
def test_values_of_evidence_are_checked(value):
    page = finding_text(replace(parse_finding(PAGE, "page"), evidence=(EVIDENCE,)))
    name = value.partition(":")[0]
    lines = [f"    {value}" if line.strip().startswith(f"{name}:") else line for line in page.split("\n")]
    with pytest.raises(FindingError, match=rf"page:\d+: {name}"):
        parse_finding("\n".join(lines), "page")


def test_words_of_others_are_cleaned():
    page = PAGE.replace("Absolute loss", '"a\\x1b[31m red\\nline"').replace("Outliers", "\x1b]0;title\x07Outliers")
    finding = parse_finding(page, "page")
    assert finding.title == "a red line"
    assert finding.about == "Outliers weigh less."


def test_files_that_are_no_pages_are_refused(tmp_path):
    contents = {"big.md": b"x" * 300_000, "bytes.md": b"\xff", "deep.md": b"---\n" + b"[" * 5000 + b"\n---"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FindingError, match=name):
            read_finding(tmp_path / name)
    with pytest.raises(FindingError, match="missing"):
        read_finding(tmp_path / "missing.md")
    (tmp_path / "other.md").write_text(PAGE)
    with pytest.raises(FindingError, match=r"absolute-loss\.md"):
        read_finding(tmp_path / "other.md")


def test_a_diff_takes_one_text_to_the_other_even_where_lines_repeat():
    before = "".join(f"def f{i}(x):\n    y = x\n    y = y + 1\n    y = y * 2\n    return y\n\n\n" for i in range(9))
    after = before.replace("def f5(x):\n    y = x\n    y = y + 1", "def f5(x):\n    y = x\n    y = y + 2") + "z = 1\n"
    change = diff_change(before, after, "f.py")
    finding = replace(parse_finding(PAGE, "page"), change=change, base=base_digest(before))
    assert apply_finding(finding, before, None, never_merges) == after
    assert apply_edits(before, parse_finding(finding_text(finding), "page").edits) == after
    with pytest.raises(FindingError):
        diff_change(before, before, "f.py")


def test_a_device_class_is_the_kind_of_device_and_one_for_all_cpus():
    assert device_class({"platform": "cpu", "device_kind": "2 x AMD EPYC", "num_devices": 1}) == "cpu"
    assert device_class({"platform": "cuda", "device_kind": "NVIDIA H100 80GB HBM3", "num_devices": 1}) == (
        "NVIDIA H100 80GB HBM3"
    )
    assert device_class({"platform": "tpu", "device_kind": "TPU v4", "num_devices": 8}) == "8 x TPU v4"
