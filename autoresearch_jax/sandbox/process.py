"""Child processes, each watched: gone with everything they started, however the driver ends (see `watch.py`)."""

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch_jax.sandbox.priority import bring_forward, divides_by_session
from autoresearch_jax.sandbox.process_tree import SWEEP_LIMIT_SECONDS, ProcessTree
from autoresearch_jax.sandbox.watch import NOT_CONFINED, WAITED_SHARE
from autoresearch_jax.sanitize import clean_line

# What a process that runs a candidate's Python inherits: no keys and no tokens.
INHERITED_VARIABLES = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")
KILL_WAIT_SECONDS = 10.0
LOG_BYTES = 4 << 20  # of a command's output that are kept
STOP_POLL_SECONDS = 0.1
# The watching process ends by itself well before: what it cannot kill, it gives up.
GRACE_SECONDS = 60.0
LAST_WORDS_BYTES = 1 << 14  # of a log's end that are looked at
LAST_WORDS_CHARACTERS = 300
# Of C++: a line with the severity, time, thread and place, which ends the process; and of Python itself.
_FATAL = re.compile(r"(?:F\d{4} \S+ +\d+ \S+\] |Fatal Python error: )(.*)")
_ERROR = re.compile(r"E\d{4} \S+ +\d+ \S+\] (.*)")  # says more than "Check failed" on the next line
_BESIDE_THE_POINT = re.compile(
    r"\s|-{20}|For simplicity, JAX has removed|[IW]\d{4} |\[Gloo\]"
)  # frames, notes, warnings
_PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])
_WATCH = "import sys; sys.path.append(sys.argv[1]); from autoresearch_jax.sandbox.watch import main; main(sys.argv[2:])"


class ProcessTimeoutError(Exception):
    """A child did not answer in time."""


class WatchError(Exception):
    """The watching process itself failed; the message says how in one line."""


class CommandStopped(Exception):
    """The command was ended because another thread asked for it."""


class WorkerDiedError(Exception):
    """A worker ended without an answer: with a status, negative for a signal; None if it only closed its output."""

    def __init__(self, returncode: int | None) -> None:
        words = "closed its output but did not end" if returncode is None else describe_exit(returncode)
        super().__init__(f"the worker process {words}")
        self.returncode = returncode


def bare_environment(environment: Mapping[str, str], **extra: str) -> dict[str, str]:
    """The allow-listed part of `environment`, and `extra`."""
    inherited = {name: environment[name] for name in INHERITED_VARIABLES if name in environment}
    # in UTF-8 mode what a candidate may print does not depend on the user's locale
    return {"PYTHONUNBUFFERED": "1", "PYTHONHASHSEED": "0", "PYTHONUTF8": "1", **inherited, **extra}


def describe_exit(returncode: int) -> str:
    """An exit status in words: "exited with status 3", "was killed by SIGKILL"."""
    if returncode >= 0:
        return f"exited with status {returncode}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-returncode).name}"
    return f"was killed by signal {-returncode}"


def telling_line(log: str) -> str:
    """The line of a log that says what ended its process, clean; empty if there is none."""
    lines = [line for line in log.splitlines() if line.strip()]
    for number, line in reversed(list(enumerate(lines))):
        if (fatal := _FATAL.match(line)) is not None:
            cause = _ERROR.match(lines[number - 1]) if number else None
            return clean_line(cause[1] if cause else fatal[1], LAST_WORDS_CHARACTERS)
    plain = [line for line in lines if not _BESIDE_THE_POINT.match(line)]
    return clean_line(plain[-1], LAST_WORDS_CHARACTERS) if plain else ""


def watched(argv: Sequence[str] = (), confine_descriptor: int | None = None) -> list[str]:
    """The command that watches another one, or carries out the order on its standard input.

    From `confine_descriptor` it reads what the other one gives up; None for nothing.
    """
    confine = [] if not argv else [NOT_CONFINED if confine_descriptor is None else str(confine_descriptor)]
    return [sys.executable, "-I", "-S", "-c", _WATCH, _PACKAGE_PARENT, *confine, *argv]


def bring_sessions_forward() -> None:
    """Has what this process started in the background share the processors with all others, as no trial runs now."""
    own = os.getsid(0)
    if divides_by_session():
        stats = ProcessTree(os.getpid()).stats()
        bring_forward((pid, stat.session) for pid, stat in stats.items() if stat.session != own)


