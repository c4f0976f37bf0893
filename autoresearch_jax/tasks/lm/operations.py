"""Checks every operation of a traced StableHLO program: what it calls, what it embeds, what its kernels ask for."""

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from jax.extend import mlir
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import chlo, sdy, stablehlo

from autoresearch_jax.sanitize import quoted
from autoresearch_jax.tasks.lm.dialects import ALLOWED_OPERATIONS, OperationError, attribute_names, unknown_attributes

TPU_KERNEL = "tpu_custom_call"
_CONFIG = "custom_call_config"
# Settings of jax 0.10.2 and 0.12 about a kernel's memory and layout. Missing on purpose: leaving out checks of bounds
# and semaphores, communication with other devices, and flags by name.
_ALLOWED = frozenset(
    (_CONFIG, "sparse_core_config", "device_type", "scoped_memory_configs", "megachip_parallelism_config")
)
_ALLOWED_IN_CONFIG = frozenset(
    (
        *("body", "serialization_format", "debug_locations", "cost_estimate", "needs_hlo_passes"),
        *("needs_layout_passes", "shape_invariant_numerics", "allow_input_fusion", "internal_scratch_in_bytes"),
        *("output_memory_space_colors", "input_memory_space_colors"),
    )
)

DEVICE_PLACEMENT = "annotate_device_placement"  # host or device; JAX marks it as a side effect
# Custom calls that only compute, by platform: linear algebra, attention, kernels for a TPU; see custom_calls.py.
_ALLOWED_ANYWHERE = rf"{DEVICE_PLACEMENT}|mhlo\.topk|ApproxTopK"
ALLOWED_CUSTOM_CALLS = {
    "cpu": re.compile(rf"{_ALLOWED_ANYWHERE}|lapack_[a-z]+3?_ffi"),
    "cuda": re.compile(
        rf"{_ALLOWED_ANYWHERE}|cusolver_[a-z]+_ffi|cusparse_gtsv2_ffi|cu_threefry2x32_ffi|cu_lu_pivots_to_permutation"
        r"|__cudnn\$fmha[A-Za-z0-9]+"
    ),
    "tpu": re.compile(
        rf"{_ALLOWED_ANYWHERE}|{TPU_KERNEL}|Qr|Eigh|LuDecomposition"
        "|ProductOfElementaryHouseholderReflectors"
    ),
}
# Operations that communicate with the host, or draw numbers without a key.
FORBIDDEN_OPERATIONS = frozenset(f"stablehlo.{name}" for name in ("infeed", "outfeed", "send", "recv", "rng"))
# Operations whose results may be larger than what is written to them: the rest would be old memory.
DYNAMIC_OPERATIONS = frozenset(
    f"stablehlo.{name}"
    for name in (
        *("set_dimension_size", "real_dynamic_slice", "dynamic_broadcast_in_dim", "dynamic_conv"),
        *("dynamic_gather", "dynamic_iota", "dynamic_pad", "dynamic_reshape"),
    )
)
_DYNAMIC_TYPE = re.compile(r"\?|bounds")
FLOAT_BYTES = 8  # counted for a float in an attribute; a whole number counts the bytes that it takes
_NUMBER_LISTS = (
    *(ir.DenseBoolArrayAttr, ir.DenseI8ArrayAttr, ir.DenseI16ArrayAttr, ir.DenseI32ArrayAttr, ir.DenseI64ArrayAttr),
    *(ir.DenseF32ArrayAttr, ir.DenseF64ArrayAttr),
)
MAX_NAMED_CALLS = 5  # in a message


def refused_settings(payload: bytes) -> set[str]:
    """Names of forbidden or unknown settings of a kernel for a TPU.

    A kernel's payload is JSON: `custom_call_config` with the instructions, and settings around it
    (jax/_src/tpu_custom_call.py). XLA checks that a kernel stays within its arrays, unless told not to.
    """
    try:
        settings = json.loads(payload, object_pairs_hook=without_twins)
    except (ValueError, RecursionError):
        return {"settings that are no JSON"}
    config = settings.get(_CONFIG) if isinstance(settings, dict) else None
    if not isinstance(config, dict):
        return {f"settings without {_CONFIG}"}
    return (settings.keys() - _ALLOWED) | (config.keys() - _ALLOWED_IN_CONFIG)


