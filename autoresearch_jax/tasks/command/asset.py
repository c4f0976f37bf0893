"""The asset at work in the sandbox: built, run once, or served; each end of it has a status."""

import contextlib
import json
import os
import select
import shutil
import socket
import stat
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autoresearch_jax.sandbox.accounting import ATTENDED
from autoresearch_jax.sandbox.confined import Confined
from autoresearch_jax.sandbox.process import WatchError, describe_exit, telling_line
from autoresearch_jax.sandbox.sandbox import ProcessLimits, Sandbox, SandboxResult
from autoresearch_jax.sanitize import clean_line, quoted
from autoresearch_jax.tasks.command.task_file import LINES, MEBIBYTE, SOCKET, BudgetTable, TaskFile
from autoresearch_jax.tasks.command.timebox import AssetFailed, TimeBox
from autoresearch_jax.types import CandidateUntouched, Status

READY = b"ready"  # the line that a service prints once it can be asked
POLL_SECONDS = 0.02
MAX_ANSWER_BYTES = 64 * MEBIBYTE
MAX_COPIED_BYTES, MAX_COPIED_FILES = 512 * MEBIBYTE, 10_000
LOG_TAIL_BYTES = 1 << 14
SLACK_SECONDS = 60.0
_STATUS_OF_LIMIT = {"wall_seconds": Status.TIMEOUT, "cpu_seconds": Status.TIMEOUT, "memory_bytes": Status.OOM}


@dataclass(frozen=True)
class Cage:
    """What every process of the asset runs under.

    Attributes:
      environment: variables of this process, of which it gets an allow-listed few.
      clock: by which the time box counts.
      max_stretch: times the time box that it may last by the wall clock.
      stop: set by another thread to end what runs.
    """

    task: TaskFile
    sandbox: Sandbox
    environment: Mapping[str, str]
    clock: str
    max_stretch: float
    stop: threading.Event = field(default_factory=threading.Event)
    limits: ProcessLimits = field(init=False)

    def __post_init__(self) -> None:
        budget = self.task.budget
        limits = ProcessLimits(
            open_files=4096, file_bytes=1024 * MEBIBYTE, scratch_bytes=2048 * MEBIBYTE, scratch_files=50_000
        )
        if budget.memory_mb is not None:
            limits = replace(limits, memory_bytes=int(budget.memory_mb * MEBIBYTE))
        object.__setattr__(self, "limits", limits)

    def longest(self, budget: BudgetTable) -> float:
        """Seconds after which something of ours hangs: what is limited otherwise has ended long before."""
        stretch = self.max_stretch if self.clock == ATTENDED else 1.0
        return stretch * (2 * budget.seconds + 2 * budget.start_seconds) + 12 * budget.evaluate_seconds + SLACK_SECONDS


