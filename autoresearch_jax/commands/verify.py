"""Scores the champion's snapshot again from the run's folder alone, and compares what was recorded with what is there.

    autoresearch verify nov20
    autoresearch verify runs/nov20 --experiment=3

Needs neither the training file nor the repository nor the dataset. Exit status 0 if all agrees, 1 if anything differs:
each difference is named by its file.
"""

import json
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from autoresearch_jax.commands.folder_options import FolderOptions
from autoresearch_jax.commands.machine_options import confines_snapshots, sandbox_option
from autoresearch_jax.commands.options import format_option, option
from autoresearch_jax.commands.paths import require_text
from autoresearch_jax.decide.noise import mean_of
from autoresearch_jax.engine.database import LedgerError
from autoresearch_jax.engine.integrity import (
    RESTORE,
    ledger_file_differences,
    ledger_page_differences,
    parents_differences,
    results_differences,
    settings_differences,
    source_differences,
    workspace_differences,
)
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import ExperimentRow, Kind
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.errors import UsageError, UserError
from autoresearch_jax.report.summary import named_experiment, stored_metric, summarize_run
from autoresearch_jax.report.tables import format_lines
from autoresearch_jax.snapshots.kept import KeptSnapshot, find_snapshot
from autoresearch_jax.tasks.command.programs import RESULT, snapshot_differences
from autoresearch_jax.tasks.lm.integrity import SNAPSHOT_SHA256
from autoresearch_jax.tasks.lm.verification import RecordedTrial, verify_snapshot
from autoresearch_jax.types import PROGRAM_HASH, CandidateUntouched, Scalar, Status

TAKES_ARGUMENTS = True
OK = "ok"
DIFFERS = "differs"
OF_SNAPSHOT = {"snapshot_manifest", "snapshot_files", "snapshot_facts"}  # checks of the snapshot itself
NEEDED_SETTINGS = {"editable", "metric", "direction", "fingerprint"}  # of every run; trials by hand have none


@dataclass
class Report:
    """What is printed: figures of the run and its score, a word for each check, a line for each difference."""

    figures: dict[str, Scalar] = field(default_factory=dict)
    checks: dict[str, str] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)

    def add(self, name: str, found: list[str] | str, note: str = "") -> None:
        """Enters a check: its differences, or why it was not made, and what limits it.

        The same check of a further trial is added to the first.
        """
        if isinstance(found, str):
            word = f"skipped: {found}"
        else:
            self.differences += [line for line in found if line not in self.differences]
            word = DIFFERS if found else f"{OK}; {note}" if note else OK
        before = self.checks.get(name, OK)
        if before.startswith(OK) or word == DIFFERS:
            self.checks[name] = word


@dataclass(frozen=True)
class Options:
    """What `autoresearch verify` was asked for."""

    where: FolderOptions
    experiment: int | None = option(None, "verify this experiment instead of the champion", least=0)
    sandbox: str = sandbox_option()
    format: str = format_option()


def run(options: Options, arguments: list[str]) -> int:
    """Makes every check, and prints what it found."""
    folder = _named_folder(options.where, arguments)
    require_text(folder.path.absolute())
    if not folder.ledger.is_file():
        options.where.refuse(folder, "name a run, or its folder, and check --run_dir")
    if holder := folder.holder():
        raise UserError(f"{folder.path}: {holder} is at work on this run: verify it when it has ended")
    _require_known_version(folder)
    report = verify(folder, options.experiment, options.sandbox)
    verified = not report.differences and report.figures.get("verified_trials", 0) != 0
    lines = {"verified": "yes" if verified else "no", **report.figures, **report.checks}
    if options.format == "json":
        print(json.dumps({**lines, "verified": verified, "differences": report.differences}, indent=1))
    else:
        print(format_lines(lines))
        for difference in report.differences:
            print(format_lines({"differs": difference}))
    return 0 if verified else 1


