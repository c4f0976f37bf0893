"""A trial on two hosts, which are two processes here that meet over loopback, and what names them in a cluster."""

import contextlib
import csv
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from lm_trials import MakeTask, measure_in
from marked_processes import comes_true
from train_lib_source import tiny_source_text

from autoresearch_jax.errors import UsageError
from autoresearch_jax.sandbox.accounting import descendants
from autoresearch_jax.tasks.lm.channel import Channel
from autoresearch_jax.tasks.lm.device import Device, device_terms
from autoresearch_jax.tasks.lm.hosts import Cluster, Hosts, find_cluster, first_node, free_ports, silent_hosts, versions
from autoresearch_jax.tasks.lm.measure import LOSS_CURVE_FILE
from autoresearch_jax.types import (
    HOLDOUT_SCORE,
    Budget,
    CandidateUntouched,
    Measurement,
    Scalar,
    Scrutiny,
    Status,
    TermsChanged,
)

MESH, CPU = {"data": 4, "model": 1}, Device("cpu", "cpu", 4, None)
LONG = Budget(steps=10**7)
WORKER = [b"-m", b"autoresearch_jax.tasks.lm.worker"]


@contextlib.contextmanager
def other_host(address: str, folder: Path, compile_cache: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A second host, as a person starts it; what it says is in `host.log`."""
    flags = [f"--coordinator_address={address}", "--host_id=1", f"--compile_cache={compile_cache}"]
    with (folder / "host.log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "autoresearch_jax.cli", "host", *flags], stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def address() -> str:
    return f"127.0.0.1:{free_ports(1)[0]}"


def trial_processes(root: int) -> set[int]:
    """Processes below another one that run trials; not those that wait for one."""
    found = set()
    for pid in descendants(root):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if words[1:3] == WORKER and b"--standby" not in words:
                found.add(pid)
    return found


def losses(folder: Path) -> list[float]:
    with (folder / LOSS_CURVE_FILE).open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def in_training(
    action: Callable[[], object], done: list[float] | None = None
) -> Callable[[Mapping[str, Scalar]], None]:
    """Does something once, when a trial reports of its training; `done` is told when."""
    done = [] if done is None else done

    def report(progress: Mapping[str, Scalar]) -> None:
        if progress["phase"] == "train" and "step" in progress and not done:
            done.append(time.monotonic())
            action()

    return report


@pytest.mark.slow
def test_two_hosts_train_as_one_does_and_a_lost_one_ends_the_trial(
    make_task: MakeTask, tiny_source: str, compile_cache: Path, address: str, tmp_path: Path
) -> None:
    hosts = Hosts(address, 2, "cpu")
    on_two = [make_task(mesh_axes=MESH, device=CPU, hosts=hosts, **more) for more in ({}, {"budget": LONG})]
    on_one = make_task(mesh_axes=MESH, device=CPU)
    candidate = on_one.prepare(tiny_source, tmp_path)
    with other_host(address, tmp_path, compile_cache) as other:

        def kill() -> None:
            for pid in trial_processes(other.pid):
                os.kill(pid, signal.SIGKILL)

        lost = measure_in(on_two[1], candidate, tmp_path / "lost", on_progress=in_training(kill))
        assert (lost.status, lost.snapshot) == (Status.CRASH, None)
        assert (lost.error or "").startswith("host 1: ")
        two = measure_in(on_two[0], candidate, tmp_path / "two", scrutiny=Scrutiny.AUDIT)  # the same host, again
        hosts.close()
        assert other.wait(60) == 0
    one = measure_in(on_one, candidate, tmp_path / "one", scrutiny=Scrutiny.AUDIT)
    assert two.status is Status.OK, two.error
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-6)
    names = (HOLDOUT_SCORE, "train_loss", "unigram_bpb", "num_steps", "num_tokens", "num_devices", "num_params")
    assert _scores(two, names) == pytest.approx(_scores(one, names), rel=1e-6)
    on_one.close()
    again = on_one.measure(  # the snapshot of both hosts, judged by one
        candidate, seed=0, log_dir=tmp_path / "two", snapshot_dir=tmp_path / "two" / "snapshot", scrutiny=Scrutiny.AUDIT
    )
    assert again.metrics["snapshot_seconds"] is None
    assert _scores(again, names) == pytest.approx(_scores(two, names), rel=1e-6)


def _scores(measurement: Measurement, names: tuple[str, ...]) -> list[Scalar]:
    return [measurement.value, *(measurement.metrics[name] for name in names)]


@pytest.mark.slow
def test_the_training_file_on_a_mesh_that_cuts_the_model_between_hosts(
    make_task: MakeTask, compile_cache: Path, address: str, tmp_path: Path
) -> None:
    hosts, settings = Hosts(address, 2, "cpu"), {"device": CPU, "budget": Budget(steps=8)}
    on_one, on_two = (
        make_task(mesh_axes={"data": 2, "model": 2}, hosts=others, **settings) for others in (None, hosts)
    )
    candidate = on_one.prepare(tiny_source_text(ASPECT_RATIO=16, MUON_ITERATIONS=1), tmp_path)
    one = measure_in(on_one, candidate, tmp_path / "one")
    with other_host(address, tmp_path, compile_cache):
        two = measure_in(on_two, candidate, tmp_path / "two")
        hosts.close()
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-6)
    assert two.value == pytest.approx(one.value, rel=1e-6)


@pytest.mark.slow
def test_a_host_that_is_stuck_or_gone_ends_the_trial(
    make_task: MakeTask, tiny_source: str, compile_cache: Path, address: str, tmp_path: Path
) -> None:
    hosts = Hosts(address, 2, "cpu")
    task = make_task(mesh_axes=MESH, device=CPU, hosts=hosts, budget=LONG)
    candidate = task.prepare(tiny_source, tmp_path)
    errors = {}
    with other_host(address, tmp_path, compile_cache) as other:

        def stop(there: bool) -> None:
            theirs = trial_processes(other.pid)
            for pid in theirs if there else trial_processes(os.getpid()) - theirs:
                os.kill(pid, signal.SIGSTOP)

        ends = {"there": lambda: stop(True), "here": lambda: stop(False), "gone": other.kill}
        for name, end in ends.items():
            done: list[float] = []
            ended = measure_in(task, candidate, tmp_path / name, on_progress=in_training(end, done))
            print(f"seconds_until_crash_{name}: {time.monotonic() - done[0]:.1f}")  # with pytest -s
            assert ended.status is Status.CRASH
            errors[name] = (ended.error or "").split(" during ")[0]
    assert errors == {
        "there": "host 1 stopped answering",
        "here": "host 1: its process lost contact with host 0's,",
        "gone": "host 1: its connection is lost,",
    }


def test_hosts_that_do_not_fit_are_named_in_one_line(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = Hosts(address, 3, "cpu", patience_seconds=0.3)
    with pytest.raises(CandidateUntouched, match=r"^--num_hosts=3: 1 have joined within .* --host_id=1, 2$"):
        hosts.together().__enter__()
    with pytest.raises(UsageError, match=f"^--coordinator_address={address}: Address already in use: "):
        Hosts(address, 2, "cpu").together().__enter__()

    def join(host_id: int, **there: str) -> Channel:
        channel = Channel.connect(address, 10.0)
        channel.send({"host_id": host_id, "versions": {**versions("cpu"), **there}})
        return channel

    for host_id, there, reason in (
        (1, {"jax": "0.1"}, "host 1 (127.0.0.1): jax is 0.1 there, 0."),
        (3, {}, "host 3 (127.0.0.1): --num_hosts=3 has hosts 0 to 2: "),
    ):
        answer, _ = join(host_id, **there).receive(10.0)
        assert (answer["do"], answer["reason"][: len(reason)]) == ("refused", reason)
        with pytest.raises(TermsChanged, match=re.escape(reason)):
            hosts.together().__enter__()
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert stranger.recv(100) == b""
    first = join(1)
    assert comes_true(lambda: hosts.joined == {1})
    assert join(1).receive(10.0)[0]["reason"].startswith("host 1 (127.0.0.1): there is one already")
    with pytest.raises(CandidateUntouched, match=r"^--num_hosts=3: 2 have joined .* --host_id=2$"):
        hosts.together().__enter__()
    second = join(2)
    monkeypatch.setattr("autoresearch_jax.tasks.lm.hosts.ANSWER_SECONDS", 0.3)
    with pytest.raises(CandidateUntouched, match=r"^host 1: it did not take a trial within 0.3 s$"):
        hosts.together(platform="cpu").__enter__()
    assert first.is_closed(10.0)
    assert second.is_closed(10.0)
    hosts.close()


def test_what_jax_prints_of_a_silent_host_is_understood() -> None:
    words = "UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\n{}\nThe tasks have crashed."
    assert silent_hosts(words.format("1")) == "host 1 stopped answering"
    assert silent_hosts(words.format("/job:jax_worker/replica:0/task:2")) == "host 2 stopped answering"
    assert silent_hosts("killed") is None


def test_a_mesh_of_two_hosts_is_another_machine_than_one_of_one() -> None:
    one, two = (device_terms(CPU, MESH, LONG, "wall", hosts) for hosts in (1, 2))
    assert (one["mesh"], two["mesh"]) == ("data=4,model=1", "data=4,model=1 on 2 hosts")


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
