"""Measures the training file as it stands, once: trace, train, snapshot, judge; prints the summary, keeps the record.

    autoresearch trial --budget_seconds=60 --set MATRIX_LR=0.03 --set DEPTH=6

`--set` may be given again and again; the file itself is not changed.

    autoresearch trial --from=nov20:3

runs the source of experiment 3 of run nov20 again, with each seed that it was measured with, and prints its scores
beside the recorded ones. Dataset and budget are those of the run, as they are with --tag of a run.

    autoresearch trial --budget_seconds=60 --profile=/tmp/profile

traces ten steps in the middle of the budget. The score of such a trial is not recorded.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from autoresearch_jax.assets.base import AssetKind, AssetSyntaxError
from autoresearch_jax.assets.merging import known_constants
from autoresearch_jax.commands.console import LiveLine, say
from autoresearch_jax.commands.folder_options import TrialFolderOptions
from autoresearch_jax.commands.options import (
    MAX_SEED,
    ConstantsOptions,
    InRun,
    format_option,
    option,
    tensorboard_option,
)
from autoresearch_jax.commands.task_options import DEFAULT_EDITABLE, TaskOptions
from autoresearch_jax.commands.trial_summary import (
    about_profile,
    check_profile,
    format_summary,
    keep_profile,
    of_command,
    summarize,
)
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.observers import Expendable
from autoresearch_jax.engine.recorder import write_results
from autoresearch_jax.engine.records import Kind, TrialRow
from autoresearch_jax.engine.run_folder import RunFolder, check_settings, task_settings
from autoresearch_jax.engine.state import REFERENCE_SECONDS
from autoresearch_jax.engine.task import CalibratedTask, ProgressCallback, Task
from autoresearch_jax.errors import UsageError, UserError
from autoresearch_jax.files import plain_text
from autoresearch_jax.report.summary import named_experiment, stored_metric
from autoresearch_jax.report.tensorboard import TrialEvents, require_tensorboard
from autoresearch_jax.tasks.lm.config import PROFILE, PROFILED_STEPS
from autoresearch_jax.tasks.lm.device import REFERENCE_OF, reference_machine
from autoresearch_jax.types import (
    CandidateRejected,
    Measurement,
    Metric,
    Scalar,
    Status,
)

TAKES_RUN_FLAGS = True


@dataclass(frozen=True)
class OriginOptions(TrialFolderOptions):
    """Where a trial is recorded, and the experiment that it is of."""

    origin: str | None = option(
        None,
        "RUN:N: run the source of experiment N of a run again, named by its tag or its folder",
        flag="from",
        path=True,
    )

    @property
    def recorded(self) -> tuple[RunFolder, int]:
        """The run and the number of the experiment that --from names.

        Raises:
          UsageError: it names none.
        """
        name, colon, number = (self.origin or "").rpartition(":")
        if not (colon and name and number.isdecimal()):
            raise UsageError(f"--from={self.origin}: expected RUN:N, a run and an experiment, such as --from=nov20:3")
        return self.named(name), int(number)

    @property
    def begun(self) -> RunFolder | None:
        return self.folder if self.origin is None else self.recorded[0]

    @property
    def not_taken(self) -> tuple[str, ...]:
        return () if self.origin is None else ("set", "editable")


@dataclass(frozen=True)
class Options:
    """What `autoresearch trial` was asked to do."""

    task: TaskOptions
    where: OriginOptions
    start: ConstantsOptions
    editable: Path | None = option(None, f"the training file (default: {DEFAULT_EDITABLE})", in_run=InRun.FREE)
    seed: int | None = option(
        None, "seed of the trial (default: 0; with --from those of the recorded runs)", least=0, most=MAX_SEED
    )
    tensorboard: bool = tensorboard_option()
    profile: Path | None = option(
        None,
        f"write a JAX profiler trace of {PROFILED_STEPS} steps in the middle of the budget to this folder, for "
        "TensorBoard and Perfetto; the score is not comparable then, and not recorded",
    )
    format: str = format_option()


@dataclass(frozen=True)
class RecordedExperiment:
    """An experiment that is run again; `reference_seconds` is the unit of the clock that timed it, if there was one."""

    source: str
    trials: tuple[TrialRow, ...]
    settings: Mapping[str, Scalar]
    folder: Path
    reference_seconds: float | None

    @classmethod
    def read(cls, options: Options) -> "RecordedExperiment":
        """What --from names.

        Raises:
          UsageError: it names nothing, or the source is to be another.
          UserError: there is no such run or experiment.
        """
        folder, number = options.where.recorded
        if options.editable is not None or options.start.settings:
            raise UsageError(
                f"--from={options.where.origin}: its source is in the ledger: leave out --editable and --set"
            )
        if not folder.ledger.exists():
            options.where.refuse(folder, "check --from and --run_dir")
        with closing(Ledger.open_to_read(folder.ledger)) as ledger:
            row = ledger.measured(named_experiment(ledger, folder, number))
            trials, settings = tuple(ledger.runs(row)), ledger.settings()
            if row.kind is Kind.TRIAL:  # of a trial by hand only the fingerprint is stored
                settings = {"fingerprint": row.category}
            unit = settings.get(REFERENCE_SECONDS) or (trials[0].metrics.get(REFERENCE_SECONDS) if trials else None)
            unit = float(unit) if isinstance(unit, int | float) else None
            return cls(ledger.source(row.id), trials, settings, folder.path, unit)

    def check(self, task: Task) -> None:
        """Refuses a task under which scores could not be compared with the recorded ones.

        Raises:
          UserError: dataset, budget or device differ.
        """
        now = task_settings(task)
        check_settings(self.settings, {name: now[name] for name in now if name in self.settings}, self.folder)


def run(options: Options, arguments: list[str]) -> int:
    """Measures, and prints the summary of each trial."""
    if options.tensorboard:
        require_tensorboard()
    if options.profile is not None:
        check_profile(options.profile, options.task.budget, tensorboard=options.tensorboard)
    recorded = None if options.where.origin is None else RecordedExperiment.read(options)
    editable = options.task.editable(options.editable or DEFAULT_EDITABLE)
    constants = options.start.constants
    asset = options.task.asset
    source = edited_source(asset, editable, constants) if recorded is None else recorded.source
    options.task.require()
    folder = options.where.folder
    folder.create()
    then: dict[int, TrialRow] = {} if recorded is None else {trial.seed: trial for trial in recorded.trials}
    seeds = list(then) if options.seed is None and then else [options.seed or 0]
    if options.profile is not None:
        seeds, then = seeds[:1], {}
    name = ", ".join(f"{name}={value!r}" for name, value in constants.items()) or f"{editable.name} as it stands"
    summaries: list[dict[str, Scalar]] = []
    attempt = _attempt(options.tensorboard, folder)
    known = known_constants(asset, source)
    task = options.task.make_task(folder.path, editable, one_trial=len(seeds) == 1, profile=options.profile is not None)
    with closing(task), closing(_open_ledger(folder, task)) as ledger:
        if recorded is not None:
            recorded.check(task)
        unit = _reference_seconds(ledger) if recorded is None else recorded.reference_seconds
        if unit is not None and isinstance(task, CalibratedTask):  # else the trial measures it
            task.calibrate(unit, folder.logs)
        for number, seed in enumerate(seeds):
            log_dir = new_log_dir(folder, number)
            description = name if recorded is None else f"{options.where.origin} again"
            snapshot_dir = folder.path / "snapshots" / log_dir.name
            events = TrialEvents(folder.tensorboard / log_dir.name, task.metric)
            attempt(events.begin, known, description, log_dir.name)
            measurement = measure_once(
                task, source, seed, snapshot_dir, log_dir, on_progress=partial(attempt, events.progress)
            )
            attempt(events.end, measurement)
            attempt(events.close)
            if options.profile is None:
                ledger.record_trial(source, measurement, description, task.fingerprint, known)
            summary = summarize(measurement, task.metric, known if measurement.value is not None else {})
            if options.task.is_command:
                summary = of_command(summary, measurement, task.metric)
            summary["log"] = str(log_dir)
            if options.profile is not None:
                summary[PROFILE] = keep_profile(log_dir / PROFILE, options.profile)
            if (before := then.get(seed)) is not None:
                summary |= _beside(measurement, before, task.metric)
            summaries.append(summary)
            if options.format == "text":
                print(format_summary(summary, task.metric), flush=True)
            if options.profile is not None:
                say(f"autoresearch trial: --profile: {about_profile(measurement, summary['profile'])}", sys.stderr)
        if folder.results.exists():  # of a run, whose table says all that its ledger says
            write_results(folder.results, ledger, task.metric)
    if options.format == "json":
        several = {"from": options.where.origin, "trials": summaries}
        print(json.dumps(summaries[0] if recorded is None else several, indent=1))
    is_traced = options.profile is None or summaries[0]["profile"] is not None
    return 0 if is_traced and all(summary["status"] == Status.OK for summary in summaries) else 1


def _attempt(tensorboard: bool, folder: RunFolder) -> Callable[..., None]:
    """Calls what writes events, if they are wanted and as long as that works."""
    if not tensorboard:
        return lambda function, *arguments: None
    what = f"autoresearch trial: --tensorboard: {folder.tensorboard}"
    return Expendable(what, lambda text: say(text, sys.stderr))


def _beside(now: Measurement, then: TrialRow, metric: Metric) -> dict[str, Scalar]:
    """The recorded score of a run, and how far the new one is from it."""
    difference = None if now.value is None or then.value is None else now.value - then.value
    return {"recorded_trial": then.id, f"recorded_{metric.name}": then.value, "difference": difference}


def edited_source(asset: AssetKind, editable: Path, constants: Mapping[str, Scalar]) -> str:
    """The text of the file to edit with some constants set.

    Raises:
      UserError: the file cannot be read, does not parse, or has no such constant.
    """
    try:
        source = plain_text(editable.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{editable}: cannot be read: {error}; name the {asset.noun} with --editable") from error
    try:
        return asset.set_constants(source, constants) if constants else source
    except AssetSyntaxError as error:
        raise UserError(f"{editable}:{error.line or 1}: SyntaxError: {error.message}") from error
    except UserError as error:
        raise UsageError(f"--set: {editable}: {error}") from error


def new_log_dir(folder: RunFolder, number: int = 0) -> Path:
    """A folder for the logs of a trial by hand; its name is the trial's."""
    name = f"{time.strftime('trial-%Y%m%d-%H%M%S')}-{os.getpid()}"  # others may begin in the same second
    name += f"-{number}" if number else ""
    log_dir = folder.path / "logs" / name
    log_dir.mkdir(parents=True)
    return log_dir


