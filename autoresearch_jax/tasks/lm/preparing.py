"""From a training file's text to checked programs: the sandboxed trace and its results. Loads no JAX."""

import contextlib
import dataclasses
import json
import math
import os
import re
import signal
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from autoresearch_jax.files import disk_error, disk_error_of_trace
from autoresearch_jax.python_source import UNPARSABLE, without_hidden_text
from autoresearch_jax.sandbox.mounts import HIDDEN_MODULES
from autoresearch_jax.sandbox.process import (
    JsonWorker,
    ProcessTimeoutError,
    WorkerDiedError,
    describe_exit,
    telling_line,
)
from autoresearch_jax.sandbox.sandbox import (
    MEBIBYTE,
    Level,
    ProcessLimits,
    Sandbox,
    SandboxError,
    SandboxResult,
    scratch_folder,
)
from autoresearch_jax.sanitize import clean_block, fenced, quoted
from autoresearch_jax.tasks.lm.conditions import TRACE_BEGINS, Conditions
from autoresearch_jax.tasks.lm.config import TRACE_PROCESSORS, LmTaskConfig
from autoresearch_jax.tasks.lm.trial import TaskError, naming_variables, untouched
from autoresearch_jax.types import Candidate, CandidateRejected, CandidateUntouched, Status

MAX_PROGRAM_BYTES = 64 * MEBIBYTE  # all files together; the reference model's are 2 MiB
MAX_FAILURE_BYTES = 1 << 16
MAX_LOG_BYTES = 4000  # of the trace's log that go with a rejection

# What `trace.py` writes; nothing else is copied.
_PROGRAM_FILE = re.compile(r"signature\.json|(init|step_[0-9]{1,3}|logits_[0-9]{1,6})\.export")
_FAILURE_FILE = "failure.json"
_MISSED_FILE = re.compile("FileNotFoundError|PermissionError|NotADirectoryError")
_MISSED_MODULE = re.compile(r"ModuleNotFoundError: No module named '(\w+)")
_FRAME = '  File "'  # of Python's traceback; its lines of source are indented further
_HIDDEN_FRAMES = ('autoresearch_jax/tasks/lm/trace.py", line', '"<frozen ')  # of the harness, and of Python's import
_JAX_NOTE = re.compile(r"-{20}$|For simplicity, JAX has removed its internal frames")
_STATUS_OF_LIMIT = {"wall_seconds": Status.TIMEOUT, "cpu_seconds": Status.TIMEOUT, "memory_bytes": Status.OOM}


# Rows on each data-parallel device; the judge begins with the one that suits the device (see `judging.py`).
JUDGE_BATCH_ROWS = (32, 8, 2)


class FileRefusedError(Exception):
    """The trace left a file that may not be copied; one line that names it."""


