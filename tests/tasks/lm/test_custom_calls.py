"""Custom calls as JAX writes them and in other forms: small programs, exported and read, never run."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import ShapeDtypeStruct, export, lax
from jax.extend.mlir import ir

from autoresearch_jax.kernels.platforms import seen_by_jax
from autoresearch_jax.tasks.lm.custom_calls import check_custom_calls
from autoresearch_jax.tasks.lm.dialects import OperationError
from autoresearch_jax.tasks.lm.operations import check_operations, stablehlo_module
from autoresearch_jax.tasks.lm.trace import UNPROMISED_CALLS

WIDE, STACK = ShapeDtypeStruct((4, 6), jnp.float32), ShapeDtypeStruct((3, 6, 4), jnp.float32)
SQUARE = ShapeDtypeStruct((4, 4), jnp.float32)
ROW = ShapeDtypeStruct((4,), jnp.int32)
HEADS = ShapeDtypeStruct((2, 128, 4, 64), jnp.bfloat16)
CALLS = ("cu_threefry2x32_ffi", "lapack_sgees_ffi")


def exported(function: Callable[..., Any], *arrays: ShapeDtypeStruct, platform: str = "cpu") -> bytes:
    checks = [*UNPROMISED_CALLS, *(export.DisabledSafetyCheck.custom_call(name) for name in CALLS)]
    with seen_by_jax("H100"):
        found = export.export(jax.jit(function), platforms=[platform], disabled_checks=checks)(*arrays)
    return found.mlir_module_serialized


def check(program: bytes, platform: str = "cpu") -> None:
    with stablehlo_module(program) as module:
        check_operations(module, platform)
        check_custom_calls(module, platform)


def check_text(text: str, platform: str = "cpu") -> None:
    with stablehlo_module(exported(jnp.sin, ROW)) as module:  # for its context, which knows all dialects
        check_custom_calls(ir.Module.parse(text, context=module.context), platform)


def gram(x: jax.Array) -> jax.Array:
    return x @ x.swapaxes(-1, -2) + jnp.eye(x.shape[-2])


EVERYWHERE = {
    "factorizations": lambda x: (jnp.linalg.cholesky(gram(x)), lax.linalg.lu(x), jnp.linalg.qr(x)),
    "eigenvalues": lambda x: (jnp.linalg.eigh(gram(x)), jnp.linalg.svd(x), jnp.linalg.pinv(x)),
    "solutions": lambda x: (jnp.linalg.solve(gram(x), x), jnp.linalg.inv(gram(x)), jnp.linalg.qr(x, mode="complete")),
    "gradients": jax.grad(lambda x: jnp.linalg.cholesky(gram(x)).sum() + jnp.linalg.eigh(gram(x))[1].sum()),
    "orders": lambda x: (
        jnp.sort(x),
        jnp.sort(x.astype(jnp.int2)),
        jnp.sort(x.astype(jnp.float8_e4m3fn)),
        jnp.argsort(x, descending=True),
        jnp.median(x),
        jnp.lexsort((x, x)),
        jnp.unique(x.astype(jnp.int32), size=4),
        jax.random.permutation(jax.random.key(0), x),
    ),
    "largest": lambda x: (lax.top_k(x, 2), lax.approx_max_k(x, 2), lax.approx_min_k(x, 3, recall_target=0.9)),
    "reductions": lambda x: (jnp.argmax(x), jnp.cumsum(x, 0), lax.cummax(x, 1), x.at[0].max(0), jax.nn.logsumexp(x)),
    "of experts": lambda x: lax.ragged_dot(
        x.reshape(-1, x.shape[-1]), jnp.ones((2, x.shape[-1], 5)), jnp.array([2, 4], jnp.int32)
    ),
    "of one number": lambda x: (
        lax.erf(x[0, 0] if x.ndim == 2 else x[0, 0, 0]),
        jax.random.truncated_normal(jax.random.key(0), -2, 2, (3,)),
    ),
    "reductions of functions": lambda x: (
        lax.reduce(x, -jnp.inf, jnp.logaddexp, (0,)),
        lax.reduce_window(x, 0.0, lax.add, (2,) * x.ndim, (1,) * x.ndim, "VALID"),
        jax.grad(lambda y: y[jnp.array([0, 1, 1])].sum())(x),
    ),
}
ON_CPU = {
    "complex": lambda x: (jnp.linalg.eigh(gram(x).astype(jnp.complex64)), jnp.sort(x.astype(jnp.complex64))),
    "nonsymmetric": lambda x: (
        jnp.linalg.eig(gram(x)),
        jax.scipy.linalg.schur(gram(x)),
        jax.scipy.linalg.expm(gram(x)),
    ),
    "pivoted": lambda x: jax.scipy.linalg.qr(x, pivoting=True, mode="economic"),
    "tridiagonal": lambda x: lax.linalg.tridiagonal_solve(x, x, x, x[..., None]),
}
ON_CUDA = {
    "factored before": lambda x: jax.scipy.linalg.lu_solve(jax.scipy.linalg.lu_factor(gram(x)), x),
    "tridiagonal": lambda x: lax.linalg.tridiagonal_solve(x, x, x, x[..., None]),
    "eigenvalues by Jacobi and by QR": lambda x: [
        lax.linalg.eigh(gram(x), implementation=way) for way in list(lax.linalg.EighImplementation)[:2]
    ],
    "symmetric product": lambda x: lax.linalg.symmetric_product(x, gram(x), alpha=0.5),
}
CASES = [("cpu", name, ON_CPU[name]) for name in ON_CPU]
CASES += [("cuda", name, ON_CUDA[name]) for name in ON_CUDA]
CASES += [(platform, name, EVERYWHERE[name]) for platform in ("cpu", "cuda", "tpu") for name in EVERYWHERE]


@pytest.mark.parametrize(("platform", "name", "function"), CASES, ids=[f"{case[0]} {case[1]}" for case in CASES])
def test_what_jax_writes_is_accepted(platform: str, name: str, function: Callable[..., Any]) -> None:
    for array in (WIDE, STACK):
        check(exported(function, array, platform=platform), platform)


def attention(**settings: Any) -> Callable[..., Any]:
    def attend(q: jax.Array, k: jax.Array, v: jax.Array, *bias: jax.Array) -> jax.Array:
        return jax.nn.dot_product_attention(q, k, v, *bias, implementation="cudnn", **settings)

    return jax.value_and_grad(lambda *arrays: attend(*arrays).astype(jnp.float32).sum(), argnums=(0, 1, 2))


@pytest.mark.parametrize(
    "settings", [{}, {"is_causal": True}, {"is_causal": True, "local_window_size": (32, 0), "scale": 0.3}], ids=str
)
def test_attention_of_cudnn_is_accepted(settings: dict[str, Any]) -> None:
    check(exported(attention(**settings), HEADS, HEADS, HEADS, platform="cuda"), "cuda")


def test_attention_of_cudnn_with_a_bias_is_accepted() -> None:
    bias = ShapeDtypeStruct((1, 4, 128, 128), jnp.bfloat16)
    check(exported(attention(), HEADS, HEADS, HEADS, bias, platform="cuda"), "cuda")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (r"\22128\22, \22128\22", r"\2212800\22, \22128\22"),
        (r"\22workspace_size\22: \220\22", r"\22workspace_size\22: \229999\22"),
        ("dense<[3, 2, 1, 0]> : tensor<4xindex>", "dense<[0, 1, 2, 3]> : tensor<4xindex>"),
        ("tensor<2x4x128xf32>", "tensor<2x4x4096xf32>"),
        (r"\22mask_type\22: \22CAUSAL\22", r"\22mask_type\22: \22PADDING\22"),
    ],
)
def test_attention_with_other_settings_is_refused(before: str, after: str) -> None:
    with stablehlo_module(exported(attention(is_causal=True), HEADS, HEADS, HEADS, platform="cuda")) as module:
        text = str(module)
    assert before in text
    with pytest.raises(OperationError, match="cudnn"):
        check_text(text.replace(before, after), "cuda")


def call(name: str, *results: tuple[tuple[int, ...], Any], **settings: Any) -> Callable[..., Any]:
    """A function that makes a custom call by its name."""
    attributes = {key: settings.pop(key) for key in ("uplo", "diag", "side", "trans_x", "mode") if key in settings}
    structs = [ShapeDtypeStruct(shape, dtype) for shape, dtype in results]
    return lambda *arrays: jax.ffi.ffi_call(name, structs, **settings)(*arrays, **attributes)


COLUMNS = {"input_layouts": [(1, 0)], "output_layouts": [(1, 0), (0,)], "input_output_aliases": {0: 0}}
TRIANGLE = {
    name: np.uint8(ord(letter)) for name, letter in (("uplo", "L"), ("diag", "N"), ("side", "L"), ("trans_x", "N"))
}


@pytest.mark.parametrize(
    ("function", "arrays"),
    [
        (call("lapack_sgetrf_ffi", ((4, 4), jnp.float32), ((65_536,), jnp.int32), ((), jnp.int32)), [SQUARE]),
        (call("lapack_strsm_ffi", ((512, 512), jnp.float32), **TRIANGLE),
         [ShapeDtypeStruct((1, 1), jnp.float32), ShapeDtypeStruct((512, 512), jnp.float32)]),
        (call("lapack_spotrf_ffi", ((1, 1), jnp.float32), ((), jnp.int32), uplo=np.uint8(76)),
         [ShapeDtypeStruct((4096, 4096), jnp.float32)]),
        (call("lapack_spotrf_ffi", ((4, 4), jnp.float32), ((), jnp.int32), uplo=np.uint8(0)), [SQUARE]),
        (call("lapack_ssyevd_ffi", ((4, 4), jnp.float32), ((3,), jnp.float32), ((), jnp.int32), mode=np.uint8(86),
              uplo=np.uint8(76)), [SQUARE]),
    ],
    ids=["more pivots", "small triangle", "small result", "no such triangle", "few eigenvalues"],
)  # fmt: skip
def test_calls_by_name_with_other_shapes_are_refused(function: Callable[..., Any], arrays: list[Any]) -> None:
    with pytest.raises(OperationError, match=r"lapack_s.*jax\.ffi"):
        check(exported(function, *arrays))


@pytest.mark.parametrize(("before", "after"), [
    ("result_layouts = [dense<[0, 1]>", "result_layouts = [dense<[1, 0]>"),
    ("output_operand_aliases", "other"),
    ("uplo = 76 : ui8", "uplo = 85 : ui8"),
    ('num_batch_dims = "0"', 'num_batch_dims = "1"'),
])  # fmt: skip
def test_calls_with_other_attributes_are_refused(before: str, after: str) -> None:
    with stablehlo_module(exported(lambda x: lax.linalg.cholesky(x, symmetrize_input=False), SQUARE)) as module:
        text = str(module)
    check_text(text)
    assert before in text
    with pytest.raises(OperationError, match="lapack_spotrf_ffi"):
        check_text(text.replace(before, after))


def test_pivots_must_come_from_a_decomposition() -> None:
    def permuted(pivots: jax.Array) -> jax.Array:
        return lax.linalg.lu_pivots_to_permutation(pivots, 4)

    with pytest.raises(OperationError, match="cu_lu_pivots_to_permutation"):
        check(exported(permuted, ROW, platform="cuda"), "cuda")


def test_an_order_that_is_none_is_refused() -> None:
    with stablehlo_module(exported(jnp.sort, ShapeDtypeStruct((64,), jnp.int32))) as module:
        text = str(module)
    check_text(text)
    for wrong in ("NE", "LE", "GE"):
        with pytest.raises(OperationError, match="order"):
            check_text(text.replace("compare LT", f"compare {wrong}").replace("compare  LT", f"compare  {wrong}"))


def test_an_order_of_approximate_top_k_that_is_none_is_refused() -> None:
    with stablehlo_module(exported(lambda x: lax.approx_max_k(x, 2), WIDE)) as module:
        text = str(module)
    assert "compare GT" in text
    with pytest.raises(OperationError, match="ApproxTopK"):
        check_text(text.replace("compare GT", "compare GE"))


REDUCTION = """
func.func public @main(%x: tensor<8xf32>) -> tensor<f32> {{
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %sum = "stablehlo.reduce"(%x, %zero) <{{dimensions = array<i64: 0>}}> ({{
  ^bb0(%a: tensor<f32>, %b: tensor<f32>):
    {body}
    stablehlo.return %c : tensor<f32>
  }}) : (tensor<8xf32>, tensor<f32>) -> tensor<f32>
  return %sum : tensor<f32>
}}
func.func private @more(%a: tensor<f32>) -> tensor<f32> {{
  %wide = stablehlo.broadcast_in_dim %a, dims = [] : (tensor<f32>) -> tensor<1000000xf32>
  %one = stablehlo.slice %wide [0:1] : (tensor<1000000xf32>) -> tensor<1xf32>
  %c = stablehlo.reshape %one : (tensor<1xf32>) -> tensor<f32>
  return %c : tensor<f32>
}}
"""


def test_reductions_do_no_more_than_arithmetic() -> None:
    check_text(REDUCTION.format(body="%c = stablehlo.add %a, %b : tensor<f32>"))
    for body in (
        "%c = stablehlo.custom_call @lapack_spotrf_ffi(%a) : (tensor<f32>) -> tensor<f32>",
        "%c = func.call @more(%a) : (tensor<f32>) -> tensor<f32>",
        "%c = stablehlo.while(%i = %a) : tensor<f32> cond { %t = stablehlo.constant dense<true> : tensor<i1>\n"
        "stablehlo.return %t : tensor<i1> } do { stablehlo.return %i : tensor<f32> }",
    ):
        with pytest.raises(OperationError, match=r"arithmetic|otherwise"):
            check_text(REDUCTION.format(body=body))


@pytest.mark.parametrize(
    "body",
    [
        "%y = stablehlo.set_dimension_size %x, %n, dim = 0 : (tensor<8xf32>, tensor<i32>) -> tensor<8xf32>",
        "%z = stablehlo.set_dimension_size %x, %n, dim = 0 : (tensor<8xf32>, tensor<i32>) "
        "-> tensor<?xf32, #stablehlo.bounds<8>>\n%y = stablehlo.constant dense<0.0> : tensor<8xf32>",
    ],
)
def test_sizes_that_are_known_only_at_run_time_are_refused(body: str) -> None:
    head = "func.func public @main(%x: tensor<8xf32>, %n: tensor<i32>) -> tensor<8xf32> {"
    with stablehlo_module(exported(jnp.sin, ROW)) as module:
        dynamic = ir.Module.parse(f"{head}\n{body}\nreturn %y : tensor<8xf32>\n}}", context=module.context)
        with pytest.raises(OperationError, match="set_dimension_size"):
            check_operations(dynamic, "cpu")


GATHER = """
func.func public @main(%x: tensor<8xf32>) -> tensor<{size}xf32> {{
  %y = "stablehlo.all_gather"(%x) <{{all_gather_dim = 0 : i64, replica_groups = dense<[[0]]> : tensor<1x1xi64>}}>
    : (tensor<8xf32>) -> tensor<{size}xf32>
  return %y : tensor<{size}xf32>
}}
"""


def test_a_collective_s_result_is_as_large_as_its_groups_make_it() -> None:
    check_text(GATHER.format(size=8))
    with pytest.raises(OperationError, match="all_gather"):
        check_text(GATHER.format(size=4096))


COMPOSITE = """
func.func public @main(%x: tensor<8xf32>) -> tensor<{k}xf32> {{
  %z:2 = stablehlo.composite "{name}" %x {{decomposition = @d, composite_attributes = {{k = {k} : i64}}}}
    : (tensor<8xf32>) -> (tensor<{k}xf32>, tensor<{k}xi32>)
  return %z#0 : tensor<{k}xf32>
}}
func.func private @d(%x: tensor<8xf32>) -> (tensor<{k}xf32>, tensor<{k}xi32>) {{
  %a = stablehlo.constant dense<1.0> : tensor<{k}xf32>
  %b = stablehlo.constant dense<1> : tensor<{k}xi32>
  return %a, %b : tensor<{k}xf32>, tensor<{k}xi32>
}}
"""


@pytest.mark.parametrize(("name", "k"), [("chlo.top_k", 100), ("xla.top_k", 2), ("xla.scaled_dot", 2)])
def test_a_composite_is_one_that_jax_exports(name: str, k: int) -> None:
    check_text(COMPOSITE.format(name="chlo.top_k", k=2))
    with pytest.raises(OperationError, match="composite"):
        check_text(COMPOSITE.format(name=name, k=k))


@pytest.mark.parametrize(
    "attribute",
    [
        'mhlo.frontend_attributes = {_xla_stream_annotation = "1"}',
        'mhlo.frontend_attributes = {_xla_compute_type = "sparseoffload"}',
        'xla_shape = "f32[1000]"',
        'execution_thread = "host"',
        "result_layout = dense<0> : tensor<1xindex>",
    ],
)
def test_attributes_that_jax_does_not_write_are_refused(attribute: str) -> None:
    with stablehlo_module(exported(jnp.sin, SQUARE)) as module:
        check_operations(module, "cpu")
        text = str(module).replace("stablehlo.sine %arg0", f"stablehlo.sine %arg0 {{{attribute}}}")
        assert attribute in text
        with pytest.raises(OperationError, match="attributes that are not allowed"):
            check_operations(ir.Module.parse(text, context=module.context), "cpu")


def test_twin_keys_of_a_config_are_refused() -> None:
    with stablehlo_module(exported(attention(), HEADS, HEADS, HEADS, platform="cuda")) as module:
        text = str(module)
    key = r"\22dropout_rate\22: "
    with pytest.raises(OperationError, match="cudnn"):
        check_text(text.replace(key, key + r"0.5, \22dropout_rate\22: "), "cuda")
