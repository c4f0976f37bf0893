"""program.md while a run goes on: what comes into force, and what is put aside with a notice."""

import os
import time
from pathlib import Path

import pytest
from fakes import PROGRAM, SOURCE

from autoresearch_jax.assets.kinds import TRAINING_FILE
from autoresearch_jax.engine import program
from autoresearch_jax.engine.program import ProgramFile, ProgramPage
from autoresearch_jax.errors import UsageError

LIST = "- 8 experiments\n"


class Night:
    """A run's view of its page: what may be moved, what ends it, and what its user was told."""

    def __init__(self, path: Path, **options) -> None:
        self.path = path
        path.write_text(PROGRAM)
        self.file = ProgramFile(path, **{"settle_seconds": 0, **options})
        self.notices: list[str] = []

    def after(self, text: str) -> None:
        """Writes the page, and has it read again."""
        self.path.write_text(text)
        self.refresh()

    def refresh(self, source: str = SOURCE, settled: dict | None = None) -> list[str]:
        space = self.file.refresh(TRAINING_FILE, source, settled, "loss", self.notices.append)
        return [row.name for row in space]

    @property
    def stops(self) -> list[str]:
        return [stop.words for stop in self.file.program.stops]


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path / "program.md")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "half saved"),
        (PROGRAM[: PROGRAM.index("experiments")], "half saved"),
        (PROGRAM.replace(LIST, "- 8 experi\n"), "not understood: '8 experi'"),
        (PROGRAM.replace("## Stop when", "## Later").replace(LIST, ""), 'what stood under "Stop when" is gone'),
        (PROGRAM.replace("| LR", "LR").replace("|---|---|---|", ""), "its second line must be"),
        (
            PROGRAM[: PROGRAM.index("## You may")] + f"## Stop when\n\n{LIST}",
            'what stood under "You may change" is gone',
        ),
        (PROGRAM.replace("LR", "A").replace("DEPTH", "B").replace("PATTERN", "C"), "no row of the table fits"),
        (PROGRAM.replace(LIST, "- val_bpb <= 1\n"), "names val_bpb, but the metric is loss"),
    ],
)
def test_the_last_good_page_stays_in_force(night, text, why):
    night.after(text)
    night.refresh()
    (notice,) = night.notices
    assert why in notice
    assert notice.startswith(str(night.path))
    assert notice.endswith("(the version before stays in force)")
    assert night.stops == ["8 experiments"]
    assert night.refresh() == ["LR", "DEPTH", "PATTERN"]
    night.after(PROGRAM.replace(LIST, "- 9 experiments\n"))
    assert night.stops == ["9 experiments"]


def test_a_page_that_is_gone_for_a_moment_stays_in_force(night):
    night.path.unlink()
    assert night.refresh() == ["LR", "DEPTH", "PATTERN"]
    assert "no such file" in night.notices[0]


def test_a_page_that_is_being_written_is_read_once_it_is_whole(tmp_path, monkeypatch):
    night = Night(tmp_path / "program.md", settle_seconds=1.0)
    waits: list[float] = []

    def write_the_rest(seconds: float) -> None:
        waits.append(seconds)
        night.path.write_text(PROGRAM.replace(LIST, "- 20 experiments\n"))
        os.utime(night.path, (1.0, 1.0))

    monkeypatch.setattr(program.time, "sleep", write_the_rest)
    night.path.write_text(PROGRAM.replace(LIST, "- 2 experiments\n"))
    os.utime(night.path, (time.time(), time.time()))
    night.refresh()
    assert night.stops == ["20 experiments"]
    assert len(waits) == 1
    assert 0 < waits[0] <= 1


def test_a_page_that_the_run_cannot_keep_to_is_put_aside(tmp_path):
    def refuse_dollars(page: ProgramPage) -> None:
        if "dollars" in page.text:
            raise UsageError("the price is not known")

    night = Night(tmp_path / "program.md", check=refuse_dollars)
    night.after(PROGRAM.replace(LIST, "- 20 dollars\n"))
    assert night.notices == ["the price is not known (the version before stays in force)"]
    assert night.stops == ["8 experiments"]


def test_what_has_no_effect_is_told_once_and_the_page_comes_into_force(night):
    text = PROGRAM.replace(LIST, "- [ ] **1,000 experiments**\n- at dawn\n") + "\n## Notes\n\nmine\n"
    night.after(text)
    night.after(f"{text}more\n")
    assert night.stops == ["1,000 experiments"]
    section, item = night.notices
    assert '"Notes" is none of' in section
    assert '"at dawn" is not understood' in item


@pytest.mark.parametrize(
    ("old", "new", "lost", "why"),
    [
        ("LR = 0.5", "LR = 1", [], ""),
        ("DEPTH = 4", "DEPTH = 12", ["DEPTH"], "DEPTH is 12 now, not within 2 .. 8"),
        ("DEPTH = 4", "DEPTH = (4, 4)", ["DEPTH"], "DEPTH is (4, 4), which is not one number"),
        ("DEPTH = 4", "DEPTH = 4\nDEPTH = 5", ["DEPTH"], "DEPTH is set more than once"),
        ('PATTERN = "SL"', 'PATTERN = "LL"', ["PATTERN"], "PATTERN is 'LL' now, not within SL, SSSL, L"),
        ('PATTERN = "SL"', "", ["PATTERN"], "no constant PATTERN in the editable file"),
    ],
)
def test_what_an_agent_did_to_a_constant_costs_its_row_at_most(night, old, new, lost, why):
    settled = {"LR": 0.5, "DEPTH": 4, "PATTERN": "SL", "FAULT": "none"}
    left = [name for name in ("LR", "DEPTH", "PATTERN") if name not in lost]
    assert night.refresh(SOURCE.replace(old, new), settled) == left
    assert night.refresh(SOURCE.replace(old, new), settled) == left
    assert len(night.notices) == len(lost), "told once"
    assert all(why in notice and notice.endswith("the optimizer leaves it alone") for notice in night.notices)


def test_a_range_that_the_human_narrowed_is_moved_into(night):
    settled = {"LR": 0.5, "DEPTH": 4, "PATTERN": "SL", "FAULT": "none"}
    night.path.write_text(PROGRAM.replace("0.01 .. 1 log", "0.01 .. 0.1 log"))
    assert night.refresh(SOURCE, settled) == ["LR", "DEPTH", "PATTERN"]
