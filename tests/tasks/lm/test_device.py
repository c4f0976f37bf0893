"""Peaks by the names that JAX reports, and the environment of a trial's process."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from autoresearch_jax.tasks.lm import device as devices
from autoresearch_jax.tasks.lm.device import (
    CUDA_HOSTS_FLAGS,
    CUDA_MESH_FLAGS,
    GLIBC_TUNABLES,
    GPU_MEMORY_SHARE,
    TPU_MESH_FLAGS,
    Device,
    DeviceError,
    find_device,
    find_trial_device,
    peak_flops,
    platform_variables,
    start_worker,
    training_options,
)

PEAKS = {
    2250: "NVIDIA B200",
    989: "NVIDIA H200|NVIDIA GH200 480GB|NVIDIA H100 80GB HBM3",
    756: "NVIDIA H100 PCIe",
    312: "NVIDIA A100-SXM4-40GB|NVIDIA A100-SXM4-80GB|NVIDIA A100-PCIE-40GB|NVIDIA A100 80GB PCIe",
    362: "NVIDIA L40S",
    121: "NVIDIA L4",
    65: "Tesla T4",
    165: "NVIDIA GeForce RTX 4090",
    210: "NVIDIA GeForce RTX 5090",
    275: "TPU v4",
    197: "TPU v5 lite|TPU v5e",
    459: "TPU v5|TPU v5p",
    918: "TPU v6 lite|TPU v6e",
    2307 / 2: "TPU7x",  # a device is half a chip
}
WITHOUT_PEAK = (
    "cpu||NVIDIA H100 NVL|NVIDIA H200 NVL|NVIDIA H100 80GB HBM3 MIG 1g.10gb|NVIDIA A100-SXM4-40GB MIG 3g.20gb"
    "|NVIDIA GB200|NVIDIA A10|NVIDIA A10G|NVIDIA L40|NVIDIA T400|NVIDIA GeForce RTX 4090 Laptop GPU"
    "|NVIDIA GeForce RTX 5090 D|TPU v2|TPU v3|TPU v4 lite|TPU v7"
)


def test_peaks_of_devices() -> None:
    for tflops, names in PEAKS.items():
        for device_kind in names.split("|"):
            assert peak_flops(device_kind) == tflops * 1e12, device_kind
    for device_kind in WITHOUT_PEAK.split("|"):
        assert peak_flops(device_kind) is None, device_kind


def variables(
    platform: str, num_devices: int = 1, environment: Mapping[str, str] | None = None, cache: Path | None = None
) -> dict[str, str]:
    return platform_variables(platform, num_devices, environment or {}, cache)


def test_a_cpu_shows_the_mesh_s_devices() -> None:
    found = variables("cpu", 8, {"XLA_FLAGS": "--xla_dump_to=x --xla_force_host_platform_device_count=2"})
    assert found["JAX_PLATFORMS"] == "cpu"
    assert found["XLA_FLAGS"].startswith("--xla_dump_to=x ")
    assert found["XLA_FLAGS"].endswith(" --xla_force_host_platform_device_count=8")
    assert found["GLIBC_TUNABLES"] == GLIBC_TUNABLES

    for own in ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_"):  # memory is the user's to set
        assert "GLIBC_TUNABLES" not in variables("cpu", 1, {own: "mine"})
    # `verify` compiles what judges in a process without these variables, and compares with what a trial found
    assert variables("cpu", 1)["XLA_FLAGS"] == "--xla_force_host_platform_device_count=1"


def test_options_of_training_fold_no_constants_and_leave_the_user_s_own() -> None:
    unfolded = {"xla_disable_hlo_passes": "constant_folding"}
    assert training_options("cpu", {}) == {"xla_cpu_prefer_vector_width": "512", **unfolded}
    assert training_options("cpu", {"XLA_FLAGS": "--xla_dump_to=x --xla_cpu_prefer_vector_width=128"}) == unfolded
    assert training_options("cuda", {}) == training_options("tpu", {}) == unfolded
    own = {"XLA_FLAGS": "--xla_disable_hlo_passes=cse --xla_dump_to=x --xla_disable_hlo_passes=algsimp,dce"}
    assert training_options("cuda", own) == {"xla_disable_hlo_passes": "algsimp,dce,constant_folding"}


def test_a_gpu_gives_a_trial_nearly_all_of_its_memory() -> None:
    assert variables("cuda")["XLA_PYTHON_CLIENT_MEM_FRACTION"] == GPU_MEMORY_SHARE
    assert variables("cuda", 1, {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"})["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.5"


@pytest.mark.parametrize(
    ("platform", "variable", "flags"),
    [("cuda", "XLA_FLAGS", CUDA_MESH_FLAGS), ("tpu", "LIBTPU_INIT_ARGS", TPU_MESH_FLAGS)],
)
def test_flags_of_several_devices(platform: str, variable: str, flags: tuple[str, ...]) -> None:
    assert variable not in variables(platform)
    assert variables(platform, 1, {variable: "--mine=1"})[variable] == "--mine=1"
    assert variables(platform, 4)[variable].split() == list(flags)
    on_two_hosts = platform_variables(platform, 1, {}, None, num_hosts=2)
    assert on_two_hosts[variable].split() == [*flags, *(CUDA_HOSTS_FLAGS if platform == "cuda" else ())]
    assert "NCCL_SOCKET_IFNAME" not in on_two_hosts, "the loopback leads to no other host"
    own = f"--mine=1 {flags[0].replace('true', 'false')}"
    assert variables(platform, 4, {variable: own})[variable].split() == [*flags[1:], *own.split()]


@pytest.mark.slow
def test_xla_knows_the_flags() -> None:
    """It ends the process of a flag that it does not know."""

    def starts(*flags: str) -> bool:
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags)}
        command = [sys.executable, "-c", "import jax; jax.devices()"]
        return subprocess.run(command, env=environment, capture_output=True).returncode == 0

    assert starts(*CUDA_MESH_FLAGS, *CUDA_HOSTS_FLAGS)
    assert not starts("--xla_gpu_no_such_flag=1")


def test_a_worker_is_started_with_them(tmp_path: Path) -> None:
    module = tmp_path / "tells_variables.py"
    module.write_text("import json, os; print(json.dumps({'variables': dict(os.environ)}), flush=True)\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "LIBTPU_INIT_ARGS": "--mine=1"}
    worker = start_worker(
        "tpu",
        4,
        tmp_path / "log",
        environment=environment,
        compile_cache_dir=tmp_path / "cache",
        module=("tells_variables",),
        reach=None,
    )
    try:
        told = worker.receive(30)["variables"]
    finally:
        worker.close()
    assert told["LIBTPU_INIT_ARGS"] == " ".join([*TPU_MESH_FLAGS, "--mine=1"])
    assert told["JAX_PLATFORMS"] == "tpu"
    assert told["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "cache")


@pytest.mark.parametrize(
    ("answers", "is_confined"),
    [([True], True), ([False, True, True], True), ([False, True, False], False), ([False, False], None)],
    ids=["at once", "after it was busy", "without walls only", "never"],
)
def test_walls_are_given_up_only_if_the_device_answers_without_and_twice_not_within(
    answers: list[bool], is_confined: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device("cuda", "NVIDIA L4", 1, None)
    asked: list[bool] = []

    def find(*words: object, confined: bool = False, **keywords: object) -> Device:
        asked.append(confined)
        if not answers[len(asked) - 1]:
            raise DeviceError("--platform=cuda: it did not answer within 120 s")
        return device

    monkeypatch.setattr(devices, "find_device", find)
    if is_confined is None:
        with pytest.raises(DeviceError):
            find_trial_device("cuda", None, {}, tmp_path / "log", confined=True)
    else:
        assert find_trial_device("cuda", None, {}, tmp_path / "log", confined=True) == (device, is_confined)
    assert asked == [True, False, True][: len(answers)]


def test_an_accelerator_is_asked_by_a_process_for_the_whole_mesh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def start(platform: str, num_devices: int, *words: object, **keywords: object) -> None:
        started.append(num_devices)
        raise DeviceError("there is none")

    monkeypatch.setattr(devices, "start_worker", start)
    for mesh_devices in (4, None):
        with pytest.raises(DeviceError):
            find_device("cuda", mesh_devices, {}, tmp_path / "log")
    assert started[0] == 4
    assert started[1] == max(1, len(list(Path("/dev").glob("nvidia[0-9]*"))))
