"""What --platform finds to run on, asked in a trial process of its own: this one never loads JAX."""

import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from autoresearch_jax.commands.checks.check import Check
from autoresearch_jax.commands.checks.jax import PLUGINS, installed
from autoresearch_jax.sandbox.process import ProcessTimeoutError, WorkerDiedError
from autoresearch_jax.tasks.lm.device import (
    PROBE_SECONDS,
    Device,
    DeviceError,
    find_device,
    host_processors,
    start_worker,
)

_GIGABYTE = 1e9


class _CpuError(DeviceError):
    """A trial process does not even run on the CPU."""


def check_devices(
    platform: str, mesh_axes: Mapping[str, int] | None, environment: Mapping[str, str]
) -> Iterator[Check]:
    """Processors, memory, the devices of a platform, and whether a trial process starts.

    Args:
      platform: value of --platform.
      mesh_axes: of --mesh; None without one.
      environment: of this process.
    """
    yield Check("cores", host_processors())
    yield Check("ram", _gigabytes(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))
    mesh_size = math.prod((mesh_axes or {}).values())
    start = time.monotonic()
    try:
        with log_of_failure() as log_path:
            device = _ask(platform, mesh_size, environment, log_path)
    except DeviceError as error:
        outcome = str(error).split("; ")[0].rstrip(": ")  # what follows is said better where more is known
        outcome += ")" * (outcome.count("(") - outcome.count(")"))
        yield Check("devices", outcome, is_ok=False, remedy=_remedy(platform, error, log_path))
        return
    seconds = time.monotonic() - start
    yield Check("platform", device.platform if platform != "auto" else f"{device.platform}, found by --platform=auto")
    yield _enough(device, mesh_size)
    yield Check("device_memory", "not known" if device.memory_bytes is None else _gigabytes(device.memory_bytes))
    yield Check("trial_process", f"starts, and answered within {seconds:.1f} s")


def _ask(platform: str, mesh_size: int, environment: Mapping[str, str], log_path: Path) -> Device:
    """Starts a trial process, and has it take hold of its devices.

    Raises:
      DeviceError: it does not start, or they do not answer.
    """
    device = find_device(platform, mesh_size, environment, log_path)
    if device.platform != "cpu":  # else no process was asked
        return device
    worker = start_worker("cpu", mesh_size, log_path, environment=environment, compile_cache_dir=None)
    try:
        worker.receive(PROBE_SECONDS)  # that it is ready
        worker.send({"op": "devices"})  # XLA reads its flags only now
        event = worker.receive(PROBE_SECONDS)
    except (ProcessTimeoutError, WorkerDiedError) as error:
        raise _CpuError(f"no trial process starts: {error}") from error
    finally:
        worker.close()
    if event["event"] == "failed":
        raise _CpuError(f"a trial process finds no CPU: {event['reason']}")
    return device


def _enough(device: Device, mesh_size: int) -> Check:
    there = f"{device.num_devices} x {device.device_kind}"
    if mesh_size <= device.num_devices:
        return Check("devices", there)
    remedy = f"--mesh=data={device.num_devices}, or no --mesh at all"
    return Check("devices", f"{there}, and --mesh asks for {mesh_size}", is_ok=False, remedy=remedy)


def _remedy(platform: str, error: DeviceError, log_path: Path) -> str:
    if isinstance(error, _CpuError):
        return f"the reason stands at the end of {log_path}; jax_variables names what steers JAX"
    extras = [extra for extra in PLUGINS.values() if platform == "auto" or extra.startswith(platform)]
    lacking = not any(installed(name) for name, extra in PLUGINS.items() if extra in extras)
    install = f"./scripts/setup.sh {' or '.join(extras)} installs JAX's plugin, " if lacking else ""
    return f"{install}--platform=cpu goes without; the reason stands at the end of {log_path}"


@contextmanager
def log_of_failure() -> Iterator[Path]:
    """A file for a log, which stays behind only if it is needed: for a DeviceError."""
    folder = Path(tempfile.mkdtemp(prefix="autoresearch-doctor-"))
    try:
        yield folder / "worker.log"
    except DeviceError:
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _gigabytes(size: float) -> str:
    return f"{size / _GIGABYTE:.1f} GB"
