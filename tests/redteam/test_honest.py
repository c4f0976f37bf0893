"""No false alarm: honest candidates of many kinds are `ok`, however often and at however many rows they are probed."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from redteam import honest_small, honest_train_lib
from redteam.arena import Arena
from redteam.entries import Variant, by_kind

from autoresearch_jax.tasks.lm.judge import Scorer, judge, load_eval_set
from autoresearch_jax.tasks.lm.probes import PROBE_TOLERANCE
from autoresearch_jax.tasks.lm.programs import make_mesh
from autoresearch_jax.tasks.lm.snapshot import load_snapshot
from autoresearch_jax.types import Scrutiny, Status

NUM_DRAWS = 2


@pytest.mark.parametrize("variant", [*by_kind(honest_small.VARIANTS), *by_kind(honest_train_lib.VARIANTS, fast=0)])
def test_an_honest_candidate_is_ok(
    variant: Variant, arena: Arena, record_property: Callable[[str, object], None]
) -> None:
    result = arena.run(variant.source())
    assert result.status is Status.OK, result
    assert result.value is not None
    assert 0 < result.value < 9  # bits per byte: it is trained for 30 steps
    assert result.snapshot is not None

    mesh = make_mesh({"data": 1, "model": 1})
    snapshot = load_snapshot(result.snapshot, mesh)
    scorer = Scorer(snapshot.programs, mesh, max(snapshot.programs.logits))
    eval_set = load_eval_set(arena.dataset, snapshot.programs.vocab_size, "val", None, snapshot.manifest["seed"])
    worst = 0.0
    for draw in range(NUM_DRAWS):
        judged = judge(
            scorer, snapshot.read_leaves, eval_set, random=np.random.default_rng(draw), scrutiny=Scrutiny.KEEP
        )
        assert judged.bpb == pytest.approx(result.value, rel=1e-6)
        worst = max(worst, judged.worst_probe)
    record_property("worst_probe_nats", worst)
    assert math.isfinite(worst)
    assert worst < PROBE_TOLERANCE / 10  # far from an alarm
    assert arena.harm() == []
