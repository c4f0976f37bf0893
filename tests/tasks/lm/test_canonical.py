"""Equal dataflow, equal hash, however it is written down; and not one digit more."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import export
from tracing import edited, traced
from train_lib_source import tiny_source_text

from autoresearch_jax.tasks.lm.canonical import Dataflow, TooManyOperationsError, digest, refine
from autoresearch_jax.tasks.lm.operations import stablehlo_module
from autoresearch_jax.tasks.lm.programs import load_programs

VECTOR = jax.ShapeDtypeStruct((4,), jnp.float32)


def results(function: Callable[..., Any], num_inputs: int = 2) -> list[str]:
    exported = export.export(jax.jit(function), platforms=["cpu"])(*[VECTOR] * num_inputs)
    with stablehlo_module(exported.mlir_module_serialized) as module:
        flow = Dataflow(module)
    names = [f"input {i}" for i in exported.module_kept_var_idx]
    return flow.results(names)


def test_order_repetition_and_dead_code_leave_no_trace() -> None:
    def one(a: jax.Array, b: jax.Array) -> Any:
        x, y = jnp.sin(a), jnp.exp(b)
        return x * y, x

    def other(a: jax.Array, b: jax.Array) -> Any:
        y = jnp.exp(b)
        jnp.cos(a + b)
        return jnp.sin(a) * y, jnp.sin(a)

    assert results(one) == results(other)
    assert results(one) != results(lambda a, b: one(b, a))
    assert results(one)[0] != results(one)[1]


def test_functions_are_known_by_what_they_do() -> None:
    @jax.jit
    def helper(x: jax.Array) -> jax.Array:
        return jnp.where(x > 0, x, 0.1 * x)

    @jax.jit
    def another_name(x: jax.Array) -> jax.Array:
        return jnp.where(x > 0, x, 0.1 * x)

    @jax.jit
    def steeper(x: jax.Array) -> jax.Array:
        return jnp.where(x > 0, x, 0.2 * x)

    nameless = jax.jit(lambda x: jnp.where(x > 0, x, 0.1 * x))  # "<lambda>", which MLIR puts in quotation marks
    expected = results(lambda a, b: helper(a) + helper(b))
    assert results(lambda a, b: nameless(a) + another_name(b)) == expected
    assert results(lambda a, b: steeper(a) + steeper(b)) != expected
    assert results(lambda a, b: helper(a) + steeper(b)) != expected


def loop(first: str, second: str, rounds: int = 5, swap: bool = False) -> Callable[..., Any]:
    """A loop over a dict of two values, which JAX carries in the order of their names."""

    def function(a: jax.Array, b: jax.Array) -> Any:
        def body(_: jax.Array, values: dict[str, jax.Array]) -> dict[str, jax.Array]:
            x, y = jnp.sin(values[first]), values[second] + values[first]
            return {first: y, second: x} if swap else {first: x, second: y}

        end = jax.lax.fori_loop(0, rounds, body, {first: a, second: b})
        return end[first], end[second]

    return function


def test_what_a_loop_carries_has_no_order() -> None:
    expected = results(loop("a", "b"))
    assert results(loop("z", "b")) == expected
    assert results(loop("a", "b", swap=True)) != expected
    assert results(loop("a", "b", rounds=6)) != expected
    assert expected[0] != expected[1]


def test_nested_loops_are_told_apart_by_depth() -> None:
    def nested(outer_reads_outer: bool) -> Callable[..., Any]:
        def function(a: jax.Array, b: jax.Array) -> Any:
            def inner(_: jax.Array, pair: Any, outer: jax.Array) -> Any:
                x, y = pair
                return jnp.sin(x), y * (outer if outer_reads_outer else x)

            def body(_: jax.Array, x: jax.Array) -> jax.Array:
                return jax.lax.fori_loop(0, 3, lambda i, pair: inner(i, pair, x), (x, x))[1]

            return jax.lax.fori_loop(0, 3, body, a) + b

        return function

    assert results(nested(True)) != results(nested(False))


def test_a_program_that_unfolds_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(function: Callable[..., Any]) -> Callable[..., Any]:
        return jax.jit(lambda x: function(function(x)))

    function: Callable[..., Any] = jnp.sin
    for _ in range(12):
        function = twice(function)
    monkeypatch.setattr("autoresearch_jax.tasks.lm.canonical.MAX_OPERATIONS", 1_000)
    with pytest.raises(TooManyOperationsError, match="more than 1,000 operations"):
        results(lambda a, b: function(a))


def test_a_barrier_has_no_order_either() -> None:
    def barrier(first: str, second: str) -> Callable[..., Any]:
        def function(a: jax.Array, b: jax.Array) -> Any:
            held = jax.lax.optimization_barrier({first: a, second: b})
            return held[first] - held[second]

        return function

    assert results(barrier("a", "b")) == results(barrier("z", "b"))
    assert results(barrier("a", "b")) != results(lambda a, b: a - b)


def test_refinement_splits_what_differs_late() -> None:
    """Parts in a chain: all begin alike, and only the last one's successor is another."""

    def chain(end: str) -> Callable[[list[str]], list[str]]:
        return lambda colours: [*colours[1:], end]

    one, other = (refine(["start"] * 6, chain(digest(end))) for end in ("x", "y"))
    assert len(set(one)) == 6
    assert not set(one) & set(other)
    ring = refine(["start"] * 6, lambda colours: [*colours[1:], colours[0]])
    assert len(set(ring)) == 1  # six values that are equal for ever