def without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a repeated key XLA might read another value than we do."""
    settings = dict(pairs)
    if len(settings) < len(pairs):
        raise ValueError("a key comes twice")
    return settings


@contextmanager
def stablehlo_module(serialized: bytes) -> Iterator[ir.Module]:
    """A program's module, valid while this is entered; raises OperationError if it is no StableHLO."""
    with ir.Context() as context:
        for dialect in (stablehlo, chlo, sdy):
            dialect.register_dialect(context)
        try:
            module = mlir.deserialize_portable_artifact(serialized)
        except (ValueError, RuntimeError) as error:
            raise OperationError("it holds no StableHLO") from error
        yield module


class Embedded(NamedTuple):
    """What a program carries with it.

    Attributes:
      constant_bytes: of its arrays and of the numbers in its operations' attributes.
      kernel_bytes: of the payloads of its custom calls, each once: a model's layers share their kernels.
    """

    constant_bytes: int
    kernel_bytes: int


def check_operations(module: ir.Module, platform: str) -> Embedded:
    """Checks that a program only computes; returns what it carries with it.

    Raises:
      OperationError: it calls what is not allowed on the platform, or hides constants.
    """
    unknown_operations: set[str] = set()
    unknown_names: set[str] = set()
    custom_calls: set[str] = set()
    of_kernels: set[str] = set()
    with_side_effect: set[str] = set()
    payloads: set[bytes] = set()
    constant_bytes = 0
    forbidden_operations: set[str] = set()
    dynamic_operations: set[str] = set()
    has_unreadable = False

    def visit(operation: ir.Operation) -> ir.WalkResult:  # an exception raised here would lose its type
        nonlocal constant_bytes, has_unreadable
        if operation.name in FORBIDDEN_OPERATIONS:
            forbidden_operations.add(operation.name)
        elif operation.name not in ALLOWED_OPERATIONS:
            unknown_operations.add(operation.name)
        if operation.name in DYNAMIC_OPERATIONS or any(map(_is_dynamic, operation.results)):
            dynamic_operations.add(operation.name)
        if operation.name != "stablehlo.custom_call":
            unknown_names.update(unknown_attributes(operation))
        else:
            target = ir.StringAttr(operation.attributes["call_target_name"]).value
            custom_calls.add(target)
            payloads.add(_payload(operation))
            if target in (TPU_KERNEL, DEVICE_PLACEMENT):  # others are compared with what JAX writes
                unknown_names.update(unknown_attributes(operation))
            if target == TPU_KERNEL:
                of_kernels.update(refused_settings(_payload(operation)))
            if (
                target != DEVICE_PLACEMENT
                and "has_side_effect" in operation.attributes
                and ir.BoolAttr(operation.attributes["has_side_effect"]).value
            ):
                with_side_effect.add(target)
        size = _attribute_bytes(operation)
        has_unreadable = has_unreadable or size is None
        constant_bytes += size or 0
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    forbidden = {call for call in custom_calls if not ALLOWED_CUSTOM_CALLS[platform].fullmatch(call)}
    if forbidden:
        raise OperationError(f"it uses custom calls not allowed on {platform}: {_listed(forbidden)}")
    if with_side_effect:
        raise OperationError(
            f"it uses custom calls with a side effect, programs must be pure: {_listed(with_side_effect)}"
        )
    if forbidden_operations:
        names = ", ".join(sorted(forbidden_operations))
        raise OperationError(f"it uses {names}: programs have no host to speak with, and randomness comes from a key")
    if dynamic_operations:
        names = ", ".join(sorted(dynamic_operations))
        raise OperationError(
            f"it uses {names} with sizes that are known only while it runs: shapes are fixed in a trace"
        )
    if unknown_operations:
        raise OperationError(f"it uses operations that JAX does not write: {_listed(unknown_operations)}")
    if unknown_names:
        raise OperationError(f"its operations have attributes that are not allowed: {_listed(unknown_names)}")
    if of_kernels:
        raise OperationError(
            f"a kernel of it asks for {_listed(of_kernels)}: kernels keep their checks, speak with no other device and "
            "set no flags"
        )
    if has_unreadable:
        raise OperationError("it holds a constant that is no plain array")
    return Embedded(constant_bytes, sum(map(len, payloads)))


