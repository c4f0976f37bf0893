"""How long each phase of a trial may take before the driver kills it."""

from dataclasses import dataclass

from autoresearch_jax.tasks.lm.messages import JUDGE_PHASES
from autoresearch_jax.types import Budget, Scrutiny

# Where every row is probed, judging may take so many times as long: scored twice, and again for a reason if one fails.
EVERY_ROW_SLOWDOWN = 3.0


@dataclass(frozen=True)
class TimeLimits:
    """Seconds after which a phase of a trial is killed.

    Training has `max_stretch` times its budget, by which it ends by itself, and `train_slack`; with a budget in steps
    it has `train_report` from one report of its progress to the next. Of `init`, what goes beyond `free_init` is
    charged to a budget in seconds; judging that takes longer than `free_judge` must not be slower than training (see
    `judging.py`). `judge` is for one split with a sample of probes.
    """

    startup: float = 120.0
    trace: float = 300.0
    check: float = 120.0
    compile: float = 900.0
    init: float = 120.0
    free_init: float = 10.0
    max_stretch: float = 1.0
    train_slack: float = 120.0
    train_report: float = 600.0
    snapshot: float = 600.0
    judge: float = 1800.0
    free_judge: float = 10.0

    def of(self, phase: str, budget: Budget, scrutiny: Scrutiny = Scrutiny.SEARCH) -> float:
        """Limit of a phase; training by steps has none as a whole."""
        if phase in JUDGE_PHASES:
            return self.judge if scrutiny is Scrutiny.SEARCH else EVERY_ROW_SLOWDOWN * self.judge
        if phase == "train":
            return self.train_report if budget.seconds is None else self.max_stretch * budget.seconds + self.train_slack
        return float(getattr(self, phase))
