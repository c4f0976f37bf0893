"""Runs trials on this machine, one at a time."""

from collections import deque
from collections.abc import Callable

from autoresearch_jax.executors import Work
from autoresearch_jax.types import Measurement


class LocalExecutor:
    """Runs each trial in the thread that waits for it, so that a signal cuts it short.

    A trial that ends in an exception, such as KeyboardInterrupt, is over: whoever wants it again submits it again.
    """

    slots = 1

    def __init__(self, measure: Callable[..., Measurement]) -> None:
        """Takes `Task.measure` of the task whose trials it runs."""
        self._measure = measure
        self._waiting: deque[tuple[int, Work]] = deque()
        self._submitted = 0

    def submit(self, work: Work) -> int:
        """See `Executor.submit`."""
        self._submitted += 1
        self._waiting.append((self._submitted, work))
        return self._submitted

    def next_finished(self) -> tuple[int, Measurement]:
        """See `Executor.next_finished`.

        Raises:
          IndexError: nothing was submitted.
        """
        ticket, work = self._waiting.popleft()
        measurement = self._measure(
            work.candidate,
            seed=work.seed,
            log_dir=work.log_dir,
            snapshot_dir=work.snapshot_dir,
            on_progress=work.on_progress,
            scrutiny=work.scrutiny,
            stop_above=work.stop_above,
        )
        return ticket, measurement
