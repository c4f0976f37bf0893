"""RMSNorm has the value and the gradient of its definition, in the dtype of what it gets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from autoresearch_jax.kernels.normalization import rms_norm


def definition(x: Array) -> Array:
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + jnp.finfo(jnp.float32).eps)


@pytest.mark.parametrize(("shape", "dtype", "tolerance"), [((3, 5, 1, 8), "float32", 1e-5), ((24,), "bfloat16", 0.02)])
def test_it_has_the_value_and_gradient_of_its_definition(shape: tuple[int, ...], dtype: str, tolerance: float) -> None:
    keys = jax.random.split(jax.random.key(0))
    x, weights = ((3 * jax.random.normal(key, shape)).astype(dtype) for key in keys)

    def value_and_gradient(norm: object, x: Array) -> tuple[Array, Array]:
        value, pull_back = jax.vjp(jax.jit(norm), x)
        return value, *pull_back(weights.astype(value.dtype))

    found, wanted = value_and_gradient(rms_norm, x), value_and_gradient(definition, x.astype(jnp.float32))
    assert [each.dtype for each in found] == [dtype, dtype]
    for ours, right in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours.astype(jnp.float32), right, rtol=tolerance, atol=tolerance)


def test_zeros_stay_zeros() -> None:
    zeros = jnp.zeros((2, 4))
    value, pull_back = jax.vjp(rms_norm, zeros)
    assert not np.any(value)
    assert np.all(np.isfinite(pull_back(jnp.ones_like(zeros))[0]))


def test_only_a_cpu_keeps_the_mean_apart() -> None:
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(rms_norm(x) * x)))
    programs = {
        platform: jax.export.export(gradient, platforms=[platform])(jnp.ones((2, 4))).mlir_module()
        for platform in ("cpu", "cuda", "tpu")
    }
    assert {platform for platform, text in programs.items() if "optimization_barrier" in text} == {"cpu"}
