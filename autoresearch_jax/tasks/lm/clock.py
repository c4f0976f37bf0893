"""The clock of a trial's budget: seconds of the wall clock, or seconds that the trial had the machine.

On a CPU that others use, the wall clock measures the neighbours. The attended clock leaves out the share of the time
that other processes took, as far as the trial's threads wanted it, and counts the rest at the speed that a reference
program had when the run began. See docs/clock.md; what was measured is in docs/performance.md, section "The clock on a
busy machine".
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

from autoresearch_jax.tasks.lm.accounting import Accounting, AccountingError, Usage
from autoresearch_jax.types import ATTENDED_SHARE, CLOCK_FAULT, Scalar

ATTENDED, WALL = "attended", "wall"  # the clocks, as --clock names them
READ_SECONDS = 0.02  # between two readings of the accounts, each of which takes some tenths of a millisecond
WINDOW_SECONDS = 1.0  # over which accounts are set against each other: those of the processors come in ticks of 0.01 s
REFERENCE_SHARE = 0.04  # of the wall time that the reference program may take
UNCOUNTED_RUNS, COUNTED_RUNS = 1, 2  # of it each time: the first finds the candidate's data in the caches
SMOOTHING_SECONDS = 30.0  # of attended time over which the machine's speed is averaged
USUAL_SCATTER, USUAL_SAMPLES = 0.1, 4  # of the samples' logarithms, and what that counts for beside those at hand


class Clock(Protocol):
    """Tells how much of a budget is spent."""

    def now(self) -> float:
        """Seconds of the budget since some fixed moment; never goes back."""
        ...

    def wall(self) -> float:
        """Seconds of the wall clock since some fixed moment."""
        ...

    def is_due(self) -> bool:
        """Whether the machine's speed should be measured before the next step."""
        ...

    def calibrate(self) -> None:
        """Measures the machine's speed, which spends nothing of the budget; no step may be in flight."""
        ...

    def figures(self) -> dict[str, Scalar]:
        """What the clock has seen since it was made, as metrics of a trial."""
        ...


class WallClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """See `Clock.now`."""
        return time.monotonic()

    def wall(self) -> float:
        """See `Clock.wall`."""
        return time.monotonic()

    def is_due(self) -> bool:
        """See `Clock.is_due`."""
        return False

    def calibrate(self) -> None:
        """See `Clock.calibrate`."""

    def figures(self) -> dict[str, Scalar]:
        """See `Clock.figures`."""
        return {"clock": WALL}


def attended_seconds(spent: Usage) -> float:
    """Seconds of the wall clock that the process had the machine, or did not want it.

    Excused is the delay of its threads, but no more than other processes ran, and what a hypervisor took. A container's
    share of processor time is the machine it has: where it was used up, nothing is excused.

    Args:
      spent: between two readings, over about `WINDOW_SECONDS` or more.
    """
    if spent.on_cpu <= 0 or spent.throttled > 0:
        return spent.wall
    others = max(0.0, spent.others)
    stolen = max(0.0, spent.steal) * spent.on_cpu / (spent.on_cpu + others)
    excused = min(spent.delay, others) + stolen
    # A process that was idle for a part of the time did not wait for longer than its threads did.
    return max(spent.wall * (spent.on_cpu / (spent.on_cpu + excused)), spent.wall - excused)


def slowness(samples: Sequence[float]) -> float:
    """Natural logarithm of how much slower the machine is than when the run began, beyond what chance explains.

    The mean is drawn towards 0 by the share that its variance has in its square (the positive part of James and
    Stein's estimator, 1961), so a correction that is no larger than its own error is none.

    Args:
      samples: logarithms of the reference program's time over that of the run's beginning.
    """
    if not samples:
        return 0.0
    mean = fmean(samples)
    squares = math.fsum((sample - mean) ** 2 for sample in samples) + USUAL_SAMPLES * USUAL_SCATTER**2
    variance = squares / (len(samples) - 1 + USUAL_SAMPLES) / len(samples)
    return mean * max(0.0, 1 - variance / mean**2) if mean else 0.0


@dataclass
class _Block:
    """The time after one calibration: attended seconds, and the sample of the calibration, None if it gave none."""

    sample: float | None = None
    attended: float = 0.0


