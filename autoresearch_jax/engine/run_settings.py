"""The settings that a run keeps to for as long as it lives: all that its scores and its decisions depend on."""

import uuid
from collections.abc import Mapping
from pathlib import Path

from autoresearch_jax.decide.certification import CertificationSettings
from autoresearch_jax.decide.rule import DecisionRule
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.pruning import Pruning
from autoresearch_jax.engine.run_folder import RunFolder, check_settings, task_settings
from autoresearch_jax.engine.task import Task, Terms
from autoresearch_jax.engine.task_failures import RunError
from autoresearch_jax.sandbox.faults import FaultPoint, reach
from autoresearch_jax.types import Scalar

RUN_ID = "run_id"  # among the settings of a run whose snapshots are moved
REFERENCE_SECONDS = "reference_seconds"  # among them, where the clock needs it; see `Task.calibrate`
_PRUNE = "prune"  # among them, and at the beginning of the names of all that belongs to it
_EXAM = "exam"  # among them: the hash of what a score can be computed again from


def run_settings(
    editable: str,
    seed: int,
    task: Terms,
    rule: DecisionRule,
    pruning: Pruning | None = None,
    certification: CertificationSettings | None = None,
) -> dict[str, Scalar]:
    """The settings of a run that begins, in the order in which they are stored.

    Args:
      editable: path of the training file inside its repository.
      seed: the source of every seed.
      task: what is measured.
      rule: what decides.
      pruning: when hopeless trials are stopped; None for never.
      certification: what it may spend; None for nothing.
    """
    how_pruned = {_PRUNE: False} if pruning is None else pruning.settings
    certifies = {} if certification is None else certification.settings
    return {"editable": editable, "seed": seed, **task_settings(task), **rule.settings, **certifies, **how_pruned}


def check_run_settings(stored: Mapping[str, Scalar], wanted: Mapping[str, Scalar], folder: Path) -> None:
    """Refuses to go on with a run under other settings than its own.

    Args:
      stored: in the run's ledger.
      wanted: see `run_settings`.
      folder: of the run.

    Raises:
      RunFolderError: some differ; the message names each.
    """
    check_settings(stored, wanted, folder)


def keep_to_settings(
    ledger: Ledger, folder: RunFolder, task: Task, wanted: Mapping[str, Scalar], *, needs_id: bool
) -> None:
    """Stores the settings of a run that begins; refuses to go on with one under others.

    Args:
      ledger: of the run.
      folder: the run's; run.json and the exam are put there.
      task: what is measured.
      wanted: see `run_settings`.
      needs_id: gives the run an id, if it has none.

    Raises:
      RunFolderError: some settings differ.
      RunError: the exam is not that of the run's beginning.
    """
    stored = ledger.settings()
    if stored:
        check_run_settings(stored, wanted, folder.path)
    else:
        ledger.save_settings(wanted)
    reach(FaultPoint.AFTER_SETTINGS)
    if needs_id and RUN_ID not in stored:
        ledger.save_settings({RUN_ID: uuid.uuid4().hex})
    calibrate(ledger, folder, task)
    _keep_exam(ledger, folder, task)
    folder.write_settings(ledger.settings())


def calibrate(ledger: Ledger, folder: RunFolder, task: Task) -> None:
    """Has the task's clock count in what it counted in when the run began; a run that begins stores that."""
    stored = ledger.settings().get(REFERENCE_SECONDS)
    kept = task.calibrate(float(stored) if isinstance(stored, int | float) else None, folder.logs)
    if kept != stored:
        ledger.save_settings({REFERENCE_SECONDS: kept})


def _keep_exam(ledger: Ledger, folder: RunFolder, task: Task) -> None:
    """Has the task put down what a score can be computed again from, once for the run."""
    stored = ledger.settings().get(_EXAM)
    exam = task.keep_exam(folder.exam)
    if stored not in (None, exam):
        raise RunError(f"{folder.exam} is not the exam that the run began with: restore it, or use another --tag")
    if stored is None:
        reach(FaultPoint.AFTER_EXAM)
        ledger.save_settings({_EXAM: exam})
