"""What bench_loop counts, on a ledger made by hand."""

import importlib.util
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest

from autoresearch_jax.engine.ledger import Ledger

SCRIPT = Path(__file__).parent.parent / "scripts" / "bench_loop.py"
TRAINING = 10.0  # seconds of the wall clock


@pytest.fixture
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_loop", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Two sessions; two experiments with trials, and one without between them."""
    path = tmp_path / "ledger.db"
    Ledger.open(path).close()
    trials = [  # experiment, finished_at, status, compile_seconds, compiled_programs
        (0, 120.0, "ok", 5.0, 4),
        (0, 133.0, "ok", 0.5, 0),  # 13 after the one before
        (1, 152.0, "ok", 5.0, 3),  # 19, 5 of them compiled
        (1, 160.0, "crash", 0.5, 0),
        (3, 180.0, "ok", 5.0, 3),  # experiment 2 was over in no trial
        (3, 230.0, "ok", 0.5, 0),  # by another driver
        (3, 242.5, "ok", 0.5, 0),  # 12.5
    ]
    with closing(sqlite3.connect(path)) as database, database:
        for session, began_at in ((1, 100.0), (2, 200.0)):
            database.execute("INSERT INTO sessions (id, began_at) VALUES (?, ?)", (session, began_at))
        for experiment, created_at in ((0, 100.0), (1, 133.0), (2, 161.0), (3, 162.0)):
            database.execute(
                "INSERT INTO experiments"
                " (id, kind, proposer, hypothesis, category, cost_dollars, constants, created_at, source)"
                " VALUES (?, 'proposal', '', '', '', 0, '{}', ?, '')",
                (experiment, created_at),
            )
        for number, (experiment, finished_at, status, compile_seconds, compiled) in enumerate(trials, start=1):
            metrics = {"compile_seconds": compile_seconds, "compiled_programs": compiled, "tokens_per_second": 1e4}
            metrics["wall_seconds"] = TRAINING
            database.execute(
                "INSERT INTO trials (id, experiment, seed, purpose, started_at, finished_at, ended, status, metrics)"
                " VALUES (?, ?, 0, 'candidate', 0, ?, ?, ?, ?)",
                (number, experiment, finished_at, number, status, json.dumps(metrics)),
            )
    return path


def test_overhead_is_the_time_between_two_ends_less_training_and_compilation(bench: ModuleType, ledger: Path) -> None:
    samples = bench.read_samples(ledger)
    assert [sample.overhead for sample in samples] == [None, 3.0, 4.0, None, None, 2.5]
    assert [sample.is_replicate for sample in samples] == [False, True, False, False, True, True]
    assert bench.median_overhead(samples) == 3.0
    assert bench.median_overhead(samples, replicates_only=True) == 2.75


def test_nothing_to_count_is_said(bench: ModuleType, ledger: Path) -> None:
    with pytest.raises(SystemExit, match="more --rounds"):
        bench.median_overhead(bench.read_samples(ledger)[:1])
