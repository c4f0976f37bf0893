"""What JAX's own lowering writes for custom calls and orders of `sort`, as text to compare with."""

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
from autoresearch_jax.tasks.lm.dialects import attribute_names, functions_of
from autoresearch_jax.tasks.lm.operations import stablehlo_module, without_twins

CUSTOM_CALL, SORT = "stablehlo.custom_call", "stablehlo.sort"
PIVOTS_TO_PERMUTATION = "cu_lu_pivots_to_permutation"
_MESH_ATTRIBUTES = frozenset(("mhlo.sharding", "sdy.sharding"))
CONFIG = ("backend_config", "mhlo.backend_config")
_DTYPES = {
    "i1": "bool",
    "bf16": "bfloat16",
    "f8E4M3FN": "float8_e4m3fn",
    "f8E5M2": "float8_e5m2",
    **{f"f{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"i{bits}": f"int{bits}" for bits in (2, 4, 8, 16, 32, 64)},
    **{f"ui{bits}": f"uint{bits}" for bits in (2, 4, 8, 16, 32, 64)},
    "complex<f32>": "complex64",
    "complex<f64>": "complex128",
}

Functions = Mapping[str, ir.Operation]  # of a module, by name
Types = tuple[str, ...]  # of arrays, as MLIR writes them
Arrays = Sequence[ShapeDtypeStruct]
Lowered = tuple[Callable[..., Any], Arrays]  # a function of JAX and the arrays that it is lowered for


def settings_of(attribute: ir.Attribute) -> str:
    """The settings of a call; those in JSON in one order, since JAX writes them in several."""
    text = ir.StringAttr(attribute).value if isinstance(attribute, ir.StringAttr) else str(attribute)
    return (
        json.dumps(json.loads(text, object_pairs_hook=without_twins), sort_keys=True) if text.startswith('{"') else text
    )


def call_target(operation: ir.Operation) -> str:
    return str(ir.StringAttr(operation.attributes["call_target_name"]).value)


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
            text = settings_of(value)
        attributes.append(f"{name} = {text}")
    return f"{operation.name} {attributes} {types_of(operation.operands)} {types_of(operation.results)}"


def types_of(values: Any) -> Types:
    return tuple(str(value.type) for value in values)


def _function_text(name: str, functions: Functions) -> str:
    return region_text(functions[name].regions[0], functions)


def region_text(region: ir.Region, functions: Functions) -> str:
    """The operations of a region of one block; what it takes from outside must be constants."""
    (block,) = region.blocks
    names: dict[ir.Value, str] = {value: f"argument {index}" for index, value in enumerate(block.arguments)}
    lines = []
    for index, view in enumerate(block.operations):
        operation = view.operation
        inner = [region_text(inner, functions) for inner in operation.regions]
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


_MATCHED: dict[tuple[object, ...], int] = {}  # the variant that matched last, to try it first: each takes 30 ms


@functools.lru_cache(maxsize=1024)
def is_written(description: str, name: str, operands: Types, results: Types, settings: str, platform: str) -> bool:
    """Whether one of the calls of this name that JAX writes for operands of these types has this description."""
    for pattern, lowered in _LOWERED.items():
        if re.fullmatch(pattern, name):
            variants = list(lowered(tuple(map(aval, operands)), tuple(map(aval, results)), settings))
            key = (name, settings, platform, len(variants))
            likely = _MATCHED.get(key, 0)  # settings hardly depend on shapes
            for index in sorted(range(len(variants)), key=lambda index: index != likely):
                if description in _calls(name, *variants[index], platform):
                    _MATCHED[key] = index
                    return True
    return False


def _calls(name: str, function: Callable[..., Any], arrays: Arrays, platform: str) -> set[str]:
    """Descriptions of the calls of this name in the lowering of a function; none where JAX refuses the arrays."""
    calls: set[str] = set()

    def visit(operation: ir.Operation) -> ir.WalkResult:
        if operation.name == CUSTOM_CALL and call_target(operation) == name:
            calls.add(describe(operation, functions))
        return ir.WalkResult.ADVANCE

    try:
        with _module(function, arrays, platform, name) as module:
            functions = functions_of(module)
            module.operation.walk(visit)
    except (ValueError, TypeError, NotImplementedError):  # not a variant of these arrays, or of this platform
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


def aval(kind: str) -> ShapeDtypeStruct:
    """The array of a type such as "tensor<2x4xf32>"."""
    *sizes, element = kind.removeprefix("tensor<").removesuffix(">").split("x", kind.count("x") - kind.count("complex"))
    return ShapeDtypeStruct(tuple(map(int, sizes)), _DTYPES[element])


@functools.lru_cache(maxsize=256)
def orders(dtypes: tuple[Any, ...]) -> frozenset[str]:
    """The comparators that JAX writes to sort arrays of these types by the first, or the first few, of them."""
    arrays = tuple(ShapeDtypeStruct((2,), dtype) for dtype in dtypes)
    comparators: set[str] = set()

    def visit(operation: ir.Operation) -> ir.WalkResult:
        if operation.name == SORT:
            comparators.add(region_text(operation.regions[0], {}))
        return ir.WalkResult.ADVANCE

    def sort(keys: int, *values: jax.Array) -> Any:
        return lax.sort(values, num_keys=keys)

    sorts: list[Lowered] = [(functools.partial(sort, keys), arrays) for keys in range(1, len(arrays) + 1)]
    if dtypes[1:] == ("int32",):  # what stands for the largest of an array where they have no name
        sorts.append((lambda values, indices: lax.top_k(values, 1), arrays))
    for function, inputs in sorts:
        with _module(function, inputs, "cpu", SORT) as module:
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


def _symmetric_product(operands: Arrays, results: object, settings: str) -> Iterator[Lowered]:
    yield linalg.symmetric_product, operands[:2]  # the others are its factors


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
        implementation=(None, *linalg.EighImplementation),
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
    rf"{_LAPACK}gtsv_ffi|cusparse_gtsv2_ffi": _tridiagonal,
    "cusolver_syrk_ffi": _symmetric_product,
    rf"{_LAPACK}geqp3_ffi": _pivoted_qr,
    PIVOTS_TO_PERMUTATION: _pivots,
    "cu_threefry2x32_ffi": _one(threefry2x32_p.bind),
    r"mhlo\.topk": _top_k,
    "ApproxTopK": _approximate_top_k,
    r"__cudnn\$fmha(ScaleBias)?Softmax(Backward)?": _cudnn_attention,
}
