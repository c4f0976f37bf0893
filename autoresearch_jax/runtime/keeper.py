"""Runs a command of the user's own with a time limit, and leaves no process of it behind.

Not a sandbox: the command has the user's rights, network and environment, since it is theirs. A process of its own
stands between it and the driver, adopts every descendant that loses its parent, and kills all of them when the command
ends, when time is up, or when the driver ends, however that comes about.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch_jax.runtime import linux
from autoresearch_jax.runtime.tree import Tree

LOG_BYTES = 4 << 20  # of a command's output that are kept
TAIL_BYTES = 1 << 14  # of its end that are looked at for its last line
POLL_SECONDS = 0.05
KILL_SECONDS = 30.0  # a process that is in the kernel all that time cannot be killed
GRACE_SECONDS = 60.0
_PACKAGE_PARENT = Path(__file__).resolve().parents[2]
_KEEP = "import sys; sys.path.append(sys.argv[1]); from autoresearch_jax.runtime.keeper import main; main()"


class KeeperError(Exception):
    """The keeper itself failed; the message says how in one line."""


@dataclass(frozen=True)
class CommandOutcome:
    """How a command ended.

    Attributes:
      returncode: its exit status, negative for a signal; None if time was up.
      seconds: how long it ran.
      last_line: of its output, the last that is not blank, as it was printed; empty if there is none.
    """

    returncode: int | None
    seconds: float
    last_line: str


def run_command(
    command: str,
    *,
    cwd: Path,
    environment: Mapping[str, str],
    log_path: Path,
    seconds: float,
    log_bytes: int = LOG_BYTES,
) -> CommandOutcome:
    """Runs a line of shell to its end or its time limit; nothing that it started is left then.

    Its standard input is empty. Standard output and standard error go to one log.

    Args:
      command: for /bin/sh.
      cwd: an existing folder.
      environment: all of its variables.
      log_path: written anew; at most `log_bytes` of the beginning, and a line that says so if there was more.
      seconds: after which it is killed.
      log_bytes: see `log_path`.

    Raises:
      KeeperError: it could not be run at all.
    """
    order = {
        "argv": ["/bin/sh", "-c", command],
        "cwd": str(cwd),
        "seconds": seconds,
        "log_bytes": log_bytes,
        "driver": os.getpid(),
    }
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _KEEP, str(_PACKAGE_PARENT)],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the driver, which then ends this
        )
    try:
        answer, _ = process.communicate(json.dumps(order).encode() + b"\n", timeout=seconds + GRACE_SECONDS)
        return CommandOutcome(**json.loads(answer))
    except (subprocess.TimeoutExpired, ValueError, TypeError) as error:
        raise KeeperError(f"the process that watches over the command failed; see {log_path}") from error
    finally:
        if process.poll() is None:
            process.terminate()  # it kills what it keeps first
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(KILL_SECONDS + GRACE_SECONDS)
            process.kill()
            process.wait()


class _Output:
    """Copies a pipe to a log, up to a limit, and remembers the end."""

    def __init__(self, descriptor: int, log: int, log_bytes: int) -> None:
        self._descriptor: int | None = descriptor
        self._log = log
        self._room = log_bytes
        self._is_cut = False
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0

    def pass_on(self, seconds: float) -> None:
        """Copies for about so many seconds; for 0, what is there already."""
        deadline = time.monotonic() + seconds
        while True:
            wait = max(0.0, deadline - time.monotonic())
            if self._descriptor is None:
                time.sleep(wait)
                return
            if not select.select([self._descriptor], [], [], wait)[0]:
                return
            data = os.read(self._descriptor, 1 << 16)
            if not data:
                os.close(self._descriptor)
                self._descriptor = None
            self._keep(data)
            if seconds and time.monotonic() >= deadline:
                return

    def last_line(self) -> str:
        """Of what was copied, the last line that is not blank."""
        lines = b"".join(self._tail)[-TAIL_BYTES:].decode("utf-8", "replace").splitlines()
        return next((line for line in reversed(lines) if line.strip()), "")

    def _keep(self, data: bytes) -> None:
        self._tail.append(data)
        self._tail_bytes += len(data)
        while self._tail_bytes - len(self._tail[0]) >= TAIL_BYTES:
            self._tail_bytes -= len(self._tail.popleft())
        kept = data[: self._room]
        self._room -= len(kept)
        _write_all(self._log, kept)
        if len(kept) < len(data) and not self._is_cut:
            self._is_cut = True
            _write_all(self._log, b"\n[the rest of the output is not kept]\n")


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


class _Keeper:
    """Watches over the command, as its parent."""

    def __init__(self, order: dict[str, Any], pid: int, output: _Output, orders_to_stop: list[int]) -> None:
        self._order = order
        self._pid = pid
        self._output = output
        self._orders_to_stop = orders_to_stop
        self._tree = Tree()
        self._status: int | None = None

    def run(self) -> dict[str, Any]:
        """Waits for the end or brings it about; returns the fields of `CommandOutcome`."""
        started = time.monotonic()
        while self._status is None and not self._orders_to_stop and os.getppid() == self._order["driver"]:
            if time.monotonic() - started > self._order["seconds"]:
                break
            self._output.pass_on(POLL_SECONDS)
            self._reap()
        status = self._status
        self._end()
        self._output.pass_on(0.0)
        return {
            "returncode": None if status is None else os.waitstatus_to_exitcode(status),
            "seconds": time.monotonic() - started,
            "last_line": self._output.last_line(),
        }

    def _reap(self) -> bool:
        """Collects the children that have ended; returns whether there are others."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return True
                if pid == self._pid:
                    self._status = status
        return False

    def _end(self) -> None:
        """Kills until nothing is left."""
        deadline = time.monotonic() + KILL_SECONDS
        if not linux.IS_LINUX or self._status is None:  # elsewhere no tree is known, only the group
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)
        while self._reap() and time.monotonic() < deadline:
            for pid in self._tree.stats():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(POLL_SECONDS / 10)


def main() -> None:
    """Carries out the order on standard input."""
    order = json.loads(sys.stdin.readline())
    if linux.IS_LINUX:
        linux.become_subreaper()
    orders_to_stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: orders_to_stop.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become_command(order, write_end)
    os.close(write_end)
    output = _Output(read_end, sys.stderr.fileno(), order["log_bytes"])
    answer = _Keeper(order, pid, output, orders_to_stop).run()
    with contextlib.suppress(BrokenPipeError):  # the driver is gone
        print(json.dumps(answer), flush=True)


def _become_command(order: dict[str, Any], output: int) -> None:
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for target, source in ((0, null), (1, output), (2, output)):
        os.dup2(source, target)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE):  # the last one Python ignores, and a shell must not
        signal.signal(number, signal.SIG_DFL)
    try:
        if linux.IS_LINUX:
            linux.die_with_parent(signal.SIGKILL)
        os.chdir(order["cwd"])
        os.execv(order["argv"][0], order["argv"])
    except OSError as error:
        print(f"cannot run the command: {error}", flush=True)
    os._exit(126)
