"""Peaks by the names that JAX reports; no peak is better than a wrong one."""

import pytest

from autoresearch_jax.tasks.lm.hardware import peak_flops


@pytest.mark.parametrize(
    ("device_kind", "tflops"),
    [
        ("NVIDIA B200", 2250),
        ("NVIDIA H200", 989),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("Tesla T4", 65),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce RTX 5090", 210),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5e", 197),
        ("TPU v5", 459),
        ("TPU v5p", 459),
        ("TPU v6 lite", 918),
        ("TPU v6e", 918),
        ("TPU7x", 2307 / 2),  # a device is half a chip
    ],
)
def test_peak_of_a_known_device(device_kind: str, tflops: float) -> None:
    assert peak_flops(device_kind) == tflops * 1e12


@pytest.mark.parametrize(
    "device_kind",
    [
        "cpu",
        "",
        "NVIDIA H100 NVL",
        "NVIDIA H200 NVL",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
        "NVIDIA GB200",
        "NVIDIA A10",
        "NVIDIA A10G",
        "NVIDIA L40",
        "NVIDIA T400",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 5090 D",
        "TPU v2",
        "TPU v3",
        "TPU v4 lite",
        "TPU v7",
    ],
)
def test_an_unknown_device_has_no_peak(device_kind: str) -> None:
    assert peak_flops(device_kind) is None
