"""The model, the optimizer and the training step: the one file that is edited.

A GPT whose whole size follows from DEPTH, trained by Muon (matrices) and AdamW (everything else). `build`
hands the harness three pure functions; the harness compiles them, feeds them, keeps the clock and judges.

Shapes in names: B rows, T time, D model width, H heads, K head size, V vocabulary, L layers, N stacked
matrices, O outputs and I inputs of a matrix.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from autoresearch_jax.contract import Experiment, TaskSpec
from autoresearch_jax.kernels.attention import causal_attention
from autoresearch_jax.kernels.cross_entropy import softcapped_cross_entropy
from autoresearch_jax.kernels.normalization import rms_norm

# --------------------------------------------------------------------------------------------------
# Constants. Plain literals, one per line: `--set NAME=VALUE` and the proposers rewrite them.
# --------------------------------------------------------------------------------------------------

# Size
DEPTH = 4  # layers; the one dial, which width, heads and learning rates follow
ASPECT_RATIO = 32  # width over depth; the width is rounded up to whole heads
HEAD_DIM = 128  # size of an attention head
VOCAB_SIZE = 2048  # one of those the dataset offers
WINDOW_PATTERN = "SSSL"  # attention windows, repeated over the layers: S half the context, L all; the last is L
VALUE_GATE_CHANNELS = 32  # leading channels of a layer's input that gate its value embeddings
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


def model_width() -> int:
    """D: DEPTH * ASPECT_RATIO, rounded up to whole heads."""
    return math.ceil(DEPTH * ASPECT_RATIO / HEAD_DIM) * HEAD_DIM


def window_size(layer: int, sequence_length: int) -> int:
    """How many tokens back a layer attends; its own token comes on top."""
    is_short = WINDOW_PATTERN[layer % len(WINDOW_PATTERN)] == "S" and layer != DEPTH - 1
    return sequence_length // 2 if is_short else sequence_length


def has_value_embedding(layer: int) -> bool:
    """True on every second layer, counted back from the last."""
    return (DEPTH - 1 - layer) % 2 == 0


def rotate(x_BxTxHxK: Array) -> Array:
    """Rotary embeddings: turns the halves of each head by angles that grow with position (RoFormer)."""
    _, length, _, head_dim = x_BxTxHxK.shape
    frequencies = ROTARY_BASE ** (-jnp.arange(0, head_dim, 2) / head_dim)
    angles_TxK = jnp.arange(length)[:, None] * frequencies  # made here: a stored table would be a large constant
    cos = jnp.cos(angles_TxK)[:, None, :].astype(x_BxTxHxK.dtype)
    sin = jnp.sin(angles_TxK)[:, None, :].astype(x_BxTxHxK.dtype)
    left, right = jnp.split(x_BxTxHxK, 2, axis=-1)
    return jnp.concatenate([left * cos + right * sin, right * cos - left * sin], axis=-1)


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

    def __init__(self, layer: int, task: TaskSpec, mesh: Mesh, rngs: nnx.Rngs) -> None:
        width = model_width()
        uniform, zeros = symmetric_uniform(width), nnx.initializers.zeros
        self.window = window_size(layer, task.sequence_length)
        self.task, self.mesh = task, mesh
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
        q_BxTxHxK, k_BxTxHxK = rms_norm(rotate(q_BxTxHxK)), rms_norm(rotate(k_BxTxHxK))
        mixed_BxTxHxK = causal_attention(q_BxTxHxK, k_BxTxHxK, v_BxTxHxK, self.window, task=self.task, mesh=self.mesh)
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

    def __init__(self, layer: int, task: TaskSpec, mesh: Mesh, rngs: nnx.Rngs) -> None:
        self.attention = Attention(layer, task, mesh, rngs)
        self.mlp = MLP(rngs)

    def __call__(self, x_BxTxD: Array, value_embedding_BxTxD: Array | None) -> Array:
        x_BxTxD += self.attention(rms_norm(x_BxTxD), value_embedding_BxTxD)
        return x_BxTxD + self.mlp(rms_norm(x_BxTxD))


class Model(nnx.Module):
    """Tokens to softcapped logits."""

    def __init__(self, task: TaskSpec, mesh: Mesh, rngs: nnx.Rngs) -> None:
        width = model_width()
        normal, uniform = nnx.initializers.normal, symmetric_uniform(width)
        self.token_embedding = nnx.Embed(VOCAB_SIZE, width, embedding_init=normal(1.0), rngs=rngs)
        self.value_embeddings = nnx.List(
            nnx.Embed(VOCAB_SIZE, width, embedding_init=uniform, rngs=rngs) if has_value_embedding(i) else None
            for i in range(DEPTH)
        )
        self.blocks = nnx.List([Block(i, task, mesh, rngs) for i in range(DEPTH)])
        self.residual_scales = nnx.Param(jnp.full(DEPTH, 1.0))
        self.x0_scales = nnx.Param(jnp.full(DEPTH, 0.1))
        self.unembedding = Linear(width, VOCAB_SIZE, normal(0.001), rngs)

    def features(self, tokens_BxT: Array) -> Array:
        """What the output layer reads, [B, T, D]."""
        x0_BxTxD = rms_norm(self.token_embedding(tokens_BxT)).astype(COMPUTE_DTYPE)
        x_BxTxD = x0_BxTxD
        for layer, block in enumerate(self.blocks):
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


def learning_rate_scale(progress: Array) -> Array:
    """Warm-up, constant, cool-down: what every learning rate is multiplied by."""
    warmup = jnp.minimum(progress / WARMUP_FRACTION, 1.0) if WARMUP_FRACTION else jnp.float32(1)
    cooldown = jnp.minimum((1 - progress) / COOLDOWN_FRACTION, 1.0) if COOLDOWN_FRACTION else 1.0
    return warmup * (FINAL_LR_FRACTION + (1 - FINAL_LR_FRACTION) * cooldown)


def adam_settings() -> dict[str, tuple[float, float]]:
    """Learning rate and first beta of each group of parameters that AdamW trains."""
    width_scale = math.sqrt(REFERENCE_WIDTH / model_width())
    return {
        "token_embedding": (EMBEDDING_LR * width_scale, ADAM_BETA1),
        "value_embeddings": (EMBEDDING_LR * width_scale, ADAM_BETA1),
        "unembedding": (UNEMBEDDING_LR * width_scale, ADAM_BETA1),
        "residual_scales": (SCALAR_LR * 0.01, ADAM_BETA1),
        "x0_scales": (SCALAR_LR, X0_BETA1),
    }


def adam(name: str) -> optax.GradientTransformation:
    """AdamW of one group of parameters, but for the learning rate."""
    _, beta1 = adam_settings()[name]
    return optax.chain(
        optax.scale_by_adam(beta1, ADAM_BETA2, ADAM_EPSILON), optax.add_decayed_weights(ADAM_WEIGHT_DECAY)
    )


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


def muon(
    w_NxSxL: Array, g_NxSxL: Array, moments: dict[str, Array], progress: Array, scale_Nx1x1: Array
) -> tuple[Array, dict[str, Array]]:
    """One update of stacked matrices by Muon with NorMuon's variance reduction and cautious weight decay.

    Args:
      w_NxSxL: the matrices, along their longer side.
      g_NxSxL: their gradients.
      moments: "momentum" [N, S, L], and "variance" [N, 1, L], of square matrices [N, S, 1].
      progress: elapsed share of the budget.
      scale_Nx1x1: of their learning rates.

    Returns:
      The matrices and moments after the update.

    See https://kellerjordan.github.io/posts/muon and arXiv 2510.05491 (NorMuon).
    """
    ramp = jnp.minimum(progress / MUON_RAMP_FRACTION, 1.0) if MUON_RAMP_FRACTION else 1.0
    beta1 = MUON_MOMENTUM_START + (MUON_MOMENTUM - MUON_MOMENTUM_START) * ramp
    momentum = beta1 * moments["momentum"] + (1 - beta1) * g_NxSxL
    update = orthogonalize(beta1 * momentum + (1 - beta1) * g_NxSxL)  # Nesterov: one step ahead

    # NorMuon: even out the neurons' step sizes, then restore the size of the whole.
    axis = 2 if moments["variance"].shape[2] == 1 else 1
    mean_square = jnp.mean(jnp.square(update), axis=axis, keepdims=True)
    variance = MUON_BETA2 * moments["variance"] + (1 - MUON_BETA2) * mean_square
    scale = jax.lax.rsqrt(jnp.maximum(variance, 1e-10))
    size = jnp.sqrt(jnp.sum(mean_square, axis=(1, 2), keepdims=True))
    scaled_size = jnp.sqrt(jnp.sum(mean_square * jnp.square(scale), axis=(1, 2), keepdims=True))
    update *= scale * size / jnp.maximum(scaled_size, 1e-10)

    # Cautious: decay only where the update shrinks the weight too.
    decay = WEIGHT_DECAY * (1 - progress) * w_NxSxL * (update * w_NxSxL >= 0)
    learning_rate = MATRIX_LR * learning_rate_scale(progress) * scale_Nx1x1
    return w_NxSxL - learning_rate * (update + decay), {"momentum": momentum, "variance": variance}


def along(matrix: Array) -> Array:
    """A matrix [O, I] or its transpose, as [shorter, longer]."""
    return matrix.T if matrix.shape[0] > matrix.shape[1] else matrix


def group_by_shape(matrices: list[Array]) -> dict[str, list[int]]:
    """Positions of the matrices with the same sides, which Muon stacks and updates at once."""
    groups: dict[str, list[int]] = {}
    for position, matrix in enumerate(matrices):
        groups.setdefault("{}x{}".format(*sorted(matrix.shape)), []).append(position)
    return groups


def init_optimizer(params: dict) -> dict:
    """Moments of zero: stacked by shape for Muon, as optax keeps them for AdamW."""
    matrices = jax.tree.leaves(params["blocks"])
    muon_state = {}
    for name, positions in group_by_shape(matrices).items():
        shorter, longer = sorted(matrices[positions[0]].shape)
        variance_shape = (shorter, 1) if shorter == longer else (1, longer)
        muon_state[name] = {
            "momentum": jnp.zeros((len(positions), shorter, longer)),
            "variance": jnp.zeros((len(positions), *variance_shape)),
        }
    return {"muon": muon_state, "adam": {name: adam(name).init(params[name]) for name in adam_settings()}}


def update(params: dict, grads: dict, state: dict, progress: Array) -> tuple[dict, dict]:
    """One update of all parameters; returns them and the optimizer's state."""
    new_params, muon_state, adam_state = {}, {}, {}

    for name, (learning_rate, _) in adam_settings().items():
        updates, adam_state[name] = adam(name).update(grads[name], state["adam"][name], params[name])
        scale = -learning_rate * learning_rate_scale(progress)
        new_params[name] = optax.apply_updates(params[name], optax.tree.scale(scale, updates))

    matrices, treedef = jax.tree.flatten(params["blocks"])
    gradients = jax.tree.leaves(grads["blocks"])
    for name, positions in group_by_shape(matrices).items():
        w_NxSxL = jnp.stack([along(matrices[i]) for i in positions])
        g_NxSxL = jnp.stack([along(gradients[i]) for i in positions])
        outputs_over_inputs = [matrices[i].shape[0] / matrices[i].shape[1] for i in positions]
        scale_Nx1x1 = jnp.sqrt(jnp.maximum(1, jnp.array(outputs_over_inputs)))[:, None, None]
        w_NxSxL, muon_state[name] = muon(w_NxSxL, g_NxSxL, state["muon"][name], progress, scale_Nx1x1)
        for n, i in enumerate(positions):
            matrices[i] = w_NxSxL[n] if matrices[i].shape == w_NxSxL[n].shape else w_NxSxL[n].T
    new_params["blocks"] = jax.tree.unflatten(treedef, matrices)

    return new_params, {"muon": muon_state, "adam": adam_state}


