"""A host of trials on several hosts, but not the first: takes them from host 0, and says whether it is well.

It needs neither data nor settings: programs come with each trial, tokens while it goes on. Loads no JAX.
"""

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoresearch_jax.errors import UserError
from autoresearch_jax.sandbox.process import JsonWorker, ProcessTimeoutError, WorkerDiedError
from autoresearch_jax.sandbox.sandbox import remove_tree, scratch_folder
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.tasks.lm import cage
from autoresearch_jax.tasks.lm.channel import Channel, Message
from autoresearch_jax.tasks.lm.config import FOLLOW
from autoresearch_jax.tasks.lm.device import STANDBY_WORKER, TRIAL_WORKER, start_worker
from autoresearch_jax.tasks.lm.hosts import BEGIN, BUSY, BYE, END, ENDED, FAILED, REFUSED, TAKEN, versions
from autoresearch_jax.tasks.lm.trial import Workers

STARTUP_SECONDS = 120.0
TRIAL_SECONDS = 7 * 24 * 3600.0  # host 0 ends it sooner
CONNECT_SECONDS, RETRY_SECONDS = 5.0, 0.5
BUSY_SECONDS, BUSY_RETRY_SECONDS = 60.0, 5.0  # host 0 learns after 25 s that a connection was lost
LOG = "worker.log"
LOST_CONTACT = "JAX distributed service"  # what JAX says then as it ends a process


class HostError(UserError):
    """This host cannot take part."""


class _AlreadyThere(Exception):
    """Host 0 still has a connection to this host: perhaps one that was lost, of which it does not know yet."""


@dataclass(frozen=True)
class _Order:
    """What a host is told of a trial: see `Hosts.together`."""

    trial: int
    hosts: Mapping[str, Any]
    platform: str
    num_devices: int  # of this host
    is_confined: bool
    program_hash: str | None  # None where only the devices are asked for

    @classmethod
    def from_json(cls, message: Message) -> "_Order":
        return cls(**{name: message[name] for name in cls.__dataclass_fields__})


class _Part:
    """This host's part of one trial, in a thread of its own."""

    def __init__(
        self, order: _Order, worker: JsonWorker, programs_dir: Path | None, report: Callable[..., None]
    ) -> None:
        self._order, self._worker, self._programs_dir, self._report = order, worker, programs_dir, report
        self._is_ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        programs_dir = None if self._programs_dir is None else str(self._programs_dir)
        request = {"hosts": self._order.hosts, "programs_dir": programs_dir, "program_hash": self._order.program_hash}
        try:
            self._worker.receive(STARTUP_SECONDS)  # "ready"
            self._worker.send({"op": FOLLOW, **request})
            event = self._worker.receive(TRIAL_SECONDS)
            reason = event["reason"] if event["event"] == "failed" else None
        except (ProcessTimeoutError, WorkerDiedError) as error:
            words = self._worker.last_words()
            reason = f"{error}: {words}" if words else str(error)
            if LOST_CONTACT in words:
                reason = "its process lost contact with host 0's"
        if reason is not None and not self._is_ended:
            self._report(FAILED, reason=clean_line(reason))
        self._worker.close()

    def end(self) -> None:
        """Ends it; its process is gone when this returns."""
        self._is_ended = True
        self._worker.stop()
        self._thread.join()


def serve(
    address: str,
    host_id: int,
    *,
    compile_cache_dir: Path | None,
    confined: bool,
    wait_seconds: float,
    say: Callable[[str], None],
) -> None:
    """Takes part in the trials of host 0 until its command ends.

    Args:
      address: HOST:PORT of host 0.
      host_id: of this host, from 1.
      compile_cache_dir: XLA's; None for none.
      confined: whether processes of trials can be confined here.
      wait_seconds: for host 0 to answer, at first and after its connection was lost.
      say: tells the user in one line.

    Raises:
      HostError: host 0 does not answer, or refuses this host.
    """
    with scratch_folder("autoresearch-host-") as folder:
        host = _Host(folder, host_id, compile_cache_dir, confined=confined)
        busy_since: float | None = None
        try:
            while True:
                say(f"host {host_id}: waits for host 0 at {address}")
                channel = _connect(address, wait_seconds)
                try:
                    say(f"host {host_id}: joins {address}")
                    if host.take_part(channel):
                        return
                except _AlreadyThere as error:
                    if (busy_since := busy_since or time.monotonic()) + BUSY_SECONDS < time.monotonic():
                        raise HostError(str(error)) from error
                    say(str(error))
                    time.sleep(BUSY_RETRY_SECONDS)
                except OSError:
                    say(f"host {host_id}: host 0 is lost")
                    busy_since = None
                finally:
                    host.end()
                    channel.close()
        finally:
            host.close()


