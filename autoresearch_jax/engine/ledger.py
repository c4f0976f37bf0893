"""The ledger of a run: its rows, with scores by the model of all its runs."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from autoresearch_jax.decide.lineage import Lineage
from autoresearch_jax.decide.noise import item_variance
from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.database import Database, LedgerError
from autoresearch_jax.engine.memo import Memo
from autoresearch_jax.engine.records import ExperimentRow, Intent, Kind, Purpose, TrialRow
from autoresearch_jax.engine.tables import Tables
from autoresearch_jax.engine.training_file import known_constants
from autoresearch_jax.types import Measurement, Status

Value = TypeVar("Value")
GREEDY = "greedy"  # the rule that has no use for a model of scores


class Ledger(Tables):
    """A run's ledger, with scores by the model of all its runs. Only times differ between two equal runs."""

    def __init__(self, database: Database) -> None:
        """See `open` and `open_to_read`."""
        super().__init__(database)
        self._remembered: dict[Callable[[Ledger], Any], tuple[tuple[int, int], Any]] = {}
        self._rescored: Memo[ExperimentRow, ExperimentRow] = Memo(_with_score)
        self._first_runs: Memo[ExperimentRow, TrialRow | None] = Memo(self._find_first_run)
        self._item_variances: dict[tuple[int, int], float] = {}  # by two concluded trials
        self._lineage: tuple[tuple[int, int], Lineage] | None = None  # of what is concluded, and how much that is

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
