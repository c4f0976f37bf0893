"""Which trial comes next: what open experiments want, by its worth, and what is begun besides."""

import time
from collections.abc import Callable

from autoresearch_jax.engine.flight import Flight
from autoresearch_jax.engine.measuring import Measuring
from autoresearch_jax.engine.parts import Parts
from autoresearch_jax.engine.plan import Conclude, RunTrial, is_to_be_kept
from autoresearch_jax.engine.recorder import Recorder
from autoresearch_jax.engine.records import ExperimentRow, Kind, Purpose

SLOW_COMMIT_SECONDS = 2.0  # of a transaction; milliseconds are usual


class Scheduler:
    """Carries out experiments, several at a time where the executor has several slots.

    A free slot has, in this order: a trial that was left; a run of what is about to be kept, of which there is one at a
    time; a run of the champion that a decision waits for, one at a time, too; a further run of a candidate; what is
    begun.
    """

    def __init__(
        self,
        parts: Parts,
        recorder: Recorder,
        measuring: Measuring,
        flight: Flight,
        look_ahead: Callable[[ExperimentRow], None],
    ) -> None:
        """Takes what the loop works with; `look_ahead` is told what has just begun."""
        self._parts = parts
        self._ledger = parts.ledger
        self._recorder = recorder
        self._measuring = measuring
        self._flight = flight
        self._tell_begun = look_ahead
        self._started: dict[int, float] = {}  # `time.monotonic()` of open experiments, see `begin`
        self._has_noticed_slow_disk = False

    def go_on(self, begin: Callable[[], bool], seconds_to_wait: Callable[[], float | None] = lambda: None) -> None:
        """Runs what open experiments want, and what is begun besides; until nothing is open and nothing begun.

        Args:
          begin: called while a trial could be started and none is wanted; returns False if it begins nothing now.
          seconds_to_wait: until it may begin something then; None if only the end of a trial changes that.

        Raises:
          RunError, StopReached, KeyboardInterrupt: see `Flight.finish_one`.
        """
        while True:
            while self._flight.num_free > 0 and (self._start_wanted() or begin()):
                pass
            if self._flight.is_empty:
                return
            self._flight.finish_one(seconds_to_wait() if self._flight.num_free > 0 else None)

    def begin(self, experiment: ExperimentRow, started: float) -> None:
        """Tells that an experiment begins, once in a process; from `started` on the time is its own."""
        if experiment.id in self._started:
            return
        if not self._started:
            self._flight.started = started
        self._started[experiment.id] = started
        self._parts.observer.begins(experiment)
        self._tell_begun(experiment)

    def _start_wanted(self) -> bool:
        """Concludes experiments that can be, and starts the trial that is wanted most; False if none is."""
        wanted = self._settle()
        if left := self._flight.left():
            self._flight.take_up(left[0])
            return True
        champion = self._recorder.champion
        measured = None if champion is None else self._ledger.measured(champion).id
        if measured is not None and self._flight.num_running(measured):  # what waits for its run goes on waiting
            wanted = [(number, action) for number, action in wanted if action.of != measured]
        if not wanted:
            return False
        order = (Purpose.CHAMPION, Purpose.CERTIFY, Purpose.CANDIDATE)
        most = min(wanted, key=lambda one: (order.index(one[1].purpose), one[1].of == measured, one[0]))
        self._flight.start(*most)
        return True

    def _settle(self) -> list[tuple[int, RunTrial]]:
        """Concludes all that can be concluded; the trials that the other experiments want, each with its experiment."""
        ledger = self._ledger
        while True:
            rows, wanted, has_kept = ledger.open_experiments(), list[tuple[int, RunTrial]](), False
            if not rows:
                return []
            to_be_kept = next((row.id for row in rows if is_to_be_kept(ledger, row)), None)
            for row in rows:
                if self._flight.num_running(row.id) and row.kind is not Kind.BASELINE:
                    continue
                self.begin(row, time.monotonic())
                action = self._measuring.next(row, may_keep=to_be_kept in (None, row.id))
                if isinstance(action, Conclude):
                    self._conclude(ledger.experiment(row.id), action)
                    if has_kept := action.decision.action.keeps:
                        break  # others were made from another champion
                elif action is not None:
                    wanted.append((row.id, action))
                    if action.decision is not None and action.decision.action.keeps:
                        to_be_kept = row.id
            if not has_kept:
                return wanted

    def _conclude(self, experiment: ExperimentRow, conclusion: Conclude) -> None:
        """Enters what came of an experiment in the books."""
        row = self._recorder.conclude(experiment, conclusion, self._started.pop(experiment.id))
        if self._parts.retention is not None:
            self._parts.retention.apply(row)
        self._parts.observer.ends(row)
        self._notice_slow_disk()

    def _notice_slow_disk(self) -> None:
        """Says once that the disk is slow, which costs time."""
        seconds = self._ledger.slowest_commit_seconds
        if seconds > SLOW_COMMIT_SECONDS and not self._has_noticed_slow_disk:
            self._has_noticed_slow_disk = True
            remedy = "`autoresearch doctor` measures it, --run_dir may be on another"
            self._parts.observer.notice(
                f"{self._parts.folder.ledger}: the disk took {seconds:.1f} s for one write; {remedy}"
            )
