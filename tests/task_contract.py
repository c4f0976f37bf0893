"""What every task promises the loop, see `engine.task.Task`; called for each of them by its own test."""

import json
from pathlib import Path

import pytest

from autoresearch_jax.engine.run_folder import task_settings
from autoresearch_jax.engine.task import HoldoutTask, Task
from autoresearch_jax.types import HOLDOUT_SCORE, CandidateRejected, Status


def check_task(task: Task, source: str, other: str, refused: str, folder: Path) -> None:
    """Prepares and measures texts of a task.

    Args:
      task: is closed at the end.
      source: a text that it scores.
      other: a text that is another program.
      refused: a text that it rejects.
      folder: an empty one.
    """
    logs = folder / "logs"
    logs.mkdir(parents=True)
    assert task.metric.direction in ("minimize", "maximize")
    json.dumps([task_settings(task), dict(task.facts)], allow_nan=False)
    assert task.contract.strip()
    task.asset.check(source)
    assert task.fingerprint == task.fingerprint.strip() != ""
    assert task.terms["clock"] in ("attended", "wall")

    with pytest.raises(CandidateRejected) as rejected:
        task.prepare(refused, logs)
    assert rejected.value.status in (Status.REJECTED, Status.CRASH)  # a text that runs to be prepared may end so
    assert rejected.value.reason
    assert "\n" not in rejected.value.reason

    beside = task.prepare(other, logs, beside_a_trial=True)
    candidate = task.prepare(source, logs)
    assert candidate.source == source
    assert candidate.program_hash != beside.program_hash
    assert task.prepare(source, logs).program_hash == candidate.program_hash

    snapshot, reports = folder / "snapshot", list[object]()
    first = task.measure(candidate, seed=3, log_dir=logs, snapshot_dir=snapshot, on_progress=reports.append)
    assert (first.status, first.seed, first.snapshot, first.error) == (Status.OK, 3, snapshot, None)
    assert (snapshot / "manifest.json").is_file()
    assert reports
    json.dumps(dict(first.metrics), allow_nan=False)
    if first.items is not None:
        assert sum(first.items) / len(first.items) == pytest.approx(first.value)
    again = task.measure(candidate, seed=3, log_dir=logs, snapshot_dir=snapshot)  # as after a kill
    assert (again.status, again.value, again.snapshot) == (Status.OK, first.value, snapshot)

    if isinstance(task, HoldoutTask):
        audited = task.measure_on_holdout(candidate, seed=4, log_dir=logs, snapshot_dir=folder / "audited")
        assert isinstance(audited.metrics[HOLDOUT_SCORE], float)
        assert HOLDOUT_SCORE not in first.metrics
    task.close()
    task.close()
