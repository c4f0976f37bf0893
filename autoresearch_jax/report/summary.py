"""Where a run stands, in a few figures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import Action, plus_minus
from autoresearch_jax.engine.certifying import Word, certificates
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.recorder import KEEPS, outcome
from autoresearch_jax.engine.records import ExperimentRow, Kind
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.state import read_state, seconds_spent, trials_by_experiment
from autoresearch_jax.errors import UserError
from autoresearch_jax.report.exchanges import ModelUse, limits_in_force, model_use
from autoresearch_jax.snapshots.kept import Whereabouts, find_snapshot
from autoresearch_jax.types import ATTENDED_SHARE, SCORE_DECIMALS, WALL_SECONDS, Metric, Scalar

JSON_FIELDS = (
    "experiment",
    "kind",
    "outcome",
    "decision",
    "score",
    "error",
    "certificate",
    "hypothesis",
    "category",
    "proposer",
    "finding",
    "adopted_from",
    "used",
    "why",
    "reason",
    "commit",
    "seconds",
    "dollars",
    "snapshots",
    "constants",
)  # of an experiment, in their order


@dataclass(frozen=True)
class RunSummary:
    """A run at a glance.

    Attributes:
      metric: the name in the ledger's settings; None for a ledger of single trials.
      baseline: the experiment that the run started from; None before it was measured.
      champion: the experiment that was kept last.
      current: the experiments that are not over, the oldest first.
      last: the experiment that was over last.
      counts: experiments by outcome ("keep", "refactoring", "crash", ...), the baseline left out.
      seconds: spent on experiments.
      attended_share: of the wall time of training in all trials, how much they had the machine; None where no trial
        tells.
      dollars: spent on proposals, as far as that is known.
      model_use: what a model was asked for; all zero where none was.
      limits: of what the model may take, see `limits_in_force`.
      ended: why the last driver ended; see `Ledger.last_ending`.
      sigma: standard deviation of a run; None where it is not known.
      champion_score: and its standard deviation, by all runs so far; None before there is one.
      champion_runs: runs of the champion itself.
      gain_estimate: of the champion over the baseline, positive where it is better; None under the greedy rule.
      certified: kept edits that are improvements, and those that were taken out again.
      holdout_readings: audits that read the holdout so far.
      adopted: experiments that tried what a peer found, and those of them that were kept.
    """

    metric: Metric | None
    baseline: ExperimentRow | None
    champion: ExperimentRow | None
    current: Sequence[ExperimentRow]
    last: ExperimentRow | None
    counts: dict[str, int]
    seconds: float
    attended_share: float | None
    dollars: float
    model_use: ModelUse
    limits: Mapping[str, float]
    ended: str | None
    sigma: float | None
    champion_score: Estimate | None
    champion_runs: int
    gain_estimate: Estimate | None
    certified: tuple[int, int]
    holdout_readings: int
    adopted: tuple[int, int]

    @property
    def kept(self) -> int:
        """Proposals that were kept, those among them that were reverted later."""
        return sum(self.counts.get(word, 0) for word in KEEPS)

    @property
    def gain(self) -> float | None:
        """How much better the champion is than the baseline, in the metric's unit."""
        if self.metric is None or self.baseline is None or self.champion is None:
            return None
        if self.baseline.score is None or self.champion.score is None:
            return None
        return self.metric.gain(self.champion.score, over=self.baseline.score)

    def lines(self) -> dict[str, Scalar]:
        """The figures under the names they are printed with; None where one is missing.

        The attended share is left out where no trial tells it: on an accelerator none does.
        """
        name = "score" if self.metric is None else self.metric.name
        sigma = self.sigma
        gain, baseline = self.gain, None if self.baseline is None else self.baseline.score
        return {
            "experiments": sum(self.counts.values()),
            **dict(sorted(self.counts.items())),
            "seconds": round(self.seconds, 1),
            **({} if self.attended_share is None else {ATTENDED_SHARE: round(self.attended_share, 2)}),
            **self._spent(),
            f"baseline_{name}": _rounded(baseline),
            f"champion_{name}": None if self.champion_score is None else plus_minus(self.champion_score),
            "gain": _rounded(gain) if self.gain_estimate is None else plus_minus(self.gain_estimate),
            "gain_percent": None if gain is None or not baseline else round(100 * gain / abs(baseline), 3),
            "noise_floor": None if sigma is None else float(f"{sigma:.2g}"),
            "gain_sigma": round(gain / sigma, 1) if gain is not None and sigma else None,
            "champion_runs": self.champion_runs,
            "certified": self.certified[0],
            "reverted": self.certified[1],
            "holdout_readings": self.holdout_readings,
            **self._adopted(),
            "champion_experiment": None if self.champion is None else self.champion.id,
            "champion_commit": None if self.champion is None else self.champion.commit,
        }

    def _adopted(self) -> dict[str, Scalar]:
        """Left out where nothing was adopted, as in a run without peers."""
        return {"adopted": self.adopted[0], "adopted_kept": self.adopted[1]} if self.adopted[0] else {}

    def _spent(self) -> dict[str, Scalar]:
        """Dollars, and where a model was asked its tokens and requests, each with its limit if it has one."""
        use = self.model_use
        found: dict[str, Scalar] = {"dollars": round(self.dollars, 4)}
        if use.requests:
            found |= {"tokens": use.input_tokens + use.output_tokens, "requests": use.requests}
        lines: dict[str, Scalar] = {}
        for name, value in found.items():
            lines[name] = value
            if (limit := self.limits.get(name)) is not None:
                lines[f"max_{name}"] = int(limit) if limit == int(limit) else limit
        return lines


