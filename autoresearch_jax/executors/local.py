"""This machine, one trial at a time."""

from collections.abc import Callable

from autoresearch_jax.executors.base import Finished, Work
from autoresearch_jax.types import Measurement


class LocalExecutor:
    """Runs each trial in the thread that waits for it, so that a signal cuts it short.

    A trial that ends in KeyboardInterrupt is over; to have it again, submit it again.
    """

    slots = 1

    def __init__(self, measure: Callable[..., Measurement]) -> None:
        """Takes `Task.measure` of the task whose trials it runs."""
        self._measure = measure
        self._waiting: dict[int, Work] = {}
        self._submitted = 0

    def submit(self, work: Work) -> int:
        self._submitted += 1
        self._waiting[self._submitted] = work
        return self._submitted

    def next_finished(self, timeout: float | None = None) -> Finished | None:
        """As `Executor.next_finished`, without regard to `timeout`: it runs the trial, to its end."""
        if not self._waiting:
            raise IndexError("no trial is out")
        ticket = next(iter(self._waiting))
        work = self._waiting.pop(ticket)
        try:
            return Finished(ticket, work.measured_by(self._measure, work.on_progress))
        except Exception as error:
            return Finished(ticket, error=error)

    def cancel(self, ticket: int) -> None:
        self._waiting.pop(ticket, None)

    def close(self) -> None:
        """Forgets what was not begun; the task itself is closed by its owner."""
        self._waiting.clear()
