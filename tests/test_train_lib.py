"""train_lib.py keeps the contract: causal, donated, the same whatever the micro-batches and devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tracing import edited, traced
from train_lib_source import TRAIN_LIB, load_tiny, make_mesh, nudged, tiny_source_text

from autoresearch_jax.contract import TaskSpec
from autoresearch_jax.tasks.lm.trace import ContractError

TASK = TaskSpec(vocab_sizes=(256, 320), sequence_length=16)
AS_IT_COMES = {"VALUE_EMBEDDING_EVERY": 1, "BIGRAM_BITS": 6, "KEY_SHIFT": 0.5}  # but for the size of the table
QUICK = {"MUON_ITERATIONS": 1}  # one compiles quickly


pytestmark = pytest.mark.usefixtures("quick_to_compile")


@pytest.fixture(scope="module")
def train_lib():
    return load_tiny(**AS_IT_COMES, **QUICK)


@pytest.fixture(scope="module")
def experiment(train_lib):
    return train_lib.build(TASK, make_mesh())


@pytest.fixture(scope="module")
def tokens():
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, size=(8, 17)), jnp.int32)


def test_file_is_short_enough_to_read():
    assert len(TRAIN_LIB.read_text().splitlines()) <= 440


def test_no_logit_depends_on_a_later_token(experiment):
    state = jax.jit(experiment.init)(jax.random.key(0))
    blocks = nudged(state["params"]["blocks"])  # weights of zero would cut the paths that this test is about
    tokens_T = jnp.arange(16)  # all different, so that a row of a table stands for a position
    tables = ("token_embedding", "value_embeddings")

    def logits_T(embeddings):
        params = state["params"] | embeddings | {"blocks": blocks}
        return experiment.logits({"params": params}, tokens_T[None])[0] @ jnp.sin(jnp.arange(256.0))

    jacobians = jax.jit(jax.jacrev(logits_T))({name: state["params"][name] for name in tables})
    for jacobian_TxVxD in jax.tree.leaves(jacobians):
        influence_TxT = jnp.abs(jacobian_TxVxD[:, :16]).max(-1)
        assert jnp.all(jnp.triu(influence_TxT, 1) == 0)
        assert jnp.all(jnp.diag(influence_TxT) > 0)
        assert jnp.all(influence_TxT[-1] > 0)


def test_windows_follow_the_pattern(train_lib):
    module = load_tiny(DEPTH=6, WINDOW_PATTERN="SSL")
    assert [module.window_size(layer, 64) for layer in range(6)] == [32, 32, 64, 32, 32, 64]
    assert [load_tiny(WINDOW_PATTERN="S").window_size(layer, 64) for layer in range(2)] == [32, 64]

    x_BxTxHxK = jnp.ones((1, 16, 1, 8))
    reach_TxT = jax.jacrev(
        lambda v: train_lib.causal_attention(x_BxTxHxK, x_BxTxHxK, v, 5, task=TASK, mesh=make_mesh())[0, :, 0, 0]
    )(x_BxTxHxK)
    distance_TxT = np.arange(16)[:, None] - np.arange(16)
    np.testing.assert_array_equal(reach_TxT[:, 0, :, 0, 0] > 0, (distance_TxT >= 0) & (distance_TxT <= 5))


def test_step_learns_in_place_and_keeps_the_state_s_shape(experiment, tokens):
    first = state = jax.jit(experiment.init)(jax.random.key(0))
    before = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
    step = experiment.step.lower(state, tokens, np.float32(0)).compile()  # once: some of init's arrays are weakly typed
    losses = []
    for progress in np.linspace(0, 0.5, 10, dtype=np.float32):
        state, metrics = step(state, tokens, progress)
        losses.append(float(metrics["loss"]))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == before
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first))
    assert losses[0] == pytest.approx(np.log(256), abs=0.1)
    assert losses[-1] < losses[0] - 1


@pytest.mark.slow
def test_accumulated_gradients_equal_those_of_the_whole_batch(train_lib, experiment, tokens):
    in_parts = load_tiny(**AS_IT_COMES, **QUICK, GRADIENT_ACCUMULATION=4).build(TASK, make_mesh())
    results = []
    for each in (experiment, in_parts):
        state = jax.jit(each.init)(jax.random.key(0))
        state["params"] = nudged(state["params"])
        state, metrics = each.step(state, tokens, jnp.float32(0.5))
        results.append((metrics, state["optimizer"]))  # moments are gradients; weights blow up their rounding
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), *results)


def test_constants_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"VOCAB_SIZE = 512 .*256, 320"):
        load_tiny(VOCAB_SIZE=512).build(TASK, make_mesh())
    with pytest.raises(ValueError, match=r"BATCH_SIZE = 8 .*GRADIENT_ACCUMULATION = 3"):
        load_tiny(GRADIENT_ACCUMULATION=3).build(TASK, make_mesh())


def test_another_state_is_refused_in_the_contracts_words(tmp_path):
    as_it_is = 'return {"params": params, "optimizer": moments}, {"loss": loss}'
    without = 'return {"params": params}, {"loss": loss}'
    with pytest.raises(ContractError, match=r"another state than it took: optimizer/.* became nothing"):
        traced(edited(tiny_source_text(), (as_it_is, without)), tmp_path / "trial")