def measure_once(
    task: Task, source: str, seed: int, snapshot_dir: Path, log_dir: Path, on_progress: ProgressCallback
) -> Measurement:
    """Prepares and measures a source; a refusal is a measurement too, without a score."""
    with closing(LiveLine()) as line:

        def progress(report: Mapping[str, Scalar]) -> None:
            line.progress(report)
            on_progress(report)

        progress({"phase": "prepare"})
        try:
            candidate = task.prepare(source, log_dir)
        except CandidateRejected as rejection:
            return Measurement(rejection.status, None, seed, metrics=rejection.facts, error=rejection.reason)
        return task.measure(candidate, seed=seed, log_dir=log_dir, snapshot_dir=snapshot_dir, on_progress=progress)


def _open_ledger(folder: RunFolder, task: Task) -> Ledger:
    """The ledger the trial is added to, opened before anything is spent.

    Raises:
      UserError: it cannot be opened, or belongs to a run with another dataset, device or clock.
    """
    ledger = Ledger.open(folder.ledger)
    stored = ledger.settings()
    compared = {"fingerprint": task.fingerprint, **task.terms}
    compared.pop("clock")  # a trial by hand may have a budget in steps
    try:
        check_settings(stored, {name: now for name, now in compared.items() if name in stored}, folder.path)
    except UserError:
        ledger.close()
        raise
    return ledger


def _reference_seconds(ledger: Ledger) -> float | None:
    """The unit of the attended clock: the run's, else that of the latest trial by hand on such a machine."""
    if stored_metric(ledger) is not None:
        found = ledger.settings().get(REFERENCE_SECONDS)
    else:
        machine = reference_machine()
        of_trials = (trial.metrics for trial in reversed(ledger.trials()))
        found = next((m.get(REFERENCE_SECONDS) for m in of_trials if m.get(REFERENCE_OF) == machine), None)
    return float(found) if isinstance(found, int | float) else None
