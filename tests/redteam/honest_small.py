"""Honest candidates of a few lines: other optimizers, states, dtypes, and other ways to look back."""

import textwrap
from functools import partial

from redteam.entries import Variant, indented, tiny, with_logits, with_step
from tracing import edited

# What `forward` does between embedding and output, and with what parameters, is the variant's.
_SMALL = '''"""A small model, trained by Adam on float32 parameters."""

import jax
import jax.numpy as jnp
import optax

from autoresearch_jax.contract import Experiment

V, D, H = 256, 16, 4
OPTIMIZER = optax.adam(0.02)


def build(task, mesh):
    def init(key):
        keys = iter(jax.random.split(key, 16))

        def normal(*shape):
            return 0.2 * jax.random.normal(next(keys), shape)

        params = {"embed": normal(V, D), "out": normal(D, V)}
        # PARAMETERS
        return {"params": params, "optimizer": OPTIMIZER.init(params), "key": next(keys)}

    def forward(params, tokens):
        length = tokens.shape[1]
        causal_TxT = jnp.tri(length, dtype=bool)
        x = params["embed"][tokens]
        # BODY
        return x @ params["out"]

    def loss_fn(params, tokens):
        return optax.softmax_cross_entropy_with_integer_labels(forward(params, tokens[:, :-1]), tokens[:, 1:]).mean()

    def step(state, tokens, progress):
        loss, gradient = jax.value_and_grad(loss_fn)(state["params"], tokens)
        updates, optimizer = OPTIMIZER.update(gradient, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "optimizer": optimizer, "key": state["key"]}, {"loss": loss}

    def logits(state, tokens):
        return forward(state["params"], tokens)

    return Experiment(init, step, logits, V, (8, task.sequence_length + 1))
'''


def _model(body: str, parameters: str = "") -> str:
    return edited(
        _SMALL,
        ("        # PARAMETERS", indented(textwrap.dedent(parameters).strip(), 8)),
        ("        # BODY", indented(textwrap.dedent(body).strip(), 8)),
    )


def model(name: str, body: str, parameters: str = "", *edits: tuple[str, str]) -> Variant:
    return Variant(name, lambda: edited(_model(body, parameters), *edits))


def optimizer(name: str, expression: str) -> Variant:
    edit = ("optax.adam(0.02)", expression)
    return Variant(f"optimizer {name}", lambda: edited(_model("x = jnp.tanh(x)"), edit))


BFLOAT16 = (
    ('x = params["embed"][tokens]', 'x = params["embed"].astype(jnp.bfloat16)[tokens]'),
    ('x @ params["out"]', 'x.astype(jnp.float32) @ params["out"]'),
)
ATTENTION = "params |= {name: normal(D, D) for name in 'qkv'}"

OPTIMIZERS = [
    optimizer("SGD", "optax.sgd(1.0)"),
    optimizer("Lion", "optax.lion(0.01)"),
    optimizer("Adafactor", "optax.adafactor(0.05)"),
    optimizer(
        "momentum, clipped, scheduled", "optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.5, momentum=0.9))"
    ),
    optimizer("several updates to one", "optax.MultiSteps(optax.adam(0.02), 4)"),
]

