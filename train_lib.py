"""The model, the optimizer and the training step: the one file that is edited.

A GPT whose whole size follows from DEPTH, trained by Muon (matrices) and AdamW (everything else). `build`
hands the harness three pure functions; the harness compiles them, feeds them, keeps the clock and judges.

Shapes in names: B rows, T time, D model width, H heads, K head size, V vocabulary, N stacked
matrices, O outputs and I inputs of a matrix, S its shorter and L its longer side.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from jax.sharding import Mesh

from autoresearch_jax.contract import Experiment, TaskSpec
from autoresearch_jax.kernels.attention import causal_attention
from autoresearch_jax.kernels.cross_entropy import softcapped_cross_entropy
from autoresearch_jax.kernels.normalization import rms_norm
from autoresearch_jax.kernels.sharding import gathered, mean_over_micro_batches, state_specs

# --------------------------------------------------------------------------------------------------
# Constants. Plain literals, one per line: `--set NAME=VALUE` and the proposers rewrite them.
# --------------------------------------------------------------------------------------------------

# Size
DEPTH = 2  # layers; the one dial, which width, heads and learning rates follow
ASPECT_RATIO = 64  # width over depth; the width is rounded up to whole heads
HEAD_DIM = 64  # size of an attention head
VOCAB_SIZE = 2048  # one of those the dataset offers
WINDOW_PATTERN = "SSSL"  # attention windows, repeated over the layers: S half the context, L all; the last is L
VALUE_EMBEDDING_EVERY = 1  # layers from one with value embeddings to the next, counted back from the last
VALUE_GATE_CHANNELS = 32  # leading channels of a layer's input that gate its value embeddings
BIGRAM_BITS = 13  # 2 ** BIGRAM_BITS rows in the table of hashed pairs of tokens; 0 for no table
KEY_SHIFT = 0.5  # share of the channels of each key that are the previous token's
ROTARY_BASE = 10000.0  # longest wavelength of the rotary embeddings, in tokens over 2 pi
SOFTCAP = 15.0  # logits stay within this distance of zero
COMPUTE_DTYPE = "bfloat16"  # of activations and matrix multiplications; parameters and loss are float32

# Batch
BATCH_SIZE = 16  # rows per update
GRADIENT_ACCUMULATION = 1  # micro-batches that a batch is cut into, to save memory

# Learning rates. AdamW's were tuned at width REFERENCE_WIDTH and scale with 1 / sqrt(width).
REFERENCE_WIDTH = 768  # width at which the learning rates below hold as written
EMBEDDING_LR = 0.6  # token and value embeddings
UNEMBEDDING_LR = 0.004  # output layer
SCALAR_LR = 0.5  # per-layer scalars, not scaled with width; a hundredth of it for the residual ones
MATRIX_LR = 0.04  # everything that Muon trains, not scaled with width
WARMUP_FRACTION = 0.0  # share of the budget over which learning rates rise
COOLDOWN_FRACTION = 0.5  # share of the budget over which they fall
FINAL_LR_FRACTION = 0.0  # what they fall to

# AdamW
ADAM_BETA1 = 0.8  # decay of the mean of gradients
ADAM_BETA2 = 0.95  # decay of the mean of squared gradients
X0_BETA1 = 0.96  # as ADAM_BETA1, for the x0 scalars, whose gradients are noisy
ADAM_EPSILON = 1e-10  # added to the root of the second moment
ADAM_WEIGHT_DECAY = 0.0  # decoupled decay, in units of the learning rate

# Muon
WEIGHT_DECAY = 0.2  # cautious decay, in units of the learning rate; falls to 0 over the budget
MUON_MOMENTUM = 0.95  # decay of the mean of gradients, after the ramp
MUON_MOMENTUM_START = 0.85  # the same at the start
MUON_RAMP_FRACTION = 0.3  # share of the budget over which the momentum rises
MUON_BETA2 = 0.95  # decay of NorMuon's second moment
MUON_ITERATIONS = 5  # Polar Express iterations, at most 5

# Polar Express: quintic polynomials that drive singular values to 1 in the fewest steps (arXiv 2505.16932).
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)

# --------------------------------------------------------------------------------------------------
# Model
# --------------------------------------------------------------------------------------------------

Attend = Callable[[int, Array, Array, Array], Array]  # of a layer's queries, keys and values


def model_width() -> int:
    """D: DEPTH * ASPECT_RATIO, rounded up to whole heads."""
    return math.ceil(DEPTH * ASPECT_RATIO / HEAD_DIM) * HEAD_DIM


def window_size(layer: int, sequence_length: int) -> int:
    """How many tokens back a layer attends; its own token comes on top."""
    is_short = WINDOW_PATTERN[layer % len(WINDOW_PATTERN)] == "S" and layer != DEPTH - 1
    return sequence_length // 2 if is_short else sequence_length


def has_value_embedding(layer: int) -> bool:
    """True on the last layer, and on every VALUE_EMBEDDING_EVERY-th before it."""
    return (DEPTH - 1 - layer) % VALUE_EMBEDDING_EVERY == 0


def bigram_rows(tokens_BxT: Array) -> Array:
    """The row of each token and the one before it; pairs with the same hash share a row."""
    previous_BxT = jnp.pad(tokens_BxT, ((0, 0), (1, 0)))[:, :-1]
    pairs_BxT = (previous_BxT * VOCAB_SIZE + tokens_BxT).astype(jnp.uint32)
    return pairs_BxT * jnp.uint32(2654435761) >> (32 - BIGRAM_BITS)  # Knuth's multiplicative hashing


def rotate(x_BxTxHxK: Array) -> Array:
    """Rotary embeddings: turns the halves of each head by angles that grow with position (RoFormer)."""
    _, length, _, head_dim = x_BxTxHxK.shape
    frequencies = ROTARY_BASE ** (-jnp.arange(0, head_dim, 2) / head_dim)
    angles_TxK = jnp.arange(length)[:, None] * frequencies  # made here: a stored table would be a large constant
    cos = jnp.cos(angles_TxK)[:, None, :].astype(x_BxTxHxK.dtype)
    sin = jnp.sin(angles_TxK)[:, None, :].astype(x_BxTxHxK.dtype)
    left, right = jnp.split(x_BxTxHxK, 2, axis=-1)
    return jnp.concatenate([left * cos + right * sin, right * cos - left * sin], axis=-1)


def shift_keys(k_BxTxHxK: Array) -> Array:
    """Puts the last channels of each key one token later: a query for what a token was then finds what followed it."""
    own, offered = jnp.split(k_BxTxHxK, [round(HEAD_DIM * (1 - KEY_SHIFT))], axis=-1)
    return jnp.concatenate([own, jnp.pad(offered, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]], axis=-1)


def symmetric_uniform(width: int) -> nnx.Initializer:
    """Uniform with standard deviation 1 / sqrt(width)."""
    bound = math.sqrt(3 / width)
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


class Linear(nnx.Module):
    """A matrix without bias, kept in float32 and multiplied in COMPUTE_DTYPE.

    It is stored as (outputs, inputs), not as nnx.Linear has it: XLA's CPU backend is fast in bfloat16 where both
    operands are contracted over their last dimension.
    """

    def __init__(self, inputs: int, outputs: int, init: nnx.Initializer, rngs: nnx.Rngs) -> None:
        self.weight = nnx.Param(init(rngs.params(), (outputs, inputs), jnp.float32))

    def __call__(self, x: Array) -> Array:
        return jnp.einsum("...i,oi->...o", x, self.weight[...].astype(COMPUTE_DTYPE))


class Attention(nnx.Module):
    """Self-attention with rotary positions, normalised queries and keys, and gated value embeddings."""

    def __init__(self, layer: int, attend: Attend, rngs: nnx.Rngs) -> None:
        width = model_width()
        uniform, zeros = symmetric_uniform(width), nnx.initializers.zeros
        self.attend = partial(attend, layer)
        self.query = Linear(width, width, uniform, rngs)
        self.key = Linear(width, width, uniform, rngs)
        self.value = Linear(width, width, uniform, rngs)
        self.out = Linear(width, width, zeros, rngs)
        if has_value_embedding(layer):
            self.value_gate = Linear(VALUE_GATE_CHANNELS, width // HEAD_DIM, zeros, rngs)

    def __call__(self, x_BxTxD: Array, value_embedding_BxTxD: Array | None) -> Array:
        split_heads = (*x_BxTxD.shape[:2], -1, HEAD_DIM)
        q_BxTxHxK = self.query(x_BxTxD).reshape(split_heads)
        k_BxTxHxK = self.key(x_BxTxD).reshape(split_heads)
        v_BxTxHxK = self.value(x_BxTxD).reshape(split_heads)
        if value_embedding_BxTxD is not None:
            gate_BxTxH = 2 * jax.nn.sigmoid(self.value_gate(x_BxTxD[..., :VALUE_GATE_CHANNELS]))
            v_BxTxHxK += gate_BxTxH[..., None] * value_embedding_BxTxD.reshape(split_heads)
        if KEY_SHIFT:
            k_BxTxHxK = shift_keys(k_BxTxHxK)
        q_BxTxHxK, k_BxTxHxK = rms_norm(rotate(q_BxTxHxK)), rms_norm(rotate(k_BxTxHxK))
        mixed_BxTxHxK = self.attend(q_BxTxHxK, k_BxTxHxK, v_BxTxHxK)
        return self.out(mixed_BxTxHxK.reshape(x_BxTxD.shape))


class MLP(nnx.Module):
    """Two matrices with a squared ReLU between them."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        width = model_width()
        self.up = Linear(width, 4 * width, symmetric_uniform(width), rngs)
        self.down = Linear(4 * width, width, nnx.initializers.zeros, rngs)

    def __call__(self, x_BxTxD: Array) -> Array:
        return self.down(jnp.square(jax.nn.relu(self.up(x_BxTxD))))


