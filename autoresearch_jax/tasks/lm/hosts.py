"""The hosts of one trial, seen from the driver on host 0: they join, get each trial as data, and answer only health.

Each other host runs `autoresearch host` (see `host.py`), which starts a process like the one that runs the trial here.
A host that is lost or fails ends the trial. Under SLURM and on Cloud TPU the hosts of one job find each other, as with
`jax.distributed`: the same command is started on every host, by `srun` with one task a node, or on all workers of a TPU
slice. Loads no JAX.
"""

import atexit
import contextlib
import dataclasses
import functools
import os
import re
import secrets
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from autoresearch_jax.errors import UsageError
from autoresearch_jax.sandbox.accounting import host_processors
from autoresearch_jax.sandbox.mounts import code_hash
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.tasks.lm.channel import Channel, Gathering
from autoresearch_jax.types import CandidateUntouched, TermsChanged

HELLO_SECONDS = 10.0  # until what connects must have said what it is
PATIENCE_SECONDS = 120.0  # for all hosts to join; again before each trial
ANSWER_SECONDS = 15.0  # for a host to take a trial, and to end it
FAULT_SECONDS = 2.0  # for a host's words, after its trial ended here
BEGIN, END, BYE, REFUSED, BUSY = "begin", "end", "bye", "refused", "busy"  # what a host is told
TAKEN, ENDED, FAILED = "taken", "ended", "failed"  # what it answers
PORT = 8483  # of host 0 where no job's number gives one; JAX's own on TPUs is 8482
SLURM_PORTS, NUM_SLURM_PORTS = 61440, 4096  # two jobs of one node take two of these, as JAX does it
METADATA_SECONDS = 5.0
_METADATA = "http://{}/computeMetadata/v1/instance/attributes/{}"


def versions(platform: str) -> dict[str, str]:
    """What must be equal on all hosts of a trial."""
    found = {"jax": version("jax"), "jaxlib": version("jaxlib"), "autoresearch_jax": code_hash()}
    return found | ({"processors": host_processors()} if platform == "cpu" else {})


@dataclass
class _Host:
    """A host that has joined: a channel to it, and the last thing that it `answered`."""

    channel: Channel
    answered: str = ENDED


