"""Floating point operations of the matrix products in a traced program, each as often as it runs.

XLA's cost analysis counts a loop's body once. Here a loop counts as often as `jax.lax.scan` and `fori_loop` say it
runs: a counter begins at a constant, grows by a constant, and is held against a constant.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo

MAX_FLOPS = 1e30  # loops in loops add up to more than a number can be; nobody lives to see their end
_LESS = "#stablehlo<comparison_direction LT>"


def product_flops(module: ir.Module) -> float:
    """Operations that one run of a program needs for matrix products, on all devices together: at least so many.

    Where it cannot be told, the least counts: the cheapest branch of a condition, one pass of a loop whose end depends
    on what it computes, one device's share of what `shard_map` gives each. Convolutions and custom calls count nothing.
    """
    functions = {
        ir.StringAttr(view.operation.attributes["sym_name"]).value: view.operation
        for view in module.body.operations
        if view.operation.name == "func.func"
    }
    return min(_Counter(functions).function("main"), MAX_FLOPS)


@dataclass
class _Counter:
    functions: dict[str, ir.Operation]

    def __post_init__(self) -> None:
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
    """How often the body of a loop runs; 1 where it cannot be told."""
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
