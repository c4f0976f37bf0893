"""What XLA's CPU backend has to be told."""

import jax
from jax import Array


def kept_apart(x: Array) -> Array:
    """The array, which a CPU computes before, and apart from, what is made of it; elsewhere XLA fuses as it likes."""
    return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda same: same)
