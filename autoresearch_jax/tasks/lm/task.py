"""The language-model task as the loop sees it: prepare (trace and check) a training file, measure it. Loads no JAX."""

import contextlib
import dataclasses
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial, partialmethod
from pathlib import Path

from autoresearch_jax.assets.base import AssetKind
from autoresearch_jax.assets.kinds import TRAINING_FILE
from autoresearch_jax.executors.places import ANYWHERE, Place
from autoresearch_jax.sandbox.accounting import ATTENDED
from autoresearch_jax.sandbox.process import JsonWorker, ProcessTimeoutError, WorkerDiedError
from autoresearch_jax.sandbox.sandbox import Level, remove_tree
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.tasks.lm import cage
from autoresearch_jax.tasks.lm.channel import Gathering
from autoresearch_jax.tasks.lm.conditions import OTHER, USUAL, Conditions
from autoresearch_jax.tasks.lm.config import SPLIT, TIME_REFERENCE, LmTaskConfig, MeasureRequest
from autoresearch_jax.tasks.lm.contract_text import contract_text
from autoresearch_jax.tasks.lm.data.dataset import SPLITS, Dataset
from autoresearch_jax.tasks.lm.device import (
    STANDBY_WORKER,
    TRIAL_WORKER,
    ask_once,
    device_terms,
    start_worker,
    worker_variables,
)
from autoresearch_jax.tasks.lm.integrity import keep_eval_bundle
from autoresearch_jax.tasks.lm.preparing import prepare_candidate, require_size
from autoresearch_jax.tasks.lm.trial import TaskError, TrialRun, Workers, naming_variables, untouched
from autoresearch_jax.types import (
    UNKNOWN_COMPILE_COST,
    Budget,
    Candidate,
    CandidateUntouched,
    CompileCost,
    LossLimit,
    Measurement,
    Metric,
    Scalar,
    Scrutiny,
)

METRIC = Metric("val_bpb", "minimize")
WORKER_LOG = "worker.log"
REFERENCE_LOG = "reference.log"
# Nothing measured on validation text is among them: the score is told to the noise floor only.
TOLD_METRICS = (
    *("num_steps", "step_flops", "peak_memory_bytes", "state_bytes", "num_params", "batch_tokens", "vocab_size"),
    *("tokens_per_second", "mfu_percent", "training_seconds", "compile_seconds", "train_loss"),
)
STANDBY_PHASE = "compile"  # of a trial, with which the next one's process is started


@dataclass(frozen=True)
class LmTerms:
    """What a score depends on beside the candidate and its seed; see `engine.task.Terms`."""

    dataset: Dataset
    budget: Budget
    judge_tokens: int | None = None
    terms: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def metric(self) -> Metric:
        return METRIC

    @property
    def fingerprint(self) -> str:
        return self.dataset.fingerprint + ("" if self.judge_tokens is None else f"-{self.judge_tokens}")


