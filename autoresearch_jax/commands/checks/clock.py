"""Whether the clocks can be believed: the one that dates commits and rows, and those that trials are timed by."""

import ctypes
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import autoresearch_jax
from autoresearch_jax.commands.checks.check import Check, refusal
from autoresearch_jax.commands.task_flags import find_clock
from autoresearch_jax.errors import UserError
from autoresearch_jax.sandbox.linux import IS_LINUX, call
from autoresearch_jax.tasks.lm.accounting import ATTENDED, quota_cpus
from autoresearch_jax.tasks.lm.device import choose_platform

EARLIEST = datetime(2025, 1, 1, tzinfo=UTC).timestamp()  # before there was a JAX new enough
FREE_SECONDS = 60.0  # that another machine's clock, which dated the files, may be ahead
SYNC = "turn on NTP: timedatectl set-ntp true, or your system's chrony or ntpd"
_DEPENDS = "dates of commits and rows depend on it, the timing of trials does not"
_WAIT_SECONDS = 0.1
_TOLERANCE = 0.1  # of what was waited: no clock that runs is so wrong, and one that was set just now is seen
_READINGS = 5
_TIMEX_BYTES = 512  # more than any system's struct timex
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronized
_SYNCHRONIZED = Path("/run/systemd/timesync/synchronized")  # made by systemd-timesyncd


def check_clock(
    wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
) -> Iterator[Check]:
    """The date, the speed of the two clocks, and whether something keeps the date right.

    Args:
      wall: seconds since 1970.
      monotonic: seconds since some fixed moment.
    """
    now = wall()
    date = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    newest = max(path.stat().st_mtime for path in Path(autoresearch_jax.__file__).parent.rglob("*.py"))
    depends = f"commits and rows would be dated so: {SYNC}"
    if now < EARLIEST:
        yield Check("clock", f"{date}, which is long ago", is_ok=False, remedy=depends)
    elif now < newest - FREE_SECONDS:
        yield Check("clock", f"{date}, and files of this package are younger", is_ok=False, remedy=depends)
    else:
        yield Check("clock", date)
    if any(_agree(wall, monotonic) for _ in range(2)):  # one may be the moment at which the date is set
        yield Check("monotonic_clock", "advances as the date does")
    else:
        remedy = f"trials are timed with it: {SYNC}; in a virtual machine, choose another clock source"
        yield Check("monotonic_clock", "does not advance as the date does", is_ok=False, remedy=remedy)
    yield _synchronized()


def check_trial_clock(choice: str, platform: str, quota: Callable[[], float | None] = quota_cpus) -> Iterator[Check]:
    """What a trial's budget is counted by, and the processor time that its container has.

    Args:
      choice: value of --clock.
      platform: value of --platform.
      quota: processors whose time the container may use.
    """
    platform = choose_platform(platform)
    refused: list[str] = []
    try:
        clock = find_clock(choice, platform, refused.append)
    except UserError as error:
        yield refusal("trial_clock", error)
        return
    if clock == ATTENDED:
        yield Check("trial_clock", "attended: the kernel's accounts advanced while this process computed")
        limit, there = quota(), len(os.sched_getaffinity(0))
        if limit is not None and limit < there:
            outcome = f"this container may use the time of {limit:g} of {there} processors"
            remedy = "it is the machine that trials have, and is not excused: keep it the same throughout a run"
            yield Check("cpu_quota", outcome, remedy=remedy)
    elif refused:
        what, _, consequence = refused[0].rpartition(": ")
        yield Check("trial_clock", f"wall: {what}", remedy=consequence)
    elif platform != "cpu":
        yield Check("trial_clock", "wall: trials have the device for themselves")
    else:
        yield Check("trial_clock", "wall, as --clock says", remedy="other work on this machine bends it")


def _agree(wall: Callable[[], float], monotonic: Callable[[], float]) -> bool:
    wall_before, before = _read_both(wall, monotonic)
    time.sleep(_WAIT_SECONDS)
    wall_after, after = _read_both(wall, monotonic)
    waited = after - before
    return waited > 0 and abs((wall_after - wall_before) - waited) <= _TOLERANCE * waited


def _read_both(wall: Callable[[], float], monotonic: Callable[[], float]) -> tuple[float, float]:
    """Both clocks at one moment, as nearly as a busy machine allows."""
    readings = []
    for _ in range(_READINGS):
        before, date, after = monotonic(), wall(), monotonic()
        readings.append((after - before, date, (before + after) / 2))
    _, date, moment = min(readings)
    return date, moment


def _synchronized() -> Check:
    if _SYNCHRONIZED.exists():
        return Check("clock_synchronized", "yes")
    try:
        state = call("adjtimex", ctypes.create_string_buffer(_TIMEX_BYTES)) if IS_LINUX else None  # zeros: only asks
    except OSError:
        state = None
    if state is None:
        return Check("clock_synchronized", "not known", remedy=f"{_DEPENDS}: {SYNC}")
    if state == _TIME_ERROR:
        remedy = f"{_DEPENDS}: unless a machine around this one sees to it, {SYNC}"
        return Check("clock_synchronized", "no, says the kernel", remedy=remedy)
    return Check("clock_synchronized", "yes")
