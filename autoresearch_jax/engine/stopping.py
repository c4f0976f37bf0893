"""When a run ends: program.md's "Stop when" list, signals, and waits that end with the run."""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.limits import Limit, Progress, Stop, Target, with_experiments
from autoresearch_jax.engine.records import ExperimentRow, Kind
from autoresearch_jax.engine.state import concluded, seconds_spent
from autoresearch_jax.engine.task import Observer
from autoresearch_jax.proposers.base import ProposalFailed, ServiceDown
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.types import Metric

# Ctrl-C; a shutdown, or a cloud that wants its machine back; a terminal that goes away
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ECHO_SECONDS = 1.0  # a second SIGTERM or SIGHUP within this time is the same request, told by another process


class Interrupts:
    """Remembers that the process was asked to end.

    Inside `allowed` the first signal raises KeyboardInterrupt; elsewhere it waits for the next `allowed`. A second
    Ctrl-C ends the process at once, and so does any other signal that is no echo of the first.
    """

    def __init__(self) -> None:
        self._first: float | None = None  # `time.monotonic()` of the first signal
        self._is_allowed = False

    @property
    def requested(self) -> bool:
        """Whether a signal came in."""
        return self._first is not None

    @contextmanager
    def installed(self) -> Iterator["Interrupts"]:
        """Handles the signals of this process inside; only in the main thread. Under `nohup` no SIGHUP is one."""
        handled = [
            number for number in SIGNALS if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN)
        ]
        before = {number: signal.signal(number, self._handle) for number in handled}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Marks what may be cut short.

        Raises:
          KeyboardInterrupt: a signal came in, or had come in before.
        """
        self._is_allowed = True
        try:
            if self.requested:
                raise KeyboardInterrupt
            yield
        finally:
            self._is_allowed = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._first is not None:
            if number == signal.SIGINT or time.monotonic() - self._first > ECHO_SECONDS:
                _end_at_once(number)
            return
        self._first = time.monotonic()
        if os.getpid() != 1:  # to which the kernel sends no signal that it has no handler for
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # even where Python does not come to call us
        if self._is_allowed:
            raise KeyboardInterrupt


def _end_at_once(number: int) -> None:
    """Ends this process as the signal would."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # as the first process of a container it is still alive


FAILURES_WITHOUT_WAIT = 5  # proposals in a row that may come to nothing before the loop waits in between
FIRST_WAIT_SECONDS = 60.0  # before another try; each further wait is twice as long
LONGEST_WAIT_SECONDS = 900.0
WAIT_STEP_SECONDS = 5.0  # how often the stopping list is looked at while the loop waits


class StopReached(Exception):
    """An item of the stopping list holds while an experiment waits; the message says which."""


def backoff(first_seconds: float, waits: int) -> float:
    """Seconds to wait before another try, after a number of waits in a row."""
    return min(first_seconds * 2.0 ** min(waits, 10), LONGEST_WAIT_SECONDS)


def _progress_in_ledger(ledger: Ledger) -> Progress:
    """How far the run is by what is concluded, without its metric and score."""
    rows = concluded(ledger)
    proposals = [row for row in rows if row.kind is Kind.PROPOSAL]
    since_keep = 0
    for row in rows:
        since_keep = 0 if row.is_improvement else since_keep + (row.kind is Kind.PROPOSAL)
    return Progress(
        experiments=len(proposals),
        seconds=seconds_spent(ledger, rows),
        dollars=sum(row.cost_dollars for row in proposals),
        since_keep=since_keep,
        metric="",
        score=math.nan,
    )


class StoppingList:
    """Compares a run with its stopping list, which may change while the run goes on."""

    def __init__(
        self,
        ledger: Ledger,
        page: Callable[[], Sequence[Stop]],
        metric: Metric,
        interrupts: Interrupts,
        max_experiments: int | None,
    ) -> None:
        """Reads nothing yet; `max_experiments` replaces what program.md's list, the `page`, says of experiments."""
        self._ledger = ledger
        self._page = page
        self._metric = metric
        self._interrupts = interrupts
        self._max_experiments = max_experiments
        self.is_lifted = False

    def lift(self) -> None:
        """From now on nothing ends the run."""
        self.is_lifted = True

    def progress(self, champion: ExperimentRow, waited_seconds: float = 0.0, more_experiments: int = 0) -> Progress:
        """How far the run is, with what is not in the ledger yet."""
        assert champion.score is not None
        before = self._ledger.remembered(_progress_in_ledger)
        return replace(
            before,
            experiments=before.experiments + more_experiments,
            seconds=before.seconds + waited_seconds,
            since_keep=before.since_keep + more_experiments,
            metric=self._metric.name,
            score=champion.score,
        )

    def stops(self) -> list[Stop]:
        """The stopping list as it is now."""
        return [] if self.is_lifted else with_experiments(self._page(), self._max_experiments)

    def stop_reason(self, progress: Progress) -> str | None:
        """The first item of the list that holds, None if none does."""
        return next((reason for stop in self.stops() if (reason := stop.reached(progress)) is not None), None)

    def target_reached(self, champion: ExperimentRow) -> str | None:
        """The first target of the list that the champion reaches, None if it reaches none."""
        targets = (stop for stop in self.stops() if isinstance(stop, Target))
        return next((reason for stop in targets if (reason := stop.reached(self.progress(champion))) is not None), None)

    def is_out_of_time(self, champion: ExperimentRow) -> bool:
        """True once a limit in seconds is passed; certification, too, keeps to it."""
        limits = (stop for stop in self.stops() if isinstance(stop, Limit) and stop.quantity == "seconds")
        return any(limit.reached(self.progress(champion)) for limit in limits)

    def wait(
        self, seconds: float, champion: ExperimentRow, started: float, is_over: Callable[[], object] = lambda: False
    ) -> None:
        """Sleeps, but not beyond what the stopping list allows.

        All time from `started` (`time.monotonic()`) on counts. `is_over` ends it as soon as it is true.

        Raises:
          KeyboardInterrupt: the process was asked to end.
        """
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            if is_over() or self.stop_reason(self.progress(champion, waited_seconds=now - started)) is not None:
                return
            with self._interrupts.allowed():
                time.sleep(min(until - now, WAIT_STEP_SECONDS))


