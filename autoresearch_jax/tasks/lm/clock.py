"""The clocks of a trial's budget: the wall clock, and the attended clock with its reference program.

On a CPU that others use, the wall clock measures the neighbours. The attended clock leaves out the share of the time
that other processes took, as far as the trial's threads wanted it, and counts the rest at the speed that a reference
program had when the run began: see docs/reference/clock.md. That program does what candidates do (embeddings,
attention, bfloat16 matrices, cross-entropy, Adam), so a change of frequency, shared caches or memory slows it, too.

Shapes in names: B rows, T time, D model width, H heads, K head size, V vocabulary, S keys.
"""

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from autoresearch_jax.sandbox.accounting import (
    ATTENDED,
    NANOSECOND,
    PROC,
    WALL,
    Accounting,
    AccountingError,
    CpuUsage,
    LinuxAccounting,
    attended_seconds,
)
from autoresearch_jax.types import ATTENDED_SHARE, CLOCK_FAULT, Scalar

READ_SECONDS = 0.02  # between two readings of the accounts, each of which takes some tenths of a millisecond
WINDOW_SECONDS = 1.0  # over which accounts are set against each other: those of the processors come in ticks of 0.01 s
REFERENCE_SHARE = 0.04  # of the wall time that the reference program may take
UNCOUNTED_RUNS, COUNTED_RUNS = 1, 2  # of it each time: the first finds the candidate's data in the caches
SMOOTHING_SECONDS = 30.0  # of attended time over which the machine's speed is averaged
USUAL_SCATTER, USUAL_SAMPLES = 0.1, 4  # of the samples' logarithms, and what that counts for beside those at hand

TASKS = PROC / "self" / "task"
# A smaller step is too unlike a candidate, a larger one leaves too few runs in a short trial. A run takes about 10 ms
# on two cores of a CPU without bf16 units.
ROWS, CONTEXT, WIDTH, HEADS, VOCAB_SIZE = 4, 64, 128, 2, 1024
BETA1, BETA2, LEARNING_RATE, EPSILON = 0.9, 0.95, 1e-4, 1e-8
WARM_UP_RUNS = 3  # of a new program, before one counts
BASELINE_SECONDS = 1.0  # of processor time that `measure` takes

REST_SECONDS, REST_SHARE = 0.005, 0.1  # a process is idle that computes for at most this share of such a stretch
LONGEST_WAIT_SECONDS = 0.25  # until it is

Params = dict[str, Array]


class Clock(Protocol):
    """Counts how much of a budget is spent."""

    def now(self) -> float:
        """Seconds of the budget since some fixed moment; never goes back."""

    def wall(self) -> float:
        """Seconds of the wall clock since some fixed moment."""

    def is_due(self) -> bool:
        """Whether to calibrate before the next step."""

    def calibrate(self) -> None:
        """Measures the machine's speed, which spends nothing of the budget; no step may be in flight."""

    def figures(self) -> dict[str, Scalar]:
        """Metrics of a trial."""


class WallClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.monotonic()

    def is_due(self) -> bool:
        return False

    def calibrate(self) -> None:
        """Does nothing."""

    def figures(self) -> dict[str, Scalar]:
        return {"clock": WALL}


def slowness(samples: Sequence[float]) -> float:
    """Estimate of log(how much slower the machine is than when the run began), shrunk towards 0.

    The positive-part estimator of James and Stein (1961): a correction no larger than its own error is none. `samples`
    are logarithms of the reference program's time over that of the run's beginning.
    """
    if not samples:
        return 0.0
    mean = fmean(samples)
    squares = math.fsum((sample - mean) ** 2 for sample in samples) + USUAL_SAMPLES * USUAL_SCATTER**2
    variance = squares / (len(samples) - 1 + USUAL_SAMPLES) / len(samples)
    return mean * max(0.0, 1 - variance / mean**2) if mean else 0.0


@dataclass
class _Stretch:
    """Attended seconds since one calibration, and its sample, None if it gave none."""

    sample: float | None = None
    attended: float = 0.0


