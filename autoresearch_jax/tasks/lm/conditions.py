"""Conditions under which a candidate's Python runs: clock, random numbers, hash seed, addresses. Loads no JAX.

A text must be the same program each time it is traced. Its usual sources of chance are fixed, and what is kept was
traced under other conditions too (see `engine.task.RepeatableTask`), which finds the sources that are not fixed here.
"""

import datetime
import itertools
import os
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_TICK_SECONDS = 0.001  # by which a fixed clock advances with each reading, so that waiting ends
_CLOCKS = ("time", "monotonic", "perf_counter", "process_time", "thread_time", "clock_gettime")
_CALENDARS = {"localtime": 0, "gmtime": 0, "ctime": 0, "asctime": 0, "strftime": 1}  # place of the time, now by default


TRACE_BEGINS = "[the training file begins]"  # in the trace's log: what ended it before this was no fault of the file


@dataclass(frozen=True)
class Conditions:
    """What a trace must not depend on.

    Attributes:
      clock: seconds since 1970 when it begins.
      seed: of its random numbers.
      hash_seed: of Python's hashes, which order sets of strings.
      fixed_addresses: whether the kernel gives a process the same addresses each time, where it can be asked to.
      folder: name of the folder that the candidate's text lies in.
    """

    clock: float
    seed: int
    hash_seed: int
    fixed_addresses: bool
    folder: str


USUAL = Conditions(1.7e9, seed=0, hash_seed=0, fixed_addresses=True, folder="cage")
OTHER = Conditions(2.0123456789e9, seed=1, hash_seed=1, fixed_addresses=False, folder="another cage")


def fix_sources(clock: float, seed: int) -> None:
    """Gives this process clocks and random sources that are alike each time; for a process that only traces.

    Threads, C code and calls to the kernel past Python's modules are not covered.
    """
    import numpy as np  # which the driver does without

    chance = random.Random(seed)
    # of SystemRandom, secrets, uuid4 and NumPy's generators without a seed
    os.urandom = random._urandom = chance.randbytes  # type: ignore[attr-defined]
    if hasattr(os, "getrandom"):
        os.getrandom = lambda size, flags=0: chance.randbytes(size)
    random.seed(seed)
    np.random.seed(seed)
    uuid._generate_time_safe = None  # type: ignore[attr-defined]  # then uuid1 takes the time below
    _fix_clocks(clock)


def _fix_clocks(start: float) -> None:
    ticks = itertools.count()

    def seconds(clock: object = None) -> float:
        return start + _TICK_SECONDS * next(ticks)

    for name in filter(lambda name: hasattr(time, name), _CLOCKS):
        setattr(time, name, seconds)
        setattr(time, f"{name}_ns", lambda clock=None: int(1e9 * seconds()))
    local_time = time.localtime
    for name, place in _CALENDARS.items():
        takes_seconds = name in ("localtime", "gmtime", "ctime")
        now = seconds if takes_seconds else lambda: local_time(seconds())
        setattr(time, name, _with_default(getattr(time, name), place, now))

    class Datetime(datetime.datetime):
        """`today` and `date.today` call `time.time` themselves."""

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Datetime":
            return cls.fromtimestamp(seconds(), tz)

        @classmethod
        def utcnow(cls) -> "Datetime":
            return cls.fromtimestamp(seconds(), datetime.UTC).replace(tzinfo=None)

    datetime.datetime = Datetime  # type: ignore[misc]


def _with_default(function: Callable[..., Any], place: int, now: Callable[[], Any]) -> Callable[..., Any]:
    """A function whose argument at a place is the time `now` where it is missing or None."""

    def wrapped(*arguments: Any) -> Any:
        given = list(arguments)
        if len(given) == place:
            given.append(None)
        if given[place:] == [None]:
            given[place] = now()
        return function(*given)

    return wrapped
