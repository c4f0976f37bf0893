"""The processes of trials; while one is at work, the next has imported everything and waits. Loads no JAX."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from autoresearch_jax.sandbox.process import JsonWorker, ProcessTimeoutError, WorkerDiedError

# For what is left of its imports, once the trial beside it is over. Another would take as long to start: what is not
# ready by then is kept from its work by others, to whom it gives way and that one does not.
PATIENCE_SECONDS = 2.0
ANSWER_SECONDS = 10.0  # for a waiting process to wake up; it takes milliseconds

StartWorker = Callable[[Path], JsonWorker]  # takes the log's path


class Workers:
    """Hands out processes for trials, one that waits before a new one. For one thread."""

    def __init__(self, start: StartWorker, start_waiting: StartWorker, standby_log: Path | None) -> None:
        """Starts nothing yet.

        Args:
          start: a process that is ready for a trial as soon as it can be.
          start_waiting: one that waits first, see `waiting.py`.
          standby_log: where that one prints until it is handed out; None to have none.
        """
        self._start = start
        self._start_waiting = start_waiting
        self._standby_log = standby_log
        self._standby: JsonWorker | None = None

    def take(self, log_path: Path) -> JsonWorker:
        """A process that says in a moment that it is ready, and prints to `log_path` from here on.

        One that died while it waited, or cannot become ready on a busy machine, is replaced: no candidate gets to know
        of it.
        """
        worker, self._standby = self._standby, None
        if worker is None:
            return self._start(log_path)
        try:
            worker.receive(PATIENCE_SECONDS)  # that it has imported everything
            worker.send({"log": str(log_path.absolute())})
            worker.receive(ANSWER_SECONDS)  # that it is still there
        except (ProcessTimeoutError, WorkerDiedError):
            worker.close()
            return self._start(log_path)
        worker.started = time.monotonic()  # its waiting is no part of the trial
        return worker

    def start_standby(self) -> None:
        """Begins to make the next process ready, unless it is."""
        if self._standby_log is None or self._standby is not None:
            return
        # What cannot be started now, for want of a file or a thread, is started, and complained about, when needed
        with contextlib.suppress(OSError, RuntimeError):
            self._standby_log.unlink(missing_ok=True)
            self._standby = self._start_waiting(self._standby_log)

    def close(self) -> None:
        """Ends the waiting process, if there is one."""
        worker, self._standby = self._standby, None
        if worker is not None:
            worker.close()
