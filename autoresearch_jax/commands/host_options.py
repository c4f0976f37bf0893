"""Options of trials on several hosts: how many there are, and how they meet."""

import os
from dataclasses import dataclass

from autoresearch_jax.commands.options import InRun, option
from autoresearch_jax.commands.worker_options import AUTO
from autoresearch_jax.errors import UsageError
from autoresearch_jax.tasks.lm.cluster import Cluster, find_cluster
from autoresearch_jax.tasks.lm.device import choose_platform
from autoresearch_jax.tasks.lm.hosts import Hosts, open_hosts


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
