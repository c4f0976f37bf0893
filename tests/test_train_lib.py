"""train_lib.py keeps the contract: causal, donated, the same whatever the micro-batches and devices."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tracing import edited, traced
from train_lib_source import TRAIN_LIB, load_tiny, make_mesh, nudged, tiny_source_text

from autoresearch_jax.contract import Task
from autoresearch_jax.lm.trace import ContractError

TASK = Task(vocab_sizes=(256, 320), sequence_length=16)


@pytest.fixture(scope="module")
def train_lib():
    return load_tiny()


@pytest.fixture(scope="module")
def experiment(train_lib):
    return train_lib.build(TASK, make_mesh())


@pytest.fixture(scope="module")
def tokens():
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, size=(8, 17)), jnp.int32)


def test_file_is_short_enough_to_read():
    assert len(TRAIN_LIB.read_text().splitlines()) < 500


def test_no_logit_depends_on_a_later_token(experiment):
    state = experiment.init(jax.random.key(0))
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
    reach_TxT = jax.jacrev(lambda v: train_lib.attend(x_BxTxHxK, x_BxTxHxK, v, 5, TASK, make_mesh())[0, :, 0, 0])(
        x_BxTxHxK
    )
    distance_TxT = np.arange(16)[:, None] - np.arange(16)
    np.testing.assert_array_equal(reach_TxT[:, 0, :, 0, 0] > 0, (distance_TxT >= 0) & (distance_TxT <= 5))


def test_step_learns_in_place_and_keeps_the_state_s_shape(experiment, tokens):
    first = state = experiment.init(jax.random.key(0))
    before = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
    losses = []
    for progress in np.linspace(0, 0.5, 10, dtype=np.float32):
        state, metrics = experiment.step(state, tokens, progress)
        losses.append(float(metrics["loss"]))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == before
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first))
    assert losses[0] == pytest.approx(np.log(256), abs=0.1)
    assert losses[-1] < losses[0] - 1


def test_accumulated_gradients_equal_those_of_the_whole_batch(train_lib, experiment, tokens):
    in_parts = load_tiny(GRADIENT_ACCUMULATION=4).build(TASK, make_mesh())
    results = []
    for each in (experiment, in_parts):
        state = each.init(jax.random.key(0))
        state["params"] = nudged(state["params"])
        state, metrics = each.step(state, tokens, jnp.float32(0.5))
        results.append((metrics, state["optimizer"]))  # moments are gradients; weights blow up their rounding
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), *results)


def test_constants_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"VOCAB_SIZE = 512 .*256, 320"):
        load_tiny(VOCAB_SIZE=512).build(TASK, make_mesh())
    with pytest.raises(ValueError, match=r"BATCH_SIZE = 8 .*GRADIENT_ACCUMULATION = 3"):
        load_tiny(GRADIENT_ACCUMULATION=3).build(TASK, make_mesh())


MULTI_DEVICE = """
import jax
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
from tracing import edited, traced
from train_lib_source import load_tiny, make_mesh, nudged
from autoresearch_jax.contract import Task
from autoresearch_jax.lm.trace import ContractError

task = Task(vocab_sizes=(256,), sequence_length=16, num_devices=8)
tokens = np.random.default_rng(0).integers(0, 256, size=(8, 17), dtype=np.int32)
losses, cut = [], 0
for mesh in (make_mesh(), make_mesh(data=4, model=2)):
    experiment = load_tiny(ASPECT_RATIO=16, GRADIENT_ACCUMULATION=2).build(task, mesh)
    state = experiment.init(jax.random.key(0))
    shardings = jax.tree.map(lambda w: w.sharding, state["params"])
    state["params"] = jax.jit(nudged, out_shardings=shardings)(state["params"])
    for progress in np.linspace(0, 0.9, 5, dtype=np.float32):
        state, metrics = experiment.step(state, tokens, progress)
        losses.append(float(metrics["loss"]))
    specs = experiment.state_sharding
    for leaf, spec in zip(jax.tree.leaves(state), jax.tree.leaves(specs), strict=True):
        assert leaf.sharding.is_equivalent_to(jax.sharding.NamedSharding(mesh, spec), leaf.ndim)
    cut = sum(not leaf.is_fully_replicated for leaf in jax.tree.leaves(state))
assert cut > 20, cut
np.testing.assert_allclose(losses[:5], losses[5:], atol=1e-4)
assert losses[4] < losses[0] - 0.1
"""


def test_eight_devices_train_as_one():
    done = subprocess.run(
        [sys.executable, "-c", MULTI_DEVICE], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_harness_traces_it(tmp_path):
    assert any(traced(tiny_source_text(), tmp_path / "trial").iterdir())


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (
            '{"params": params}, {"loss": loss}',
            "another state than it took: optimizer/.* became nothing",
        ),
        ('{"params": params, "optimizer": optimizer}', r"`step` must return \(state, metrics\)"),
    ],
)
def test_another_state_is_refused_in_the_contracts_words(result, message, tmp_path):
    as_it_is = 'return {"params": params, "optimizer": optimizer}, {"loss": loss}'
    with pytest.raises(ContractError, match=message):
        traced(edited(tiny_source_text(), (as_it_is, f"return {result}")), tmp_path / "trial")


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_exports_in_bfloat16_without_large_constants(platform, tokens):
    task = Task(vocab_sizes=(256,), sequence_length=16, platform=platform)
    experiment = load_tiny(COMPUTE_DTYPE="bfloat16").build(task, make_mesh())
    state = jax.eval_shape(experiment.init, jax.random.key(0))
    leaves, treedef = jax.tree.flatten(state)

    def step(leaves, tokens, progress):
        new_state, metrics = experiment.step(jax.tree.unflatten(treedef, leaves), tokens, progress)
        return jax.tree.leaves(new_state), metrics

    exported = jax.export.export(jax.jit(step, donate_argnums=0), platforms=[platform])(leaves, tokens, jnp.float32(0))
    assert len(exported.mlir_module_serialized) < 2**20
    assert [(aval.shape, aval.dtype) for aval in exported.out_avals[:-1]] == [(x.shape, x.dtype) for x in leaves]
