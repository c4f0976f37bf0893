"""RMSNorm without weights, its gradient written out: the derived one reads and writes whole tensors in float32."""

import jax
import jax.numpy as jnp
from jax import Array

from autoresearch_jax.kernels.platforms import kept_apart


@jax.custom_vjp
def rms_norm(x: Array) -> Array:
    """Scales the last axis to a root mean square of 1, in float32.

    Float32's epsilon is added to the mean square, so zeros stay zeros. Has no derivatives in forward mode.

    Args:
      x: of any shape and floating dtype, which the result has, too.

    See arXiv 1910.07467.
    """
    return _forward(x)[0]


def _forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
    x_f32 = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(jnp.square(x_f32), axis=-1, keepdims=True) + jnp.finfo(jnp.float32).eps)
    return (x_f32 * scale).astype(x.dtype), (x, scale)


def _backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array]:
    x, scale = kept
    x_f32, gradient_f32 = x.astype(jnp.float32), gradient.astype(jnp.float32)
    along_x = jnp.mean(gradient_f32 * x_f32, axis=-1, keepdims=True) * jnp.square(scale)
    along_x = kept_apart(along_x)  # a CPU would make one slow loop of the mean and what follows
    return (((gradient_f32 - along_x * x_f32) * scale).astype(x.dtype),)


rms_norm.defvjp(_forward, _backward)