def test_renaming_the_state_changes_nothing(tiny_source: str, tmp_path: Any) -> None:
    renamed = edited(
        tiny_source,
        ('"table"', '"a"'),  # which sorts before "count" and "key": the leaves cross, in every program
        *(('"count": ', '"zcount": '), ('state["count"]', 'state["zcount"]')),
        ("def loss_fn(", "@jax.jit\n    def loss_fn("),  # a function compiled apart
    )
    texts = {"one": tiny_source, "other": renamed}
    one, other = (load_programs(traced(text, tmp_path / name)) for name, text in texts.items())
    assert one.program_hash == other.program_hash


def test_two_parts_that_change_places_are_seen(tiny_source: str, tmp_path: Any) -> None:
    two = edited(
        tiny_source,
        ('return {"table": table_VxV,', 'return {"ema": 0.0 * table_VxV, "mean": 0.0 * table_VxV, "table": table_VxV,'),
        ('new_state = {"table"', 'new_state = {"ema": state["mean"] + gradient, "mean": state["mean"] + 1, "table"'),
    )
    swapped = edited(two, ('"ema": state["mean"] + gradient', '"ema": state["ema"] + gradient'))
    one, other = (load_programs(traced(text, tmp_path / name)) for name, text in (("two", two), ("swapped", swapped)))
    assert one.program_hash != other.program_hash
    renamed = edited(two, ('"ema"', '"zema"'))
    assert load_programs(traced(renamed, tmp_path / "renamed")).program_hash == one.program_hash


@pytest.mark.slow
def test_the_real_training_file_with_its_parts_renamed(tmp_path: Any) -> None:
    source = tiny_source_text()
    renamed = edited(
        source,
        ("self.query", "self.question"),  # the matrices keep their order: Muon stacks them in it
        ("self.token_embedding", "self.words"),
        ('"token_embedding"', '"words"'),
        ("self.up", "self.widen"),
        ("self.residual_scales", "self.stream_scales"),
        ('"residual_scales"', '"stream_scales"'),
        ('"momentum"', '"velocity"'),
        ("class Attention", "class SelfAttention"),
        ("= Attention(", "= SelfAttention("),
    )
    one, other = (load_programs(traced(text, tmp_path / name)) for name, text in (("a", source), ("b", renamed)))
    assert one.leaf_names != other.leaf_names
    assert other.program_hash == one.program_hash
