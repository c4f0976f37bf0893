"""Any command with a number as the loop sees it: checks and builds an asset, runs or serves it, has it evaluated."""

import json
import platform
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

from autoresearch_jax.errors import UserError
from autoresearch_jax.executors.places import ANYWHERE, Place
from autoresearch_jax.files import partial_folder, write_json
from autoresearch_jax.sandbox.accounting import WALL, host_processors, quota_cpus
from autoresearch_jax.sandbox.process import WatchError
from autoresearch_jax.sandbox.sandbox import Sandbox, SandboxError, remove_tree
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.tasks.command.asset import AssetProcess, Cage, untouched
from autoresearch_jax.tasks.command.evaluator import Evaluation, evaluate, require_as_many
from autoresearch_jax.tasks.command.programs import (
    MANIFEST,
    RESULT,
    TaskFiles,
    fingerprint_of,
    fingerprint_parts,
    inventory,
    make_programs,
    program_hash_of,
    rejected,
    snapshot_figures,
)
from autoresearch_jax.tasks.command.task_file import HOLDOUT, KIBIBYTE, LATENCY, VAL, TaskFile, contract_text
from autoresearch_jax.tasks.command.timebox import AssetFailed
from autoresearch_jax.tasks.command.trial import (
    CONTROL,
    ProgressCallback,
    Reference,
    Trial,
    evaluate_fairly,
    find_reference,
    leave_reference,
)
from autoresearch_jax.types import (
    HOLDOUT_ITEMS,
    HOLDOUT_SCORE,
    TOO_BUSY,
    UNKNOWN_COMPILE_COST,
    WALL_SECONDS,
    Budget,
    Candidate,
    CompileCost,
    LossLimit,
    Measurement,
    Metric,
    Scalar,
    Scrutiny,
    Status,
)


@dataclass(frozen=True)
class CommandTaskConfig:
    """What defines the task.

    Attributes:
      task: what was read from task.toml.
      budget_seconds: the time box.
      sandbox: what confines the asset.
      environment: variables of this process; the evaluator has all of them, the asset an allow-listed few.
      clock: "attended" or "wall", by which the time box counts.
      max_stretch: times the time box that a trial may last by the wall clock.
      programs_dir: where candidates' programs are kept, a folder for each hash.
      place: what of this machine trials have.
      other_places: for further tasks of this kind, see `engine.task.PlaceableTask`.
    """

    task: TaskFile
    budget_seconds: float
    sandbox: Sandbox
    environment: Mapping[str, str]
    programs_dir: Path
    clock: str = WALL
    max_stretch: float = 5.0
    place: Place = ANYWHERE
    other_places: Sequence[Place] = ()


@dataclass(frozen=True)
class CommandTerms:
    """What a score depends on beside the candidate and its seed; see `engine.task.Terms`."""

    metric: Metric
    budget: Budget
    fingerprint: str
    terms: Mapping[str, Scalar]
    fingerprint_parts: Mapping[str, str]

    @classmethod
    def of(cls, task: TaskFile, files: TaskFiles, budget_seconds: float, clock: str) -> "CommandTerms":
        """Those of a task.toml on this machine."""
        budget = Budget(seconds=budget_seconds)
        parts = fingerprint_parts(task, files)
        return cls(task.what_is_measured, budget, fingerprint_of(task, files), machine_terms(clock), parts)