class AssetProcess:
    """One process of the asset with its time box; `close` leaves nothing of it."""

    def __init__(
        self,
        cage: Cage,
        what: str,
        command: Sequence[str],
        scratch: Path,
        programs: Path,
        *,
        seconds: float,
        log_path: Path,
        variables: Mapping[str, str],
        speaks: str | None = None,
    ) -> None:
        """Starts a command in the folder `work` of a candidate's programs.

        Args:
          cage: what it runs under.
          what: it is, for messages: "build", "run" or "serve".
          command: what runs.
          scratch: an empty folder, all that it can write to.
          programs: folder of the candidate, see `task.py`.
          seconds: its time box.
          log_path: for its output.
          variables: further variables.
          speaks: LINES or SOCKET of a service.
        """
        self._what, self._cage, self._log_path = what, cage, log_path
        self._log_start = log_path.stat().st_size if log_path.exists() else 0
        longest = cage.longest(cage.task.budget) + seconds * cage.max_stretch
        limits = replace(cage.limits, wall_seconds=longest, cpu_seconds=longest * (os.cpu_count() or 1))
        work, build = programs / "work", programs / "build"
        self.socket = scratch / "socket" / "s"
        self.socket.parent.mkdir()
        self.process = Confined(
            cage.sandbox,
            command,
            scratch=scratch,
            cwd=work,
            readable=(work, *([build] if build.is_dir() else [])),
            environment=cage.environment,
            variables={
                "BUILD": str(build),
                **({"SOCKET": str(self.socket)} if speaks == SOCKET else {}),
                **variables,
            },
            log_path=log_path,
            limits=limits,
            talks=speaks == LINES,
            local_sockets=speaks == SOCKET,
        )
        self._buffer = bytearray()
        self._result: SandboxResult | None = None
        self.box = self.new_box(what, seconds)

    def new_box(self, what: str, seconds: float) -> TimeBox:
        """A time box of its process tree."""
        cage = self._cage
        return TimeBox(what, seconds, cage.max_stretch, cage.clock, self.process.root, cage.stop)

    def run_to_end(self, tick: Callable[[float], None] = lambda seconds: None) -> None:
        """Waits for the end of a command that ends by itself.

        Raises:
          AssetFailed: it failed.
        """
        began = time.monotonic()
        self.box.begin()
        while not self.process.wait(POLL_SECONDS):
            self.box.check()
            tick(time.monotonic() - began)
        with contextlib.suppress(AssetFailed):  # it was in time when it was last looked at
            self.box.end()
        result = self.stop()
        if result.broken_limit is not None or result.returncode != 0:
            raise self._failure(result)

    def await_ready(self, speaks: str, seconds: float) -> None:
        """Waits until a service can be asked.

        Raises:
          AssetFailed: it ended, or took too long.
        """
        box, said = self.new_box("the start", seconds), b""
        try:
            box.begin()
            while True:
                line = self._line() if speaks == LINES else None
                if line == READY or (speaks == SOCKET and self._accepts()):
                    return
                said = line or said
                self.require_alive()
                self._check_start(box, speaks, said)
                if speaks == SOCKET:
                    time.sleep(POLL_SECONDS)
        finally:
            box.close()

    @staticmethod
    def _check_start(box: TimeBox, speaks: str, said: bytes) -> None:
        """Counts the start's time; a failure says what was waited for, and what the service printed instead."""
        try:
            box.check()
        except AssetFailed as failed:
            missing = "nothing listens on $SOCKET" if speaks == SOCKET else f"it did not print {READY.decode()}"
            instead = f", but {quoted(said.decode('utf-8', 'replace'))}" if said else ""
            raise AssetFailed(failed.status, f"{failed.reason}: {missing}{instead}", too_busy=failed.too_busy) from None

    def ask(self, question: Any) -> tuple[Any, float]:
        """Asks a service that speaks lines; returns its answer and the attended seconds that this took.

        Raises:
          AssetFailed: it ended, took too long, or answered with no JSON.
        """
        self.box.begin()
        self._require_silence()
        self._send(json.dumps(question).encode() + b"\n")
        while (line := self._line()) is None:
            self.require_alive()
            self.box.check()
        seconds = self.box.end()
        try:
            answer = json.loads(line)
            json.dumps([[answer]], allow_nan=False)  # JSON has no NaN and no infinity, which could become the score
            return answer, seconds
        except (ValueError, RecursionError) as error:
            words = quoted(line.decode("utf-8", "replace"))
            raise AssetFailed(Status.INVALID, f"an answer is no JSON: {words}") from error

    def require_alive(self) -> None:
        """Raises AssetFailed if the process has ended, which a service must not."""
        if not self.process.is_running:
            raise self._failure(self.stop())

    def stop(self) -> SandboxResult:
        """Ends it; returns how it ended."""
        if self._result is None:
            self._result = self.process.stop()
        return self._result

    def close(self) -> float:
        """Ends it, and returns the most memory that it had, in bytes."""
        self.box.close()
        with contextlib.suppress(WatchError):
            return float(self.stop().peak_memory_bytes)
        return 0.0

    def _failure(self, result: SandboxResult) -> AssetFailed:
        """How a process ended that should not have ended so."""
        if result.broken_limit is not None:
            status = _STATUS_OF_LIMIT.get(result.broken_limit, Status.CRASH)
            return AssetFailed(status, f"{self._what} {result.words}")
        words = describe_exit(-9 if result.returncode is None else result.returncode)
        said = self.last_words()
        return AssetFailed(Status.CRASH, f"{self._what} {words}" + (f": {quoted(said)}" if said else ""))

    def last_words(self) -> str:
        """The line of its log that says what it ended of."""
        with contextlib.suppress(OSError), self._log_path.open("rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            return telling_line(log.read().decode("utf-8", "replace"))
        return ""

    def _send(self, data: bytes) -> None:
        """Writes to its input; one that does not read is met by the time box."""
        os.set_blocking(self.process.input, False)
        while data:
            if not select.select([], [self.process.input], [], POLL_SECONDS)[1]:
                self.require_alive()
                self.box.check()
                continue
            try:
                data = data[os.write(self.process.input, data) :]
            except BlockingIOError:
                continue
            except BrokenPipeError as error:  # it has closed its input, or ended
                self.process.wait(POLL_SECONDS)
                self.require_alive()
                raise AssetFailed(Status.CRASH, f"{self._what} closed its input") from error

    def _require_silence(self) -> None:
        """Raises AssetFailed if it has answered before it is asked."""
        if self._buffer or select.select([self.process.output], [], [], 0)[0]:
            line = self._line() or bytes(self._buffer)  # which tells of one that has ended
            words = quoted(line.decode("utf-8", "replace"))
            raise AssetFailed(Status.INVALID, f"{self._what} answers what it was not asked: {words}")

    def _line(self) -> bytes | None:
        """The next line that it printed, without its end; None if it is not whole after a moment."""
        deadline = time.monotonic() + POLL_SECONDS
        while (end := self._buffer.find(b"\n")) < 0:
            wait = max(0.0, deadline - time.monotonic())
            if not select.select([self.process.output], [], [], wait)[0]:
                return None
            data = os.read(self.process.output, 1 << 16)
            if not data:
                self.process.wait(1.0)
                self.require_alive()
                raise AssetFailed(Status.CRASH, f"{self._what} closed its output")
            self._buffer += data
            if len(self._buffer) > MAX_ANSWER_BYTES:
                raise AssetFailed(Status.INVALID, f"an answer has more than {MAX_ANSWER_BYTES / MEBIBYTE:g} MiB")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line.rstrip(b"\r")

    def _accepts(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(1.0)
            connection.connect(str(self.socket))
            return True
        return False


def copy_written(source: Path, target: Path) -> None:
    """Copies what the asset wrote: files and folders alone, no links, within limits.

    Raises:
      AssetFailed: it wrote too much, or what cannot be copied.
    """
    try:
        _copy_written(source, target)
    except PermissionError as error:
        raise AssetFailed(Status.INVALID, f"what it wrote cannot be read: {clean_line(str(error))}") from error


def _copy_written(source: Path, target: Path) -> None:
    target.mkdir()
    if source.is_symlink():  # it can write to the folder around, too
        raise AssetFailed(Status.INVALID, "it put a link in place of the folder that it was to write to")
    num_bytes = num_files = 0
    for folder, folders, names in os.walk(source):
        place = target / Path(folder).relative_to(source)
        written = "/".join((*folders, *names))
        if "\n" in written or written.encode("utf-8", "replace").decode() != written:
            raise AssetFailed(Status.INVALID, "it wrote a file whose name is no line of UTF-8")
        for name in folders:
            if not os.path.islink(f"{folder}/{name}"):
                (place / name).mkdir()
        for name in names:
            status = os.lstat(f"{folder}/{name}")
            if not stat.S_ISREG(status.st_mode):
                continue
            num_bytes, num_files = num_bytes + status.st_size, num_files + 1
            if num_bytes > MAX_COPIED_BYTES or num_files > MAX_COPIED_FILES:
                most = f"{MAX_COPIED_BYTES / MEBIBYTE:g} MiB or {MAX_COPIED_FILES} files"
                raise AssetFailed(Status.INVALID, f"it wrote more than {most}")
            shutil.copyfile(f"{folder}/{name}", place / name, follow_symlinks=False)


def untouched(error: Exception) -> CandidateUntouched:
    """The sandbox itself failed."""
    return CandidateUntouched(clean_line(str(error)))
