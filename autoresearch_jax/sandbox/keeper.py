"""Runs a command of the user's own with a time limit, and leaves no process of it behind.

Not a sandbox: the command has the user's rights, network and environment, since it is theirs. A process of its own
stands between it and the driver, adopts every descendant that loses its parent, and kills all of them when the command
ends, when time is up, or when the driver ends, however that comes about.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch_jax.sandbox import linux
from autoresearch_jax.sandbox.family import (
    SWEEP_LIMIT_SECONDS,
    Family,
    Output,
    attach,
    take_orders_to_stop,
    write_all,
    write_log,
)

LOG_BYTES = 4 << 20  # of a command's output that are kept
TAIL_BYTES = 1 << 14  # of its end that are looked at for its last line
POLL_SECONDS = 0.05
STOP_POLL_SECONDS = 0.2
GRACE_SECONDS = 60.0
_PACKAGE_PARENT = Path(__file__).resolve().parents[2]
_KEEP = "import sys; sys.path.append(sys.argv[1]); from autoresearch_jax.sandbox.keeper import main; main()"


class KeeperError(Exception):
    """The keeper itself failed; the message says how in one line."""


class CommandStopped(Exception):
    """The command was ended because somebody asked for it."""


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
    stop: threading.Event | None = None,
    blanks: Mapping[str, str] | None = None,
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
      stop: set by another thread to end it.
      blanks: what stands in the log and in the last line instead of some texts, such as secrets, which are never on
        disk then; where several begin at one place, the longest counts.

    Raises:
      KeeperError: it could not be run at all.
      CommandStopped: `stop` was set.
    """
    order = {
        "argv": ["/bin/sh", "-c", command],
        "cwd": str(cwd),
        "seconds": seconds,
        "log_bytes": log_bytes,
        "driver": os.getpid(),
        "blanks": dict(blanks or {}),
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
        answer = _answer(process, json.dumps(order).encode() + b"\n", seconds + GRACE_SECONDS, stop)
        return CommandOutcome(**json.loads(answer))
    except (subprocess.TimeoutExpired, ValueError, TypeError) as error:
        raise KeeperError(f"the process that watches over the command failed; see {log_path}") from error
    finally:
        if process.poll() is None:
            process.terminate()  # it kills what it keeps first
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SWEEP_LIMIT_SECONDS + GRACE_SECONDS)
            process.kill()
            process.wait()


def _answer(process: "subprocess.Popen[bytes]", order: bytes, seconds: float, stop: threading.Event | None) -> bytes:
    """What the keeper says when it has carried out its order."""
    deadline = time.monotonic() + seconds
    given: bytes | None = order
    while True:
        remaining = deadline - time.monotonic()
        try:
            return process.communicate(given, timeout=remaining if stop is None else min(remaining, STOP_POLL_SECONDS))[
                0
            ]
        except subprocess.TimeoutExpired:
            if stop is not None and stop.is_set():
                raise CommandStopped from None
            if remaining <= STOP_POLL_SECONDS:
                raise
            given = None  # is on its way


class _Blanking:
    """Replaces texts in a stream, also those that come in two pieces."""

    def __init__(self, blanks: Mapping[str, str]) -> None:
        self._blanks = {_as_bytes(text): _as_bytes(blank) for text, blank in blanks.items() if text}
        longest_first = sorted(self._blanks, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(map(re.escape, longest_first)))
        self._held = b""

    def take(self, data: bytes) -> bytes:
        """What can be written after one more piece; what may be the beginning of a text is held back."""
        data = self._held + data
        written, place, end = [], 0, self._end(data, 0)
        if any(text in data for text in self._blanks):  # much faster than the pattern
            for match in self._pattern.finditer(data):
                if match.start() >= end:
                    break
                written += [data[place : match.start()], self._blanks[match[0]]]
                place = match.end()
                if place > end:
                    end = self._end(data, place)
        self._held = data[end:]
        return b"".join([*written, data[place:end]])

    def rest(self) -> bytes:
        """What was held back, once nothing comes any more."""
        rest, self._held = self._held, b""
        return self._pattern.sub(lambda match: self._blanks[match[0]], rest) if self._blanks else rest

    def _end(self, data: bytes, start: int) -> int:
        """The first place from `start` on behind which there is nothing but the beginning of a text."""
        end = len(data)
        for text in self._blanks:
            place = data.find(text[:1], max(start, len(data) - len(text) + 1), end)
            while place >= 0 and not text.startswith(data[place:]):
                place = data.find(text[:1], place + 1, end)
            end = place if place >= 0 else end
        return end


def _as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # as variables are read


class _Log:
    """The log of a command, up to a limit, and the end of its output; both with blanks."""

    def __init__(self, max_bytes: int, blanks: Mapping[str, str]) -> None:
        self._blanking = _Blanking(blanks)
        self._room = max_bytes
        self._is_cut = False
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0

    def keep(self, data: bytes) -> None:
        """Takes a piece of output."""
        self._write(self._blanking.take(data))

    def finish(self) -> None:
        """Says that no more comes."""
        self._write(self._blanking.rest())

    def _write(self, data: bytes) -> None:
        self._tail.append(data)
        self._tail_bytes += len(data)
        while self._tail_bytes - len(self._tail[0]) >= TAIL_BYTES:
            self._tail_bytes -= len(self._tail.popleft())
        kept = data[: self._room]
        self._room -= len(kept)
        write_log(kept)
        if len(kept) < len(data) and not self._is_cut:
            self._is_cut = True
            write_log(b"\n[the rest of the output is not kept]\n")

    def last_line(self) -> str:
        """Of the output, the last line that is not blank."""
        lines = b"".join(self._tail)[-TAIL_BYTES:].decode("utf-8", "replace").splitlines()
        return next((line for line in reversed(lines) if line.strip()), "")


def _watch(order: dict[str, Any], pid: int, descriptor: int, orders_to_stop: list[int]) -> dict[str, Any]:
    """Waits for the command's end or brings it about; returns the fields of `CommandOutcome`."""
    family, log, started = Family(pid), _Log(order["log_bytes"], order["blanks"]), time.monotonic()
    output = Output(descriptor, log.keep)
    while family.status is None and not orders_to_stop and os.getppid() == order["driver"]:
        if time.monotonic() - started > order["seconds"]:
            break
        output.pass_on(POLL_SECONDS)
        family.reap()
    status = family.status
    family.end()
    output.pass_on(0.0)
    log.finish()
    return {
        "returncode": None if status is None else os.waitstatus_to_exitcode(status),
        "seconds": time.monotonic() - started,
        "last_line": log.last_line(),
    }


def main() -> None:
    """Carries out the order on standard input."""
    order = json.loads(sys.stdin.readline())
    if linux.IS_LINUX:
        linux.become_subreaper()
    orders_to_stop = take_orders_to_stop()
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become_command(order, write_end)
    os.close(write_end)
    answer = _watch(order, pid, read_end, orders_to_stop)
    with contextlib.suppress(BrokenPipeError):  # the driver is gone
        write_all(sys.stdout.fileno(), json.dumps(answer).encode() + b"\n")


def _become_command(order: dict[str, Any], output: int) -> None:
    os.setsid()
    attach(output)
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
