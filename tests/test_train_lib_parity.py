"""train_lib.py agrees with an independent float64 implementation in NumPy: forward pass, Muon, AdamW."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from train_lib_source import load_tiny, make_mesh

from autoresearch_jax.contract import TaskSpec

DEPTH, WIDTH, HEADS, HEAD, GATES, VOCAB, T = 2, 24, 3, 8, 4, 256, 16
WINDOWS = (T // 2, T)  # pattern SL
TOLERANCE = 1e-5
POLAR_EXPRESS = [
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
]


pytestmark = pytest.mark.usefixtures("quick_to_compile")


@pytest.fixture(scope="module")
def train_lib():
    return load_tiny(
        SOFTCAP=15.0,
        EMBEDDING_LR=0.6,
        UNEMBEDDING_LR=0.004,
        SCALAR_LR=0.5,
        MATRIX_LR=0.04,
        WARMUP_FRACTION=0.0,
        COOLDOWN_FRACTION=0.5,
        FINAL_LR_FRACTION=0.1,
        ADAM_BETA1=0.8,
        ADAM_BETA2=0.95,
        ADAM_WEIGHT_DECAY=0.01,
        X0_BETA1=0.96,
        WEIGHT_DECAY=0.2,
        MUON_MOMENTUM=0.95,
        MUON_MOMENTUM_START=0.85,
        MUON_RAMP_FRACTION=0.3,
        MUON_BETA2=0.95,
        MUON_ITERATIONS=5,
    )


@pytest.fixture(scope="module")
def experiment():
    quick = load_tiny(SOFTCAP=15.0, MUON_ITERATIONS=1)  # of its steps only the loss is looked at
    return quick.build(TaskSpec(vocab_sizes=(VOCAB,), sequence_length=T), make_mesh())


@pytest.fixture(scope="module")
def state(experiment):
    return jax.jit(experiment.init)(jax.random.key(0))


def randomized(tree, seed, size=0.3):
    """A tree of normal numbers in the shapes of `tree`: zeros at the start would hide half of the model."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(size * rng.normal(size=leaf.shape), jnp.float32), tree)


def copied(tree):
    """For a step, which takes its state over."""
    return jax.tree.map(jnp.copy, tree)


