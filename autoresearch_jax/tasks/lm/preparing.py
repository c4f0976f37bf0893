"""From a training file's text to a candidate: traced in the sandbox, its programs checked by our own. Loads no JAX."""

import dataclasses
import math
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoresearch_jax.sandbox.process import JsonWorker, ProcessTimeoutError, WorkerDiedError
from autoresearch_jax.sandbox.sandbox import remove_tree
from autoresearch_jax.sandbox.scratch import scratch_folder
from autoresearch_jax.tasks.lm.disk_faults import disk_error, disk_error_of_trace
from autoresearch_jax.tasks.lm.task_config import LmTaskConfig
from autoresearch_jax.tasks.lm.tracer import run_trace
from autoresearch_jax.tasks.lm.trial import TaskError
from autoresearch_jax.types import Candidate, CandidateRejected, Status

# Rows on each data-parallel device; the judge begins with the one that suits the device (see `judging.py`).
JUDGE_BATCH_ROWS = (32, 8, 2)


def prepare_candidate(
    config: LmTaskConfig, source: str, log_dir: Path, worker: JsonWorker, stop: threading.Event
) -> Candidate:
    """Traces and checks a training file.

    Args:
      config: the task.
      source: text of the file.
      log_dir: for the trace's log; the check's is the worker's.
      worker: checks what was traced; it may still be starting.
      stop: ends the trace when it is set.

    Raises:
      CandidateRejected: it breaks a rule, and which.
      TaskError: the harness failed, a disk did, or it was stopped: no fault of the candidate.
    """
    start = time.monotonic()
    try:
        program_hash, kept, found = _trace_and_check(config, source, log_dir, worker, stop)
    except CandidateRejected as rejection:
        rejection.facts["sandbox"] = str(config.sandbox.level)
        _require_own_fault(config, rejection, stop)
        raise
    facts = {**found, "sandbox": str(config.sandbox.level), "prepare_seconds": time.monotonic() - start}
    return Candidate(source, program_hash, kept, facts)


def require_size(source: str, cap_bytes: int) -> None:
    """Raises CandidateRejected for a text that is too long."""
    num_bytes = len(source.encode())
    if num_bytes > cap_bytes:
        reason = f"the source has {num_bytes:,} bytes, more than {cap_bytes:,}: make it shorter"
        raise CandidateRejected(Status.REJECTED, reason)


def _require_own_fault(config: LmTaskConfig, rejection: CandidateRejected, stop: threading.Event) -> None:
    """Does not blame a candidate for what ended its trace from outside.

    Raises:
      TaskError: that was `LmTask.close`, or a disk that is full or fails.
    """
    if stop.is_set():
        raise TaskError("the task was closed while a candidate was traced")
    words = f"{rejection.reason}\n{rejection.details}"
    folder, least = config.programs_dir, config.trace_limits.scratch_bytes
    if (fault := disk_error(rejection) or disk_error_of_trace(words, folder, least)) is not None:
        raise TaskError(f"tracing a candidate: {rejection.reason}") from fault


def _trace_and_check(
    config: LmTaskConfig, source: str, log_dir: Path, worker: JsonWorker, stop: threading.Event
) -> tuple[str, Path, dict[str, Any]]:
    """Hash of the programs, their folder, and what was found out about them."""
    config.programs_dir.mkdir(parents=True, exist_ok=True)
    with scratch_folder(".trace-", config.programs_dir, remove_tree) as folder:  # resolved, as the cage shows it
        cage, traced = folder / "cage", folder / "programs"
        cage.mkdir()
        traced.mkdir()
        source_path = cage / config.editable_name
        source_path.write_text(source, encoding="utf-8")
        request = _trace_request(config, source_path)
        run_trace(
            request,
            traced,
            sandbox=config.sandbox,
            limits=dataclasses.replace(config.trace_limits, wall_seconds=config.limits.trace),
            environment=config.environment,
            log_path=log_dir / "trace.log",
            stop=stop,
        )
        event = _check(config, worker, traced, request, log_dir / "worker.log")
        kept = config.programs_dir / event["program_hash"]
        try:
            os.rename(traced, kept)
        except OSError:
            if not kept.exists():  # else the same programs
                raise
    return event["program_hash"], kept, event["facts"]


def _check(
    config: LmTaskConfig, worker: JsonWorker, traced: Path, request: Mapping[str, Any], log_path: Path
) -> dict[str, Any]:
    """What a trial's process found out about the traced programs.

    Raises:
      CandidateRejected: they break a rule, or break the process that looks at them.
      TaskError: that process did not even start.
    """
    try:
        worker.receive(config.limits.startup)  # that it is ready
    except (ProcessTimeoutError, WorkerDiedError) as error:
        raise TaskError(f"starting the trial's process: {error}; see {log_path}") from error
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