class Block(nnx.Module):
    """Attention, then MLP, each on the normalised stream and added to it."""

    def __init__(self, layer: int, attend: Attend, rngs: nnx.Rngs) -> None:
        self.attention = Attention(layer, attend, rngs)
        self.mlp = MLP(rngs)

    def __call__(self, x_BxTxD: Array, value_embedding_BxTxD: Array | None) -> Array:
        x_BxTxD += self.attention(rms_norm(x_BxTxD), value_embedding_BxTxD)
        return x_BxTxD + self.mlp(rms_norm(x_BxTxD))


class Model(nnx.Module):
    """Tokens to softcapped logits."""

    def __init__(self, attend: Attend, rngs: nnx.Rngs) -> None:
        width = model_width()
        normal, uniform = nnx.initializers.normal, symmetric_uniform(width)
        self.token_embedding = nnx.Embed(VOCAB_SIZE, width, embedding_init=normal(1.0), rngs=rngs)
        self.value_embeddings = nnx.List(
            nnx.Embed(VOCAB_SIZE, width, embedding_init=uniform, rngs=rngs) if has_value_embedding(i) else None
            for i in range(DEPTH)
        )
        self.blocks = nnx.List([Block(i, attend, rngs) for i in range(DEPTH)])
        self.residual_scales = nnx.Param(jnp.full(DEPTH, 1.0))
        self.x0_scales = nnx.Param(jnp.full(DEPTH, 0.1))
        if BIGRAM_BITS:
            self.bigram_embedding = nnx.Embed(2**BIGRAM_BITS, width, embedding_init=nnx.initializers.zeros, rngs=rngs)
            self.bigram_scales = nnx.Param(jnp.full(DEPTH, 0.1))
        self.unembedding = Linear(width, VOCAB_SIZE, normal(0.001), rngs)

    def features(self, tokens_BxT: Array) -> Array:
        """What the output layer reads, [B, T, D]."""
        x0_BxTxD = rms_norm(self.token_embedding(tokens_BxT)).astype(COMPUTE_DTYPE)
        x_BxTxD = x0_BxTxD
        if BIGRAM_BITS:
            bigrams_BxTxD = self.bigram_embedding(bigram_rows(tokens_BxT)).astype(COMPUTE_DTYPE)
        for layer, block in enumerate(self.blocks):
            if BIGRAM_BITS:
                x_BxTxD = mix(x_BxTxD, jnp.float32(1), bigrams_BxTxD, self.bigram_scales[layer])
            embedding = self.value_embeddings[layer]
            value_embedding_BxTxD = embedding(tokens_BxT).astype(COMPUTE_DTYPE) if embedding else None
            x_BxTxD = mix(x_BxTxD, self.residual_scales[layer], x0_BxTxD, self.x0_scales[layer])
            x_BxTxD = block(x_BxTxD, value_embedding_BxTxD)
        return rms_norm(x_BxTxD)

    def __call__(self, tokens_BxT: Array) -> Array:
        logits_BxTxV = self.unembedding(self.features(tokens_BxT)).astype(jnp.float32)
        return SOFTCAP * jnp.tanh(logits_BxTxV / SOFTCAP)


