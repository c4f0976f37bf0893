"""Cross-entropy of softcapped logits, a piece of the context at a time, so that those of all tokens are never held.

Shapes in names: B rows, T time, D model width, V vocabulary.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

PIECES = 16  # of the context, where it divides; a piece's logits stay in a CPU's caches


def softcapped_cross_entropy(x_BxTxD: Array, w_VxD: Array, targets_BxT: Array, *, softcap: float, mesh: Mesh) -> Array:
    """Mean negative log-likelihood of the targets, in nats per token.

    The logits are `softcap * tanh(x w / softcap)`, in float32; their products are in the dtype of `x`. The gradients
    are made along with the loss.

    Args:
      x_BxTxD: features.
      w_VxD: weight of the output layer.
      targets_BxT: the tokens to be predicted.
      softcap: no logit is farther from zero.
      mesh: rows are cut over its axis "data", where they divide; each of these devices sums up its own gradients.
    """
    shards = math.gcd(x_BxTxD.shape[0], mesh.shape["data"])
    return _mean_nats(x_BxTxD, w_VxD, targets_BxT, softcap, shards)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _mean_nats(x_BxTxD: Array, w_VxD: Array, targets_BxT: Array, softcap: float, shards: int) -> Array:
    return _with_grads(x_BxTxD, w_VxD, targets_BxT, softcap, shards)[0]


def _with_grads(
    x_BxTxD: Array, w_VxD: Array, targets_BxT: Array, softcap: float, shards: int
) -> tuple[Array, tuple[Array, Array]]:
    """What `_mean_nats` returns, and its gradients with respect to features and weight."""
    rows, length, _ = x_BxTxD.shape
    pieces = math.gcd(length, PIECES)
    of_shard = partial(_sum_of_piece, w_VxD=w_VxD.astype(x_BxTxD.dtype), softcap=softcap, share=1 / targets_BxT.size)

    def cut(x_BxTx_: Array) -> Array:
        shape = (shards, rows // shards, pieces, length // pieces, *x_BxTx_.shape[2:])
        return jnp.moveaxis(x_BxTx_.reshape(shape), 2, 0)

    def add(total: tuple[Array, Array], piece: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        nats, w_grad, x_grad = jax.vmap(of_shard)(*piece)
        return (total[0] + nats, total[1] + w_grad), x_grad

    zeros = jnp.zeros(shards), jnp.zeros((shards, *w_VxD.shape))
    (nats, w_grad), x_grad = jax.lax.scan(add, zeros, (cut(x_BxTxD), cut(targets_BxT)))
    return jnp.sum(nats), (jnp.moveaxis(x_grad, 0, 2).reshape(x_BxTxD.shape), jnp.sum(w_grad, axis=0))


def _sum_of_piece(
    x_BxTxD: Array, targets_BxT: Array, *, w_VxD: Array, softcap: float, share: float
) -> tuple[Array, Array, Array]:
    """A piece's part of the mean, and of the gradients with respect to weight and features; a token has a `share`."""
    logits_BxTxV = jnp.einsum("btd,vd->btv", x_BxTxD, w_VxD, preferred_element_type=jnp.float32)
    tanh_BxTxV = jnp.tanh(logits_BxTxV / softcap)
    highest_BxTx1 = jnp.max(tanh_BxTxV, axis=-1, keepdims=True)
    exp_BxTxV = jnp.exp(softcap * (tanh_BxTxV - highest_BxTx1))
    norm_BxTx1 = jnp.sum(exp_BxTxV, axis=-1, keepdims=True)
    is_target_BxTxV = targets_BxT[..., None] == jnp.arange(w_VxD.shape[0])  # a mask: a gather's gradient is slow
    target_BxTx1 = jnp.sum(tanh_BxTxV, axis=-1, keepdims=True, where=is_target_BxTxV)
    nats_BxTx1 = jnp.log(norm_BxTx1) + softcap * (highest_BxTx1 - target_BxTx1)
    grad_BxTxV = (exp_BxTxV / norm_BxTx1 - is_target_BxTxV) * (1 - tanh_BxTxV * tanh_BxTxV) * share
    grad_BxTxV = grad_BxTxV.astype(x_BxTxD.dtype)
    w_grad_VxD = jnp.einsum("btv,btd->vd", grad_BxTxV, x_BxTxD, preferred_element_type=jnp.float32)
    return share * jnp.sum(nats_BxTx1), w_grad_VxD, jnp.einsum("btv,vd->btd", grad_BxTxV, w_VxD)


def _scale_grads(softcap: float, shards: int, grads: tuple[Array, Array], scale: Array) -> tuple[Array, Array, None]:
    """The chain rule; targets have no gradient."""
    x_grad_BxTxD, w_grad_VxD = grads
    return x_grad_BxTxD * scale.astype(x_grad_BxTxD.dtype), w_grad_VxD * scale, None


_mean_nats.defvjp(_with_grads, _scale_grads)
