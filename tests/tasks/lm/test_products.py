"""Matrix products are counted as often as they run, and never more often."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
from jax import Array, export

from autoresearch_jax.tasks.lm.operations import stablehlo_module
from autoresearch_jax.tasks.lm.products import MAX_FLOPS, product_flops

SIZE = 64
ONE = 2 * SIZE**3


def scanned(x: Array) -> Array:
    return jax.lax.scan(lambda carried, _: (carried @ x, None), x, length=16)[0]


def in_a_loop(x: Array) -> Array:
    return jax.lax.map(lambda row: jax.lax.fori_loop(0, 4, lambda _, carried: carried @ x, row), jnp.stack([x] * 5))


def called_twice(x: Array) -> Array:
    square = jax.jit(lambda y: y @ y)
    return square(square(x))


def of(function: Callable[[Array], object], dtype: object = jnp.float32) -> float:
    exported = export.export(jax.jit(function))(jax.ShapeDtypeStruct((SIZE, SIZE), dtype))
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
        pytest.param(lambda x: jnp.sin(x), 0, id="no product"),
    ],
)
def test_products_are_counted_as_often_as_they_run(function: Callable[[Array], object], products: int) -> None:
    assert of(function) == products


def test_whole_numbers_are_no_floating_point_operations() -> None:
    assert of(lambda x: x @ x, jnp.int32) == 0


def test_endless_loops_have_a_number() -> None:
    def nested(depth: int, x: Array) -> Array:
        return x @ x if depth == 0 else jax.lax.fori_loop(0, 2**31 - 1, lambda _, y: nested(depth - 1, y), x)

    assert of(lambda x: nested(40, x)) == MAX_FLOPS / ONE
