"""Terminals whose encoding lacks a character: it is replaced in what every command prints, and nothing fails."""

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from autoresearch_jax.cli import COMMANDS
from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import Intent, Kind
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.types import Measurement, Status

SCRIPT = "import sys; from autoresearch_jax.cli import main; print([main(line.split()) for line in sys.argv[1:]])"
ENCODINGS = {
    "POSIX": {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "latin-1": {"PYTHONIOENCODING": "latin-1:strict"},
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder with an umlaut and a run whose words no single-byte encoding has."""
    repository = tmp_path / "größe"
    folder = RunFolder(repository / "runs/night")
    folder.create()
    with closing(Ledger.open(folder.ledger)) as ledger:
        ledger.save_settings({"metric": "val_bpb", "direction": "minimize", "decision": "greedy"})
        ledger.begin_experiment(Intent(Kind.BASELINE, "LR = 1\n", hypothesis="baseline"))
        trial = ledger.begin_trial(0, 0)
        ledger.finish_trial(trial.id, Measurement(Status.OK, 1.5, 0))
        ledger.set_program(0, "a program")
        ledger.conclude(0, Status.OK, 1.5, Action.KEEP, "the baseline", "a" * 40, 2.0)
        ledger.begin_experiment(
            Intent(Kind.PROPOSAL, "LR = 2\n", hypothesis="größer: LR → 2 \N{FIRE}", proposer="gemini", parent=0)
        )
        ledger.conclude(1, Status.CRASH, None, Action.DISCARD, "naïve ≠ 0", None, 1.0)
    return repository


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_character_that_a_terminal_lacks_is_replaced(repository, encoding):
    works = ["status", "results", "results --format=csv", "status --why=1"]
    fails = [f"{command} --größe=→" for command in COMMANDS]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *(f"{line} --tag=night --run_dir={repository}/runs" for line in works), *fails],
        env={**os.environ, **ENCODINGS[encoding]},
        capture_output=True,
        timeout=120,
    )
    shown = done.stdout + done.stderr
    assert b"Traceback" not in shown
    assert done.returncode == 0
    statuses = [0] * len(works) + [2] * len(fails)
    assert done.stdout.splitlines()[-1].decode() == str(statuses)
    if encoding == "POSIX":
        assert b"gr??er: LR ? 2 ?" in done.stdout
        assert os.fsencode(f"{repository}/runs/night/ledger.db") in done.stdout, "a path stays one"
    else:
        assert "größer: LR ? 2 ?".encode("latin-1") in done.stdout
