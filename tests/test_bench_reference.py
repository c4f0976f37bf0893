"""The models that bench_step.py compares with compute what train_lib.py computes."""

import importlib
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train_lib_source import load_tiny, make_mesh, nudged, tiny_source_text

from autoresearch_jax.assets.python_constants import read_constants
from autoresearch_jax.contract import TaskSpec

SCRIPTS = Path(__file__).parent.parent / "scripts"
T = 16
# Four layers, so that a window and a full layer each come with and without value embeddings; schedules in motion.
CONSTANTS = {
    "DEPTH": 4,
    "ASPECT_RATIO": 6,
    "WINDOW_PATTERN": "SSLL",
    "WARMUP_FRACTION": 0.2,
    "FINAL_LR_FRACTION": 0.1,
    "ADAM_EPSILON": 1e-3,  # with a small one AdamW blows up the rounding of gradients near zero
    "EMBEDDING_LR": 0.06,  # the same
    "ADAM_WEIGHT_DECAY": 0.01,
}
PROGRESSES = (0.1, 0.75)
TOLERANCE = 2e-5


def load(name):
    """A module of scripts/, which import each other by plain names as scripts do."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def settings():
    constants = read_constants(tiny_source_text(**CONSTANTS))
    return load("bench_reference_settings").read_settings(constants, T)


@pytest.fixture(scope="module")
def batches():
    return np.random.default_rng(0).integers(0, 256, size=(2, 8, T + 1)).astype(np.int32)


def by_name(params):
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.array(leaf) for path, leaf in leaves}


@pytest.fixture(scope="module")
def expected(batches):
    """Parameters at the start, the losses of two steps of train_lib.py, and the parameters after them."""
    experiment = load_tiny(**CONSTANTS).build(TaskSpec(vocab_sizes=(256,), sequence_length=T), make_mesh())
    state = experiment.init(jax.random.key(0))
    state = state | {"params": nudged(state["params"])}
    start, losses = by_name(state["params"]), []
    for tokens, progress in zip(batches, PROGRESSES, strict=True):
        state, metrics = experiment.step(state, jnp.asarray(tokens), jnp.float32(progress))
        losses.append(float(metrics["loss"]))
    return start, losses, by_name(state["params"])


def assert_same(trainer, batches, expected):
    start, losses, end = expected
    got = [float(trainer.step(tokens, p)) for tokens, p in zip(batches, PROGRESSES, strict=True)]
    np.testing.assert_allclose(got, losses, rtol=TOLERANCE)
    parameters = trainer.parameters()
    assert set(parameters) == set(end)
    for name, value in end.items():
        assert not np.allclose(value, start[name], atol=10 * TOLERANCE), f"{name} was not trained"
        np.testing.assert_allclose(parameters[name], value, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


@pytest.mark.slow
def test_plain_jax_port_takes_the_steps_of_train_lib(settings, batches, expected):
    trainer = load("bench_reference_jax").Trainer(settings, expected[0], dtype=jnp.float32)
    assert_same(trainer, batches, expected)


@pytest.mark.slow
def test_pytorch_takes_the_steps_of_train_lib(settings, batches, expected):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    trainer = load("bench_reference").Trainer(settings, expected[0], dtype=torch.float32, compiled=False)
    assert_same(trainer, torch.from_numpy(batches).long(), expected)


def test_accumulation_is_refused():
    constants = read_constants(tiny_source_text(GRADIENT_ACCUMULATION=2))
    with pytest.raises(ValueError, match="GRADIENT_ACCUMULATION"):
        load("bench_reference_settings").read_settings(constants, T)
