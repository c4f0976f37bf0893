"""What to run on: the platform that is there, its devices, and the processes that may use them. Loads no JAX."""

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from autoresearch_jax.errors import UserError
from autoresearch_jax.sandbox.faults import variables_for_child
from autoresearch_jax.sandbox.process import JsonWorker, ProcessTimeoutError, WorkerDiedError
from autoresearch_jax.tasks.lm.accounting import quota_cpus
from autoresearch_jax.tasks.lm.clock import WALL
from autoresearch_jax.tasks.lm.hardware import host_processors
from autoresearch_jax.tasks.lm.platforms import platform_variables
from autoresearch_jax.types import Budget, Scalar

PROBE_SECONDS = 120.0  # an accelerator that has not answered by then does not work
TRIAL_WORKER = "autoresearch_jax.tasks.lm.worker"
WAITING_WORKER = "autoresearch_jax.tasks.lm.waiting"  # the same, but it waits to be told for which trial


class DeviceError(UserError):
    """The accelerator asked for does not answer; the message names the flag and the log."""


@dataclass(frozen=True)
class Device:
    """What to run on; found out by `find_device`.

    Attributes:
      platform: "cpu", "cuda" or "tpu".
      device_kind: the device's own name.
      num_devices: how many JAX sees.
      memory_bytes: of one device; None where it is not known.
    """

    platform: str
    device_kind: str
    num_devices: int
    memory_bytes: int | None


def find_device(platform: str, mesh_devices: int, environment: Mapping[str, str], log_path: Path) -> Device:
    """What to run on.

    Args:
      platform: "cpu", "cuda", "tpu", or "auto" for the accelerator whose device files are there, else the CPU.
      mesh_devices: devices the mesh asks for; a CPU shows as many host devices.
      environment: variables of this process.
      log_path: for the output of the process that asks the accelerator.

    Raises:
      DeviceError: the accelerator does not answer.
    """
    platform = choose_platform(platform)
    if platform == "cpu":
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Device("cpu", "cpu", mesh_devices, memory_bytes)
    worker = start_worker(platform, 1, log_path, environment=environment, compile_cache_dir=None)
    try:
        worker.receive(PROBE_SECONDS)  # that it is ready
        worker.send({"op": "devices"})
        event = worker.receive(PROBE_SECONDS)
    except (ProcessTimeoutError, WorkerDiedError) as error:
        raise DeviceError(f"--platform={platform}: {error}; see {log_path}, or use --platform=cpu") from error
    finally:
        worker.close()
    if event["event"] == "failed":
        reason = event["reason"].strip().rstrip(":")  # JAX may say no more than the name of an exception
        raise DeviceError(
            f"--platform={platform}: JAX finds no such device ({reason}; see {log_path}): `autoresearch doctor` says "
            "what to install, or use --platform=cpu"
        )
    return Device(event["platform"], event["device_kind"], event["num_devices"], event["device_memory_bytes"])


def device_terms(device: Device, mesh_axes: Mapping[str, int], budget: Budget, clock: str) -> dict[str, Scalar]:
    """What of the machine a score depends on; scores of other devices are never compared.

    Args:
      device: what trials run on.
      mesh_axes: sizes of the mesh axes "data" and "model".
      budget: of a trial.
      clock: by which a budget in seconds is counted.
    """
    return {
        "platform": device.platform,
        "device_kind": _processors() if device.platform == "cpu" else device.device_kind,
        "num_devices": math.prod(mesh_axes.values()),
        "mesh": ",".join(f"{name}={size}" for name, size in mesh_axes.items()),
        "jax_version": version("jax"),
        "clock": clock if budget.steps is None else WALL,
    }


def _processors() -> str:
    quota = quota_cpus()
    return host_processors() + ("" if quota is None else f", a quota of {quota:g}")


def start_worker(
    platform: str,
    num_devices: int,
    log_path: Path,
    *,
    environment: Mapping[str, str],
    compile_cache_dir: Path | None,
    module: str = TRIAL_WORKER,
) -> JsonWorker:
    """Starts a trial process for `platform`; a CPU is made to show `num_devices` devices.

    It runs our code only, so it inherits everything: an accelerator's runtime is told by many a variable.
    """
    extra = platform_variables(platform, num_devices, environment, compile_cache_dir)
    return JsonWorker(
        [sys.executable, "-m", module],
        environment={**environment, **variables_for_child(environment), **extra},
        cwd=log_path.parent,
        log_path=log_path,
    )


def choose_platform(choice: str) -> str:
    """The platform of a value of --platform; "auto" is decided by the device files."""
    if choice != "auto":
        return choice
    if Path("/dev/nvidia0").exists():
        return "cuda"
    if any(Path("/dev").glob("accel[0-9]*")) or any(Path("/dev/vfio").glob("[0-9]*")):
        return "tpu"
    return "cpu"
