"""Custom calls, sorts and reductions of a traced program, compared with what JAX's own lowering writes.

XLA runs a custom call by its name and trusts its shapes, layouts and attributes: a result that is too large comes back
as memory that was never written, and past the end of a small operand other memory is read or written. So a call is
allowed only if JAX writes exactly this one, attributes and all, for operands of these types. Where its arrays lie on a
mesh is left to the program. Likewise `sort` compares only by an order that JAX writes, since one that is no order runs
out of bounds, and reductions combine numbers by arithmetic alone.
"""

import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
from jax import ShapeDtypeStruct, export, lax
from jax.extend.mlir import ir
from jax.extend.random import threefry2x32_p
from jax.lax import linalg

from autoresearch_jax.kernels.platforms import ATTENTION_CALLS, seen_by_jax
from autoresearch_jax.sanitize import quoted
from autoresearch_jax.tasks.lm.operations import (
    DEVICE_PLACEMENT,
    TPU_KERNEL,
    OperationError,
    attribute_names,
    stablehlo_module,
    without_twins,
)

_CUSTOM_CALL, _SORT = "stablehlo.custom_call", "stablehlo.sort"
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
_PIVOTS_TO_PERMUTATION, _LU = "cu_lu_pivots_to_permutation", "cusolver_getrf_ffi"
_MESH_ATTRIBUTES = frozenset(("mhlo.sharding", "sdy.sharding"))
_CONFIG = ("backend_config", "mhlo.backend_config")
_DTYPES = {
    "i1": "bool",
    "bf16": "bfloat16",
    "f8E4M3FN": "float8_e4m3fn",
    "f8E5M2": "float8_e5m2",
    "complex<f32>": "complex64",
    "complex<f64>": "complex128",
} | {
    f"{short}{bits}": f"{name}{bits}"
    for short, name in (("i", "int"), ("ui", "uint"), ("f", "float"))
    for bits in (4, 8, 16, 32, 64)
    if (short, bits) not in (("f", 4), ("f", 8))
}
_MAX_SORTED = 16  # arrays; each number of keys among them is compared with JAX's

Functions = Mapping[str, ir.Operation]  # of a module, by name
Types = tuple[str, ...]  # of arrays, as MLIR writes them
Arrays = Sequence[ShapeDtypeStruct]
Lowered = tuple[Callable[..., Any], Arrays]  # a function of JAX and the arrays that it is lowered for


def check_custom_calls(module: ir.Module, platform: str) -> None:
    """Checks that custom calls, orders of `sort` and bodies of reductions are as JAX writes them.

    Args:
      module: of a program all of whose operations are allowed; see `check_operations`.
      platform: "cpu", "cuda" or "tpu".

    Raises:
      OperationError: one is not; one line that names it.
    """
    functions = _functions(module)
    refused: list[str] = []

    def visit(operation: ir.Operation) -> ir.WalkResult:  # what it raises would lose its type on the way
        try:
            reason = _refusal(operation, functions, platform)
        except Exception:  # JAX refuses to write such a call, in whatever way
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
    if operation.name == _SORT:
        dtypes = tuple(_aval(kind).dtype for kind in _types(operation.operands))
        if len(dtypes) > _MAX_SORTED:
            return f"a sort of more than {_MAX_SORTED} arrays"
        if _region_text(operation.regions[0], functions) not in _orders(dtypes):
            return "a sort by another order than those of jax.lax.sort"
    if operation.name != _CUSTOM_CALL or _target(operation) == TPU_KERNEL:
        return None
    if not _is_as_jax_writes(operation, functions, platform):
        return f"{_name(operation)} otherwise than JAX itself does: call jax.numpy, jax.lax or jax.nn, not jax.ffi"
    return None


def _is_as_jax_writes(operation: ir.Operation, functions: Functions, platform: str) -> bool:
    name, operands, results = _target(operation), _types(operation.operands), _types(operation.results)
    if name == DEVICE_PLACEMENT:
        return operands == results
    if name == _PIVOTS_TO_PERMUTATION and not _are_pivots(operation.operands[0]):
        return False
    settings = "".join(_settings(operation.attributes[key]) for key in _CONFIG if key in operation.attributes)
    return _is_written(describe(operation, functions), name, operands, results, settings, platform)


