"""A driver that is killed, stopped, or started twice: the same command gives the same run."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ledgers import substance

from autoresearch_jax.search.database import LedgerError
from autoresearch_jax.search.integrity import check_rows
from autoresearch_jax.search.ledger import Ledger
from autoresearch_jax.search.run_folder import RunFolder, RunFolderError

DRIVER = Path(__file__).parent.parent / "fake_driver.py"
EXPERIMENTS = 10
TRIAL_SECONDS = 0.03


def start(repo: Path, trial_seconds: float = TRIAL_SECONDS) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(DRIVER), str(repo), str(EXPERIMENTS), str(trial_seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(repo: Path) -> str:
    process = start(repo)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return output


def ledger_of(repo: Path) -> Ledger:
    return Ledger.open_to_read(repo / "runs" / "night" / "ledger.db")


def test_killed_again_and_again_the_ledger_is_that_of_an_uninterrupted_run(repo, tmp_path, run_git):
    twin = tmp_path / "twin" / "repo"
    shutil.copytree(repo, twin)
    finish(twin)
    draw = random.Random(1)
    kills = 0
    while kills < 5:
        process = start(repo)
        while not (repo / "runs" / "night" / "ledger.db").exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        done = number_of_trials(repo)
        while number_of_trials(repo) == done and process.poll() is None:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.1))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert ledger_of(repo).last_ending() == "killed"
    assert kills >= 3
    finish(repo)
    assert substance(ledger_of(repo)) == substance(ledger_of(twin))
    assert ledger_of(repo).last_ending() == f"{EXPERIMENTS} experiments reached"
    assert check_rows(repo / "runs" / "night" / "ledger.db").differences == []
    rows = ledger_of(repo).experiments()
    champion = [row for row in rows if row.decision == "keep"][-1]
    assert champion.id > 0, "a keep was among what was killed"
    assert run_git(repo, "rev-parse", "autoresearch/night") == champion.commit
    refs = run_git(repo, "for-each-ref", "--format=%(objectname)", "refs/autoresearch").split()
    assert refs == [row.commit for row in rows if row.decision == "discard"]


def number_of_trials(repo: Path) -> int:
    try:
        return len(ledger_of(repo).trials())
    except (LedgerError, sqlite3.Error):  # the file is there and the tables are not yet
        return 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_cleanly_and_it_can_go_on(repo, number):
    process = start(repo, trial_seconds=30)
    while number_of_trials(repo) == 0:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    time.sleep(0.1)
    process.send_signal(number)
    output, errors = process.communicate(timeout=10)
    assert process.returncode == 0, errors
    assert "ended:               interrupted; the same command goes on from here" in output
    assert ledger_of(repo).open_experiment().id == 0
    assert len(finish(repo).splitlines()) > EXPERIMENTS


def test_a_second_driver_is_refused_by_name(repo):
    folder = RunFolder(repo / "runs" / "night")
    folder.create()
    with folder.lock():
        assert folder.holder().startswith(f"pid {os.getpid()} on ")
        with (
            pytest.raises(RunFolderError, match=rf"night: pid {os.getpid()} on \S+ is at work on this run already"),
            folder.lock(),
        ):
            pass
    assert folder.holder() is None