def mix(x: Array, x_scale: Array, y: Array, y_scale: Array) -> Array:
    """A weighted sum, in float32: a weight's gradient sums over all of x, for which bfloat16 is too coarse."""
    return (x_scale * x.astype(jnp.float32) + y_scale * y.astype(jnp.float32)).astype(x.dtype)


# --------------------------------------------------------------------------------------------------
# Optimizer
# --------------------------------------------------------------------------------------------------


def make_optimizer() -> optax.GradientTransformationExtraArgs:
    """Muon for the matrices of the blocks, AdamW for the rest; each part of the parameters has its line."""
    width_scale = math.sqrt(REFERENCE_WIDTH / model_width())

    def adamw(learning_rate: float, beta1: float) -> optax.GradientTransformation:
        return optax.adamw(learning_rate, beta1, ADAM_BETA2, ADAM_EPSILON, weight_decay=ADAM_WEIGHT_DECAY)

    transforms = {
        "blocks": muon(MATRIX_LR),
        "token_embedding": adamw(EMBEDDING_LR * width_scale, ADAM_BETA1),
        "value_embeddings": adamw(EMBEDDING_LR * width_scale, ADAM_BETA1),
        "unembedding": adamw(UNEMBEDDING_LR * width_scale, ADAM_BETA1),
        "residual_scales": adamw(SCALAR_LR * 0.01, ADAM_BETA1),
        "x0_scales": adamw(SCALAR_LR, X0_BETA1),
        "bigram_embedding": adamw(EMBEDDING_LR * width_scale, ADAM_BETA1),
        "bigram_scales": adamw(SCALAR_LR * 0.01, ADAM_BETA1),
    }
    return optax.partition(transforms, lambda params: {name: name for name in params})


