"""The greedy rule, in both directions of the metric."""

import pytest

from autoresearch_jax.measurement import Metric
from autoresearch_jax.search.decision import Evidence, GreedyDecision, Ruling, Score, Step


@pytest.mark.parametrize(
    ("direction", "candidate", "step", "gain"),
    [
        ("minimize", 0.5, Step.KEEP, "+0.250000"),
        ("minimize", 1.0, Step.DISCARD, "-0.250000"),
        ("minimize", 0.75, Step.DISCARD, "+0.000000"),
        ("maximize", 1.0, Step.KEEP, "+0.250000"),
        ("maximize", 0.75, Step.DISCARD, "+0.000000"),
    ],
)
def test_greedy_keeps_what_is_strictly_better(direction, candidate, step, gain):
    rule = GreedyDecision(Metric("m", direction))
    evidence = Evidence([Score(1, 0.75), Score(2, 0.0)], [Score(1, candidate)])
    reason = f"m {candidate:.6f} against the champion's 0.750000 ({gain}), one run each"
    assert rule.decide(evidence) == Ruling(step, reason)
    assert rule.settings == {"decision": "greedy"}
