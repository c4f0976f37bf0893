"""Options of where trials run: workers on this machine or a cluster, hosts of one trial, the sandbox of both."""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoresearch_jax.commands.options import InRun, option
from autoresearch_jax.errors import UsageError
from autoresearch_jax.executors.places import ANYWHERE, Place, divide_devices, divide_processors, processor_cores
from autoresearch_jax.sandbox.sandbox import (
    CHOICES,
    DOCTOR,
    NO_LANDLOCK,
    Level,
    SandboxError,
    worker_level,
)
from autoresearch_jax.tasks.lm.device import Device, choose_platform
from autoresearch_jax.tasks.lm.hosts import Cluster, Hosts, find_cluster, open_hosts

AUTO, RAY = "auto", "ray"
UNCONFINED = (
    "the edited file runs with limits but not confined: it can read this machine's files; "
    "`autoresearch doctor` says how to get a sandbox, --sandbox=require refuses to run without"
)
UNCONFINED_TRIALS = (
    "the edited file is confined while it is traced, but the processes that run its programs are not: {why}; "
    "`autoresearch doctor` says more, --sandbox=require refuses to run so"
)
UNCONFINED_SNAPSHOT = (
    "the process that runs the snapshot's programs is not confined: {why}; `autoresearch doctor` says more, "
    "--sandbox=require refuses to run so"
)


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


def _tpu_chips(device: Device) -> int:
    """Chips that this process sees: some show two devices each."""
    files = [*Path("/dev").glob("accel[0-9]*")] or [*Path("/dev/vfio").glob("[0-9]*")]
    return math.gcd(len(files), device.num_devices) or 1


@dataclass(frozen=True)
class MeetingOptions:
    """How the hosts of one trial meet."""

    coordinator_address: str | None = option(
        None,
        "HOST:PORT of host 0, the same on all hosts; not needed under SLURM and on Cloud TPU, which tell it",
        in_run=InRun.MACHINE,
    )
    host_id: int | None = option(
        None,
        "number of this host; the loop runs on host 0; not needed under SLURM and on Cloud TPU, which tell it",
        least=0,
        in_run=InRun.MACHINE,
    )

    def __post_init__(self) -> None:
        address = self.coordinator_address
        if address is not None:
            host, _, port = address.rpartition(":")
            if not (host and port.isdecimal() and 0 < int(port) < 1 << 16):
                raise UsageError(f"--coordinator_address={address}: expected HOST:PORT, such as 10.0.0.2:8483")

    def meeting(self, platform: str = "auto") -> Cluster:
        """Where the hosts meet, and which of them this one is; 0 for their number where nothing tells it.

        Raises:
          UsageError: neither flags nor a cluster tell it.
        """
        if self.coordinator_address is not None and self.host_id is not None:
            return Cluster("", self.coordinator_address, self.host_id, 0)
        found = find_cluster(os.environ, ask_metadata=choose_platform(platform) == "tpu")
        if found is None:
            lacks = "--coordinator_address" if self.coordinator_address is None else "--host_id"
            raise UsageError(
                f"{lacks} is missing: neither SLURM nor Cloud TPU tells it: give --coordinator_address=HOST:PORT of "
                "host 0, and --host_id, 0 there, 1 and so on elsewhere"
            )
        host_id = found.host_id if self.host_id is None else self.host_id
        return Cluster(found.name, self.coordinator_address or found.address, host_id, found.num_hosts)


@dataclass(frozen=True)
class HostOptions(MeetingOptions):
    """The hosts of one trial."""

    num_hosts: int = option(
        1,
        "hosts whose devices make up the mesh of one trial; start the same command on each, the loop runs on host 0; "
        "see docs/guide/many-hosts.md",
        least=1,
        in_run=InRun.BOUND,
    )

    def place(self, platform: str) -> Cluster | None:
        """Where the hosts meet; None for a single one.

        Raises:
          UsageError: nothing tells it, or the cluster has another number of hosts.
        """
        if self.num_hosts == 1:
            return None
        meeting = self.meeting(platform)
        if meeting.num_hosts not in (0, self.num_hosts):
            raise UsageError(
                f"--num_hosts={self.num_hosts}: {meeting.name} started {meeting.num_hosts}: one process a host"
            )
        if meeting.host_id >= self.num_hosts:
            raise UsageError(f"--host_id={meeting.host_id}: --num_hosts={self.num_hosts} has 0 to {self.num_hosts - 1}")
        return meeting

    def open(self, platform: str, mesh_devices: int | None, workers: str) -> Hosts | None:
        """The other hosts; None for a single one.

        Args:
          platform: of --platform.
          mesh_devices: that --mesh asks for; None if it does not say.
          workers: of --workers.

        Raises:
          UsageError: they cannot have a mesh in common, or cannot meet.
        """
        meeting = self.place(platform)
        if meeting is None:
            return None
        if workers not in ("1", AUTO):
            raise UsageError(f"--num_hosts={self.num_hosts}: one trial has all devices: leave out --workers={workers}")
        if mesh_devices is not None and mesh_devices % self.num_hosts:
            raise UsageError(
                f"--mesh asks for {mesh_devices} devices, which --num_hosts={self.num_hosts} hosts cannot share equally"
            )
        return open_hosts(meeting.address, self.num_hosts, choose_platform(platform))


def sandbox_option() -> Any:
    """The option --sandbox."""
    return option(
        "auto",
        "what confines the edited file while it is traced, and the processes that run its programs: auto takes the "
        "best that works here, require the same but at least landlock, a name that one; `autoresearch doctor` tries "
        "them",
        choices=CHOICES,
        in_run=InRun.FREE,
    )


def confines_snapshots(choice: str) -> bool:
    """Whether, by a value of --sandbox, processes that run a snapshot's programs are confined; says so if not.

    Raises:
      SandboxError: they must be, and cannot.
    """
    if worker_level(choice) is not Level.LIMITS:
        return True
    if choice in ("require", Level.LANDLOCK):
        raise SandboxError(f"--sandbox={choice}: {NO_LANDLOCK}; {DOCTOR}")
    notice(UNCONFINED_SNAPSHOT.format(why=f"--sandbox={choice}" if choice == Level.LIMITS else NO_LANDLOCK))
    return False


def notice(text: str) -> None:
    """Tells the user on standard error."""
    print(f"autoresearch: {text}", file=sys.stderr, flush=True)
