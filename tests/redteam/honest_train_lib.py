"""Honest changes of the real training file, made tiny."""

from redteam.entries import Edit, Variant
from tracing import edited
from train_lib_source import tiny_source_text


def constants(name: str, **values: int | float | str) -> Variant:
    return Variant(name, lambda: tiny_source_text(**values))


def change(name: str, *edits: Edit) -> Variant:
    return Variant(name, lambda: edited(tiny_source_text(), *edits))


TOTAL = '{"params": params, "optimizer": moments}'

CONSTANTS = [
    constants("as it is"),
    constants("three layers", DEPTH=3, WINDOW_PATTERN="SSL"),
    constants("one layer in bfloat16", DEPTH=1, COMPUTE_DTYPE="bfloat16"),
    constants("micro-batches, full windows", GRADIENT_ACCUMULATION=2, WINDOW_PATTERN="L"),
    constants("softcap of 200, short rotary", SOFTCAP=200.0, ROTARY_BASE=100.0),
]

CHANGES = [
    change(
        "tied embeddings",
        ("        self.unembedding = Linear(width, VOCAB_SIZE, normal(0.001), rngs)\n", ""),
        ("self.unembedding(self.features", "self.token_embedding.attend(self.features"),
        ('params["unembedding"]["weight"]', 'params["token_embedding"]["embedding"]'),
        ('params["unembedding"]', 'params["token_embedding"]'),
    ),
    change(
        "grouped-query attention",
        ("self.key = Linear(width, width,", "self.key = Linear(width, HEAD_DIM,"),
        ("self.value = Linear(width, width,", "self.value = Linear(width, HEAD_DIM,"),
        ("return (DEPTH - 1 - layer) % VALUE_EMBEDDING_EVERY == 0", "return False"),
    ),
    change(
        "no positions, every layer recomputed",
        ("rms_norm(rotate(q_BxTxHxK)), rms_norm(rotate(k_BxTxHxK))", "rms_norm(q_BxTxHxK), rms_norm(k_BxTxHxK)"),
        ("x_BxTxD = block(x_BxTxD, value", "x_BxTxD = nnx.remat(Block.__call__)(block, x_BxTxD, value"),
    ),
    change(
        "average of the weights, half the context",
        (
            'return {"params": params, "optimizer": optimizer.init(params)}',
            'return {"params": params, "optimizer": optimizer.init(params), "average": params}',
        ),
        (
            f"return {TOTAL}, ",
            "average = jax.tree.map(lambda a, p: 0.9 * a + 0.1 * p, state['average'], params)\n"
            '        return {"params": params, "optimizer": moments, "average": average}, ',
        ),
        ('gathered(state["params"], mesh))(tokens', 'gathered(state["average"], mesh))(tokens'),
        ("(BATCH_SIZE, task.sequence_length + 1)", "(2 * BATCH_SIZE, task.sequence_length // 2 + 1)"),
    ),
    change(
        "two tokens at once",
        (
            "        return softcapped_cross_entropy(x_BxTxD, w_VxD, targets_BxT, softcap=SOFTCAP, mesh=mesh)\n",
            "        after = softcapped_cross_entropy(\n"
            "            x_BxTxD[:, :-1], jnp.roll(w_VxD, 1, 0), targets_BxT[:, 1:], softcap=SOFTCAP, mesh=mesh\n"
            "        )\n"
            "        next = softcapped_cross_entropy(x_BxTxD, w_VxD, targets_BxT, softcap=SOFTCAP, mesh=mesh)\n"
            "        return next + 0.1 * after\n",
        ),
    ),
]

VARIANTS = {"constants": CONSTANTS, "change": CHANGES}