def _settings(attribute: ir.Attribute) -> str:
    """The settings of a call; those in JSON in one order, since JAX writes them in several."""
    text = ir.StringAttr(attribute).value if isinstance(attribute, ir.StringAttr) else str(attribute)
    return (
        json.dumps(json.loads(text, object_pairs_hook=without_twins), sort_keys=True) if text.startswith('{"') else text
    )


def _fits_its_group(operation: ir.Operation) -> bool:
    """Whether the results of a collective are as large as the devices of one group make them."""
    attributes = operation.attributes
    (size,) = ir.ShapedType(attributes["replica_groups"].type).shape[1:]
    for operand, result in zip(operation.operands, operation.results, strict=True):
        before, after = list(_aval(str(operand.type)).shape), list(_aval(str(result.type)).shape)
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


def _are_pivots(value: ir.Value) -> bool:
    """Whether these are the pivots of an LU decomposition, counted from 0: a call that trusts them gets no others."""
    less_one = getattr(value.owner, "operation", None)  # a block has none
    if less_one is None or less_one.name != "stablehlo.subtract":
        return False
    pivots, one = less_one.operands
    decomposition = getattr(pivots.owner, "operation", None)
    return (
        decomposition is not None
        and decomposition.name == _CUSTOM_CALL
        and _target(decomposition) == _LU
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
            if not all(re.fullmatch(r"tensor<[^x]*(complex<\w+>)?>", kind) for kind in _types(operation.results)):
                return False
    return True


def _target(operation: ir.Operation) -> str:
    return str(ir.StringAttr(operation.attributes["call_target_name"]).value)


def _name(operation: ir.Operation) -> str:
    return quoted(_target(operation), 80) if operation.name == _CUSTOM_CALL else operation.name


def _functions(module: ir.Module) -> dict[str, ir.Operation]:
    functions = (view.operation for view in module.body.operations)
    return {
        ir.StringAttr(function.attributes["sym_name"]).value: function
        for function in functions
        if function.name == "func.func"
    }


def describe(operation: ir.Operation, functions: Functions) -> str:
    """What an operation is, but for where its operands come from and where its arrays lie on a mesh."""
    attributes = []
    for name in sorted(set(attribute_names(operation)) - _MESH_ATTRIBUTES):
        value = operation.attributes[name]
        text = str(value)
        if name == "called_computations":
            text = str(
                [_function_text(ir.FlatSymbolRefAttr(symbol).value, functions) for symbol in ir.ArrayAttr(value)]
            )
        elif name == "backend_config":
            text = _settings(value)
        attributes.append(f"{name} = {text}")
    return f"{operation.name} {attributes} {_types(operation.operands)} {_types(operation.results)}"


def _types(values: Any) -> Types:
    return tuple(str(value.type) for value in values)


def _function_text(name: str, functions: Functions) -> str:
    return _region_text(functions[name].regions[0], functions)


def _region_text(region: ir.Region, functions: Functions) -> str:
    """The operations of a region of one block; what it takes from outside must be constants."""
    (block,) = region.blocks
    names: dict[ir.Value, str] = {value: f"argument {index}" for index, value in enumerate(block.arguments)}
    lines = []
    for index, view in enumerate(block.operations):
        operation = view.operation
        inner = [_region_text(inner, functions) for inner in operation.regions]
        lines.append(f"{describe(operation, functions)} {[_source(names, v) for v in operation.operands]} {inner}")
        names |= {result: f"result {number} of {index}" for number, result in enumerate(operation.results)}
    return "\n".join(lines)


def _source(names: Mapping[ir.Value, str], value: ir.Value) -> str:
    if value in names:
        return names[value]
    operation = getattr(value.owner, "operation", None)  # a block has none
    if operation is None or operation.name != "stablehlo.constant":
        raise ValueError("it takes a value from outside that is no constant")
    return describe(operation, {})


@functools.lru_cache(maxsize=1024)
def _is_written(description: str, name: str, operands: Types, results: Types, settings: str, platform: str) -> bool:
    """Whether one of the calls of this name that JAX writes for operands of these types has this description."""
    for pattern, lowered in _LOWERED.items():
        if re.fullmatch(pattern, name):
            variants = lowered(tuple(map(_aval, operands)), tuple(map(_aval, results)), settings)
            return any(description in _calls(name, function, arrays, platform) for function, arrays in variants)
    return False


def _calls(name: str, function: Callable[..., Any], arrays: Arrays, platform: str) -> set[str]:
    """Descriptions of the calls of this name in the lowering of a function; none where JAX refuses the arrays."""
    calls: set[str] = set()

    def visit(operation: ir.Operation) -> ir.WalkResult:
        if operation.name == _CUSTOM_CALL and _target(operation) == name:
            calls.add(describe(operation, functions))
        return ir.WalkResult.ADVANCE

    try:
        with _module(function, arrays, platform, name) as module:
            functions = _functions(module)
            module.operation.walk(visit)
    except (ValueError, TypeError, NotImplementedError):
        return set()
    return calls


@contextmanager
def _module(function: Callable[..., Any], arrays: Arrays, platform: str, name: str) -> Iterator[Any]:
    """The module of an exported function, read back as a candidate's is."""
    allowed = [export.DisabledSafetyCheck.custom_call(name), *ATTENTION_CALLS]
    with seen_by_jax(""):
        exported = export.export(jax.jit(function), platforms=[platform], disabled_checks=allowed)(*arrays)
    with stablehlo_module(exported.mlir_module_serialized) as module:
        yield module


def _aval(kind: str) -> ShapeDtypeStruct:
    """The array of a type such as "tensor<2x4xf32>"."""
    *sizes, element = kind.removeprefix("tensor<").removesuffix(">").split("x", kind.count("x") - kind.count("complex"))
    return ShapeDtypeStruct(tuple(map(int, sizes)), _DTYPES[element])


@functools.lru_cache(maxsize=256)
def _orders(dtypes: tuple[Any, ...]) -> frozenset[str]:
    """The comparators that JAX writes to sort arrays of these types by the first, or the first few, of them."""
    arrays = tuple(ShapeDtypeStruct((2,), dtype) for dtype in dtypes)
    comparators: set[str] = set()

    def visit(operation: ir.Operation) -> ir.WalkResult:
        if operation.name == _SORT:
            comparators.add(_region_text(operation.regions[0], {}))
        return ir.WalkResult.ADVANCE

    def sort(keys: int, *values: jax.Array) -> Any:
        return lax.sort(values, num_keys=keys)

    sorts: list[Lowered] = [(functools.partial(sort, keys), arrays) for keys in range(1, len(arrays) + 1)]
    if dtypes[1:] == ("int32",):  # what stands for the largest of an array where they have no name
        sorts.append((lambda values, indices: lax.top_k(values, 1), arrays))
    for function, inputs in sorts:
        with _module(function, inputs, "cpu", _SORT) as module:
            module.operation.walk(visit)
    return frozenset(comparators)


def _one(function: Callable[..., Any]) -> Callable[..., Iterator[Lowered]]:
    """A function that is lowered for the operands as they are."""

    def lowered(operands: Arrays, results: object, settings: str) -> Iterator[Lowered]:
        yield function, operands

    return lowered


def _variants(function: Callable[..., Any], **choices: Sequence[Any]) -> Callable[..., Iterator[Lowered]]:
    """A function that is lowered with each combination of settings, for the operands and their transposes."""

    def lowered(operands: Arrays, results: object, settings: str) -> Iterator[Lowered]:
        shapes = [operands]
        if len(operands) == 1:  # cuSOLVER takes matrices of one orientation only
            *batch, rows, columns = operands[0].shape
            shapes.append((ShapeDtypeStruct((*batch, columns, rows), operands[0].dtype),))
        for arrays in shapes:
            for values in itertools.product(*choices.values()):
                yield functools.partial(function, **dict(zip(choices, values, strict=True))), arrays

    return lowered


def _pivots(operands: Arrays, results: Arrays, settings: str) -> Iterator[Lowered]:
    yield functools.partial(linalg.lu_pivots_to_permutation, permutation_size=results[0].shape[-1]), operands


def _tridiagonal(operands: Arrays, results: object, settings: str) -> Iterator[Lowered]:
    diagonal, right = operands[1], operands[3]
    yield linalg.tridiagonal_solve, (diagonal, diagonal, diagonal, right)


def _pivoted_qr(operands: Arrays, results: object, settings: str) -> Iterator[Lowered]:
    yield functools.partial(linalg.qr, pivoting=True, full_matrices=False), operands[:1]


def _top_k(operands: Arrays, results: Arrays, settings: str) -> Iterator[Lowered]:
    yield lambda values: lax.top_k(values, results[0].shape[-1]), operands


def _approximate_top_k(operands: Arrays, results: object, settings: str) -> Iterator[Lowered]:
    told = dict(re.findall(r"(\w+) = ([\w.+-]+)", settings))
    for function in (lax.approx_max_k, lax.approx_min_k):
        wanted = functools.partial(
            function,
            k=int(told["top_k"]),
            reduction_dimension=int(told["reduction_dim"]),
            recall_target=float(told["recall_target"]),
            reduction_input_size_override=int(told["reduction_input_size_override"]),
            aggregate_to_topk=told["aggregate_to_topk"] == "true",
        )
        yield wanted, operands[:1]


def _cudnn_attention(operands: Arrays, results: object, settings: str) -> Iterator[Lowered]:
    """Forward, forward that keeps what the gradient needs, and backward, with the settings that JAX has words for.

    Without lengths of rows, which are values that cuDNN trusts.
    """
    told = json.loads(settings)["cudnn_fmha_backend_config"]
    window = int(told["sliding_window_length"])
    attend = functools.partial(
        jax.nn.dot_product_attention,
        scale=float(told["fmha_scale"]),
        is_causal=told["mask_type"] == "CAUSAL",
        local_window_size=(window - 1, 0) if window > 0 else None,
        implementation="cudnn",
    )
    is_backward = "bmm1_grad_gemm1_dot_dimension_numbers" in told
    bias = operands[5 if is_backward else 3 :][:1]
    for arrays in ((*operands[:3], *bias), operands[:3]) if bias and len(bias[0].shape) == 4 else (operands[:3],):
        yield attend, arrays
        yield (lambda *inputs: jax.vjp(attend, *inputs)[1](jax.numpy.zeros(inputs[0].shape, inputs[0].dtype))), arrays


_LAPACK, _CUSOLVER = r"lapack_[sdcz]", r"cusolver_"
# What JAX writes each call for, by a pattern of its name.
_LOWERED: dict[str, Callable[..., Iterator[Lowered]]] = {
    rf"{_LAPACK}potrf_ffi|{_CUSOLVER}potrf_ffi": _one(functools.partial(linalg.cholesky, symmetrize_input=False)),
    rf"{_LAPACK}getrf_ffi|{_CUSOLVER}getrf_ffi|LuDecomposition": _one(linalg.lu),
    rf"{_LAPACK}geqrf_ffi|{_CUSOLVER}geqrf_ffi|Qr": _one(functools.partial(linalg.qr, full_matrices=False)),
    rf"{_LAPACK}(or|un)gqr_ffi|{_CUSOLVER}orgqr_ffi|ProductOfElementaryHouseholderReflectors": _one(
        linalg.householder_product
    ),
    rf"{_LAPACK}trsm_ffi": _variants(
        linalg.triangular_solve,
        **dict.fromkeys(("left_side", "lower", "transpose_a", "conjugate_a", "unit_diagonal"), (False, True)),
    ),
    rf"{_LAPACK}(sy|he)evd_ffi|{_CUSOLVER}syevd_ffi|Eigh": _variants(
        functools.partial(linalg.eigh, symmetrize_input=False),
        **dict.fromkeys(("lower", "sort_eigenvalues"), (False, True)),
    ),
    rf"{_LAPACK}ges[vd]d?_ffi|{_CUSOLVER}gesv(d|dj|dp)_ffi": _variants(
        linalg.svd,
        **dict.fromkeys(("full_matrices", "compute_uv"), (False, True)),
        algorithm=(*linalg.SvdAlgorithm,),
    ),
    rf"{_LAPACK}geev_ffi": _variants(
        linalg.eig, **dict.fromkeys(("compute_left_eigenvectors", "compute_right_eigenvectors"), (False, True))
    ),
    rf"{_LAPACK}gees_ffi": _variants(linalg.schur, compute_schur_vectors=(False, True)),
    rf"{_LAPACK}gehrd_ffi": _one(linalg.hessenberg),
    rf"{_LAPACK}(sy|he)trd_ffi|{_CUSOLVER}sytrd_ffi": _variants(linalg.tridiagonal, lower=(False, True)),
    rf"{_LAPACK}gtsv_ffi": _tridiagonal,
    rf"{_LAPACK}geqp3_ffi": _pivoted_qr,
    _PIVOTS_TO_PERMUTATION: _pivots,
    "cu_threefry2x32_ffi": _one(threefry2x32_p.bind),
    r"mhlo\.topk": _top_k,
    "ApproxTopK": _approximate_top_k,
    r"__cudnn\$fmha(ScaleBias)?Softmax(Backward)?": _cudnn_attention,
}