def verify(folder: RunFolder, experiment: int | None, sandbox: str = "auto") -> Report:
    """Makes every check of a run's folder.

    Args:
      experiment: whose snapshots to score; None for the champion's.
      sandbox: the value of --sandbox.

    Raises:
      UserError: there is nothing to score.
    """
    report = Report(figures={"run": str(folder.path)})
    report.add("ledger_file", ledger_file_differences(folder.ledger))
    report.add("ledger_pages", ledger_page_differences(folder.ledger))
    if report.differences:  # nothing can be compared with what it says
        return report
    with closing(Ledger.open_to_read(folder.ledger)) as ledger:
        try:
            settings, rows = ledger.settings(), ledger.experiments()
            report.add("parents", parents_differences(folder.ledger, ledger))
            if settings or folder.settings.exists():
                report.add("run_json", settings_differences(folder, ledger))
            lacking = NEEDED_SETTINGS - settings.keys()
            if lacking and (settings or any(row.kind is not Kind.TRIAL for row in rows)):
                raise LookupError(f"the settings lack {', '.join(sorted(lacking))}")
        except (sqlite3.Error, ValueError, LookupError, TypeError, AttributeError) as error:  # changed by hand
            report.add("ledger_pages", [f"{folder.ledger}: cannot be understood: {error}: {RESTORE}"])
            return report
        _check_texts(folder, ledger, report)
        _check_score(folder, ledger, experiment, sandbox, report)
    return report


def _require_known_version(folder: RunFolder) -> None:
    """Refuses a ledger of another version, of which no difference would mean anything.

    Raises:
      LedgerError: it is one.
    """
    try:
        Ledger.open_to_read(folder.ledger).close()
    except LedgerError as error:
        if error.__cause__ is None:  # else SQLite cannot read it: that is told with all else that is damaged
            raise


def _named_folder(where: FolderOptions, arguments: list[str]) -> RunFolder:
    """The run that is named by its tag or by its folder."""
    if len(arguments) > 1:
        raise UsageError(f"unexpected argument {arguments[1]!r}: one run at a time")
    if arguments and where.tag is not None:
        raise UsageError(f"--tag={where.tag} and {arguments[0]!r}: name the run once")
    if not arguments and not where.tag:
        tags = where.tags("; there are ")
        raise UsageError(f"no run named: `autoresearch verify NAME`, or the run's folder in place of its name{tags}")
    return where.named(arguments[0]) if arguments else where.folder


def _check_texts(folder: RunFolder, ledger: Ledger, report: Report) -> None:
    """Compares results.tsv, workspace and commits with the ledger."""
    metric, champion = stored_metric(ledger), summarize_run(ledger).champion
    if metric is None or champion is None:
        return  # trials by hand have no such copies
    report.add("results_tsv", results_differences(folder, ledger, metric))
    report.add("workspace", workspace_differences(folder, ledger, champion))
    report.add("commits", source_differences(folder, ledger, os.environ))


def _check_score(folder: RunFolder, ledger: Ledger, experiment: int | None, sandbox: str, report: Report) -> None:
    """Scores the snapshot of each trial of an experiment."""
    row = named_experiment(ledger, folder, experiment)
    measured = ledger.measured(row)
    trials = ledger.runs(row)
    if not trials or measured.score is None:
        raise UserError(f"{folder.path}: experiment {row.id} has no score to verify ({row.status})")
    report.figures["experiment"] = row.id
    if measured.id != row.id:
        report.figures["measured_as"] = measured.id
    mean = mean_of([trial.score for trial in trials])
    todo = f"the ledger contradicts itself: {RESTORE}"
    is_estimate = row.error is not None  # the posterior mean of a program that was kept, made from all runs
    same = row.score == measured.score and (is_estimate or row.score == mean)
    report.add("mean_of_trials", [] if same else [f"{folder.ledger}: experiment {row.id}: {row.score}, {mean}: {todo}"])
    metric = stored_metric(ledger)
    name = "score" if metric is None else metric.name
    report.figures[f"{name}_then"] = mean
    kept = [find_snapshot(ledger, folder, trial) for trial in trials if trial.snapshot is not None]
    for trial in trials:
        if trial.snapshot is None:
            report.add("snapshot_files", [f"{folder.ledger}: trial {trial.id} has a score and no snapshot"])
    confined = confines_snapshots(sandbox)
    now = [_check_snapshot(folder, ledger, measured, snapshot, confined, report) for snapshot in kept]
    scores = [value for value in now if value is not None]
    value = None if len(scores) < len(trials) else mean_of(scores)
    report.figures |= {
        f"{name}_now": value,
        "difference": None if value is None else value - mean,
        "verified_trials": len(scores),
    }


