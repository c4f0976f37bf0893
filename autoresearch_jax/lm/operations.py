"""Reads the StableHLO of one traced program and checks every operation in it: what it calls, what it embeds."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

from jax.extend import mlir
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import chlo, sdy, stablehlo

from autoresearch_jax.untrusted import quoted

_PLACEMENT = "annotate_device_placement"  # where an array lies, host or device: said to be a side effect
# Custom calls that only compute, by platform: sharding marks, linear algebra, attention, kernels for a TPU.
_ALLOWED_ANYWHERE = f"Sharding|SPMDFullToShardShape|SPMDShardToFullShape|{_PLACEMENT}|mhlo.topk|ApproxTopK"
ALLOWED_CUSTOM_CALLS = {
    "cpu": re.compile(rf"{_ALLOWED_ANYWHERE}|lapack_[a-z]+_ffi"),
    "cuda": re.compile(
        rf"{_ALLOWED_ANYWHERE}|cusolver_[a-z]+_ffi|cu_threefry2x32_ffi|cu_lu_pivots_to_permutation"
        r"|__cudnn\$fmha[A-Za-z0-9]+"
    ),
    "tpu": re.compile(
        rf"{_ALLOWED_ANYWHERE}|tpu_custom_call|Qr|Eigh|LuDecomposition"
        "|ProductOfElementaryHouseholderReflectors"
    ),
}
# Operations that speak with the host, or draw numbers that no key determines.
FORBIDDEN_OPERATIONS = frozenset(f"stablehlo.{name}" for name in ("infeed", "outfeed", "send", "recv", "rng"))
MAX_NAMED_CALLS = 5  # in a message


class OperationError(Exception):
    """A program holds what no program may; one line."""


@contextmanager
def stablehlo_module(serialized: bytes) -> Iterator[ir.Module]:
    """A program's module; it and all that was read from it must not be used afterwards.

    Raises:
      OperationError: it is no StableHLO.
    """
    with ir.Context() as context:
        for dialect in (stablehlo, chlo, sdy):
            dialect.register_dialect(context)
        try:
            module = mlir.deserialize_portable_artifact(serialized)
        except (ValueError, RuntimeError) as error:
            raise OperationError("it holds no StableHLO") from error
        yield module


def check_operations(module: ir.Module, platform: str) -> int:
    """Checks that a program only computes.

    Returns:
      Bytes of the constants it embeds, and of what it tells the custom calls it makes: a kernel for a TPU comes as a
      text of its own, which may hold a table as well. What is told to several calls counts once: a model's layers
      share their kernels.

    Raises:
      OperationError: it calls what is not allowed on the platform, or hides constants.
    """
    custom_calls: set[str] = set()
    with_side_effect: set[str] = set()
    payloads: set[bytes] = set()
    constant_bytes = 0
    forbidden_operations: set[str] = set()
    has_resources = False

    def visit(operation: ir.Operation) -> ir.WalkResult:  # what it raises would lose its type on the way
        nonlocal constant_bytes, has_resources
        if operation.name in FORBIDDEN_OPERATIONS:
            forbidden_operations.add(operation.name)
        if operation.name == "stablehlo.custom_call":
            target = ir.StringAttr(operation.attributes["call_target_name"]).value
            custom_calls.add(target)
            payloads.add(_payload(operation))
            if (
                target != _PLACEMENT
                and "has_side_effect" in operation.attributes
                and ir.BoolAttr(operation.attributes["has_side_effect"]).value
            ):
                with_side_effect.add(target)
        elif operation.name == "stablehlo.constant":
            text = constant_text(operation)
            constant_bytes += _constant_bytes(operation, text)
            has_resources = has_resources or not text.startswith("dense<")
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
    if has_resources:
        raise OperationError("it holds a constant that is no plain array")
    return constant_bytes + sum(map(len, payloads))


def _payload(operation: ir.Operation) -> bytes:
    """What a custom call is told beside its operands."""
    told = b""
    for name in ("backend_config", "mhlo.backend_config"):
        if name in operation.attributes:
            value = operation.attributes[name]
            told += ir.StringAttr(value).value_bytes if isinstance(value, ir.StringAttr) else str(value).encode()
    return told


def _listed(names: set[str]) -> str:
    return ", ".join(quoted(name, 80) for name in sorted(names)[:MAX_NAMED_CALLS])


def constant_text(operation: ir.Operation) -> str:
    """The value and type of a `stablehlo.constant` as MLIR writes them.

    An attribute of complex numbers cannot be had from Python, so these are cut out of the operation's own text, which
    takes as long as its whole function is: that must not be done for each constant.
    """
    if "complex<" not in str(operation.results[0].type):
        return str(operation.attributes["value"])
    return str(operation.get_asm(enable_debug_info=False)).partition("stablehlo.constant ")[2]


def _constant_bytes(operation: ir.Operation, text: str) -> int:
    """Bytes that a constant tells; one number for all of an array counts once, but counts: a table can be in pieces."""
    shaped = ir.ShapedType(operation.results[0].type)
    element = shaped.element_type
    bits = element.width if hasattr(element, "width") else 128  # complex numbers tell no width
    is_array = text.startswith(("dense<[", 'dense<"'))
    return (math.prod(shaped.shape) if is_array else 1) * max(bits, 8) // 8
