"""A closed ledger is compared with its hash, each copy with its original."""

import os
import shutil
import sqlite3
import subprocess

import pytest
from fakes import FakeTask, ScriptedProposer, moved

from autoresearch_jax.engine.database import LedgerError, hash_file
from autoresearch_jax.engine.integrity import (
    ledger_file_differences,
    ledger_page_differences,
    parents_differences,
    results_differences,
    source_differences,
    workspace_differences,
)
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.types import Measurement, Status

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


def test_a_closed_ledger_has_a_hash_that_sha256sum_agrees_with(path):
    fill(path)
    assert ledger_page_differences(path) == []
    assert ledger_file_differences(path) == []
    subprocess.run(["sha256sum", "--check", "--quiet", hash_file(path).name], cwd=path.parent, check=True)
    execute(path, "UPDATE experiments SET seconds = 9 WHERE id = 1")
    (line,) = ledger_file_differences(path)
    assert line.startswith(f"{path}: not the bytes that ledger.db.sha256 was made of")
    assert ledger_page_differences(path) == []


def test_a_ledger_that_is_written_to_has_no_hash(path):
    fill(path)
    ledger, other = Ledger.open(path), Ledger.open(path)
    assert "no hash" in ledger_file_differences(path)
    ledger.close()
    assert "no hash" in ledger_file_differences(path), "another process may go on writing"
    other.record_trial("LR = 3\n", GOOD, "by hand", "print")
    other.close()
    assert ledger_file_differences(path) == []
    reader = Ledger.open_to_read(path)
    reader.experiments()
    reader.close()
    assert ledger_file_differences(path) == [], "reading changes nothing"


def test_a_damaged_page_is_found_and_the_ledger_not_written_to(path):
    fill(path)
    data = bytearray(path.read_bytes())
    data[4096 * 2 : 4096 * 2 + 64] = bytes(64)
    path.write_bytes(data)
    assert all(line.startswith(f"{path}: SQLite ") for line in ledger_page_differences(path))
    assert ledger_page_differences(path)
    with pytest.raises(LedgerError, match=r"ledger\.db: is damaged .*: restore it from a copy"):
        Ledger.open(path)
    assert path.read_bytes() == data


def test_the_commits_hold_the_sources_of_the_ledger(bench, run_git, tmp_path):
    loop = bench.loop(FakeTask(noise=0), ScriptedProposer([moved(LR=0.1), moved(DEPTH=2)]))
    loop.run()
    ledger, folder = bench.ledger(), bench.folder
    champion = ledger.experiment(1)
    assert source_differences(folder, ledger, os.environ) == []
    assert workspace_differences(folder, ledger, champion) == []
    assert results_differences(folder, ledger, FakeTask().metric) == []

    assert parents_differences(folder.ledger, ledger) == []
    execute(
        folder.ledger,
        "INSERT INTO moves VALUES (1, 2, 0, 0, NULL, '', NULL, ''), (2, 77, 5, 0, NULL, '', NULL, '')",
        "UPDATE trials SET parent = 2 WHERE experiment = 1",
    )
    move, trial = parents_differences(folder.ledger, bench.ledger())
    assert move.startswith(f"{folder.ledger}: move 2 names an experiment that is not there")
    assert trial.startswith(f"{folder.ledger}: trial 2 is of experiment 1 as made from 2")

    execute(folder.ledger, "UPDATE experiments SET source = source || '#' WHERE id = 2")
    (line,) = source_differences(folder, ledger, os.environ)
    assert line.startswith(f"commit {ledger.experiment(2).commit} does not hold the source of experiment 2")
    execute(folder.ledger, "UPDATE experiments SET \"commit\" = '1234' WHERE id = 2")
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
