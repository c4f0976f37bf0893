"""What an audit's trials say of its subjects: a pure function of recorded numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autoresearch_jax.measurement import Metric, Status
from autoresearch_jax.search.audit.log import AuditTrialRow
from autoresearch_jax.search.drift import slowdown
from autoresearch_jax.search.noise import mean_of

Value = Callable[[AuditTrialRow], float | None]


def on_val(trial: AuditTrialRow) -> float | None:
    """The score on the split that steers the search."""
    return trial.value


def on_holdout(trial: AuditTrialRow) -> float | None:
    """The score on the holdout; None where it was not read."""
    return trial.holdout


@dataclass(frozen=True)
class Scores:
    """The trials of an audit that count, by subject and seed.

    Attributes:
      trials: that have a score and did not run on a busy machine.
      failures: that have none, in their order.
      slow: how many ran on a busy machine.
    """

    trials: Mapping[str, Mapping[int, AuditTrialRow]]
    failures: Sequence[AuditTrialRow]
    slow: int

    def mean(self, subject: str, value: Value) -> float | None:
        """The mean of a subject's scores; None if it has none."""
        values = [found for trial in self.trials.get(subject, {}).values() if (found := value(trial)) is not None]
        return mean_of(values) if values else None

    def runs(self, subject: str) -> int:
        """How many trials of a subject count."""
        return len(self.trials.get(subject, {}))

    def gains(self, subject: str, over: str, value: Value, metric: Metric) -> dict[int, float]:
        """How much better one subject is than another, for each seed with which both have a score."""
        others = self.trials.get(over, {})
        gains = {}
        for seed, trial in self.trials.get(subject, {}).items():
            one, other = value(trial), value(others[seed]) if seed in others else None
            if one is not None and other is not None:
                gains[seed] = metric.gain(one, over=other)
        return gains


def read_scores(trials: Sequence[AuditTrialRow], budget_is_seconds: bool) -> Scores:
    """Sorts out what counts: a trial without a score does not, nor one that a busy machine gave less training.

    Args:
      trials: of one audit; one that was begun and not finished has no score.
      budget_is_seconds: False for a budget in steps, for which a busy machine does not matter.
    """
    scored = [trial for trial in trials if trial.value is not None]
    subjects = dict.fromkeys(trial.subject for trial in scored)
    counted = {
        subject: [
            trial
            for trial in scored
            if trial.subject == subject and not (budget_is_seconds and _ran_slow(trial, scored))
        ]
        for subject in subjects
    }
    return Scores(
        trials={subject: {trial.seed: trial for trial in found} for subject, found in counted.items()},
        failures=[trial for trial in trials if trial.status not in (None, Status.OK)],
        slow=len(scored) - sum(map(len, counted.values())),
    )


def _ran_slow(trial: AuditTrialRow, scored: Sequence[AuditTrialRow]) -> bool:
    others = [other for other in scored if other.subject == trial.subject and other.id != trial.id]
    speeds = [speed for other in others if (speed := other.steps_per_second) is not None]
    return slowdown(trial.steps_per_second, speeds) is not None
