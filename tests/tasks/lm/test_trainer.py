"""The training loop on a clock that only steps and calibrations move, and its loss curve."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
import pytest

from autoresearch_jax.tasks.lm.config import PROFILED_STEPS
from autoresearch_jax.tasks.lm.trainer import MAX_STEPS_IN_FLIGHT, Curve, Profiler, TrainPhase, TrainResult, train
from autoresearch_jax.types import CURVE_POINTS, Budget, LossLimit, Scalar


def test_a_point_is_the_mean_of_the_steps_that_ended_in_its_twentieth():
    curve = Curve()
    steps = 50
    for step in range(1, steps + 1):
        curve.add(step * CURVE_POINTS / steps, float(step))
    assert curve.points[:4] == (1.5, 4.0, 6.5, 9.0), "steps 1 2 | 3 4 5 | 6 7 | 8 9 10"
    assert len(curve.points) == CURVE_POINTS


def test_a_point_counts_once_no_further_step_can_belong_to_it():
    curve = Curve([LossLimit(1, 1.0)])
    assert not curve.add(0.5, 5.0), "more may follow in this twentieth"
    assert curve.points == ()
    assert curve.add(1.2, 0.0), "which is of the next"
    assert Curve([LossLimit(1, 1.0)]).add(1.0, 5.0), "this one is its last"


def test_a_mean_that_is_no_higher_than_the_limit_passes():
    assert not Curve([LossLimit(1, 1.0)]).add(1.0, 1.0)
    assert Curve([LossLimit(1, 1.0)]).add(1.0, 1.0001)
    assert not Curve([LossLimit(2, 1.0)]).add(1.0, 9.0), "no other point is looked at"


def test_a_point_without_a_step_ends_the_curve_and_is_held_against_nothing():
    curve = Curve([LossLimit(2, 0.0), LossLimit(3, 0.0)])
    curve.add(1.0, 5.0)
    assert not curve.add(3.5, 5.0), "no step ended in the second and the third twentieth"
    assert curve.points == (5.0,)


def test_a_program_with_steps_longer_than_a_twentieth_is_not_stopped():
    """Most of its twentieths have no step, so there is no curve to say where it was stopped."""
    curve = Curve([LossLimit(point, 0.0) for point in range(2, CURVE_POINTS + 1)])
    assert not any(curve.add(1.3 * step, 5.0) for step in range(1, 16))
    assert curve.points == ()
    stalled = Curve([LossLimit(point, 0.0) for point in range(2, CURVE_POINTS + 1)])
    assert not any(stalled.add(spent, 5.0) for spent in (0.5, 3.5, *(4 + step / 4 for step in range(60))))
    assert stalled.points == (5.0,)


def test_the_last_step_may_end_after_the_budget():
    curve = Curve()
    for step in range(1, CURVE_POINTS):
        curve.add(step, 2.0)
    curve.add(CURVE_POINTS + 3.0, 1.0)
    assert curve.points == (2.0,) * (CURVE_POINTS - 1) + (1.0,)


class Device:
    """A device that works its steps off one after another, and the clock that goes on meanwhile.

    A step handed over starts when the one before it is done. Reading a loss waits for its step. The clock counts a
    share of the wall time and leaves out its calibrations. With `steps_between`, a calibration is due before the first
    step and again after that many steps; without it, none is due.
    """

    def __init__(
        self,
        step_seconds: Callable[[int], float],
        loss: Callable[[int], float] = lambda step: 1.0,
        *,
        share: float = 1.0,
        steps_between: int | None = None,
        calibration_seconds: float = 0.25,
    ) -> None:
        self.time = 100.0
        self.step_seconds = step_seconds
        self.loss = loss
        self.share = share
        self.steps_between = steps_between
        self.calibration_seconds = calibration_seconds
        self.calibrations: list[float] = []  # when each began
        self.steps_until_due = 0 if steps_between is not None else math.inf
        self.starts: list[float] = []
        self.ends: list[float] = []
        self.progress: list[float] = []
        self.batches: list[str] = []
        self.read = 0
        self.most_in_flight = 0

    def now(self) -> float:
        return self.share * (self.time - self.calibration_seconds * len(self.calibrations))

    def wall(self) -> float:
        return self.time

    def is_due(self) -> bool:
        return self.read >= self.steps_until_due

    def calibrate(self) -> None:
        assert self.steps_between is not None
        assert self.read == len(self.starts), "a step is in flight"
        self.calibrations.append(self.time)
        self.steps_until_due = self.read + self.steps_between
        self.time += self.calibration_seconds

    def figures(self) -> dict[str, Scalar]:
        return {"clock": "a fake"}

    def phase(self, name: str = "first", from_progress: float = 0.0, wait_seconds: float = 0.0) -> TrainPhase:
        def step(leaves: int, tokens: np.ndarray, progress: np.float32) -> tuple[int, Sequence["PendingLoss"]]:
            index = len(self.starts)
            self.starts.append(max(self.time, self.ends[-1] if self.ends else 0.0))
            self.batches.append(name)
            self.ends.append(self.starts[-1] + self.step_seconds(index))
            self.progress.append(float(progress))
            self.most_in_flight = max(self.most_in_flight, len(self.starts) - self.read)
            return leaves + 1, [PendingLoss(self, index)]

        def next_tokens() -> np.ndarray:
            self.time += wait_seconds
            return np.zeros((2, 5), np.int32)

        return TrainPhase(from_progress, step, next_tokens, lambda tokens: tokens, tokens_per_step=8, loss_index=0)

    def train(
        self,
        budget: Budget,
        *phases: TrainPhase,
        wall_limit: float = math.inf,
        profiler: Profiler | None = None,
    ) -> TrainResult:
        phases = phases or (self.phase(),)
        return train(0, phases, budget=budget, clock=self, wall_limit=wall_limit, profiler=profiler)


class PendingLoss:
    """A loss that is there when its step is done."""

    def __init__(self, device: Device, index: int) -> None:
        self.device = device
        self.index = index

    def __float__(self) -> float:
        self.device.time = max(self.device.time, self.device.ends[self.index])
        self.device.read += 1
        return self.device.loss(self.index)


@pytest.mark.parametrize("step_seconds", [0.01, 0.3, 0.7, 1.0, 3.0, 25.0])
def test_no_step_starts_after_the_budget_and_none_is_missing(step_seconds: float) -> None:
    device = Device(lambda step: step_seconds)
    result = device.train(Budget(seconds=10.0))
    begin = device.starts[0]
    assert max(device.starts) - begin < 10.0
    assert 10.0 <= result.seconds < 10.0 + step_seconds + 1e-6
    assert result.seconds == pytest.approx(device.ends[-1] - begin)
    assert result.num_steps == result.leaves == math.ceil(round(10.0 / step_seconds, 6))
    assert result.num_tokens == 8 * result.num_steps


def test_a_hiccup_of_the_machine_starts_no_short_step_after_the_budget() -> None:
    device = Device(lambda step: 0.09 if step == 997 else 0.01)
    device.train(Budget(seconds=10.0))
    assert max(device.starts) - device.starts[0] < 10.0


def test_the_device_is_kept_busy() -> None:
    device = Device(lambda step: 0.1)
    device.train(Budget(seconds=10.0))
    assert device.most_in_flight == MAX_STEPS_IN_FLIGHT
    idle = sum(start - end for start, end in zip(device.starts[1:], device.ends[:-1], strict=True))
    assert idle == pytest.approx(0.0, abs=1e-6)


def test_a_budget_in_steps_is_exact_and_progress_follows_it() -> None:
    device = Device(lambda step: 0.1)
    result = device.train(Budget(steps=4))
    assert result.num_steps == 4
    assert device.progress == [0.0, 0.25, 0.5, 0.75]
    assert [loss for _, loss in result.losses] == [1.0] * 4


def test_progress_follows_the_clock() -> None:
    device = Device(lambda step: 1.0)
    device.train(Budget(seconds=10.0))
    assert device.progress[0] == 0.0
    assert device.progress == sorted(device.progress)
    assert 0.85 <= device.progress[-1] < 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_training(bad: float) -> None:
    device = Device(lambda step: 0.1, loss=lambda step: bad if step == 5 else 1.0)
    result = device.train(Budget(seconds=10.0))
    assert result.nonfinite
    assert len(result.losses) == 6
    assert result.num_steps <= 6 + MAX_STEPS_IN_FLIGHT


def test_waiting_for_data_is_inside_the_budget_and_told() -> None:
    device = Device(lambda step: 0.1)
    result = device.train(Budget(seconds=10.0), device.phase(wait_seconds=0.4))
    assert result.num_steps == 24
    assert result.data_wait_seconds == pytest.approx(0.4 * 25)  # what the last wait was for would have begun too late
    assert max(device.starts) - 100.0 < 10.0
    assert result.seconds < 10.0 + 0.4 + 1e-6


def test_phases_follow_progress() -> None:
    device = Device(lambda step: 0.1)
    device.train(Budget(steps=10), device.phase("short"), device.phase("long", from_progress=0.6))
    assert device.batches == ["short"] * 6 + ["long"] * 4


@pytest.mark.parametrize("from_progress", [0.5, 0.93, 0.95, 0.97])
def test_a_slower_phase_late_in_the_budget_starts_no_step_after_it(from_progress: float) -> None:
    device = Device(lambda step: 60.0 if device.batches[step] == "slow" else 1.0)
    device.train(Budget(seconds=100.0), device.phase("fast"), device.phase("slow", from_progress=from_progress))
    assert device.batches[-1] == "slow"
    assert max(device.starts) - device.starts[0] < 100.0


@pytest.mark.parametrize("budget", [Budget(seconds=10.0), Budget(steps=100)])
@pytest.mark.parametrize("steps_between", [1, 2, 7])
def test_the_clock_calibrates_between_steps_and_outside_of_the_budget(budget: Budget, steps_between: int) -> None:
    """No step is in flight meanwhile, which the device sees to."""
    device = Device(lambda step: 0.1, steps_between=steps_between)
    result = device.train(budget)
    assert device.calibrations[0] == 100.0, "the first one is before the first step"
    assert 100 // (steps_between + MAX_STEPS_IN_FLIGHT) < len(device.calibrations) <= 100 // steps_between + 1
    assert result.num_steps == pytest.approx(100, abs=1)
    assert result.seconds == pytest.approx(10.0, abs=0.11)
    spent = device.calibration_seconds * len(device.calibrations)
    assert result.wall_seconds == pytest.approx(result.seconds + spent)
    calibrating = [(begin, begin + device.calibration_seconds) for begin in device.calibrations]
    for start, end in zip(device.starts, device.ends, strict=True):
        assert not any(start < until - 1e-9 and end > begin + 1e-9 for begin, until in calibrating)


@pytest.mark.parametrize("steps_between", [None, 4])
def test_at_the_wall_clock_s_limit_no_further_step_starts(steps_between: int | None) -> None:
    device = Device(lambda step: 0.1, share=0.1, steps_between=steps_between)
    result = device.train(Budget(seconds=10.0), wall_limit=30.0)
    assert result.stretched
    assert not result.pruned
    assert max(device.starts) <= 130.0 + 0.1 + 1e-6, "one may have been waiting at the device"
    assert 30.0 < result.wall_seconds < 30.0 + 0.1 * MAX_STEPS_IN_FLIGHT + device.calibration_seconds
    assert result.seconds < 3.1
    assert all(begin <= 130.0 + 1e-6 for begin in device.calibrations)
    assert result.num_steps == len(device.starts)


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("step_seconds", [0.01, 0.3, 3.0, 25.0])
def test_a_budget_that_is_spent_within_the_limit_is_spent_however_late_its_last_step_ends(
    share: float, step_seconds: float
) -> None:
    """Also where the limit is the budget itself, as by the wall clock."""
    device = Device(lambda step: step_seconds, share=share)
    result = device.train(Budget(seconds=10.0), wall_limit=10.0 / share)
    assert not result.stretched
    assert result.seconds >= 10.0 - 1e-6


class Tracing:
    """Stands in for JAX's tracing on a device: starting and stopping take seconds, with no step in flight."""

    SECONDS = (3.0, 5.0)

    def __init__(self, device: Device, patch: pytest.MonkeyPatch) -> None:
        self.device = device
        self.switches: list[int] = []  # after how many steps
        patch.setattr(jax.profiler, "start_trace", lambda folder, **options: self._switch())
        patch.setattr(jax.profiler, "stop_trace", self._switch)

    def _switch(self) -> None:
        assert self.device.read == len(self.device.starts), "a step is in flight"
        self.device.time += self.SECONDS[len(self.switches)]
        self.switches.append(self.device.read)


