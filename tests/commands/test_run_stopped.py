"""`autoresearch run` with real trials, told to end in each phase and killed at the worst moments: nothing is lost."""

import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import durable
import pytest
from durable import LABEL
from ledgers import substance
from marked_processes import MARK, comes_true, marked_processes

from autoresearch_jax.cli import main
from autoresearch_jax.engine.ledger import Ledger

END_SECONDS = 10.0  # in which a run that is told to end must have ended
PHASES = ("prepare", "startup", "compile", "train", "judge")
SNAPSHOT = "/snapshots/0001-0002"  # of the second trial


@pytest.fixture
def flags(tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Flags of a run in a repository that is the present folder."""
    monkeypatch.chdir(tmp_path)
    return [*tiny_run, "--experiments=1"]


class Driver:
    """The command as a process, whose live line on a terminal of its own can be waited for."""

    def __init__(self, flags: list[str], tag: str, mark: str, **variables: str) -> None:
        self._terminal, stderr = pty.openpty()
        self._seen = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "autoresearch_jax.cli", "run", f"--tag={tag}", *flags],
            env={**os.environ, MARK: mark, **variables},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        os.close(stderr)

    def wait_for(self, word: str) -> None:
        """Returns when the live line has a word, or the process has ended."""
        while word.encode() not in self._seen:
            try:
                self._seen += os.read(self._terminal, 4096)
            except OSError:  # the other end is closed
                return

    def end(self, number: int | None = None) -> tuple[int, str]:
        """Sends a signal, if any; returns exit status and standard output."""
        if number is not None:
            self._process.send_signal(number)
        output = self._process.communicate(timeout=60)[0]
        os.close(self._terminal)
        return self._process.returncode, output


def substance_of(folder: Path) -> list[tuple]:
    with closing(Ledger.open_to_read(folder / "ledger.db")) as ledger:
        return substance(ledger)


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("T")
    return False


@pytest.mark.slow
def test_told_to_end_in_each_phase_and_killed_at_the_worst_moments_a_run_is_as_if_nothing_had_been(
    flags: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--tag=whole", *flags]) == 0
    for number, phase in zip((signal.SIGTERM, signal.SIGINT) * 3, PHASES, strict=False):
        mark = f"{tmp_path} {phase}"
        driver = Driver(flags, "often", mark)
        driver.wait_for(phase)
        sent_at = time.monotonic()
        status, output = driver.end(number)
        assert (status, output.splitlines()[-1]) == (
            0,
            "ended:               interrupted; the same command goes on from here",
        )
        assert time.monotonic() - sent_at < END_SECONDS
        assert marked_processes(mark) == []
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks" / "sitecustomize.py").write_text("import durable\n\ndurable.follow_environment()\n")
    python_path = f"{tmp_path / 'hooks'}:{Path(durable.__file__).parent}:{os.environ.get('PYTHONPATH', '')}"
    mark = f"{tmp_path} trial"
    dies_in_trial = Driver(flags, "often", mark, PYTHONPATH=python_path, **{LABEL: SNAPSHOT})
    assert comes_true(lambda: any(map(is_stopped, marked_processes(mark))), seconds=END_SECONDS * 6)
    assert dies_in_trial.end(signal.SIGKILL)[0] == -signal.SIGKILL
    assert not (tmp_path / f"runs/often{SNAPSHOT}").exists()
    dies_in_judge = Driver(flags, "often", f"{tmp_path} judge")
    dies_in_judge.wait_for("judge")
    assert dies_in_judge.end(signal.SIGKILL)[0] == -signal.SIGKILL
    for mark in (f"{tmp_path} trial", f"{tmp_path} judge"):
        assert comes_true(lambda mark=mark: marked_processes(mark) == [])
    assert (tmp_path / f"runs/often{SNAPSHOT}").exists()
    with closing(Ledger.open_to_read(tmp_path / "runs/often/ledger.db")) as ledger:
        assert ledger.open_trials()
    assert main(["run", "--tag=often", *flags]) == 0
    assert substance_of(tmp_path / "runs/often") == substance_of(tmp_path / "runs/whole")
    with closing(Ledger.open_to_read(tmp_path / "runs/often/ledger.db")) as ledger:
        seconds = [trial.metrics["snapshot_seconds"] for trial in ledger.trials()]
    assert seconds[0] is None, "the first trial was judged from the snapshot that a killed process left"
    capfd.readouterr()
    assert main(["verify", "often"]) == 0


def test_told_to_end_while_it_starts_a_run_ends_cleanly(flags: list[str], tmp_path: Path) -> None:
    driver = Driver(flags, "early", str(tmp_path))
    assert comes_true(lambda: (tmp_path / "runs/early/driver.lock").exists(), seconds=60)
    assert driver.end(signal.SIGTERM)[0] == 0
    assert marked_processes(str(tmp_path)) == []


def test_a_start_that_is_refused_leaves_no_ledger(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = {"--proposer=replay": "--replay", "--proposer=command": "--agent_command", "--snapshot_dir=az://x/y": "az:"}
    for flag, words in flags.items():
        assert main(["run", "--tag=refused", flag]) != 0
        assert words in capsys.readouterr().err
        assert not (place / "runs/refused/ledger.db").exists()


def test_a_ledger_that_is_damaged_missing_or_empty_is_refused_in_one_line_and_left_as_it_is(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--tag=done", "--experiments=0"]) == 0
    ledger = place / "runs/done/ledger.db"
    whole = ledger.read_bytes()
    damaged = whole[:5000] + bytes(4000) + whole[9000:]
    for content, words in ((damaged, "is damaged ("), (b"", "is missing or empty: restore"), (None, "is missing or")):
        if content is None:
            ledger.unlink()
        else:
            ledger.write_bytes(content)
        for command in ("run", "status", "results"):
            capsys.readouterr()
            assert main([command, "--tag=done"]) == 1
            said = capsys.readouterr().err
            assert said.count("\n") == 1
            assert "done" in said
            if command == "run":
                assert words in said
        assert (ledger.read_bytes() if ledger.exists() else None) == content, "nothing is written to it"
    (place / "runs/done/run.json").rename(place / "run.json")  # even then there are snapshots
    assert main(["run", "--tag=done"]) == 1
    (place / "run.json").rename(place / "runs/done/run.json")
    ledger.write_bytes(whole)
    assert main(["run", "--tag=done", "--experiments=0"]) == 0
