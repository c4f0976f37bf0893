"""Which part of each array a device of the mesh holds; the axes are "data" and "model".

Nothing here changes what is computed, only memory and the traffic between devices. A training file needs three calls:

    state_sharding=state_specs(shapes, mesh)     between steps each device holds its share of the state
    params = gathered(state["params"], mesh)     for the forward and backward pass, what a device multiplies with
    mean_over_micro_batches(function, tokens, count, mesh)     each device works on its own rows

The rules go by shape and name, so they hold for a state of any structure:

    scalars and vectors            whole on each device
    matrices [O, I]                "model" cuts the outputs, of those named in CUT_BY_INPUTS the inputs; "data" cuts the
                                   other dimension (ZeRO, arXiv 1910.02054)
    stacks of matrices [N, S, L]   cut by matrices where these divide, so that each device orthogonalizes its share,
                                   else by rows; S is the shorter, L the longer side

A dimension that does not divide by the axis is not cut.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Tree = Any  # of arrays

# Matrices whose inputs are the features that "model" cuts: the second of a pair of matrices, and tables [V, D].
CUT_BY_INPUTS = {"out", "down", "embedding"}


def state_specs(shapes: Tree, mesh: Mesh) -> Tree:
    """Where each array of the state lies between steps.

    Args:
      shapes: arrays or their shapes, as from `jax.eval_shape(init, key)`.
      mesh: has the axes "data" and "model".

    Returns:
      A PartitionSpec for each array: what `Experiment.state_sharding` takes.
    """
    return jax.tree.map_with_path(lambda path, leaf: _spec(path, leaf, mesh), shapes)


def gathered(params: Tree, mesh: Mesh) -> Tree:
    """The parameters, whole on each device of "data"; those that "model" cuts stay cut."""

    def gather(leaf: Array, spec: PartitionSpec) -> Array:
        whole = PartitionSpec(*("model" if cut and "model" in cut else None for cut in spec))
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, whole))

    return jax.tree.map(gather, params, state_specs(params, mesh))


def mean_over_micro_batches(function: Callable[[Array], Tree], tokens_BxT: Array, count: int, mesh: Mesh) -> Tree:
    """The mean of what the function returns for each of `count` equal parts of the batch, one after the other.

    Args:
      function: takes a part of the rows, [B / count, T], and returns arrays, such as loss and gradients.
      tokens_BxT: the batch.
      count: how many parts; more parts take less memory.
      mesh: rows are cut over its axis "data"; each device cuts up its own, so that no row moves.
    """

    def of_part(part_BxT: Array) -> Tree:
        return function(jax.lax.with_sharding_constraint(part_BxT, NamedSharding(mesh, PartitionSpec("data"))))

    if count == 1:
        return of_part(tokens_BxT)

    def add(total: Tree, part_BxT: Array) -> tuple[Tree, None]:
        return jax.tree.map(jnp.add, total, of_part(part_BxT)), None

    parts_AxBxT = tokens_BxT.reshape(-1, count, tokens_BxT.shape[1]).swapaxes(0, 1)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(of_part, parts_AxBxT[0]))
    total, _ = jax.lax.scan(add, zeros, parts_AxBxT)
    return jax.tree.map(lambda leaf: leaf / count, total)


def _spec(path: tuple, leaf: Array | jax.ShapeDtypeStruct, mesh: Mesh) -> PartitionSpec:
    """The axes that cut each dimension of one array."""
    names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
    features = 1 if CUT_BY_INPUTS.intersection(names) else 0
    candidates: dict[str, tuple[int, ...]] = {}
    if leaf.ndim == 2:
        candidates = {"data": (1 - features,), "model": (features,)}
    elif leaf.ndim > 2:
        candidates = {"data": (0, 1), "model": (0, 1)}
    sizes = list(leaf.shape)
    cuts: list[tuple[str, ...]] = [()] * leaf.ndim
    for axis, dimensions in candidates.items():
        divisible = [i for i in dimensions if sizes[i] % mesh.shape[axis] == 0]
        if divisible:
            sizes[divisible[0]] //= mesh.shape[axis]
            cuts[divisible[0]] += (axis,)
    return PartitionSpec(*(cut or None for cut in cuts))
