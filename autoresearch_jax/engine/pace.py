"""How far a run is, whether its stopping list ends it, and waits that end with it."""

import time

from autoresearch_jax.engine.book import Book, score_of
from autoresearch_jax.engine.interrupts import Interrupts
from autoresearch_jax.engine.program_file import ProgramFile
from autoresearch_jax.engine.records import ExperimentRow, Kind
from autoresearch_jax.engine.stopping import Limit, Progress, Stop, Target, experiments_limit
from autoresearch_jax.types import Metric

FIRST_WAIT_SECONDS = 60.0  # before another try; each further wait is twice as long
LONGEST_WAIT_SECONDS = 900.0
WAIT_STEP_SECONDS = 5.0  # how often the stopping list is looked at while the loop waits


class StopReached(Exception):
    """An item of the stopping list holds while an experiment waits; the message says which."""


def backoff(first_seconds: float, waits: int) -> float:
    """Seconds to wait before another try, after a number of waits in a row."""
    return min(first_seconds * 2.0 ** min(waits, 10), LONGEST_WAIT_SECONDS)


class Pace:
    """Compares a run with its stopping list, which may change while the run goes on."""

    def __init__(
        self, book: Book, program: ProgramFile, metric: Metric, interrupts: Interrupts, max_experiments: int | None
    ) -> None:
        """Stores what to look at.

        Args:
          book: what is over.
          program: the page with the list.
          metric: the task's.
          interrupts: which cut a wait short.
          max_experiments: proposals to end after, instead of what the page says of experiments.
        """
        self._book = book
        self._program = program
        self._metric = metric
        self._interrupts = interrupts
        self._max_experiments = max_experiments

    def progress(self, champion: ExperimentRow, waited_seconds: float = 0.0, more_experiments: int = 0) -> Progress:
        """How far the run is, with what is not in the ledger yet."""
        proposals = [row for row in self._book.rows if row.kind is Kind.PROPOSAL]
        last_improvement = self._book.last_improvement
        return Progress(
            experiments=len(proposals) + more_experiments,
            seconds=self._book.seconds + waited_seconds,
            dollars=sum(row.cost_dollars for row in proposals),
            since_keep=sum(row.id > last_improvement for row in proposals) + more_experiments,
            metric=self._metric.name,
            score=score_of(champion),
        )

    def stops(self) -> list[Stop]:
        """The stopping list as it is now."""
        stops = list(self._program.program.stops)
        if self._max_experiments is not None:
            stops = [stop for stop in stops if not (isinstance(stop, Limit) and stop.quantity == "experiments")]
            stops.append(experiments_limit(self._max_experiments))
        return stops

    def stop_reason(self, progress: Progress) -> str | None:
        """The first item of the list that holds, None if none does."""
        return next((reason for stop in self.stops() if (reason := stop.reached(progress)) is not None), None)

    def target_reached(self, champion: ExperimentRow) -> str | None:
        """The first target of the list that the champion reaches, None if it reaches none."""
        targets = (stop for stop in self.stops() if isinstance(stop, Target))
        return next((reason for stop in targets if (reason := stop.reached(self.progress(champion))) is not None), None)

    def wait(self, seconds: float, champion: ExperimentRow, started: float) -> None:
        """Sleeps, but not beyond what the stopping list allows.

        Args:
          seconds: how long.
          champion: the present one.
          started: `time.monotonic()` from which on all time counts.

        Raises:
          KeyboardInterrupt: the process was asked to end.
        """
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            if self.stop_reason(self.progress(champion, waited_seconds=now - started)) is not None:
                return
            with self._interrupts.allowed():
                time.sleep(min(until - now, WAIT_STEP_SECONDS))
