"""A Ray cluster: each trial is a task of Ray on a node with an equal device, run again if its node is lost.

A trial is data (see `ray_node.py`); Ray itself never retries. A trial whose node or process is lost is handed out again
with the same seed. Trials are counted by their ticket: what a lost node may still send has no listener any more.
"""

import logging
import math
import os
import re
import shutil
import signal
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from autoresearch_jax.errors import UsageError, UserError
from autoresearch_jax.executors import ray_node
from autoresearch_jax.executors.base import Finished, Work
from autoresearch_jax.executors.ray_node import Event, Frame, error_from_data, measurement_from_data, read_frames
from autoresearch_jax.files import partial_folder
from autoresearch_jax.sandbox.sandbox import remove_tree
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.types import CandidateUntouched, Measurement, Scalar, Status, TermsChanged

RESOURCE = "autoresearch-"  # what the names of our resources begin with, one a class of devices
MAX_LOSSES = 3  # of one trial: its node is lost now and then, one that takes its nodes with it is not handed out again
POLL_SECONDS = 0.5  # between two looks at signals
END_SECONDS = 10.0  # for the processes of cancelled trials
REFRESH_SECONDS = 2.0  # between two looks at the cluster's nodes
DOUBT_SECONDS = 15.0  # after a loss, within which Ray may still count a node that is dead, and send a trial there
PATIENCE_SECONDS = 300.0  # for a node with the resource to come back
KEPT_PACKS = 32  # in the object store; a trial that runs keeps its own


def resource_name(terms: Mapping[str, Scalar]) -> str:
    """The resource that stands for a class of devices: nodes that have it can run the same trials.

    Args:
      terms: "platform", "device_kind" and "num_devices", see `engine.task.Terms`.
    """
    count = int(terms.get("num_devices") or 1)
    kind = f"{terms.get('device_kind') or 'unknown'}"
    if count > 1 and terms.get("platform") != "cpu":
        kind = f"{count} x {kind}"
    return RESOURCE + "-".join(re.findall(r"[a-z0-9.]+", kind.lower()))