LOOKS_BACK = [
    model(
        "attention without positions",
        """
            q, k, v = (x @ params[name] for name in "qkv")
            x += jax.nn.softmax(jnp.where(causal_TxT, q @ k.mT, -1e30)) @ v
        """,
        ATTENTION,
    ),
    model(
        "ALiBi",
        """
            q, k, v = (x @ params[name] for name in "qkv")
            distance_TxT = jnp.arange(length)[:, None] - jnp.arange(length)
            x += jax.nn.softmax(jnp.where(causal_TxT, q @ k.mT - 0.1 * distance_TxT, -jnp.inf)) @ v
        """,
        ATTENTION,
    ),
    model(
        "grouped-query attention",
        """
            q = (x @ params["q"]).reshape(*x.shape[:2], H, D // H)
            k, v = ((x @ params[name])[..., None, :] for name in ("k", "v"))
            x += jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape)
        """,
        'params |= {"q": normal(D, D), "k": normal(D, D // H), "v": normal(D, D // H)}',
    ),
    model(
        "window of eight",
        """
            q, k, v = ((x @ params[name])[..., None, :] for name in "qkv")
            x += jax.nn.dot_product_attention(q, k, v, is_causal=True, local_window_size=(7, 0))[..., 0, :]
        """,
        ATTENTION,
    ),
    model(
        "linear recurrence",
        """
            decay = jax.nn.sigmoid(x @ params["decay"])
            combine = lambda left, right: (left[0] * right[0], right[0] * left[1] + right[1])
            x += jax.lax.associative_scan(combine, (decay, (1 - decay) * x), axis=1)[1]
        """,
        'params["decay"] = normal(D, D)',
    ),
    model(
        "gated RNN",
        """
            def cell(h, x_BxD):
                h = jnp.tanh(x_BxD + h @ params["h"])
                return h, h
            x = jax.lax.scan(cell, jnp.zeros_like(x[:, 0]), x.swapaxes(0, 1))[1].swapaxes(0, 1)
        """,
        'params["h"] = normal(D, D)',
    ),
    model(
        "causal convolution",
        'x = sum(jnp.pad(x, ((0, 0), (n, 0), (0, 0)))[:, :length] @ params["kernel"][n] for n in range(4))',
        'params["kernel"] = normal(4, D, D)',
    ),
    model(
        "mixture of experts",
        """
            gate = jax.nn.softmax(x @ params["router"])
            best, expert = jax.lax.top_k(gate, 2)
            outputs = jnp.einsum("btd,xde->btxe", x, params["experts"])
            x += (jnp.take_along_axis(outputs, expert[..., None], 2) * best[..., None]).sum(2)
        """,
        'params |= {"router": normal(D, 4), "experts": normal(4, D, D)}',
    ),
    model(
        "layers in a scan, recomputed",
        """
            @jax.checkpoint
            def layer(x, w):
                past = jnp.cumsum(x, 1) / jnp.arange(1.0, length + 1)[:, None]
                return x + jnp.tanh((x + past) @ w), None
            x, _ = jax.lax.scan(layer, x, params["layers"])
        """,
        'params["layers"] = normal(3, D, D)',
    ),
    model(
        "sorts its past",
        """
            scores = jnp.where(causal_TxT, (x @ params["q"]) @ x.mT, -1e9)
            best, where = jax.lax.top_k(scores, 4)
            chosen = jax.vmap(lambda x_TxD, where_Tx4: x_TxD[where_Tx4])(x, where)
            x += (jax.nn.softmax(best)[..., None] * chosen).sum(2)
        """,
        'params["q"] = normal(D, D)',
    ),
    model(
        "orthogonal matrices",
        'x += jnp.tanh(x @ params["w"])',
        'params["w"] = jax.nn.initializers.orthogonal()(next(keys), (D, D))',
    ),
    model("tied embeddings", "x = jnp.tanh(x)", "", ('params["out"]', 'params["embed"].T')),
]

LOGITS = [
    Variant("bfloat16 logits", partial(with_logits, "return here.astype(jnp.bfloat16)")),
    Variant("float16 logits", partial(with_logits, "return here.astype(jnp.float16)")),
    Variant("large softcap", partial(with_logits, "return 1e3 * jnp.tanh(here / 1e3)")),
    # 192: no text here has it, by the ids of the arena's seed
    Variant("no probability for a byte", partial(with_logits, "return here.at[..., 192].set(-jnp.inf)")),
    Variant(
        "n-gram cache",
        partial(
            with_logits,
            """
            was_here_TxT = jnp.tri(tokens.shape[1], k=-1, dtype=bool) & (tokens[:, :, None] == tokens[:, None, :])
            followed_BxTxV = jax.nn.one_hot(jnp.roll(tokens, -1, 1), VOCAB_SIZE)
            return here + was_here_TxT.astype(jnp.float32) @ followed_BxTxV
            """,
        ),
    ),
    Variant(
        "int8 weights",
        partial(
            with_logits,
            """
            scale = jnp.abs(table).max() / 127
            return jnp.round(table / scale).astype(jnp.int8)[tokens] * scale
            """,
        ),
    ),
]