def learning_rate_scale(progress: Array) -> Array:
    """Warm-up, constant, cool-down: what every learning rate is multiplied by."""
    warmup = jnp.minimum(progress / WARMUP_FRACTION, 1.0) if WARMUP_FRACTION else 1.0
    cooldown = jnp.minimum((1 - progress) / COOLDOWN_FRACTION, 1.0) if COOLDOWN_FRACTION else 1.0
    return jnp.float32(warmup * (FINAL_LR_FRACTION + (1 - FINAL_LR_FRACTION) * cooldown))


def muon(learning_rate: float) -> optax.GradientTransformationExtraArgs:
    """Muon with NorMuon's variance reduction and cautious weight decay, for a tree of matrices [O, I].

    Its `update` takes `progress`, the elapsed share of the budget. Its state has for each stack of matrices "momentum"
    [N, S, L] and "variance" [N, 1, L], of square matrices [N, S, 1].

    See https://kellerjordan.github.io/posts/muon and arXiv 2510.05491 (NorMuon).
    """

    def init(params: dict) -> dict:
        return {
            sides: {"momentum": jnp.zeros_like(w_NxSxL), "variance": jnp.zeros_like(mean_square(w_NxSxL))}
            for sides, w_NxSxL in stack_by_sides(params).items()
        }

    def update(grads: dict, state: dict, params: dict, *, progress: Array) -> tuple[dict, dict]:
        ramp = jnp.minimum(progress / MUON_RAMP_FRACTION, 1.0) if MUON_RAMP_FRACTION else 1.0
        beta1 = MUON_MOMENTUM_START + (MUON_MOMENTUM - MUON_MOMENTUM_START) * ramp
        steps, new_state = {}, {}
        for sides, g_NxSxL in stack_by_sides(grads).items():
            momentum = beta1 * state[sides]["momentum"] + (1 - beta1) * g_NxSxL
            step_NxSxL = orthogonalize(beta1 * momentum + (1 - beta1) * g_NxSxL)  # Nesterov: one step ahead
            steps[sides], variance = even_out(step_NxSxL, state[sides]["variance"])
            new_state[sides] = {"momentum": momentum, "variance": variance}

        def descend(step_OxI: Array, w_OxI: Array) -> Array:
            decay_OxI = WEIGHT_DECAY * (1 - progress) * w_OxI * (step_OxI * w_OxI >= 0)  # where both shrink the weight
            outputs, inputs = w_OxI.shape
            return -learning_rate * math.sqrt(max(1, outputs / inputs)) * (step_OxI + decay_OxI)

        return jax.tree.map(descend, unstack(steps, grads), params), new_state

    return optax.GradientTransformationExtraArgs(init, update)


