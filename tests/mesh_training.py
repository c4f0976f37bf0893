"""Trains train_lib.py, tiny and in float32, on meshes of eight host devices; prints a report of each as JSON.

    python tests/mesh_training.py DATA,MODEL,MICRO_BATCHES ...

The first is what the others are compared with. A separate process, since a process keeps the number of devices that
it was started with.
"""

import json
import sys
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from train_lib_source import load_tiny, make_mesh, nudged

from autoresearch_jax.contract import TaskSpec

NUM_DEVICES = 8
STEPS = 10


def bytes_of(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def bytes_per_device(tree: Any) -> int:
    """Of the device that holds most."""
    held = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return max(held.values())


def main() -> None:
    jax.config.update("jax_num_cpu_devices", NUM_DEVICES)
    jax.config.update("jax_disable_most_optimizations", True)  # they take longer than the steps
    tokens = np.random.default_rng(0).integers(0, 256, size=(8, 17), dtype=np.int32)
    reports = []
    first_moments: list[np.ndarray] = []
    for words in sys.argv[1:]:
        data, model, micro_batches = map(int, words.split(","))
        mesh = make_mesh(data, model)
        task = TaskSpec(vocab_sizes=(256,), sequence_length=16, num_devices=mesh.size)
        constants = {"ASPECT_RATIO": 32, "MUON_ITERATIONS": 1, "BIGRAM_BITS": 6, "KEY_SHIFT": 0.5}
        experiment = load_tiny(**constants, GRADIENT_ACCUMULATION=micro_batches).build(task, mesh)
        specs = experiment.state_sharding
        shardings = jax.tree.map(lambda spec, mesh=mesh: NamedSharding(mesh, spec), specs)
        state = jax.jit(experiment.init, out_shardings=shardings)(jax.random.key(0))
        state["params"] = jax.jit(nudged, out_shardings=shardings["params"])(state["params"])
        batch = jax.device_put(tokens, NamedSharding(mesh, PartitionSpec("data")))
        step = jax.jit(experiment.step, out_shardings=(shardings, None), donate_argnums=0)
        step = step.lower(state, batch, np.float32(0)).compile()  # once: some arrays of init are of a weak type

        losses, moments_error = [], 0.0
        for progress in np.linspace(0, 0.9, STEPS, dtype=np.float32):
            before = jax.tree.leaves(state)
            state, metrics = step(state, batch, progress)
            losses.append(float(metrics["loss"]))
            if len(losses) == 1:  # moments are gradients then; later, weights have blown up their rounding
                moments = [np.asarray(leaf) for leaf in jax.tree.leaves(state["optimizer"])]
                first_moments = first_moments or moments
                pairs = zip(moments, first_moments, strict=True)
                moments_error = max(float(np.max(np.abs(a - b) / (1e-6 + 1e-3 * np.abs(b)))) for a, b in pairs)
        moments_of = dict(state["optimizer"].inner_states)
        reports.append(
            {
                "mesh": [data, model, micro_batches],
                "losses": losses,
                "moments_error": moments_error,
                "donated": all(leaf.is_deleted() for leaf in before),
                "as_told": all(
                    leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
                    for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True)
                ),
                "rows_per_device": batch.addressable_shards[0].data.shape[0],
                "bytes": {
                    name: {"all": bytes_of(tree), "device": bytes_per_device(tree)}
                    for name, tree in (
                        ("params", state["params"]),
                        ("muon", moments_of.pop("blocks")),
                        ("adam", moments_of),
                    )
                },
            }
        )
    json.dump(reports, sys.stdout)


if __name__ == "__main__":
    main()
