"""The kernel's accounts of this process's threads and of the processors.

Linux keeps, for each thread, the time it ran and the time it waited for a processor
(https://docs.kernel.org/scheduler/sched-stats.html), and for each processor the time that all processes used and the
time a hypervisor took (https://man7.org/linux/man-pages/man5/proc_stat.5.html).
"""

import errno
import operator
import os
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Protocol

from autoresearch_jax.errors import UserError

ATTENDED, WALL = "attended", "wall"  # the clocks, as --clock names them
PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
NANOSECOND = 1e-9
MICROSECOND = 1e-6
STILL_SECONDS = 0.05  # of computing, after which an account must have moved
INEXACT_SECONDS = 0.5  # error of the accounts of the processors, which come in ticks
_USER, _NICE, _SYSTEM, _IRQ, _SOFTIRQ, _STEAL = 1, 2, 3, 6, 7, 8  # fields of a processor's line in /proc/stat


class AccountingError(UserError):
    """The kernel does not account for threads, or its figures cannot be true."""


@dataclass(frozen=True)
class CpuUsage:
    """Accounts at one moment, each in seconds since some fixed moment; or the difference of two.

    Attributes:
      wall: of the monotonic clock.
      on_cpu: that this process's threads ran, summed over them.
      delay: that they waited for a processor although they could have run, summed over them.
      others: that other processes ran on the processors this one may use; in ticks, so it may fall by a few.
      steal: that a hypervisor took from these processors while they had something to do.
      throttled: that the process was stopped because its container had used up its share of processor time.
    """

    wall: float = 0.0
    on_cpu: float = 0.0
    delay: float = 0.0
    others: float = 0.0
    steal: float = 0.0
    throttled: float = 0.0

    def __add__(self, other: "CpuUsage") -> "CpuUsage":
        return CpuUsage(*map(operator.add, astuple(self), astuple(other)))

    def __sub__(self, other: "CpuUsage") -> "CpuUsage":
        return CpuUsage(*map(operator.sub, astuple(self), astuple(other)))


class Accounting(Protocol):
    """Reads the accounts of this process; raises AccountingError where they are missing or cannot be true."""

    def read(self) -> CpuUsage:
        """The accounts now."""


class LinuxAccounting:
    """The accounts that Linux keeps; raises AccountingError where there are none. Not thread-safe."""

    def __init__(self, proc: Path = PROC, cgroups: Path = CGROUPS) -> None:
        self._tasks = proc / "self" / "task"
        self._stat = proc / "stat"
        self._cpus = _allowed_cpus()
        self._ticks_per_second = os.sysconf("SC_CLK_TCK")
        self._quotas = _quota_files(proc / "self" / "cgroup", cgroups)
        self._threads: dict[str, tuple[int, int, int]] = {}  # file descriptor, ns on a CPU, ns of delay, by thread id
        self._on_cpu = self._delay = 0  # ns
        self._used: tuple[float, float] | None = None  # wall time, and seconds used by anyone, at the last reading
        self._moved = (0, time.process_time())  # ns on a CPU, and the process's own time, when that moved last
        self.read()

    def read(self) -> CpuUsage:
        wall = time.monotonic()
        self._read_threads()
        own, busy, steal = time.process_time(), 0, 0
        if self._on_cpu > self._moved[0]:
            self._moved = self._on_cpu, own
        elif own - self._moved[1] > STILL_SECONDS:
            raise AccountingError("the kernel's account of threads stands still while they run")
        try:
            for fields in self._processors():
                busy += sum(int(fields[i]) for i in (_USER, _NICE, _SYSTEM, _IRQ, _SOFTIRQ))
                steal += int(fields[_STEAL])
        except (OSError, ValueError, IndexError) as error:
            raise AccountingError(f"{self._stat}: no account of the processors ({error})") from error
        usage = CpuUsage(
            wall=wall,
            on_cpu=self._on_cpu * NANOSECOND,
            delay=self._delay * NANOSECOND,
            others=busy / self._ticks_per_second - own,
            steal=steal / self._ticks_per_second,
            throttled=sum(_throttled_seconds(path) for path in self._quotas),
        )
        used = usage.others + own + usage.steal
        if self._used is not None:
            gone, most = used - self._used[1], len(self._cpus) * (wall - self._used[0])
            if not -INEXACT_SECONDS <= gone <= most + INEXACT_SECONDS:
                raise AccountingError(f"{self._stat}: {gone:.1f} s used in {most:.1f} s of all processors")
        self._used = wall, used
        return usage

    def close(self) -> None:
        """Closes the files of all threads."""
        for file, _, _ in self._threads.values():
            os.close(file)
        self._threads.clear()

    def _read_threads(self) -> None:
        try:
            threads = os.listdir(self._tasks)
        except OSError as error:
            raise AccountingError(f"{self._tasks}: no account of threads ({error.strerror})") from error
        for ended in self._threads.keys() - set(threads):
            os.close(self._threads.pop(ended)[0])
        for thread in threads:
            if (found := self._read_thread(thread)) is None:
                continue
            file, on_cpu, delay = found
            _, on_cpu_before, delay_before = self._threads.get(thread, (file, 0, 0))
            if on_cpu < on_cpu_before or delay < delay_before:
                raise AccountingError("the kernel's account of a thread goes backwards")
            self._threads[thread] = found
            self._on_cpu += on_cpu - on_cpu_before
            self._delay += delay - delay_before

    def _read_thread(self, thread: str) -> tuple[int, int, int] | None:
        """File, ns on a CPU and ns of delay of a thread; None for one that has just ended."""
        path = self._tasks / thread / "schedstat"
        file = self._threads[thread][0] if thread in self._threads else -1
        try:
            if file < 0:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            on_cpu, delay, *_ = os.pread(file, 128, 0).split()
            return file, int(on_cpu), int(delay)
        except ValueError as error:
            raise AccountingError(f"{path}: not the account of a thread") from error
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise AccountingError(f"{path}: {error.strerror}") from error
            if file >= 0:
                os.close(file)
                self._threads.pop(thread, None)
            if (self._tasks / thread).exists() and not path.exists():
                raise AccountingError(f"{path}: {error.strerror}") from error
            return None

    def _processors(self) -> Sequence[Sequence[bytes]]:
        """The fields of each processor's line, of those that this process may use."""
        lines = self._stat.read_bytes().splitlines()
        found = [fields for line in lines if (fields := line.split()) and fields[0] in self._cpus]
        if not found:
            raise ValueError("no processor of this process's in it")
        return found


