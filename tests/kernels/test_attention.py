"""Each platform's attention computes what its definition says, forward and backward, and is taken where it fits."""

import re
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, export
from train_lib_source import make_mesh

from autoresearch_jax.contract import TaskSpec
from autoresearch_jax.kernels.attention import blockwise_attention, causal_attention, splash_attention
from autoresearch_jax.kernels.platforms import ATTENTION_CALLS, seen_by_jax

H100 = "NVIDIA H100 80GB HBM3"
pytestmark = pytest.mark.usefixtures("quick_to_compile")
SPLASH, CUDNN = "tpu_custom_call", "__cudnn$fmha"


def qkv(length: int = 256, heads: int = 2, head_dim: int = 128, dtype: jnp.dtype = jnp.float32) -> list[Array]:
    shape = (2, length, heads, head_dim)
    return [jax.random.normal(key, shape, dtype) for key in jax.random.split(jax.random.key(0), 3)]


def plain_attention(q: Array, k: Array, v: Array, window: int) -> Array:
    """Written out in float32, from the definition."""
    length, head_dim = q.shape[1], q.shape[3]
    back = np.arange(length)[:, None] - np.arange(length)
    scores = jnp.einsum("bqhk,bshk->bhqs", q, k, precision="highest") / np.sqrt(head_dim)
    weights = jax.nn.softmax(jnp.where((back >= 0) & (back <= window), scores, -jnp.inf))
    return jnp.einsum("bhqs,bshk->bqhk", weights, v, precision="highest")


def value_and_gradients(attend: Callable[..., Array], args: list[Array], window: int) -> list[Array]:
    """What it gives, and the gradients of a weighted sum of that with respect to queries, keys and values."""
    weights = jnp.cos(jnp.arange(args[0].size, dtype=jnp.float32)).reshape(args[0].shape)

    @jax.jit
    def both(*args: Array) -> tuple[Array, ...]:
        value, pull_back = jax.vjp(lambda *qkv: attend(*qkv, window), *args)
        return value, *pull_back(weights.astype(value.dtype))

    return [each.astype(jnp.float32) for each in both(*args)]


interpreted_splash = partial(splash_attention, interpret=True)


@pytest.mark.parametrize(
    ("attend", "window"),
    [
        (blockwise_attention, 1),
        (interpreted_splash, 100),
        pytest.param(blockwise_attention, 256, marks=pytest.mark.slow),
        pytest.param(interpreted_splash, 1, marks=pytest.mark.slow),
        pytest.param(interpreted_splash, 256, marks=pytest.mark.slow),
    ],
)
def test_equals_its_definition_forward_and_backward(attend: Callable[..., Array], window: int) -> None:
    found, wanted = (value_and_gradients(function, qkv(), window) for function in (attend, plain_attention))
    for ours, right in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, right, atol=2e-5)


@pytest.mark.parametrize(
    ("length", "window"),
    [
        *((1, 0), (200, 500), (577, 73)),
        *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((100, 0), (129, 63), (129, 64))),
    ],
)
def test_blocks_may_be_cut_short(length: int, window: int) -> None:
    args = qkv(length, head_dim=8)
    found, wanted = (value_and_gradients(function, args, window) for function in (blockwise_attention, plain_attention))
    for ours, right in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, right, atol=2e-5)


def test_blocks_in_bfloat16() -> None:
    args = qkv(length=200, head_dim=8, dtype=jnp.bfloat16)
    found = value_and_gradients(blockwise_attention, args, 70)
    wanted = value_and_gradients(plain_attention, [x.astype(jnp.float32) for x in args], 70)
    for ours, right in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, right, atol=0.03)


def test_heads_of_queries_may_share_keys_and_values() -> None:
    q, k, v = qkv(length=100, heads=4, head_dim=8)
    k, v = k[:, :, :2], v[:, :, :2]
    task = TaskSpec(vocab_sizes=(256,), sequence_length=100)
    shared = jax.jit(lambda *qkv: causal_attention(*qkv, 30, task=task, mesh=make_mesh()))(q, k, v)
    right = plain_attention(q, jnp.repeat(k, 2, axis=2), jnp.repeat(v, 2, axis=2), 30)
    np.testing.assert_allclose(shared, right, atol=2e-5)


def exported(task: TaskSpec, window: int, **shape: object) -> str:
    """Attention and its gradients as StableHLO for the platform of the task."""
    mesh = make_mesh()

    def loss(*qkv: Array) -> Array:
        return causal_attention(*qkv, window, task=task, mesh=mesh).astype(jnp.float32).sum()

    structs = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in qkv(**shape)]  # type: ignore[arg-type]
    with seen_by_jax(task.device_kind):
        traced = export.export(
            jax.jit(jax.grad(loss, argnums=(0, 1, 2))), platforms=[task.platform], disabled_checks=ATTENTION_CALLS
        )(*structs)
    return traced.mlir_module()


@pytest.mark.parametrize(
    ("platform", "device_kind", "shape", "kernel"),
    [
        pytest.param("cpu", "cpu", {"dtype": jnp.bfloat16}, None, id="cpu"),
        pytest.param("tpu", "TPU v4", {"dtype": jnp.bfloat16}, SPLASH, id="tpu"),
        pytest.param("tpu", "TPU v4", {"head_dim": 64}, None, id="tpu, small heads"),
        pytest.param("cuda", H100, {"dtype": jnp.bfloat16}, CUDNN, id="h100"),
        pytest.param("cuda", H100, {"dtype": jnp.float16, "head_dim": 256}, CUDNN, id="h100, large heads"),
        pytest.param("cuda", H100, {}, None, id="h100, float32"),
        pytest.param("cuda", "NVIDIA A100-SXM4-40GB", {"dtype": jnp.bfloat16, "head_dim": 256}, None, id="a100, large"),
        pytest.param("cuda", "Tesla T4", {"dtype": jnp.float16}, None, id="t4, before flash attention"),
    ],
)
def test_a_kernel_is_taken_where_it_fits(
    platform: str, device_kind: str, shape: dict[str, object], kernel: str | None
) -> None:
    text = exported(TaskSpec((256,), 256, platform=platform, device_kind=device_kind), 100, **shape)
    calls = set(re.findall(r"custom_call @([^(]+)\(", text)) - {"Sharding"}
    assert {name.strip('"') for name in calls} == (
        {SPLASH} if kernel == SPLASH else {"__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"} if kernel else set()
    )


@pytest.mark.parametrize(("window", "told"), [(100, 101), (256, 0)])
def test_cudnn_is_told_the_window(window: int, told: int) -> None:
    text = exported(TaskSpec((256,), 256, platform="cuda", device_kind=H100), window, dtype=jnp.bfloat16)
    assert re.findall(r"sliding_window_length\\22: (\d+)", text) == [str(told)] * 2  # its own token counts
    assert text.count(r"mask_type\22: \22CAUSAL\22") == 2
