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

from autoresearch_jax.engine.records import ExperimentRow
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.files import write_whole
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.types import Scalar

MAX_TRIALS = 32  # that are read; fewer run
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
class Running:
    """A trial that runs, or an experiment that is prepared or decided on."""

    experiment: int  # that the trial is run for; a candidate's may be one of the champion
    proposer: str = ""
    hypothesis: str = ""
    trial: int = 0  # its number; 0 without one
    run: str = ""  # "run 2", "champion's run 3"; "" without a trial
    report: Mapping[str, Scalar] = field(default_factory=dict)  # what the task last told
    # seconds of the budget (its steps, where it is in steps) and loss; at most MAX_CURVE_POINTS, evenly thinned
    curve: Sequence[tuple[float, float]] = ()

    @property
    def doing(self) -> str:
        """The run and its phase, as far as there are any."""
        return "  ".join(word for word in (self.run, str(self.report.get("phase") or "")) if word)


@dataclass(frozen=True)
class Live:
    """What a driver is doing."""

    pid: int  # of the driver
    at: float  # when this was written, in seconds since 1970
    trials: Sequence[Running] = ()  # that run, and what is prepared, the oldest first
    waiting: Waiting | None = None  # what the driver waits for; None while there is nothing to wait for
    log: Sequence[tuple[float, str]] = ()  # the last MAX_LOG_LINES lines that the driver printed, each with its time
    down: Waiting | None = None  # a service that does not answer while the run goes on without it; None without one


def write_live(folder: RunFolder, live: Live) -> None:
    """Replaces live.json.

    Raises:
      OSError: it cannot be written.
    """
    fields = {name: vars(value) if isinstance(value, Waiting) else value for name, value in vars(live).items()}
    fields["trials"] = [vars(one) for one in live.trials]
    write_whole(folder.live, json.dumps(fields) + "\n", sync=False)


def read_live(folder: RunFolder) -> Live | None:
    """What the driver last wrote, also one that has ended; None where that is missing, or no such file."""
    try:
        return _as_live(json.loads(folder.live.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
        return None


def _as_live(fields: Mapping[str, Any]) -> Live:
    """Raises ValueError, KeyError or TypeError for what `write_live` would not have written."""
    return Live(
        pid=int(fields["pid"]),
        at=_time(fields["at"]),
        trials=tuple(map(_as_running, fields["trials"][:MAX_TRIALS])),
        waiting=_as_waiting(fields["waiting"]),
        down=_as_waiting(fields["down"]),
        log=tuple((_time(at), clean_line(line)) for at, line in fields["log"][-MAX_LOG_LINES:]),
    )


def _as_running(fields: Mapping[str, Any]) -> Running:
    return Running(
        experiment=int(fields["experiment"]),
        proposer=clean_line(fields["proposer"]),
        hypothesis=clean_line(fields["hypothesis"]),
        trial=int(fields["trial"]),
        run=clean_line(fields["run"]),
        report=_plain(fields["report"]),
        curve=tuple((_finite(x), _finite(loss)) for x, loss in fields["curve"][-MAX_CURVE_POINTS:]),
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
    """Knows what runs, and keeps live.json up to date, in any thread; where it cannot be written it is left out."""

    def __init__(
        self, folder: RunFolder, write_seconds: float = WRITE_SECONDS, clock: Callable[[], float] = time.time
    ) -> None:
        """Writes that nothing goes on yet; `write_seconds` lie between two writes about the progress of trials."""
        self._folder = folder
        self._write_seconds = write_seconds
        self._clock = clock
        self._lock = threading.RLock()  # trials report in threads of their own, and so do a proposer's notices
        self._live = Live(os.getpid(), clock())
        self._running: dict[int, Running] = {}  # by trial, the oldest first; 0: what is prepared; without curves
        self._curves: dict[int, ThinnedCurve] = {}
        self._written = -math.inf
        self.clear()

    @property
    def running(self) -> Sequence[Running]:
        """What runs now, the oldest first, without curves."""
        with self._lock:
            return tuple(self._running.values())

    def begins(self, experiment: ExperimentRow) -> None:
        """An experiment is prepared."""
        with self._lock:
            self._enter(experiment, 0, "", {"phase": "prepare"})
            self._write()

    def measures(self, experiment: ExperimentRow, trial: int, run: str) -> None:
        """A trial begins for an experiment; nothing is prepared meanwhile."""
        with self._lock:
            self._running.pop(0, None)
            self._enter(experiment, trial, run, {})
            self._write()

    def progress(self, trial: int, report: Mapping[str, Scalar]) -> None:
        """How far a trial is, or what is prepared; one that is over reports nothing more."""
        x, loss = report.get("elapsed_seconds" if report.get("budget_steps") is None else "step"), report.get("loss")
        with self._lock:
            if (running := self._running.get(trial)) is None:
                return
            if _is_finite(x) and _is_finite(loss):
                self._curves[trial].add(x, loss)
            self._running[trial] = replace(running, report=_plain(report))
            self._write(at_once=report.get("phase") != running.report.get("phase"))

    def measured(self, trial: int) -> None:
        """A trial is over; if no other runs, its experiment is decided on."""
        with self._lock:
            if (over := self._running.pop(trial, None)) is None:
                return
            if not self._running:
                self._running[0] = replace(over, trial=0, run="", report={})
                self._curves[0] = ThinnedCurve()
            self._write()

    def ends(self, experiment: int) -> None:
        """An experiment is over; others go on."""
        with self._lock:
            if 0 in self._running and self._running[0].experiment == experiment:
                del self._running[0]
            self._write(waiting=None)

    def clear(self) -> None:
        """Nothing is prepared or measured."""
        with self._lock:
            self._running.clear()
            self._write(waiting=None)

    def waits(self, waiting: Waiting | None) -> None:
        """The driver waits; None where it goes on."""
        self._write(waiting=waiting)

    def service(self, down: Waiting | None) -> None:
        """A service is down, and the run goes on without it; None where it answers again."""
        self._write(down=down)

    def says(self, line: str) -> None:
        """The driver prints a line."""
        with self._lock:
            self._write(log=(*self._live.log, (self._clock(), clean_line(line)))[-MAX_LOG_LINES:])

    def _enter(self, experiment: ExperimentRow, trial: int, run: str, report: Mapping[str, Scalar]) -> None:
        self._running.pop(trial, None)
        proposer, hypothesis = clean_line(experiment.proposer), clean_line(experiment.hypothesis)
        self._running[trial] = Running(experiment.id, proposer, hypothesis, trial, run, report)
        self._curves[trial] = ThinnedCurve()

    def _write(self, *, at_once: bool = True, **changes: Any) -> None:
        with self._lock:
            now = self._clock()
            self._live = replace(self._live, at=now, **changes)
            if not at_once and 0 <= now - self._written < self._write_seconds:
                return
            self._written = now
            self._curves = {trial: self._curves[trial] for trial in self._running}
            trials = [replace(one, curve=self._curves[trial].points) for trial, one in self._running.items()]
            with suppress(OSError):  # such as a full disk
                write_live(self._folder, replace(self._live, trials=trials))
