"""The example page in one viewport: three experiments in a real Chromium; a page without a link is INVALID."""

import importlib.util
from pathlib import Path

import pytest
from browser import find_chromium
from example_runs import copy_of, invalid_trial, three_experiments

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on PATH: apt-get install chromium"),
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("playwright", "axe_playwright_python")),
        reason="playwright or axe-playwright-python is missing: ./scripts/setup.sh examples",
    ),
]


def test_three_experiments_and_a_page_without_a_link(tmp_path: Path) -> None:
    example = copy_of("page", tmp_path)
    (example / "viewports_val.json").write_text('[{"width": 390, "height": 844}]')
    status = three_experiments("page", tmp_path, "--baseline_runs=2", "--max_runs=1")
    assert status["baseline_score"] > 1
    assert status.get("crash", 0) == 0
    page = example / "index.html"
    page.write_text(page.read_text().replace('href="/privacy"', 'href="/elsewhere"'))
    assert "/privacy" in invalid_trial("page", tmp_path)
