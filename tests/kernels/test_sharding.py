"""Where arrays lie on a mesh, by their shapes and names."""

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from autoresearch_jax.kernels.sharding import gathered, state_specs

MESH = AbstractMesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


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


def test_gathered_parameters_stay_cut_as_the_state_is_by_model_alone() -> None:
    shapes = {"up": shape(16, 8), "layers": shape(4, 256, 256), "scales": shape(8)}
    jaxpr = jax.make_jaxpr(lambda params: gathered(params, MESH))(shapes)
    assert state_specs(shapes, MESH)["layers"] == PartitionSpec("data", "model", None)
    assert [equation.params["sharding"].spec for equation in jaxpr.eqns] == [
        PartitionSpec(None, "model", None),  # of layers, the first by name
        PartitionSpec(None),
        PartitionSpec("model", None),
    ]
