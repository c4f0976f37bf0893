"""How fast the devices of a mesh can be at best: of an accelerator by its data sheet, of a CPU by a measurement."""

import time

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from autoresearch_jax.tasks.lm.hardware import peak_flops

MATRIX_SIZE = 1024
REPEATS = 20  # the best of them counts: a peak is what nothing disturbs


def mesh_peak_flops(mesh: Mesh) -> float | None:
    """Peak bf16 FLOP/s of all devices of the mesh together; None for accelerators that we do not know.

    On a CPU, whose host devices share the cores, two square matrices are multiplied; this takes some tenths of a second
    and must have the machine for itself.
    """
    device = mesh.devices.flat[0]
    if device.platform == "cpu":
        return measured_flops(device)
    of_one = peak_flops(device.device_kind)
    return None if of_one is None else of_one * mesh.size


def measured_flops(device: jax.Device, dtype: str = "bfloat16") -> float:
    """FLOP/s of a product of two square matrices, at best."""
    x = jax.device_put(jnp.ones((MATRIX_SIZE, MATRIX_SIZE), dtype), device)
    multiply = jax.jit(lambda a, b: jnp.einsum("ik,jk->ij", a, b))  # the layout that XLA's CPU backend is fastest in
    multiply(x, x).block_until_ready()
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        multiply(x, x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * MATRIX_SIZE**3 / best
