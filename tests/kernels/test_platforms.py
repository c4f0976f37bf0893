"""Compute capabilities by the names that JAX reports."""

import pytest

from autoresearch_jax.kernels.platforms import UNKNOWN_CAPABILITY, compute_capability

CAPABILITIES = {
    (6, 0): "Tesla P100-SXM2-16GB",
    (6, 1): "Tesla P40|NVIDIA GeForce GTX 1080 Ti|NVIDIA TITAN Xp|NVIDIA TITAN X (Pascal)",
    (7, 0): "Tesla V100-SXM2-32GB|NVIDIA TITAN V",
    (7, 5): "Tesla T4|NVIDIA GeForce GTX 1660|NVIDIA GeForce RTX 2080 Ti|NVIDIA TITAN RTX|Quadro RTX 6000",
    (8, 0): "NVIDIA A100-SXM4-80GB",
    (8, 9): "NVIDIA GeForce RTX 4090|NVIDIA RTX 2000 Ada Generation|NVIDIA L4|NVIDIA L40S",
    (9, 0): "NVIDIA H100 80GB HBM3|NVIDIA H20|NVIDIA GH200 480GB",
    (10, 0): "NVIDIA B200",
    (10, 3): "NVIDIA B300 SXM6 AC",
    (12, 0): "NVIDIA GeForce RTX 5090|NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
}


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_capability_by_name(capability: tuple[int, int]) -> None:
    for device_kind in CAPABILITIES[capability].split("|"):
        assert compute_capability(device_kind) == capability, device_kind
    assert compute_capability("a device of tomorrow") == UNKNOWN_CAPABILITY
