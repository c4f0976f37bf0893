"""Rows are sealed when they are concluded, the file when it is closed; what is a copy is compared with its original."""

import os
import shutil
import sqlite3
import subprocess
import sys

import pytest
from fakes import FakeTask, ScriptedProposer, moved

from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine import database
from autoresearch_jax.engine.integrity import (
    ledger_file_differences,
    results_differences,
    row_differences,
    source_differences,
    workspace_differences,
)
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import Conclusion, Intent, Kind
from autoresearch_jax.engine.seals import row_digest, seal_of
from autoresearch_jax.types import Measurement, Status

# Another process that records a trial, or only opens the ledger, where there is no write-ahead log.
OTHER = """
import sys
from pathlib import Path
from autoresearch_jax.types import Measurement, Status
from autoresearch_jax.engine import database
from autoresearch_jax.engine.ledger import Ledger
database._write_ahead = lambda connection: None
ledger = Ledger.open(Path(sys.argv[1]))
print("open", flush=True)
for line in sys.stdin:
    ledger.record_trial("LR = 3\\n", Measurement(Status.OK, 0.9, 7, {}), "by hand", "print")
ledger._database._connection.execute("PRAGMA busy_timeout = 100")
ledger.close()
"""

GOOD = Measurement(Status.OK, 0.9, 7, {"peak_memory_bytes": 5})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


def execute(path, *statements):
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def fill(path, count=3):
    ledger = Ledger.open(path)
    ledger.end_session(ledger.begin_session(), "done")
    ledger.begin_session()
    for _ in range(count):
        ledger.record_trial("LR = 3\n", GOOD, "by hand", "print")
    ledger.close()


def test_a_closed_ledger_is_sealed_and_sha256sum_agrees(path):
    fill(path)
    assert row_differences(path) == []
    assert ledger_file_differences(path) == []
    subprocess.run(["sha256sum", "--check", "--quiet", seal_of(path).name], cwd=path.parent, check=True)
    execute(path, "UPDATE experiments SET seconds = 9 WHERE id = 1")
    (line,) = ledger_file_differences(path)
    assert line.startswith(f"{path}: not the bytes that ledger.db.sha256 was made of")


def test_a_seal_that_is_no_file_is_named(path):
    fill(path)
    seal_of(path).unlink()
    seal_of(path).mkdir()
    assert ledger_file_differences(path) == [f"{seal_of(path)}: Is a directory: restore it from a copy"]


def test_a_ledger_that_is_written_to_has_no_seal(path):
    fill(path)
    ledger, other = Ledger.open(path), Ledger.open(path)
    assert "no seal" in ledger_file_differences(path)
    ledger.close()
    assert "no seal" in ledger_file_differences(path), "another process may go on writing"
    other.record_trial("LR = 3\n", GOOD, "by hand", "print")
    other.close()
    assert ledger_file_differences(path) == []
    reader = Ledger.open_to_read(path)
    reader.experiments()
    reader.close()
    assert ledger_file_differences(path) == [], "reading changes nothing"


@pytest.fixture
def without_log(monkeypatch):
    """Ledgers without a write-ahead log, as on a mounted folder."""
    monkeypatch.setattr(database, "_write_ahead", lambda connection: None)