def _is_dynamic(value: ir.Value) -> bool:
    return _DYNAMIC_TYPE.search(str(value.type)) is not None


def _payload(operation: ir.Operation) -> bytes:
    """The configuration of a custom call."""
    payload = b""
    for name in ("backend_config", "mhlo.backend_config"):
        if name in operation.attributes:
            value = operation.attributes[name]
            payload += ir.StringAttr(value).value_bytes if isinstance(value, ir.StringAttr) else str(value).encode()
    return payload


def _listed(names: set[str]) -> str:
    return ", ".join(quoted(name, 80) for name in sorted(names)[:MAX_NAMED_CALLS])


def constant_text(operation: ir.Operation) -> str:
    """The value and type of a `stablehlo.constant` as MLIR writes them.

    Attributes of complex numbers cannot be read from Python; they are cut out of the operation's text, which takes
    time proportional to its whole function.
    """
    if "complex<" not in str(operation.results[0].type):
        return str(operation.attributes["value"])
    return str(operation.get_asm(enable_debug_info=False)).partition("stablehlo.constant ")[2]


def _attribute_bytes(operation: ir.Operation) -> int | None:
    """Bytes of the arrays and numbers in an operation's attributes; None if some cannot be read."""
    total = 0
    for name in attribute_names(operation):
        is_constant = operation.name == "stablehlo.constant" and name == "value"
        size = _complex_bytes(operation) if is_constant else None
        if size is None:
            try:
                size = _bytes_in(operation.attributes[name])
            except TypeError:  # Python has no name for arrays of complex numbers
                return None
        if size is None:
            return None
        total += size
    return total


def _bytes_in(attribute: ir.Attribute) -> int | None:
    """Bytes of an attribute and all within it, a splat as one number; None for an array that is not plain."""
    if isinstance(attribute, _NUMBER_LISTS):
        return sum(_number_bytes(attribute[index]) for index in range(len(attribute)))
    if isinstance(attribute, ir.BoolAttr):
        return 0
    if isinstance(attribute, (ir.IntegerAttr, ir.FloatAttr)):
        return _number_bytes(attribute.value)
    if isinstance(attribute, (ir.ArrayAttr, ir.DictAttr)):
        entries: list[Any] = [attribute[index] for index in range(len(attribute))]  # a DictAttr's have names
        sizes = [_bytes_in(getattr(entry, "attr", entry)) for entry in entries]
        return None if None in sizes else sum(size for size in sizes if size is not None)
    if not isinstance(attribute.type, ir.ShapedType):
        return 0  # a text, a type, dimensions by their roles
    if not isinstance(attribute, ir.DenseElementsAttr):
        return None
    shaped = ir.ShapedType(attribute.type)
    return (1 if attribute.is_splat else math.prod(shaped.shape)) * _element_bytes(shaped)


def _number_bytes(number: float) -> int:
    return max(1, (abs(number).bit_length() + 7) // 8) if isinstance(number, int) else FLOAT_BYTES


def _complex_bytes(operation: ir.Operation) -> int | None:
    """Bytes of a `stablehlo.constant` of complex numbers; None if it has others."""
    shaped = ir.ShapedType(operation.results[0].type)
    if "complex<" not in str(shaped):
        return None
    is_array = constant_text(operation).startswith(("dense<[", 'dense<"'))
    return (math.prod(shaped.shape) if is_array else 1) * _element_bytes(shaped)


def _element_bytes(shaped: ir.ShapedType) -> int:
    element = shaped.element_type
    bits = element.width if hasattr(element, "width") else 128  # complex numbers tell no width
    return max(bits, 8) // 8
