"""bench_report measures all that it names, of a run that is short."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from browser import find_chromium

SCRIPT = Path(__file__).parent.parent / "scripts" / "bench_report.py"


@pytest.mark.slow
@pytest.mark.skipif(find_chromium() is None, reason="no Chromium on PATH: apt-get install chromium")
def test_every_figure_is_a_line():
    pytest.importorskip("playwright")
    command = [sys.executable, str(SCRIPT), "--experiments=25", "--seconds=1"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    named = re.findall(r"^  (\w+) {2,}\S", SCRIPT.read_text().split('"""')[1], re.MULTILINE)
    assert len(named) == 10
    for name in named:
        assert re.search(rf"^{name}: [\d.]+$", printed, re.MULTILINE), name
