"""train_lib.py with other constants, loaded as a module of its own; nothing global is changed."""

import importlib.util
import tempfile
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh

from autoresearch_jax.assets.python_constants import set_constants

TRAIN_LIB = Path(__file__).parent.parent / "train_lib.py"
TINY = {
    "DEPTH": 2,
    "ASPECT_RATIO": 12,
    "HEAD_DIM": 8,
    "VOCAB_SIZE": 256,
    "WINDOW_PATTERN": "SL",
    "VALUE_EMBEDDING_EVERY": 2,  # as the original, which parity is tested against
    "BIGRAM_BITS": 0,  # the same
    "KEY_SHIFT": 0.0,  # the same
    "VALUE_GATE_CHANNELS": 4,
    "COMPUTE_DTYPE": "float32",
    "BATCH_SIZE": 8,
    "GRADIENT_ACCUMULATION": 1,
    "MUON_ITERATIONS": 2,  # most of the compile time
    "WARMUP_FRACTION": 0.0,
}


def tiny_source_text(**constants: int | float | str) -> str:
    """The text of train_lib.py with a model that compiles in two seconds, and with `constants` on top."""
    return set_constants(TRAIN_LIB.read_text(), TINY | constants)


def load_tiny(**constants: int | float | str) -> ModuleType:
    """The module that `tiny_source_text` describes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train_lib.py"
        path.write_text(tiny_source_text(**constants))
        spec = importlib.util.spec_from_file_location("tiny_train_lib", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def nudged(params: dict) -> dict:
    """Parameters away from the start, where many gradients are zero but for rounding, which Adam blows up."""
    return jax.tree.map(lambda w: w + 0.1 * jnp.cos(jnp.arange(w.size, dtype=w.dtype)).reshape(w.shape), params)


def make_mesh(data: int = 1, model: int = 1) -> Mesh:
    devices = jax.devices()[: data * model]
    return jax.make_mesh((data, model), ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=devices)