class CommandTask:
    """See `engine.task.Task` and `engine.task.HoldoutTask`."""

    def __init__(self, config: CommandTaskConfig) -> None:
        """Reads the files beside the asset; raises TermsChanged if one of them cannot be read."""
        self._config, task = config, config.task
        self._task = task
        self.asset = task.asset_kind
        self.told = ("training_seconds", WALL_SECONDS, "peak_memory_bytes")
        self._files = TaskFiles(task)
        with config.place.taken():
            found = CommandTerms.of(task, self._files, config.budget_seconds, config.clock)
        self.metric, self.budget, self.fingerprint = found.metric, found.budget, found.fingerprint
        self.terms: Mapping[str, Scalar] = found.terms
        self.fingerprint_parts = found.fingerprint_parts
        self._cage = Cage(task, config.sandbox, config.environment, config.clock, config.max_stretch)
        self._splits = {VAL: task.absolute(task.files.val), HOLDOUT: task.absolute(task.files.holdout)}
        self.facts: Mapping[str, Scalar] = {
            "asset": task.asset.file,
            "may read": ", ".join(task.files.asset) or "nothing but itself",
            "memory_bytes": self._cage.limits.memory_bytes,
            "processors": str(self.terms["device_kind"]),
        }
        self.contract = contract_text(task, config.budget_seconds)
        self._making = threading.Lock()
        self._stop = threading.Event()  # ends the trial that runs
        self.other_places = config.other_places

    def prepare(self, source: str, log_dir: Path, *, beside_a_trial: bool = False) -> Candidate:
        """See `engine.task.Task.prepare`."""
        asset = self._task.asset
        try:
            num_bytes = len(source.encode())
        except UnicodeEncodeError as error:
            raise rejected(f"{asset.file}: it holds what UTF-8 cannot: {error.reason}") from error
        if num_bytes > asset.max_bytes:
            place = self._task.place("asset", "max_bytes")
            raise rejected(f"{asset.file} has {num_bytes / KIBIBYTE:.1f} KiB, more than {place} allows")
        self._files.require_unchanged()
        try:
            self.asset.check(source)
            canonical = self.asset.canonical(source)
        except UserError as error:
            raise rejected(f"{asset.file}: {clean_line(str(error))}") from error
        program_hash = program_hash_of(self._task, self._files, canonical)
        target = self._config.programs_dir / program_hash
        with self._making:
            make_programs(self._cage, source, target, log_dir)
        return Candidate(source, program_hash, target, {"bytes": num_bytes})

    def measure(
        self,
        candidate: Candidate,
        *,
        seed: int,
        log_dir: Path,
        snapshot_dir: Path,
        on_progress: ProgressCallback | None = None,
        scrutiny: Scrutiny = Scrutiny.SEARCH,
        stop_above: Sequence[LossLimit] = (),
        reference_log_dirs: Sequence[Path] = (),
        compile_cost: CompileCost = UNKNOWN_COMPILE_COST,
    ) -> Measurement:
        """See `engine.task.Task.measure`; what `evaluate` fails of with the champion, too, is a CandidateUntouched."""
        self._files.require_unchanged()
        if (done := self._read_snapshot(snapshot_dir, seed, candidate.program_hash)) is not None:
            return done
        started = time.monotonic()
        cage = replace(self._cage, stop=threading.Event())
        self._stop = cage.stop
        trial = self._trial(cage, candidate, seed, log_dir, on_progress)
        reference = find_reference((*reference_log_dirs, log_dir))
        control = None
        if reference is not None and scrutiny is not Scrutiny.AUDIT:  # which ends, and decides nothing
            control = partial(self._control, cage, reference, log_dir)
        beside = reference if self._task.metric.noise == LATENCY else None
        splits = [VAL, HOLDOUT] if scrutiny is Scrutiny.AUDIT else [VAL]
        try:
            with self._config.place.taken(), ExitStack() as stack:
                found = evaluate_fairly(trial, splits, beside, control, stack)
                self._files.require_unchanged()  # else the measurement is void
                metrics = {**found[VAL].metrics, **trial.figures(), "total_seconds": time.monotonic() - started}
                if HOLDOUT in found:
                    metrics[HOLDOUT_SCORE] = found[HOLDOUT].value
                    if (of_holdout := found[HOLDOUT].items) is not None:
                        metrics[HOLDOUT_ITEMS] = json.dumps(list(of_holdout))
                measurement = Measurement(
                    Status.OK, found[VAL].value, seed, metrics, snapshot_dir, items=found[VAL].items
                )
                self._write_snapshot(snapshot_dir, candidate, measurement, trial.out)
                measurement = replace(measurement, metrics=metrics | snapshot_figures(snapshot_dir))
        except AssetFailed as failure:
            metrics = {**trial.figures(), "total_seconds": time.monotonic() - started}
            if failure.too_busy:
                metrics[TOO_BUSY] = True
            return Measurement(failure.status, None, seed, metrics, error=failure.reason)
        except (WatchError, SandboxError) as error:
            raise untouched(error) from error
        leave_reference(log_dir, candidate.source, seed, found[VAL].value)
        return measurement

    measure_on_holdout = partialmethod(measure, scrutiny=Scrutiny.AUDIT)  # see `engine.task.HoldoutTask`

    def at(self, place: Place) -> "CommandTask":
        """See `engine.task.PlaceableTask`."""
        environment = {**self._config.environment, **place.variables}
        return CommandTask(replace(self._config, place=place, other_places=(), environment=environment))

    def close(self) -> None:
        """Ends a trial in another thread; nothing runs between two."""
        self._stop.set()

    def _trial(
        self, cage: Cage, candidate: Candidate, seed: int, log_dir: Path, on_progress: ProgressCallback | None
    ) -> Trial:
        return Trial(
            *(cage, candidate, self._config.budget_seconds, seed, log_dir),
            evaluate=partial(self._evaluate, seed, log_dir, cage.stop),
            prepare=partial(self.prepare, log_dir=log_dir, beside_a_trial=True),
            on_progress=on_progress,
        )

    def _control(self, cage: Cage, reference: Reference, log_dir: Path) -> Trial:
        """A trial of the champion as it was scored before, whose score is not used."""
        self._files.require_unchanged()
        logs = log_dir / CONTROL
        logs.mkdir(exist_ok=True)
        candidate = self.prepare(reference.source, logs, beside_a_trial=True)
        return self._trial(cage, candidate, reference.seed, logs, None)

    def _evaluate(
        self,
        seed: int,
        log_dir: Path,
        stop: threading.Event,
        split: str,
        asset: AssetProcess | None,
        out: Path | None,
        turn: int,
    ) -> Evaluation:
        """Has the evaluator score what serves, or what a run wrote."""
        found = evaluate(
            *(self._task, split, seed, turn),
            files=self._splits,
            environment=self._config.environment,
            log_dir=log_dir,
            asset=asset,
            out=out,
            stop=stop,
        )
        if found.items is not None:
            kept = self._config.programs_dir / f"{split}-{self.fingerprint}.items"
            require_as_many(self._task, len(found.items), kept, log_dir)
        return found

    def _read_snapshot(self, folder: Path, seed: int, program_hash: str) -> Measurement | None:
        """What the snapshot of a trial says that was cut short after it; None where there is none."""
        try:
            result: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
            if (result["seed"], result["program_hash"]) != (seed, program_hash):
                raise ValueError("of another trial")
            items = None if result["items"] is None else tuple(result["items"])
            metrics = result["metrics"] | snapshot_figures(folder)
            return Measurement(Status.OK, result["value"], seed, metrics, folder, items=items)
        except (OSError, ValueError, KeyError, TypeError):
            remove_tree(folder)
            return None

    def _write_snapshot(self, folder: Path, candidate: Candidate, measurement: Measurement, out: Path | None) -> None:
        """Writes the asset's text, what `build` and `run` wrote and the result, whole or not at all."""
        assert candidate.programs_dir is not None
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = partial_folder(folder)
        remove_tree(unfinished)
        unfinished.mkdir()
        place = unfinished / "asset" / self._task.asset.file
        place.parent.mkdir(parents=True)
        place.write_text(candidate.source, encoding="utf-8")
        for name, source in (("build", candidate.programs_dir / "build"), ("out", out)):
            if source is not None and source.is_dir():
                shutil.copytree(source, unfinished / name)
        result = {
            "value": measurement.value,
            "items": None if measurement.items is None else list(measurement.items),
            "metrics": dict(measurement.metrics),
            "seed": measurement.seed,
            "program_hash": candidate.program_hash,
            "fingerprint": self.fingerprint,
            "metric": self.metric.name,
        }
        write_json(unfinished / RESULT, result)
        write_json(unfinished / MANIFEST, {"files": inventory(unfinished)})
        unfinished.rename(folder)


def machine_terms(clock: str) -> dict[str, Scalar]:
    """What of the machine a score depends on."""
    quota = quota_cpus()
    return {
        "platform": "cpu",
        "device_kind": host_processors() + ("" if quota is None else f", a quota of {quota:g}"),
        "num_devices": 1,
        "python_version": platform.python_version(),
        "clock": clock,
    }