def run_trace(
    request: Mapping[str, Any],
    out_dir: Path,
    *,
    conditions: Conditions,
    sandbox: Sandbox,
    limits: ProcessLimits,
    environment: Mapping[str, str],
    log_path: Path,
    stop: threading.Event | None = None,
) -> None:
    """Runs the candidate's Python, once, in the sandbox, and copies the programs that it wrote to `out_dir`.

    Args:
      request: see `trace.py`; the folder of "source" holds nothing else, and is all that the candidate can write to.
      out_dir: an empty folder elsewhere.
      conditions: the sources of chance that it meets.
      sandbox: where it runs.
      limits: what it may use.
      environment: variables of this process, of which the trace gets an allow-listed few.
      log_path: for its output, written anew.
      stop: ends it when it is set.

    Raises:
      CandidateRejected: there are no programs, and why.
      CandidateUntouched: it ended before it had begun to run the candidate's Python.
      SandboxError: it was stopped, or the watching process failed.
    """
    scratch = Path(request["source"]).parent
    request_path, written = scratch / "request.json", scratch / "programs"
    request_path.write_text(json.dumps({**request, "clock": conditions.clock, "seed": conditions.seed}))
    written.mkdir()
    log_path.unlink(missing_ok=True)
    try:
        result = sandbox.run_python(
            ["-m", "autoresearch_jax.tasks.lm.trace", str(request_path), str(written)],
            scratch=scratch,
            environment=environment,
            log_path=log_path,
            limits=limits,
            stop=stop,
            fixed_addresses=conditions.fixed_addresses,
            variables={
                "PYTHONHASHSEED": str(conditions.hash_seed),
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={request['task']['num_devices']}",
                # a TPU's kernels carry places in source files in their payload, of which equal programs must not differ
                "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0",
            },
        )
    except SandboxError as error:
        if stop is None or not stop.is_set():
            _require_begun(log_path, str(error))
        raise
    _clean(log_path)
    if result.returncode != 0:
        _require_begun(log_path, f"the trace {result.words or describe_exit(result.returncode or -signal.SIGKILL)}")
    if result.broken_limit is not None:
        status = _STATUS_OF_LIMIT.get(result.broken_limit, Status.CRASH)
        raise CandidateRejected(status, f"the trace {result.words}", _tail(log_path, scratch))
    if result.returncode != 0:
        raise _rejection(written, result, log_path, scratch, confined=sandbox.level is not Level.LIMITS)
    try:
        collect_programs(written, out_dir)
    except FileRefusedError as error:
        raise CandidateRejected(Status.REJECTED, str(error), _tail(log_path, scratch)) from error
    if not (out_dir / "signature.json").exists():
        raise CandidateRejected(
            Status.CRASH, "the trace ended before it had written its programs", _tail(log_path, scratch)
        )


def _require_begun(log_path: Path, how: str) -> None:
    """Raises CandidateUntouched for a trace whose log does not say that it began with the candidate.

    The candidate cannot take that line back: what it prints comes to us through a pipe.
    """
    log = log_path.read_text(encoding="utf-8", errors="replace") if log_path.exists() else ""
    if TRACE_BEGINS not in log.splitlines():
        words = telling_line(log)
        said = f": {words}" if words else ""
        raise CandidateUntouched(f"before it began with the training file, {how}{said}; see {log_path}")


def collect_programs(written: Path, out_dir: Path) -> None:
    """Copies the programs out of a folder that a candidate could write to; its processes have ended.

    Raises:
      FileRefusedError: one of them is a link, a device or a pipe, or they are too large together.
    """
    room = MAX_PROGRAM_BYTES
    with _open_folder(written) as folder:
        for name in sorted(os.listdir(folder)):
            if _PROGRAM_FILE.fullmatch(name):
                data = _read_regular(name, folder, room)
                room -= len(data)
                (out_dir / name).write_bytes(data)


@contextlib.contextmanager
def _open_folder(path: Path) -> Iterator[int]:
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise FileRefusedError(f"the trace left no folder of programs: {error.strerror}") from error
    try:
        yield folder
    finally:
        os.close(folder)


def _read_regular(name: str, folder: int, max_bytes: int) -> bytes:
    """The bytes of a regular file; opening neither follows a link nor waits for a pipe's other end."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError as error:
        raise FileRefusedError(f"the trace's {name} cannot be read: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise FileRefusedError(f"the trace's {name} is no regular file")
        if status.st_size > max_bytes:
            raise FileRefusedError(f"the trace's programs are larger than {MAX_PROGRAM_BYTES / MEBIBYTE:.0f} MiB")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def _rejection(
    written: Path, result: SandboxResult, log_path: Path, scratch: Path, confined: bool
) -> CandidateRejected:
    """The rejection for a failed trace, in the words that it left, which the candidate may have written."""
    try:
        with _open_folder(written) as folder:
            failure = json.loads(_read_regular(_FAILURE_FILE, folder, MAX_FAILURE_BYTES))
        crashed, words = bool(failure["kept_contract"]), quoted(str(failure["reason"]))
        label = "the training file failed, in its own words" if crashed else "the contract is not kept"
        status = Status.CRASH if crashed else Status.REJECTED
        hint = "; in the sandbox it finds no file but its own" if confined and _MISSED_FILE.search(words) else ""
        if (module := _MISSED_MODULE.search(words)) and module[1] in HIDDEN_MODULES:
            hint = f"; the sandbox does not show Python's `{module[1]}`, which may be in the validation text"
        return CandidateRejected(status, f"{label}: {words}{hint}", _tail(log_path, scratch))
    except (FileRefusedError, ValueError, KeyError, TypeError, RecursionError):
        assert result.returncode is not None
        return CandidateRejected(
            Status.CRASH, f"the trace {describe_exit(result.returncode)}", _tail(log_path, scratch)
        )


def _clean(log_path: Path) -> None:
    """Makes a log safe to look at in a terminal."""
    text = log_path.read_bytes().decode("utf-8", errors="replace")
    partial = log_path.with_name(f"{log_path.name}.partial")
    partial.write_text(clean_block(text, limit=len(text)) + "\n", encoding="utf-8")
    partial.replace(log_path)


def _tail(path: Path, scratch: Path) -> str | None:
    """The end of the trace's log."""
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError:
        return None
    lines = [line.replace(f"{scratch}/", "") for line in _without_our_frames(text.splitlines())]
    return fenced("the trace's log", "\n".join(lines), MAX_LOG_BYTES)


