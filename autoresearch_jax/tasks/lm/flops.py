"""Costs of compiled programs before they run: memory, FLOPs, steps within the budget; peak speed of devices."""

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo
from jax.sharding import Mesh

from autoresearch_jax.tasks.lm.device import peak_flops
from autoresearch_jax.tasks.lm.dialects import functions_of

GIBIBYTE = 1 << 30

MAX_FLOPS = 1e30  # loops in loops may overflow a float
_LESS = "#stablehlo<comparison_direction LT>"

MATRIX_SIZE = 1024
REPEATS = 20  # the best of them counts: a peak is what nothing disturbs


class TooCostlyError(Exception):
    """A candidate needs more than there is; one line with both numbers."""


def memory_bytes(compiled: Any) -> int | None:
    """Bytes a program needs on one device: arguments, results and temporaries, donated ones counted once."""
    stats = compiled.memory_analysis()
    if stats is None:
        return None
    return int(
        stats.argument_size_in_bytes + stats.output_size_in_bytes + stats.temp_size_in_bytes - stats.alias_size_in_bytes
    )


def flops(compiled: Any, of_products: float = 0.0) -> float | None:
    """Floating point operations of one call on one device; None where they are not known.

    The larger of XLA's count, which counts a loop's body once, and `of_products` (see `product_flops`).
    """
    value = max((compiled.cost_analysis() or {}).get("flops") or 0.0, of_products)
    return float(value) if value > 0 else None


def check_memory(needed: Mapping[str, int | None], device_bytes: int | None) -> None:
    """Raises TooCostlyError for a program, of those whose bytes are known, that `device_bytes` cannot hold."""
    for name, size in needed.items():
        if size is not None and device_bytes is not None and size > device_bytes:
            sizes = f"{size / GIBIBYTE:,.1f} GiB of memory, the device has {device_bytes / GIBIBYTE:,.1f} GiB"
            raise TooCostlyError(f"`{name}` needs {sizes}: make the model or the batch smaller")


def predict_steps(
    begins: Sequence[float], step_flops: Sequence[float | None], budget_seconds: float, peak_flops: float | None
) -> float | None:
    """An upper bound of the steps that fit into a budget, at the devices' peak speed; None where it is not known.

    `begins` is the progress at which each phase begins; FLOPs are of all devices together.
    """
    if peak_flops is None:
        return None
    steps = 0.0
    for (begin, end), of_one_step in zip(itertools.pairwise([*begins, 1.0]), step_flops, strict=True):
        if of_one_step is None:
            return None
        steps += (end - begin) * budget_seconds * peak_flops / of_one_step
    return steps


def check_steps(predicted: float | None, min_steps: int, budget_seconds: float) -> None:
    """Raises TooCostlyError if fewer than `min_steps` steps fit into the budget."""
    if predicted is not None and predicted < min_steps:
        raise TooCostlyError(
            f"even at the device's peak speed only {predicted:.1f} steps fit into {budget_seconds:g} s, "
            f"and at least {min_steps} must: make the model or the batch smaller"
        )


def product_flops(module: ir.Module) -> float:
    """A lower bound of the operations of one run of a program for matrix products, on all devices together.

    Loops of `jax.lax.scan` and `fori_loop` count with their passes, other loops with one, a condition with its cheapest
    branch, `shard_map` with one device's share. Convolutions and custom calls are not counted.
    """
    return min(_Counter(functions_of(module)).function("main"), MAX_FLOPS)


