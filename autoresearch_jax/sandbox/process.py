"""Child processes of our own code, each under a guard: gone with everything they started, however the driver ends."""

import contextlib
import json
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoresearch_jax.sandbox.family import SWEEP_LIMIT_SECONDS
from autoresearch_jax.sandbox.guard import guarded

# What a process that runs a candidate's Python inherits: no keys and no tokens.
INHERITED_VARIABLES = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")
KILL_WAIT_SECONDS = 10.0


class ProcessTimeoutError(Exception):
    """A child did not answer in time."""


class WorkerDiedError(Exception):
    """A worker ended without an answer.

    Attributes:
      returncode: its exit status, negative for a signal; None if it closed its output and did not end.
    """

    def __init__(self, returncode: int | None) -> None:
        words = "closed its output but did not end" if returncode is None else describe_exit(returncode)
        super().__init__(f"the worker process {words}")
        self.returncode = returncode


def bare_environment(environment: Mapping[str, str], **extra: str) -> dict[str, str]:
    """The allow-listed part of `environment`, and `extra`."""
    inherited = {name: environment[name] for name in INHERITED_VARIABLES if name in environment}
    return {"PYTHONUNBUFFERED": "1", "PYTHONHASHSEED": "0", **inherited, **extra}


def describe_exit(returncode: int) -> str:
    """An exit status in words: "exited with status 3", "was killed by SIGKILL"."""
    if returncode >= 0:
        return f"exited with status {returncode}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-returncode).name}"
    return f"was killed by signal {-returncode}"


class JsonWorker:
    """A child that takes JSON lines on its standard input and answers with JSON lines on its standard output.

    Closing its input is its end and that of all it started, so they are also gone when this process dies, however it
    dies: see `guard.py`.
    """

    def __init__(self, argv: Sequence[str], *, environment: Mapping[str, str], cwd: Path, log_path: Path) -> None:
        self.started = time.monotonic()
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                guarded(argv),
                env=dict(environment),
                cwd=cwd,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the driver, which then ends this
                text=True,
            )
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends one request.

        Raises:
          WorkerDiedError: nobody is there to take it.
        """
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

    def close(self) -> None:
        """Ends the process and all that it started; they are gone when this returns."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.terminate()  # should another process have the pipe, too
        try:
            self._process.wait(SWEEP_LIMIT_SECONDS + KILL_WAIT_SECONDS)
        except subprocess.TimeoutExpired:  # a guard that is stopped, say; the worker dies with it
            self._process.kill()
            self._process.wait()
        self._reader.join(KILL_WAIT_SECONDS)
        if not self._reader.is_alive():  # else it holds the lock that closing waits for
            self._process.stdout.close()

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
