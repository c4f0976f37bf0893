"""Measures the training file as it stands, once: trace, train, snapshot, judge; prints the summary, keeps the record.

    autoresearch trial --budget_seconds=60 --set MATRIX_LR=0.03 --set DEPTH=6

`--set` may be given again and again; the file itself is not changed.

    autoresearch trial --tag=nov20 --budget_seconds=60 --retrain=3

trains experiment 3 of a run again, with its own source and seeds, where its snapshots expired or are damaged. Give it
the flags that the run was started with, all of them if you like: what a trial has no use for is known and without
effect. See docs/snapshots.md.
"""

import os
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from absl import flags

from autoresearch_jax.commands.constants_flag import constants_of, define_constants_flag
from autoresearch_jax.commands.progress import TrialProgress
from autoresearch_jax.commands.retraining import RetrainOptions, retrain
from autoresearch_jax.commands.run import define_flags as define_flags_of_run
from autoresearch_jax.commands.run_flags import define_run_flags, run_folder
from autoresearch_jax.commands.summary import format_summary, summarize
from autoresearch_jax.commands.task_flags import TaskOptions, define_task_flags
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.recorder import write_results
from autoresearch_jax.engine.run_folder import RunFolder, check_settings
from autoresearch_jax.engine.state import REFERENCE_SECONDS
from autoresearch_jax.engine.task import CalibratedTask, Task
from autoresearch_jax.engine.training_file import read_constants, set_constants
from autoresearch_jax.errors import UsageError, UserError
from autoresearch_jax.report.summary import stored_metric
from autoresearch_jax.tasks.lm.device import REFERENCE_OF, reference_machine
from autoresearch_jax.types import CandidateRejected, Measurement, Scalar, Status

DEFAULT_TAG = "trials"
ONLY_OF_RUN = "of `autoresearch run`; without effect on a trial"
MAX_SEED = 2**63 - 1  # what SQLite can hold


@dataclass(frozen=True)
class Options:
    """What `autoresearch trial` was asked to do.

    Attributes:
      task: dataset, budget and machine.
      editable: the training file.
      constants: new values for some of its constants, for this trial only.
      seed: all randomness of the trial follows from it.
      folder: the run whose ledger the trial is added to; log and snapshot go there too.
      format: "text" or "json".
    """

    task: TaskOptions
    editable: Path
    constants: Mapping[str, Scalar]
    seed: int
    folder: RunFolder
    format: str


def define_flags(flag_values: flags.FlagValues) -> None:
    define_task_flags(flag_values)
    flags.DEFINE_string("editable", "./train_lib.py", "the training file", flag_values=flag_values)
    define_constants_flag(flag_values)
    flags.DEFINE_integer("seed", 0, "seed of the trial", lower_bound=0, upper_bound=MAX_SEED, flag_values=flag_values)
    define_run_flags(flag_values, default_tag=DEFAULT_TAG)
    flags.DEFINE_integer(
        "retrain",
        None,
        "train this experiment of --tag again, to have its snapshots back",
        lower_bound=0,
        flag_values=flag_values,
    )
    flags.DEFINE_enum("format", "text", ["text", "json"], "how to print the summary", flag_values=flag_values)
    _define_other_flags_of_run(flag_values)


def _define_other_flags_of_run(flag_values: flags.FlagValues) -> None:
    """Defines what only `run` has a use for, so that --retrain may follow all flags that a run was started with."""
    of_run = flags.FlagValues()
    define_flags_of_run(of_run)
    for name in of_run:
        if name not in flag_values:
            flag = of_run[name]
            flag.help = ONLY_OF_RUN
            flag_values[name] = flag


def run(flag_values: flags.FlagValues, positional: list[str]) -> int:
    if flag_values.retrain is not None:
        return retrain(_retrain_options(flag_values))
    if idle := [name for name in flag_values if flag_values[name].help == ONLY_OF_RUN and flag_values[name].present]:
        named = ", ".join(f"--{name}" for name in idle)
        print(f"autoresearch trial: without effect, since this is no run: {named}", file=sys.stderr, flush=True)
    options = Options(
        task=TaskOptions.from_flags(flag_values),
        editable=Path(flag_values.editable),
        constants=constants_of(flag_values),
        seed=flag_values.seed,
        folder=run_folder(flag_values),
        format=flag_values.format,
    )
    source = edited_source(options.editable, options.constants)
    folder = options.folder
    folder.create()
    task = options.task.make_task(folder.path, options.editable, one_trial=True)
    with closing(_open_ledger(folder, task)) as ledger, closing(task):
        log_dir = new_log_dir(folder)
        reference_seconds = _reference_seconds(ledger)
        if reference_seconds is not None and isinstance(task, CalibratedTask):  # else the trial measures it
            task.calibrate(reference_seconds, log_dir)
        measurement = measure_once(task, source, options.seed, folder.path / "snapshots" / log_dir.name, log_dir)
        description = _description(options.constants, options.editable)
        ledger.record_trial(source, measurement, description, task.fingerprint)
        if folder.results.exists():  # of a run, whose table says all that its ledger says
            write_results(folder.results, ledger, task.metric)
    summary = summarize(measurement, task.metric, read_constants(source) if measurement.value is not None else {})
    summary["log"] = str(log_dir)
    print(format_summary(summary, task.metric, options.format))
    return 0 if measurement.status is Status.OK else 1


def _retrain_options(flag_values: flags.FlagValues) -> RetrainOptions:
    return RetrainOptions(
        task=TaskOptions.from_flags(flag_values),
        folder=run_folder(flag_values),
        experiment=flag_values.retrain,
        constants=constants_of(flag_values),
        editable=Path(flag_values.editable) if flag_values["editable"].present else None,
        seed=flag_values.seed if flag_values["seed"].present else None,
        format=flag_values.format,
    )


def edited_source(editable: Path, constants: Mapping[str, Scalar]) -> str:
    """The training file's text with some constants set.

    Raises:
      UserError: the file cannot be read, is no Python, or has no such constant.
    """
    try:
        source = editable.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{editable}: cannot be read: {error}; name the training file with --editable") from error
    try:
        return set_constants(source, constants) if constants else source
    except SyntaxError as error:
        raise UserError(f"{editable}:{error.lineno}: SyntaxError: {error.msg}") from error
    except UserError as error:
        raise UsageError(f"--set: {editable}: {error}") from error


def new_log_dir(folder: RunFolder) -> Path:
    """A folder for the logs of a trial by hand; its name is the trial's."""
    name = f"{time.strftime('trial-%Y%m%d-%H%M%S')}-{os.getpid()}"  # others may begin in the same second
    log_dir = folder.path / "logs" / name
    log_dir.mkdir(parents=True)
    return log_dir


def measure_once(task: Task, source: str, seed: int, snapshot_dir: Path, log_dir: Path) -> Measurement:
    """Prepares and measures a source; a refusal is a measurement too, without a score."""
    with TrialProgress() as progress:
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


def _description(constants: Mapping[str, Scalar], editable: Path) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in constants.items()) or f"{editable.name} as it stands"
