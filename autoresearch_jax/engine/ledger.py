"""The ledger of a run: its rows, each written before it is spent on, with scores by the model of all its runs."""

import functools
import json
import math
import sqlite3
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

from autoresearch_jax.assets.base import ConstantValue
from autoresearch_jax.decide.lineage import Lineage, score_in
from autoresearch_jax.decide.noise import item_variance
from autoresearch_jax.decide.rule import Action, Decision
from autoresearch_jax.engine.database import Clock, LedgerError, metrics_json
from autoresearch_jax.engine.logbook import Logbook
from autoresearch_jax.engine.records import (
    DECISION_COLUMNS,
    EXPERIMENT_COLUMNS,
    ExperimentRow,
    Intent,
    Kind,
    Purpose,
    Rows,
    TrialRow,
    as_decision,
    as_experiment,
    as_trial,
    columns,
    intent_columns,
)
from autoresearch_jax.types import Measurement, Status

Value = TypeVar("Value")
MOVED_COLUMNS = ("parent", "parent_commit", "constants", "program_hash", "source")


class Ledger(Logbook):
    """A run's ledger. Only times differ between two equal runs."""

    def __init__(self, connection: sqlite3.Connection, clock: Clock = time.time, path: Path | None = None) -> None:
        """See `open` and `open_to_read`."""
        super().__init__(connection, clock, path)
        how = self.may_be_undone, self.version
        self._experiments = Rows(self._experiments_after, *how, group=lambda row: row.program_hash)
        self._trials = Rows(self._trials_after, *how, group=lambda row: row.experiment)
        self._remembered: dict[Callable[[Ledger], Any], tuple[Hashable, Any]] = {}
        self._runs: dict[int, list[tuple[int, TrialRow]]] = {}  # see `_runs_in_order`, of the first trials
        self._num_entered = 0, 0  # trials in `_runs`, and those of them with a score
        self._lineage: tuple[dict[int, int], Lineage | None] = {}, None  # of what is concluded; runs of each in it
        self._variance_of_items = functools.cache(self._find_variance_of_items)

    def _experiments_after(self, ended: int) -> list[ExperimentRow]:
        which = "WHERE ended > ? OR ended IS NULL ORDER BY ended IS NULL, ended, id"
        return [as_experiment(row) for row in self.select("experiments", EXPERIMENT_COLUMNS, which, ended)]

    def _trials_after(self, ended: int) -> list[TrialRow]:
        which = "WHERE (ended > ? OR ended IS NULL) AND audit IS NULL ORDER BY ended IS NULL, ended, id"
        return [as_trial(row, TrialRow) for row in self.select("trials", columns(TrialRow), which, ended)]

    def begin_experiment(self, intent: Intent) -> ExperimentRow:
        """Writes down what is about to be tried and gives it the next number."""
        with self.transaction():
            number = {"id": self.next_number(), "created_at": self.clock()}
            self.insert("experiments", intent_columns(intent) | number)
            return self._experiments.latest()[-1]

    def move(
        self,
        experiment: int,
        champion: ExperimentRow,
        source: str,
        constants: Mapping[str, ConstantValue],
        program_hash: str | None,
    ) -> ExperimentRow:
        """Makes an open experiment one of another champion, with the text that this takes; keeps what it was before.

        None of its trials may run. Finished ones still count, as runs upon the former parent: see `Lineage.move`.
        """
        with self.transaction():
            before = self.select("experiments", MOVED_COLUMNS, "WHERE id = ? AND status IS NULL", experiment)[0]
            self.insert("moves", {**dict(before), "experiment": experiment, "moved_at": self.clock()})
            values = {"parent": champion.id, "parent_commit": champion.commit, "program_hash": program_hash}
            values |= {"constants": json.dumps(constants, sort_keys=True), "source": source}
            self.update("experiments", values, "id = ?", experiment)
        return self.experiment(experiment)

    def set_program(self, experiment: int, program_hash: str) -> None:
        """Stores what the experiment's source was traced to."""
        self.update("experiments", {"program_hash": program_hash}, "id = ?", experiment)

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
        price: float | None = None,
    ) -> None:
        """Ends an experiment; see `ExperimentRow`."""
        values = {
            "status": status,
            "score": score,
            "decision": decision,
            "reason": reason,
            "commit": commit,
            "seconds": seconds,
            "simplification": 1 if simplification else None,
            "price": price,
        }
        with self.transaction():
            values["ended"] = self.next_ended("experiments")
            self.update("experiments", values, "id = ? AND status IS NULL", experiment)

    def record_trial(
        self,
        source: str,
        measurement: Measurement,
        description: str,
        fingerprint: str,
        constants: Mapping[str, Any] | None = None,
    ) -> int:
        """Adds a measurement that was made by hand, outside any search; returns the experiment's number."""
        with self.transaction():
            intent = Intent(Kind.TRIAL, source, constants or {}, description, category=fingerprint, proposer="hand")
            experiment = self.begin_experiment(intent)
            trial = self.begin_trial(experiment.id, measurement.seed)
            self.finish_trial(trial.id, measurement)
            seconds = measurement.metrics.get("total_seconds")
            took = float(seconds) if isinstance(seconds, int | float) else 0.0
            reason = measurement.error or "measured by hand"
            self.conclude(experiment.id, measurement.status, measurement.value, None, reason, None, took)
        return experiment.id

    def source(self, experiment: int) -> str:
        """Full text that the experiment measured; raises LedgerError if there is none of that number."""
        self._unscored(experiment)
        return str(self.select("experiments", ("source",), "WHERE id = ?", experiment)[0]["source"])

    def begin_trial(self, experiment: int, seed: int, purpose: Purpose = Purpose.CANDIDATE) -> TrialRow:
        """Writes down that a budget is about to be spent."""
        values = {"experiment": experiment, "seed": seed, "purpose": purpose, "started_at": self.clock()}
        with self.transaction():
            values["parent"] = self._unscored(experiment).parent
            self.insert("trials", values)
            return self._trials.latest()[-1]

    def interrupt_trial(self, trial: int) -> None:
        """Writes down that a trial was cut short by a signal; it stays open."""
        self._update_open_trial(trial, interrupted_at=self.clock())

    def take_up_trial(self, trial: int) -> None:
        """Writes down that a trial that was cut short is run again, from now on."""
        self._update_open_trial(trial, interrupted_at=None, started_at=self.clock())

    def finish_trial(self, trial: int, measurement: Measurement) -> None:
        """Stores what a trial gave."""
        with self.transaction():
            self._update_open_trial(
                trial,
                finished_at=self.clock(),
                ended=self.next_ended("trials"),
                status=measurement.status,
                value=measurement.value,
                metrics=metrics_json(measurement.metrics),
                snapshot=None if measurement.snapshot is None else str(measurement.snapshot),
                error=measurement.error,
                items=None if measurement.items is None else json.dumps(list(measurement.items)),
            )

    def _update_open_trial(self, trial: int, **values: Any) -> None:
        self.update("trials", values, "id = ? AND status IS NULL", trial)

    def trials(self, experiment: int | None = None) -> list[TrialRow]:
        """Trials of one experiment, or all, in the order in which they ended, open ones last; none of audits."""
        return self._trials.all() if experiment is None else self._trials.of(experiment)

    def open_trials(self) -> list[TrialRow]:
        """The trials of the search that were begun and not finished, in the order of their numbers."""
        return self._trials.open()

    def record_decision(self, experiment: int, decision: Decision) -> None:
        """Stores a decision on an experiment."""
        gain = decision.gain
        estimate = {"gain": None if gain is None else gain.mean, "error": None if gain is None else gain.error}
        values = {**vars(decision), **estimate, "experiment": experiment, "decided_at": self.clock()}
        self.insert("decisions", values)

    def decisions(self, experiment: int) -> list[Decision]:
        """The decisions on an experiment, in their order."""
        rows = self.select("decisions", DECISION_COLUMNS, "WHERE experiment = ? ORDER BY id", experiment)
        return [as_decision(row) for row in rows]

    def experiment(self, number: int) -> ExperimentRow:
        """One experiment.

        Raises:
          LedgerError: there is none of that number.
        """
        row = self._unscored(number)
        return self.remembered(Ledger._scored_now).get(number, row)

    def _unscored(self, number: int) -> ExperimentRow:
        row = self._experiments.get(number)
        if row is None:
            raise LedgerError(f"the ledger has no experiment {number}")
        return row

    def experiments(self) -> list[ExperimentRow]:
        """All experiments in the order in which they ended, open ones last."""
        rows, scored = self._experiments.all(), self.remembered(Ledger._scored_now)
        if self.may_be_undone():
            return [scored.get(row.id, row) for row in rows]
        for number, row in scored.items():
            rows[self._experiments.place(number)] = row
        return rows

    def next_number(self) -> int:
        """The number of the experiment that is begun next."""
        (number,) = self._connection.execute("SELECT coalesce(max(id) + 1, 0) FROM experiments").fetchone()
        return int(number)

    def open_experiments(self) -> list[ExperimentRow]:
        """The experiments of the search that are not over, in the order of their numbers."""
        return self._experiments.open()

    def remembered(self, make: Callable[["Ledger"], Value]) -> Value:
        """What a pure function makes of what is concluded and of the parents of what is open; until that changes."""
        if self.may_be_undone():
            return make(self)
        parents = tuple(row.parent for row in self._experiments.open())
        state = self._experiments.num_concluded(), self._trials.num_concluded(), parents
        found = self._remembered.get(make)
        if found is None or found[0] != state:
            found = self._remembered[make] = state, make(self)
        return cast(Value, found[1])

    def _scored_now(self) -> Mapping[int, ExperimentRow]:
        """The experiments that were kept, and their twins, with scores by all runs so far."""
        lineage = self.lineage()
        if lineage is None:
            return {}
        rows = [row for row in self._experiments.all() if row.kind is not Kind.TRIAL]
        kept = (row for row in rows if row.decision is Action.KEEP and row.status is Status.OK)
        by_program = {row.program_hash: score_in(lineage, lineage.programs[row.id].contents) for row in kept}
        is_kept_or_twin = (row for row in rows if row.decision is Action.KEEP or row.status is Status.DUPLICATE)
        return {
            row.id: replace(row, score=score.mean, error=score.error)
            for row in is_kept_or_twin
            if (score := by_program.get(row.program_hash))
        }

    def lineage(self) -> Lineage | None:
        """The runs of the search as the model of scores has them; None without a baseline or under the greedy rule."""
        return self.remembered(Ledger._find_lineage)

    def _find_lineage(self) -> Lineage | None:
        base, open_experiments = self._concluded_lineage(), self.open_experiments()
        if base is None or not open_experiments:
            return base
        lineage = base.with_posterior().copy()
        self._enter(lineage, open_experiments)
        return lineage

    def _concluded_lineage(self) -> Lineage | None:
        """The lineage without the open experiment; entered again from the start once a champion has a further run."""
        settings = self.settings()
        if settings.get("decision", "greedy") == "greedy":  # it has no use for a model of scores
            return None
        concluded = [row for row in self._experiments.all() if row.kind is not Kind.TRIAL and not row.is_open]
        measured = [row for row in concluded if row.status is not Status.DUPLICATE]
        baseline = next((row for row in measured if row.decision is Action.KEEP), None)
        if baseline is None:
            return None
        runs = self._runs_in_order()
        entered = {row.id: len(runs[row.id]) for row in measured if row.id >= baseline.id and row.id in runs}
        known, lineage = self._lineage
        if known == entered and lineage is not None:
            return lineage
        is_longer = lineage is not None and list(known.items()) == list(entered.items())[: len(known)]
        sign = 1 if settings.get("direction") == "maximize" else -1
        lineage = lineage.copy() if lineage is not None and is_longer else Lineage(sign)
        self._enter(lineage, [row for row in measured if row.id in entered and row.id not in lineage.programs])
        if not self.may_be_undone():
            self._lineage = entered, lineage
        return lineage

    def _runs_in_order(self) -> Mapping[int, Sequence[tuple[int, TrialRow]]]:
        """The trials with a score of each experiment, and how many of all came before each."""
        trials = self._trials.all()
        (first, before), runs = self._num_entered, self._runs
        is_final = not self.may_be_undone()
        for index, trial in enumerate(trials[first:], first):
            if is_final and trial.status is None:  # those before it are entered once and for all
                self._num_entered = index, before
                is_final = False
            if trial.value is not None:
                if not is_final and runs is self._runs:
                    runs = {**runs}
                runs[trial.experiment] = [*runs.get(trial.experiment, ()), (before, trial)]
                before += 1
        if is_final:
            self._num_entered = len(trials), before
        return runs

    def _enter(self, lineage: Lineage, rows: Collection[ExperimentRow]) -> None:
        runs = self._runs_in_order()
        has_items = bool(self.select("trials", ("id",), "WHERE items IS NOT NULL LIMIT 1"))
        for row in rows:
            found = runs.get(row.id, ())
            of_items = self._item_variance(row, found[0][1]) if found and has_items else 0.0
            first = found[0][1].parent if found else row.parent
            lineage.begin(row.id, without=row.without, parent=self._contents(lineage, first))
            for before, trial in found:
                lineage.move(row.id, self._contents(lineage, trial.parent))
                lineage.observe(row.id, trial.score, trial.seed, of_items, time=before)
            is_kept = row.decision is Action.KEEP  # upon what was champion then
            lineage.move(row.id, None if is_kept else self._contents(lineage, row.parent))
            if not row.is_open:
                lineage.conclude(row.id, kept=is_kept)

    def _item_variance(self, row: ExperimentRow, trial: TrialRow) -> float:
        """Of an experiment's first trial against its champion's, see `item_variance`; 0 without scores of items."""
        if trial.parent is None:
            return 0.0
        runs = self.scored(self._measured(trial.parent))
        partner = next((run for run in runs if run.seed == trial.seed), runs[0])
        return self._variance_of_items(trial.id, partner.id)

    def _contents(self, lineage: Lineage, champion: int | None) -> frozenset[int] | None:
        """What a champion holds; None of no champion."""
        if champion is None:
            return None
        measured = champion if champion in lineage.programs else self._measured(champion)
        return lineage.programs[measured].contents

    def _measured(self, champion: int) -> int:
        """See `measured`; by numbers, and without scores."""
        row = self._unscored(champion)
        twin = self._twin(row.program_hash, before=champion) if row.status is Status.DUPLICATE else None
        return row.id if twin is None else twin.id

    def _find_variance_of_items(self, *trials: int) -> float:
        texts = [self.select("trials", ("items",), "WHERE id = ?", trial)[0]["items"] for trial in trials]
        return 0.0 if None in texts else item_variance(*map(json.loads, texts))

    def scored_twin(self, program_hash: str, before: int) -> ExperimentRow | None:
        """The experiment of the search that measured the same program and ended before number `before`."""
        found = self._twin(program_hash, before)
        return None if found is None else self.remembered(Ledger._scored_now).get(found.id, found)

    def _twin(self, program_hash: str | None, before: int) -> ExperimentRow | None:
        """The first experiment of a program, or the last that was kept: only a revert measures a program again."""
        twins = [
            row
            for row in self._ended_before(before, program_hash)
            if row.status is Status.OK and row.kind is not Kind.TRIAL
        ]
        kept = [row for row in twins if row.decision is Action.KEEP]
        return kept[-1] if kept else next(iter(twins), None)

    def pruned_twin(self, program_hash: str, before: int) -> ExperimentRow | None:
        """The first experiment that ended before number `before` as its trial of the same program was stopped early."""
        return next((row for row in self._ended_before(before, program_hash) if row.status is Status.PRUNED), None)

    def _ended_before(self, number: int, program_hash: str | None) -> Iterator[ExperimentRow]:
        """The experiments of a program that ended before one did, or until now if it is open."""
        row = self._experiments.get(number)
        limit = math.inf if row is None or row.ended is None else row.ended
        return (row for row in self._experiments.of(program_hash) if row.ended is not None and row.ended < limit)

    def measured(self, row: ExperimentRow) -> ExperimentRow:
        """The experiment whose trials gave the score of `row`: itself, or the twin of a duplicate."""
        if row.status is not Status.DUPLICATE or row.program_hash is None:
            return row
        return self.scored_twin(row.program_hash, before=row.id) or row

    def runs(self, row: ExperimentRow) -> list[TrialRow]:
        """The trials that stand for an experiment, in their order; a duplicate has its twin's.

        Of a champion these are its runs on seeds that no decision depended on, unless there are no others. Of a moved
        one these are the trials since the move, or all if there are none since.
        """
        measured = self.measured(row)
        every = self.scored(measured.id)
        trials = [trial for trial in every if trial.parent == measured.parent] or every
        return [trial for trial in trials if trial.purpose is not Purpose.CANDIDATE] or trials

    def scored(self, experiment: int) -> list[TrialRow]:
        """The trials of an experiment that have a score, in their order."""
        return [trial for trial in self._trials.of(experiment) if trial.value is not None]
