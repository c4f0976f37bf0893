"""The kernel's accounts of a process's threads and of the processors, and what follows for a budget.

Linux keeps, for each thread, the time it ran and the time it waited for a processor
(https://docs.kernel.org/scheduler/sched-stats.html), and for each processor the time that all processes used and the
time a hypervisor took (https://man7.org/linux/man-pages/man5/proc_stat.5.html).
"""

import contextlib
import errno
import hashlib
import operator
import os
import platform
import re
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
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
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


def attended_seconds(spent: CpuUsage) -> float:
    """Seconds of the wall clock, between two readings, that the process had the machine or did not want it.

    Excused is the delay of its threads, but no more than other processes ran, and what a hypervisor took. A container's
    share of processor time is the machine it has: where it was used up, nothing is excused.
    """
    if spent.on_cpu <= 0 or spent.throttled > 0:
        return spent.wall
    others = max(0.0, spent.others)
    stolen = max(0.0, spent.steal) * spent.on_cpu / (spent.on_cpu + others)
    excused = min(spent.delay, others) + stolen
    # A process that was idle for a part of the time did not wait for longer than its threads did.
    return max(spent.wall * (spent.on_cpu / (spent.on_cpu + excused)), spent.wall - excused)


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
        self._quotas = _quota_files(proc / "self" / "cgroup", cgroups)
        self._threads = _Threads()
        self._used: tuple[float, float] | None = None  # wall time, and seconds used by anyone, at the last reading
        self._moved = (0, time.process_time())  # ns on a CPU, and the process's own time, when that moved last
        self.read()

    def read(self) -> CpuUsage:
        wall = time.monotonic()
        try:
            threads = os.listdir(self._tasks)
        except OSError as error:
            raise AccountingError(f"{self._tasks}: no account of threads ({error.strerror})") from error
        self._threads.read([f"{self._tasks}/{thread}" for thread in threads])
        own = time.process_time()
        if self._threads.on_cpu > self._moved[0]:
            self._moved = self._threads.on_cpu, own
        elif own - self._moved[1] > STILL_SECONDS:
            raise AccountingError("the kernel's account of threads stands still while they run")
        busy, steal = _processor_seconds(self._stat, self._cpus)
        usage = CpuUsage(
            wall=wall,
            on_cpu=self._threads.on_cpu * NANOSECOND,
            delay=self._threads.delay * NANOSECOND,
            others=busy - own,
            steal=steal,
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
        self._threads.close()


class TreeAccounting:
    """The accounts of the processes that descend from one; of those that come and go between two readings, a part.

    Raises AccountingError where there are none. Not thread-safe.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._cpus = _allowed_cpus()
        self._threads = _Threads()

    def read(self) -> CpuUsage:
        """The accounts now; the root itself does not count."""
        wall = time.monotonic()
        folders = [f"{PROC}/{pid}/task" for pid in descendants(self._root)]
        paths = []
        for folder in folders:
            with contextlib.suppress(OSError):  # gone meanwhile
                paths += [f"{folder}/{thread}" for thread in os.listdir(folder)]
        self._threads.read(paths)
        busy, steal = _processor_seconds(PROC / "stat", self._cpus)
        on_cpu = self._threads.on_cpu * NANOSECOND
        return CpuUsage(wall, on_cpu, self._threads.delay * NANOSECOND, busy - on_cpu, steal)

    def close(self) -> None:
        """Closes the files of all threads."""
        self._threads.close()


class _Threads:
    """Sums what threads ran and waited, those that have ended included, in ns."""

    def __init__(self) -> None:
        self.on_cpu = self.delay = 0
        self._known: dict[str, tuple[int, int, int]] = {}  # file descriptor, ns on a CPU, ns of delay, by folder

    def read(self, folders: Sequence[str]) -> None:
        """Adds what became of threads, each given by its folder in /proc, since the last reading."""
        for ended in self._known.keys() - set(folders):
            os.close(self._known.pop(ended)[0])
        for folder in folders:
            if (found := self._read_thread(folder)) is None:
                continue
            file, on_cpu, delay = found
            _, on_cpu_before, delay_before = self._known.get(folder, (file, 0, 0))
            if on_cpu < on_cpu_before or delay < delay_before:
                raise AccountingError("the kernel's account of a thread goes backwards")
            self._known[folder] = found
            self.on_cpu += on_cpu - on_cpu_before
            self.delay += delay - delay_before

    def close(self) -> None:
        for file, _, _ in self._known.values():
            os.close(file)
        self._known.clear()

    def _read_thread(self, folder: str) -> tuple[int, int, int] | None:
        """File, ns on a CPU and ns of delay of a thread; None for one that has just ended."""
        path = f"{folder}/schedstat"
        file = self._known[folder][0] if folder in self._known else -1
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
                self._known.pop(folder, None)
            if os.path.exists(folder) and not os.path.exists(path):
                raise AccountingError(f"{path}: {error.strerror}") from error
            return None


def descendants(root: int) -> list[int]:
    """The processes that descend from one, which is their subreaper; without itself."""
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        with contextlib.suppress(OSError):  # gone meanwhile
            for thread in os.listdir(f"{PROC}/{pid}/task"):
                with open(f"{PROC}/{pid}/task/{thread}/children", "rb") as file:
                    children = list(map(int, file.read().split()))
                found += children
                waiting += children
    return found


def _processor_seconds(stat: Path, cpus: frozenset[bytes]) -> tuple[float, float]:
    """Seconds that all processes used of some processors, and that a hypervisor took from them."""
    busy = steal = 0
    try:
        lines = stat.read_bytes().splitlines()
        found = [fields for line in lines if (fields := line.split()) and fields[0] in cpus]
        if not found:
            raise ValueError("no processor of this process's in it")
        for fields in found:
            busy += sum(int(fields[i]) for i in (_USER, _NICE, _SYSTEM, _IRQ, _SOFTIRQ))
            steal += int(fields[_STEAL])
    except (OSError, ValueError, IndexError) as error:
        raise AccountingError(f"{stat}: no account of the processors ({error})") from error
    return busy / TICKS_PER_SECOND, steal / TICKS_PER_SECOND


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


def host_processors() -> str:
    """Number and model of the processors that this process may use."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    features = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    name = model[1].strip() if model else platform.processor() or platform.machine()
    if features:  # a virtual machine's model name does not tell which instructions there are
        name += f" with features {hashlib.sha256(features[1].encode()).hexdigest()[:8]}"
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{count} x {name}"


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
