"""How the hosts of one job find each other, as `jax.distributed` does it: under SLURM and on Cloud TPU. Loads no JAX.

The same command is started on every host: by `srun` with one task a node, or on all workers of a TPU slice.
"""

import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

PORT = 8483  # of host 0 where no job's number gives one; JAX's own on TPUs is 8482
SLURM_PORTS, NUM_SLURM_PORTS = 61440, 4096  # two jobs of one node take two of these, as JAX does it
METADATA_SECONDS = 5.0
_METADATA = "http://{}/computeMetadata/v1/instance/attributes/{}"


@dataclass(frozen=True)
class Cluster:
    """What a cluster says of this process's job.

    Attributes:
      name: of the cluster.
      address: HOST:PORT of host 0.
      host_id: of this host, from 0.
      num_hosts: in all.
    """

    name: str
    address: str
    host_id: int
    num_hosts: int


def find_cluster(environment: Mapping[str, str], *, ask_metadata: bool) -> Cluster | None:
    """The cluster that this process was started by; None where there is none.

    Args:
      environment: variables of this process.
      ask_metadata: whether Google Cloud's metadata service may be asked: only where there are TPUs.
    """
    if "SLURM_JOB_ID" in environment and "SLURM_STEP_NODELIST" in environment:
        port = SLURM_PORTS + int(environment["SLURM_JOB_ID"]) % NUM_SLURM_PORTS
        first = first_node(environment["SLURM_STEP_NODELIST"])
        host_id, number = int(environment["SLURM_PROCID"]), int(environment["SLURM_NTASKS"])
        return Cluster("SLURM", f"{first}:{port}", host_id, number)
    names, host_id_text = environment.get("TPU_WORKER_HOSTNAMES"), environment.get("TPU_WORKER_ID")
    if ask_metadata and not (names and host_id_text):
        address = environment.get("GCE_METADATA_IP", "metadata.google.internal")
        names, host_id_text = _ask(address, "worker-network-endpoints"), _ask(address, "agent-worker-number")
    if not (names and host_id_text and host_id_text.isdecimal()):
        return None
    hosts = [name.split(":")[-1] for name in names.split(",")]  # a name, or name:number:address
    return Cluster("Cloud TPU", f"{hosts[0]}:{PORT}", int(host_id_text), len(hosts))


def first_node(nodes: str) -> str:
    """The first of SLURM's list of nodes, such as node001 of node[001-004,007],other."""
    found = re.match(r"([^,\[]+)(?:\[([^-,\]]+))?", nodes)
    return "" if found is None else found[1] + (found[2] or "")


def _ask(address: str, name: str) -> str | None:
    request = urllib.request.Request(_METADATA.format(address, name), headers={"Metadata-Flavor": "Google"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=METADATA_SECONDS) as answer:
            return str(answer.read().decode()).strip()
    except (OSError, urllib.error.URLError, ValueError):
        return None
