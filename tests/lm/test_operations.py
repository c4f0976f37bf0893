"""What a program may call, and what counts as a constant in it."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import pytest
from jax import Array, export
from jax.experimental import pallas as pl

from autoresearch_jax.kernels.attention import cudnn_attention, splash_attention
from autoresearch_jax.kernels.cuda import ATTENTION_CALLS, seen_by_jax
from autoresearch_jax.lm.operations import OperationError, check_operations, stablehlo_module

H100 = "NVIDIA H100 80GB HBM3"
QKV = [jax.ShapeDtypeStruct((2, 2048, 4, 128), jnp.bfloat16)] * 3
VECTOR = [jax.ShapeDtypeStruct((8, 128), jnp.float32)]


def constant_bytes(function: Callable[..., object], args: Sequence[object], platform: str, allowed_on: str = "") -> int:
    """Bytes of the constants of a function traced for `platform`, checked as a program of `allowed_on`."""
    with seen_by_jax(H100):
        exported = export.export(jax.jit(function), platforms=[platform], disabled_checks=ATTENTION_CALLS)(*args)
    with stablehlo_module(exported.mlir_module_serialized) as module:
        return check_operations(module, allowed_on or platform)


def gradients_of_layers(attend: Callable[..., Array], windows: Sequence[int]) -> Callable[..., object]:
    def loss(q: Array, k: Array, v: Array) -> Array:
        for window in windows:
            q = attend(q, k, v, window)
        return q.astype(jnp.float32).sum()

    return jax.grad(loss, argnums=(0, 1, 2))


def kernel_of(table: Sequence[float]) -> Callable[[Array], Array]:
    """A kernel for a TPU with a table in its instructions."""

    def kernel(x_ref: Array, out_ref: Array) -> None:
        total = x_ref[...]
        for number in table:
            total = total * number
        out_ref[...] = total

    return pl.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct((8, 128), jnp.float32))


def test_honest_kernels_are_small() -> None:
    splash = constant_bytes(gradients_of_layers(splash_attention, [1024, 2048]), QKV, "tpu")
    assert 10_000 < splash < 80_000  # two windows, of each a forward and two backward kernels
    cudnn = constant_bytes(gradients_of_layers(cudnn_attention, [1024, 2048]), QKV, "cuda")
    assert 4_000 < cudnn < 10_000


@pytest.mark.parametrize(("attend", "platform"), [(splash_attention, "tpu"), (cudnn_attention, "cuda")])
def test_a_kernel_of_many_layers_counts_once(attend: Callable[..., Array], platform: str) -> None:
    one, four = (constant_bytes(gradients_of_layers(attend, [1024] * n), QKV, platform) for n in (1, 4))
    assert one <= four < one + 20


def test_a_table_in_a_kernel_is_a_constant() -> None:
    numbers = [1 + n * 0.001 for n in range(500)]
    short, long = (constant_bytes(kernel_of(numbers[:length]), VECTOR, "tpu") for length in (100, 500))
    assert long - short > 4 * 400
    other = constant_bytes(lambda x: kernel_of(numbers[:100])(x) + kernel_of(numbers[100:])(x), VECTOR, "tpu")
    assert other > long  # in pieces, too


@pytest.mark.parametrize(("attend", "platform"), [(splash_attention, "tpu"), (cudnn_attention, "cuda")])
def test_kernels_of_one_platform_are_refused_on_others(attend: Callable[..., Array], platform: str) -> None:
    for other in {"cpu", "cuda", "tpu"} - {platform}:
        with pytest.raises(OperationError, match=f"custom calls not allowed on {other}: "):
            constant_bytes(gradients_of_layers(attend, [1024]), QKV, platform, allowed_on=other)