class RayExecutor:
    """Runs trials of one task on the nodes of a cluster that have the resource of its class of devices."""

    def __init__(
        self,
        describe: Callable[[], Mapping[str, Any]],
        terms: Mapping[str, Scalar],
        *,
        address: str = "auto",
        files: Sequence[Frame] = (),
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """Connects to the cluster.

        Args:
          describe: how a node makes the task: "opener", "settings" and "expects" of `ray_node.run_trial`'s order.
          address: "auto" for the cluster of this machine or of RAY_ADDRESS; HOST:PORT; or ray://HOST:PORT.
          patience_seconds: after which trials are given up while no node has the resource.

        Raises:
          UsageError: there is no such cluster, or no node has the resource.
          UserError: Ray is missing.
        """
        self._ray = _connect(address)
        self._describe, self._terms, self._address = describe, terms, address
        self._resource = resource_name(terms)
        self._streams_events = not address.startswith("ray://")
        self._patience_seconds = patience_seconds
        function = ray_node.run_trial if self._streams_events else ray_node.run_trial_whole
        self._run = self._ray.remote(function).options(**self._demands())
        self._packs: OrderedDict[Hashable, Any] = OrderedDict()
        self._submitted = 0
        self._works: dict[int, Work] = {}
        self._waiting: deque[int] = deque()
        self._streams: dict[int, Any] = {}  # of those that are handed out
        self._frames: dict[int, int] = {}  # that came of one
        self._losses: dict[int, int] = {}
        self._answers: deque[Finished] = deque()
        self._seen_at, self._has_nodes_at = -math.inf, time.monotonic()
        self._most, self._most_until = 0, -math.inf  # places, for a while after a loss
        self._slots = 0
        if not self._look():
            refusal = self._no_node()
            self.close()
            raise UsageError(refusal)
        self._files = self._ray.put(list(files))
        self._nothing = self._ray.put([])

    @property
    def slots(self) -> int:
        """How many trials the cluster's nodes run at the same time; at least 1, in hope of a node."""
        return max(1, self._look())

    def submit(self, work: Work) -> int:
        self._submitted += 1
        self._works[self._submitted] = work
        self._waiting.append(self._submitted)
        self._hand_out()
        return self._submitted

    def next_finished(self, timeout: float | None = None) -> Finished | None:
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            self._hand_out()
            if self._answers:
                return self._answers.popleft()
            if not self._works:
                raise IndexError("no trial is out")
            left = deadline - time.monotonic()
            ready = self._ready(max(0.0, min(left, POLL_SECONDS)))
            for ticket in ready:
                self._hear(ticket)
            if not ready and left <= 0:
                return None

    def cancel(self, ticket: int) -> None:
        """Ends a trial; its process on the node is gone a moment later."""
        self._answers = deque(answer for answer in self._answers if answer.ticket != ticket)
        if ticket in self._works:
            self._end(ticket)
            self._forget(ticket)

    def close(self) -> None:
        streams = list(self._streams.values())
        for ticket in list(self._works):
            self.cancel(ticket)
        self._answers.clear()
        self._packs.clear()
        deadline = time.monotonic() + END_SECONDS
        while streams and time.monotonic() < deadline:  # a shutdown would overtake what was cancelled
            ready, _ = self._ray.wait(streams, num_returns=1, timeout=POLL_SECONDS)
            streams = [one for one in streams if one not in ready or not self._is_over(one)]
        self._ray.shutdown()

    def _is_over(self, stream: Any) -> bool:
        """Takes the next event of a trial that is not waited for; whether it was the last."""
        try:
            self._ray.get(next(stream) if self._streams_events else stream)
        except (StopIteration, self._ray.exceptions.RayError):
            return True
        return not self._streams_events

    def _demands(self) -> dict[str, Any]:
        """What a trial needs of a node.

        Ray hides the GPUs from what asks for none. With its process it would kill our watching process, too, before
        that has killed what it watches.
        """
        count, platform = int(self._terms.get("num_devices") or 1), self._terms.get("platform")
        resources = {self._resource: 1.0} | ({"TPU": float(count)} if platform == "tpu" else {})
        return {
            "num_cpus": 0,
            "num_gpus": count if platform == "cuda" else 0,
            "resources": resources,
            "max_retries": 0,
            "num_returns": "streaming" if self._streams_events else 1,
            "runtime_env": {"env_vars": {"RAY_kill_child_processes_on_worker_exit": "0"}},
        }

    def _look(self) -> int:
        """How many trials fit on the nodes that there are now, as far as Ray knows."""
        now = time.monotonic()
        if now - self._seen_at >= REFRESH_SECONDS:
            self._seen_at = now
            self._slots = int(self._ray.cluster_resources().get(self._resource, 0))
            if self._slots:
                self._has_nodes_at = now
        return min(self._slots, self._most) if now < self._most_until else self._slots

    def _no_node(self) -> str:
        found = sorted(name for name in self._ray.cluster_resources() if name.startswith(RESOURCE))
        return (
            f"--ray_address={self._address}: no node has the resource {self._resource}, which stands for this "
            f"machine's device; there is {', '.join(found) or f'none that begins with {RESOURCE}'}: start a node of "
            f"the same device with `ray start --resources='{{\"{self._resource}\": 1}}'`"
        )

    def _hand_out(self) -> None:
        """Starts as many waiting trials as there are places; gives one up that has found no node for too long."""
        if not self._works:
            return
        places = self._look()
        while self._waiting and len(self._streams) < places:
            ticket = self._waiting[0]
            if ticket not in self._streams:  # Ctrl-C may have come right after it began
                self._start(ticket)
            with suppress(ValueError):
                self._waiting.remove(ticket)
        if not places and time.monotonic() - self._has_nodes_at > self._patience_seconds:
            oldest = next(iter(self._works))
            self._end(oldest)
            self._fail(oldest, CandidateUntouched(self._no_node()))

    def _start(self, ticket: int) -> None:
        work = self._works[ticket]
        remove_tree(work.snapshot_dir)  # of the same trial, cut short: it is trained again
        own = f"{ticket}-{self._losses.get(ticket, 0)}"
        order = {**self._describe(), **ray_node.order_of(work), "id": own}
        order["reports"] = self._streams_events and work.on_progress is not None
        candidate = work.candidate
        try:
            programs = None
            if candidate.programs_dir is not None:
                folder = candidate.programs_dir
                programs = self._pack(candidate.program_hash, lambda: list(read_frames(folder)))
            logs = [self._pack_logs(path) for path in (work.log_dir, *work.reference_log_dirs)]
            self._streams[ticket] = self._run.remote(order, self._files, programs, *logs)
        except self._ray.exceptions.RayError as error:
            self._fail(ticket, CandidateUntouched(f"the cluster takes no trial: {_line(error, 0)}"))
        except OSError as error:
            self._fail(ticket, error)

    def _pack(self, key: Hashable, make: Callable[[], list[Frame]]) -> Any:
        """A reference to frames in the object store, made once."""
        if key not in self._packs:
            self._packs[key] = self._ray.put(make())
        self._packs.move_to_end(key)
        while len(self._packs) > KEPT_PACKS:
            self._packs.popitem(last=False)
        return self._packs[key]

    def _pack_logs(self, log_dir: Path) -> Any:
        """What a trial may need of the folder of logs of another one, or of an earlier one of its candidate."""
        shared = {path: path.stat() for path in sorted(log_dir.glob("*")) if path.is_file() and path.suffix != ".log"}
        shared = {path: stat for path, stat in shared.items() if stat.st_size <= ray_node.SHARED_BYTES}
        if not shared:
            return self._nothing
        key = (log_dir, *((path.name, stat.st_mtime_ns, stat.st_size) for path, stat in shared.items()))
        return self._pack(key, lambda: list(read_frames(log_dir, paths=shared)))

    def _ready(self, timeout: float) -> list[int]:
        """The tickets of which there is news, after waiting for it."""
        tickets = {stream: ticket for ticket, stream in self._streams.items()}
        streams = list(tickets)
        if not streams:
            time.sleep(timeout)
            return []
        ready, _ = self._ray.wait(streams, num_returns=len(streams), timeout=0)
        if not ready:
            ready, _ = self._ray.wait(streams, num_returns=1, timeout=timeout)
        return [tickets[stream] for stream in ready]

    def _hear(self, ticket: int) -> None:
        """Takes the news of a trial."""
        stream, exceptions = self._streams[ticket], self._ray.exceptions
        try:
            events = [self._ray.get(next(stream))] if self._streams_events else self._ray.get(stream)
            for event in events:
                if ticket in self._streams:
                    self._take(ticket, event)
        except StopIteration:
            self._lose(ticket, "it ended without an answer")
        except exceptions.RayTaskError as error:  # nothing of ours was called, so it has not come to the task
            words = f"a node cannot run trials: {_line(error, -1)}: install this project there"
            self._fail(ticket, TermsChanged(words))
        except exceptions.OutOfMemoryError as error:  # as where the kernel kills the process of a trial
            work = self._works[ticket]
            self._answer(Finished(ticket, Measurement(Status.OOM, None, work.seed, error=_line(error, 0))))
        except exceptions.RayError as error:
            self._lose(ticket, _line(error, 0))
        except OSError as error:  # our disk's
            self._end(ticket)
            self._fail(ticket, error)

    def _take(self, ticket: int, event: Event) -> None:
        """Carries out one event; raises OSError where this machine's disk fails."""
        (kind, value), work = event, self._works[ticket]
        if kind == ray_node.PROGRESS:
            if work.on_progress is not None:
                work.on_progress(value)
        elif kind in (ray_node.LOG, ray_node.SNAPSHOT):
            ray_node.write_frame(partial_folder(work.snapshot_dir) / kind, value)
            self._frames[ticket] = self._frames.get(ticket, 0) + 1
        elif kind == ray_node.FAILED:
            self._put_in_place(work)
            self._fail(ticket, error_from_data(value))
        elif value["frames"] != self._frames.get(ticket, 0):
            self._lose(ticket, "a part of its answer is missing")  # Ctrl-C came between two parts
        else:
            self._put_in_place(work, snapshot=value["snapshot"])
            self._answer(Finished(ticket, measurement_from_data(value, work.snapshot_dir)))

    @staticmethod
    def _put_in_place(work: Work, *, snapshot: bool = False) -> None:
        """Moves the files that came to where they belong, what was printed to the end of what is there."""
        came = partial_folder(work.snapshot_dir)
        logs = came / ray_node.LOG
        for path in sorted(logs.rglob("*")):
            place = work.log_dir / path.relative_to(logs)
            if path.is_dir():
                place.mkdir(parents=True, exist_ok=True)
            elif path.suffix == ".log":
                with path.open("rb") as new, place.open("ab") as log:
                    shutil.copyfileobj(new, log)
            else:
                shutil.move(path, place)
        if snapshot:
            (came / ray_node.SNAPSHOT).rename(work.snapshot_dir)
        remove_tree(came)

    def _lose(self, ticket: int, words: str) -> None:
        """Hands a trial out again whose node or process is lost, with the same seed."""
        self._streams.pop(ticket, None)
        self._frames.pop(ticket, None)
        remove_tree(partial_folder(self._works[ticket].snapshot_dir))
        self._losses[ticket] = self._losses.get(ticket, 0) + 1
        self._most = max(1, self._look() - 1)
        self._seen_at, self._most_until = -math.inf, time.monotonic() + DOUBT_SECONDS
        if self._losses[ticket] >= MAX_LOSSES:
            self._fail(ticket, CandidateUntouched(f"its node was lost {MAX_LOSSES} times: {words}"))
        else:
            self._waiting.appendleft(ticket)

    def _end(self, ticket: int) -> None:
        """Has Ray kill the process that runs a trial, whose own processes end with it."""
        stream = self._streams.get(ticket)
        if stream is not None:
            with suppress(self._ray.exceptions.RayError, ValueError, RuntimeError):
                self._ray.cancel(stream, force=True)

    def _fail(self, ticket: int, error: Exception) -> None:
        self._answer(Finished(ticket, error=error))

    def _answer(self, finished: Finished) -> None:
        self._forget(finished.ticket)
        self._answers.append(finished)

    def _forget(self, ticket: int) -> None:
        work = self._works.pop(ticket)
        remove_tree(partial_folder(work.snapshot_dir))
        with suppress(ValueError):
            self._waiting.remove(ticket)
        for kept in (self._streams, self._frames, self._losses):
            kept.pop(ticket, None)


def _line(error: Exception, number: int) -> str:
    """A line of Ray's words, of which the first or the last says most."""
    lines = str(error).strip().splitlines()
    return clean_line(lines[number]) if lines else type(error).__name__


def _connect(address: str) -> Any:
    """The package ray, connected to a cluster; the handlers of signals stay as they are.

    Raises UsageError if there is no such cluster; UserError if Ray is missing.
    """
    if find_spec("ray") is None:
        raise UserError(
            "--workers=ray needs the package ray, which is missing: in the checkout ./scripts/setup.sh ray, elsewhere "
            "pip install 'autoresearch_jax[ray]'"
        )
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # else it prints what nodes report to standard output
    import ray

    is_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"--ray_address={address}: no cluster answers ({_line(error, -1)}): begin one with `ray start --head`, "
            "or name another"
        ) from error
    finally:
        if is_main:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return ray