def _without_our_frames(lines: Iterable[str]) -> Iterator[str]:
    """Lines of a log without our frames of a traceback, and without JAX's note on hidden frames."""
    is_ours = False
    for line in lines:
        if line.startswith(_FRAME):
            is_ours = any(words in line for words in _HIDDEN_FRAMES)
        elif not line.startswith("    "):
            is_ours = False
        if not is_ours and not _JAX_NOTE.match(line) and line != TRACE_BEGINS:
            yield line


def prepare_candidate(
    config: LmTaskConfig,
    source: str,
    log_dir: Path,
    worker: JsonWorker,
    stop: threading.Event,
    conditions: Conditions,
) -> Candidate:
    """Traces a training file in the sandbox and checks the programs in `worker`, which may still be starting.

    Raises:
      CandidateRejected: it breaks a rule, and which.
      CandidateUntouched: a process ended before it was given anything of the candidate.
      TaskError: the harness or a disk failed, or `stop` was set: no fault of the candidate.
    """
    start = time.monotonic()
    try:
        program_hash, kept, found = _trace_and_check(config, source, log_dir, worker, stop, conditions)
    except CandidateRejected as rejection:
        rejection.facts["sandbox"] = str(config.sandbox.level)
        _require_own_fault(config, rejection, stop)
        raise
    facts = {**found, "sandbox": str(config.sandbox.level), "prepare_seconds": time.monotonic() - start}
    return Candidate(source, program_hash, kept, facts)


def require_size(source: str, cap_bytes: int) -> None:
    """Raises CandidateRejected for a text that is too long, or that UTF-8 cannot hold."""
    try:
        num_bytes = len(source.encode())
    except UnicodeEncodeError as error:
        raise CandidateRejected(Status.REJECTED, f"the source cannot be written as UTF-8: {error}") from error
    if num_bytes > cap_bytes:
        reason = f"the source has {num_bytes:,} bytes, more than {cap_bytes:,}: make it shorter"
        raise CandidateRejected(Status.REJECTED, reason)


def traced_text(source: str) -> str:
    """What is traced of a training file, see `without_hidden_text`; raises CandidateRejected if it cannot be read."""
    try:
        return without_hidden_text(source)
    except UNPARSABLE as error:
        reason = f"the source cannot be read: {type(error).__name__}: {error}"
        raise CandidateRejected(Status.REJECTED, reason) from error


def _require_own_fault(config: LmTaskConfig, rejection: CandidateRejected, stop: threading.Event) -> None:
    """Raises TaskError if the trace was ended from outside, by `LmTask.close` or by a disk that is full or fails."""
    if stop.is_set():
        raise TaskError("the task was closed while a candidate was traced")
    words = f"{rejection.reason}\n{rejection.details}"
    folder, least = config.programs_dir, config.trace_limits.scratch_bytes
    if (fault := disk_error(rejection) or disk_error_of_trace(words, folder, least)) is not None:
        raise TaskError(f"tracing a candidate: {rejection.reason}") from fault


