"""The picture of a run is well-formed and holds what was kept; scores come from the run alone."""

import importlib
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent


def experiment(number: int, outcome: str, score: float | None, hypothesis: str, certificate: str | None = None) -> dict:
    error = 0.01 if outcome == "keep" else None
    columns = {"outcome": outcome, "score": score, "error": error, "certificate": certificate}
    return {"experiment": number, "hypothesis": hypothesis, **columns}


def test_picture_of_a_run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    script = importlib.import_module("make_progress_svg")
    summary = {"experiments": 3, "baseline_val_bpb": 2.5, "champion_val_bpb": "2.300 +- 0.010"}
    rows = [
        experiment(0, "keep", 2.5, "baseline"),
        experiment(1, "discard", 2.6, "LR 1 -> 2"),
        experiment(2, "keep", 2.3, "x < y & z", "certified"),
        experiment(3, "crash", None, "no score"),
    ]
    picture = script.draw(summary, rows, "2 cores")
    root = ElementTree.fromstring(picture)
    texts = ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "3 experiments, 1 kept: val_bpb 2.500 to 2.300 +- 0.010" in texts
    assert "2: x < y & z (certified)" in texts
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == 3


def test_pictures_of_the_documents_are_well_formed():
    for path in (ROOT / "docs").glob("*.svg"):
        ElementTree.parse(path)
