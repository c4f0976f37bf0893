"""The training loop, its loss curve and its profiler: feeds tokens to compiled steps until the budget is spent."""

import collections
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from autoresearch_jax.tasks.lm.clock import Clock
from autoresearch_jax.tasks.lm.config import PROFILED_STEPS
from autoresearch_jax.types import CURVE_POINTS, Budget, LossLimit

MAX_STEPS_IN_FLIGHT = 2
START_MARGIN = 1.5  # a step is started early only if the one before would end in time even at this many times its time
HICCUP_SECONDS = 0.1  # and if it would at this time, since short steps may take many times theirs
PROGRESS_SECONDS = 0.5  # between two reports


class Curve:
    """The mean loss of each twentieth of one training's budget, compared with its limits as it grows."""

    def __init__(self, stop_above: Sequence[LossLimit] = ()) -> None:
        self._limits = {limit.point: limit.loss for limit in stop_above}
        self._points: list[float] = []
        self._losses: list[float] = []  # of the steps that ended in the twentieth at hand
        self._num_over = 0  # twentieths that no further step belongs to
        self._is_broken = False

    def add(self, spent: float, loss: float) -> bool:
        """Adds a step that ended when `spent` twentieths of the budget were spent; True if the curve is too high."""
        own = min(CURVE_POINTS, max(1, math.ceil(spent)))
        too_high = False
        while self._num_over < own - 1:
            too_high = self._end_twentieth() or too_high
        self._losses.append(loss)
        if math.floor(spent) >= own > self._num_over:
            too_high = self._end_twentieth() or too_high
        return too_high

    @property
    def points(self) -> tuple[float, ...]:
        """The mean loss of each twentieth that is over, up to the first in which no step ended."""
        return tuple(self._points)

    def _end_twentieth(self) -> bool:
        """True if its mean loss is too high; behind a twentieth without a step nothing is compared."""
        losses, self._losses = self._losses, []
        self._num_over += 1
        self._is_broken = self._is_broken or not losses
        if self._is_broken:
            return False
        self._points.append(math.fsum(losses) / len(losses))
        return self._points[-1] > self._limits.get(self._num_over, math.inf)


