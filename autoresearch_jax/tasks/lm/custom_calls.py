"""Checks custom calls, sorts, reductions and collectives of a traced program.

XLA runs a custom call by its name and trusts its shapes, layouts and attributes: a result that is too large comes back
as memory that was never written, and past the end of a small operand other memory is read or written. So a call is
allowed only if JAX writes exactly this one, attributes and all, for operands of these types (`lowerings.py`). Where its
arrays lie on a mesh is left to the program. Likewise `sort` compares only by an order that JAX writes, since one that
is no order runs out of bounds, reductions combine numbers by arithmetic alone, and collectives fit their groups.
"""

import re
import traceback
from collections.abc import Sequence

from jax.extend.mlir import ir

from autoresearch_jax.sanitize import quoted
from autoresearch_jax.tasks.lm.dialects import ALLOWED_OPERATIONS, OperationError, functions_of
from autoresearch_jax.tasks.lm.lowerings import (
    CONFIG,
    CUSTOM_CALL,
    PIVOTS_TO_PERMUTATION,
    SORT,
    Functions,
    aval,
    call_target,
    describe,
    is_written,
    orders,
    region_text,
    settings_of,
    types_of,
)
from autoresearch_jax.tasks.lm.operations import DEVICE_PLACEMENT, TPU_KERNEL

_REDUCTIONS = frozenset(
    f"stablehlo.{name}"
    for name in ("reduce", "reduce_window", "scatter", "select_and_scatter", "all_reduce", "reduce_scatter", "map")
)
_ARITHMETIC = frozenset(
    f"stablehlo.{name}"
    for name in (
        *("add", "subtract", "multiply", "divide", "remainder", "power", "maximum", "minimum", "negate", "abs", "sign"),
        *("and", "or", "xor", "not", "shift_left", "shift_right_arithmetic", "shift_right_logical", "popcnt"),
        *("compare", "select", "clamp", "is_finite", "constant", "convert", "bitcast_convert", "reduce_precision"),
        *("exponential", "exponential_minus_one", "log", "log_plus_one", "logistic", "sqrt", "rsqrt", "cbrt"),
        *("tanh", "sine", "cosine", "tan", "atan2", "floor", "ceil", "round_nearest_afz", "round_nearest_even"),
        *("real", "imag", "complex", "optimization_barrier", "return"),
    )
) | {"func.return"}
_COLLECTIVES = frozenset(f"stablehlo.{name}" for name in ("all_gather", "all_to_all", "reduce_scatter"))
_LU = "cusolver_getrf_ffi"
_MAX_SORTED = 16  # arrays; each number of keys among them is compared with JAX's


def check_custom_calls(module: ir.Module, platform: str) -> None:
    """Checks that custom calls, orders of `sort` and bodies of reductions are as JAX writes them.

    Args:
      module: of a program all of whose operations are allowed; see `check_operations`.
      platform: "cpu", "cuda" or "tpu".

    Raises:
      OperationError: one is not; one line that names it.
    """
    functions = functions_of(module)
    refused: list[str] = []

    def visit(operation: ir.Operation) -> ir.WalkResult:  # what it raises would lose its type on the way
        try:
            reason = _refusal(operation, functions, platform)
        except Exception:  # of a malformed operation, or of JAX refusing to lower for its operands: the program's fault
            traceback.print_exc()  # into the log, in case it is ours
            reason = f"{_name(operation)} in a form that JAX does not write"
        if reason is None:
            return ir.WalkResult.ADVANCE
        refused.append(reason)
        return ir.WalkResult.INTERRUPT

    module.operation.walk(visit)
    if refused:
        raise OperationError(f"it uses {refused[0]}")


