"""What a run's ledger says of its champion and of the noise: all that a decision on a candidate rests on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from autoresearch_jax.measurement import Status
from autoresearch_jax.search.decision import Evidence, PeakMemory, Score
from autoresearch_jax.search.ledger import Ledger
from autoresearch_jax.search.noise import Noise, estimate_noise
from autoresearch_jax.search.records import ExperimentRow, Kind, Purpose, TrialRow, Verdict


@dataclass(frozen=True)
class Standing:
    """Where a run stands.

    Attributes:
      champion: the experiment that measured the champion's program.
      runs: the champion's, see `Ledger.runs`.
      anchor: runs of the last champion that was kept for its gain; none if that is the present one.
      noise: the noise floor; None if no champion has two runs.
      baseline_memory: peak memory of the baseline, in bytes, None where it is not known.
    """

    champion: ExperimentRow
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
          runs: the candidate's, at least one.
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
        runs=runs[champion.id],
        anchor=anchor,
        noise=_noise(ledger, rows, runs, {row: found.id for row, found in measured.items()}),
        baseline_memory=_peak_memory(runs[kept[0].id]),
    )


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
            first_runs[champion_of[row.parent]].append((partners[first.seed], first.score.value))
    return estimate_noise([list(found.values()) for found in values.values()], list(first_runs.values()))


def _scores(runs: Sequence[TrialRow]) -> list[Score]:
    return [run.score for run in runs]


def _peak_memory(runs: Sequence[TrialRow]) -> float | None:
    known = [peak for run in runs if isinstance(peak := run.metrics.get("peak_memory_bytes"), int | float)]
    return median(known) if known else None
