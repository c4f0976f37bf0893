"""Whatever ends a trial, no process of it is left, not even one that has left its parent's group and session."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from lm_trials import MakeTask, run_trial
from marked_processes import DAEMON, comes_true, marked_processes

from autoresearch_jax.types import Budget, Status

# Of a trial's process, before it does anything else
SITECUSTOMIZE = f"import sys\nif 'autoresearch_jax.tasks.lm.worker' in sys.orig_argv:\n    exec({DAEMON!r})\n"


@pytest.fixture
def environment(tmp_path: Path) -> Mapping[str, str]:
    """Has each trial's process leave a daemon behind."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITECUSTOMIZE)
    return {**os.environ, "PYTHONPATH": str(site), "PATH": f"{os.environ['PATH']}:{site}"}


@pytest.mark.slow
def test_training_that_takes_too_long_leaves_no_process(
    make_task: MakeTask, environment: Mapping[str, str], tiny_source: str, tmp_path: Path
) -> None:
    """A trace that takes too long: see tests/redteam/ and test_sandbox_limits.py."""
    alive: list[int] = []
    task = make_task(Budget(seconds=600.0), environment=environment, train_slack=-599.5)
    measured = run_trial(
        task,
        tiny_source,
        tmp_path / "trial",
        on_progress=lambda report: alive.append(len(marked_processes(str(tmp_path)))),
    )
    assert alive[0] == 3  # guard, worker, daemon
    assert measured.status is Status.TIMEOUT
    assert (measured.error or "").startswith("train took too long: `step` did not end within ")
    assert marked_processes(str(tmp_path)) == []


def test_a_trial_ends_with_its_driver(environment: Mapping[str, str], tmp_path: Path) -> None:
    code = f"""
import os, time
from pathlib import Path
from autoresearch_jax.tasks.lm.device import start_worker
worker = start_worker("cpu", 1, Path({str(tmp_path / "log")!r}), environment=os.environ, compile_cache_dir=None,
    reach=None)
print(worker.receive(60.0), flush=True)
time.sleep(600)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "{'event': 'ready'}\n"
        assert len(marked_processes(str(tmp_path))) == 4
        driver.kill()
    assert comes_true(lambda: not marked_processes(str(tmp_path)))
