"""The language-model task as the loop sees it: prepare (trace and check) a training file, measure it. Loads no JAX."""

import dataclasses
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoresearch_jax.lm.caps import Caps
from autoresearch_jax.lm.dataset import Dataset
from autoresearch_jax.lm.device import Device, start_worker
from autoresearch_jax.lm.disk_faults import disk_error, disk_error_of_trace
from autoresearch_jax.lm.exam import keep_exam
from autoresearch_jax.lm.limits import TimeLimits
from autoresearch_jax.lm.messages import MeasureRequest
from autoresearch_jax.lm.tracer import run_trace
from autoresearch_jax.lm.trial import TaskError, Trial
from autoresearch_jax.measurement import (
    Budget,
    Candidate,
    CandidateRejected,
    Ceiling,
    Measurement,
    Metric,
    Scalar,
    Scrutiny,
    Status,
)
from autoresearch_jax.runtime.process import JsonWorker, ProcessTimeoutError, WorkerDiedError
from autoresearch_jax.runtime.sandbox import Limits, Sandbox, remove_tree
from autoresearch_jax.runtime.scratch import scratch_folder

METRIC = Metric("val_bpb", "minimize")
# Rows on each data-parallel device; the judge takes the first size that fits into memory.
JUDGE_BATCH_ROWS = (32, 8, 2)


@dataclass(frozen=True)
class LmTaskConfig:
    """Everything that defines the task.

    Attributes:
      dataset: what to train and judge on.
      device: what to run on.
      mesh_axes: sizes of the mesh axes "data" and "model".
      budget: the time box.
      sandbox: where a candidate is traced.
      programs_dir: where traced programs are kept, a folder for each hash.
      environment: variables of this process; the trace inherits an allow-listed few of them.
      compile_cache_dir: for XLA's persistent cache; None for none.
      editable_name: file name of the training file, for messages.
      split: what is judged: "val". An audit judges the holdout besides, see `Scrutiny`.
      judge_tokens: judge about so many tokens of a split; None judges all of it.
      limits: when a phase is killed.
      trace_limits: what a trace may use; its time is `limits.trace`.
      caps: what a candidate must not exceed.
    """

    dataset: Dataset
    device: Device
    mesh_axes: Mapping[str, int]
    budget: Budget
    sandbox: Sandbox
    programs_dir: Path
    environment: Mapping[str, str]
    compile_cache_dir: Path | None = None
    editable_name: str = "train_lib.py"
    split: str = "val"
    judge_tokens: int | None = None
    limits: TimeLimits = field(default_factory=TimeLimits)
    trace_limits: Limits = field(default_factory=Limits)
    caps: Caps = field(default_factory=Caps)


@dataclass(frozen=True)
class LmTerms:
    """What a score depends on beside the candidate and its seed, as far as it can be told without a device."""

    dataset: Dataset
    budget: Budget
    judge_tokens: int | None = None

    @property
    def metric(self) -> Metric:
        """What is measured."""
        return METRIC

    @property
    def fingerprint(self) -> str:
        """See `search.task.Terms.fingerprint`."""
        return self.dataset.fingerprint + ("" if self.judge_tokens is None else f"-{self.judge_tokens}")


