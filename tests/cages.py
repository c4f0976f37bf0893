"""What tests of the sandbox share: small limits, and how code is run in a cage."""

from collections.abc import Callable
from dataclasses import replace

from autoresearch_jax.sandbox.escapes import LIMITS
from autoresearch_jax.sandbox.sandbox import (
    MEBIBYTE,
    Level,
    SandboxResult,
)

SMALL = replace(
    LIMITS, wall_seconds=120.0, cpu_seconds=15.0, scratch_bytes=8 * MEBIBYTE, scratch_files=200, log_bytes=64 << 10
)
SMALL = replace(SMALL, threads=80, file_bytes=4 * MEBIBYTE)
CONFINED = (Level.BUBBLEWRAP, Level.LANDLOCK)
Run = Callable[..., SandboxResult]
