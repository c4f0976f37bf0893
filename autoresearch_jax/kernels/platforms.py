"""Hints for the CPU backend, and what JAX asks a CUDA device before it traces cuDNN's attention.

A candidate is traced on the CPU, in a process without the device it is traced for.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import jax
from jax import Array, export

# JAX asks for the version only to refuse what an old one lacks, none of which `attention.py` uses.
CUDNN_VERSION = 91_300
UNKNOWN_CAPABILITY = (8, 0)  # the least that cuDNN's flash attention runs on
# NVIDIA's compute capability by a part of the device's name; the first match counts
_CAPABILITIES = (
    (r"\bP40\b|\bGTX 10|\bTITAN Xp?\b", (6, 1)),
    (r"\bP100", (6, 0)),
    (r"\bT4\b|\bGTX 16|\bGeForce RTX 20|\bQuadro RTX|\bTITAN RTX", (7, 5)),
    (r"\bV100|\bTITAN V\b", (7, 0)),
    (r"\bGeForce RTX 50|\bRTX PRO .*Blackwell", (12, 0)),
    (r"\bB300|\bGB300", (10, 3)),
    (r"\bB200|\bGB200|\bB100", (10, 0)),
    (r"\bH100|\bH200|\bGH200|\bH20\b|\bH800", (9, 0)),
    (r"\bL40|\bL4\b|\bGeForce RTX 40|\bAda\b", (8, 9)),
)
# jax.export promises nothing of these calls in a later cuDNN; a program runs where it was traced for, and at once.
ATTENTION_CALLS = tuple(
    export.DisabledSafetyCheck.custom_call(f"__cudnn$fmha{name}")
    for name in ("Softmax", "SoftmaxBackward", "ScaleBiasSoftmax", "ScaleBiasSoftmaxBackward")
)


def kept_apart(x: Array) -> Array:
    """The array; the CPU backend does not fuse its computation with what follows."""
    return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda same: same)


def compute_capability(device_kind: str) -> tuple[int, int]:
    """NVIDIA's compute capability (major, minor) by the device's name; an unknown device counts as an Ampere."""
    for pattern, capability in _CAPABILITIES:
        if re.search(pattern, device_kind, re.IGNORECASE):
            return capability
    return UNKNOWN_CAPABILITY


@contextmanager
def seen_by_jax(device_kind: str) -> Iterator[None]:
    """While entered, JAX traces cuDNN attention as if it saw this device and a recent cuDNN."""
    from jax._src.cudnn import fused_attention_stablehlo  # no public name tells JAX what it cannot see

    capability = compute_capability(device_kind)

    def parse(text: str) -> tuple[int, ...]:
        return tuple(map(int, text.split(".")))

    with mock.patch.multiple(
        fused_attention_stablehlo,
        check_cudnn_version=lambda: CUDNN_VERSION,
        check_compute_capability=lambda wanted: capability >= parse(wanted),
        is_cuda_compute_capability_equal=lambda wanted: capability == parse(wanted),
    ):
        yield
