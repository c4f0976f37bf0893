"""The processes that descend from this one: what they use, as /proc tells it, what they print, and their end.

For the process that stands between the driver and what it starts. Few imports, none from outside the standard library.
"""

import contextlib
import os
import re
import select
import signal
import stat as file_modes
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from autoresearch_jax.sandbox import linux

MEMORY_QUESTION_SECONDS = 0.02
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
SWEEP_SECONDS = 0.002
SWEEP_LIMIT_SECONDS = 30.0  # a process that is in the kernel all that time cannot be killed
TAIL_BYTES = 1 << 14  # of the output's end that are looked at for its last line
MAX_FOLDER_DEPTH = 64
MAX_PATH_CHARACTERS = 3000  # the kernel's own limit is 4096
_CHUNK_BYTES = 1 << 16


class Breach(Exception):
    """A limit is broken, named as among the order's limits."""

    def __init__(self, limit: str, words: str) -> None:
        super().__init__(words)
        self.limit = limit


class Stat(NamedTuple):
    """From /proc/PID/stat: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html

    Attributes:
      parent: its pid.
      session: the pid of the process that leads it.
      cpu_seconds: of the process and of those of its children that it has waited for.
      resident_bytes: its memory, what it shares with others included.
    """

    parent: int
    session: int
    cpu_seconds: float
    threads: int
    resident_bytes: int

    @classmethod
    def parse(cls, text: bytes) -> "Stat":
        """The figures of a process; its name, which may hold anything, ends at the last parenthesis."""
        fields = text.rpartition(b")")[2].split()  # from the third on
        return cls(
            parent=int(fields[1]),
            session=int(fields[3]),
            cpu_seconds=sum(map(int, fields[11:15])) / TICKS_PER_SECOND,
            threads=int(fields[17]),
            resident_bytes=int(fields[21]) * PAGE_BYTES,
        )


class ProcessTree:
    """A child of this process, which leads a session, and its descendants; this process is their subreaper.

    Attributes:
      status: of the child, as `os.waitpid` tells it; None until it has ended.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._strangers: set[int] = set()  # never become descendants, so are looked at once
        self.status: int | None = None

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

    def reap(self) -> bool:
        """Collects the children that have ended; returns whether there are others."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return True
                if pid == self._pid:
                    self.status = status
        return False

    def end(self) -> int:
        """Kills until nothing is left; returns how many could not be killed. No order to stop interrupts that."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        deadline = time.monotonic() + SWEEP_LIMIT_SECONDS
        if self.status is None:  # with the first process of a namespace, or bubblewrap, all others go
            os.kill(self._pid, signal.SIGKILL)
        if not linux.IS_LINUX:  # no tree is known there
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)
        while self.reap() and time.monotonic() < deadline:
            for pid in self.stats():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(SWEEP_SECONDS)
        return len(self.stats())


def _with_children(pids: set[int], parents: dict[int, int]) -> set[int]:
    """Some processes, their children, and theirs."""
    while True:
        new = {pid for pid, parent in parents.items() if parent in pids and pid not in pids}
        if not new:
            return pids
        pids = pids | new


def share_of_own(resident: dict[int, int]) -> float:
    """Share of the sum of processes' resident bytes that remains when shared memory is counted once.

    Asking the kernel takes milliseconds a process, so that of many only a random part is asked.
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


def walk(folder: str) -> Iterator[tuple[str, int]]:
    """Everything in a folder, with how deep it lies; raises Breach if not everything can be seen."""
    folders = [(folder, 1)]
    while folders:
        path, depth = folders.pop()
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append((entry.path, depth + 1))
                    yield entry.path, depth
        except PermissionError as error:
            raise Breach("scratch_files", "made a folder that cannot be read") from error
        except OSError:  # gone meanwhile
            continue


def threads_of_user() -> int:
    """How many threads this user has already: the kernel's limit counts them all."""
    uid, count = os.getuid(), 0
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid == uid:
                    count += len(os.listdir(f"/proc/{name}/task"))
    return count


