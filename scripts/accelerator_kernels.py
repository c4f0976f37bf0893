"""The part `kernels`: every kernel of autoresearch_jax/kernels against its definition, forward and backward, and timed.

Shapes in names: B rows, T time, H heads, G heads of keys and values, K head size, D model width, V vocabulary.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from accelerator_plan import Plan, first_device
from accelerator_result import Result
from jax import Array
from jax.sharding import AxisType, Mesh

from autoresearch_jax.contract import TaskSpec
from autoresearch_jax.kernels.attention import causal_attention, takes_cudnn, takes_splash
from autoresearch_jax.kernels.cross_entropy import softcapped_cross_entropy
from autoresearch_jax.kernels.normalization import rms_norm

DTYPES = ("float32", "bfloat16")
# Of the largest difference over the largest value of the definition, which is computed in float32 from the same input.
# float32 is computed at the highest precision of products: by default a GPU would use TF32, a TPU bfloat16.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.03}
SOFTCAP = 15.0
COLUMNS = ("kernel", "case", "dtype", "by", "max abs", "max rel", "grad max rel", "ms", "grad ms", "plain grad ms")

Function = Callable[..., Array]


def plain_attention(q_BxTxHxK: Array, k_BxTxGxK: Array, v_BxTxGxK: Array, window: Array) -> Array:
    """Attention to the token itself and the `window` before it, from the definition."""
    length, heads, head_dim = q_BxTxHxK.shape[1:]
    k, v = (jnp.repeat(x, heads // x.shape[2], axis=2) for x in (k_BxTxGxK, v_BxTxGxK))
    back_TxT = jnp.arange(length)[:, None] - jnp.arange(length)
    scores = jnp.einsum("bqhk,bshk->bhqs", q_BxTxHxK, k) / np.sqrt(head_dim)
    weights = jax.nn.softmax(jnp.where((back_TxT >= 0) & (back_TxT <= window), scores, -jnp.inf))
    return jnp.einsum("bhqs,bshk->bqhk", weights, v)


def plain_cross_entropy(x_BxTxD: Array, w_VxD: Array, targets_BxT: Array) -> Array:
    """Mean nats of the targets under softcapped logits, from the definition."""
    logits_BxTxV = SOFTCAP * jnp.tanh(jnp.einsum("btd,vd->btv", x_BxTxD, w_VxD) / SOFTCAP)
    target_BxT = jnp.take_along_axis(logits_BxTxV, targets_BxT[..., None], -1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(logits_BxTxV, -1) - target_BxT)


def plain_norm(x: Array) -> Array:
    """RMSNorm from the definition."""
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + jnp.finfo(jnp.float32).eps)


class Comparison:
    """Kernels beside their definitions, a row of the table for each case."""

    def __init__(self, plan: Plan, result: Result) -> None:
        self.result = result
        self.repeats = plan.pick(20, 7, 2)
        self.worst = dict.fromkeys(DTYPES, 0.0)
        self.plain_forms: dict[Function, tuple[Any, Any]] = {}

    def add(
        self,
        kernel: str,
        case: str,
        by: str,
        ours: Function,
        plain: Function,
        inputs: Sequence[Array],
        others: Sequence[Array] = (),
        plain_others: Sequence[Array] | None = None,
    ) -> None:
        """Compares values and gradients with respect to `inputs`, whose dtype is the case's; `others` have none."""
        dtype = str(inputs[0].dtype)
        weights = jnp.cos(jnp.arange(inputs[0].size, dtype=jnp.float32)).reshape(inputs[0].shape)

        def with_gradients(function: Function) -> tuple[Any, Any]:
            def both(inputs: Sequence[Array], others: Sequence[Array]) -> tuple[Array, Any]:
                value, pull_back = jax.vjp(lambda *inputs: function(*inputs, *others), *inputs)
                gradient = weights.astype(value.dtype) if value.shape else jnp.ones_like(value)
                return value, pull_back(gradient)

            return jax.jit(lambda inputs, others: function(*inputs, *others)), jax.jit(both)

        exact = jax.default_matmul_precision("highest")
        with exact if dtype == "float32" else nullcontext():
            forward, both = with_gradients(ours)
            value, gradients = both(inputs, others)
            seconds, both_seconds = (self._seconds(function, inputs, others) for function in (forward, both))
        if plain not in self.plain_forms:  # the same for all dtypes and windows: compiled once
            self.plain_forms[plain] = with_gradients(plain)
        _, plain_both = self.plain_forms[plain]
        in_float32 = [x.astype(jnp.float32) for x in inputs]
        plain_others = others if plain_others is None else plain_others
        with jax.default_matmul_precision("highest"):
            right, right_gradients = plain_both(in_float32, plain_others)
            plain_seconds = self._seconds(plain_both, in_float32, plain_others)
        absolute, relative = difference(value, right)
        gradient = max(difference(a, b)[1] for a, b in zip(gradients, right_gradients, strict=True))
        row = (kernel, case, dtype, by, f"{absolute:.2g}", f"{relative:.2g}", f"{gradient:.2g}")
        times = (f"{1e3 * each:.3f}" for each in (seconds, both_seconds, plain_seconds))
        self.worst[dtype] = max(self.worst[dtype], relative, gradient)
        if not max(relative, gradient) <= TOLERANCE[dtype]:  # not a number is above, too
            self.result.find(f"{kernel}, {case}, {dtype}: differs from its definition by {max(relative, gradient):.2g}")
        self.result.add_row("kernels", COLUMNS, (*row, *times))

    def _seconds(self, function: Any, *arguments: Any) -> float:
        """Of one call, the median; the first one, which compiles, is not counted."""
        jax.block_until_ready(function(*arguments))
        seconds = []
        for _ in range(self.repeats):
            start = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)


