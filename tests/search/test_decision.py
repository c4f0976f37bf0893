"""The greedy rule, in both directions of the metric."""

import pytest

from autoresearch_jax.measurement import Metric
from autoresearch_jax.search.decision import Choice, Decision, GreedyDecision, Score


@pytest.mark.parametrize(
    ("direction", "candidate", "choice", "gain"),
    [
        ("minimize", 0.5, Choice.KEEP, "+0.250000"),
        ("minimize", 1.0, Choice.DISCARD, "-0.250000"),
        ("minimize", 0.75, Choice.DISCARD, "+0.000000"),
        ("maximize", 1.0, Choice.KEEP, "+0.250000"),
        ("maximize", 0.75, Choice.DISCARD, "+0.000000"),
    ],
)
def test_greedy_keeps_what_is_strictly_better(direction, candidate, choice, gain):
    rule = GreedyDecision(Metric("m", direction))
    decision = rule.decide([Score(1, 0.75)], [Score(1, candidate)])
    assert decision == Decision(choice, f"m {candidate:.6f} against the champion's 0.750000 ({gain})")
