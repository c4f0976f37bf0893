"""Failures of the task itself, which are no fault of what it measures: logged, and no more than a few in a row."""

import traceback
from pathlib import Path

from autoresearch_jax.errors import UserError

MAX_FAILURES = 3  # in a row; one may be an accident of the machine, three are not the candidate's doing


class RunError(UserError):
    """The run cannot go on; what was measured so far is kept."""


class TaskFailures:
    """Counts failures in a row."""

    def __init__(self) -> None:
        self._count = 0

    def enter(self, error: Exception, log_dir: Path, most: int = MAX_FAILURES) -> str:
        """Logs a failure; returns it in one line.

        Args:
          error: what the task raised.
          log_dir: an existing folder; the traceback is added to its task_error.txt.
          most: how many in a row are too many.

        Raises:
          RunError: it was one too many; what it failed on stays open, and the same command takes it up again.
        """
        log = log_dir / "task_error.txt"
        with log.open("a", encoding="utf-8") as file:
            file.write("".join(traceback.format_exception(error)))
        line = f"the task failed: {type(error).__name__}: {' '.join(str(error).split())}"
        self._count += 1
        if self._count >= most:
            raise RunError(f"{line}; see {log}; the same command goes on from here") from error
        return line

    def clear(self) -> None:
        """Enters a success."""
        self._count = 0
