"""A simulated night with several runs in flight."""

import importlib
from pathlib import Path

import pytest


@pytest.fixture
def bench_flight(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "scripts")
    return importlib.import_module("bench_flight")


def test_four_in_flight_take_a_third_of_the_time_and_move_what_was_overtaken(bench_flight):
    one, four = (bench_flight.simulate("C", slots, "a seed") for slots in (1, 4))
    assert (one.moved, four.moved > 0) == (0, True)
    assert four.time < 0.31 * one.time
    assert one == bench_flight.simulate("C", 1, "a seed")
