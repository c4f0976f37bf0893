"""Compute capabilities by the names that JAX reports."""

import pytest

from autoresearch_jax.kernels.platforms import UNKNOWN_CAPABILITY, compute_capability


@pytest.mark.parametrize(
    ("device_kind", "capability"),
    [
        ("Tesla P100-SXM2-16GB", (6, 0)),
        ("Tesla P40", (6, 1)),
        ("NVIDIA GeForce GTX 1080 Ti", (6, 1)),
        ("NVIDIA TITAN Xp", (6, 1)),
        ("NVIDIA TITAN X (Pascal)", (6, 1)),
        ("Tesla V100-SXM2-32GB", (7, 0)),
        ("NVIDIA TITAN V", (7, 0)),
        ("Tesla T4", (7, 5)),
        ("NVIDIA GeForce GTX 1660", (7, 5)),
        ("NVIDIA GeForce RTX 2080 Ti", (7, 5)),
        ("NVIDIA TITAN RTX", (7, 5)),
        ("Quadro RTX 4000", (7, 5)),
        ("Quadro RTX 5000", (7, 5)),
        ("Quadro RTX 6000", (7, 5)),
        ("NVIDIA A100-SXM4-80GB", (8, 0)),
        ("NVIDIA GeForce RTX 4090", (8, 9)),
        ("NVIDIA RTX 2000 Ada Generation", (8, 9)),
        ("NVIDIA RTX 4000 SFF Ada Generation", (8, 9)),
        ("NVIDIA RTX 5000 Ada Generation", (8, 9)),
        ("NVIDIA L4", (8, 9)),
        ("NVIDIA L40S", (8, 9)),
        ("NVIDIA H100 80GB HBM3", (9, 0)),
        ("NVIDIA H20", (9, 0)),
        ("NVIDIA GH200 480GB", (9, 0)),
        ("NVIDIA B200", (10, 0)),
        ("NVIDIA B300 SXM6 AC", (10, 3)),
        ("NVIDIA GeForce RTX 5090", (12, 0)),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", (12, 0)),
        ("a device of tomorrow", UNKNOWN_CAPABILITY),
    ],
)
def test_capability_by_name(device_kind: str, capability: tuple[int, int]) -> None:
    assert compute_capability(device_kind) == capability