def _check_snapshot(
    folder: RunFolder, ledger: Ledger, measured: ExperimentRow, kept: KeptSnapshot, confined: bool, report: Report
) -> float | None:
    """Scores a trial's snapshot; returns the score, None if it could not be computed.

    A snapshot that was neither moved nor expired has to be in the run's folder.
    """
    programs = folder.path / "programs" / str(_program_hash(measured, kept))
    try:
        with kept.folder() as snapshot:
            if (snapshot / RESULT).is_file():
                return _compare_command(snapshot, kept, report)
            findings = verify_snapshot(
                snapshot,
                folder.eval_bundle,
                programs if programs.is_dir() else None,
                _recorded(ledger, measured, kept),
                environment=os.environ,
                confined=confined,
            )
    except CandidateUntouched:  # says nothing of the run
        raise
    except UserError as error:
        report.add("snapshot_files", [str(error)])
        return None
    report.figures["snapshot"] = kept.place
    if any(isinstance(found, list) and found for name, found in findings.checks.items() if name in OF_SNAPSHOT):
        report.figures["remedy"] = kept.remedy
    for name, found in findings.checks.items():
        lines = found if isinstance(found, str) else [kept.shown(line, snapshot) for line in found]
        report.add(name, lines, findings.notes.get(name, ""))
    return findings.value


def _compare_command(snapshot: Path, kept: KeptSnapshot, report: Report) -> float | None:
    """Compares the snapshot of a command's trial, whose evaluator is not in the run's folder; returns its score."""
    sha256 = kept.trial.metrics.get(SNAPSHOT_SHA256)
    found = snapshot_differences(snapshot, None if sha256 is None else str(sha256), kept.trial.score)
    report.figures["snapshot"] = kept.place
    report.add("snapshot_files", [kept.shown(line, snapshot) for line in found])
    report.add("score", "the evaluator and its files are not in the run's folder: the recorded score was compared")
    return None if found else kept.trial.score


def _program_hash(measured: ExperimentRow, kept: KeptSnapshot) -> str | None:
    """Program hash of a trial; later runs of a champion may have another one, after an update."""
    own = kept.trial.metrics.get(PROGRAM_HASH)
    return measured.program_hash if own is None else str(own)


def _recorded(ledger: Ledger, measured: ExperimentRow, kept: KeptSnapshot) -> RecordedTrial:
    """What was recorded when the snapshot was written."""
    assert kept.trial.status is Status.OK
    settings = ledger.settings()
    by_hand = measured.category if measured.kind is Kind.TRIAL else None
    sha256, rows, bundle = (
        kept.trial.metrics.get(SNAPSHOT_SHA256),
        kept.trial.metrics.get("judge_batch_rows"),
        settings.get("eval_bundle"),
    )
    return RecordedTrial(
        value=kept.trial.score,
        seed=kept.trial.seed,
        program_hash=_program_hash(measured, kept),
        fingerprint=by_hand or str(settings.get("fingerprint")),
        snapshot_sha256=None if sha256 is None else str(sha256),
        judge_batch_rows=rows if isinstance(rows, int) else None,
        bundle_sha256=None if bundle is None else str(bundle),
    )