def _refusal(operation: ir.Operation, functions: Functions, platform: str) -> str | None:
    """Why an operation is refused; None if it is not."""
    if operation.name in _REDUCTIONS and not _is_arithmetic(operation.regions, functions):
        return f"a {operation.name} that does more than arithmetic on the numbers that it combines"
    if operation.name in _COLLECTIVES and not _fits_its_group(operation):
        return f"a {operation.name} whose result is not as large as its groups make it"
    if operation.name == SORT:
        dtypes = tuple(aval(kind).dtype for kind in types_of(operation.operands))
        if len(dtypes) > _MAX_SORTED:
            return f"a sort of more than {_MAX_SORTED} arrays"
        if region_text(operation.regions[0], functions) not in orders(dtypes):
            return "a sort by another order than those of jax.lax.sort"
    if operation.name == "stablehlo.composite" and not _is_as_exported(operation):
        return "a composite that jax.export does not write"
    if operation.name != CUSTOM_CALL:
        return None
    if call_target(operation) == TPU_KERNEL:
        return None if _is_plain_kernel(operation) else "a kernel with layouts that Pallas does not write"
    if not _is_as_jax_writes(operation, functions, platform):
        return f"{_name(operation)} otherwise than JAX itself does: call jax.numpy, jax.lax or jax.nn, not jax.ffi"
    return None


def _is_as_jax_writes(operation: ir.Operation, functions: Functions, platform: str) -> bool:
    name, operands, results = call_target(operation), types_of(operation.operands), types_of(operation.results)
    if name == DEVICE_PLACEMENT:
        return operands == results
    if name == PIVOTS_TO_PERMUTATION and not _are_pivots(operation.operands[0], functions):
        return False
    settings = "".join(settings_of(operation.attributes[key]) for key in CONFIG if key in operation.attributes)
    return is_written(describe(operation, functions), name, operands, results, settings, platform)


def _is_as_exported(operation: ir.Operation) -> bool:
    """Whether a composite stands for an operation that jax.export has another name for, with the shapes of that."""
    name = ir.StringAttr(operation.attributes["name"]).value
    operands, results = ([aval(kind) for kind in types_of(v)] for v in (operation.operands, operation.results))
    if name == "chlo.scan":  # as cumulative sums are written
        return operands == results
    if name == "chlo.top_k":
        (values,), (largest, indices) = operands, results
        k = largest.shape[-1]
        expected = [largest.update(shape=(*values.shape[:-1], k), dtype=dtype) for dtype in (values.dtype, "int32")]
        return k <= values.shape[-1] and [largest, indices] == expected
    if name == "chlo.ragged_dot":
        return {size for array in results for size in array.shape} <= {
            size for array in operands for size in array.shape
        }
    return name in ALLOWED_OPERATIONS and name.startswith("chlo.") and len({a.shape for a in operands + results}) == 1


def _is_plain_kernel(operation: ir.Operation) -> bool:
    """Whether a kernel for a TPU takes arrays as they lie; StableHLO itself checks that aliases have one type."""
    operands, results = types_of(operation.operands), types_of(operation.results)
    for name, types in (("operand_layouts", operands), ("result_layouts", results)):
        ranks = [len(aval(kind).shape) for kind in types]
        layouts = [list(range(rank))[::-1] for rank in ranks]
        texts = [str(layout) if len(layout) > 1 else "".join(map(str, layout)) for layout in layouts]
        wanted = [f"dense<{text}> : tensor<{rank}xindex>" for text, rank in zip(texts, ranks, strict=True)]
        if str(operation.attributes[name]) != f"[{', '.join(wanted)}]":
            return False
    return True