@pytest.mark.parametrize(
    ("budget", "step_seconds", "switches"),
    [
        (Budget(steps=30), 0.1, [10, 20]),
        (Budget(steps=21), 0.1, [5, 15]),
        (Budget(steps=10), 0.1, [0, 10]),
        (Budget(seconds=10.0), 0.1, [50, 60]),
        (Budget(seconds=10.0), 0.3, [17, 27]),
        (Budget(seconds=10.0), 0.8, [7, 13]),
    ],
)
@pytest.mark.parametrize("steps_between", [None, 7])
def test_ten_steps_in_the_middle_are_traced_outside_of_the_budget(
    budget: Budget,
    step_seconds: float,
    switches: list[int],
    steps_between: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = Device(lambda step: step_seconds, steps_between=steps_between).train(budget)
    device = Device(lambda step: step_seconds, steps_between=steps_between)
    tracing, profiler = Tracing(device, monkeypatch), Profiler(tmp_path, budget)
    result = device.train(budget, profiler=profiler, wall_limit=16.0)
    assert tracing.switches == pytest.approx(switches, abs=2 if budget.seconds else 0)
    assert profiler.num_steps == tracing.switches[1] - tracing.switches[0]
    assert profiler.num_steps == PROFILED_STEPS or tracing.switches[1] == result.num_steps
    assert result.num_steps == pytest.approx(expected.num_steps, abs=1)
    assert result.seconds == pytest.approx(expected.seconds, abs=step_seconds)
    assert result.wall_seconds == pytest.approx(expected.wall_seconds, abs=step_seconds + 0.25)
    assert max(result.step_walls) < 2 * step_seconds + 0.25
    assert device.progress == sorted(device.progress)


def test_where_no_step_is_left_there_is_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(lambda step: 25.0)
    tracing, profiler = Tracing(device, monkeypatch), Profiler(tmp_path, Budget(seconds=10.0))
    device.train(Budget(seconds=10.0), profiler=profiler)
    assert (profiler.num_steps, tracing.switches) == (0, [])
