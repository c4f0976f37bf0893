"""What a program may call, and what counts as a constant in it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, export
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.extend.core import Primitive
from jax.extend.mlir import ir
from jax.interpreters import mlir
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from autoresearch_jax.kernels.attention import cudnn_attention, splash_attention
from autoresearch_jax.kernels.platforms import ATTENTION_CALLS, seen_by_jax
from autoresearch_jax.tasks.lm.custom_calls import check_custom_calls
from autoresearch_jax.tasks.lm.dialects import MAX_DEPTH, OperationError, check_depth
from autoresearch_jax.tasks.lm.operations import (
    check_operations,
    refused_settings,
    stablehlo_module,
)

H100 = "NVIDIA H100 80GB HBM3"
QKV = [jax.ShapeDtypeStruct((2, 2048, 4, 128), jnp.bfloat16)] * 3
VECTOR = [jax.ShapeDtypeStruct((8, 128), jnp.float32)]


def constant_bytes(function: Callable[..., object], args: Sequence[object], platform: str, allowed_on: str = "") -> int:
    """Bytes of constants and kernels of a function traced for `platform`, checked as a program of `allowed_on`."""
    with seen_by_jax(H100):
        exported = export.export(jax.jit(function), platforms=[platform], disabled_checks=ATTENTION_CALLS)(*args)
    with stablehlo_module(exported.mlir_module_serialized) as module:
        return sum(check_operations(module, allowed_on or platform))


def gradients_of_layers(attend: Callable[..., Array], windows: Sequence[int]) -> Callable[..., object]:
    def loss(q: Array, k: Array, v: Array) -> Array:
        for window in windows:
            q = attend(q, k, v, window)
        return q.astype(jnp.float32).sum()

    return jax.grad(loss, argnums=(0, 1, 2))


def kernel_of(table: Sequence[float], **settings: object) -> Callable[[Array], Array]:
    """A kernel for a TPU with a table in its instructions, and settings for its compiler."""

    def kernel(x_ref: Array, out_ref: Array) -> None:
        total = x_ref[...]
        for number in table:
            total = total * number
        out_ref[...] = total

    params = pltpu.CompilerParams(**settings)
    return pl.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct((8, 128), jnp.float32), compiler_params=params)


def written_by(operation: str, count: int) -> Callable[[], Array]:
    """A table that a primitive of its own writes as an operation of any name."""
    table = np.arange(count, dtype=np.int32)
    primitive = Primitive("table")
    primitive.def_abstract_eval(lambda: jax.core.ShapedArray(table.shape, table.dtype))

    def lower(_: object) -> object:
        kind = ir.RankedTensorType.get(table.shape, ir.IntegerType.get_signless(32))
        attributes = {"value": ir.DenseElementsAttr.get(table, type=kind)}
        return ir.Operation.create(operation, results=[kind], attributes=attributes).results

    mlir.register_lowering(primitive, lower)
    return primitive.bind


def test_honest_kernels_are_small() -> None:
    splash = constant_bytes(gradients_of_layers(splash_attention, [1024, 2048]), QKV, "tpu")
    assert 10_000 < splash < 80_000  # two windows, of each a forward and two backward kernels
    cudnn = constant_bytes(gradients_of_layers(cudnn_attention, [1024, 2048]), QKV, "cuda")
    assert 4_000 < cudnn < 10_000


@pytest.mark.slow
@pytest.mark.parametrize(("attend", "platform"), [(splash_attention, "tpu"), (cudnn_attention, "cuda")])
def test_a_kernel_of_many_layers_counts_once(attend: Callable[..., Array], platform: str) -> None:
    one, four = (constant_bytes(gradients_of_layers(attend, [1024] * n), QKV, platform) for n in (1, 4))
    assert one <= four < 2 * one  # what is around a kernel is in each layer


def test_a_table_in_a_kernel_is_a_constant() -> None:
    numbers = [1 + n * 0.001 for n in range(500)]
    short, long = (constant_bytes(kernel_of(numbers[:length]), VECTOR, "tpu") for length in (100, 500))
    assert long - short > 4 * 400
    other = constant_bytes(lambda x: kernel_of(numbers[:100])(x) + kernel_of(numbers[100:])(x), VECTOR, "tpu")
    assert other > long  # in pieces, too


@pytest.mark.parametrize(("attend", "platform"), [(splash_attention, "tpu"), (cudnn_attention, "cuda")])
def test_kernels_of_one_platform_are_refused_on_others(attend: Callable[..., Array], platform: str) -> None:
    with pytest.raises(OperationError, match="custom calls not allowed on cpu: "):
        constant_bytes(gradients_of_layers(attend, [1024]), QKV, platform, allowed_on="cpu")


def test_a_table_counts_in_whatever_operation_it_is() -> None:
    assert constant_bytes(written_by("stablehlo.constant", 5000), [], "cpu") == pytest.approx(20_000, abs=100)
    assert constant_bytes(written_by("chlo.constant", 5000), [], "cpu") == pytest.approx(20_000, abs=100)


def test_operations_that_jax_does_not_write_are_refused() -> None:
    with pytest.raises(OperationError, match=r'^it uses operations that JAX does not write: "sdy\.constant"$'):
        constant_bytes(written_by("sdy.constant", 5), [], "cpu")


def test_numbers_in_slices_and_paddings_count() -> None:
    places = np.random.default_rng(0).integers(0, 1000, 300)

    def slices(x: Array) -> Array:
        return jnp.stack([jax.lax.slice(x, [int(place)], [int(place) + 1])[0] for place in places])

    def paddings(x: Array) -> list[Array]:
        return [jax.lax.pad(x, 0.0, [(int(place), 0, 0)]) for place in places]

    vector = [jax.ShapeDtypeStruct((1001,), jnp.float32)]
    for table in (slices, paddings):
        assert constant_bytes(table, vector, "cpu") > 3 * len(places)


@pytest.mark.parametrize(("depth", "refused"), [(MAX_DEPTH - 4, False), (MAX_DEPTH + 1, True)])
@pytest.mark.parametrize("nest", [jax.jit, lambda inner: lambda x: jax.lax.cond(x[0] > 0, inner, jnp.sin, x)])
def test_functions_and_branches_are_nested_only_so_deep(nest: Callable[..., Any], depth: int, refused: bool) -> None:
    function = jnp.cos
    for number in range(depth):
        function = nest(lambda x, inner=function, number=number: inner(x) * (number + 0.5))
    serialized = export.export(jax.jit(function), platforms=["cpu"])(jax.ShapeDtypeStruct((3,), jnp.float32))
    with stablehlo_module(serialized.mlir_module_serialized) as module:
        if refused:
            with pytest.raises(OperationError, match=f"nested more than {MAX_DEPTH} deep"):
                check_depth(module)
        else:
            check_depth(module)


def test_a_function_that_calls_itself_is_refused() -> None:
    with stablehlo_module(export.export(jax.jit(jnp.sin))(1.0).mlir_module_serialized) as known:
        text = """
        func.func public @main(%x: tensor<f32>) -> tensor<f32> {
          %y = call @again(%x) : (tensor<f32>) -> tensor<f32>
          return %y : tensor<f32>
        }
        func.func private @again(%x: tensor<f32>) -> tensor<f32> {
          %y = call @main(%x) : (tensor<f32>) -> tensor<f32>
          return %y : tensor<f32>
        }
        """
        with pytest.raises(OperationError, match="calls itself"):
            check_depth(ir.Module.parse(text, context=known.context))


def test_what_jax_writes_for_a_mesh_passes() -> None:
    mesh = AbstractMesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)

    def of_one_device(x: Array) -> Array:
        return jax.lax.psum(x, "data") + jax.lax.all_gather(x, "model").sum(0) + jax.lax.axis_index("data")

    def loss(x: Array) -> Array:
        rows = PartitionSpec("data")
        x = jax.lax.with_sharding_constraint(x, jax.sharding.NamedSharding(mesh, rows))
        return jax.shard_map(of_one_device, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)(x).sum()

    assert constant_bytes(jax.value_and_grad(loss), VECTOR, "cpu") < 1000


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"disable_bounds_checks": True}, "disable_bounds_checks"),
        ({"disable_semaphore_checks": True}, "disable_semaphore_checks"),
        ({"collective_id": 3, "allow_collective_id_without_custom_barrier": True}, "collective_id"),
        ({"flags": {"xla_some_flag": True}}, "flag_configs"),
    ],
    ids=["bounds", "semaphores", "collective", "flags"],
)
def test_kernels_keep_their_checks(settings: dict[str, object], name: str) -> None:
    with pytest.raises(OperationError, match=f'^a kernel of it asks for "{name}": kernels keep their checks'):
        constant_bytes(kernel_of([2.0], **settings), VECTOR, "tpu")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("operand_layouts = [dense<[1, 0]>", "operand_layouts = [dense<[0, 1]>"),
        ("result_layouts = [dense<[1, 0]>", "result_layouts = [dense<[0, 1]>"),
    ],
)
def test_a_kernel_takes_arrays_as_they_lie(before: str, after: str) -> None:
    def overwritten(x: Array) -> Array:
        shape = jax.ShapeDtypeStruct((8, 128), jnp.float32)
        return pl.pallas_call(lambda x_ref, out_ref: None, out_shape=shape, input_output_aliases={0: 0})(x)

    exported = export.export(jax.jit(overwritten), platforms=["tpu"])(*VECTOR)
    with stablehlo_module(exported.mlir_module_serialized) as module:
        check_custom_calls(module, "tpu")
        text = str(module)
        assert before in text
        with pytest.raises(OperationError, match="Pallas"):
            check_custom_calls(ir.Module.parse(text.replace(before, after), context=module.context), "tpu")


def test_kernels_may_say_how_much_memory_they_take() -> None:
    settings = {"vmem_limit_bytes": 2**20, "allow_input_fusion": [True]}
    assert constant_bytes(kernel_of([2.0], **settings), VECTOR, "tpu") > 0


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (b'{"custom_call_config": {"body": "", "has_communication": true}}', "has_communication"),
        (b'{"custom_call_config": {"body": "", "disableBoundsChecks": true}}', "disableBoundsChecks"),
        (b'{"custom_call_config": {"body": ""}, "later": 1}', "later"),
        (b'{"custom_call_config": {"body": "", "body": ""}}', "settings that are no JSON"),
        (b"not JSON", "settings that are no JSON"),
        (b"[1]", "settings without custom_call_config"),
    ],
)
def test_settings_that_we_do_not_know_are_refused(payload: bytes, name: str) -> None:
    assert refused_settings(payload) == {name}
