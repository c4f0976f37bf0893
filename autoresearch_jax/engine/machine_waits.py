"""Waits for the machine: while other work keeps it busy, and after failures that are no candidate's."""

import time

from autoresearch_jax.engine.records import ExperimentRow
from autoresearch_jax.engine.stopping import Interrupts, StoppingList, StopReached, backoff
from autoresearch_jax.engine.task import Observer
from autoresearch_jax.sanitize import clean_line


class MachineWaits:
    """Waits before something is tried again that says nothing of a candidate."""

    def __init__(
        self, stopping: StoppingList, observer: Observer, interrupts: Interrupts, first_wait_seconds: float
    ) -> None:
        """`first_wait_seconds` is the first of several waits in a row; each further one is twice as long."""
        self._stopping = stopping
        self._observer = observer
        self._interrupts = interrupts
        self._first_wait_seconds = first_wait_seconds

    def wait(self, why: str, waits: int, champion: ExperimentRow | None, started: float) -> None:
        """Says why, and waits, at most as long as the run may last; `waits` came before it in a row.

        `champion` is None while the stopping list does not count: before the baseline is measured, and while
        certification follows the end of the search. All time from `started` (`time.monotonic()`) on counts.

        Raises StopReached if an item of the stopping list holds; KeyboardInterrupt if the process was asked to end.
        """
        seconds = backoff(self._first_wait_seconds, waits)
        words = clean_line(why)
        self._observer.notice(f"{words}; tried again in {seconds:g} s")
        self._observer.waits(words, time.time(), time.time() + seconds)
        if champion is None:
            with self._interrupts.allowed():
                time.sleep(seconds)
            self._observer.resumes()
            return
        self._stopping.wait(seconds, champion, started)
        self._observer.resumes()
        progress = self._stopping.progress(champion, waited_seconds=time.monotonic() - started)
        if (reason := self._stopping.stop_reason(progress)) is not None:
            raise StopReached(reason)