def other_process(path, trials=1):
    """Another process, which has the ledger open until it is told to go on."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "open\n"

    def go_on():
        process.communicate("trial\n" * trials)
        assert process.returncode == 0

    return go_on


def test_without_a_log_a_seal_of_another_process_ends_with_the_next_write(path, without_log):
    fill(path)
    go_on = other_process(path)
    ledger = Ledger.open(path)
    go_on()
    assert ledger_file_differences(path) == [], "it closed a ledger in which nobody wrote"
    number = ledger.begin_experiment(Intent(Kind.PROPOSAL, "LR = 1\n")).id
    assert "no seal" in ledger_file_differences(path), "whoever is killed now leaves a ledger with which all is well"
    ledger.conclude(number, Conclusion(Status.OK, 0.9, Action.KEEP, "why", "abc", 1.0))
    assert row_differences(path) == []
    ledger.close()
    assert ledger_file_differences(path) == []
    assert not path.with_name("ledger.db-wal").exists()


def test_without_a_log_nobody_seals_what_another_process_writes_to(path, without_log):
    fill(path)
    ledger, go_on = Ledger.open(path), other_process(path, trials=0)
    with ledger.transaction():
        number = ledger.begin_experiment(Intent(Kind.PROPOSAL, "LR = 1\n")).id
        go_on()
        assert "no seal" in ledger_file_differences(path)
    assert ledger.experiment(number).is_open
    ledger.close()
    assert ledger_file_differences(path) == []


@pytest.mark.parametrize(
    ("statement", "row"),
    [
        ("UPDATE experiments SET score = 0.1 WHERE id = 1", "experiment 1 is not as it was sealed"),
        ("UPDATE experiments SET source = source || ' ' WHERE id = 2", "experiment 2 is not as it was sealed"),
        ("UPDATE experiments SET parent = 0 WHERE id = 2", "experiment 2 is not as it was sealed"),
        ("UPDATE trials SET metrics = '{}' WHERE id = 3", "trial 3 is not as it was sealed"),
        ("UPDATE trials SET digest = NULL WHERE id = 2", "trial 2 has lost its seal"),
        ("UPDATE trials SET error = 'x' WHERE id = 1", "trial 1 is not as it was sealed"),
        ("UPDATE sessions SET reason = 'won' WHERE id = 1", "session 1 is not as it was sealed"),
        ("DELETE FROM trials WHERE id = 2", "trial 2 is missing"),
        ("DELETE FROM experiments WHERE id = 0", "experiment 0 is missing"),
    ],
)
def test_a_row_that_was_changed_is_named(path, statement, row):
    fill(path)
    execute(path, statement)
    assert [line.split(": ")[1] for line in row_differences(path)] == [row]


def test_what_is_not_over_has_no_seal_and_needs_none(path):
    ledger = Ledger.open(path)
    number = ledger.begin_experiment(Intent(Kind.PROPOSAL, "LR = 1\n")).id
    trial = ledger.begin_trial(number, 7)
    ledger.set_program(number, "hash")
    assert row_differences(path) == []
    ledger.finish_trial(trial.id, GOOD)
    ledger.conclude(number, Conclusion(Status.OK, 0.9, Action.KEEP, "why", "abc", 1.0))
    ledger.close()
    execute(path, "UPDATE experiments SET program_hash = 'other'")
    assert len(row_differences(path)) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM settings WHERE name = 'metric'",
        "DELETE FROM settings WHERE name = 'digest'",
        "UPDATE settings SET name = 'dirEction' WHERE name = 'direction'",
        "UPDATE settings SET value = '5' WHERE name = 'seed'",
        "INSERT INTO settings VALUES ('run_id', '1')",
    ],
)
def test_settings_have_a_seal_of_their_own(path, statement):
    ledger = Ledger.open(path)
    ledger.save_settings({"metric": "loss", "direction": "minimize", "seed": 3})
    ledger.save_settings({"exam": "abc"})
    assert list(ledger.settings()) == ["metric", "direction", "seed", "exam"]
    ledger.close()
    assert row_differences(path) == []
    execute(path, statement)
    (line,) = row_differences(path)
    assert line == f"{path}: the settings are not as they were sealed: restore it from a copy"


def test_a_digest_covers_every_column_that_says_something():
    row = {"id": 1, "score": 0.1, "error": None, "digest": "x"}
    assert row_digest(row) == row_digest({"id": 1, "score": 0.1}), "a later version may add columns"
    others = [{**row, "id": 2}, {**row, "score": 0.1 + 1e-16 * 2}, {**row, "error": ""}, {**row, "score": "0.1"}]
    assert len({row_digest(row), *map(row_digest, others)}) == 5


def test_the_commits_hold_the_sources_of_the_ledger(bench, run_git, tmp_path):
    loop = bench.loop(FakeTask(noise=0), ScriptedProposer([moved(LR=0.1), moved(DEPTH=2)]))
    loop.run()
    ledger, folder = bench.ledger(), bench.folder
    champion = ledger.experiment(1)
    assert source_differences(folder, ledger, os.environ) == []
    assert workspace_differences(folder, ledger, champion) == []
    assert results_differences(folder, ledger, FakeTask().metric) == []

    execute(folder.ledger, "UPDATE experiments SET source = source || '#' WHERE id = 2")
    (line,) = source_differences(folder, ledger, os.environ)
    assert line.startswith(f"commit {ledger.experiment(2).commit} does not hold the source of experiment 2")
    execute(folder.ledger, "UPDATE experiments SET commit_id = '1234' WHERE id = 2")
    ledger = bench.ledger()  # one that is open reads no row twice that is concluded
    (line,) = source_differences(folder, ledger, os.environ)
    assert line.startswith("commit 1234 of experiment 2 is not in ")
    (line,) = results_differences(folder, ledger, FakeTask().metric)
    assert line.startswith(f"{folder.results}:4: is not what the ledger would write")

    shutil.rmtree(folder.workspace)
    assert workspace_differences(folder, ledger, champion) == "no worktree here"
    assert source_differences(folder, ledger, os.environ) != "no repository of the run at hand", "the one around it"
    bench.repo.joinpath(".git").rename(tmp_path / "gone")
    assert source_differences(folder, ledger, os.environ) == "no repository of the run at hand"
