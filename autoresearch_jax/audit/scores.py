"""What an audit's trials say of its subjects: a pure function of recorded numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autoresearch_jax.audit.log import AuditTrialRow
from autoresearch_jax.decide.noise import mean_of
from autoresearch_jax.types import Metric, Status

Value = Callable[[AuditTrialRow], float | None]


def on_val(trial: AuditTrialRow) -> float | None:
    """The score on the split that steers the search."""
    return trial.value


def on_holdout(trial: AuditTrialRow) -> float | None:
    """The score on the holdout; None where it was not read."""
    return trial.holdout


@dataclass(frozen=True)
class Scores:
    """The trials of an audit.

    Attributes:
      trials: those with a score, by subject and seed.
      failures: those that ended without one, in their order.
    """

    trials: Mapping[str, Mapping[int, AuditTrialRow]]
    failures: Sequence[AuditTrialRow]

    def mean(self, subject: str, value: Value) -> float | None:
        """The mean of a subject's scores; None if it has none."""
        values = [found for trial in self.trials.get(subject, {}).values() if (found := value(trial)) is not None]
        return mean_of(values) if values else None

    def runs(self, subject: str) -> int:
        """How many trials of a subject have a score."""
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


def read_scores(trials: Sequence[AuditTrialRow]) -> Scores:
    """Sorts the trials of one audit; one that was begun and not finished is neither a score nor a failure."""
    scored: dict[str, dict[int, AuditTrialRow]] = {}
    for trial in trials:
        if trial.value is not None:
            scored.setdefault(trial.subject, {})[trial.seed] = trial
    return Scores(scored, [trial for trial in trials if trial.status not in (None, Status.OK)])