def orthogonalize(g_NxSxL: Array) -> Array:
    """The nearest matrices with orthonormal rows, roughly, by Polar Express.

    Products are rounded once, to COMPUTE_DTYPE, and kept so: XLA's CPU backend would rather go on in float32, at half
    the speed.
    """

    def product(spec: str, x: Array, y: Array) -> Array:
        return jnp.einsum(spec, x, y, preferred_element_type=jnp.float32)

    def rounded(x: Array) -> Array:
        return jax.lax.optimization_barrier(x.astype(COMPUTE_DTYPE))

    x = rounded(g_NxSxL / (1.02 * jnp.linalg.norm(g_NxSxL, axis=(1, 2), keepdims=True) + 1e-6))
    for a, b, c in POLAR_EXPRESS[:MUON_ITERATIONS]:
        gram = rounded(product("nsl,ntl->nst", x, x))
        square = product("nst,nut->nsu", gram, gram)
        x = rounded(a * x + product("nst,ntl->nsl", rounded(b * gram + c * square), x))
    return x.astype(jnp.float32)


def even_out(step_NxSxL: Array, variance: Array) -> tuple[Array, Array]:
    """NorMuon: the step with neurons of even size and the size of the whole restored, and the new variance."""
    square = mean_square(step_NxSxL)
    variance = MUON_BETA2 * variance + (1 - MUON_BETA2) * square
    scale = jax.lax.rsqrt(jnp.maximum(variance, 1e-10))
    size = jnp.sqrt(jnp.sum(square, axis=(1, 2), keepdims=True))
    scaled_size = jnp.sqrt(jnp.sum(square * jnp.square(scale), axis=(1, 2), keepdims=True))
    return step_NxSxL * (scale * size / jnp.maximum(scaled_size, 1e-10)), variance


def mean_square(x_NxSxL: Array) -> Array:
    """Mean square over the shorter side, [N, 1, L]; of square matrices over the second, [N, S, 1]."""
    _, shorter, longer = x_NxSxL.shape
    return jnp.mean(jnp.square(x_NxSxL), axis=2 if shorter == longer else 1, keepdims=True)


def stack_by_sides(matrices: dict) -> dict[str, Array]:
    """The matrices of a tree, those with the same sides as one stack [N, S, L], transposed where they are tall."""
    groups: dict[str, list[Array]] = {}
    for matrix in jax.tree.leaves(matrices):
        is_tall = matrix.shape[0] > matrix.shape[1]
        groups.setdefault(sides_of(matrix), []).append(matrix.T if is_tall else matrix)
    return {sides: jnp.stack(group) for sides, group in groups.items()}


