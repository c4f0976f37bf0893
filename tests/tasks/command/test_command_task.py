"""A task of a command with its real processes: built, served or run, evaluated, refused, failed."""

import json
from pathlib import Path

import pytest
from command_task import ASSET, SERVE, SERVED, edited, open_command, run_command_trial, write_task

from autoresearch_jax.sandbox.sandbox import Sandbox
from autoresearch_jax.types import HOLDOUT_SCORE, CandidateRejected, Scrutiny, Status, TermsChanged

BUILD = """
import os
assert "THRESHOLD" in open("classifier.py").read()
open(os.environ["BUILD"] + "/built.txt", "w").write("built")
"""


def test_a_service_is_built_asked_and_evaluated_on_both_splits(tmp_path: Path, sandbox: Sandbox) -> None:
    path = write_task(
        tmp_path / "task",
        ("[evaluate]", '[build]\ncommand = ["python3", "build.py"]\n\n[evaluate]'),
        ('["serve.py"]', '["serve.py", "build.py"]'),
        build_dot_py=BUILD,
    )
    task = open_command(path, sandbox)
    trial = run_command_trial(task, ASSET, tmp_path / "trial", scrutiny=Scrutiny.AUDIT)
    assert (trial.status, trial.error, trial.value) == (Status.OK, None, 1.0)
    assert trial.items == (1, 1, 1, 1)
    assert (trial.metrics["rows"], trial.metrics[HOLDOUT_SCORE]) == (4, 0.75)
    assert trial.snapshot is not None
    assert (trial.snapshot / "asset" / "classifier.py").read_text() == ASSET
    assert (trial.snapshot / "build" / "built.txt").read_text() == "built"
    assert json.loads((trial.snapshot / "result.json").read_text())["value"] == 1.0

    # a comment costs nothing, a trial that was cut short after its snapshot neither
    same = task.prepare(ASSET.replace("  # of", "  # that of"), tmp_path)
    assert same.program_hash == task.prepare(ASSET, tmp_path).program_hash
    again = task.measure(same, seed=0, log_dir=tmp_path, snapshot_dir=trial.snapshot)
    assert (again.value, again.items, again.metrics) == (trial.value, trial.items, trial.metrics)
    with pytest.raises(CandidateRejected, match=r"classifier\.py: line 1"):
        task.prepare("def", tmp_path)

    (path.parent / "val.csv").write_text("a,1\n")
    with pytest.raises(TermsChanged, match=r"val\.csv"):
        task.prepare(ASSET, tmp_path)
    assert open_command(path, sandbox).fingerprint != task.fingerprint


def test_an_asset_that_runs_once_is_evaluated_by_what_it_wrote(tmp_path: Path, sandbox: Sandbox) -> None:
    path = write_task(
        tmp_path / "task",
        (SERVED, '[run]\ncommand = ["python3", "main.py"]\n'),
        ('["serve.py"]', '["main.py", "questions.txt"]'),
    )
    trial = run_command_trial(open_command(path, sandbox), ASSET, tmp_path / "trial")
    assert (trial.status, trial.value) == (Status.OK, 1.0)
    assert trial.snapshot is not None
    assert json.loads((trial.snapshot / "out" / "answers.json").read_text()) == [0, 1, 1, 0]


# What `classify` does in place of its answer, and the status that this gets.
FAULTS = {
    "raise RuntimeError('no')": Status.CRASH,
    "import os; os._exit(0)": Status.CRASH,
    "return 'neither'": Status.INVALID,
    "print('no JSON'); return 1": Status.INVALID,
    "return float('nan')": Status.INVALID,
    "import os\n    for _ in iter(int, 1): os.write(1, b' ')": Status.TIMEOUT,
    "held = [bytearray(1 << 20) for _ in range(4096)]; return len(held)": Status.OOM,
    "sum(iter(int, 1))": Status.TIMEOUT,
    "import time; time.sleep(600)": Status.TIMEOUT,
}


def test_what_an_asset_fails_of_is_its_status(tmp_path: Path, sandbox: Sandbox) -> None:
    path = write_task(tmp_path / "task", ("seconds = 30", "seconds = 2\nmemory_mb = 100"))
    task, found = open_command(path, sandbox), {}
    for number, body in enumerate(FAULTS):
        source = edited(ASSET, ("    return int(len(text) > THRESHOLD)", f"    {body}"))
        trial = run_command_trial(task, source, tmp_path / str(number))
        found[body] = trial.status
        assert trial.value is None
        assert trial.error
    assert found == FAULTS

    broken = run_command_trial(task, f"import nothing\n{ASSET}", tmp_path / "broken")
    assert broken.status is Status.CRASH
    assert "nothing" in (broken.error or "")  # its last words


def test_a_text_that_no_file_can_hold_is_refused(tmp_path: Path, sandbox: Sandbox) -> None:
    path = write_task(tmp_path / "task", ('file = "classifier.py"', 'file = "classifier.py"\nkind = "text"'))
    with pytest.raises(CandidateRejected, match="UTF-8"):
        open_command(path, sandbox).prepare("\ud800", tmp_path)


def test_a_service_that_does_not_begin_is_told_what_it_lacks(tmp_path: Path, sandbox: Sandbox) -> None:
    chatty = SERVE.replace('"ready"', '"hello"')
    late = ("seconds = 30", "seconds = 30\nstart_seconds = 5")
    path = write_task(tmp_path / "lines", late, serve_dot_py=chatty)
    trial = run_command_trial(open_command(path, sandbox), ASSET, tmp_path / "chatty")
    assert trial.status is Status.TIMEOUT
    assert "did not print ready" in (trial.error or "")
    assert '"hello"' in (trial.error or "")

    deaf = "import time\ntime.sleep(600)\n"
    path = write_task(tmp_path / "socket", late, ("[evaluate]", 'speaks = "socket"\n\n[evaluate]'), serve_dot_py=deaf)
    trial = run_command_trial(open_command(path, sandbox), ASSET, tmp_path / "deaf")
    assert trial.status is Status.TIMEOUT
    assert "$SOCKET" in (trial.error or "")


def test_a_text_that_cannot_be_built_is_refused(tmp_path: Path, sandbox: Sandbox) -> None:
    path = write_task(
        tmp_path / "task", ("[evaluate]", '[build]\ncommand = ["sh", "-c", "echo too bad; exit 3"]\n\n[evaluate]')
    )
    with pytest.raises(CandidateRejected, match=r"build exited with status 3: .*too bad") as rejected:
        open_command(path, sandbox).prepare(ASSET, tmp_path)
    assert rejected.value.status is Status.CRASH
    assert "too bad" in (rejected.value.details or "")
