"""Costs of programs: what does not fit is refused with both numbers, what is not known refuses no candidate."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
from jax import Array, export

from autoresearch_jax.tasks.lm.flops import (
    MAX_FLOPS,
    TooCostlyError,
    check_memory,
    check_steps,
    flops,
    memory_bytes,
    predict_steps,
    product_flops,
)
from autoresearch_jax.tasks.lm.operations import stablehlo_module

GIB = 2**30

SIZE = 64
ONE = 2 * SIZE**3


def test_memory_and_operations_of_a_compiled_program() -> None:
    square = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    product = jax.jit(lambda a, b: a @ b).lower(square, square).compile()
    assert flops(product) == flops(product, 2.0) == pytest.approx(2 * 256**3, rel=0.01)
    assert flops(product, 1e12) == 1e12  # the larger counts
    assert memory_bytes(product) == 3 * 256 * 256 * 4
    added = jax.jit(lambda a, b: a + b, donate_argnums=0).lower(square, square).compile()
    assert memory_bytes(added) == 2 * 256 * 256 * 4  # the result takes the place of the first


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


def scanned(x: Array) -> Array:
    return jax.lax.scan(lambda carried, _: (carried @ x, None), x, length=16)[0]


def in_a_loop(x: Array) -> Array:
    return jax.lax.map(lambda row: jax.lax.fori_loop(0, 4, lambda _, carried: carried @ x, row), jnp.stack([x] * 5))


def called_twice(x: Array) -> Array:
    square = jax.jit(lambda y: y @ y)
    return square(square(x))


def of(function: Callable[[Array], object]) -> float:
    exported = export.export(jax.jit(function))(jax.ShapeDtypeStruct((SIZE, SIZE), jnp.float32))
    with stablehlo_module(exported.mlir_module_serialized) as module:
        return product_flops(module) / ONE


@pytest.mark.parametrize(
    ("function", "products"),
    [
        pytest.param(lambda x: x @ x, 1, id="a product"),
        pytest.param(scanned, 16, id="a scan"),
        pytest.param(jax.grad(lambda x: scanned(x).sum()), 48, id="a scan and its gradient"),
        pytest.param(lambda x: jax.lax.fori_loop(3, 10, lambda _, y: y @ x, x), 7, id="a loop"),
        pytest.param(in_a_loop, 20, id="a loop in a loop"),
        pytest.param(called_twice, 2, id="a function called twice"),
        pytest.param(lambda x: jax.lax.while_loop(lambda y: y.sum() < 1, lambda y: y @ x, x), 1, id="an open end"),
        pytest.param(lambda x: jax.lax.cond(x[0, 0] < 1, lambda y: y @ y @ y, lambda y: y @ y, x), 1, id="a branch"),
        pytest.param(lambda x: x.astype(int) @ x.astype(int), 0, id="whole numbers"),
    ],
)
def test_products_are_counted_as_often_as_they_run(function: Callable[[Array], object], products: int) -> None:
    assert of(function) == products


def test_endless_loops_have_a_number() -> None:
    def nested(depth: int, x: Array) -> Array:
        return x @ x if depth == 0 else jax.lax.fori_loop(0, 2**31 - 1, lambda _, y: nested(depth - 1, y), x)

    assert of(lambda x: nested(40, x)) == MAX_FLOPS / ONE