class Profiler:
    """Traces PROFILED_STEPS steps in the middle of a budget, for TensorBoard's profile plugin and for Perfetto.

    Attributes:
      num_steps: how many were traced; fewer where the budget ended before.
    """

    def __init__(self, folder: Path, budget: Budget) -> None:
        """Touches nothing yet; the trace will be in plugins/profile/DATE of the folder."""
        self.num_steps = 0
        self._folder = folder
        self._first = None if budget.steps is None else max(0, (budget.steps - PROFILED_STEPS) // 2)
        self._is_running = self._is_over = False

    def is_due(self, num_steps: int, progress: float) -> bool:
        """Whether to `switch` before the next step, no step being in flight."""
        if self._is_running or self._is_over:
            return self._is_running and self.num_steps == PROFILED_STEPS
        return progress >= 1 / 2 if self._first is None else num_steps >= self._first

    def switch(self) -> None:
        """Starts or stops tracing, which takes a while."""
        if self._is_running:
            self.stop()
            return
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # Python is ours, and tracing it slows the steps
        jax.profiler.start_trace(self._folder, create_perfetto_trace=True, profiler_options=options)
        self._is_running = True

    def step(self, number: int) -> AbstractContextManager[object]:
        """Names what is handed over within a step of training."""
        if not self._is_running:
            return nullcontext()
        self.num_steps += 1
        return jax.profiler.StepTraceAnnotation("train", step_num=number)

    def stop(self) -> None:
        """Stops tracing, if it goes on, and writes the trace."""
        if self._is_running:
            self._is_running, self._is_over = False, True
            jax.profiler.stop_trace()


@dataclass(frozen=True)
class TrainPhase:
    """A compiled step with its data.

    Attributes:
      from_progress: the phase begins at this progress.
      step: (leaves, int32[rows, context + 1], float32[]) -> (leaves, metrics); donates its leaves.
      next_tokens: gives the next batch, as a host array.
      put_tokens: moves a batch to the devices.
      tokens_per_step: rows times context.
      loss_index: where in metrics the loss is.
    """

    from_progress: float
    step: Callable[[Any, jax.Array, Any], tuple[Any, Sequence[jax.Array]]]
    next_tokens: Callable[[], np.ndarray]
    put_tokens: Callable[[np.ndarray], jax.Array]
    tokens_per_step: int
    loss_index: int


@dataclass
class TrainResult:
    """The result of training; while it goes on, the result so far.

    Attributes:
      leaves: the state's arrays after the last step.
      seconds: by the budget's clock, from the first step's start to the last step's end.
      wall_seconds: the same by the wall clock, calibrations included.
      data_wait_seconds: of `seconds`, waiting for tokens from the host.
      losses: (elapsed seconds at its end, nats per token) of each finished step.
      step_walls: wall seconds from the end of the step before, or the start, to the end of each step.
      curve: the mean loss of each twentieth of the budget, as far as training came.
      nonfinite: training stopped because the loss was no finite number.
      pruned: training stopped because the loss was above a limit.
      stretched: training stopped at the wall clock's limit, before the budget was spent.
    """

    leaves: Any
    num_steps: int = 0
    num_tokens: int = 0
    seconds: float = 0.0
    wall_seconds: float = 0.0
    data_wait_seconds: float = 0.0
    losses: list[tuple[float, float]] = field(default_factory=list)
    step_walls: list[float] = field(default_factory=list)
    curve: tuple[float, ...] = ()
    nonfinite: bool = False
    pruned: bool = False
    stretched: bool = False


def train(
    leaves: Any,
    phases: Sequence[TrainPhase],
    *,
    budget: Budget,
    clock: Clock,
    on_progress: Callable[[TrainResult], None] = lambda result: None,
    stop_above: Sequence[LossLimit] = (),
    wall_limit: float = math.inf,
    profiler: Profiler | None = None,
) -> TrainResult:
    """Trains until the budget or the wall clock's limit is spent, or the loss is not finite or above a limit.

    The clock starts with the first step. No step starts after the budget, so the last one ends at most one step's time
    beyond it. While the device works on a step the next one is queued there (two in flight), except near the end and
    before a step's time is known.

    Args:
      leaves: the initial state's arrays, ready on the devices.
      phases: in order of `from_progress`, the first at 0.
      budget: seconds by `clock`, or steps.
      clock: the steps see only `progress`, the share of the budget elapsed when they start.
      on_progress: called about twice a second.
      stop_above: in nats per token, compared when their point of the budget is reached.
      wall_limit: seconds of the wall clock after which no further step starts.
      profiler: traces some of the steps; the time of starting and stopping it is no part of the budget.
    """
    curve = Curve(stop_above)
    return _Loop(TrainResult(leaves), phases, budget, clock, on_progress, curve, wall_limit, profiler).run()


@dataclass
class _Loop:
    result: TrainResult
    phases: Sequence[TrainPhase]
    budget: Budget
    clock: Clock
    on_progress: Callable[[TrainResult], None]
    curve: Curve
    wall_limit: float
    profiler: Profiler | None
    phase: TrainPhase | None = None  # of the step started last
    # (phase, loss) of steps not yet known to be done
    in_flight: collections.deque[tuple[TrainPhase, jax.Array]] = field(default_factory=collections.deque)
    step_seconds: float = math.inf  # of the slower of this phase's last two steps
    last_intervals: collections.deque[float] = field(default_factory=lambda: collections.deque(maxlen=2))

    def run(self) -> TrainResult:
        self.wall_start = self.last_end_wall = self.clock.wall()
        self.start = self.last_end = self.last_report = self.clock.now()
        while not self._is_over():
            if self.in_flight and (self.clock.is_due() or self._is_profiler_due() or not self._may_start()):
                self._finish_step()
            elif not self._may_start():
                break
            elif self.clock.wall() - self.wall_start > self.wall_limit:  # after the budget, which may end as late
                self.result.stretched = True
            elif self._is_profiler_due():
                self._switch_profiler()
            elif self.clock.is_due():
                self.clock.calibrate()
                self.last_end_wall = self.clock.wall()
            else:
                self._start_step()
                if len(self.in_flight) == MAX_STEPS_IN_FLIGHT:
                    self._finish_step()
        jax.block_until_ready(self.result.leaves)
        self.result.seconds = self.clock.now() - self.start
        self.result.wall_seconds = self.clock.wall() - self.wall_start
        if self.profiler is not None:
            self.profiler.stop()
        self.result.curve = self.curve.points
        return self.result

    def _is_over(self) -> bool:
        """Whether training has ended before its budget."""
        return self.result.nonfinite or self.result.pruned or self.result.stretched

    def _elapsed(self) -> float:
        return self.clock.now() - self.start

    def _is_profiler_due(self) -> bool:
        return self.profiler is not None and self.profiler.is_due(self.result.num_steps, self._progress())

    def _switch_profiler(self) -> None:
        """Takes the time out of all that is measured, as if the training had begun later."""
        assert self.profiler is not None
        now, wall = self.clock.now(), self.clock.wall()
        self.profiler.switch()
        taken = self.clock.now() - now
        self.start += taken
        self.last_end += taken
        self.last_end_wall = self.clock.wall()
        self.wall_start += self.last_end_wall - wall

    def _progress(self) -> float:
        """Share of the budget that will have passed when a step handed over now starts."""
        if self.budget.steps is not None:
            return self.result.num_steps / self.budget.steps
        assert self.budget.seconds is not None
        begins = self._elapsed()
        if self.in_flight:
            begins = max(begins, self.last_end - self.start + self.step_seconds * len(self.in_flight))
        return min(begins / self.budget.seconds, 1.0)

    def _points_spent(self, now: float) -> float:
        """Twentieths of the budget that are spent when a step has just finished."""
        if self.budget.steps is not None:
            return len(self.result.losses) * CURVE_POINTS / self.budget.steps
        assert self.budget.seconds is not None
        return (now - self.start) * CURVE_POINTS / self.budget.seconds

    def _may_start(self) -> bool:
        """Whether a step handed over now is certain to start within the budget."""
        if self.budget.steps is not None:
            return self.result.num_steps < self.budget.steps
        assert self.budget.seconds is not None
        wait = max(START_MARGIN * self.step_seconds, HICCUP_SECONDS) * len(self.in_flight) if self.in_flight else 0.0
        return self._elapsed() + wait < self.budget.seconds

    def _start_step(self) -> None:
        phase = [phase for phase in self.phases if phase.from_progress <= self._progress()][-1]
        before_wait = self.clock.now()
        host_tokens = phase.next_tokens()
        self.result.data_wait_seconds += self.clock.now() - before_wait
        is_new_phase = phase is not self.phase  # its steps may take many times as long: nothing is known of them
        while self.in_flight and (is_new_phase or not self._may_start()):
            self._finish_step()
        if self._is_over() or not self._may_start():  # any more, after the wait
            return
        if is_new_phase:
            self.phase, self.step_seconds = phase, math.inf
            self.last_intervals.clear()
        progress = self._progress()
        tokens = phase.put_tokens(host_tokens)
        with nullcontext() if self.profiler is None else self.profiler.step(self.result.num_steps):
            self.result.leaves, metrics = phase.step(self.result.leaves, tokens, np.float32(progress))
        self.result.num_steps += 1
        self.result.num_tokens += phase.tokens_per_step
        self.in_flight.append((phase, metrics[phase.loss_index]))

    def _finish_step(self) -> None:
        phase, pending_loss = self.in_flight.popleft()
        loss = float(pending_loss)  # waits for the step
        now, wall = self.clock.now(), self.clock.wall()
        self.result.step_walls.append(wall - self.last_end_wall)
        if phase is self.phase:
            # a clock that corrects itself may stand still meanwhile
            self.last_intervals.append(max(now - self.last_end, self.result.step_walls[-1]))
            self.step_seconds = max(self.last_intervals)
        self.last_end, self.last_end_wall = now, wall
        self.result.losses.append((now - self.start, loss))
        if math.isfinite(loss):
            self.result.pruned = self.curve.add(self._points_spent(now), loss) or self.result.pruned
        else:
            self.result.nonfinite = True
        if now - self.last_report >= PROGRESS_SECONDS:
            self.last_report = now
            self.on_progress(self.result)
