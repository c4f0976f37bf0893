"""What a traced program may be written in: operations, their attributes, how deep functions and loops are nested."""

import functools
import re
from collections.abc import Iterator, Mapping

from jax.extend.mlir import ir
from jax.extend.mlir.dialects import chlo, sdy, stablehlo

# What the rules of jax.interpreters.mlir write, by dialect.
_WRITTEN = {
    "stablehlo": """
        abs add and atan2 bitcast_convert cbrt ceil clamp compare complex convert cosine count_leading_zeros divide
        exponential exponential_minus_one floor imag is_finite log log_plus_one logistic maximum minimum multiply negate
        not or popcnt power real reduce_precision remainder round_nearest_afz round_nearest_even rsqrt select shift_left
        shift_right_arithmetic shift_right_logical sign sine sqrt subtract tan tanh xor
        broadcast_in_dim case cholesky composite concatenate constant convolution custom_call dot_general dynamic_slice
        dynamic_update_slice fft gather get_dimension_size iota optimization_barrier pad reduce reduce_window reshape
        return reverse rng_bit_generator scatter select_and_scatter slice sort transpose triangular_solve while
        all_gather all_reduce all_to_all collective_broadcast collective_permute partition_id reduce_scatter replica_id
    """,
    "chlo": """
        acos acosh asin asinh atan atanh bessel_i1e conj cosh digamma erf erf_inv erfc is_inf is_neg_inf is_pos_inf
        lgamma mulhi next_after polygamma ragged_dot sinh square tan top_k zeta
    """,
    "sdy": "mesh sharding_constraint sharding_group manual_computation return",
    "func": "func call return",
    "builtin": "module",
}
ALLOWED_OPERATIONS = frozenset(f"{dialect}.{name}" for dialect, names in _WRITTEN.items() for name in names.split())
# Attributes beside an operation's own. XLA obeys some that no dialect knows of, such as names of threads.
_MORE_ATTRIBUTES = {
    "func.func": "arg_attrs res_attrs function_type sym_name sym_visibility",
    "func.call": "callee",
    "builtin.module": "sym_name mhlo.num_partitions mhlo.num_replicas jax.uses_shape_polymorphism",
    "sdy.mesh": "stablehlo.mesh",
    "stablehlo.custom_call": "mhlo.backend_config kernel_name",
}
_OF_ARGUMENTS = frozenset(
    ("tf.aliasing_output", "jax.buffer_donor", "jax.const", "jax.arg_info", "jax.result_info", "mhlo.memory_kind")
)
_SHARDINGS = frozenset(("mhlo.sharding", "sdy.sharding"))
_FRONTEND = "mhlo.frontend_attributes"
# Of these: where an array lies, where a function is computed, whether it is inlined, what a kernel is called.
_FRONTEND_VALUES = {
    "_xla_buffer_placement": re.compile("device|(un)?pinned_host"),
    "_xla_compute_type": re.compile("host"),
    "inlineable": re.compile("true|false"),
    "kernel_metadata": re.compile(".*", re.DOTALL),
}
MAX_DEPTH = 64  # of calls in calls, loops and branches in each other; the default's step is 8 deep
SYMBOL = re.compile(r'@(?:"(?P<quoted>[^"]*)"|(?P<plain>[\w$.-]+))')
_CALLS = ("callee", "called_computations", "decomposition")  # attributes that name functions


class OperationError(Exception):
    """A program breaks a rule; one line."""


def attribute_names(operation: ir.Operation) -> list[str]:
    """Names of an operation's attributes, as every version of JAX lists them."""
    return [getattr(attribute, "name", attribute) for attribute in operation.attributes]


@functools.cache
def _own_attributes() -> Mapping[str, frozenset[str]]:
    """Names of each operation's attributes, as the classes that JAX writes it by have them."""
    own = {name: set(more.split()) for name, more in _MORE_ATTRIBUTES.items()}
    for dialect in (stablehlo, chlo, sdy):
        for kind in vars(dialect).values():
            if isinstance(kind, type) and hasattr(kind, "OPERATION_NAME"):  # attributes can be set, operands cannot
                names = set(dir(kind)) - {"location"}
                settable = {name for name in names if getattr(getattr(kind, name), "fset", None)}
                own.setdefault(kind.OPERATION_NAME, set()).update(settable)
    return {name: frozenset(names) | _SHARDINGS for name, names in own.items()}


def unknown_attributes(operation: ir.Operation) -> Iterator[str]:
    """Names of attributes that JAX does not write at this operation, or not with these values."""
    for name in attribute_names(operation):
        if name == _FRONTEND:
            yield from (f"{_FRONTEND}: {key}" for key in _unknown_settings(operation.attributes[name]))
        elif name in ("arg_attrs", "res_attrs"):
            for entry in ir.ArrayAttr(operation.attributes[name]):
                yield from set(_keys(entry)) - _OF_ARGUMENTS - _SHARDINGS
        elif name not in _own_attributes().get(operation.name, ()):
            yield name


def _keys(attribute: ir.Attribute) -> list[str]:
    entries = ir.DictAttr(attribute)
    return [entries[index].name for index in range(len(entries))]


def _unknown_settings(attribute: ir.Attribute) -> Iterator[str]:
    for name in _keys(attribute):
        value = ir.DictAttr(attribute)[name]
        text = value.value if isinstance(value, ir.StringAttr) else ""
        if name not in _FRONTEND_VALUES or not _FRONTEND_VALUES[name].fullmatch(text):
            yield name


def functions_of(module: ir.Module) -> dict[str, ir.Operation]:
    """The functions of a module, by name."""
    functions = (view.operation for view in module.body.operations)
    return {
        ir.StringAttr(function.attributes["sym_name"]).value: function
        for function in functions
        if function.name == "func.func"
    }


def check_depth(module: ir.Module) -> None:
    """Checks that functions do not call themselves, and that calls, loops and branches are not nested too deep.

    Raises:
      OperationError: they are: XLA, and our own checks, would run out of stack.
    """
    functions = functions_of(module)
    heights: dict[str, int | None] = {}  # None while a function is looked at

    def height(name: str, depth: int) -> int:
        if name not in functions:
            return 0
        if name not in heights:
            heights[name] = None
            heights[name] = of_regions(functions[name], depth)
        known = heights[name]
        if known is None:
            raise OperationError("a function of it calls itself: use jax.lax.while_loop, scan or fori_loop")
        require(depth + known)
        return known

    def of_regions(operation: ir.Operation, depth: int) -> int:
        require(depth)
        inner = [view.operation for region in operation.regions for block in region.blocks for view in block.operations]
        return 1 + max((of_operation(one, depth + 1) for one in inner), default=0)

    def of_operation(operation: ir.Operation, depth: int) -> int:
        texts = (str(operation.attributes[name]) for name in _CALLS if name in operation.attributes)
        called = [match["quoted"] or match["plain"] for text in texts for match in SYMBOL.finditer(text)]
        heights_below = [height(name, depth) for name in called]
        return max([*heights_below, of_regions(operation, depth) if len(operation.regions) else 0])

    def require(depth: int) -> None:
        if depth > MAX_DEPTH:
            raise OperationError(
                f"its functions, loops and branches are nested more than {MAX_DEPTH} deep: call functions one after "
                "another, not within each other; jax.lax.scan repeats a layer"
            )

    for name in functions:
        height(name, 0)
