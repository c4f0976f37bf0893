"""What a run's ledger says of its champion and of the noise: all that a decision on a candidate rests on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from autoresearch_jax.measurement import Status
from autoresearch_jax.search.decision import Evidence, PeakMemory, Ruling, Score, Step
from autoresearch_jax.search.drift import TOLERANCE, typical_speed
from autoresearch_jax.search.ledger import Ledger
from autoresearch_jax.search.noise import Noise, estimate_noise
from autoresearch_jax.search.records import ExperimentRow, Kind, Purpose, TrialRow, Verdict

TRIALS_BETWEEN_CHECKS = 10  # of the champion's speed, where candidates are slower; each check is a run


@dataclass(frozen=True)
class Standing:
    """Where a run stands.

    Attributes:
      champion: the experiment that measured the champion's program.
      trials: the champion's that have a score, see `Ledger.scored`.
      runs: those of them that count.
      anchor: runs of the last champion that was kept for its gain; none if that is the present one.
      noise: the noise floor; None if no champion has two runs.
      baseline_memory: peak memory of the baseline, in bytes, None where it is not known.
    """

    champion: ExperimentRow
    trials: Sequence[TrialRow]
    runs: Sequence[TrialRow]
    anchor: Sequence[Score]
    noise: Noise | None
    baseline_memory: float | None

    @property
    def seeds(self) -> list[int]:
        """What the champion ran with."""
        return [run.seed for run in self.runs]

    def evidence(self, runs: Sequence[TrialRow], nodes_saved: int) -> Evidence:
        """What speaks for and against a candidate.

        Args:
          runs: the candidate's that count, at least one.
          nodes_saved: see `Evidence`.
        """
        return Evidence(
            champion=_scores(self.runs),
            candidate=_scores(runs),
            noise=self.noise,
            nodes_saved=nodes_saved,
            anchor=self.anchor,
            memory=PeakMemory(_peak_memory(runs), _peak_memory(self.runs), self.baseline_memory),
        )

    def check_speed(self, ruling: Ruling, trials: Sequence[TrialRow], last_trial: int) -> Ruling:
        """What to do in place of a ruling, if a difference in speed may be the machine's; else the ruling.

        A first run that was slower is repeated. Before a faster candidate is kept, the champion has to show that it is
        still as slow; before a slower one is discarded, now and then that it is still as fast. A champion that is not
        runs until most of its latest runs agree.

        Args:
          ruling: on the candidate.
          trials: the candidate's that have a score.
          last_trial: number of the latest trial of the run.
        """
        own = typical_speed(self.runs)
        speed = typical_speed(trials)
        if own is None or speed is None:
            return ruling
        share = speed / own - 1
        words = f"{ruling.reason}; but it ran {abs(share):.0%} {'faster' if share > 0 else 'slower'} than the champion"
        if len(trials) == 1 and share < -TOLERANCE:
            return Ruling(Step.MEASURE_CANDIDATE, f"{words}, and the machine may have been busy")
        if ruling.step.keeps and 1 / (1 + share) < 1 - TOLERANCE:
            since = trials[0].id
        elif ruling.step is Step.DISCARD and share < -TOLERANCE:
            since = last_trial - TRIALS_BETWEEN_CHECKS
        else:
            return ruling
        latest = self.trials[-1]
        if latest.id > since and latest in self.runs:
            return ruling
        return Ruling(Step.MEASURE_CHAMPION, f"{words}: is the machine as fast as it was then?")

    def doubt_pruned(self, pruned: TrialRow, last_trial: int) -> Ruling | None:
        """What else to do before a candidate is discarded whose first run was pruned; None if nothing.

        One that was slow runs once more: the machine may have been busy. Now and then the champion has to show first
        that it is still as fast as it was when it was measured; what is pruned tells nobody that it is not.

        Args:
          pruned: the candidate's run, its only one.
          last_trial: number of the latest trial of the run.
        """
        latest = self.trials[-1]
        if latest.id > pruned.id:  # it ran for this
            if latest in self.runs:
                return Ruling(Step.MEASURE_CANDIDATE, f"{pruned.error}; but the champion has been measured again since")
            return Ruling(Step.MEASURE_CHAMPION, f"{pruned.error}; but is the champion as fast as it was then?")
        own, speed = typical_speed(self.runs), pruned.steps_per_second
        if own is None or speed is None or speed / own >= 1 - TOLERANCE:
            return None
        words = f"{pruned.error}; but it ran {1 - speed / own:.0%} slower than the champion"
        if latest.id <= last_trial - TRIALS_BETWEEN_CHECKS:
            return Ruling(Step.MEASURE_CHAMPION, f"{words}: is the machine as fast as it was then?")
        return Ruling(Step.MEASURE_CANDIDATE, f"{words}, and the machine may have been busy")


def read_standing(ledger: Ledger) -> Standing | None:
    """Where a run stands; None before there is a baseline. A pure function of what is concluded in the ledger."""
    return ledger.remembered(_standing)


def _standing(ledger: Ledger) -> Standing | None:
    rows = [row for row in ledger.experiments() if row.kind is not Kind.TRIAL and not row.is_open]
    kept = [row for row in rows if row.decision is Verdict.KEEP]
    if not kept:
        return None
    measured = {row.id: ledger.measured(row) for row in kept}  # a refactoring has no trials of its own
    champion = measured[kept[-1].id]
    for_gain = [row for row in kept if not row.simplification and row.status is Status.OK]
    anchor = [] if for_gain[-1].id == champion.id else _scores(ledger.runs(for_gain[-1]))
    runs = {row.id: ledger.runs(row) for row in measured.values()}
    return Standing(
        champion=champion,
        trials=ledger.scored(champion),
        runs=runs[champion.id],
        anchor=anchor,
        noise=_noise(ledger, rows, _enough(ledger, measured, runs), {row: found.id for row, found in measured.items()}),
        baseline_memory=_peak_memory(runs[kept[0].id]),
    )


def _enough(
    ledger: Ledger, measured: Mapping[int, ExperimentRow], runs: Mapping[int, Sequence[TrialRow]]
) -> Mapping[int, Sequence[TrialRow]]:
    """Runs to know the noise by: those that count, or where no champion has two of them, all.

    A machine whose speed changes from each run to the next adds to the noise, and must not end a night for want of it.
    """
    if max(map(len, runs.values())) > 1:
        return runs
    return {row.id: ledger.scored(row) for row in measured.values()}


def _noise(
    ledger: Ledger,
    rows: Sequence[ExperimentRow],
    runs: Mapping[int, Sequence[TrialRow]],
    champion_of: Mapping[int, int],
) -> Noise | None:
    values = {
        champion: {trial.seed: trial.score.value for trial in trials if trial.purpose is Purpose.CHAMPION}
        for champion, trials in runs.items()
    }
    if max(map(len, values.values())) < 2:
        return None
    first_runs: dict[int, list[tuple[float, float]]] = {champion: [] for champion in values}
    for row in rows:
        if row.kind is not Kind.PROPOSAL or row.parent is None:
            continue
        first = ledger.first_run(row)
        partners = values[champion_of[row.parent]]
        if first is not None and first.seed in partners:
            first_runs[champion_of[row.parent]].append((partners[first.seed], first.value))
    return estimate_noise([list(found.values()) for found in values.values()], list(first_runs.values()))


def _scores(runs: Sequence[TrialRow]) -> list[Score]:
    return [run.score for run in runs]


def _peak_memory(runs: Sequence[TrialRow]) -> float | None:
    known = [peak for run in runs if isinstance(peak := run.metrics.get("peak_memory_bytes"), int | float)]
    return median(known) if known else None
