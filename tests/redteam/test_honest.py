"""No false alarm: honest candidates of many kinds are trained, and judged with every row probed, as before a keep."""

from collections.abc import Callable

import pytest
from redteam import honest_layers, honest_mixing, honest_small, honest_train_lib, honest_training
from redteam.arena import Arena
from redteam.entries import Variant, by_kind

from autoresearch_jax.tasks.lm.probes import PROBE_TOLERANCE
from autoresearch_jax.types import LOSSES, Scrutiny, Status, read_curve

FAST_KINDS = ("looks back",)  # of which the first represents all in the fast suite
MODERN = {**honest_mixing.VARIANTS, **honest_layers.VARIANTS, **honest_training.VARIANTS}


@pytest.mark.parametrize(
    "variant",
    [
        *by_kind({kind: honest_small.VARIANTS[kind] for kind in FAST_KINDS}),
        *by_kind({kind: found for kind, found in honest_small.VARIANTS.items() if kind not in FAST_KINDS}, fast=0),
        *by_kind(honest_train_lib.VARIANTS, fast=0),
        *by_kind(MODERN, fast=0),
    ],
)
def test_an_honest_candidate_is_ok(
    variant: Variant, arena: Arena, record_property: Callable[[str, object], None]
) -> None:
    result = arena.run(variant.source(), scrutiny=Scrutiny.KEEP)

    assert result.status is Status.OK, result
    worst = result.metrics["worst_probe_nats"]
    assert isinstance(worst, float)
    record_property("worst_probe_nats", worst)
    assert worst < PROBE_TOLERANCE / 10  # far from an alarm
    assert result.value is not None
    assert 0 < result.value < 9  # bits per byte: it is trained for 30 steps
    losses = read_curve(result.metrics[LOSSES])
    assert losses[-1] < losses[0]
    assert arena.harm() == []
