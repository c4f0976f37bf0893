"""The ledger of a run: everything that was tried, in one SQLite file, written before it is spent on."""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from autoresearch_jax.decide.lineage import Lineage
from autoresearch_jax.decide.noise import item_variance
from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import Action, Decision
from autoresearch_jax.engine.database import Clock, Database, LedgerError, metrics_json
from autoresearch_jax.engine.memo import Memo, RowCache
from autoresearch_jax.engine.records import (
    AUDIT_COLUMNS,
    DECISION_COLUMNS,
    EXPERIMENT_COLUMNS,
    TRIAL_COLUMNS,
    AuditTrial,
    DecisionRow,
    ExperimentRow,
    Intent,
    Kind,
    Purpose,
    TrialRow,
    as_audit_trial,
    as_decision,
    as_experiment,
    as_trial,
)
from autoresearch_jax.engine.snapshot_log import SnapshotLog
from autoresearch_jax.engine.training_file import known_constants
from autoresearch_jax.types import Measurement, Scalar, Status

Value = TypeVar("Value")
GREEDY = "greedy"  # the rule that has no use for a model of scores


class Ledger:
    """Experiments and their trials. Only times and durations differ between two equal runs."""

    def __init__(self, database: Database) -> None:
        """See `open` and `open_to_read`."""
        self._database = database
        self.snapshots = SnapshotLog(database)

        def may_keep() -> bool:
            return not database.in_transaction

        self._experiments = RowCache(self._experiments_from, may_keep, group=lambda row: row.program_hash)
        self._trials = RowCache(self._trials_from, may_keep, group=lambda row: row.experiment)
        self._remembered: dict[Callable[[Ledger], Any], tuple[tuple[int, int], Any]] = {}
        self._rescored: Memo[ExperimentRow, ExperimentRow] = Memo(_with_score)
        self._first_runs: Memo[ExperimentRow, TrialRow | None] = Memo(self._find_first_run)
        self._item_variances: dict[tuple[int, int], float] = {}  # by two concluded trials
        self._lineage: tuple[tuple[int, int], Lineage] | None = None  # of what is concluded, and how much that is

    @classmethod
    def open(cls, path: Path, clock: Clock = time.time) -> "Ledger":
        """Opens a ledger, and makes it if there is none.

        Raises:
          LedgerError: it is no ledger, of another version, or cannot be written.
        """
        return cls(Database.open(path, clock))

    @classmethod
    def open_to_read(cls, path: Path) -> "Ledger":
        """Opens an existing ledger without ever writing to it; a driver may be at work in it meanwhile.

        Raises:
          LedgerError: there is none, or it is of another version.
        """
        return cls(Database.open_to_read(path))

    def close(self) -> None:
        """Closes the file, and writes its hash beside it unless another process may go on writing."""
        self._database.close()

    @property
    def slowest_commit_seconds(self) -> float:
        """How long the disk took at most, so far, to take what was written."""
        return self._database.slowest_commit_seconds

    def transaction(self) -> AbstractContextManager[None]:
        """What is written inside is written together or not at all; transactions nest."""
        return self._database.transaction()

    def settings(self) -> dict[str, Scalar]:
        """What `save_settings` saved, in that order; empty before."""
        return self._database.settings()

    def save_settings(self, settings: Mapping[str, Scalar]) -> None:
        """Stores what must stay the same for as long as the run lives."""
        self._database.save_settings(settings)

    def begin_experiment(self, intent: Intent) -> ExperimentRow:
        """Writes down what is about to be tried and gives it the next number."""
        with self.transaction():
            (number,) = self._database.execute("SELECT coalesce(max(id) + 1, 0) FROM experiments").fetchone()
            values = {
                "id": number,
                "kind": intent.kind,
                "parent": intent.parent,
                "parent_commit": intent.parent_commit,
                "proposer": intent.proposer,
                "hypothesis": intent.hypothesis,
                "category": intent.category,
                "cost_dollars": intent.cost_dollars,
                "constants": json.dumps(intent.constants, sort_keys=True),
                "created_at": self._database.clock(),
                "without": json.dumps(list(intent.without)) if intent.without else None,
                "source": intent.source,
            }
            self._database.insert("experiments", values)
        return self.experiment(number)

    def set_program(self, experiment: int, program_hash: str) -> None:
        """Stores what the experiment's source was traced to."""
        with self.transaction():
            self._database.execute("UPDATE experiments SET program_hash = ? WHERE id = ?", (program_hash, experiment))

    def begin_trial(self, experiment: int, seed: int, purpose: Purpose = Purpose.CANDIDATE) -> TrialRow:
        """Writes down that a budget is about to be spent."""
        values: dict[str, Any] = {"experiment": experiment, "seed": seed, "started_at": self._database.clock()}
        if purpose is not Purpose.CANDIDATE:
            values["purpose"] = purpose
        with self.transaction():
            number = self._database.insert("trials", values)
        trial = self._trials.get(number)
        assert trial is not None
        return trial

    def interrupt_trial(self, trial: int) -> None:
        """Writes down that a trial was cut short by a signal; it stays open."""
        self._mark_interrupted(trial, self._database.clock())

    def take_up_trial(self, trial: int) -> None:
        """Writes down that a trial that was cut short is run again, from now on."""
        self._mark_interrupted(trial, None)
        with self.transaction():
            statement = "UPDATE trials SET started_at = ? WHERE id = ? AND status IS NULL"
            self._database.execute(statement, (self._database.clock(), trial))

    def _mark_interrupted(self, trial: int, at: float | None) -> None:
        with self.transaction():
            statement = "UPDATE trials SET interrupted_at = ? WHERE id = ? AND status IS NULL"
            self._database.execute(statement, (at, trial))

    def finish_trial(self, trial: int, measurement: Measurement) -> None:
        """Stores what a trial gave."""
        values = {
            "finished_at": self._database.clock(),
            "status": measurement.status,
            "value": measurement.value,
            "metrics": metrics_json(measurement.metrics),
            "snapshot": None if measurement.snapshot is None else str(measurement.snapshot),
            "error": measurement.error,
            "items": None if measurement.items is None else json.dumps(list(measurement.items)),
        }
        self._database.update("trials", trial, values, where="status IS NULL")

    def record_decision(self, experiment: int, decision: Decision) -> None:
        """Stores a decision on an experiment."""
        values: dict[str, Any] = {
            "experiment": experiment,
            "decided_at": self._database.clock(),
            "action": decision.action,
            "reason": decision.reason,
            "gain": None if decision.gain is None else decision.gain.mean,
            "error": None if decision.gain is None else decision.gain.error,
            "probability": decision.probability,
            "sigma": decision.sigma,
        }
        self._database.insert("decisions", values)

    def conclude(
        self,
        experiment: int,
        status: Status,
        score: float | None,
        decision: Action | None,
        reason: str,
        commit: str | None,
        seconds: float,
        *,
        simplification: bool = False,
    ) -> ExperimentRow:
        """Ends an experiment; see `ExperimentRow`. Returns it as it now stands."""
        values = {
            "status": status,
            "score": score,
            "decision": decision,
            "reason": reason,
            "commit_id": commit,
            "seconds": seconds,
            "simplification": 1 if simplification else None,
        }
        self._database.update("experiments", experiment, values, where="status IS NULL")
        return self.experiment(experiment)

    def record_trial(self, source: str, measurement: Measurement, description: str, fingerprint: str) -> int:
        """Adds one measurement that was made by hand, outside any search.

        Args:
          source: what was measured, as it was measured.
          measurement: what it gave.
          description: one line, such as "DEPTH=6".
          fingerprint: the task's; scores of other tasks are never compared with it.

        Returns:
          The experiment's number.
        """
        with self.transaction():
            experiment = self.begin_experiment(
                Intent(Kind.TRIAL, source, known_constants(source), description, category=fingerprint, proposer="hand")
            )
            trial = self.begin_trial(experiment.id, measurement.seed)
            self.finish_trial(trial.id, measurement)
            seconds = measurement.metrics.get("total_seconds")
            self.conclude(
                experiment.id,
                measurement.status,
                measurement.value,
                decision=None,
                reason=measurement.error or "measured by hand",
                commit=None,
                seconds=float(seconds) if isinstance(seconds, int | float) else 0.0,
            )
        return experiment.id

    def begin_session(self) -> int:
        """Writes down that a process begins to work on the run; returns the session's number."""
        with self.transaction():
            return self._database.insert("sessions", {"began_at": self._database.clock()})

    def end_session(self, session: int, reason: str) -> None:
        """Stores in one line why a process ends its work on the run."""
        self._database.update("sessions", session, {"ended_at": self._database.clock(), "reason": reason})

    def last_ending(self) -> str | None:
        """Why the last process ended; "killed" if it could not say, or is at work; None if nobody kept account."""
        rows = self._database.rows("sessions", ("reason",), "ORDER BY id DESC LIMIT 1")
        return rows[0][0] or "killed" if rows else None

    def experiment(self, number: int) -> ExperimentRow:
        """One experiment.

        Raises:
          LedgerError: there is none of that number.
        """
        row = self._experiments.get(number)
        if row is None:
            raise LedgerError(f"the ledger has no experiment {number}")
        return self._as_now(row, self._scores_now())

    def experiments(self) -> list[ExperimentRow]:
        """All experiments in the order of their numbers."""
        scores = self._scores_now()
        return [row if row.id not in scores else self._as_now(row, scores) for row in self._experiments.all()]

    def _as_now(self, row: ExperimentRow, scores: Mapping[int, Estimate]) -> ExperimentRow:
        score = scores.get(row.id)
        return row if score is None else self._rescored.of(row, score)

    def _scores_now(self) -> Mapping[int, Estimate]:
        """Scores of the experiments that were kept, by all runs so far, and of their twins."""
        return self.remembered(Ledger._find_scores_now)

    def _find_scores_now(self) -> Mapping[int, Estimate]:
        rows = [row for row in self._experiments.all() if row.kind is not Kind.TRIAL]
        lineage = self.lineage()
        if lineage is None:
            return {}
        posterior = lineage.posterior
        by_program: dict[str, Estimate] = {}
        for row in rows:
            if row.decision is Action.KEEP and row.status is Status.OK:
                found = posterior.score(lineage.programs[row.id].contents)
                by_program[row.program_hash or ""] = Estimate(lineage.sign * found.mean, found.error)
        is_kept_or_twin = (row for row in rows if row.decision is Action.KEEP or row.status is Status.DUPLICATE)
        return {row.id: score for row in is_kept_or_twin if (score := by_program.get(row.program_hash or ""))}

    def score_if_kept(self, experiment: int) -> Estimate | None:
        """The score of an open experiment as it will be once it is kept; None under the greedy rule."""
        found = self.lineage()
        if found is None or experiment not in found.programs:
            return None
        lineage = found.copy()
        lineage.programs[experiment] = replace(lineage.programs[experiment])
        lineage.conclude(experiment, kept=True)
        score = lineage.posterior.score(lineage.champion)
        return Estimate(lineage.sign * score.mean, score.error)

    def lineage(self) -> Lineage | None:
        """The runs of the search as the model of scores has them; None without a baseline or under the greedy rule."""
        return self.remembered(Ledger._find_lineage)

    def _find_lineage(self) -> Lineage | None:
        base = self._concluded_lineage()
        open_experiment = self.open_experiment()
        if base is None or open_experiment is None:
            return base
        lineage = base.copy()
        self._enter(lineage, open_experiment, self.remembered(_times_of_runs))
        return lineage

    def _concluded_lineage(self) -> Lineage | None:
        """The lineage without the open experiment, made again once another experiment or a champion's run is in it."""
        settings = self.settings()
        if settings.get("decision", GREEDY) == GREEDY:
            return None
        concluded = [row for row in self._experiments.all() if row.kind is not Kind.TRIAL and not row.is_open]
        entered = [(row, len(self.scored(row.id))) for row in concluded if row.status is not Status.DUPLICATE]
        baseline = next((row for row, _ in entered if row.decision is Action.KEEP), None)
        if baseline is None:
            return None
        key = len(concluded), sum(runs for _, runs in entered)
        if self._lineage is None or self._lineage[0] != key or self._database.in_transaction:
            times = self.remembered(_times_of_runs)
            lineage = Lineage(1 if settings.get("direction") == "maximize" else -1)
            for row, runs in entered:
                if runs and row.id >= baseline.id:
                    self._enter(lineage, row, times)
            if self._database.in_transaction:  # which may yet be undone
                return lineage
            self._lineage = key, lineage
        return self._lineage[1]

    def _enter(self, lineage: Lineage, row: ExperimentRow, times: Mapping[int, int]) -> None:
        trials = self.scored(row.id)
        lineage.begin(row.id, without=row.without)
        for trial in trials:
            of_items, time = self._item_variance(row, trials[0]), times[trial.id]
            lineage.observe(row.id, trial.score, trial.seed, of_items, time=time)
        if not row.is_open:
            lineage.conclude(row.id, kept=row.decision is Action.KEEP)

    def _item_variance(self, row: ExperimentRow, trial: TrialRow) -> float:
        """Of an experiment's first trial against its champion's, see `item_variance`; 0 without scores of items."""
        if row.parent is None:
            return 0.0
        parent = self._experiments.get(row.parent)
        assert parent is not None
        if parent.status is Status.DUPLICATE:
            parent = self._twin(parent.program_hash or "", before=parent.id) or parent
        runs = self.scored(parent.id)
        partner = next((run for run in runs if run.seed == trial.seed), runs[0])
        key = trial.id, partner.id
        if key not in self._item_variances:
            items, its_items = self._items(trial.id), self._items(partner.id)
            is_known = items is not None and its_items is not None
            self._item_variances[key] = item_variance(items or (), its_items or ()) if is_known else 0.0
        return self._item_variances[key]

    def _items(self, trial: int) -> list[float] | None:
        (text,) = self._database.execute("SELECT items FROM trials WHERE id = ?", (trial,)).fetchone()
        return None if text is None else [float(score) for score in json.loads(text)]

    def _experiments_from(self, first: int) -> list[ExperimentRow]:
        rows = self._database.rows("experiments", EXPERIMENT_COLUMNS, "WHERE id >= ? ORDER BY id", (first,))
        return [as_experiment(row) for row in rows]

    def remembered(self, make: Callable[["Ledger"], Value]) -> Value:
        """What a function makes of this ledger, made again only once an experiment or a trial more is concluded.

        Args:
          make: a pure function of what is concluded.
        """
        if self._database.in_transaction:  # which may yet be undone
            return make(self)
        state = self._experiments.num_concluded, self._trials.num_concluded
        found = self._remembered.get(make)
        if found is None or found[0] != state:
            found = self._remembered[make] = state, make(self)
        value: Value = found[1]
        return value

    def open_experiment(self) -> ExperimentRow | None:
        """The experiment of the search that is not over, if there is one."""
        return next(iter(self._experiments.open()), None)

    def scored_twin(self, program_hash: str, before: int) -> ExperimentRow | None:
        """The first experiment of the search, before number `before`, that measured the same program."""
        found = self._twin(program_hash, before)
        return None if found is None else self._as_now(found, self._scores_now())

    def _twin(self, program_hash: str, before: int) -> ExperimentRow | None:
        """The first experiment of a program, or the last that was kept: only a revert measures a program again."""
        twins = [
            row
            for row in self._experiments.of(program_hash)
            if row.id < before and row.status is Status.OK and row.kind is not Kind.TRIAL
        ]
        kept = [row for row in twins if row.decision is Action.KEEP]
        return kept[-1] if kept else next(iter(twins), None)

    def pruned_twin(self, program_hash: str, before: int) -> ExperimentRow | None:
        """The first experiment, before number `before`, whose trial of the same program was stopped early."""
        rows = self._experiments.of(program_hash)
        return next((row for row in rows if row.id < before and row.status is Status.PRUNED), None)

    def measured(self, row: ExperimentRow) -> ExperimentRow:
        """The experiment whose trials gave the score of `row`: itself, or the twin of a duplicate."""
        if row.status is not Status.DUPLICATE or row.program_hash is None:
            return row
        return self.scored_twin(row.program_hash, before=row.id) or row

    def runs(self, row: ExperimentRow) -> list[TrialRow]:
        """The trials that stand for an experiment, in their order; a duplicate has its twin's.

        Of a champion these are its runs on seeds that no decision depended on, unless there are no others.
        """
        trials = self.scored(self.measured(row).id)
        return [trial for trial in trials if trial.purpose is not Purpose.CANDIDATE] or trials

    def first_run(self, row: ExperimentRow) -> TrialRow | None:
        """An experiment's first run as a candidate that has a score; None if there is none."""
        return self._first_runs.of(row)

    def _find_first_run(self, row: ExperimentRow) -> TrialRow | None:
        return next((trial for trial in self.scored(row.id) if trial.purpose is Purpose.CANDIDATE), None)

    def scored(self, experiment: int) -> list[TrialRow]:
        """The trials of an experiment that have a score, in their order."""
        return [trial for trial in self._trials.of(experiment) if trial.value is not None]

    def source(self, experiment: int) -> str:
        """Full text that the experiment measured.

        Raises:
          LedgerError: there is none of that number.
        """
        statement = "SELECT source FROM experiments WHERE id = ?"
        row = self._database.execute(statement, (experiment,)).fetchone()
        if row is None:
            raise LedgerError(f"the ledger has no experiment {experiment}")
        return str(row[0])

    def trials(self, experiment: int | None = None) -> list[TrialRow]:
        """Trials of one experiment, or all, in the order of their numbers; none of audits."""
        return self._trials.all() if experiment is None else self._trials.of(experiment)

    def open_trial(self) -> TrialRow | None:
        """The trial of the search that was begun and not finished, if there is one."""
        return next(iter(self._trials.open()), None)

    def _trials_from(self, first: int) -> list[TrialRow]:
        rows = self._database.rows("trials", TRIAL_COLUMNS, "WHERE id >= ? AND audit IS NULL ORDER BY id", (first,))
        return [as_trial(row) for row in rows]

    def begin_audit_trial(
        self, experiment: int, seed: int, *, split: str, audit: int, question: str, subject: str
    ) -> AuditTrial:
        """Writes down that a budget is about to be spent for an audit; see `AuditTrial`.

        Args:
          experiment: whose text the subject is, or is made from.
          seed: of the trial.
          split: "holdout" if that is read, else "val".
          audit: number of the audit.
          question: what it asks, as JSON.
          subject: what is measured.
        """
        values = {
            "experiment": experiment,
            "seed": seed,
            "purpose": Purpose.AUDIT,
            "split": split,
            "audit": audit,
            "question": question,
            "subject": subject,
            "started_at": self._database.clock(),
        }
        self._database.insert("trials", values)
        return self.audit_trials()[-1]

    def answer_audit(self, audit: int) -> None:
        """Writes down that an audit is over."""
        with self.transaction():
            statement = "UPDATE trials SET answered_at = ? WHERE audit = ?"
            self._database.execute(statement, (self._database.clock(), audit))

    def audit_trials(self) -> list[AuditTrial]:
        """The trials of all audits, which are no part of the search, in the order of their numbers."""
        rows = self._database.rows("trials", AUDIT_COLUMNS, "WHERE audit IS NOT NULL ORDER BY id")
        return [as_audit_trial(row) for row in rows]

    def holdout_readings(self) -> int:
        """How many audits have read the holdout, or began to."""
        return len({trial.audit for trial in self.audit_trials() if trial.split == "holdout"})

    def decisions(self, experiment: int) -> list[DecisionRow]:
        """The decisions on an experiment, in their order."""
        rows = self._database.rows("decisions", DECISION_COLUMNS, "WHERE experiment = ? ORDER BY id", (experiment,))
        return [as_decision(row) for row in rows]

    def peak_memory_bytes(self) -> dict[int, float]:
        """Largest peak memory of each experiment's trials, where it is known."""
        peaks: dict[int, float] = {}
        for trial in self.trials():
            peak = trial.metrics.get("peak_memory_bytes")
            if isinstance(peak, int | float):
                peaks[trial.experiment] = max(peak, peaks.get(trial.experiment, peak))
        return peaks


def _with_score(row: ExperimentRow, score: Estimate) -> ExperimentRow:
    return replace(row, score=score.mean, error=score.error)


def _times_of_runs(ledger: Ledger) -> Mapping[int, int]:
    """How many runs with a score came before each."""
    scored = (trial.id for trial in ledger.trials() if trial.value is not None)
    return {trial: time for time, trial in enumerate(scored)}