def _fits_its_group(operation: ir.Operation) -> bool:
    """Whether the results of a collective are as large as the devices of one group make them."""
    attributes = operation.attributes
    (size,) = ir.ShapedType(attributes["replica_groups"].type).shape[1:]
    for operand, result in zip(operation.operands, operation.results, strict=True):
        before, after = list(aval(str(operand.type)).shape), list(aval(str(result.type)).shape)
        if operation.name == "stablehlo.all_gather":
            before[ir.IntegerAttr(attributes["all_gather_dim"]).value] *= size
        elif operation.name == "stablehlo.reduce_scatter":
            after[ir.IntegerAttr(attributes["scatter_dimension"]).value] *= size
        else:
            if ir.IntegerAttr(attributes["split_count"]).value != size:
                return False
            before[ir.IntegerAttr(attributes["concat_dimension"]).value] *= size
            after[ir.IntegerAttr(attributes["split_dimension"]).value] *= size
        if before != after or size < 1:
            return False
    return True


def _are_pivots(value: ir.Value, functions: Functions) -> bool:
    """Whether these are the pivots of an LU decomposition, counted from 0: a call that trusts them gets no others.

    They may have passed through functions, as their results and arguments.
    """
    waiting, seen = [value], set()
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        came_from = _through_functions(current, functions)
        waiting += came_from
        if not came_from and not _are_own_pivots(current):
            return False
    return True


def _through_functions(value: ir.Value, functions: Functions) -> list[ir.Value]:
    """What a function returned as this value, or all that is given to a function as this argument; else nothing."""
    if isinstance(value.owner, ir.Block):
        function = value.owner.owner.operation
        if function.name != "func.func":
            return []
        index = ir.BlockArgument(value).arg_number
        return [call.operands[index] for call in _calls_of(ir.StringAttr(function.attributes["sym_name"]), functions)]
    call = value.owner.operation
    if call.name != "func.call":
        return []
    block = functions[ir.FlatSymbolRefAttr(call.attributes["callee"]).value].regions[0].blocks[0]
    returned = block.operations[len(block.operations) - 1].operation.operands
    return [returned[ir.OpResult(value).result_number]]


def _calls_of(name: ir.StringAttr, functions: Functions) -> list[ir.Operation]:
    callee, found = str(ir.FlatSymbolRefAttr.get(name.value, name.context)), []

    def visit(operation: ir.Operation) -> ir.WalkResult:
        if operation.name == "func.call" and str(operation.attributes["callee"]) == callee:
            found.append(operation)
        return ir.WalkResult.ADVANCE

    for function in functions.values():
        function.walk(visit)
    return found


def _are_own_pivots(value: ir.Value) -> bool:
    less_one = getattr(value.owner, "operation", None)  # a block has none
    if less_one is None or less_one.name != "stablehlo.subtract":
        return False
    pivots, one = less_one.operands
    decomposition = getattr(pivots.owner, "operation", None)
    return (
        decomposition is not None
        and decomposition.name == CUSTOM_CALL
        and call_target(decomposition) == _LU
        and decomposition.results[1] == pivots
        and _is_one(one)
    )


def _is_one(value: ir.Value) -> bool:
    constant = getattr(value.owner, "operation", None)
    while constant is not None and constant.name == "stablehlo.broadcast_in_dim":
        constant = getattr(constant.operands[0].owner, "operation", None)
    return (
        constant is not None
        and constant.name == "stablehlo.constant"
        and "dense<1>" in str(constant.attributes["value"])
    )


def _is_arithmetic(regions: Sequence[ir.Region], functions: Functions) -> bool:
    """Whether regions only compute single numbers, also in the functions that they call."""
    waiting, called = list(regions), set()
    while waiting:
        for operation in (view.operation for block in waiting.pop().blocks for view in block.operations):
            if operation.name == "func.call":
                name = ir.FlatSymbolRefAttr(operation.attributes["callee"]).value
                if name not in called:
                    called.add(name)
                    waiting.extend(functions[name].regions)
            elif operation.name not in _ARITHMETIC:
                return False
            if not all(re.fullmatch(r"tensor<[^x]*(complex<\w+>)?>", kind) for kind in types_of(operation.results)):
                return False
    return True


def _name(operation: ir.Operation) -> str:
    return quoted(call_target(operation), 80) if operation.name == CUSTOM_CALL else operation.name