class Output:
    """The reading end of a pipe that a process tree writes to; `take` is called with each piece that is read."""

    def __init__(self, descriptor: int, take: Callable[[bytes], None]) -> None:
        self._descriptor: int | None = descriptor
        self._take = take

    def pass_on(self, seconds: float) -> None:
        """Reads for about so many seconds; for 0, what is there already."""
        deadline = time.monotonic() + seconds
        while True:
            wait = max(0.0, deadline - time.monotonic())
            if self._descriptor is None:
                time.sleep(wait)
                return
            if not select.select([self._descriptor], [], [], wait)[0]:
                return
            data = os.read(self._descriptor, _CHUNK_BYTES)
            if not data:
                os.close(self._descriptor)
                self._descriptor = None
            self._take(data)
            if seconds and time.monotonic() >= deadline:
                return


class _Blanking:
    """Replaces texts in a stream, also those that come in two pieces; of two that begin at one place the longer."""

    def __init__(self, blanks: Mapping[str, str]) -> None:
        self._blanks = {_as_bytes(text): _as_bytes(blank) for text, blank in blanks.items() if text}
        longest_first = sorted(self._blanks, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(map(re.escape, longest_first)))
        self._held_back = len(longest_first[0]) - 1 if longest_first else 0
        self._held = b""

    def take(self, data: bytes) -> bytes:
        """What can be written after one more piece; what may be the beginning of a text is held back."""
        data = self._held + data
        return self._replace(data, max(0, len(data) - self._held_back))

    def rest(self) -> bytes:
        """What was held back, once no more comes."""
        return self._replace(self._held, len(self._held))

    def _replace(self, data: bytes, end: int) -> bytes:
        """The texts that begin before `end` replaced, and what follows held back."""
        written, place = [], 0
        if any(text in data for text in self._blanks):  # much faster than the pattern
            for match in self._pattern.finditer(data):
                if match.start() >= end:
                    break
                written += [data[place : match.start()], self._blanks[match[0]]]
                place = match.end()
        end = max(place, end)
        self._held = data[end:]
        return b"".join([*written, data[place:end]])


def _as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # as variables are read


class Log:
    """The output up to a limit, and its end; both with blanks."""

    def __init__(self, max_bytes: int, blanks: Mapping[str, str], *, is_cut_at_limit: bool) -> None:
        self._blanking = _Blanking(blanks)
        self._max_bytes = max_bytes
        self._room = max_bytes
        self._is_cut_at_limit = is_cut_at_limit
        self._is_cut = False
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0

    def take(self, data: bytes) -> None:
        """Takes a piece of output; raises Breach where there was more than the limit, and it is not just cut."""
        self._write(self._blanking.take(data))

    def finish(self) -> None:
        """Writes what was held back, once no more output comes."""
        self._write(self._blanking.rest())

    def _write(self, data: bytes) -> None:
        self._tail.append(data)
        self._tail_bytes += len(data)
        while self._tail_bytes - len(self._tail[0]) >= TAIL_BYTES:
            self._tail_bytes -= len(self._tail.popleft())
        kept = data[: self._room]
        self._room -= len(kept)
        write_log(kept)
        if len(kept) < len(data) and not self._is_cut_at_limit:
            raise Breach("log_bytes", f"printed more than {self._max_bytes / 2**20:g} MiB")
        if len(kept) < len(data) and not self._is_cut:
            self._is_cut = True
            write_log(b"\n[the rest of the output is not kept]\n")

    def last_line(self) -> str:
        """The last line of the output that has a letter or a digit, else the last that is not blank."""
        lines = b"".join(self._tail)[-TAIL_BYTES:].decode("utf-8", "replace").splitlines()
        said = [line.strip() for line in reversed(lines) if line.strip()]
        return next((line for line in said if any(map(str.isalnum, line))), said[0] if said else "")


def write_all(descriptor: int, data: bytes) -> None:
    """Writes with no buffer between, so that nothing is left to be written, and to fail, at exit."""
    while data:
        data = data[os.write(descriptor, data) :]


def write_log(data: bytes) -> None:
    """Writes to standard error, where the driver has put the log."""
    write_all(sys.stderr.fileno(), data)