class _Counter:
    def __init__(self, functions: Mapping[str, ir.Operation]) -> None:
        self.functions = functions
        self.known: dict[str, float] = {}

    def function(self, name: str) -> float:
        if name not in self.known:
            self.known[name] = 0.0  # a function that calls itself is no program that XLA compiles
            self.known[name] = self.blocks(list(self.functions[name].regions[0].blocks))
        return self.known[name]

    def blocks(self, blocks: Sequence[ir.Block]) -> float:
        return sum(self.operation(view.operation) for block in blocks for view in block.operations)

    def operation(self, operation: ir.Operation) -> float:
        if operation.name == "func.call":
            return self.function(ir.FlatSymbolRefAttr(operation.attributes["callee"]).value)
        if operation.name == "stablehlo.dot_general":
            return _of_product(operation)
        regions = [self.blocks(list(region.blocks)) for region in operation.regions]
        if operation.name in ("stablehlo.case", "stablehlo.if"):
            return min(regions)
        if operation.name == "stablehlo.while":
            return sum(regions) * _passes(operation)
        return sum(regions)


def _of_product(operation: ir.Operation) -> float:
    result, left = (ir.ShapedType(value.type) for value in (operation.results[0], operation.operands[0]))
    if not isinstance(result.element_type, ir.FloatType):
        return 0.0
    dimensions = stablehlo.DotDimensionNumbers(operation.attributes["dot_dimension_numbers"])
    summed = math.prod(left.shape[axis] for axis in dimensions.lhs_contracting_dimensions)
    return 2.0 * math.prod(result.shape) * summed


def _passes(loop: ir.Operation) -> int:
    """How often the body of a loop runs; 1 where that is not a constant."""
    condition, body = (region.blocks[0] for region in loop.regions)
    goes_on = _maker(condition.operations[len(condition.operations) - 1].operation.operands[0])
    if goes_on is None or goes_on.name != "stablehlo.compare":
        return 1
    counter, end = goes_on.operands[0], _constant(goes_on.operands[1])
    if str(goes_on.attributes["comparison_direction"]) != _LESS or not isinstance(counter.owner, ir.Block):
        return 1
    index = ir.BlockArgument(counter).arg_number
    if counter != condition.arguments[index]:
        return 1
    grown = _maker(body.operations[len(body.operations) - 1].operation.operands[index])
    if grown is None or grown.name != "stablehlo.add" or grown.operands[0] != body.arguments[index]:
        return 1
    start, step = _constant(loop.operands[index]), _constant(grown.operands[1])
    if start is None or step is None or end is None or step < 1:
        return 1
    return max(0, -(-(end - start) // step))


def _maker(value: ir.Value) -> ir.Operation | None:
    """The operation that a value is a result of; None for an argument."""
    owner: Any = value.owner
    return None if isinstance(owner, ir.Block) else getattr(owner, "operation", owner)


def _constant(value: ir.Value) -> int | None:
    """The whole number that a value is."""
    maker = _maker(value)
    if maker is None or maker.name != "stablehlo.constant":
        return None
    shaped = ir.ShapedType(value.type)
    if shaped.rank or not isinstance(shaped.element_type, ir.IntegerType):
        return None
    return int(ir.DenseIntElementsAttr(maker.attributes["value"])[0])


def mesh_peak_flops(mesh: Mesh) -> float | None:
    """Peak bf16 FLOP/s of all devices of the mesh together; None for unknown accelerators.

    On a CPU, whose host devices share the cores, it is measured, which takes some tenths of a second; other hosts are
    taken to be as fast.
    """
    device = mesh.local_devices[0]
    if device.platform == "cpu":
        return measured_flops(device) * (mesh.size / len(mesh.local_devices))
    of_one = peak_flops(device.device_kind)
    return None if of_one is None else of_one * mesh.size


def measured_flops(device: jax.Device, dtype: str = "bfloat16") -> float:
    """FLOP/s of a product of two square matrices, the best of several."""
    x = jax.device_put(jnp.ones((MATRIX_SIZE, MATRIX_SIZE), dtype), device)
    multiply = jax.jit(lambda a, b: jnp.einsum("ik,jk->ij", a, b))  # the layout that XLA's CPU backend is fastest in
    multiply(x, x).block_until_ready()
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        multiply(x, x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * MATRIX_SIZE**3 / best
