"""The option --workers: how many trials run at the same time, where on this machine, and what carries them out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoresearch_jax.commands.options import InRun, option
from autoresearch_jax.engine.task import PlaceableTask, Task
from autoresearch_jax.errors import UsageError
from autoresearch_jax.executors.base import Executor, LocalExecutor
from autoresearch_jax.executors.places import ANYWHERE, Place, divide_devices, divide_processors, processor_cores
from autoresearch_jax.executors.pool import PoolExecutor
from autoresearch_jax.tasks.lm.device import Device

AUTO, RAY = "auto", "ray"


@dataclass(frozen=True)
class WorkerOptions:
    """How many trials run at the same time."""

    workers: str = option(
        AUTO,
        "trials at the same time, each on a GPU or TPU chip of its own, on a CPU on as many cores each; auto: one for "
        "each GPU or chip, one in all on a CPU or with a --mesh of several devices; ray: as many as the nodes of a Ray "
        "cluster take; a search has at most 8 in flight, see docs/guide/many-workers.md",
        in_run=InRun.FREE,
    )
    ray_address: str = option(
        AUTO,
        "for --workers=ray: the cluster, HOST:PORT or ray://HOST:PORT; auto takes that of $RAY_ADDRESS or this machine",
        in_run=InRun.MACHINE,
    )

    def __post_init__(self) -> None:
        if self.workers not in (AUTO, RAY) and not (self.workers.isdecimal() and int(self.workers) >= 1):
            raise UsageError(f"--workers={self.workers}: expected a number from 1, auto or ray")

    @property
    def unused(self) -> list[str]:
        """Flags that have no use without --workers=ray."""
        return [] if self.on_ray else ["ray_address"]

    @property
    def on_ray(self) -> bool:
        """Whether trials run on a cluster."""
        return self.workers == RAY

    @property
    def number(self) -> int | None:
        """How many on this machine; None for one each GPU or TPU chip."""
        if self.on_ray:
            return 1
        return None if self.workers == AUTO else int(self.workers)

    def processor_places(self) -> Sequence[Place]:
        """What of this machine's processors each worker has.

        Raises:
          UsageError: there are fewer cores than workers.
        """
        number = self.number or 1
        return [ANYWHERE] if number == 1 else divide_processors(number, processor_cores())

    def divide(
        self, device: Device, environment: Mapping[str, str], mesh_size: int | None
    ) -> tuple[Sequence[Place], Device]:
        """What of this machine each worker has, and of a device what one of them has.

        Args:
          device: what there is, for all of them.
          environment: variables of this process.
          mesh_size: devices of --mesh; None without the flag.

        Raises:
          UsageError: there are fewer devices than workers, or a worker has fewer devices than the mesh.
        """
        is_undivided = self.number is None and (device.num_devices == 1 or (mesh_size or 1) > 1)
        if self.number == 1 or is_undivided:
            return [ANYWHERE], device
        places, own = self._divide(device, environment)
        if mesh_size is not None and mesh_size > own.num_devices:
            raise UsageError(
                f"--mesh asks for {mesh_size} devices, and each of --workers={self.workers} has {own.num_devices}: "
                "leave one of them out"
            )
        return places, own

    def _divide(self, device: Device, environment: Mapping[str, str]) -> tuple[Sequence[Place], Device]:
        if device.platform == "cpu":
            places = self.processor_places()
            memory = device.memory_bytes
            return places, replace(device, memory_bytes=memory and memory // len(places))
        count = device.num_devices if device.platform == "cuda" else _tpu_chips(device)
        places = divide_devices(self.number, device.platform, count, environment)
        return places, replace(device, num_devices=device.num_devices // count)


def make_executor(task: Task) -> Executor:
    """What carries out the trials of a task: in this thread, or beside each other where its machine is divided."""
    others = task.other_places if isinstance(task, PlaceableTask) else ()
    if not others:
        return LocalExecutor(task.measure)
    assert isinstance(task, PlaceableTask)
    return PoolExecutor([task, *(task.at(place) for place in others)])


def _tpu_chips(device: Device) -> int:
    """Chips that this process sees: some show two devices each."""
    files = [*Path("/dev").glob("accel[0-9]*")] or [*Path("/dev/vfio").glob("[0-9]*")]
    return math.gcd(len(files), device.num_devices) or 1