def summarize_run(ledger: Ledger, folder: RunFolder | None = None) -> RunSummary:
    """Reads the figures from a ledger.

    Args:
      folder: of the run, for what was spent on proposals that are in no row of the ledger yet, or never will be.
    """
    metric, state = stored_metric(ledger), read_state(ledger)
    words = [found.word for found in certificates(ledger).values()]
    rows = [row for row in ledger.experiments() if row.kind is not Kind.TRIAL]
    kept = [row for row in rows if row.decision is Action.KEEP]
    adopted = [row for row in rows if row.adopted_from is not None and not row.is_open]
    use = ModelUse() if folder is None else model_use(folder)
    return RunSummary(
        metric=metric,
        baseline=kept[0] if kept else None,
        champion=kept[-1] if kept else None,
        current=[row for row in rows if row.is_open],
        last=next((row for row in reversed(rows) if not row.is_open), None),
        counts=dict(Counter(outcome(row) for row in rows if row.kind is Kind.PROPOSAL and not row.is_open)),
        seconds=seconds_spent(ledger, rows),
        attended_share=_attended_share(ledger, rows),
        dollars=max(sum(row.cost_dollars for row in rows), use.dollars),
        model_use=use,
        limits=limits_in_force(folder) if folder is not None and use.requests else {},
        ended=ledger.last_ending(),
        sigma=None if state is None else state.sigma,
        champion_score=None if state is None else state.score,
        champion_runs=0 if state is None else len(state.runs),
        gain_estimate=None
        if state is None or state.lineage is None
        else state.lineage.posterior.gain_of(state.lineage.champion),
        certified=(words.count(Word.CERTIFIED), words.count(Word.REVERTED)),
        holdout_readings=ledger.holdout_readings(),
        adopted=(len(adopted), sum(row.decision is Action.KEEP for row in adopted)),
    )


def _attended_share(ledger: Ledger, rows: Sequence[ExperimentRow]) -> float | None:
    wall_seconds = attended_seconds = 0.0
    trials = trials_by_experiment(ledger)
    for row in rows:
        for trial in trials.get(row.id, ()):
            wall, share = trial.metrics.get(WALL_SECONDS), trial.metrics.get(ATTENDED_SHARE)
            if isinstance(wall, int | float) and isinstance(share, int | float):
                wall_seconds += wall
                attended_seconds += share * wall
    return attended_seconds / wall_seconds if wall_seconds else None


def named_experiment(ledger: Ledger, folder: RunFolder, number: int | None) -> ExperimentRow:
    """The experiment that --experiment names; without it the champion.

    Raises:
      UserError: there is none.
    """
    if number is None:
        row = summarize_run(ledger).champion
    else:
        row = next((row for row in ledger.experiments() if row.id == number), None)
    if row is not None:
        return row
    what = "no champion" if number is None else f"no experiment {number}"
    raise UserError(f"{folder.path}: there is {what}; `autoresearch results` lists them, --experiment=N names one")


def stored_metric(ledger: Ledger) -> Metric | None:
    """The metric that the run was started with; None in a ledger of single trials."""
    settings = ledger.settings()
    if "metric" not in settings:
        return None
    return Metric(str(settings["metric"]), str(settings["direction"]))


def experiments_as_json(ledger: Ledger, folder: RunFolder, *, at_work: bool) -> list[dict[str, object]]:
    """Experiments as plain objects, with the snapshots of their trials; a missing number is null.

    Of snapshots those are told of that are there: by their folder, or by their address where they were moved to.

    Args:
      at_work: whether a driver is, so that what is not over is running.
    """
    words = certificates(ledger)
    snapshots: dict[int, list[str]] = {}
    for trial in ledger.trials():
        if trial.snapshot is not None:
            found = find_snapshot(ledger, folder, trial)
            if found.whereabouts in (Whereabouts.HERE, Whereabouts.MOVED):
                snapshots.setdefault(trial.experiment, []).append(found.place)
    return [
        {
            "experiment": row.id,
            "kind": str(row.kind),
            "outcome": outcome(row, at_work=at_work),
            "decision": None if row.decision is None else str(row.decision),
            "score": row.score,
            "error": row.error,
            "certificate": None if row.id not in words else str(words[row.id].word),
            "hypothesis": row.hypothesis,
            "category": row.category,
            "proposer": row.proposer,
            "finding": row.finding,
            "adopted_from": row.adopted_from,
            "used": list(row.used),
            "why": row.why,
            "reason": row.reason,
            "commit": row.commit,
            "seconds": row.seconds,
            "dollars": row.cost_dollars,
            "snapshots": snapshots.get(row.id, []),
            "constants": dict(row.constants),
        }
        for row in ledger.experiments()
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, SCORE_DECIMALS)
