"""live.json in a run's folder: what its driver is doing now, for those who watch. The run itself never reads it."""

import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.files import write_whole
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.types import Scalar

MAX_CURVE_POINTS = 200
MAX_LOG_LINES = 30
LATEST = 1e11  # seconds since 1970 that a calendar still has
WRITE_SECONDS = 0.5  # between two writes that tell no more than how far a trial is


@dataclass(frozen=True)
class Waiting:
    """What does not work now, since when, and when it is tried again; in seconds since 1970."""

    what: str
    since: float
    again_at: float


@dataclass(frozen=True)
class Live:
    """What a driver is doing.

    Attributes:
      pid: of the driver.
      at: when this was written, in seconds since 1970.
      experiment: that is prepared or measured; None between two.
      run: "run 2", "champion's run 3"; "" while the experiment is prepared.
      report: what the task last told of the trial.
      curve: of the running trial, seconds of the budget (its steps, where it is in steps) and loss; at most
        MAX_CURVE_POINTS, evenly thinned.
      waiting: what the driver waits for; None while there is nothing to wait for.
      log: the last MAX_LOG_LINES lines that the driver printed, each with its time.
      down: a service that does not answer while the run goes on without it; None without one.
    """

    pid: int
    at: float
    experiment: int | None = None
    run: str = ""
    report: Mapping[str, Scalar] = field(default_factory=dict)
    curve: Sequence[tuple[float, float]] = ()
    waiting: Waiting | None = None
    log: Sequence[tuple[float, str]] = ()
    down: Waiting | None = None


def write_live(folder: RunFolder, live: Live) -> None:
    """Replaces live.json.

    Raises:
      OSError: it cannot be written.
    """
    fields = {name: vars(value) if isinstance(value, Waiting) else value for name, value in vars(live).items()}
    write_whole(folder.live, json.dumps(fields) + "\n", sync=False)


def read_live(folder: RunFolder) -> Live | None:
    """What the driver last wrote, also one that has ended; None where that is missing, or no such file."""
    try:
        return _as_live(json.loads(folder.live.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
        return None


def _as_live(fields: Mapping[str, Any]) -> Live:
    """Raises ValueError, KeyError or TypeError for what `write_live` would not have written."""
    number = fields["experiment"]
    return Live(
        pid=int(fields["pid"]),
        at=_time(fields["at"]),
        experiment=None if number is None else int(number),
        run=clean_line(fields["run"]),
        report=_plain(fields["report"]),
        curve=tuple((_finite(x), _finite(loss)) for x, loss in fields["curve"][-MAX_CURVE_POINTS:]),
        waiting=_as_waiting(fields["waiting"]),
        down=_as_waiting(fields["down"]),
        log=tuple((_time(at), clean_line(line)) for at, line in fields["log"][-MAX_LOG_LINES:]),
    )


def _as_waiting(fields: Mapping[str, Any] | None) -> Waiting | None:
    if fields is None:
        return None
    return Waiting(clean_line(fields["what"]), _time(fields["since"]), _time(fields["again_at"]))


def _is_finite(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _finite(value: object) -> float:
    if not _is_finite(value):
        raise ValueError(f"{value!r}: a number is expected")
    return value


def _time(value: object) -> float:
    if not 0 <= (found := _finite(value)) < LATEST:
        raise ValueError(f"{found}: a time is expected")
    return found


def _plain(report: Mapping[str, object]) -> dict[str, Scalar]:
    """The scalars of a report: texts in one clean line, None in place of what is no number."""
    found: dict[str, Scalar] = {}
    for name, value in dict(report).items():
        if isinstance(value, str):
            found[clean_line(name)] = clean_line(value)
        elif value is None or isinstance(value, int | float):
            found[clean_line(name)] = value if _is_finite(value) else None
    return found


class ThinnedCurve:
    """A curve of any length in at most MAX_CURVE_POINTS points: every second, every fourth, ... and the last."""

    def __init__(self) -> None:
        self._kept: list[tuple[float, float]] = []
        self._every = 1
        self._count = 0
        self._last = (0.0, 0.0)

    def add(self, x: float, loss: float) -> None:
        """Adds a point at the end."""
        self._last = x, loss
        if self._count % self._every == 0:
            self._kept.append(self._last)
        self._count += 1
        if len(self._kept) == MAX_CURVE_POINTS:  # the last one needs a place, too
            del self._kept[1::2]
            self._every *= 2

    @property
    def points(self) -> tuple[tuple[float, float], ...]:
        """The points that are left."""
        is_kept = not self._kept or self._kept[-1] is self._last
        return tuple(self._kept) if is_kept else (*self._kept, self._last)


class LiveWriter:
    """Keeps live.json up to date, in any thread; where it cannot be written it is left out."""

    def __init__(
        self, folder: RunFolder, write_seconds: float = WRITE_SECONDS, clock: Callable[[], float] = time.time
    ) -> None:
        """Writes that nothing goes on yet; `write_seconds` lie between two writes about the progress of a trial."""
        self._folder = folder
        self._write_seconds = write_seconds
        self._clock = clock
        self._lock = threading.Lock()  # a proposer's notices come in a thread of their own
        self._live = Live(os.getpid(), clock())
        self._curve = ThinnedCurve()
        self._written = -math.inf
        self.ends()

    def begins(self, experiment: int, run: str = "") -> None:
        """An experiment is prepared; with `run`, a trial begins."""
        self._curve = ThinnedCurve()
        self._write(experiment=experiment, run=run, report={})

    def progress(self, report: Mapping[str, Scalar]) -> None:
        """How far the trial is."""
        x, loss = report.get("elapsed_seconds" if report.get("budget_steps") is None else "step"), report.get("loss")
        if _is_finite(x) and _is_finite(loss):
            self._curve.add(x, loss)
        is_new_phase = report.get("phase") != self._live.report.get("phase")
        self._write(at_once=is_new_phase, report=_plain(report))

    def ends(self) -> None:
        """No experiment is prepared or measured."""
        self._curve = ThinnedCurve()
        self._write(experiment=None, run="", report={}, waiting=None)

    def waits(self, waiting: Waiting | None) -> None:
        """The driver waits; None where it goes on."""
        self._write(waiting=waiting)

    def service(self, down: Waiting | None) -> None:
        """A service is down, and the run goes on without it; None where it answers again."""
        self._write(down=down)

    def says(self, line: str) -> None:
        """The driver prints a line."""
        self._write(line)

    def _write(self, line: str | None = None, *, at_once: bool = True, **changes: Any) -> None:
        with self._lock:
            now = self._clock()
            if line is not None:
                changes["log"] = (*self._live.log, (now, clean_line(line)))[-MAX_LOG_LINES:]
            self._live = replace(self._live, at=now, curve=self._curve.points, **changes)
            if not at_once and 0 <= now - self._written < self._write_seconds:
                return
            self._written = now
            with suppress(OSError):  # such as a full disk
                write_live(self._folder, self._live)
