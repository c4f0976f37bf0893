"""A child process and all that descends from it: its output passed on, its end noticed, and nothing of it left.

For the processes that stand between the driver and what it starts. Few imports, none from outside the standard library.
"""

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable

from autoresearch_jax.sandbox import linux
from autoresearch_jax.sandbox.tree import Tree

SWEEP_SECONDS = 0.002
SWEEP_LIMIT_SECONDS = 30.0  # a process that is in the kernel all that time cannot be killed
_CHUNK_BYTES = 1 << 16


class Output:
    """The reading end of a pipe that the family writes to."""

    def __init__(self, descriptor: int, take: Callable[[bytes], None]) -> None:
        """Stores where what is read goes.

        Args:
          descriptor: of the pipe; closed at its end.
          take: called with each piece; what it raises is raised.
        """
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


class Family:
    """A child of this process, which leads a session, and its descendants; this process is their subreaper.

    Attributes:
      tree: the descendants.
      status: of the child, as `os.waitpid` tells it; None until it has ended.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.tree = Tree()
        self.status: int | None = None

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
            for pid in self.tree.stats():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(SWEEP_SECONDS)
        return len(self.tree.stats())


def take_orders_to_stop() -> list[int]:
    """From here on SIGTERM ends up in the list that is returned, and SIGINT is for the driver."""
    orders: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: orders.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return orders


def attach(output: int) -> None:
    """In a child about to become another program: nothing to read, and one pipe for all that it prints."""
    null = os.open(os.devnull, os.O_RDWR)
    for target, source in ((0, null), (1, output), (2, output)):
        os.dup2(source, target)


def write_all(descriptor: int, data: bytes) -> None:
    """Writes with no buffer between, so that nothing is left to be written, and to fail, at exit."""
    while data:
        data = data[os.write(descriptor, data) :]


def write_log(data: bytes) -> None:
    """Writes to standard error, where the driver has put the log."""
    write_all(sys.stderr.fileno(), data)