class JsonWorker:
    """A child that takes JSON lines on its standard input and answers with JSON lines on its standard output.

    It and all that it started are killed when its input is closed, so also when this process dies.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        cwd: Path,
        log_path: Path,
        confine: Mapping[str, Any] | None = None,
        resources: contextlib.ExitStack | None = None,
    ) -> None:
        """Starts it; what it prints to standard error is added to `log_path`.

        It gives up what `confine` says, see `watch.py`, before it becomes its command; None for nothing. `resources`
        are closed once the process is gone.
        """
        self.started = time.monotonic()
        self.prints_to(log_path)
        self._resources = resources or contextlib.ExitStack()
        with tempfile.TemporaryFile() as order, log_path.open("ab") as log:
            order.write(json.dumps(confine).encode())
            order.seek(0)
            self._process = subprocess.Popen(
                watched(argv, order.fileno()),
                env=dict(environment),
                cwd=cwd,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=(order.fileno(),),
                start_new_session=True,  # Ctrl-C is for the driver, which then ends this
                text=True,
            )
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def prints_to(self, log_path: Path) -> None:
        """Enters where the process prints to from now on; it was told so before."""
        self._log_path = log_path
        self._log_start = log_path.stat().st_size if log_path.exists() else 0

    def last_words(self) -> str:
        """What its log says of its end, one clean line; empty if it printed nothing."""
        return telling_line(self.log_end())

    def log_end(self) -> str:
        """The end of what it printed to its log."""
        with contextlib.suppress(OSError), self._log_path.open("rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - LAST_WORDS_BYTES))
            return log.read().decode("utf-8", "replace")
        return ""

    def come_forward(self) -> None:
        """Has it share the processors with all others from now on, where it was put behind them."""
        if divides_by_session():
            stats = ProcessTree(os.getpid()).stats()
            bring_forward((pid, stat.session) for pid, stat in stats.items() if stat.parent == self._process.pid)

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends one request; raises WorkerDiedError where the process has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError) as error:
            raise self._died() from error

    def receive(self, timeout_seconds: float) -> dict[str, Any]:
        """The next event.

        Raises:
          ProcessTimeoutError: none came in time.
          WorkerDiedError: the process ended.
        """
        try:
            event = self._events.get(timeout=max(timeout_seconds, 0.0))
        except queue.Empty as error:
            raise ProcessTimeoutError(f"no answer within {timeout_seconds:.0f} s") from error
        if event is None:
            raise self._died()
        return event

    def stop(self) -> None:
        """Has the process end, and all that it started; for another thread than the one that receives and closes."""
        self._process.terminate()

    def close(self) -> None:
        """Ends the process and all that it started; they are gone when this returns."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.terminate()  # should another process have the pipe, too
        try:
            self._process.wait(SWEEP_LIMIT_SECONDS + KILL_WAIT_SECONDS)
        except subprocess.TimeoutExpired:  # a watching process that is stopped, say; the worker dies with it
            self._process.kill()
            self._process.wait()
        self._reader.join(KILL_WAIT_SECONDS)
        if not self._reader.is_alive():  # else it holds the lock that closing waits for
            self._process.stdout.close()
        self._resources.close()

    def _died(self) -> WorkerDiedError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return WorkerDiedError(self._process.wait(KILL_WAIT_SECONDS))
        return WorkerDiedError(None)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError, OSError):  # closed while reading
            for line in self._process.stdout:
                if line.startswith("{"):  # else a library's words, such as NCCL's
                    with contextlib.suppress(json.JSONDecodeError):
                        self._events.put(json.loads(line))
        self._events.put(None)


def carry_out(
    order: Mapping[str, Any], *, log_path: Path, log_mode: str, stop: threading.Event | None = None
) -> dict[str, Any]:
    """Has a watching process carry out an order (see `watch.py`), without its `driver`; returns its answer.

    Args:
      order: without `driver`, which is this process.
      log_path: what the command prints.
      log_mode: as for `open`.
      stop: set by another thread to end it.

    Raises:
      WatchError: the watching process failed.
      CommandStopped: `stop` was set.
    """
    with log_path.open(log_mode) as log:
        process = subprocess.Popen(
            watched(),
            env=order["environment"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the driver, which then ends this
        )
    try:
        longest = order["limits"]["wall_seconds"] / (1 if order["confine"] is None else 1 - WAITED_SHARE)
        deadline = time.monotonic() + longest + GRACE_SECONDS
        words: bytes | None = json.dumps({**order, "driver": os.getpid()}).encode() + b"\n"
        while time.monotonic() < deadline:
            if stop is not None and stop.is_set():
                raise CommandStopped("stopped")
            with contextlib.suppress(subprocess.TimeoutExpired):
                return dict(json.loads(process.communicate(words, timeout=STOP_POLL_SECONDS)[0]))
            words = None  # is sent on by the next call
        raise WatchError(f"the process that watches over the command does not answer; see {log_path}")
    except ValueError as error:
        raise WatchError(f"the process that watches over the command failed ({error}); see {log_path}") from error
    finally:
        if process.poll() is None:
            process.terminate()  # it kills what it watches first
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SWEEP_LIMIT_SECONDS + KILL_WAIT_SECONDS)
            process.kill()
            process.wait()


@dataclass(frozen=True)
class CommandOutcome:
    """How a command ended.

    Attributes:
      returncode: its exit status, negative for a signal; None if time was up.
      seconds: how long it ran.
      last_line: the last line of its output with a letter or a digit, else the last that is not blank, else empty.
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

    Not a sandbox: the command has the user's rights, network and environment, since it is theirs. Its standard input is
    empty; standard output and standard error go to one log.

    Args:
      command: for /bin/sh.
      cwd: an existing folder.
      environment: all of its variables.
      log_path: written anew; at most `log_bytes` of the beginning, and a line that says so if there was more.
      seconds: after which it is killed.
      log_bytes: see `log_path`.
      stop: set by another thread to end it.
      blanks: replacements for texts, such as secrets, in the log and in the last line; the longest match counts.

    Raises:
      WatchError: it could not be run at all.
      CommandStopped: `stop` was set.
    """
    order = {
        "argv": ["/bin/sh", "-c", command],
        "environment": dict(environment),
        "cwd": str(cwd),
        "limits": {"wall_seconds": seconds, "log_bytes": log_bytes},
        "blanks": dict(blanks or {}),
        "confine": None,
    }
    answer = carry_out(order, log_path=log_path, log_mode="wb", stop=stop)
    return CommandOutcome(answer["status"], answer["seconds"], answer["last_line"])