def unstack(stacks: dict[str, Array], like: dict) -> dict:
    """The tree of matrices from its stacks: the inverse of `stack_by_sides`."""
    remaining = {sides: iter(stack) for sides, stack in stacks.items()}

    def take(matrix: Array) -> Array:
        x_SxL = next(remaining[sides_of(matrix)])
        return x_SxL if x_SxL.shape == matrix.shape else x_SxL.T

    return jax.tree.map(take, like)


def sides_of(matrix: Array) -> str:
    return "{}x{}".format(*sorted(matrix.shape))


# --------------------------------------------------------------------------------------------------
# Experiment
# --------------------------------------------------------------------------------------------------


def count_flops_per_token(params: dict, sequence_length: int) -> float:
    """Forward and backward: 6 per weight of a matrix, and 12 per channel and attended token."""
    weights = sum(leaf.size for leaf in jax.tree.leaves((params["blocks"], params["unembedding"])))
    attended = sum(window_size(layer, sequence_length) for layer in range(DEPTH))
    return 6.0 * weights + 12.0 * model_width() * attended


def build(task: TaskSpec, mesh: Mesh) -> Experiment:
    """The experiment that the constants describe.

    Raises:
      ValueError: the constants do not fit the task or the mesh.
    """
    if VOCAB_SIZE not in task.vocab_sizes:
        raise ValueError(f"VOCAB_SIZE = {VOCAB_SIZE} is not among the dataset's vocabularies {task.vocab_sizes}")
    if BATCH_SIZE % (GRADIENT_ACCUMULATION * mesh.shape["data"]):
        raise ValueError(
            f"BATCH_SIZE = {BATCH_SIZE} does not divide into GRADIENT_ACCUMULATION = {GRADIENT_ACCUMULATION} "
            f"micro-batches over {mesh.shape['data']} devices"
        )

    def attend(layer: int, q_BxTxHxK: Array, k_BxTxHxK: Array, v_BxTxHxK: Array) -> Array:
        window = window_size(layer, task.sequence_length)
        return causal_attention(q_BxTxHxK, k_BxTxHxK, v_BxTxHxK, window, task=task, mesh=mesh)

    graph = nnx.graphdef(nnx.eval_shape(lambda: Model(attend, nnx.Rngs(0))))
    optimizer = make_optimizer()

    def init(key: Array) -> dict:
        params = nnx.to_pure_dict(nnx.state(Model(attend, nnx.Rngs(key)), nnx.Param))
        return {"params": params, "optimizer": optimizer.init(params)}

    def logits(state: dict, tokens_BxT: Array) -> Array:
        return nnx.merge(graph, gathered(state["params"], mesh))(tokens_BxT)

    def loss_fn(params: dict, tokens_BxT: Array) -> Array:
        x_BxTxD = nnx.merge(graph, params).features(tokens_BxT[:, :-1])
        w_VxD, targets_BxT = params["unembedding"]["weight"], tokens_BxT[:, 1:]
        return softcapped_cross_entropy(x_BxTxD, w_VxD, targets_BxT, softcap=SOFTCAP, mesh=mesh)

    def step(state: dict, tokens_BxT: Array, progress: Array) -> tuple[dict, Mapping[str, Array]]:
        loss_and_grads = partial(jax.value_and_grad(loss_fn), gathered(state["params"], mesh))
        loss, grads = mean_over_micro_batches(loss_and_grads, tokens_BxT, GRADIENT_ACCUMULATION, mesh)
        updates, moments = optimizer.update(grads, state["optimizer"], state["params"], progress=progress)
        updates = optax.tree.scale(learning_rate_scale(progress), updates)
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "optimizer": moments}, {"loss": loss}

    shapes = jax.eval_shape(init, jax.random.key(0))
    return Experiment(
        init=jax.jit(init),
        step=jax.jit(step, donate_argnums=0),
        logits=jax.jit(logits),
        vocab_size=VOCAB_SIZE,
        batch_shape=(BATCH_SIZE, task.sequence_length + 1),
        state_sharding=state_specs(shapes, mesh),
        model_flops_per_token=count_flops_per_token(shapes["params"], task.sequence_length),
    )
