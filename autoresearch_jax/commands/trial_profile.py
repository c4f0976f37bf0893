"""`autoresearch trial --profile`: where the trace may go, how it gets there, what is said of it."""

import shutil
import tempfile
from pathlib import Path

from autoresearch_jax.errors import UsageError, UserError
from autoresearch_jax.tasks.lm.config import PROFILE, PROFILED_STEPS
from autoresearch_jax.types import Budget, Measurement, Scalar, Status


def check_profile(folder: Path, budget: Budget, *, tensorboard: bool) -> None:
    """Refuses a trace that could not be made or kept, before anything is spent; makes the folder.

    Raises:
      UsageError: the budget is too short, or the score is wanted elsewhere.
      UserError: the folder cannot be written to.
    """
    if tensorboard:
        raise UsageError("--profile: such a trial is not compared with others: leave out --tensorboard")
    if budget.steps is not None and budget.steps < PROFILED_STEPS:
        raise UsageError(f"--profile: traces {PROFILED_STEPS} steps, and --budget_steps={budget.steps} has fewer")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"--profile={folder}: cannot be written to: {error.strerror}: name another folder") from error


def keep_profile(trace: Path, folder: Path) -> str | None:
    """Moves the files of a trace, which a trial left in its log folder; returns where they are, None without any.

    Raises:
      UserError: the disk is full or gone.
    """
    kept = None
    for path in sorted(trace.glob("plugins/profile/*/*")):
        if path.is_file() and not path.is_symlink():
            place = folder / path.relative_to(trace)
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, place)
            except OSError as error:
                raise UserError(f"--profile={folder}: {error.strerror}: the trace is in {path.parent}") from error
            kept = str(place.parent)
    return kept


def about_profile(measurement: Measurement, place: Scalar) -> str:
    """What one has to know of a trial whose trace is at a place, None if there is none; one line."""
    num_steps = measurement.metrics.get(PROFILE)
    if place is None:
        if num_steps == 0 and measurement.status is Status.OK:
            return "no trace: no step began in the second half of the budget: give a longer one"
        return f"no trace: the trial ended before the middle of its budget ({measurement.status})"
    score = "the score is not comparable with others, and not recorded"
    if num_steps != PROFILED_STEPS:
        return f"training ended after {num_steps} of {PROFILED_STEPS} steps: a longer budget has all of them; {score}"
    return score
