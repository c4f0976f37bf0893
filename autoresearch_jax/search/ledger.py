"""The ledger of a run: everything that was tried, in one SQLite file, written before it is spent on."""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from autoresearch_jax.measurement import Measurement, Scalar, Status
from autoresearch_jax.search.audit.log import AuditLog
from autoresearch_jax.search.constants import read_constants
from autoresearch_jax.search.database import Clock, Database, LedgerError, metrics_json
from autoresearch_jax.search.decision import Ruling, mean_score
from autoresearch_jax.search.noise import Noise
from autoresearch_jax.search.records import (
    EXPERIMENT_COLUMNS,
    RULING_COLUMNS,
    TRIAL_COLUMNS,
    Conclusion,
    ExperimentRow,
    Intent,
    Kind,
    Purpose,
    RulingRow,
    TrialRow,
    Verdict,
    as_experiment,
    as_ruling,
    as_trial,
)
from autoresearch_jax.search.sealed_rows import MadeOnce, SealedRows
from autoresearch_jax.search.snapshots.log import SnapshotLog

Value = TypeVar("Value")


class Ledger:
    """Experiments and their trials. Only times and durations differ between two equal runs."""

    def __init__(self, database: Database) -> None:
        """See `open` and `open_to_read`."""
        self._database = database
        self.audits = AuditLog(database)
        self.snapshots = SnapshotLog(database)

        def may_keep() -> bool:
            return not database.in_transaction

        self._experiments = SealedRows(self._experiments_from, may_keep, group=lambda row: row.program_hash)
        self._trials = SealedRows(self._trials_from, may_keep, group=lambda row: row.experiment)
        self._remembered: dict[Callable[[Ledger], Any], tuple[tuple[int, int], Any]] = {}
        self._rescored: MadeOnce[ExperimentRow, ExperimentRow] = MadeOnce(_with_score)
        self._first_runs: MadeOnce[ExperimentRow, TrialRow | None] = MadeOnce(self._find_first_run)

    @classmethod
    def open(cls, path: Path, clock: Clock = time.time) -> "Ledger":
        """Opens a ledger, makes it if there is none, and brings one of an older version to the present one.

        Raises:
          LedgerError: it is no ledger, of a newer version, or cannot be written.
        """
        return cls(Database.open(path, clock))

    @classmethod
    def open_to_read(cls, path: Path) -> "Ledger":
        """Opens an existing ledger without ever writing to it; a driver may be at work in it meanwhile.

        Raises:
          LedgerError: there is none, or it is of a newer version.
        """
        return cls(Database.open_to_read(path))

    def close(self) -> None:
        """Closes the file, and seals it unless another process has it open and may go on writing."""
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
        """Stores what must stay the same for as long as the run lives, and seals it."""
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
        """Writes down that a trial that was cut short is run again."""
        self._mark_interrupted(trial, None)

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
        }
        self._database.conclude("trials", trial, values, where="status IS NULL")

    def record_ruling(self, experiment: int, ruling: Ruling, noise: Noise | None) -> None:
        """Stores what the rule said of an experiment, and the noise floor it said it with."""
        values: dict[str, Any] = {"experiment": experiment, "step": ruling.step, "reason": ruling.reason}
        if noise is not None:
            values |= asdict(noise)
        with self.transaction():
            number = self._database.insert("rulings", {**values, "ruled_at": self._database.clock()})
            self._database.seal_row("rulings", number)

    def conclude(self, experiment: int, conclusion: Conclusion) -> ExperimentRow:
        """Ends an experiment; returns it as it now stands."""
        values = {
            "status": conclusion.status,
            "score": conclusion.score,
            "decision": conclusion.decision,
            "reason": conclusion.reason,
            "commit_id": conclusion.commit,
            "seconds": conclusion.seconds,
            "simplification": 1 if conclusion.simplification else None,
        }
        self._database.conclude("experiments", experiment, values, where="status IS NULL")
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
        try:
            constants = read_constants(source)
        except SyntaxError:
            constants = {}
        with self.transaction():
            experiment = self.begin_experiment(
                Intent(Kind.TRIAL, source, constants, description, category=fingerprint, proposer="hand")
            )
            trial = self.begin_trial(experiment.id, measurement.seed)
            self.finish_trial(trial.id, measurement)
            seconds = measurement.metrics.get("total_seconds")
            self.conclude(
                experiment.id,
                Conclusion(
                    status=measurement.status,
                    score=measurement.value,
                    decision=None,
                    reason=measurement.error or "measured by hand",
                    commit=None,
                    seconds=float(seconds) if isinstance(seconds, int | float) else 0.0,
                ),
            )
        return experiment.id

    def begin_session(self) -> int:
        """Writes down that a process begins to work on the run; returns the session's number."""
        with self.transaction():
            return self._database.insert("sessions", {"began_at": self._database.clock()})

    def end_session(self, session: int, reason: str) -> None:
        """Stores in one line why a process ends its work on the run."""
        self._database.conclude("sessions", session, {"ended_at": self._database.clock(), "reason": reason})

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

    def _as_now(self, row: ExperimentRow, scores: Mapping[int, float]) -> ExperimentRow:
        score = scores.get(row.id)
        return row if score is None else self._rescored.of(row, score)

    def _scores_now(self) -> Mapping[int, float]:
        """By experiment, the scores that moved since it was concluded."""
        return self.remembered(Ledger._find_scores_now)

    def _find_scores_now(self) -> Mapping[int, float]:
        """A champion's is the mean of its runs as champion; a twin's is the same."""
        rows = self._experiments.all()
        moved: dict[int, float] = {}
        champions: dict[str, float] = {}  # by program
        for row in rows:
            if row.decision is not Verdict.KEEP or row.status is Status.DUPLICATE:
                continue
            runs = [trial.score for trial in self.runs(row) if trial.purpose is Purpose.CHAMPION]
            score = mean_score(runs) if runs else row.score
            if score is not None:
                champions[row.program_hash or ""] = score
                if score != row.score:
                    moved[row.id] = score
        for row in rows:
            if row.status is Status.DUPLICATE:
                score = champions.get(row.program_hash or "", row.score)
                if score is not None and score != row.score:
                    moved[row.id] = score
        return moved

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
        for row in self._experiments.of(program_hash):
            if row.id < before and row.status is Status.OK and row.kind is not Kind.TRIAL:
                return self._as_now(row, self._scores_now())
        return None

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
        """The trials whose mean is an experiment's score, in their order; a duplicate has its twin's.

        Of a champion these are its runs as champion, without those that it was kept for, unless there are no others.
        """
        trials = self._scored(self.measured(row).id)
        return [trial for trial in trials if trial.purpose is Purpose.CHAMPION] or trials

    def first_run(self, row: ExperimentRow) -> TrialRow | None:
        """An experiment's first run as a candidate that has a score; None if there is none."""
        return self._first_runs.of(row)

    def _find_first_run(self, row: ExperimentRow) -> TrialRow | None:
        return next((trial for trial in self._scored(row.id) if trial.purpose is Purpose.CANDIDATE), None)

    def _scored(self, experiment: int) -> list[TrialRow]:
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
        """Trials of one experiment, or all, in the order of their numbers."""
        return self._trials.all() if experiment is None else self._trials.of(experiment)

    def open_trial(self) -> TrialRow | None:
        """The trial of the search that was begun and not finished, if there is one."""
        return next(iter(self._trials.open()), None)

    def _trials_from(self, first: int) -> list[TrialRow]:
        rows = self._database.rows("trials", TRIAL_COLUMNS, "WHERE id >= ? ORDER BY id", (first,))
        return [as_trial(row) for row in rows]

    def rulings(self, experiment: int) -> list[RulingRow]:
        """What the rule said of an experiment, in its order."""
        rows = self._database.rows("rulings", RULING_COLUMNS, "WHERE experiment = ? ORDER BY id", (experiment,))
        return [as_ruling(row) for row in rows]

    def peak_memory_bytes(self) -> dict[int, float]:
        """Largest peak memory of each experiment's trials, where it is known."""
        peaks: dict[int, float] = {}
        for trial in self.trials():
            peak = trial.metrics.get("peak_memory_bytes")
            if isinstance(peak, int | float):
                peaks[trial.experiment] = max(peak, peaks.get(trial.experiment, peak))
        return peaks


def _with_score(row: ExperimentRow, score: float) -> ExperimentRow:
    return replace(row, score=score)