class AttendedClock:
    """Seconds that this process had the machine, at the speed that the machine had when the run began.

    Once the kernel's accounts turn out to be untrue it continues as the wall clock, and its figures say so.
    """

    def __init__(
        self,
        accounting: Accounting,
        run_reference: Callable[[], float],
        reference_seconds: float,
        wall: Callable[[], float] = time.monotonic,
        wait_for_rest: Callable[[], bool] = lambda: True,
    ) -> None:
        """Starts at zero; raises AccountingError where the accounts cannot be read.

        Args:
          accounting: of this process.
          run_reference: runs the reference program once, and returns its processor seconds.
          reference_seconds: what that was when the run began.
          wall: the clock of `CpuUsage.wall`.
          wait_for_rest: called before each calibration; returns whether the steps' background work has ended.
        """
        self._accounting = accounting
        self._run_reference = run_reference
        self._reference_seconds = reference_seconds
        self._wall = wall
        self._wait_for_rest = wait_for_rest
        self._last = accounting.read()
        self._window = CpuUsage()
        self._stretches = deque([_Stretch()])
        self._recent = 0.0  # attended seconds of the stretches
        self._speed = 1.0  # by the samples of the stretches
        self._settled = 0.0  # seconds of stretches that are no longer averaged over
        self._told = 0.0
        self._steps_wall = self._steps_attended = self._reference_wall = self._reading_wall = 0.0
        self._fault: str | None = None  # of the accounts

    def now(self) -> float:
        if self._wall() - self._last.wall >= READ_SECONDS:
            self._read()
        recent = self._recent + attended_seconds(self._window)
        since = self._wall() - self._last.wall  # all of it, where the accounts are not read any more
        self._told = max(self._told, self._settled + recent * self._speed + since)
        return self._told

    def wall(self) -> float:
        return self._wall()

    def is_due(self) -> bool:
        return self._fault is None and self._reference_wall <= REFERENCE_SHARE * self._steps_wall

    def calibrate(self) -> None:
        self._read()
        if self._fault is not None:
            return
        before = self._last
        is_idle = self._wait_for_rest()
        for _ in range(UNCOUNTED_RUNS):
            self._run_reference()
        seconds = fmean(self._run_reference() for _ in range(COUNTED_RUNS))
        try:
            self._last = self._accounting.read()
        except AccountingError as error:
            self._fault = str(error)
            return
        self._reference_wall += self._last.wall - before.wall
        usable = is_idle and seconds > 0 and self._last.throttled == before.throttled
        self._stretches.append(_Stretch(math.log(seconds / self._reference_seconds) if usable else None))
        self._estimate_speed()

    def figures(self) -> dict[str, Scalar]:
        """Metrics; the speed is relative to the run's beginning, "clock_seconds" what the clock itself took."""
        wall = self._steps_wall + self._window.wall
        attended = self._steps_attended + attended_seconds(self._window)
        return {
            "clock": ATTENDED if self._fault is None else WALL,
            CLOCK_FAULT: self._fault,
            ATTENDED_SHARE: attended / wall if wall else None,
            "machine_speed": self._speed,
            "clock_seconds": self._reference_wall + self._reading_wall,
        }

    def _read(self) -> None:
        """Adds the accounts up to now to the window, and begins another one if it is long enough."""
        if self._fault is not None:
            return
        try:
            usage = self._accounting.read()
        except AccountingError as error:
            self._fault = str(error)
            return
        self._reading_wall += self._wall() - usage.wall
        self._window += usage - self._last
        self._last = usage
        if self._window.wall < WINDOW_SECONDS:
            return
        attended = attended_seconds(self._window)
        self._stretches[-1].attended += attended
        self._recent += attended
        self._steps_wall += self._window.wall
        self._steps_attended += attended
        self._window = CpuUsage()
        while len(self._stretches) > 1 and self._recent > SMOOTHING_SECONDS:
            oldest = self._stretches.popleft()
            self._recent -= oldest.attended
            self._settled += oldest.attended * self._speed
            self._estimate_speed()

    def _estimate_speed(self) -> None:
        self._speed = math.exp(-slowness([stretch.sample for stretch in self._stretches if stretch.sample is not None]))


class Reference:
    """The compiled training step of the reference program with its state; each run trains it one step further."""

    def __init__(self) -> None:
        """Compiles it, or takes it from the compile cache."""
        rng = np.random.default_rng(0)
        shapes = {
            "embedding_VxD": (VOCAB_SIZE, WIDTH),
            "qkv_OxD": (3 * WIDTH, WIDTH),
            "out_DxD": (WIDTH, WIDTH),
            "up_OxD": (4 * WIDTH, WIDTH),
            "down_DxO": (WIDTH, 4 * WIDTH),
            "unembedding_VxD": (VOCAB_SIZE, WIDTH),
        }
        params = {name: jnp.asarray(rng.normal(0, 0.02, shape), jnp.float32) for name, shape in shapes.items()}
        zeros = jax.tree.map(np.zeros_like, params)
        self._state = jax.device_put((params, zeros, zeros))
        self._tokens_BxT1 = jnp.asarray(rng.integers(0, VOCAB_SIZE, (ROWS, CONTEXT + 1)), jnp.int32)
        self._step = jax.jit(_step, donate_argnums=0).lower(self._state, self._tokens_BxT1).compile()

    def run(self) -> float:
        """Runs the step once; returns the processor seconds that it took, those of other Python threads left out."""
        before, others_before = time.process_time(), _other_python_threads()
        self._state = jax.block_until_ready(self._step(self._state, self._tokens_BxT1))
        seconds, others = time.process_time() - before, _other_python_threads()
        return seconds - sum(others[thread] - others_before[thread] for thread in others.keys() & others_before.keys())

    def warm_up(self) -> None:
        """Runs it until a run takes what the next ones take."""
        for _ in range(WARM_UP_RUNS):
            self.run()

    def measure(self) -> float:
        """Processor seconds of a run at this moment: the mean over many."""
        self.warm_up()
        runs = [self.run()]
        while sum(runs) < BASELINE_SECONDS:
            runs.append(self.run())
        return sum(runs) / len(runs)


