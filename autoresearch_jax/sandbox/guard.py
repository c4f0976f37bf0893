"""Stands between the driver and a worker, and leaves nothing of the worker and what it started behind.

The worker has this process's standard input, output and error as they are. It is killed, with all that it started,
when its input is closed, which the driver's end does however it comes about, and when this process is told to end by
SIGTERM. When the worker ends by itself, what it started is killed. This process then ends as the worker did: with its
exit status, or by the same signal.

It sleeps until a signal comes or the input is closed. Starts quickly: few imports, none from outside the standard
library. If this process itself is killed, the kernel kills the worker, though not what the worker started.
"""

import contextlib
import os
import resource
import select
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from autoresearch_jax.sandbox import linux
from autoresearch_jax.sandbox.family import Family, take_orders_to_stop, write_log

_INPUT, _OUTPUT = 0, 1
_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_GUARD = "import sys; sys.path.append(sys.argv[1]); from autoresearch_jax.sandbox.guard import main; main(sys.argv[2:])"
# By Python, and by `take_orders_to_stop`: what is ignored stays so in the program that a process becomes
_IGNORED = (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ)


def guarded(argv: Sequence[str]) -> list[str]:
    """The command that runs another under a guard."""
    return [sys.executable, "-I", "-S", "-c", _GUARD, _PACKAGE_PARENT, *argv]


def main(argv: list[str]) -> NoReturn:
    """Runs a command as the worker, and ends as it does."""
    if linux.IS_LINUX:
        linux.become_subreaper()
    orders_to_stop = take_orders_to_stop()
    wake_up = _wake_up_descriptor()
    guard, pid = os.getpid(), os.fork()
    if pid == 0:
        _become_worker(argv, guard)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, _OUTPUT)  # else the driver would not see that the worker has closed it
    family = Family(pid)
    _wait(family, wake_up, orders_to_stop)
    left = family.end()
    if left:
        write_log(f"{left} processes of the worker cannot be killed\n".encode())
    _end_as(family.status)


def _wake_up_descriptor() -> int:
    """Can be read once a child has ended, or this process is told to end: also if that was just before one waits."""
    signal.signal(signal.SIGCHLD, lambda number, _: None)  # one that is not handled wakes nobody
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    return read_end


def _wait(family: Family, wake_up: int, orders_to_stop: Sequence[int]) -> None:
    """Returns when the worker has ended or is to be ended."""
    poll = select.poll()
    poll.register(wake_up, select.POLLIN)
    poll.register(_INPUT, select.POLLHUP)  # that nobody can write to it any more; what is written is for the worker
    while family.status is None and not orders_to_stop:
        if any(descriptor == _INPUT for descriptor, _ in poll.poll()):
            return
        with contextlib.suppress(BlockingIOError):
            os.read(wake_up, select.PIPE_BUF)
        family.reap()


def _become_worker(argv: list[str], guard: int) -> NoReturn:
    try:
        os.setsid()
        for number in _IGNORED:
            signal.signal(number, signal.SIG_DFL)
        if linux.IS_LINUX:
            linux.die_with_parent(signal.SIGKILL)
        if os.getppid() == guard:  # else it was killed before the kernel knew of our wish
            os.execvp(argv[0], argv)
    except OSError as error:
        write_log(f"{argv[0]}: cannot be run: {error}\n".encode())
    finally:
        os._exit(126)


def _end_as(status: int | None) -> NoReturn:
    """Ends this process as one with that status did; None for one that cannot be killed."""
    code = 1 if status is None else os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the worker has left one, if any was wanted
        with contextlib.suppress(OSError):  # SIGKILL is never handled
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)
