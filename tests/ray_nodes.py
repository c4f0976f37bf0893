"""A Ray cluster on this machine in a network of its own, and what its nodes open in tests of the executor."""

import os
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from executor_contract import WAYS, ProcessMeasurer, Trials
from marked_processes import MARK

from autoresearch_jax.executors.ray_ import RayExecutor, resource_name
from autoresearch_jax.executors.ray_node import Frame, conditions
from autoresearch_jax.types import Scalar

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}
FILES = [("task/file", 0o644, b"of the task")]
INSIDE = "RAY_TEST_INSIDE"  # set in the network of the cluster
# Ray replaces 127.0.0.1 by the machine's own address where it has one
NAMESPACE = ("unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child")
WAYS["wait"] = f"while [ ! -e ${MARK}/go ]; do sleep 0.05; done; {WAYS['answer']}"


def run_inside(command: Sequence[str], ray_folder: Path) -> "subprocess.CompletedProcess[str]":
    """Runs a command where there is no network but `lo`; Ray's sockets lie in `ray_folder`, whose path is short.

    A token is set, since a `ray.init()` that starts a cluster leaves one in the home.
    """
    variables = {
        INSIDE: "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "RAY_TMPDIR": str(ray_folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(),
        "RAY_worker_niceness": "0",  # else trials wait for all other work on this machine
        "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "300",
    }
    words = [*NAMESPACE, "sh", "-c", 'ip link set lo up && exec "$0" "$@"', *command]
    return subprocess.run(words, env={**os.environ, **variables}, capture_output=True, text=True)


def add_node(cluster: "Cluster", terms: Mapping[str, Scalar]) -> Any:
    """Adds a node that can run one trial."""
    return cluster.add_node(**NODE, resources={resource_name(terms): 1})


class NodeMeasurer(ProcessMeasurer):
    """A task of real processes."""

    fingerprint = "a fingerprint"
    terms: Mapping[str, Scalar] = {"platform": "cpu", "device_kind": "a fake", "jax_version": "1"}


def open_measurer(settings: Mapping[str, Any], files: Sequence[Frame], folder: Path) -> NodeMeasurer:
    """Makes the task on a node."""
    assert [frame[2] for frame in files] == [b"of the task"]
    return NodeMeasurer()


def describe(**changed: Scalar) -> dict[str, Any]:
    """How a node makes the task; conditions that differ from the driver's own."""
    expects = {**conditions(NodeMeasurer()), **changed}
    return {"opener": f"{__name__}:open_measurer", "settings": {}, "expects": expects}


def drive(address: str, folder: str) -> list[float | None]:
    """What the trials of another driver come to, whose seeds are 101 to 104."""
    executor = RayExecutor(describe, NodeMeasurer.terms, address=address, files=FILES)
    trials = Trials(executor, Path(folder), seed=100)
    tickets = [trials.submit("answer") for _ in range(4)]
    found = {one.ticket: one.result().value for one in (trials.next() for _ in tickets)}
    executor.close()
    return [found[ticket] for ticket in tickets]
