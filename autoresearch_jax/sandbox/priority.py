"""Who goes first: priorities of threads and of sessions, and how long a process had to wait for a processor.

Linux with `sched_autogroup_enabled`, as Debian and Ubuntu set it, divides the processors among sessions first. Nice
values and SCHED_IDLE count within a session alone, and our processes have sessions of their own, so what works beside a
trial lowers its sessions too: https://man7.org/linux/man-pages/man7/sched.7.html. Imports nothing but the standard
library, for the process that stands between the driver and what it starts.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

LOWEST = 19  # of nice values; a hundredth of the time beside a process of the usual one
# Where a worker finds its session's niceness open for writing, which Landlock would not let it open.
SESSION_DESCRIPTOR = 9
_AUTOGROUPS = "/proc/sys/kernel/sched_autogroup_enabled"
# The kernel takes one change in a tenth of a second, of all processes of the machine, but from root
_TRIES, _WAIT_SECONDS = 40, 0.05
_NANOSECONDS = 1e-9


class Priority(NamedTuple):
    """The priority of a thread, which those that it starts have, too."""

    policy: int
    niceness: int

    @classmethod
    def of_this_process(cls) -> "Priority":
        """That of the main thread; a process that was just started has its driver's thread's."""
        policy = os.sched_getscheduler(0)
        usual = policy not in (os.SCHED_BATCH, os.SCHED_IDLE)  # a candidate gets none of the real-time policies
        return cls(os.SCHED_OTHER if usual else policy, os.getpriority(os.PRIO_PROCESS, 0))

    @property
    def is_lowest(self) -> bool:
        """Whether it is that of what works beside a trial."""
        return self.policy == os.SCHED_IDLE or self.niceness == LOWEST

    def take(self) -> None:
        """Gives this process the priority, as far as that is allowed."""
        with contextlib.suppress(PermissionError):  # to be as important as the driver
            os.setpriority(os.PRIO_PROCESS, 0, self.niceness)
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, self.policy, os.sched_param(0))


def is_in_background() -> bool:
    """Whether this process was started by a thread of the lowest priority."""
    return hasattr(os, "sched_getscheduler") and Priority.of_this_process().is_lowest


def lower_priority_of_this_thread() -> None:
    """Gives way to everything else: for this thread and all that it starts from here on. Cannot be undone."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)


def take_idle_time_only() -> None:
    """Runs this thread, and all that it starts from here on, at idle priority. Only root can undo it."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # 0 is this thread


def divides_by_session() -> bool:
    """Whether the kernel divides the processors among sessions."""
    with contextlib.suppress(OSError), open(_AUTOGROUPS) as file:
        return file.read().strip() == "1"
    return False


class SessionsBehind:
    """Puts the sessions of a process tree behind all others, those too that its processes open later.

    Once one of them was brought forward again, see `bring_forward`, it lowers no further ones.
    """

    def __init__(self) -> None:
        self._is_needed = divides_by_session()
        self._lowered: set[int] = set()

    def lower(self, sessions: Iterable[tuple[int, int]]) -> None:
        """Lowers those that are new; what the kernel refuses now is lowered by a later call.

        Args:
          sessions: of each process its pid and its session's; none may be the driver's.
        """
        if not self._is_needed:
            return
        by_session = _by_session(sessions)
        self._lowered &= by_session.keys()
        new = by_session.keys() - self._lowered
        if new and any(_niceness_of(by_session[session]) == 0 for session in self._lowered):
            self._is_needed = False
            return
        for session in new:
            for pid in by_session[session]:
                with contextlib.suppress(OSError):
                    _set_niceness_of(pid, LOWEST)
                    self._lowered.add(session)
                    break


def bring_forward(sessions: Iterable[tuple[int, int]]) -> None:
    """Undoes `SessionsBehind` and `lower_own_session`, as far as the kernel lets us; arguments as of `lower`."""
    for pids in _by_session(sessions).values():
        if _niceness_of(pids) != LOWEST:
            continue
        for pid in pids:
            with contextlib.suppress(OSError):
                _insist(partial(_set_niceness_of, pid, 0))
                break


def _by_session(sessions: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    """The processes of each session, of which some may be gone by now."""
    found: dict[int, list[int]] = {}
    for pid, session in sessions:
        found.setdefault(session, []).append(pid)
    return found


def _niceness_of(pids: Iterable[int]) -> int | None:
    """The niceness of the session of some processes; None where none of them is left."""
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/autogroup") as file:
            return int(file.read().split()[-1])
    return None


def _set_niceness_of(pid: int, niceness: int) -> None:
    """Raises BlockingIOError if the kernel wants it later, and OSError if not at all."""
    descriptor = os.open(f"/proc/{pid}/autogroup", os.O_WRONLY)
    try:
        os.write(descriptor, str(niceness).encode())
    finally:
        os.close(descriptor)


def lower_own_session() -> None:
    """Puts the session of this process, which must lead one of its own, behind all others, where that is possible."""
    if divides_by_session():
        with contextlib.suppress(OSError):
            _insist(partial(_set_niceness_of, os.getpid(), LOWEST))


def hand_on_session() -> None:
    """Leaves this process's session open for `behind_other_sessions` in the program that it becomes."""
    with contextlib.suppress(OSError):
        os.dup2(os.open("/proc/self/autogroup", os.O_WRONLY), SESSION_DESCRIPTOR)


@contextlib.contextmanager
def behind_other_sessions() -> Iterator[None]:
    """Inside, the session of this process is behind all others, where it was handed on and that is possible.

    Raises:
      OSError: it cannot be brought forward again.
    """
    try:
        if not (divides_by_session() and os.readlink(f"/proc/self/fd/{SESSION_DESCRIPTOR}").endswith("/autogroup")):
            raise OSError("no session was handed on")
        _insist(partial(os.write, SESSION_DESCRIPTOR, str(LOWEST).encode()))
    except OSError:
        yield
        return
    try:
        yield
    finally:
        _insist(partial(os.write, SESSION_DESCRIPTOR, b"0"))


def _insist(change: Callable[[], object]) -> None:
    """Makes a change that the kernel may want later; raises OSError if it goes on refusing it."""
    for _ in range(_TRIES):
        with contextlib.suppress(BlockingIOError):
            change()
            return
        time.sleep(_WAIT_SECONDS)
    change()


def seconds_waited(pid: int) -> float:
    """How long the first thread of a process could have run and had no processor; 0 where that is not told."""
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/schedstat", "rb") as file:
        return int(file.read().split()[1]) * _NANOSECONDS
    return 0.0
