"""Child processes of our own code, in groups of their own: gone with everything they started."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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


def kill_group(process: subprocess.Popen[Any]) -> None:
    """Kills a process that leads its own group, the group with it, and reaps it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(KILL_WAIT_SECONDS)


class JsonWorker:
    """A child that takes JSON lines on its standard input and answers with JSON lines on its standard output.

    Closing its input is the order to leave, so it also leaves when this process dies, however it dies.
    """

    def __init__(self, argv: Sequence[str], *, environment: Mapping[str, str], cwd: Path, log_path: Path) -> None:
        self.started = time.monotonic()
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                argv,
                env=dict(environment),
                cwd=cwd,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                text=True,
            )
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

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
        """Ends the process and all that it started."""
        kill_group(self._process)
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()

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
