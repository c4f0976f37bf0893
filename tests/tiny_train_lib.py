"""A training file as small as they come: a bigram table trained by SGD; the state holds a key and a count too."""

import jax
import jax.numpy as jnp

from autoresearch_jax.contract import Experiment

LEARNING_RATE = 10.0  # of plain SGD
VOCAB_SIZE = 256
BATCH_SIZE = 8
UNUSED = 1  # read by nothing


def build(task, mesh):
    def init(key):
        table_VxV = 0.01 * jax.random.normal(key, (VOCAB_SIZE, VOCAB_SIZE))
        return {"table": table_VxV, "count": jnp.zeros((), jnp.int32), "key": key}

    def logits(state, tokens):
        return state["table"][tokens]

    def loss_fn(table_VxV, tokens):
        log_probs = jax.nn.log_softmax(table_VxV[tokens[:, :-1]])
        return -jnp.take_along_axis(log_probs, tokens[:, 1:, None], -1).mean()

    def step(state, tokens, progress):
        loss, gradient = jax.value_and_grad(loss_fn)(state["table"], tokens)
        table_VxV = state["table"] - LEARNING_RATE * (1 - progress) * gradient
        new_state = {"table": table_VxV, "count": state["count"] + 1, "key": jax.random.split(state["key"])[0]}
        return new_state, {"loss": loss, "count": state["count"]}

    return Experiment(
        init=init,
        step=jax.jit(step, donate_argnums=0),
        logits=logits,
        vocab_size=VOCAB_SIZE,
        batch_shape=(BATCH_SIZE, task.sequence_length + 1),
    )
