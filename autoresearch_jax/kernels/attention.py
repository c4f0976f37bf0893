"""Causal attention with a sliding window, by the fastest way that each platform has for a shape.

Shapes in names: B rows, T time, H heads, K head size.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from autoresearch_jax.contract import TaskSpec
from autoresearch_jax.kernels.blockwise import blockwise_attention
from autoresearch_jax.kernels.platforms import compute_capability

Attend = Callable[[Array, Array, Array, int], Array]

TPU_LANES = 128  # Splash attention takes heads and contexts in whole multiples of a TPU's vector width
SPLASH_BLOCKS = (512, 256, 128)  # rows of a tile; the largest that divides the context; not tuned on a TPU
CUDNN_HEAD_MULTIPLE = 8
CUDNN_MAX_HEAD = 128  # on any GPU that has it; twice as large on those of LARGE_HEAD_GENERATIONS
LARGE_HEAD_GENERATIONS = (9, 10)  # Hopper, and Blackwell of the data centre
CUDNN_FROM = (8, 0)  # compute capability of Ampere


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
