"""What bench_night makes of nights: random changes, the table and the figures."""

import importlib
import random
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.proposers.space import Choices, Constant, FloatRange, IntRange


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "scripts")
    return importlib.import_module("bench_night")


def test_a_random_change_moves_one_or_two_constants_to_other_values_of_their_rows(bench: ModuleType) -> None:
    space = [
        Constant("DEPTH", IntRange(1, 2)),
        Constant("WIDTH", IntRange(1, 9, log=True)),
        Constant("LR", FloatRange(0.01, 1.0, log=True)),
        Constant("DECAY", FloatRange(0.0, 0.4)),
        Constant("PATTERN", Choices(("S", "L"))),
    ]
    now = {"DEPTH": 1, "WIDTH": 3, "LR": 0.1, "DECAY": 0.0, "PATTERN": "L"}
    draw = random.Random(0)
    changes = [bench.draw_change(space, now, draw) for _ in range(300)]
    assert {len(change) for change in changes} == {1, 2}
    rows = {row.name: row.values for row in space}
    assert {name for change in changes for name in change} == rows.keys()
    for name, value in (pair for change in changes for pair in change.items()):
        assert rows[name].contains(value)
        assert value != now[name]
    rates = [change["LR"] for change in changes if "LR" in change]
    assert 0.3 < sum(rate < 0.1 for rate in rates) / len(rates) < 0.7, "spread over magnitudes"


def test_a_night_is_better_by_the_champions_trained_again_and_not_by_what_was_claimed(bench: ModuleType) -> None:
    hybrid = bench.Night(40, 25, 4, (2, 1), Estimate(1.52, 0.03), (1.48, 1.5, 1.52), (1.7, 1.72, 1.74), 9.0)
    greedy = bench.Night(40, 39, 7, (0, 0), Estimate(1.4, 0.0), (1.58, 1.6, 1.62), (), 6.0)
    worse = replace(hybrid, again=(1.6, 1.61, 1.65))
    nights = {0: {"hybrid": hybrid, "greedy": greedy}, 3: {"hybrid": worse, "greedy": greedy}}
    found = bench.figures(nights)
    assert found["night_better_seeds"] == "1 of 2"
    assert (found["night_hybrid_val_bpb_0"], found["night_greedy_val_bpb_3"]) == ("1.5000", "1.6000")
    assert found["night_baseline_val_bpb_0"] == "1.7200"
    assert found["night_hybrid_reported_0"] == "1.520 +- 0.030"
    error = (0.03**2 + 0.02**2 / 3) ** 0.5
    assert float(found["night_reported_error_sigma_0"]) == pytest.approx(0.02 / error, abs=0.01)
    assert (found["night_hybrid_kept_0"], found["night_greedy_kept_0"]) == ("4", "7")
    assert found["night_greedy_trials_3"] == "40"
    lines = bench.table(nights).splitlines()
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert len(lines) == 2 + 4
    assert "1.4000" in lines[3], "what greedy claimed"
