"""Items of a stopping list: when they hold, and in which words they are understood."""

import dataclasses

import pytest

from autoresearch_jax.engine.limits import Limit, Progress, Target, read_stops

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
    (stop,), _ = read_stops([item])
    assert stop.reached(dataclasses.replace(START, **before)) is None
    assert stop.reached(dataclasses.replace(START, **after)) == item


@pytest.mark.parametrize(
    ("text", "quantity", "limit"),
    [
        ("1,000 experiments", "experiments", 1000),
        ("[ ] 30 experiments", "experiments", 30),
        ("max. 30 experiments", "experiments", 30),
        ("max_experiments = 30", "experiments", 30),
        ("Stop after 30 experiments", "experiments", 30),
        ("30 experiments (about one night)", "experiments", 30),
        ("8h", "seconds", 28800),
        ("at most 8 hours of wall-clock time", "seconds", 28800),
        ("8 hours - the GPU is booked then", "seconds", 28800),
        ("1h30m", "seconds", 5400),
        ("1 hour, 30 minutes", "seconds", 5400),
        ("1 day, 2h, and 30 min.", "seconds", 95400),
        ("$20", "dollars", 20),
        ("budget: $1,000.50", "dollars", 1000.5),
        ("no improvement for 40 experiments", "since_keep", 40),
        ("40 experiments in a row without a gain", "since_keep", 40),
    ],
)
def test_a_limit_in_the_words_of_people(text, quantity, limit):
    (stop,), unclear = read_stops([text])
    assert isinstance(stop, Limit)
    assert (stop.quantity, stop.limit, unclear) == (quantity, limit, [])


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("val_bpb < 1", Target("val_bpb", "<=", 1.0)),
        ("val_bpb ≤ 0.97 is reached", Target("val_bpb", "<=", 0.97)),
        ("accuracy at least .9", Target("accuracy", ">=", 0.9)),
    ],
)
def test_a_target_in_the_words_of_people(text, target):
    assert read_stops([text]) == ([target], [])


@pytest.mark.parametrize(
    "lines",
    [
        ["30 experiments or 8 hours, whichever comes first."],
        ["Stop when 30 experiments are over, or after 8 hours."],
        ["Stop after 30", "experiments or after 8", "hours"],
    ],
)
def test_several_limits_in_one_text(lines):
    stops, unclear = read_stops(lines)
    assert [(stop.quantity, stop.limit) for stop in stops] == [("experiments", 30), ("seconds", 28800)]
    assert not unclear


def test_a_condition_that_is_wrapped_is_not_another_one():
    stops, unclear = read_stops(["no keep in", "40 experiments"])
    assert ([stop.quantity for stop in stops], unclear) == (["since_keep"], [])


@pytest.mark.parametrize(
    "item",
    [
        *("hours", "experiments 8", "-3 experiments", "8 hours 1", "1,5 hours", "1.000 experiments"),
        *("at least 8 hours", "100 experiments and 8 hours", "~~30 experiments~~", "thirty experiments"),
        *("5 minutes per experiment", "every 10 experiments", "Time per experiment: 5 minutes", "val_bpb of 0.97"),
    ],
)
def test_other_items_are_not_guessed_at(item):
    assert read_stops([item]) == ([], [item])


def test_what_limits_nothing_is_no_riddle():
    assert read_stops(["The first that holds ends the run:"]) == read_stops([""]) == ([], [])
