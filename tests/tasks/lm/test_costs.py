"""What does not fit is refused with both numbers; what is not known refuses nobody."""

import jax
import jax.numpy as jnp
import pytest

from autoresearch_jax.tasks.lm.costs import (
    TooCostlyError,
    check_memory,
    check_steps,
    flops,
    memory_bytes,
    predict_steps,
)

GIB = 2**30


def test_memory_and_operations_of_a_compiled_program() -> None:
    square = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    product = jax.jit(lambda a, b: a @ b).lower(square, square).compile()
    assert flops(product) == pytest.approx(2 * 256**3, rel=0.01)
    assert memory_bytes(product) == 3 * 256 * 256 * 4
    added = jax.jit(lambda a, b: a + b, donate_argnums=0).lower(square, square).compile()
    assert memory_bytes(added) == 2 * 256 * 256 * 4  # the result takes the place of the first


def test_a_loop_counts_as_often_as_it_runs() -> None:
    def loop(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda carried, _: (carried @ x, None), x, length=16)[0]

    square = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    compiled = jax.jit(loop).lower(square).compile()
    assert flops(compiled, 16 * 2 * 256.0**3) == 16 * 2 * 256**3
    assert flops(compiled, 2.0) == flops(compiled)  # the larger counts


def test_memory_is_compared_program_by_program() -> None:
    check_memory({"init": 10 * GIB, "step": 16 * GIB}, 16 * GIB)
    check_memory({"init": None, "step": None}, 16 * GIB)
    check_memory({"init": 10**15}, None)
    with pytest.raises(TooCostlyError, match=r"`step` needs 10,240.0 GiB of memory, the device has 16.0 GiB: make"):
        check_memory({"init": GIB, "step": 10240 * GIB}, 16 * GIB)


def test_steps_are_predicted_phase_by_phase() -> None:
    assert predict_steps([0.0], [2e9], 60.0, 1e9) == 30.0
    assert predict_steps([0.0, 0.25], [1e9, 3e9], 60.0, 1e9) == 15.0 + 15.0
    assert predict_steps([0.0], [2e9], 60.0, None) is None
    assert predict_steps([0.0, 0.5], [2e9, None], 60.0, 1e9) is None


def test_too_few_steps_are_refused() -> None:
    check_steps(10.0, 10, 60.0)
    check_steps(None, 10, 60.0)
    with pytest.raises(TooCostlyError, match=r"only 3\.5 steps fit into 60 s, and at least 10 must"):
        check_steps(3.5, 10, 60.0)