class LmTask:
    """Trains and judges language models. One process for the trace, one for the trial, each new."""

    def __init__(self, config: LmTaskConfig) -> None:
        self._config = config
        self._worker: JsonWorker | None = None  # started early, so that its imports overlap the trace
        self._beside: JsonWorker | None = None  # the same of what is traced beside a trial
        self._stop = threading.Event()  # ends the trace that runs

    @property
    def metric(self) -> Metric:
        return METRIC

    @property
    def budget(self) -> Budget:
        return self._config.budget

    @property
    def fingerprint(self) -> str:
        return LmTerms(self._config.dataset, self._config.budget, self._config.judge_tokens).fingerprint

    @property
    def facts(self) -> Mapping[str, Scalar]:
        """See `search.task.Task.facts`."""
        device, dataset = self._config.device, self._config.dataset
        return {
            "platform": device.platform,
            "device_kind": device.device_kind,
            "num_devices": math.prod(self._config.mesh_axes.values()),
            "device_memory_bytes": device.memory_bytes,
            "sequence_length": dataset.sequence_length,
            "vocab_sizes on offer": ", ".join(map(str, dataset.vocab_sizes)),
        }

    def keep_exam(self, folder: Path) -> str:
        """See `search.task.Task.keep_exam`."""
        return keep_exam(self._config.dataset, self._config.split, folder)

    def prepare(self, source: str, log_dir: Path, *, beside_a_trial: bool = False) -> Candidate:
        """See `search.task.Task.prepare`."""
        start = time.monotonic()
        num_bytes, cap = len(source.encode()), self._config.caps.source_bytes
        if num_bytes > cap:
            reason = f"the source has {num_bytes:,} bytes, more than {cap:,}: make it shorter"
            raise CandidateRejected(Status.REJECTED, reason)
        stop = self._stop
        if beside_a_trial:
            worker = self._beside = self._start_worker(log_dir)
        else:
            # a process that waits since a candidate nobody measured would count that time as this one's
            self._end_waiting_worker()
            worker = self._take_worker(log_dir)
        try:
            candidate = self._prepare(source, log_dir, worker, start, stop)
        except CandidateRejected as rejection:
            rejection.facts["sandbox"] = str(self._config.sandbox.level)
            worker.close()
            self._require_own_fault(rejection, stop)
            raise
        except BaseException:
            worker.close()
            raise
        if beside_a_trial:
            worker.close()  # it may run at a lower priority, and a trial must not
        else:
            self._worker = worker
        return candidate

    def measure(
        self,
        candidate: Candidate,
        *,
        seed: int,
        log_dir: Path,
        snapshot_dir: Path,
        on_progress: Callable[[Mapping[str, Scalar]], None] | None = None,
        scrutiny: Scrutiny = Scrutiny.SEARCH,
        stop_above: Sequence[Ceiling] = (),
    ) -> Measurement:
        """See `search.task.Task.measure`.

        Raises:
          TaskError: the harness failed, which is no fault of the candidate.
        """
        request = self._measure_request(candidate, seed, log_dir, snapshot_dir, scrutiny)
        trial = Trial(
            dataclasses.replace(request, stop_above=tuple(stop_above)),
            limits=self._config.limits,
            facts=candidate.facts,
            log_path=log_dir / "worker.log",
            start_worker=lambda: self._start_worker(log_dir),
            on_progress=on_progress,
        )
        return trial.run(self._take_worker(log_dir))

    def close(self) -> None:
        """Ends the waiting process, if there is one, and what another thread prepares."""
        stop, self._stop = self._stop, threading.Event()
        stop.set()
        if (beside := self._beside) is not None:
            beside.close()
        self._end_waiting_worker()

    def _end_waiting_worker(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _take_worker(self, log_dir: Path) -> JsonWorker:
        worker, self._worker = self._worker, None
        return worker or self._start_worker(log_dir)

    def _start_worker(self, log_dir: Path) -> JsonWorker:
        config = self._config
        return start_worker(
            config.device.platform,
            math.prod(config.mesh_axes.values()),
            log_dir / "worker.log",
            environment=config.environment,
            compile_cache_dir=config.compile_cache_dir,
        )

    def _require_own_fault(self, rejection: CandidateRejected, stop: threading.Event) -> None:
        """Does not blame a candidate for what ended its trace from outside.

        Raises:
          TaskError: that was `close`, or a disk that is full or fails.
        """
        if stop.is_set():
            raise TaskError("the task was closed while a candidate was traced")
        words = f"{rejection.reason}\n{rejection.details}"
        folder, least = self._config.programs_dir, self._config.trace_limits.scratch_bytes
        if (fault := disk_error(rejection) or disk_error_of_trace(words, folder, least)) is not None:
            raise TaskError(f"tracing a candidate: {rejection.reason}") from fault

    def _prepare(
        self, source: str, log_dir: Path, worker: JsonWorker, start: float, stop: threading.Event
    ) -> Candidate:
        config = self._config
        config.programs_dir.mkdir(parents=True, exist_ok=True)
        with scratch_folder(".trace-", config.programs_dir, remove_tree) as folder:  # resolved, as the cage shows it
            cage, traced = folder / "cage", folder / "programs"
            cage.mkdir()
            traced.mkdir()
            source_path = cage / config.editable_name
            source_path.write_text(source, encoding="utf-8")
            request = self._trace_request(source_path)
            run_trace(
                request,
                traced,
                sandbox=config.sandbox,
                limits=dataclasses.replace(config.trace_limits, wall_seconds=config.limits.trace),
                environment=config.environment,
                log_path=log_dir / "trace.log",
                stop=stop,
            )
            event = self._check(worker, traced, request, log_dir / "worker.log")
            kept = config.programs_dir / event["program_hash"]
            try:
                os.rename(traced, kept)
            except OSError:
                if not kept.exists():  # else the same programs
                    raise
        facts = {
            **event["facts"],
            "sandbox": str(config.sandbox.level),
            "prepare_seconds": time.monotonic() - start,
        }
        return Candidate(source, event["program_hash"], kept, facts)

    def _check(self, worker: JsonWorker, traced: Path, request: Mapping[str, Any], log_path: Path) -> dict[str, Any]:
        """What the trial's process found out about the traced programs.

        Raises:
          CandidateRejected: they break a rule, or break the process that looks at them.
          TaskError: that process did not even start.
        """
        config = self._config
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

    def _trace_request(self, source_path: Path) -> dict[str, Any]:
        config = self._config
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

    def _measure_request(
        self, candidate: Candidate, seed: int, log_dir: Path, snapshot_dir: Path, scrutiny: Scrutiny
    ) -> MeasureRequest:
        config = self._config
        assert candidate.programs_dir is not None
        return MeasureRequest(
            programs_dir=str(candidate.programs_dir.absolute()),
            program_hash=candidate.program_hash,
            dataset_folder=str(config.dataset.folder.absolute()),
            sequence_length=config.dataset.sequence_length,
            split=config.split,
            judge_tokens=config.judge_tokens,
            scrutiny=scrutiny,
            seed=seed,
            budget=config.budget,
            snapshot_dir=str(snapshot_dir.absolute()),
            log_dir=str(log_dir.absolute()),
            device_memory_bytes=config.device.memory_bytes,
            min_steps=config.caps.min_steps,
            free_init_seconds=config.limits.free_init,
            free_judge_seconds=config.limits.free_judge,
            facts={
                "fingerprint": self.fingerprint,
                "vocab_sizes": config.dataset.vocab_sizes,
                "budget": dataclasses.asdict(config.budget),
                "device_kind": config.device.device_kind,
            },
        )
