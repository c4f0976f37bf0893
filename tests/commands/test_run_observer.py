"""What `autoresearch run` shows on a terminal, read from the screen of a real pseudo-terminal."""

import os
import termios
import threading
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace

import pytest
from terminals import Terminal, terminal

from autoresearch_jax.commands import console, run_observer
from autoresearch_jax.commands.live_block import LiveBlock
from autoresearch_jax.commands.run_observer import RunObserver
from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.live import read_live
from autoresearch_jax.engine.records import ExperimentRow, Intent, Kind, TrialRow
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.types import Measurement, Metric, Status

REPORT = {"phase": "train", "step": 7, "elapsed_seconds": 12.0, "budget_seconds": 60.0, "loss": 3.25}
REPORT |= {"tokens_per_second": 9876.0, "attended_share": 0.96}


class Night:
    """A run whose ledger a test fills, and its observer."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        folder.create()
        self.ledger = Ledger.open(folder.ledger)
        self.ledger.save_settings({"metric": "loss", "direction": "minimize", "decision": "lineage"})
        self.observer = RunObserver(folder, self.ledger, Metric("loss"))

    def begins(self, hypothesis: str = "DEPTH 4 -> 6", kind: Kind = Kind.PROPOSAL) -> tuple[ExperimentRow, TrialRow]:
        parent = None if kind is Kind.BASELINE else 0
        row = self.ledger.begin_experiment(
            Intent(kind, "LR = 1\n", hypothesis=hypothesis, proposer="constants", parent=parent)
        )
        self.observer.begins(row)
        trial = self.ledger.begin_trial(row.id, 0)
        self.observer.measures(row, trial, 1)
        return row, trial

    def reports(self, report: dict = REPORT) -> None:
        """Of the trial that began last."""
        self.observer.progress(self.ledger.trials()[-1].id, report)

    def ends(self, row: ExperimentRow, trial: TrialRow, score: float | None) -> None:
        self.ledger.set_program(row.id, f"program {row.id}")
        if score is None:
            self.ledger.finish_trial(trial.id, Measurement(Status.CRASH, None, 0))
            self.observer.measured(trial)
            self.ledger.conclude(row.id, Status.CRASH, None, Action.DISCARD, "boom", None, 2.0)
        else:
            self.ledger.finish_trial(trial.id, Measurement(Status.OK, score, 0))
            self.observer.measured(trial)
            self.ledger.conclude(row.id, Status.OK, score, Action.KEEP, "better", "a" * 40, 2.0)
        self.observer.ends(self.ledger.experiment(row.id))


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """The terminal that this process prints to."""
    with terminal() as found:
        monkeypatch.setenv("TERM", "xterm-256color")
        for module in (console, run_observer):  # pytest has its own sys.stdout for the fixtures and for the test
            monkeypatch.setattr(module, "sys", SimpleNamespace(stdout=found.stream, stderr=found.stream))
        yield found


@pytest.fixture
def night(tmp_path, screen: Terminal) -> Iterator[Night]:
    found = Night(RunFolder(tmp_path / "night"))
    with closing(found.ledger):
        found.ends(*found.begins("baseline", Kind.BASELINE), 1.5)
        yield found


def test_the_block_tells_what_is_tried_how_far_it_is_the_champion_and_what_came_before(night, screen):
    for score in (1.25, None, None, 1.0, None):
        night.ends(*night.begins(), score)
    night.begins("a [red]wider[/red] model\x1b[2J\nand more")
    night.reports()
    shown = screen.screen()
    assert [line.split()[0] for line in shown[:7]] == ["0", "better", "1", "2", "3", "4", "5"], "ended ones stay above"
    subject, trial, speed, champion, last = shown[7:]
    assert subject.split(maxsplit=3) == ["experiment", "6", "constants", "a [red]wider[/red] model and more"]
    assert trial.split()[:4] == ["trial", "run", "1", "train"]
    assert trial.endswith("step 7  12/60 s  48 s left  96% attended")
    assert speed.split("  ")[-2:] == ["loss 3.2500", "9,876 tokens/s"]
    assert champion.split(maxsplit=2)[:2] == ["champion", "4"]
    assert " +- " in champion.split("gain")[0]
    assert " +- " in champion.split("gain")[1]
    assert last.split() == ["last", *["5", "crash", "4", "keep", "3", "crash", "2", "crash", "1", "keep"]]
    champion = night.ledger.experiment(4)
    again = night.ledger.begin_trial(champion.id, 9)
    night.observer.measures(champion, again, 3)
    assert read_live(night.folder).trials[-1].run == "champion's run 3", "it is not tried again"
    night.observer.close()
    assert "".join(screen.screen()[7:]) == "", "nothing of it stays"


def test_a_wait_is_shown_and_its_notice_stays_above(night, screen):
    night.observer.notice("503 from the service: waiting")
    night.observer.waits("503 from the service", 1000.0, 1060.0)
    *_, notice, subject, wait, _, _ = screen.screen()
    assert notice == "autoresearch run: 503 from the service: waiting"
    assert subject.startswith("experiment  none yet")
    assert wait.startswith("waiting")
    assert wait.endswith(": 503 from the service")
    assert read_live(night.folder).waiting.again_at == 1060.0
    night.observer.resumes()
    assert "waiting" not in screen.screen()[-3]
    assert read_live(night.folder).waiting is None


def test_a_service_that_is_down_stays_in_the_block_while_trials_run(night, screen):
    night.observer.service_down("gemini: 503 from the service", 1000.0, 1060.0)
    row, trial = night.begins()
    night.reports()
    shown = screen.screen()
    (down,) = [line for line in shown if line.startswith("down")]
    assert down.endswith(": gemini: 503 from the service")
    assert any(line.startswith("trial") for line in shown)
    night.ends(row, trial, None)
    assert read_live(night.folder).down.again_at == 1060.0
    night.observer.service_back()
    night.begins()
    assert not any(line.startswith("down") for line in screen.screen())
    assert read_live(night.folder).down is None


def test_a_notice_of_another_thread_does_not_break_the_block(night, screen):
    night.begins()
    night.reports()
    thread = threading.Thread(target=night.observer.notice, args=("from a thread",))
    thread.start()
    thread.join()
    shown = screen.screen()
    assert shown[2] == "autoresearch run: from a thread"
    assert [line.split(maxsplit=1)[0] for line in shown[3:]] == ["experiment", "trial", "loss", "champion", "last"]
    assert [line for _, line in read_live(night.folder).log][-1] == "from a thread"


@pytest.mark.parametrize(("columns", "lines"), [(10, 3), (30, 6), (59, 4), (300, 2)])
def test_a_small_terminal_cuts_and_never_wraps(night, screen, columns, lines):
    night.observer.close()
    before = len(screen.screen())
    screen.resize(columns, lines)
    night.begins("a hypothesis of many words " * 20)
    for step in range(5):
        night.reports({**REPORT, "phase": f"phase {step}"})
    assert len(screen.screen()) - before < lines
    night.observer.close()
    assert "".join(screen.screen()[before - 1 :]) == ""


def test_a_terminal_that_shrinks_is_followed(night, screen):
    night.begins()
    night.reports({**REPORT, "phase": "compile"})
    screen.resize(40, 5)
    night.reports()
    assert max(map(len, screen.screen()[-3:])) <= 40


def test_a_terminal_that_takes_nothing_for_long_never_holds_up_the_run_and_gets_all_lines_later(night, screen):
    """As with a connection that is lost: nobody reads, and what the kernel keeps for it is soon full."""
    begun = night.begins()
    for number in range(300):
        night.reports({**REPORT, "phase": f"phase {number}"})
        night.observer.notice(f"notice {number}")
    night.ends(*begun, None)
    night.begins()
    for _ in range(20):
        screen.read()
        night.reports()
    shown = screen.screen()
    assert [line for line in shown if line.startswith("autoresearch run: ")] == [
        f"autoresearch run: notice {number}" for number in range(300)
    ]
    assert shown[-6].split()[:2] == ["1", "crash"]
    assert [line.split(maxsplit=1)[0] for line in shown[-5:]] == ["experiment", "trial", "loss", "champion", "last"]


def test_a_terminal_that_was_stopped_or_is_gone_never_holds_up_the_run(night, screen):
    row, trial = night.begins()
    termios.tcflow(screen.stream.fileno(), termios.TCOOFF)  # as Ctrl-S
    for step in range(500):
        night.reports({**REPORT, "phase": f"phase {step}"})
    termios.tcflow(screen.stream.fileno(), termios.TCOON)
    night.reports({**REPORT, "phase": "judge"})
    assert "judge" in screen.screen()[-4]
    os.close(screen.driver)
    screen.driver = os.open(os.devnull, os.O_RDONLY)
    night.reports({**REPORT, "phase": "last"})
    night.observer.notice("nobody reads it")
    night.ends(row, trial, None)
    night.observer.waits("nobody", 1.0, 2.0)
    night.observer.close()
    assert [line for _, line in read_live(night.folder).log][-2] == "nobody reads it"


def test_a_fault_of_the_display_is_the_end_of_the_block_and_no_more(night, screen, monkeypatch):
    monkeypatch.setattr(LiveBlock, "_render", lambda *size: 1 / 0)
    night.ends(*night.begins(), None)
    night.observer.notice("still told")
    crash, notice = screen.screen()[2:4]
    assert crash.split() == ["1", "crash", "-", "2.0", "s", "DEPTH", "4", "->", "6", "(boom)"]
    assert notice == "autoresearch run: still told"


def test_reports_that_come_fast_are_drawn_now_and_then(night, screen):
    night.begins()
    night.reports()
    screen.read()
    drawn = len(screen.written)
    for step in range(1000):
        night.reports({**REPORT, "step": step})
    assert len(screen.read()) < 20 * drawn


def test_each_of_several_trials_has_a_row(night, screen):
    rows = [night.begins(f"idea {number}")[0] for number in range(1, 10)]
    night.reports()
    shown = screen.screen()[2:]
    assert shown[0].split() == ["trials", "1", "run", "1", "idea", "1"]
    assert len(shown) == 10
    assert [line.split()[0] for line in shown[1:7]] == ["2", "3", "4", "5", "6", "7"]
    assert shown[7].split() == ["and", "2", "more"]
    assert [line.split()[0] for line in shown[8:]] == ["champion", "last"]
    for row, trial in zip(rows[:6], night.ledger.open_trials(), strict=False):
        night.ends(row, trial, None)
    extra = night.ledger.begin_trial(0, 9)
    night.observer.measures(rows[6], extra, 4)
    night.observer.waits("503 from the service", 1000.0, 1060.0)
    night.reports()
    shown = screen.screen()
    assert [line.split()[:2] for line in shown[2:8]] == [[str(number), "crash"] for number in range(1, 7)]
    *trials, waiting, champion, last = shown[8:]
    assert [" ".join(line.split()) for line in trials] == [
        "trials 7 run 1 idea 7",
        "8 run 1 idea 8",
        "9 run 1 train 20% loss 3.2500 idea 9",
        "7 champion's run 4 train 20% loss 3.2500 idea 7",
    ]
    assert [line.split()[0] for line in (waiting, champion, last)] == ["waiting", "champion", "last"]
    screen.resize(24, 5)
    night.reports({**REPORT, "phase": "judge"})
    cut = [line for line in screen.screen() if line.endswith("\N{HORIZONTAL ELLIPSIS}")]
    assert [line.split()[:3] for line in cut] == [["trials", "7", "run"], ["8", "run", "1"], ["9", "run", "1"]]
    night.observer.close()
    assert read_live(night.folder).trials == ()


def test_where_lines_cannot_be_taken_back_there_is_no_block(tmp_path, screen, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    plain = Night(RunFolder(tmp_path / "night"))
    with closing(plain.ledger):
        plain.ends(*plain.begins("baseline", Kind.BASELINE), 1.5)
        monkeypatch.setattr(console, "LIVE_LINE_SECONDS", 0.0)
        first, second = plain.begins("first"), plain.begins("second")
        plain.reports()
        assert screen.screen()[-1].split()[:7] == ["1", "first", "run", "1", "and", "1", "more"]
        plain.ends(*first, None)
        plain.reports()
        assert screen.screen()[-1].split()[:5] == ["2", "second", "run", "1", "train"]
        plain.ends(*second, None)
    assert "champion" not in screen.read()