TRAINING = [
    Variant(
        "dropout",
        lambda: tiny(
            ("value_and_grad(loss_fn)(state", "value_and_grad(dropped)(state"),
            (
                "    def step(",
                "    def dropped(table_VxV, tokens, key):\n"
                "        kept = jax.random.bernoulli(key, 0.9, table_VxV.shape)\n"
                "        return loss_fn(jnp.where(kept, table_VxV / 0.9, 0), tokens)\n\n"
                "    def step(",
            ),
            ('(state["table"], tokens)\n', '(state["table"], tokens, state["key"])\n'),
        ),
    ),
    Variant(
        "average of the weights",
        lambda: tiny(
            ('return {"table"', 'return {"average": table_VxV, "table"'),
            ('new_state = {"table"', 'new_state = {"average": 0.9 * state["average"] + 0.1 * table_VxV, "table"'),
            ('return state["table"][tokens]', 'return state["average"][tokens]'),
        ),
    ),
    Variant(
        "half the context",
        lambda: tiny(
            ("(BATCH_SIZE, task.sequence_length + 1)", "(2 * BATCH_SIZE, task.sequence_length // 2 + 1)"),
        ),
    ),
    Variant(
        "a growing batch",
        lambda: tiny(
            ("import Experiment", "import Experiment, Phase"),
            (
                "        vocab_size=",
                "        later_phases=(Phase(0.5, step, (16, task.sequence_length + 1)),),\n        vocab_size=",
            ),
        ),
    ),
    Variant(
        "label smoothing and z-loss",
        lambda: tiny(
            (
                "return -jnp.take_along_axis(log_probs, tokens[:, 1:, None], -1).mean()",
                "z = jax.nn.logsumexp(table_VxV[tokens[:, :-1]], -1)\n"
                "        likelihood = jnp.take_along_axis(log_probs, tokens[:, 1:, None], -1).mean()\n"
                "        return -0.9 * likelihood - 0.1 * log_probs.mean() + 1e-4 * jnp.square(z).mean()",
            )
        ),
    ),
    Variant(
        "many metrics",
        lambda: tiny(('"count": state["count"]}\n', '"norm/table": jnp.linalg.norm(table_VxV), "lr": 1 - progress}\n')),
    ),
    Variant(
        "a clipped progress",
        lambda: with_step("progress = jax.lax.fori_loop(0, 3, lambda _, x: jnp.clip(x, 0.0, 0.9), progress)"),
    ),
]

STATES = [
    Variant(
        "a named tuple for a state",
        lambda: edited(
            _model("x = jnp.tanh(x)"),
            (
                "V, D, H",
                "class State(NamedTuple):\n    params: dict\n    optimizer: tuple\n    key: jax.Array\n\n\nV, D, H",
            ),
            ("import jax\n", "from typing import NamedTuple\n\nimport jax\n"),
            (
                'return {"params": params, "optimizer": OPTIMIZER.init(params), "key": next(keys)}',
                "return State(params, OPTIMIZER.init(params), next(keys))",
            ),
            (
                '{"params": params, "optimizer": optimizer, "key": state["key"]}',
                "state._replace(params=params, optimizer=optimizer)",
            ),
            ('state["params"]', "state.params"),
            ('state["optimizer"]', "state.optimizer"),
        ),
    ),
    Variant(
        "a dataclass for a state",
        lambda: edited(
            _model("x = jnp.tanh(x)"),
            (
                "V, D, H",
                "@jax.tree_util.register_dataclass\n@dataclass\nclass State:\n"
                "    params: dict\n    optimizer: tuple\n\n\nV, D, H",
            ),
            ("import jax\n", "from dataclasses import dataclass\n\nimport jax\n"),
            (
                'return {"params": params, "optimizer": OPTIMIZER.init(params), "key": next(keys)}',
                "return State(params, OPTIMIZER.init(params))",
            ),
            ('{"params": params, "optimizer": optimizer, "key": state["key"]}', "State(params, optimizer)"),
            ('state["params"]', "state.params"),
            ('state["optimizer"]', "state.optimizer"),
        ),
    ),
    Variant(
        "an nnx module in the state",
        lambda: edited(
            _model(
                "x = jnp.tanh(nnx.merge(graph, params['linear'])(x))",
                "params['linear'] = nnx.split(nnx.Linear(D, D, rngs=nnx.Rngs(next(keys))))[1]",
            ),
            ("import optax\n", "import optax\nfrom flax import nnx\n"),
            (
                "    def init(key):",
                "    graph = nnx.split(nnx.eval_shape(lambda: nnx.Linear(D, D, rngs=nnx.Rngs(0))))[0]\n\n"
                "    def init(key):",
            ),
        ),
    ),
]

VARIANTS = {
    "optimizer": OPTIMIZERS,
    "looks back": LOOKS_BACK,
    "logits": LOGITS,
    "training": TRAINING,
    "state": STATES,
}
