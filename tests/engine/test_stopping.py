"""When each stop condition holds."""

import dataclasses

import pytest

from autoresearch_jax.engine.stopping import Progress, parse_stop

START = Progress(experiments=0, seconds=0.0, dollars=0.0, since_keep=0, metric="val_bpb", score=1.0)


@pytest.mark.parametrize(
    ("item", "before", "after"),
    [
        ("10 experiments", {"experiments": 9}, {"experiments": 10}),
        ("8 hours", {"seconds": 28799.0}, {"seconds": 28800.0}),
        ("2 dollars", {"dollars": 1.99}, {"dollars": 2.0}),
        ("no keep in 5 experiments", {"since_keep": 4}, {"since_keep": 5}),
        ("val_bpb <= 0.97", {"score": 0.971}, {"score": 0.97}),
        ("accuracy >= 0.9", {"score": 0.95}, {"score": 0.9, "metric": "accuracy"}),
    ],
)
def test_a_limit_holds_from_its_number_on(item, before, after):
    stop = parse_stop(item)
    assert stop.reached(dataclasses.replace(START, **before)) is None
    assert stop.reached(dataclasses.replace(START, **after)) == item


@pytest.mark.parametrize("item", ["", "hours", "8 days", "experiments 8", "-3 experiments", "val_bpb < 1", "8 hours 1"])
def test_other_items_are_not_guessed_at(item):
    assert parse_stop(item) is None
