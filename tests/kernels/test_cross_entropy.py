"""The loss in pieces has the value and the gradients of its definition, on one device and on a mesh."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from train_lib_source import make_mesh

from autoresearch_jax.kernels.cross_entropy import softcapped_cross_entropy

VOCAB, WIDTH = 80, 24
pytestmark = pytest.mark.usefixtures("quick_to_compile")


def definition(x_BxTxD: Array, w_VxD: Array, targets_BxT: Array, softcap: float) -> Array:
    logits_BxTxV = softcap * jnp.tanh(x_BxTxD @ w_VxD.T / softcap)
    target_BxTx1 = jnp.take_along_axis(logits_BxTxV, targets_BxT[..., None], -1)
    return jnp.mean(jax.nn.logsumexp(logits_BxTxV, -1, keepdims=True) - target_BxTx1)


def example(rows: int, length: int) -> tuple[Array, Array, Array]:
    keys = jax.random.split(jax.random.key(0), 3)
    x_BxTxD, w_VxD = jax.random.normal(keys[0], (rows, length, WIDTH)), 2 * jax.random.normal(keys[1], (VOCAB, WIDTH))
    return x_BxTxD, w_VxD, jax.random.randint(keys[2], (rows, length), 0, VOCAB)


@pytest.mark.parametrize(
    ("length", "softcap"),
    [(12, 15.0), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((1, 0.5), (32, 15.0), (7, 200.0)))],
)
def test_it_has_the_value_and_gradients_of_its_definition(length: int, softcap: float) -> None:
    x_BxTxD, w_VxD, targets_BxT = example(2, length)

    def ours(x_BxTxD: Array, w_VxD: Array) -> Array:
        return 3 * softcapped_cross_entropy(x_BxTxD, w_VxD, targets_BxT, softcap=softcap, mesh=make_mesh())

    def right(x_BxTxD: Array, w_VxD: Array) -> Array:
        return 3 * definition(x_BxTxD, w_VxD, targets_BxT, softcap)

    found, wanted = (jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(x_BxTxD, w_VxD) for loss in (ours, right))
    assert wanted[0] > 3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, wanted)


ON_A_MESH = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from test_cross_entropy import definition, example
from train_lib_source import make_mesh
from autoresearch_jax.kernels.cross_entropy import softcapped_cross_entropy

mesh, (x, w, targets) = make_mesh(data=8), example(8, 32)
rows, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
loss = lambda x, w, targets: softcapped_cross_entropy(x, w, targets, softcap=15.0, mesh=mesh)
compiled = jax.jit(
    jax.value_and_grad(loss, argnums=(0, 1)), in_shardings=(rows, whole, rows), out_shardings=(whole, (rows, whole))
).lower(x, w, targets).compile()
wanted = jax.value_and_grad(lambda x, w: definition(x, w, targets, 15.0), argnums=(0, 1))(x, w)
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), compiled(x, w, targets), wanted)
print(compiled.as_text())
"""


@pytest.mark.slow
def test_devices_sum_up_their_gradients_once_and_not_piece_by_piece() -> None:
    here = Path(__file__).parent
    environment = {"PYTHONPATH": f"{here}:{here.parent}:{here.parent.parent}", "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    result = subprocess.run(
        [sys.executable, "-c", ON_A_MESH], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    bodies = re.findall(r"while\(.*body=%?([\w.\-]+)", result.stdout)
    assert bodies
    for body in bodies:
        text = re.search(rf"^%?{re.escape(body)} .*?^}}", result.stdout, re.MULTILINE | re.DOTALL)
        assert text is not None
        assert "all-reduce" not in text[0]
    assert "all-reduce" in result.stdout