def _connect(address: str, seconds: float) -> Channel:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return Channel.connect(address, CONNECT_SECONDS)
        except OSError as error:
            if time.monotonic() > deadline:
                raise HostError(
                    f"--coordinator_address={address}: nothing answers within {seconds:g} s ({error}): start "
                    "`autoresearch run` or `trial` with --num_hosts on host 0"
                ) from error
        time.sleep(RETRY_SECONDS)


class _Host:
    def __init__(self, folder: Path, host_id: int, compile_cache_dir: Path | None, *, confined: bool) -> None:
        self._folder, self._host_id = folder, host_id
        self._compile_cache_dir, self._confined = compile_cache_dir, confined
        self._part: _Part | None = None
        self._workers: Workers | None = None
        self._made_for: tuple[Any, ...] = ()
        if confined:
            cage.write_bytecode(os.environ)

    def take_part(self, channel: Channel) -> bool:
        """Does what host 0 says until it says good-bye (True), or is lost (OSError)."""
        channel.send({"host_id": self._host_id, "versions": versions("cpu")})
        trial = 0

        def report(event: str, **more: Any) -> None:
            with contextlib.suppress(OSError):
                channel.send({"trial": trial, "event": event, **more})

        while True:
            message, arrays = channel.receive()
            told = message["do"]
            if told == BYE:
                return True
            if told in (REFUSED, BUSY):
                raise (HostError if told == REFUSED else _AlreadyThere)(message["reason"])
            self.end()
            if told == END:
                report(ENDED)
            elif told == BEGIN:
                order = _Order.from_json(message)
                trial = order.trial
                report(TAKEN)
                self._begin(order, message["files"], arrays, report)

    def _begin(self, order: _Order, names: Sequence[str], arrays: Sequence[np.ndarray], report: Any) -> None:
        programs_dir = None
        try:
            workers = self._workers_for(order)
            if order.program_hash is not None:
                programs_dir = self._write_programs(order.program_hash, names, arrays)
            worker = workers.take(self._folder / "logs" / LOG)
        except (OSError, HostError) as error:
            report(FAILED, reason=str(error))
            return
        self._part = _Part(order, worker, programs_dir, report)
        if programs_dir is not None:
            workers.warm_up()

    def _write_programs(self, program_hash: str, names: Sequence[str], arrays: Sequence[np.ndarray]) -> Path:
        if not all(re.fullmatch(r"\w[\w.]*", name) for name in (program_hash, *names)):
            raise HostError("host 0 sends files with strange names")
        folder = self._folder / "programs" / program_hash
        for before in folder.parent.iterdir():
            remove_tree(before)
        folder.mkdir()
        for name, array in zip(names, arrays, strict=True):
            (folder / name).write_bytes(array.tobytes())
        return folder

    def _workers_for(self, order: _Order) -> Workers:
        """What starts the processes of trials of this kind."""
        kind = (order.platform, order.num_devices, order.is_confined)
        if self._workers is None or kind != self._made_for:
            self.close()
            if order.is_confined and not self._confined:
                raise HostError("it cannot confine the processes of trials, as host 0 does: use --sandbox=limits there")
            logs, programs = self._folder / "logs", self._folder / "programs"
            for folder in (logs, programs):
                folder.mkdir(exist_ok=True)
            reach = cage.FileAccess((programs,), (logs,)) if order.is_confined else None

            def start(log_path: Path, module: Sequence[str] = TRIAL_WORKER) -> JsonWorker:
                return start_worker(
                    order.platform,
                    order.num_devices,
                    log_path,
                    environment=os.environ,
                    compile_cache_dir=self._compile_cache_dir,
                    module=module,
                    reach=reach,
                    num_hosts=order.hosts["num_hosts"],
                )

            self._workers = Workers(start, lambda log: start(log, STANDBY_WORKER), logs / "standby.log")
            self._made_for = kind
        return self._workers

    def end(self) -> None:
        """Ends the trial at hand."""
        if self._part is not None:
            self._part.end()
            self._part = None

    def close(self) -> None:
        """Ends the waiting process."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None