def float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def rms_norm(x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + np.finfo(np.float32).eps)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rotate(x, position):
    """Turns channel pairs (c, c + HEAD / 2) of one head as complex numbers."""
    z = x[: HEAD // 2] + 1j * x[HEAD // 2 :]
    z = z * np.exp(-1j * position * 10000.0 ** (-2 * np.arange(HEAD // 2) / HEAD))
    return np.concatenate([z.real, z.imag])


def attention(block, x, value_embedding, window):
    """Loops over heads, positions and keys, so that nothing is shared with the vectorised code."""
    q, k, v = (x @ block[name]["weight"].T for name in ("query", "key", "value"))
    if value_embedding is not None:
        gates = 2 * sigmoid(x[:, :GATES] @ block["value_gate"]["weight"].T)
        v = v + np.repeat(gates, HEAD, axis=1) * value_embedding
    mixed = np.zeros_like(x)
    for head in range(HEADS):
        part = slice(head * HEAD, (head + 1) * HEAD)
        queries = [rms_norm(rotate(q[i, part], i)) for i in range(len(x))]
        keys = [rms_norm(rotate(k[i, part], i)) for i in range(len(x))]
        for i in range(len(x)):
            seen = range(max(0, i - window), i + 1)
            weights = np.exp([queries[i] @ keys[j] / np.sqrt(HEAD) for j in seen])
            mixed[i, part] = sum(w * v[j, part] for w, j in zip(weights / weights.sum(), seen, strict=True))
    return mixed @ block["out"]["weight"].T


def forward(params, tokens):
    """Logits of one row of tokens."""
    x0 = x = rms_norm(params["token_embedding"]["embedding"][tokens])
    for layer in range(DEPTH):
        block = params["blocks"][layer]
        table = params["value_embeddings"].get(layer)
        value_embedding = None if table is None else table["embedding"][tokens]
        x = params["residual_scales"][layer] * x + params["x0_scales"][layer] * x0
        x = x + attention(block["attention"], rms_norm(x), value_embedding, WINDOWS[layer])
        hidden = np.maximum(rms_norm(x) @ block["mlp"]["up"]["weight"].T, 0) ** 2
        x = x + hidden @ block["mlp"]["down"]["weight"].T
    return 15 * np.tanh(rms_norm(x) @ params["unembedding"]["weight"].T / 15)


def test_forward_and_loss(experiment, state):
    params = randomized(state["params"], seed=1)
    rows = np.random.default_rng(2).integers(0, VOCAB, size=(2, T + 1))
    logits = jax.jit(experiment.logits)(state | {"params": params}, jnp.asarray(rows[:, :-1]))
    expected = np.stack([forward(float64(params), row[:-1]) for row in rows])
    assert set(params["value_embeddings"]) == {1}
    assert np.std(expected) > 0.3
    np.testing.assert_allclose(logits, expected, rtol=TOLERANCE, atol=TOLERANCE)

    log_probs = expected - np.log(np.exp(expected).sum(-1, keepdims=True))
    expected_loss = -np.take_along_axis(log_probs, rows[:, 1:, None], -1).mean()
    _, metrics = experiment.step(copied(state | {"params": params}), jnp.asarray(rows), jnp.float32(0))
    assert metrics["loss"] == pytest.approx(expected_loss, abs=TOLERANCE)


def learning_rate_scale(progress):
    return 1.0 if progress < 0.5 else 0.1 + 0.9 * (1 - progress) / 0.5


def adamw(w, gradients, progresses, learning_rate, beta1):
    mean = square = 0.0
    for count, (g, progress) in enumerate(zip(gradients, progresses, strict=True), start=1):
        mean = beta1 * mean + (1 - beta1) * g
        square = 0.95 * square + 0.05 * g**2
        direction = (mean / (1 - beta1**count)) / (np.sqrt(square / (1 - 0.95**count)) + 1e-10)
        w = w - learning_rate * learning_rate_scale(progress) * (direction + 0.01 * w)
    return w


def muon(w, gradients, progresses):
    """One matrix [O, I]: singular values through the polynomials by SVD, not by matrix products."""
    outputs, inputs = w.shape
    mean, variance = np.zeros_like(w), 0.0
    for g, progress in zip(gradients, progresses, strict=True):
        beta = 0.85 + 0.1 * min(progress / 0.3, 1)
        mean = beta * mean + (1 - beta) * g
        ahead = beta * mean + (1 - beta) * g
        u, s, vt = np.linalg.svd(ahead, full_matrices=False)
        s = s / (1.02 * np.linalg.norm(ahead) + 1e-6)
        for a, b, c in POLAR_EXPRESS:
            s = a * s + b * s**3 + c * s**5
        step = (u * s) @ vt
        mean_square = (step**2).mean(axis=1 if outputs >= inputs else 0, keepdims=True)
        variance = 0.95 * variance + 0.05 * mean_square
        scaled = step / np.sqrt(np.maximum(variance, 1e-10))
        step = scaled * np.linalg.norm(step) / np.linalg.norm(scaled)
        decay = np.where(np.sign(step) * np.sign(w) >= 0, 0.2 * (1 - progress) * w, 0)
        learning_rate = 0.04 * learning_rate_scale(progress) * max(1, outputs / inputs) ** 0.5
        w = w - learning_rate * (step + decay)
    return w


def test_two_updates_of_every_parameter(train_lib, state):
    """The second update starts from moments that are not zero, in the cool-down."""
    params, progresses = randomized(state["params"], seed=3), (0.1, 0.75)
    gradients = [randomized(params, seed=4), randomized(params, seed=5)]
    optimizer = train_lib.make_optimizer()

    @jax.jit
    def update(params, grads, moments, progress):
        updates, moments = optimizer.update(grads, moments, params, progress=progress)
        updates = optax.tree.scale(train_lib.learning_rate_scale(progress), updates)
        return optax.apply_updates(params, updates), moments

    new_params, moments = params, optimizer.init(params)
    for grads, progress in zip(gradients, progresses, strict=True):
        new_params, moments = update(new_params, grads, moments, jnp.float32(progress))

    width_scale = (WIDTH / 768) ** -0.5
    settings = {
        "token_embedding": (0.6 * width_scale, 0.8),
        "value_embeddings": (0.6 * width_scale, 0.8),
        "unembedding": (0.004 * width_scale, 0.8),
        "residual_scales": (0.005, 0.8),
        "x0_scales": (0.5, 0.96),
    }

    def expected(path, w, *grads):
        group = path[0].key
        if group == "blocks":
            return muon(w, grads, progresses)
        return adamw(w, grads, progresses, *settings[group])

    wanted = jax.tree.map_with_path(expected, *map(float64, (params, *gradients)))
    for (path, got), want in zip(jax.tree.leaves_with_path(new_params), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE, err_msg=jax.tree_util.keystr(path))