@contextlib.contextmanager
def uncalibrated_clock(name: str) -> Iterator[Clock]:
    """The clock of this name for what is no training: it does not correct for the machine's speed.

    Where the kernel keeps no accounts it is the wall clock.
    """
    accounting = None
    if name == ATTENDED:
        with contextlib.suppress(AccountingError):
            accounting = LinuxAccounting()
    if accounting is None:
        yield WallClock()
        return
    try:
        yield AttendedClock(accounting, lambda: math.nan, 1.0)
    finally:
        accounting.close()


def wait_for_rest() -> bool:
    """Waits until this process's other threads, which slow the reference program, are idle; False if they stay busy.

    Memory of a large step is returned to the kernel after the step is done, which takes tens of milliseconds.
    """
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    while time.monotonic() < deadline:
        before = time.process_time()
        time.sleep(REST_SECONDS)
        if time.process_time() - before <= REST_SHARE * REST_SECONDS:
            return True
    return False


def _other_python_threads() -> dict[threading.Thread, float]:
    """Processor seconds of each other Python thread, such as one that reads data; XLA's threads are not listed."""
    seconds = {}
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            with contextlib.suppress(OSError, ValueError, IndexError):  # it has just ended
                account = (TASKS / str(thread.native_id) / "schedstat").read_bytes()
                seconds[thread] = int(account.split()[0]) * NANOSECOND
    return seconds


def _step(state: tuple[Params, Params, Params], tokens_BxT1: Array) -> tuple[Params, Params, Params]:
    params, mean, square = state
    grads = jax.grad(_loss)(params, tokens_BxT1)
    mean = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, mean, grads)
    square = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, square, grads)
    params = jax.tree.map(lambda p, m, v: p - LEARNING_RATE * m / (jnp.sqrt(v) + EPSILON), params, mean, square)
    return params, mean, square


def _loss(params: Mapping[str, Array], tokens_BxT1: Array) -> Array:
    x_BxTxD = _norm(params["embedding_VxD"][tokens_BxT1[:, :-1]].astype(jnp.bfloat16))
    heads = (ROWS, CONTEXT, 3 * HEADS, WIDTH // HEADS)
    q_BxTxHxK, k_BxTxHxK, v_BxTxHxK = jnp.split(_linear(params["qkv_OxD"], x_BxTxD).reshape(heads), 3, axis=2)
    scores_BxHxTxS = jnp.einsum("bthk,bshk->bhts", q_BxTxHxK, k_BxTxHxK, preferred_element_type=jnp.float32)
    is_past_TxS = jnp.tril(jnp.ones((CONTEXT, CONTEXT), bool))
    weights_BxHxTxS = jax.nn.softmax(jnp.where(is_past_TxS, scores_BxHxTxS, -jnp.inf)).astype(jnp.bfloat16)
    mixed_BxTxD = jnp.einsum("bhts,bshk->bthk", weights_BxHxTxS, v_BxTxHxK).reshape(x_BxTxD.shape)
    x_BxTxD += _linear(params["out_DxD"], mixed_BxTxD)
    x_BxTxD += _linear(params["down_DxO"], jnp.square(jax.nn.relu(_linear(params["up_OxD"], _norm(x_BxTxD)))))
    logits_BxTxV = _linear(params["unembedding_VxD"], _norm(x_BxTxD)).astype(jnp.float32)
    is_target_BxTxV = jax.nn.one_hot(tokens_BxT1[:, 1:], VOCAB_SIZE)
    return jnp.mean(jax.nn.logsumexp(logits_BxTxV, axis=-1) - jnp.sum(logits_BxTxV * is_target_BxTxV, axis=-1))


def _linear(weight_OxI: Array, x_BxTxI: Array) -> Array:
    return jnp.einsum("bti,oi->bto", x_BxTxI, weight_OxI.astype(jnp.bfloat16))


def _norm(x_BxTxD: Array) -> Array:
    mean_square = jnp.mean(jnp.square(x_BxTxD.astype(jnp.float32)), axis=-1, keepdims=True)
    return (x_BxTxD * jax.lax.rsqrt(mean_square + 1e-6)).astype(x_BxTxD.dtype)
