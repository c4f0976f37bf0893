"""Trains train_lib.py on meshes of eight host devices; called by bench_mesh.sh.

Each figure is the last lines' `key: value`, of each mesh:
  MESH_loss_difference    largest relative difference of ten losses from those of one device, in float32
  MESH_params_share       bytes of parameters on the device that holds most, over those of one device alone
  MESH_optimizer_share    the same of the optimizer's state
"""

import importlib.util
import os
import platform
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from autoresearch_jax.assets.python_constants import set_constants
from autoresearch_jax.contract import TaskSpec
from autoresearch_jax.tasks.lm.programs import make_mesh

NUM_DEVICES = 8
STEPS = 10
SEQUENCE_LENGTH = 64
# Eight heads, so that "model" cuts them too; some gradients are zero at the start but for rounding, which Adam blows up
# with the epsilon as it comes.
CONSTANTS = {
    "DEPTH": 4,
    "ASPECT_RATIO": 64,
    "HEAD_DIM": 32,
    "BATCH_SIZE": 8,
    "COMPUTE_DTYPE": "float32",
    "MUON_ITERATIONS": 2,
    "ADAM_EPSILON": 1e-4,
}
VOCAB_SIZE = 2048
MESHES = {
    "one": {"data": 1, "model": 1},
    "data8": {"data": 8, "model": 1},
    "data4_model2": {"data": 4, "model": 2},
    "model8": {"data": 1, "model": 8},
}


def load_train_lib() -> ModuleType:
    source = set_constants(Path("train_lib.py").read_text(), CONSTANTS | {"VOCAB_SIZE": VOCAB_SIZE})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train_lib.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location("bench_mesh_train_lib", path)
        if spec is None or spec.loader is None:
            sys.exit("bench_mesh: train_lib.py cannot be loaded")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def bytes_per_device(tree: Any) -> int:
    """Of the device that holds most."""
    held = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return max(held.values())


def train(train_lib: ModuleType, axes: dict[str, int], tokens: np.ndarray) -> tuple[list[float], int, int]:
    """Losses of ten steps, and bytes per device of parameters and of the optimizer's state."""
    mesh = make_mesh(axes)
    task = TaskSpec(vocab_sizes=(VOCAB_SIZE,), sequence_length=SEQUENCE_LENGTH, num_devices=mesh.size)
    experiment = train_lib.build(task, mesh)
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), experiment.state_sharding)
    state = jax.jit(experiment.init, out_shardings=shardings)(jax.random.key(0))
    step = jax.jit(experiment.step, out_shardings=(shardings, None), donate_argnums=0)
    batch = jax.device_put(tokens, NamedSharding(mesh, PartitionSpec("data")))
    losses = []
    for progress in np.linspace(0, 0.9, STEPS, dtype=np.float32):
        state, metrics = step(state, batch, progress)
        losses.append(float(metrics["loss"]))
    return losses, bytes_per_device(state["params"]), bytes_per_device(state["optimizer"])


def main() -> None:
    jax.config.update("jax_num_cpu_devices", NUM_DEVICES)
    train_lib = load_train_lib()
    shape = (CONSTANTS["BATCH_SIZE"], SEQUENCE_LENGTH + 1)
    tokens = np.random.default_rng(0).integers(0, VOCAB_SIZE, size=shape, dtype=np.int32)
    figures: dict[str, str] = {}
    print(f"{'mesh':>14}{'params MB':>12}{'optimizer MB':>14}{'first loss':>12}{'last loss':>12}{'difference':>12}")
    for name, axes in MESHES.items():
        losses, params, optimizer = train(train_lib, axes, tokens)
        if name == "one":
            alone, all_params, all_optimizer = losses, params, optimizer
        difference = max(abs(ours / right - 1) for ours, right in zip(losses, alone, strict=True))
        sizes = f"{params / 1e6:12.3f}{optimizer / 1e6:14.3f}"
        print(f"{name:>14}{sizes}{losses[0]:12.5f}{losses[-1]:12.5f}{difference:12.1e}", flush=True)
        if name != "one":
            figures[f"{name}_loss_difference"] = f"{difference:.1e}"
            figures[f"{name}_params_share"] = f"{params / all_params:.4f}"
            figures[f"{name}_optimizer_share"] = f"{optimizer / all_optimizer:.4f}"
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}, {NUM_DEVICES} host devices")
    for key, value in figures.items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    main()