class LmTask:
    """Trains and judges language models, see `engine.task.Task`; each trace and each trial runs in its own process.

    With a `standby_log`, the next trial's process starts as soon as a trial is at work.
    """

    metric = METRIC
    asset: AssetKind = TRAINING_FILE
    told = TOLD_METRICS

    def __init__(self, config: LmTaskConfig) -> None:
        self._config = config
        device, dataset = config.device, config.dataset
        self.budget = config.budget
        with config.place.taken():
            self.terms: Mapping[str, Scalar] = device_terms(
                device, config.mesh_axes, config.budget, config.clock, config.num_hosts
            )
        self.fingerprint = LmTerms(dataset, config.budget, config.judge_tokens).fingerprint
        self.facts: Mapping[str, Scalar] = {
            "platform": device.platform,
            "device_kind": device.device_kind,
            "num_devices": math.prod(config.mesh_axes.values()),
            "device_memory_bytes": device.memory_bytes,
            "sequence_length": dataset.sequence_length,
            "vocab_sizes on offer": ", ".join(map(str, dataset.vocab_sizes)),
        }
        start_waiting = partial(self._start_worker, module=STANDBY_WORKER)
        self._workers = Workers(self._start_worker, start_waiting, config.standby_log)
        self.other_places = config.other_places
        self._others: list[LmTask] = []
        self._lock = threading.Lock()  # of the next three
        self._worker: JsonWorker | None = None  # has checked a candidate and will measure it
        self._trial_worker: JsonWorker | None = None  # is at work on a trial
        self._beside: set[JsonWorker] = set()  # check what is traced beside a trial, each for one thread
        self._stop = threading.Event()  # ends the trace that runs
        if config.sandbox.worker is not Level.LIMITS:
            cage.write_bytecode(config.environment)
        self._reference_seconds: float | None = None  # see `calibrate`
        self._manifest_state = dataset.manifest_state()  # when no process was started yet

    @cached_property
    def contract(self) -> str:
        """See `engine.task.Task.contract`."""
        config = self._config
        return contract_text(config.editable_name, config.caps, config.limits, config.budget)

    def calibrate(self, reference_seconds: float | None, log_dir: Path) -> float | None:
        """See `engine.task.CalibratedTask`.

        Raises:
          CandidateUntouched: the process that was to time the reference program failed.
        """
        if self.terms["clock"] != ATTENDED:
            return None
        if reference_seconds is None:
            reference_seconds = self._time_reference(log_dir / REFERENCE_LOG)
        for task in (self, *self._others):
            task._reference_seconds = reference_seconds
        return reference_seconds

    def at(self, place: Place) -> "LmTask":
        """See `engine.task.PlaceableTask`."""
        config, log = self._config, self._config.standby_log
        task = LmTask(
            dataclasses.replace(
                config,
                place=place,
                other_places=(),
                environment={**config.environment, **place.variables},
                standby_log=log and log.with_stem(f"{log.stem}-{place.number}"),
            )
        )
        task._reference_seconds = self._reference_seconds
        self._others.append(task)
        return task

    def keep_eval_bundle(self, folder: Path) -> str:
        """See `engine.task.EvalBundleTask`."""
        return keep_eval_bundle(self._config.dataset, SPLIT, folder)

    def prepare(self, source: str, log_dir: Path, *, beside_a_trial: bool = False) -> Candidate:
        require_size(source, self._config.caps.source_bytes)
        if beside_a_trial:
            return self._prepare_beside(source, log_dir, USUAL)
        stop = self._stop
        self._end_waiting_worker()  # of a candidate that was not measured
        worker = self._workers.take(log_dir / WORKER_LOG)  # where it has to be started, its imports overlap the trace
        try:
            candidate = prepare_candidate(self._config, source, log_dir, worker, stop, USUAL)
        except BaseException:
            worker.close()
            raise
        self._worker = worker
        return candidate

    def prepare_again(self, source: str, log_dir: Path) -> Candidate:
        """See `engine.task.RepeatableTask`."""
        return self._prepare_beside(source, log_dir, OTHER)

    def _prepare_beside(self, source: str, log_dir: Path, conditions: Conditions) -> Candidate:
        """As `prepare`, with a process of its own, which may run at a lower priority: a trial must not."""
        stop = self._stop
        worker = self._start_worker(log_dir / WORKER_LOG, place=ANYWHERE)
        with self._lock:
            self._beside.add(worker)
        try:
            return prepare_candidate(self._config, source, log_dir, worker, stop, conditions)
        finally:
            with self._lock:
                self._beside.discard(worker)
            worker.close()

    def measure(
        self,
        candidate: Candidate,
        *,
        seed: int,
        log_dir: Path,
        snapshot_dir: Path,
        on_progress: Callable[[Mapping[str, Scalar]], None] | None = None,
        scrutiny: Scrutiny = Scrutiny.SEARCH,
        stop_above: Sequence[LossLimit] = (),
        reference_log_dirs: Sequence[Path] = (),
        compile_cost: CompileCost = UNKNOWN_COMPILE_COST,
    ) -> Measurement:
        """Raises as `Task.measure` does; TaskError where the harness failed; DatasetChangedError if the dataset did."""
        config, log_path = self._config, log_dir / WORKER_LOG
        config.dataset.require_unchanged()
        self._end_outdated_workers()
        assert candidate.programs_dir is not None
        request = MeasureRequest(
            programs_dir=str(candidate.programs_dir.absolute()),
            program_hash=candidate.program_hash,
            dataset_folder=str(config.dataset.folder.absolute()),
            sequence_length=config.dataset.sequence_length,
            judge_tokens=config.judge_tokens,
            scrutiny=scrutiny,
            seed=seed,
            budget=config.budget,
            clock=config.clock,
            reference_seconds=self._reference_seconds,
            snapshot_dir=str(snapshot_dir.absolute()),
            log_dir=str(log_dir.absolute()),
            reference_log_dirs=[str(folder.absolute()) for folder in reference_log_dirs],
            compile_cost=compile_cost,
            device_memory_bytes=config.device.memory_bytes,
            min_steps=config.caps.min_steps,
            limits=config.limits,
            facts={
                "fingerprint": self.fingerprint,
                "vocab_sizes": config.dataset.vocab_sizes,
                "budget": dataclasses.asdict(config.budget),
                "device_kind": config.device.device_kind,
            },
            stop_above=tuple(stop_above),
            profile=config.profile,
            files=self._files(scrutiny, [candidate.programs_dir, *reference_log_dirs], [log_dir, snapshot_dir.parent]),
        )

        def report(progress: Mapping[str, Scalar]) -> None:
            if progress["phase"] == STANDBY_PHASE:
                self._workers.warm_up()
            if on_progress is not None:
                on_progress(progress)

        trial = TrialRun(
            request,
            facts=candidate.facts,
            log_path=log_path,
            start_worker=lambda: self._set_to_work(self._start_worker(log_path)),
            on_progress=report,
            hosts=config.hosts,
        )
        try:
            with naming_variables(config.environment), self._gathered(candidate, snapshot_dir) as trial.gathering:
                measurement = trial.run(self._set_to_work(self._take_worker() or self._workers.take(log_path)))
        except TaskError:
            config.dataset.require_unchanged()  # which may be the cause
            raise
        finally:
            self._trial_worker = None
        config.dataset.require_unchanged()  # else the measurement is void
        return measurement

    def _gathered(
        self, candidate: Candidate, snapshot_dir: Path
    ) -> contextlib.AbstractContextManager[Gathering | None]:
        """Has all hosts take part in a trial; None where this one has the whole mesh."""
        config = self._config
        if config.hosts is None:
            return contextlib.nullcontext()
        remove_tree(snapshot_dir)  # of the same trial, cut short: it is trained again
        return config.hosts.together(
            candidate.programs_dir,
            platform=config.device.platform,
            num_devices=config.host_devices,
            is_confined=config.sandbox.worker is not Level.LIMITS,
            program_hash=candidate.program_hash,
        )

    measure_on_holdout = partialmethod(measure, scrutiny=Scrutiny.AUDIT)  # see `engine.task.HoldoutTask`

    def close(self) -> None:
        """Ends the waiting processes, and what other threads prepare and measure."""
        stop, self._stop = self._stop, threading.Event()
        stop.set()
        with self._lock:
            beside = list(self._beside)
            if self._trial_worker is not None:
                self._trial_worker.stop()
        for worker in beside:
            worker.close()
        self._end_waiting_worker()
        self._workers.close()

    def _time_reference(self, log_path: Path) -> float:
        limits = self._config.limits
        with naming_variables(self._config.environment):
            worker = self._start_worker(log_path)
            try:
                event = ask_once(worker, TIME_REFERENCE, limits.startup, limits.compile)
            except (ProcessTimeoutError, WorkerDiedError) as error:
                raise untouched(error, worker, log_path) from error
            if event["event"] != "reference":
                reason = clean_line(event["reason"])
                raise CandidateUntouched(f"the reference program cannot be timed: {reason}; see {log_path}")
            return float(event["seconds"])

    def _end_outdated_workers(self) -> None:
        """Ends waiting processes if `prepare` has added to the dataset: a confined one cannot read a new manifest."""
        state = self._config.dataset.manifest_state()
        if state != self._manifest_state:
            self._manifest_state = state
            self._end_waiting_worker()
            self._workers.close()

    def _end_waiting_worker(self) -> None:
        if (worker := self._take_worker()) is not None:
            worker.close()

    def _take_worker(self) -> JsonWorker | None:
        with self._lock:
            worker, self._worker = self._worker, None
            return worker

    def _set_to_work(self, worker: JsonWorker) -> JsonWorker:
        """Enters the process that `close` ends from another thread."""
        with self._lock:
            self._trial_worker = worker
        return worker

    def _start_worker(
        self, log_path: Path, module: Sequence[str] = TRIAL_WORKER, place: Place | None = None
    ) -> JsonWorker:
        config, reach = self._config, None
        if config.sandbox.worker is not Level.LIMITS:
            for folder in (config.programs_dir, *config.trials_dirs):
                folder.mkdir(parents=True, exist_ok=True)  # what is not there stays out of reach
            reach = self._reach(SPLITS, [config.programs_dir], config.trials_dirs)
        with (place or config.place).taken():
            return start_worker(
                config.device.platform,
                config.host_devices,
                log_path,
                environment=config.environment,
                compile_cache_dir=config.compile_cache_dir,
                module=module,
                reach=reach,
                num_hosts=config.num_hosts,
            )

    def _files(
        self, scrutiny: Scrutiny, readable: Iterable[Path], writable: Sequence[Path]
    ) -> dict[str, object] | None:
        """See `MeasureRequest.files`; the folders that a trial writes to are made."""
        config = self._config
        if config.sandbox.worker is Level.LIMITS:
            return None
        for folder in writable:
            folder.mkdir(parents=True, exist_ok=True)
        splits = {"train", SPLIT} | ({"holdout"} if scrutiny is Scrutiny.AUDIT else set())
        machine = config.device.platform, config.host_devices
        variables = worker_variables(*machine, config.environment, config.compile_cache_dir, config.num_hosts)
        return cage.landlock(*machine, variables, self._reach(splits, readable, writable), config.num_hosts)

    def _reach(self, splits: Iterable[str], readable: Iterable[Path], writable: Iterable[Path]) -> cage.FileAccess:
        """The folders as absolute paths, with rows of the dataset."""
        dataset = self._config.dataset
        return cage.FileAccess.of_trials(
            dataset.folder.absolute(),
            dataset.sequence_length,
            splits,
            readable=[path.absolute() for path in readable],
            writable=[path.absolute() for path in writable],
        )