# --------------------------------------------------------------------------------------------------
# Experiment
# --------------------------------------------------------------------------------------------------


def partition_spec(path: tuple, leaf: jax.ShapeDtypeStruct, mesh: Mesh) -> PartitionSpec:
    """Where one array of the state lies: "model" cuts features, "data" the other dimension (ZeRO, arXiv 1910.02054).

    Muon's stacks are cut by matrices where these divide, so that each device orthogonalises its share, else by rows.
    """
    names = [str(entry.key) for entry in path if isinstance(entry, jax.tree_util.DictKey)]
    features = 1 if "embedding" in names or "out" in names or "down" in names else 0
    wishes = {"model": [features], "data": [1 - features]} if leaf.ndim > 1 else {}
    wishes = {"data": [0, 1], "model": [0, 1]} if "muon" in names and leaf.ndim > 1 else wishes
    sizes = list(leaf.shape)
    cuts: list[tuple[str, ...]] = [()] * leaf.ndim
    for axis, dimensions in wishes.items():
        for i in dimensions:
            if sizes[i] % mesh.shape[axis] == 0:
                sizes[i] //= mesh.shape[axis]
                cuts[i] += (axis,)
                break
    return PartitionSpec(*(cut or None for cut in cuts))


def count_flops_per_token(params: dict, sequence_length: int) -> float:
    """Forward and backward: 6 per weight of a matrix, and 12 per channel and attended token."""
    weights = sum(leaf.size for leaf in jax.tree.leaves((params["blocks"], params["unembedding"])))
    attended = sum(min(window_size(layer, sequence_length), sequence_length) for layer in range(DEPTH))
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
    graph = nnx.graphdef(nnx.eval_shape(lambda: Model(task, mesh, nnx.Rngs(0))))

    def init(key: Array) -> dict:
        params = nnx.to_pure_dict(nnx.state(Model(task, mesh, nnx.Rngs(key)), nnx.Param))
        return {"params": params, "optimizer": init_optimizer(params)}

    def gathered(params: dict) -> dict:
        """Parameters as every device of "data" needs them: whole but for what "model" cuts."""
        axes = jax.tree.map(lambda spec: PartitionSpec(*(axis if axis == "model" else None for axis in spec)), specs)
        whole = jax.tree.map(lambda spec: NamedSharding(mesh, spec), axes["params"])
        return jax.lax.with_sharding_constraint(params, whole)

    def logits(state: dict, tokens_BxT: Array) -> Array:
        return nnx.merge(graph, gathered(state["params"]))(tokens_BxT)

    def loss(params: dict, tokens_BxT: Array) -> Array:
        x_BxTxD = nnx.merge(graph, params).features(tokens_BxT[:, :-1])
        w_VxD, targets_BxT = params["unembedding"]["weight"], tokens_BxT[:, 1:]
        return softcapped_cross_entropy(x_BxTxD, w_VxD, targets_BxT, softcap=SOFTCAP, mesh=mesh)

    def loss_and_grads(params: dict, tokens_BxT: Array) -> tuple[Array, dict]:
        tokens_BxT = jax.lax.with_sharding_constraint(tokens_BxT, NamedSharding(mesh, PartitionSpec("data")))
        return jax.value_and_grad(loss)(params, tokens_BxT)

    def accumulated_loss_and_grads(params: dict, tokens_BxT: Array) -> tuple[Array, dict]:
        if GRADIENT_ACCUMULATION == 1:
            return loss_and_grads(params, tokens_BxT)
        # Every device cuts up its own rows, so that none of them moves.
        parts_BxAxT = tokens_BxT.reshape(-1, GRADIENT_ACCUMULATION, tokens_BxT.shape[1])
        zeros = jax.tree.map(jnp.zeros_like, (jnp.float32(0), params))

        def add(total: tuple[Array, dict], part_BxT: Array) -> tuple[tuple[Array, dict], None]:
            return jax.tree.map(jnp.add, total, loss_and_grads(params, part_BxT)), None

        total, _ = jax.lax.scan(add, zeros, parts_BxAxT.swapaxes(0, 1))
        return jax.tree.map(lambda x: x / GRADIENT_ACCUMULATION, total)

    def step(state: dict, tokens_BxT: Array, progress: Array) -> tuple[dict, Mapping[str, Array]]:
        loss, grads = accumulated_loss_and_grads(gathered(state["params"]), tokens_BxT)
        params, optimizer = update(state["params"], grads, state["optimizer"], progress)
        return {"params": params, "optimizer": optimizer}, {"loss": loss}

    shapes = jax.eval_shape(init, jax.random.key(0))
    specs = jax.tree.map_with_path(lambda path, leaf: partition_spec(path, leaf, mesh), shapes)
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    return Experiment(
        init=jax.jit(init, out_shardings=shardings),
        step=jax.jit(step, donate_argnums=0, out_shardings=(shardings, None)),
        logits=jax.jit(logits),
        vocab_size=VOCAB_SIZE,
        batch_shape=(BATCH_SIZE, task.sequence_length + 1),
        state_sharding=specs,
        model_flops_per_token=count_flops_per_token(shapes["params"], task.sequence_length),
    )
