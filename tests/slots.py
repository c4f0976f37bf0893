"""An executor of several slots without threads: trials end in an order that is drawn, and can be repeated."""

import random
from collections.abc import Callable

from autoresearch_jax.executors.base import Finished, Work
from autoresearch_jax.types import Measurement


class DrawnOrder:
    """Runs a trial when its end is drawn; after so many ends it raises what a signal does.

    Without a seed the trials end in the order in which they began.
    """

    def __init__(
        self,
        measure: Callable[..., Measurement],
        slots: int,
        seed: int | None = 0,
        interrupted_after: int | None = None,
    ) -> None:
        self.slots = slots
        self.most_out = 0
        self._measure = measure
        self._order = None if seed is None else random.Random(seed)
        self._out: dict[int, Work] = {}
        self._submitted = self._ended = 0
        self._interrupted_after = interrupted_after

    def submit(self, work: Work) -> int:
        self._submitted += 1
        self._out[self._submitted] = work
        self.most_out = max(self.most_out, len(self._out))
        return self._submitted

    def next_finished(self, timeout: float | None = None) -> Finished | None:
        if not self._out:
            raise IndexError("no trial is out")
        if self._ended == self._interrupted_after:
            raise KeyboardInterrupt
        self._ended += 1
        ticket = next(iter(self._out)) if self._order is None else self._order.choice(list(self._out))
        work = self._out.pop(ticket)
        try:
            return Finished(ticket, work.measured_by(self._measure, work.on_progress))
        except Exception as error:
            return Finished(ticket, error=error)

    def cancel(self, ticket: int) -> None:
        self._out.pop(ticket, None)

    def close(self) -> None:
        self._out.clear()