class AttendedClock:
    """Seconds that this process had the machine, at the speed that the machine had when the run began.

    Where the kernel's accounts turn out to be untrue, it goes on as the wall clock, and its figures say so.
    """

    def __init__(
        self,
        accounting: Accounting,
        run_reference: Callable[[], float],
        reference_seconds: float,
        wall: Callable[[], float] = time.monotonic,
        wait_for_rest: Callable[[], bool] = lambda: True,
    ) -> None:
        """Starts at zero.

        Args:
          accounting: of this process.
          run_reference: runs the reference program once, and returns its processor seconds.
          reference_seconds: what that was when the run began.
          wall: the clock by which `accounting` tells the wall time.
          wait_for_rest: called before each calibration; returns whether the steps' background work has ended.

        Raises:
          AccountingError: the accounts cannot be read.
        """
        self._accounting = accounting
        self._run_reference = run_reference
        self._reference_seconds = reference_seconds
        self._wall = wall
        self._wait_for_rest = wait_for_rest
        self._last = accounting.read()
        self._window = Usage()
        self._blocks = deque([_Block()])
        self._recent = 0.0  # attended seconds of the blocks
        self._speed = 1.0  # by the samples of the blocks
        self._settled = 0.0  # seconds of blocks that are no longer averaged over
        self._told = 0.0
        self._steps_wall = self._steps_attended = self._reference_wall = self._reading_wall = 0.0
        self._fault: str | None = None  # of the accounts

    def now(self) -> float:
        """See `Clock.now`."""
        if self._wall() - self._last.wall >= READ_SECONDS:
            self._read()
        recent = self._recent + attended_seconds(self._window)
        since = self._wall() - self._last.wall  # all of it, where the accounts are not read any more
        self._told = max(self._told, self._settled + recent * self._speed + since)
        return self._told

    def wall(self) -> float:
        """See `Clock.wall`."""
        return self._wall()

    def is_due(self) -> bool:
        """See `Clock.is_due`."""
        return self._fault is None and self._reference_wall <= REFERENCE_SHARE * self._steps_wall

    def calibrate(self) -> None:
        """See `Clock.calibrate`."""
        self._read()
        if self._fault is not None:
            return
        before = self._last
        is_idle = self._wait_for_rest()
        for _ in range(UNCOUNTED_RUNS):
            self._run_reference()
        seconds = fmean(self._run_reference() for _ in range(COUNTED_RUNS))
        try:
            self._last = self._accounting.read()
        except AccountingError as error:
            self._fault = str(error)
            return
        self._reference_wall += self._last.wall - before.wall
        usable = is_idle and seconds > 0 and self._last.throttled == before.throttled
        self._blocks.append(_Block(math.log(seconds / self._reference_seconds) if usable else None))
        self._estimate_speed()

    def figures(self) -> dict[str, Scalar]:
        """See `Clock.figures`.

        "attended_share" is of the wall time of the steps, "machine_speed" is relative to the run's beginning,
        "clock_seconds" the wall time that the reference program and the readings took.
        """
        wall = self._steps_wall + self._window.wall
        attended = self._steps_attended + attended_seconds(self._window)
        return {
            "clock": ATTENDED if self._fault is None else WALL,
            CLOCK_FAULT: self._fault,
            ATTENDED_SHARE: attended / wall if wall else None,
            "machine_speed": self._speed,
            "clock_seconds": self._reference_wall + self._reading_wall,
        }

    def _read(self) -> None:
        """Takes the accounts up to this moment into the window, and begins another where it is long enough."""
        if self._fault is not None:
            return
        try:
            usage = self._accounting.read()
        except AccountingError as error:
            self._fault = str(error)
            return
        self._reading_wall += self._wall() - usage.wall
        self._window += usage - self._last
        self._last = usage
        if self._window.wall < WINDOW_SECONDS:
            return
        attended = attended_seconds(self._window)
        self._blocks[-1].attended += attended
        self._recent += attended
        self._steps_wall += self._window.wall
        self._steps_attended += attended
        self._window = Usage()
        while len(self._blocks) > 1 and self._recent > SMOOTHING_SECONDS:
            oldest = self._blocks.popleft()
            self._recent -= oldest.attended
            self._settled += oldest.attended * self._speed
            self._estimate_speed()

    def _estimate_speed(self) -> None:
        self._speed = math.exp(-slowness([block.sample for block in self._blocks if block.sample is not None]))
