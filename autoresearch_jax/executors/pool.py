"""This machine, several trials beside each other."""

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from autoresearch_jax.executors.base import Finished, Work
from autoresearch_jax.types import Measurement, Scalar

REPEAT_SECONDS = 1.0  # until a trial that does not end is told again


class Measurer(Protocol):
    """What one slot runs trials by, such as a task at a place of its own."""

    def measure(self, *arguments: Any, **options: Any) -> Measurement:
        """See `engine.task.Task.measure`."""

    def close(self) -> None:
        """Ends what runs, also a trial in another thread; it can be used again."""


class PoolExecutor:
    """Runs as many trials at the same time as there are measurers, each in a thread of its own.

    Trials begin in their order, each in the first slot that is free; they do so whether or not an answer is waited for.
    """

    def __init__(self, measurers: Sequence[Measurer]) -> None:
        """Takes one measurer a slot, which it closes in the end."""
        self.slots = len(measurers)
        self._measurers = measurers
        self._changed = threading.Condition()  # guards all that follows
        self._submitted = 0
        self._out: dict[int, Work] = {}  # neither answered nor cancelled, by ticket
        self._waiting: deque[int] = deque()
        self._running: dict[int, int] = {}  # tickets, by slot
        self._held: set[int] = set()  # slots that are not given another trial
        self._events: deque[tuple[int, Finished | Mapping[str, Scalar]]] = deque()

    def submit(self, work: Work) -> int:
        with self._changed:
            self._submitted += 1
            self._out[self._submitted] = work
            self._waiting.append(self._submitted)
            self._start_waiting()
            return self._submitted

    def next_finished(self, timeout: float | None = None) -> Finished | None:
        """See `Executor.next_finished`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._changed:
                if not self._out:
                    raise IndexError("no trial is out")
                while not self._events:
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        return None
                    self._changed.wait(left)
                ticket, event = self._events.popleft()
                if ticket not in self._out:
                    continue  # cancelled
                if isinstance(event, Finished):
                    del self._out[ticket]
                    return event
                on_progress = self._out[ticket].on_progress
            if on_progress is not None:
                on_progress(event)

    def cancel(self, ticket: int) -> None:
        """As `Executor.cancel`; the trial's processes are gone when this returns."""
        with self._changed:
            if self._out.pop(ticket, None) is None:
                return
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            slots = [slot for slot, running in self._running.items() if running == ticket]
            self._held.update(slots)
        self._end(slots)

    def close(self) -> None:
        with self._changed:
            self._out.clear()
            self._waiting.clear()
            self._events.clear()
            slots = list(self._running)
            self._held.update(slots)
        self._end(slots)
        for measurer in self._measurers:
            measurer.close()

    def _start_waiting(self) -> None:
        """Starts what waits in free slots; called with the lock."""
        for slot, measurer in enumerate(self._measurers):
            if self._waiting and slot not in self._running and slot not in self._held:
                ticket = self._waiting.popleft()
                self._running[slot] = ticket
                arguments = (slot, measurer, ticket, self._out[ticket])
                threading.Thread(target=self._run, args=arguments, daemon=True).start()

    def _run(self, slot: int, measurer: Measurer, ticket: int, work: Work) -> None:
        try:
            finished = Finished(ticket, work.measured_by(measurer.measure, partial(self._tell, ticket)))
        except Exception as error:
            finished = Finished(ticket, error=error)
        with self._changed:
            del self._running[slot]
            self._start_waiting()
        self._tell(ticket, finished)

    def _tell(self, ticket: int, event: Finished | Mapping[str, Scalar]) -> None:
        with self._changed:
            self._events.append((ticket, event))
            self._changed.notify_all()

    def _end(self, slots: Sequence[int]) -> None:
        """Ends the trials in slots that are held, so that no other one begins there meanwhile; frees them."""
        try:
            while running := [slot for slot in slots if slot in self._running]:
                for slot in running:
                    self._measurers[slot].close()
                with self._changed:
                    self._changed.wait_for(lambda: not set(slots) & self._running.keys(), REPEAT_SECONDS)
        finally:
            with self._changed:
                self._held.difference_update(slots)
                self._start_waiting()
