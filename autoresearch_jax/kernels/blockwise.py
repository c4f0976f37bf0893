"""Causal attention in blocks of queries, in XLA's own operations: skips the blocks that no query of a block sees.

Its gradient is written out, because that of slices is padding, which costs more than what the blocks save.
Shapes in names: N heads of all rows, T time, Q queries of a block, S keys that they see, K head size.
"""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from autoresearch_jax.kernels.platforms import kept_apart

MIN_BLOCK = 64  # queries; below that a CPU's matrix multiplication is too small to be fast
MAX_BLOCKS = 8  # each is a piece of program of its own
MASKED = -1e30  # a score that no softmax sees, and that no subtraction turns into a NaN


def blockwise_attention(q_BxTxHxK: Array, k_BxTxHxK: Array, v_BxTxHxK: Array, window: int) -> Array:
    """Attention of each token to itself and the `window` tokens before it.

    Holds the probabilities of the blocks that are seen, and in the backward pass their gradients too, in the dtype of
    the queries. Has no derivatives in forward mode.

    Args:
      q_BxTxHxK: queries; they are divided by the root of K here.
      k_BxTxHxK: keys.
      v_BxTxHxK: values.
      window: how many tokens back; T or more for all of them.

    Returns:
      Mixed values [B, T, H, K], in the dtype of the queries.
    """
    rows, _, heads, _ = q_BxTxHxK.shape
    q_NxTxK, k_NxTxK, v_NxTxK = (_fold_heads(x) for x in (q_BxTxHxK, k_BxTxHxK, v_BxTxHxK))
    mixed_NxTxK = _attend(q_NxTxK, k_NxTxK, v_NxTxK, window)
    return mixed_NxTxK.reshape(rows, heads, *mixed_NxTxK.shape[1:]).swapaxes(1, 2)


def _fold_heads(x_BxTxHxK: Array) -> Array:
    rows, length, heads, head_dim = x_BxTxHxK.shape
    return x_BxTxHxK.swapaxes(1, 2).reshape(rows * heads, length, head_dim)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attend(q_NxTxK: Array, k_NxTxK: Array, v_NxTxK: Array, window: int) -> Array:
    return _forward(q_NxTxK, k_NxTxK, v_NxTxK, window)[0]


def _forward(q_NxTxK: Array, k_NxTxK: Array, v_NxTxK: Array, window: int) -> tuple[Array, tuple]:
    length, head_dim = q_NxTxK.shape[1:]
    probabilities, mixed = [], []
    for queries, keys in _blocks(length, window):
        scores_NxQxS = jnp.einsum(
            "nqk,nsk->nqs", q_NxTxK[:, queries], k_NxTxK[:, keys], preferred_element_type=jnp.float32
        )
        scores_NxQxS = jnp.where(_is_seen(queries, keys, window), scores_NxQxS * head_dim**-0.5, MASKED)
        p_NxQxS = jax.nn.softmax(scores_NxQxS, axis=-1).astype(q_NxTxK.dtype)
        probabilities.append(p_NxQxS)
        mixed.append(jnp.einsum("nqs,nsk->nqk", p_NxQxS, v_NxTxK[:, keys]))
    mixed_NxTxK = jnp.concatenate(mixed, axis=1)
    return mixed_NxTxK, (q_NxTxK, k_NxTxK, v_NxTxK, probabilities, mixed_NxTxK)


def _backward(window: int, kept: tuple, gradient_NxTxK: Array) -> tuple[Array, Array, Array]:
    q_NxTxK, k_NxTxK, v_NxTxK, probabilities, mixed_NxTxK = kept
    length, head_dim = q_NxTxK.shape[1:]
    # What the softmax subtracts: of each query, the mean of its gradients by its probabilities (FlashAttention)
    mean_NxTx1 = jnp.einsum("ntk,ntk->nt", gradient_NxTxK, mixed_NxTxK, preferred_element_type=jnp.float32)[..., None]
    blocks = list(_blocks(length, window))
    dq, score_gradients = [], []
    for (queries, keys), p_NxQxS in zip(blocks, probabilities, strict=True):
        do_NxQxK = gradient_NxTxK[:, queries]
        dp_NxQxS = jnp.einsum("nqk,nsk->nqs", do_NxQxK, v_NxTxK[:, keys], preferred_element_type=jnp.float32)
        ds_NxQxS = p_NxQxS * (dp_NxQxS - mean_NxTx1[:, queries]) * head_dim**-0.5
        score_gradients.append(ds_NxQxS.astype(q_NxTxK.dtype))
        dq.append(jnp.einsum("nqs,nsk->nqk", score_gradients[-1], k_NxTxK[:, keys]))
    dk = [_to_keys(block, blocks, score_gradients, q_NxTxK) for block, _ in blocks]
    dv = [_to_keys(block, blocks, probabilities, gradient_NxTxK) for block, _ in blocks]
    dq_NxTxK, dk_NxTxK, dv_NxTxK = (jnp.concatenate(pieces, axis=1) for pieces in (dq, dk, dv))
    return dq_NxTxK, dk_NxTxK, dv_NxTxK


_attend.defvjp(_forward, _backward)


def _to_keys(block: slice, blocks: list[tuple[slice, slice]], weights: list[Array], x_NxTxK: Array) -> Array:
    """What one block's keys get of all queries that see them: the sum of `x` by weights [N, Q, S] of each block."""
    transposed, seeing = [], []
    for (queries, keys), w_NxQxS in zip(blocks, weights, strict=True):
        if keys.start <= block.start < keys.stop:
            here = slice(block.start - keys.start, block.stop - keys.start)
            transposed.append(w_NxQxS[:, :, here].swapaxes(1, 2))
            seeing.append(queries)
    w_NxSxQ = jnp.concatenate(transposed, axis=2)
    if w_NxSxQ.dtype != jnp.float32:  # else a CPU's product transposes it, and goes on in float32 for that
        w_NxSxQ = kept_apart(w_NxSxQ)
    return jnp.einsum("nsq,nqk->nsk", w_NxSxQ, x_NxTxK[:, seeing[0].start : seeing[-1].stop])


def _blocks(length: int, window: int) -> Iterator[tuple[slice, slice]]:
    """Queries of each block, and the keys that at least one of them sees, in whole blocks."""
    size = max(MIN_BLOCK, -(-length // MAX_BLOCKS))
    for begin in range(0, length, size):
        end = min(begin + size, length)
        yield slice(begin, end), slice(max(0, begin - window) // size * size, end)


def _is_seen(queries: slice, keys: slice, window: int) -> Array:
    """bool[Q, S]: whether a query sees a key."""
    distance = jnp.arange(queries.start, queries.stop)[:, None] - jnp.arange(keys.start, keys.stop)
    return (distance >= 0) & (distance <= window)
