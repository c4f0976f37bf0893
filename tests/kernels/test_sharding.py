"""Where arrays lie on a mesh, by their shapes and names."""

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, PartitionSpec

from autoresearch_jax.kernels.sharding import state_specs

MESH = AbstractMesh((4, 2), ("data", "model"))


def shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_each_array_is_cut_over_both_axes_where_it_divides() -> None:
    shapes = {
        "scales": shape(8),
        "count": shape(),
        "up": {"weight": shape(16, 8)},
        "down": {"weight": shape(8, 16)},
        "embedding": shape(12, 8),
        "gate": {"weight": shape(1, 8)},
        "stack": shape(8, 6, 10),
        "odd_stack": shape(3, 8, 10),
    }
    assert state_specs(shapes, MESH) == {
        "scales": PartitionSpec(None),
        "count": PartitionSpec(),
        "up": {"weight": PartitionSpec("model", "data")},
        "down": {"weight": PartitionSpec("data", "model")},
        "embedding": PartitionSpec("data", "model"),
        "gate": {"weight": PartitionSpec(None, "data")},
        "stack": PartitionSpec(("data", "model"), None, None),
        "odd_stack": PartitionSpec(None, ("data", "model"), None),
    }
