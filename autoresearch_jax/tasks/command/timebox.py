"""The time box of a trial: attended seconds that the asset's processes are at work."""

import threading
import time
from collections.abc import Mapping
from dataclasses import replace

from autoresearch_jax.sandbox.accounting import (
    ATTENDED,
    WALL,
    AccountingError,
    CpuUsage,
    TreeAccounting,
    attended_seconds,
)
from autoresearch_jax.sandbox.process import CommandStopped
from autoresearch_jax.types import ATTENDED_SHARE, CLOCK_FAULT, WALL_SECONDS, Scalar, Status

SAMPLE_SECONDS = 0.02  # between two readings of the accounts, each of which takes some tenths of a millisecond
SHORT_SECONDS = 0.005  # of work that is counted by the wall clock, without a reading of its own


class AssetFailed(Exception):
    """The asset failed in a trial; the status that the trial gets, and one line."""

    def __init__(self, status: Status, reason: str, *, too_busy: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.too_busy = too_busy


class TimeBox:
    """Counts how long a process tree is at work; what stands still between two stretches of work costs nothing."""

    def __init__(
        self, what: str, seconds: float, max_stretch: float, clock: str, root: int, stop: threading.Event
    ) -> None:
        """Starts at zero; it may take `seconds` attended seconds, and messages call it `what`.

        By the wall clock it may take `max_stretch` times as long. Another thread may set `stop` to end the trial. For
        `root` see `TreeAccounting`.
        """
        self._what, self._seconds, self._stop = what, seconds, stop
        self._most_wall = seconds * (max_stretch if clock == ATTENDED else 1.0)
        self._accounting: TreeAccounting | None = TreeAccounting(root) if clock == ATTENDED else None
        self._fault: str | None = None
        self._used = CpuUsage()  # wall: of the work
        self._last: CpuUsage | None = None
        self._began: float | None = None  # the stretch of work
        self._begin_attended = 0.0
        self._sampled = -1.0
        self._sample()

    def begin(self) -> None:
        """The asset is set to work; what it did while it rested does not count, nor how long it waited then."""
        if time.monotonic() - self._sampled >= SAMPLE_SECONDS:
            rested = self._used
            self._sample()
            self._used = rested
        self._began = time.monotonic()

    def check(self) -> None:
        """Counts what was spent so far.

        Raises:
          AssetFailed: the box is spent.
          CommandStopped: `stop` was set.
        """
        assert self._began is not None
        if self._stop.is_set():
            raise CommandStopped("stopped")
        now = time.monotonic()
        if now - self._sampled >= SAMPLE_SECONDS:
            self._sample()
        work = self._used.wall + now - self._began
        attended = self._attended(work)
        if attended > self._seconds:
            raise AssetFailed(Status.TIMEOUT, f"{self._what} took longer than {self._seconds:g} s")
        if work > self._most_wall:
            share = attended / work
            reason = f"the machine was too busy: {self._what} had it for {attended:.1f} of {work:.1f} s"
            raise AssetFailed(Status.TIMEOUT, f"{reason} ({share:.0%})", too_busy=True)

    def end(self) -> float:
        """The asset rests; returns the attended seconds of this stretch of work.

        Raises:
          AssetFailed: the box is spent.
        """
        assert self._began is not None
        before = self._used
        seconds = time.monotonic() - self._began
        share = 1.0
        if seconds >= SHORT_SECONDS:
            self._sample()
            spent = self._used - before
            # what its own threads waited for one another is no excuse
            share = attended_seconds(replace(spent, wall=seconds)) / seconds
        self.check()
        self._used += CpuUsage(wall=time.monotonic() - self._began)
        self._began = None
        return seconds * share

    def figures(self) -> Mapping[str, Scalar]:
        """Metrics of a trial, also of one that is cut short."""
        work = self._used.wall + (0.0 if self._began is None else time.monotonic() - self._began)
        attended = self._attended(work)
        return {
            "training_seconds": attended,
            WALL_SECONDS: work,
            ATTENDED_SHARE: attended / work if work else None,
            "clock": WALL if self._accounting is None else ATTENDED,
            CLOCK_FAULT: self._fault,
        }

    def close(self) -> None:
        """Closes the accounts."""
        if self._accounting is not None:
            self._accounting.close()

    def _attended(self, work: float) -> float:
        used = self._used
        return attended_seconds(CpuUsage(work, used.on_cpu, used.delay, used.others, used.steal, used.throttled))

    def _sample(self) -> None:
        self._sampled = time.monotonic()
        if self._accounting is None:
            return
        try:
            now = self._accounting.read()
        except AccountingError as error:
            self._fault = str(error)
            self._accounting.close()
            self._accounting = None
            return
        if self._last is not None:
            gone = now - self._last
            self._used += CpuUsage(0.0, gone.on_cpu, gone.delay, gone.others, gone.steal)
        self._last = now
