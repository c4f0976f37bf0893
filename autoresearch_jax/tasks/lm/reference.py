"""The reference program: a small training step whose processor time shows how fast a CPU is at this moment.

It does what candidates do (embeddings, attention, matrices in bfloat16, cross-entropy, Adam), so what slows them down
(frequency, caches and memory shared with others) slows it down, too.

Shapes in names: B rows, T time, D model width, H heads, K head size, V vocabulary, S keys.
"""

import contextlib
import threading
import time
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from autoresearch_jax.tasks.lm.accounting import NANOSECOND, PROC

TASKS = PROC / "self" / "task"
# A smaller step is too unlike a candidate, a larger one leaves too few runs in a short trial. A run takes about 10 ms
# on two cores of a CPU without bf16 units. The scripts of the exploratory comparison were not kept.
ROWS, CONTEXT, WIDTH, HEADS, VOCAB_SIZE = 4, 64, 128, 2, 1024
BETA1, BETA2, LEARNING_RATE, EPSILON = 0.9, 0.95, 1e-4, 1e-8
WARM_UP_RUNS = 3  # of a new program, before one counts
BASELINE_SECONDS = 1.0  # of processor time that `measure` takes

REST_SECONDS, REST_SHARE = 0.005, 0.1  # a process is idle that computes for at most this share of such a stretch
LONGEST_WAIT_SECONDS = 0.25  # until it is

Params = dict[str, Array]


class Reference:
    """The compiled step with its state; each run trains it one step further."""

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


def wait_for_rest() -> bool:
    """Waits until the other threads of this process are idle: they would slow the reference program down.

    Memory of a large step is returned to the kernel after the step is done, which takes tens of milliseconds.

    Returns:
      False if they were not idle in time.
    """
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    while time.monotonic() < deadline:
        before = time.process_time()
        time.sleep(REST_SECONDS)
        if time.process_time() - before <= REST_SHARE * REST_SECONDS:
            return True
    return False


def _other_python_threads() -> dict[threading.Thread, float]:
    """Processor seconds of each Python thread beside this one, such as those that read data; XLA's are none."""
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
