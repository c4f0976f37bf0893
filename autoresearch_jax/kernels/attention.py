"""Causal attention with a sliding window, by the fastest way that each platform has for a shape.

Where no kernel fits, it works in blocks of queries, in XLA's own operations, and skips the blocks that no query of a
block sees. Its gradient is written out, because that of slices is padding, which costs more than the blocks save.

Shapes in names: B rows, T time, H heads, K head size, N heads of all rows, Q queries of a block, S keys that they see.
"""

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from autoresearch_jax.contract import TaskSpec
from autoresearch_jax.kernels.platforms import compute_capability, kept_apart

Attend = Callable[[Array, Array, Array, int], Array]

TPU_LANES = 128  # Splash attention takes heads and contexts in whole multiples of a TPU's vector width
SPLASH_BLOCKS = (512, 256, 128)  # rows of a tile; the largest that divides the context; not tuned on a TPU
CUDNN_HEAD_MULTIPLE = 8
CUDNN_MAX_HEAD = 128  # on any GPU that has it; twice as large on those of LARGE_HEAD_GENERATIONS
LARGE_HEAD_GENERATIONS = (9, 10)  # Hopper, and Blackwell of the data centre
CUDNN_FROM = (8, 0)  # compute capability of Ampere
MIN_BLOCK = 64  # queries; below that a CPU's matrix multiplication is too small to be fast
MAX_BLOCKS = 8  # each is a piece of program of its own
MASKED = -1e30  # a score that no softmax sees, and that no subtraction turns into a NaN


def causal_attention(
    q_BxTxHxK: Array, k_BxTxHxK: Array, v_BxTxHxK: Array, window: int, *, task: TaskSpec, mesh: Mesh
) -> Array:
    """Attention of each token to itself and the `window` tokens before it.

    Args:
      q_BxTxHxK: queries; they are divided by the root of K here.
      k_BxTxHxK: keys, of as many heads or of fewer that several heads of queries share.
      v_BxTxHxK: values, of as many heads as the keys.
      window: how many tokens back; T or more for all of them.
      task: for which platform and device.
      mesh: rows are cut over its axis "data", heads over "model", where they divide.

    Returns:
      Mixed values [B, T, H, K], in the dtype of the queries.
    """
    if task.platform == "cuda" and takes_cudnn(q_BxTxHxK, task.device_kind):
        attend: Attend = cudnn_attention
    elif task.platform == "tpu" and takes_splash(q_BxTxHxK):
        attend = splash_attention
    else:
        attend = blockwise_attention
    if attend is not cudnn_attention or mesh.shape["model"] > 1:
        k_BxTxHxK, v_BxTxHxK = (_with_heads(x, q_BxTxHxK.shape[2]) for x in (k_BxTxHxK, v_BxTxHxK))
    return _on_each_device(attend, mesh)(q_BxTxHxK, k_BxTxHxK, v_BxTxHxK, window)


def cudnn_attention(q_BxTxHxK: Array, k_BxTxHxK: Array, v_BxTxHxK: Array, window: int) -> Array:
    """The same by cuDNN's flash attention, which skips what lies outside of the window."""
    return jax.nn.dot_product_attention(
        q_BxTxHxK,
        k_BxTxHxK,
        v_BxTxHxK,
        is_causal=True,
        local_window_size=(window, 0) if window < q_BxTxHxK.shape[1] else None,
        implementation="cudnn",
    )


def splash_attention(
    q_BxTxHxK: Array, k_BxTxHxK: Array, v_BxTxHxK: Array, window: int, *, interpret: bool = False
) -> Array:
    """The same by Splash attention, a flash attention for TPUs that skips tiles outside of the window.

    Args:
      q_BxTxHxK: queries.
      k_BxTxHxK: keys.
      v_BxTxHxK: values.
      window: how many tokens back.
      interpret: run the kernel's steps on any platform, slowly; for tests.
    """
    # imported here: it takes a tenth of a second, which a CPU and a GPU need not spend
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    _, length, heads, head_dim = q_BxTxHxK.shape
    mask = masks.LocalMask((length, length), (min(window, length), 0), offset=0)
    block = next(size for size in SPLASH_BLOCKS if length % size == 0)
    kernel = splash.make_splash_mha_single_device(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=splash.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        interpret=interpret,
    )
    q_BxHxTxK = (q_BxTxHxK * head_dim**-0.5).swapaxes(1, 2)  # the kernel does not scale
    mixed_BxHxTxK = jax.vmap(kernel)(q_BxHxTxK, k_BxTxHxK.swapaxes(1, 2), v_BxTxHxK.swapaxes(1, 2))
    return mixed_BxHxTxK.swapaxes(1, 2)


def takes_cudnn(q_BxTxHxK: Array, device_kind: str) -> bool:
    """Whether cuDNN's flash attention on this device takes heads like these."""
    capability, head_dim = compute_capability(device_kind), q_BxTxHxK.shape[3]
    max_head = CUDNN_MAX_HEAD * (2 if capability[0] in LARGE_HEAD_GENERATIONS else 1)
    return (
        capability >= CUDNN_FROM
        and q_BxTxHxK.dtype in (jnp.bfloat16, jnp.float16)
        and head_dim % CUDNN_HEAD_MULTIPLE == 0
        and head_dim <= max_head
    )


def takes_splash(q_BxTxHxK: Array) -> bool:
    """Whether Splash attention takes heads and a context like these."""
    _, length, _, head_dim = q_BxTxHxK.shape
    return length % TPU_LANES == 0 and head_dim % TPU_LANES == 0


def _with_heads(x_BxTxHxK: Array, heads: int) -> Array:
    """Repeats each head as often as makes so many."""
    return jnp.repeat(x_BxTxHxK, heads // x_BxTxHxK.shape[2], axis=2)


def _on_each_device(attend: Attend, mesh: Mesh) -> Attend:
    """XLA would gather all rows and heads on each device, since it cannot look into a kernel, nor cut rows and heads
    that were made one dimension: so each is given its share."""
    if mesh.size == 1:
        return attend

    def attend_sharded(q_BxTxHxK: Array, k_BxTxHxK: Array, v_BxTxHxK: Array, window: int) -> Array:
        rows, _, heads, _ = q_BxTxHxK.shape
        spec = PartitionSpec(
            "data" if rows % mesh.shape["data"] == 0 else None,
            None,
            "model" if heads % mesh.shape["model"] == 0 else None,
        )
        sharded = jax.shard_map(
            lambda q, k, v: attend(q, k, v, window),
            mesh=mesh,
            in_specs=(spec, spec, spec),
            out_specs=spec,
            check_vma=False,  # a kernel does not tell over which axes its results vary
        )
        return sharded(q_BxTxHxK, k_BxTxHxK, v_BxTxHxK)

    return attend_sharded


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