class Hosts:
    """The other hosts of a run's trials, for one trial at a time."""

    def __init__(self, address: str, num_hosts: int, platform: str, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Begins to listen for them with the first trial, at the `address` by which they find this one.

        All of `num_hosts`, this one counted, must have joined within `patience_seconds`.
        """
        self.num_hosts = num_hosts
        self._address, self._patience_seconds = address, patience_seconds
        self._versions = versions(platform)
        self._hosts: dict[int, _Host] = {}
        self._changed = threading.Condition()  # guards what follows, too
        self._refused: str | None = None  # why a host was sent away, the latest
        self._trial = 0
        self._fault: str | None = None  # of the trial at hand
        self._stop: Callable[[], None] | None = None  # ends it
        self._server: socket.socket | None = None

    @contextlib.contextmanager
    def together(self, programs_dir: Path | None = None, **order: Any) -> Iterator[Gathering]:
        """Has all hosts begin a trial, which ends with the context.

        Args:
          programs_dir: the candidate's, which they get.
          order: what else a host needs to know, see `host.py`.

        Yields:
          What the process of this host needs to meet theirs.

        Raises:
          CandidateUntouched: a host is missing.
          TermsChanged: one is not equal to this one.
          UsageError: the port is taken.
        """
        self._listen()
        self._require_all()
        host = self._address.rpartition(":")[0]
        coordinator, stream = (f"{host}:{port}" for port in free_ports(2))
        gathering = Gathering(coordinator, stream, secrets.token_hex(16), self.num_hosts, 0)
        files = [] if programs_dir is None else sorted(path for path in programs_dir.iterdir() if path.is_file())
        contents = [np.frombuffer(path.read_bytes(), np.uint8) for path in files]
        message = {**order, "do": BEGIN, "files": [path.name for path in files]}
        with self._changed:
            self._trial += 1
            self._fault = None
        try:
            for host_id, one in sorted(self._hosts.items()):
                own = dataclasses.replace(gathering, host_id=host_id)
                self._tell(one, {**message, "trial": self._trial, "hosts": dataclasses.asdict(own)}, *contents)
            self._wait(lambda one: one.answered != ENDED, ANSWER_SECONDS, "take a trial")
            if (fault := self.fault()) is not None:
                raise CandidateUntouched(fault)
            yield gathering
        finally:
            with self._changed:
                self._stop = None
            for one in list(self._hosts.values()):
                self._tell(one, {"do": END})
            self._wait(lambda one: one.answered == ENDED, ANSWER_SECONDS, "end a trial")

    @property
    def joined(self) -> set[int]:
        """The other hosts that are there."""
        return set(self._hosts)

    def stop_by(self, stop: Callable[[], None]) -> None:
        """Enters what ends this host's part of the trial, as soon as another one fails."""
        with self._changed:
            self._stop = stop
            if self._fault is not None:
                stop()

    def fault(self, within_seconds: float = 0.0) -> str | None:
        """Which host ended the trial at hand, and why, one line; waits for it at most so long."""
        with self._changed:
            self._changed.wait_for(lambda: self._fault is not None, within_seconds)
            return self._fault

    def close(self) -> None:
        """Sends all hosts home."""
        if self._server is not None:
            with contextlib.suppress(OSError):
                self._server.shutdown(socket.SHUT_RDWR)  # of which a close alone does not tell the thread that accepts
            self._server.close()
            self._server = None
        with self._changed:
            hosts, self._hosts = list(self._hosts.values()), {}
        for one in hosts:
            self._tell(one, {"do": BYE})
            one.channel.close()

    def _listen(self) -> None:
        if self._server is not None:
            return
        try:
            self._server = socket.create_server(("", int(self._address.rpartition(":")[2])))
        except OSError as error:
            why = f"--coordinator_address={self._address}: {os.strerror(error.errno or 0)}"
            remedy = "end the other command that has the hosts, or name another port on all hosts"
            raise UsageError(f"{why}: {remedy}") from error
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def _require_all(self) -> None:
        """Waits until all hosts are there."""

        def is_over() -> bool:
            return len(self._hosts) == self.num_hosts - 1 or self._refused is not None

        with self._changed:
            self._changed.wait_for(is_over, self._patience_seconds)
            if len(self._hosts) == self.num_hosts - 1:
                self._refused = None
                return
            refused, self._refused = self._refused, None
            missing = ", ".join(str(number) for number in range(1, self.num_hosts) if number not in self._hosts)
        if refused is not None:
            raise TermsChanged(refused)
        raise CandidateUntouched(
            f"--num_hosts={self.num_hosts}: {self.num_hosts - missing.count(',') - 1} have joined within "
            f"{self._patience_seconds:g} s: start `autoresearch host --coordinator_address={self._address}` with "
            f"--host_id={missing}"
        )

    def _accept(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = server.accept()
                threading.Thread(target=self._serve, args=(Channel(connection),), daemon=True).start()

    def _serve(self, channel: Channel) -> None:
        """Takes what a host says, from its first word to its end."""
        try:
            hello, _ = channel.receive(HELLO_SECONDS)
        except OSError:
            channel.close()
            return
        host_id = hello.get("host_id")
        host_id = host_id if isinstance(host_id, int) else -1
        with self._changed:
            is_taken = host_id in self._hosts
            if (reason := self._objection(host_id, hello, channel)) is None:
                own = self._hosts[host_id] = _Host(channel)
            elif not is_taken:
                self._refused = reason
            self._changed.notify_all()
        if reason is not None:
            self._tell(_Host(channel), {"do": BUSY if is_taken else REFUSED, "reason": reason})
            channel.close()
            return
        with contextlib.suppress(OSError):
            while True:
                message, _ = channel.receive()
                self._hear(host_id, own, message)
        self._drop(host_id, own, "its connection is lost")

    def _objection(self, host_id: int, hello: Mapping[str, Any], channel: Channel) -> str | None:
        """Why a host cannot take part, one line."""
        name = f"host {host_id} ({channel.peer})"
        if not 0 < host_id < self.num_hosts:
            return f"{name}: --num_hosts={self.num_hosts} has hosts 0 to {self.num_hosts - 1}: check --host_id"
        if host_id in self._hosts:
            return f"{name}: there is one already, at {self._hosts[host_id].channel.peer}: check --host_id"
        there, here = hello.get("versions"), self._versions
        there = there if isinstance(there, dict) else {}
        differing = [key for key in here if there.get(key) != here[key]]
        words = "; ".join(f"{key} is {there.get(key)} there, {here[key]} here" for key in differing)
        return f"{name}: {clean_line(words)}: make the hosts equal" if differing else None

    def _hear(self, host_id: int, one: _Host, message: Mapping[str, Any]) -> None:
        with self._changed:
            if message.get("trial") == self._trial:
                one.answered = str(message.get("event"))
                if one.answered == FAILED:
                    self._blame(host_id, clean_line(str(message.get("reason"))))
            self._changed.notify_all()

    def _drop(self, host_id: int, one: _Host, reason: str) -> None:
        with self._changed:
            if self._hosts.get(host_id) is one:
                del self._hosts[host_id]
                self._blame(host_id, reason)
            self._changed.notify_all()
        one.channel.close()

    def _blame(self, host_id: int, reason: str) -> None:
        """Ends the trial at hand because of a host; called with the lock."""
        if self._fault is None:
            self._fault = f"host {host_id}: {reason}"
            if self._stop is not None:
                self._stop()

    def _wait(self, is_done: Callable[[_Host], bool], seconds: float, what: str) -> None:
        """Waits for all hosts, and drops those that do not answer."""
        with self._changed:
            self._changed.wait_for(lambda: all(map(is_done, self._hosts.values())), seconds)
            late = [(host_id, one) for host_id, one in self._hosts.items() if not is_done(one)]
        for host_id, one in late:
            self._drop(host_id, one, f"it did not {what} within {seconds:g} s")

    @staticmethod
    def _tell(one: _Host, message: Mapping[str, Any], *arrays: np.ndarray) -> None:
        with contextlib.suppress(OSError):  # the thread that receives sees to it
            one.channel.send(message, *arrays)


def silent_hosts(log: str) -> str | None:
    """Which hosts did not answer any more, by what JAX prints when it ends a process for it; None if it did not."""
    found = re.search(r"stopped sending heartbeats\):\s*([^\n]*)", log)
    if found is None:
        return None
    numbers = re.findall(r"\d+", found[1].replace("replica:0", ""))
    return f"host {', '.join(numbers) or 'unknown'} stopped answering"


@functools.cache
def open_hosts(address: str, num_hosts: int, platform: str) -> Hosts:
    """The hosts of this process's trials, until it ends: they go home then."""
    hosts = Hosts(address, num_hosts, platform)
    atexit.register(hosts.close)
    return hosts


def free_ports(number: int) -> list[int]:
    """Ports that no process of this machine listens at."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("", 0))) for _ in range(number)]
        return [server.getsockname()[1] for server in servers]


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