def _trace_and_check(
    config: LmTaskConfig,
    source: str,
    log_dir: Path,
    worker: JsonWorker,
    stop: threading.Event,
    conditions: Conditions,
) -> tuple[str, Path, dict[str, Any]]:
    """Hash of the programs, their folder, and facts about them."""
    config.programs_dir.mkdir(parents=True, exist_ok=True)
    with scratch_folder(".trace-", config.programs_dir) as folder:  # resolved, as the cage shows it
        cage, traced = folder / conditions.folder, folder / "programs"
        cage.mkdir()
        traced.mkdir()
        source_path = cage / config.editable_name
        source_path.write_text(traced_text(source), encoding="utf-8")
        os.utime(source_path, (conditions.clock, conditions.clock))
        request = _trace_request(config, source_path)
        run_trace(
            request,
            traced,
            conditions=conditions,
            sandbox=config.sandbox,
            limits=dataclasses.replace(
                config.trace_limits,
                wall_seconds=config.limits.trace,
                cpu_seconds=TRACE_PROCESSORS * config.limits.trace,
            ),
            environment=config.environment,
            log_path=log_dir / "trace.log",
            stop=stop,
        )
        event = _check(config, worker, traced, request, log_dir / "worker.log")
        kept = config.programs_dir / _plain_hash(event["program_hash"])
        try:
            os.rename(traced, kept)
        except OSError:
            if not kept.exists():  # else the same programs
                raise
    return event["program_hash"], kept, event["facts"]


def _check(
    config: LmTaskConfig, worker: JsonWorker, traced: Path, request: Mapping[str, Any], log_path: Path
) -> dict[str, Any]:
    """The worker's "checked" event.

    Raises:
      CandidateRejected: the programs break a rule, or the process that reads them.
      CandidateUntouched: that process did not start.
    """
    try:
        worker.receive(config.limits.startup)  # "ready"
    except (ProcessTimeoutError, WorkerDiedError) as error:
        walls = "" if config.sandbox.worker is Level.LIMITS else " (it is confined: --sandbox=limits goes without)"
        with naming_variables(config.environment):
            raise CandidateUntouched(f"{untouched(error, worker, log_path)}{walls}") from error
    caps = dataclasses.asdict(config.caps)
    try:
        worker.send({"op": "check", "programs_dir": str(traced), "request": request, "caps": caps})
        event = worker.receive(config.limits.check)
    except ProcessTimeoutError as error:
        reason = f"checking the traced programs took longer than {config.limits.check:g} s"
        raise CandidateRejected(Status.TIMEOUT, reason) from error
    except WorkerDiedError as error:
        reason = f"{error} when it read the traced programs; see {log_path}"
        raise CandidateRejected(Status.CRASH, reason) from error
    if event["event"] == "rejected":
        raise CandidateRejected(Status.REJECTED, event["reason"])
    if event["event"] != "checked":
        raise TaskError(f"checking the traced programs: {event['reason']}; see {log_path}")
    return event


def _plain_hash(text: str) -> str:
    """A hash as the process tells it that read what a candidate wrote; raises TaskError for what is none."""
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise TaskError(f"checking the traced programs: no hash: {text[:80]!r}")
    return text


def _trace_request(config: LmTaskConfig, source_path: Path) -> dict[str, Any]:
    data_parallel = config.mesh_axes.get("data", 1)
    return {
        "source": str(source_path),
        "task": {
            "vocab_sizes": config.dataset.vocab_sizes,
            "sequence_length": config.dataset.sequence_length,
            "platform": config.device.platform,
            "device_kind": config.device.device_kind,
            "num_devices": math.prod(config.mesh_axes.values()),
            "device_memory_bytes": config.device.memory_bytes,
            "budget_seconds": config.budget.seconds,
            "budget_steps": config.budget.steps,
        },
        "mesh": dict(config.mesh_axes),
        "judge_batch_sizes": [rows * data_parallel for rows in JUDGE_BATCH_ROWS],
    }