class ProposalWaits:
    """Waits for the next proposal: while the proposer's service is down, and after failures in a row."""

    def __init__(
        self, stopping: StoppingList, observer: Observer, first_wait_seconds: float, has_text: Callable[[], object]
    ) -> None:
        """Stores what to wait with.

        Args:
          first_wait_seconds: the first wait after failures; each further one is twice as long.
          has_text: whether there is something to measure without a proposal, which ends a wait.
        """
        self._has_text = has_text
        self._stopping = stopping
        self._observer = observer
        self._first_wait_seconds = first_wait_seconds
        self._failures = 0  # in a row, of this process
        self._down_since: float | None = None  # seconds since 1970
        self._until = -math.inf  # `time.monotonic()` before which nothing is asked, where trials run meanwhile
        self.since: float | None = None  # `time.monotonic()`; from then on time counts as the next experiment's

    @property
    def seconds_left(self) -> float:
        """How long nothing is to be asked yet; 0 but for waits beside trials."""
        return max(0.0, self._until - time.monotonic())

    def wait_for_service(
        self, down: ServiceDown, champion: ExperimentRow, started: float, *, beside_trials: bool = False
    ) -> None:
        """Waits until the service may be asked again; all time from `started` on counts as the next experiment's.

        With `beside_trials` it returns at once; see `seconds_left`.

        Raises:
          KeyboardInterrupt: the process was asked to end.
        """
        what, now = clean_line(str(down)), time.time()
        if self._down_since is None:
            self._down_since = now
            self._observer.notice(f"{what}: waiting, and asking again until it answers")
        if beside_trials:
            self._until = time.monotonic() + down.retry_seconds
            return
        self.since = started
        self._observer.waits(what, self._down_since, now + down.retry_seconds)
        self._stopping.wait(down.retry_seconds, champion, started, self._has_text)

    def interrupted(self) -> None:
        """Enters that an experiment begins without a proposal: what was waited so far is that experiment's time."""
        if self.since is not None:
            self.since = None
            self._observer.resumes()

    def proposed(self) -> None:
        """Enters a proposal."""
        self._failures = 0
        self._answered()

    def failed(self, failure: ProposalFailed, champion: ExperimentRow, *, beside_trials: bool = False) -> None:
        """Enters a proposal that came to nothing; waits if that is so again and again, as `wait_for_service` does.

        Raises:
          KeyboardInterrupt: the process was asked to end.
        """
        self._failures += 1
        self._answered()
        doublings = self._failures - FAILURES_WITHOUT_WAIT
        if doublings < 0 or not failure.worth_waiting:
            return
        seconds = backoff(self._first_wait_seconds, doublings)
        what = f"{self._failures} proposals in a row came to nothing"
        self._observer.notice(
            f"{what}, the last one because: {clean_line(str(failure))}; waiting {seconds:g} s before the next"
        )
        if beside_trials:
            self._until = time.monotonic() + seconds
            return
        self.since = time.monotonic()
        self._observer.waits(what, time.time(), time.time() + seconds)
        self._stopping.wait(seconds, champion, self.since, self._has_text)
        self._observer.resumes()

    def _answered(self) -> None:
        self.since = None
        if self._down_since is None:
            return
        seconds = time.time() - self._down_since
        self._down_since = None
        self._observer.resumes()
        self._observer.notice(f"the service answers again, after {seconds:.0f} s")


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
        """Says why, and waits, at most as long as the run may last.

        Args:
          why: one line.
          waits: how many came before it in a row.
          champion: of the run; None while the stopping list does not count: before the baseline is measured, and
            while certification follows the end of the search.
          started: `time.monotonic()`; all time from then on counts.

        Raises:
          StopReached: an item of the stopping list holds.
          KeyboardInterrupt: the process was asked to end.
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