def difference(found: Array, right: Array) -> tuple[float, float]:
    """The largest difference, and its share of the largest value; not a number if one of the values is none."""
    ours, wanted = (np.asarray(x.astype(jnp.float32)) for x in (found, right))
    absolute = float(np.abs(ours - wanted).max())
    return absolute, absolute / max(float(np.abs(wanted).max()), 1e-30)


def attention_by(q_BxTxHxK: Array, task: TaskSpec) -> str:
    """Which attention the package takes for such queries."""
    if task.platform == "cuda" and takes_cudnn(q_BxTxHxK, task.device_kind):
        return "cuDNN"
    return "Splash" if task.platform == "tpu" and takes_splash(q_BxTxHxK) else "XLA"


def draw(seed: int, shape: tuple[int, ...], dtype: str) -> Array:
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def run(plan: Plan, result: Result) -> None:
    """Measures all cases; the sizes are those of configs/h100.flags, with few rows."""
    rows = plan.pick(4, 2, 1)
    length, heads, head_dim, vocab = (128, 4, 8, 128) if plan.tiny else (2048, 4, 128, 8192)
    device = first_device(plan.platform)
    mesh = Mesh(np.array([[device]]), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    task = TaskSpec((vocab,), length, platform=plan.platform, device_kind=device.device_kind)
    comparison = Comparison(plan, result)

    groupings = plan.pick((heads, heads // 2, 1), (heads, 1), (heads, 1))
    windows = plan.pick((length, length // 2, 100), (length, length // 2), (length, length // 2))
    for dtype in DTYPES:
        for groups in groupings:
            q = draw(1, (rows, length, heads, head_dim), dtype)
            k, v = (draw(seed, (rows, length, groups, head_dim), dtype) for seed in (2, 3))
            for window in windows:

                def attend(q: Array, k: Array, v: Array, window: int = window) -> Array:
                    return causal_attention(q, k, v, window, task=task, mesh=mesh)

                case = f"{heads}/{groups} heads of {head_dim}, window {window} of {length}"
                by, inputs, plain_others = attention_by(q, task), (q, k, v), (jnp.int32(window),)
                comparison.add("attention", case, by, attend, plain_attention, inputs, (), plain_others)

        width = heads * head_dim
        x, w = draw(4, (rows, length, width), dtype), draw(5, (vocab, width), "float32") / np.sqrt(width)
        targets = jax.random.randint(jax.random.key(6), (rows, length), 0, vocab)

        def loss(x: Array, w: Array, targets: Array) -> Array:
            return softcapped_cross_entropy(x, w, targets, softcap=SOFTCAP, mesh=mesh)

        case = f"{rows * length} tokens, width {width}, vocabulary {vocab}"
        w = w.astype(dtype).astype(jnp.float32)  # parameters are float32, and rounded for the product
        comparison.add("cross-entropy", case, "XLA", loss, plain_cross_entropy, (x, w), (targets,))
        comparison.add("norm", f"{rows * length} x {width}", "XLA", rms_norm, plain_norm, (3 * x,))
    for dtype, worst in comparison.worst.items():
        result.set(f"worst_relative_{dtype}", float(f"{worst:.3g}"))
