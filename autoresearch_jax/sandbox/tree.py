"""The processes that descend from this one, and what they use, as /proc tells it."""

import contextlib
import os
import stat as file_modes
import time
from typing import NamedTuple

MEMORY_QUESTION_SECONDS = 0.02
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Stat(NamedTuple):
    """What /proc/PID/stat tells: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html

    Attributes:
      parent: pid of the parent.
      cpu_seconds: of the process and of those of its children that it has waited for.
      threads: how many it has.
      resident_bytes: its memory, what it shares with others included.
    """

    parent: int
    cpu_seconds: float
    threads: int
    resident_bytes: int

    @classmethod
    def parse(cls, text: bytes) -> "Stat":
        """The figures of a process; its name, which may hold anything, ends at the last parenthesis."""
        fields = text.rpartition(b")")[2].split()  # from the third on
        return cls(
            parent=int(fields[1]),
            cpu_seconds=sum(map(int, fields[11:15])) / TICKS_PER_SECOND,
            threads=int(fields[17]),
            resident_bytes=int(fields[21]) * PAGE_BYTES,
        )


class Tree:
    """The descendants of this process, found by who is whose parent. As its subreaper, it loses none."""

    def __init__(self) -> None:
        self._strangers: set[int] = set()  # never become ours, so are looked at once

    def stats(self) -> dict[int, Stat]:
        """Every descendant, by pid."""
        try:
            pids = {int(name) for name in os.listdir("/proc") if name.isdecimal()}
        except FileNotFoundError:  # not Linux
            return {}
        self._strangers &= pids
        found = {}
        for pid in pids - self._strangers:
            with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
                found[pid] = Stat.parse(file.read())
        parents = {pid: stat.parent for pid, stat in found.items()}
        ours = _with_children({os.getpid()}, parents)
        # whose parent ended while we read belongs to neither, until it has another
        self._strangers = _with_children({0} | self._strangers, {p: q for p, q in parents.items() if p not in ours})
        return {pid: stat for pid, stat in found.items() if pid in ours and pid != os.getpid()}


def _with_children(pids: set[int], parents: dict[int, int]) -> set[int]:
    """Some processes, their children, and theirs."""
    while True:
        new = {pid for pid, parent in parents.items() if parent in pids and pid not in pids}
        if not new:
            return pids
        pids = pids | new


def share_of_own(resident: dict[int, int]) -> float:
    """How much of some processes' resident memory there really is, what they share counted once.

    Asking the kernel takes milliseconds a process, so that of many only some are asked, drawn by chance.

    Args:
      resident: bytes by pid.
    """
    pids = sorted(resident)
    start = int.from_bytes(os.urandom(4), "little") % len(pids)
    deadline = time.monotonic() + MEMORY_QUESTION_SECONDS
    asked = told = 0
    for pid in pids[start:] + pids[:start]:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            lines = [line.split() for line in file if line.startswith(b"Pss:")]
            if lines:
                asked += resident[pid]
                told += int(lines[0][1]) * 1024
        if time.monotonic() > deadline:
            break
    return min(told / asked, 1.0) if asked else 1.0


def unnamed_files(stats: dict[int, Stat]) -> dict[tuple[int, int], int]:
    """Bytes of the open files that have no name: deleted ones, and those that are memory."""
    found = {}
    for pid in stats:
        with contextlib.suppress(OSError):
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    status = os.stat(f"/proc/{pid}/fd/{descriptor}")
                    if file_modes.S_ISREG(status.st_mode) and status.st_nlink == 0:
                        found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return found