def try_accounting(proc: Path = PROC, cgroups: Path = CGROUPS) -> LinuxAccounting:
    """The accounts; raises AccountingError if there are none, or if they do not move while this process computes."""
    accounting = LinuxAccounting(proc, cgroups)
    until = time.process_time() + 2 * STILL_SECONDS
    while time.process_time() < until:
        accounting.read()
    return accounting


def quota_cpus(proc: Path = PROC, cgroups: Path = CGROUPS) -> float | None:
    """Processors whose time this process's container may use, such as 1.5; None without a limit."""
    quotas = (_quota_of(path.parent) for path in _quota_files(proc / "self" / "cgroup", cgroups))
    return min((quota for quota in quotas if quota is not None), default=None)


def _allowed_cpus() -> frozenset[bytes]:
    """Names, in /proc/stat, of the processors that this process may use."""
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return frozenset(b"cpu%d" % cpu for cpu in cpus)


def _quota_files(own: Path, cgroups: Path) -> Sequence[Path]:
    """The cpu.stat files of this process's control group and its ancestors, in either version of cgroups.

    See https://docs.kernel.org/admin-guide/cgroup-v2.html and https://docs.kernel.org/scheduler/sched-bwc.html
    """
    try:
        lines = own.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return ()
    found = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        roots = [cgroups / controllers, cgroups / "cpu"] if controllers else [cgroups]
        for root in roots:
            parts = Path(group.lstrip("/")).parts
            if ".." in parts:  # of a group around this process's namespace
                parts = ()
            places = [root.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
            found += [path for place in places if (path := place / "cpu.stat").is_file()]
    return list(dict.fromkeys(path.resolve() for path in found))


def _quota_of(group: Path) -> float | None:
    """Quota over period of one control group, in either version; None where there is none."""
    try:
        if (both := group / "cpu.max").is_file():
            quota, period = both.read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # such as "max"
        return None


def _throttled_seconds(path: Path) -> float:
    """Throttled time in a control group's cpu.stat; 0 if it has none."""
    try:
        fields = dict(line.split(maxsplit=1) for line in path.read_text().splitlines())
        if "throttled_usec" in fields:
            return int(fields["throttled_usec"]) * MICROSECOND
        return int(fields.get("throttled_time", 0)) * NANOSECOND
    except (OSError, ValueError):
        return 0.0
