"""Measures the executor of a Ray cluster, with made-up trials on this machine; called by bench_workers.sh --ray.

The cluster is a head, which runs no trials, and three nodes of one place each, in a network namespace with only `lo`
(Ray replaces 127.0.0.1 by the machine's own address where it has one). A trial is a process that sleeps 2 s, so it
needs no processor. One node works alone first, then all three; at last one of them is killed in mid-trial.

The last lines:
  task_overhead_ms     wall time of a trial on one node beyond that of its process there (wanted: at most 100)
  ray_speedup_3        trials a second of three nodes over those of one (wanted: at least 2.7)
  ray_back_seconds     from the kill until its trial began again on another node (wanted: at most 15)
  lost_trials          trials around the kill that were not answered (wanted: 0)
  counted_twice        answers beyond one a trial (wanted: 0)
"""

import os
import platform
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench_workers import SECONDS, SleepingMeasurer, works

from autoresearch_jax.executors.base import Finished
from autoresearch_jax.executors.ray_ import RayExecutor, resource_name
from autoresearch_jax.executors.ray_node import Frame, conditions
from autoresearch_jax.types import Candidate, Measurement, Scalar

ALONE, TOGETHER, AROUND_A_KILL = 6, 18, 9  # trials
INSIDE = "BENCH_WORKERS_INSIDE"
NAMESPACE = ("unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child")
STORE_BYTES = 100 << 20
BEGAN, TOOK = "began_at", "took_seconds"


class NodeSleeper(SleepingMeasurer):
    """A task whose trials sleep, and tell when they began and how long they took."""

    fingerprint = "sleep"
    terms: Mapping[str, Scalar] = {"platform": "cpu", "device_kind": "a bed"}

    def measure(self, candidate: Candidate, **arguments: Any) -> Measurement:
        """See `Task.measure`."""
        began_at = time.time()
        measurement = super().measure(candidate, **arguments)
        return replace(measurement, metrics={BEGAN: began_at, TOOK: time.time() - began_at})


def open_sleeper(settings: Mapping[str, Any], files: Sequence[Frame], folder: Path) -> NodeSleeper:
    """Makes the task on a node."""
    return NodeSleeper()


def open_executor(address: str) -> RayExecutor:
    description = {"opener": "bench_workers_ray:open_sleeper", "settings": {}, "expects": conditions(NodeSleeper())}
    return RayExecutor(lambda: description, NodeSleeper.terms, address=address)


def submit(executor: RayExecutor, count: int, folder: Path) -> list[int]:
    """Hands trials over; returns their tickets."""
    return [
        executor.submit(replace(work, snapshot_dir=folder / str(work.seed))) for work in works(count, SECONDS, folder)
    ]


def answers(executor: RayExecutor) -> list[Finished]:
    """All that is out, as it comes."""
    found: list[Finished] = []
    with suppress(IndexError):
        while (finished := executor.next_finished()) is not None:
            found.append(finished)
    return found


def seconds_a_trial(executor: RayExecutor, count: int, folder: Path) -> tuple[float, float]:
    """Wall time over trials, and the mean time that a trial itself took."""
    began = time.monotonic()
    submit(executor, count, folder)
    found = answers(executor)
    seconds = (time.monotonic() - began) / count
    assert len(found) == count
    return seconds, sum(metric(one, TOOK) for one in found) / count


def metric(finished: Finished, name: str) -> float:
    return float(finished.result().metrics[name] or 0)


def measure(folder: Path) -> dict[str, float]:
    """The figures."""
    from ray.cluster_utils import Cluster

    common = {"object_store_memory": STORE_BYTES, "num_cpus": 1}
    place = {**common, "resources": {resource_name(NodeSleeper.terms): 1}}
    cluster = Cluster(initialize_head=True, head_node_args={**common, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(**place)]
        with closing(open_executor(cluster.address)) as executor:
            seconds_a_trial(executor, 2, folder)  # starts the node's process
            alone, took = seconds_a_trial(executor, ALONE, folder)
        nodes += [cluster.add_node(**place) for _ in range(2)]
        with closing(open_executor(cluster.address)) as executor:
            seconds_a_trial(executor, 6, folder)
            together, _ = seconds_a_trial(executor, TOGETHER, folder)
            tickets = submit(executor, AROUND_A_KILL, folder)
            assert executor.next_finished(SECONDS / 2) is None
            killed_at = time.time()
            cluster.remove_node(nodes[0], allow_graceful=False)
            found = answers(executor)
    finally:
        cluster.shutdown()
    began = {one.ticket: metric(one, BEGAN) for one in found}
    again = [began[ticket] - killed_at for ticket in tickets[: len(nodes)] if began[ticket] > killed_at]
    assert len(again) == 1, "one of those that ran was lost"
    return {
        "task_overhead_ms": 1000 * (alone - took),
        "ray_speedup_3": alone / together,
        "ray_back_seconds": again[0],
        "lost_trials": len(set(tickets) - began.keys()),
        "counted_twice": len(found) - len(began),
    }


def main() -> int:
    if find_spec("ray") is None:
        sys.exit("bench_workers: the package ray is missing: ./scripts/setup.sh ray")
    if os.environ.get(INSIDE):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        folder = Path(tempfile.mkdtemp(prefix="bench-"))
        try:
            figures = measure(folder)
            print(f"machine: {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
            for key, value in figures.items():
                print(f"{key}: {value:.3f}" if isinstance(value, float) else f"{key}: {value}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return 0
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as short:  # Ray's sockets lie in it
        variables = {INSIDE: "1", "RAY_TMPDIR": short, "RAY_worker_niceness": "0"}
        variables |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex()}
        command = [*NAMESPACE, sys.executable, __file__]
        return subprocess.run(command, env={**os.environ, **variables}).returncode


if __name__ == "__main__":
    sys.exit(main())
