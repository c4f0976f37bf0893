"""Hosts that find each other: what SLURM's variables, a TPU's, and Google's metadata service say."""

import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from autoresearch_jax.tasks.lm.hosts import Cluster, find_cluster, first_node

ATTRIBUTES = {"worker-network-endpoints": "a:0:10.0.0.2,b:1:10.0.0.3", "agent-worker-number": "1"}


class Metadata(BaseHTTPRequestHandler):
    """The metadata service, as far as it is asked."""

    def do_GET(self) -> None:
        text = ATTRIBUTES.get(self.path.rpartition("/")[2], "")
        self.send_response(200 if text and self.headers["Metadata-Flavor"] == "Google" else 404)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *words: object) -> None:
        """Says nothing."""


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("node1", "node1"), ("node1,b", "node1"), ("node[001-4],b", "node001"), ("node[001,7-9],b", "node001")],
)
def test_the_first_node_of_a_list(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


@pytest.mark.parametrize(
    ("environment", "cluster"),
    [
        (
            {"SLURM_JOB_ID": "4099", "SLURM_STEP_NODELIST": "n[7-8]", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"},
            Cluster("SLURM", "n7:61443", 1, 2),
        ),
        ({"SLURM_JOB_ID": "4099"}, None),  # no step of srun
        ({"TPU_WORKER_HOSTNAMES": "t0,t1,t2", "TPU_WORKER_ID": "2"}, Cluster("Cloud TPU", "t0:8483", 2, 3)),
        ({}, None),
    ],
)
def test_variables_name_the_hosts(environment: Mapping[str, str], cluster: Cluster | None) -> None:
    assert find_cluster(environment, ask_metadata=False) == cluster


def test_the_metadata_service_names_the_hosts_of_a_tpu() -> None:
    server = HTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}"}
    assert find_cluster(environment, ask_metadata=True) == Cluster("Cloud TPU", "10.0.0.2:8483", 1, 2)
    server.shutdown()
    server.server_close()
    assert find_cluster(environment, ask_metadata=True) is None
