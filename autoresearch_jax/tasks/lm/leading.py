"""Several hosts as one mesh, seen from process 0: it runs the trial, and tells the others what to run with it.

A step takes its progress, which only the clock of process 0 knows. So process 0 sends progress and rows to each host
before it hands the step to its own devices, over connections beside XLA's: no collective, and no host waits, since the
step before is still at work. What is not announced is not run, so training ends everywhere with the last step that was.
The other side is `following.py`.
"""

import functools
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from autoresearch_jax.sanitize import quoted
from autoresearch_jax.tasks.lm.channel import Channel, Gathering
from autoresearch_jax.tasks.lm.config import TrialFailedError
from autoresearch_jax.types import Status

HEARTBEAT_SECONDS = 15  # without one, JAX ends the processes of all hosts
JOIN_SECONDS = 60  # until all hosts' processes must have met
INIT, PUT, STEP, COLLECT, SCORE = "init", "put", "step", "collect", "score"  # what is announced
COMPILED, FAILED = "compiled", "failed"  # what a host answers, once


def join(gathering: Gathering) -> None:
    """Makes this process one of the hosts' that share a mesh, before JAX looks at any device."""
    jax.distributed.initialize(
        gathering.coordinator,
        gathering.num_hosts,
        gathering.host_id,
        cluster_detection_method="deactivate",  # the hosts have found each other
        initialization_timeout=JOIN_SECONDS,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    )


def spread(rows: np.ndarray, sharding: NamedSharding, num_rows: int, first: int) -> jax.Array:
    """An array of all hosts, sharded by rows, of which this process has those from `first` that its devices need."""

    def shard(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(num_rows)
        return rows[start - first : stop - first]

    return jax.make_array_from_callback((num_rows, *rows.shape[1:]), sharding, shard)


def replicate(leaf: jax.Array) -> jax.Array:
    """An array of all hosts as each of them has it in whole; to be called on all hosts."""
    assert isinstance(leaf.sharding, NamedSharding)
    return _replicator(NamedSharding(leaf.sharding.mesh, PartitionSpec()))(leaf)


@functools.cache
def _replicator(whole: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    """Compiles once for all leaves of one shape."""
    return jax.jit(lambda leaf: leaf, out_shardings=whole)


class Lead:
    """What process 0 tells the other hosts; without them nothing is told, and arrays are those of one process."""

    def __init__(self, channels: Mapping[int, Channel]) -> None:
        """Takes a connection for each other host, by its number."""
        self._channels = channels

    @classmethod
    def gather(cls, gathering: Gathering) -> "Lead":
        """Joins the hosts, and waits for a connection from each.

        Raises:
          RuntimeError: they have not come in time.
        """
        channels: dict[int, Channel] = {}
        port = int(gathering.stream.rpartition(":")[2])
        with socket.create_server(("", port)) as server:
            join(gathering)
            server.settimeout(JOIN_SECONDS)
            while len(channels) < gathering.num_hosts - 1:
                try:
                    channel = Channel(server.accept()[0])
                    hello, _ = channel.receive(JOIN_SECONDS)
                except OSError as error:
                    missing = sorted(set(range(1, gathering.num_hosts)) - set(channels))
                    raise RuntimeError(f"no process of host {missing[0]} has come: {error}") from error
                if hello.get("token") == gathering.token:  # else a stranger
                    channels[hello["host_id"]] = channel
        return cls(channels)

    def wait_compiled(self) -> None:
        """Waits until each host has compiled its programs, so that none of it is timed as another's work.

        Raises:
          TrialFailedError: one could not.
        """
        for host_id, channel in self._channels.items():
            try:
                answer, _ = channel.receive()
            except OSError as error:
                raise _lost(host_id, error) from error
            if answer["event"] != COMPILED:
                raise TrialFailedError(Status.CRASH, f"host {host_id}: {quoted(answer['reason'])}")

    def put(self, sharding: NamedSharding, rows: np.ndarray) -> jax.Array:
        """Moves rows to the devices of all hosts, to be used by what is announced next."""
        if not self._channels:
            return jax.device_put(rows, sharding)
        for host_id in self._channels:
            first, last = _rows_of(sharding, len(rows), host_id)
            self._send(host_id, {"run": PUT, "num_rows": len(rows), "first": first}, rows[first:last])
        return spread(rows, sharding, len(rows), 0)

    def init(self, compiled: Callable[..., Any], key_data: np.ndarray) -> Any:
        """The initial state's arrays."""
        self.announce(INIT, key_data=key_data.tolist())
        return compiled(key_data)

    def step(self, phase: int, compiled: Callable[..., Any], leaves: Any, tokens: jax.Array, progress: Any) -> Any:
        """Runs a step of a phase on tokens that were `put` before."""
        self.announce(STEP, phase=phase, progress=float(progress))
        return compiled(leaves, tokens, progress)

    def collect(self, leaves: Sequence[jax.Array], indices: Sequence[int]) -> Sequence[Any]:
        """The leaves, those of `indices` in the memory of this process."""
        if not self._channels:
            return leaves
        self.announce(COLLECT, indices=list(indices))
        return [np.asarray(replicate(leaf)) if index in indices else leaf for index, leaf in enumerate(leaves)]

    def announce(self, run: str, **values: Any) -> None:
        """Tells each host what this process runs next; raises TrialFailedError for a host that is gone."""
        for host_id in self._channels:
            self._send(host_id, {"run": run, **values})

    def _send(self, host_id: int, message: Mapping[str, Any], *arrays: np.ndarray) -> None:
        try:
            self._channels[host_id].send(message, *arrays)
        except OSError as error:
            raise _lost(host_id, error) from error

    def close(self) -> None:
        """Has the other hosts' processes end."""
        for channel in self._channels.values():
            channel.close()


ALONE = Lead({})


def _lost(host_id: int, error: OSError) -> TrialFailedError:
    return TrialFailedError(Status.CRASH, f"host {host_id} is lost: {error}")


@functools.lru_cache
def _rows_of(sharding: NamedSharding, num_rows: int, host_id: int) -> tuple[int, int]:
    """The first row that a host's devices need, and the one after the last."""
    indices = sharding.devices_indices_map((num_rows,))
    devices: Any = indices.items()
    bounds = [index[0].indices(num_rows) for device, index in devices if device.process_index == host_id]
    return min(bound[0] for bound in bounds), max(bound[1] for bound in bounds)
