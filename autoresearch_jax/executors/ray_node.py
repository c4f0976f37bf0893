"""A trial on a node of a Ray cluster: makes the task there from plain data, measures, hands back what came of it.

Ray runs `run_trial` in a process that serves one driver. It keeps the task, and so a pre-warmed worker, from one trial
to the next; the trial itself is the task's own process under its own watch, which ends it when Ray kills this one.
"""

import atexit
import json
import queue
import socket
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from autoresearch_jax.errors import UserError
from autoresearch_jax.executors.base import Work
from autoresearch_jax.files import disk_error
from autoresearch_jax.sandbox.mounts import code_hash
from autoresearch_jax.sandbox.sandbox import remove_tree, scratch_folder
from autoresearch_jax.types import (
    Candidate,
    CandidateUntouched,
    CompileCost,
    LossLimit,
    Measurement,
    Scalar,
    Scrutiny,
    Status,
    TermsChanged,
)

Frame = tuple[str, int, bytes]  # the next bytes of a file: its path in its folder, its mode; a folder's path ends in /
Event = tuple[str, Any]  # one of the names below, and what belongs to it
PROGRESS, LOG, SNAPSHOT = "progress", "log", "snapshot"  # a report; frames of the folder of logs; of the snapshot
MEASURED, FAILED = "measured", "failed"  # the last event: a measurement, or an error

FRAME_BYTES = 8 << 20
LOG_BYTES = 64 << 20  # of each file in the folder of logs
SHARED_BYTES = 4 << 20  # a file of an earlier trial is no larger where another trial needs it
CODE = "autoresearch_jax"  # among what must be equal: the hash of this package's sources


class NodeTask(Protocol):
    """What a node needs of a task, see `engine.task.Task`."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def terms(self) -> Mapping[str, Scalar]: ...

    @property
    def measure(self) -> Callable[..., Measurement]: ...

    def close(self) -> None: ...


class FailedOnNode(Exception):
    """What a task raised on a node; the message begins with the type's name, a note has the traceback."""


def conditions(task: NodeTask) -> dict[str, Scalar]:
    """What must be equal on the driver's machine and on a node."""
    return {CODE: code_hash(), "fingerprint": task.fingerprint, **task.terms}


def order_of(work: Work) -> dict[str, Any]:
    """A trial as plain data, without its folders."""
    candidate, cost = work.candidate, work.compile_cost
    return {
        "source": candidate.source,
        "program_hash": candidate.program_hash,
        "facts": dict(candidate.facts),
        "seed": work.seed,
        "scrutiny": str(work.scrutiny),
        "stop_above": [[limit.point, limit.loss] for limit in work.stop_above],
        "compile_cost": [cost.charged, cost.champion],
        "log_dir": str(work.log_dir),
    }


def run_trial(
    order: Mapping[str, Any],
    files: Sequence[Frame],
    programs: Sequence[Frame] | None,
    own_logs: Sequence[Frame],
    *references: Sequence[Frame],
) -> Iterator[Event]:
    """Runs a trial on this node.

    Args:
      order: from `order_of`; and "id", unique in the run; "opener", such as "package.module:function", which makes
        the task of "settings", `files` and a folder; "expects", the driver's `conditions`; "reports", whether
        progress is wanted.
      programs: of the candidate; None where the task keeps none.
      own_logs: what earlier trials of the candidate left in the folder of logs.

    Yields:
      PROGRESS with a report; LOG and SNAPSHOT with a frame; at last MEASURED or FAILED with plain data.
    """
    try:
        expects = order["expects"]
        _require_equal({CODE: expects[CODE]}, {CODE: code_hash()})
        try:
            task, folder = _open(order["opener"], json.dumps(order["settings"]), tuple(files))
        except UserError as error:
            raise TermsChanged(f"the task cannot be made: {error}") from error
        _require_equal(expects, conditions(task))
        yield from _measure(task, folder, order, programs, own_logs, references)
    except Exception as error:
        yield FAILED, _error_to_data(error)


def run_trial_whole(*arguments: Any) -> list[Event]:
    """As `run_trial`, with all events at its end: Ray's client cannot have them one by one."""
    return list(run_trial(*arguments))


@cache
def _open(opener: str, settings: str, files: Sequence[Frame]) -> tuple[NodeTask, Path]:
    """The task and its folder, which last as long as this process."""
    stack = ExitStack()
    atexit.register(stack.close)
    folder = stack.enter_context(scratch_folder(".ray-"))
    module, _, function = opener.partition(":")
    task: NodeTask = getattr(import_module(module), function)(json.loads(settings), files, folder)
    stack.callback(task.close)
    return task, folder


def _require_equal(expected: Mapping[str, Scalar], found: Mapping[str, Scalar]) -> None:
    differing = [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]
    if differing:
        words = "; ".join(f"{name} is {found.get(name)} there, {expected.get(name)} here" for name in differing)
        raise TermsChanged(f"{words}: make the node equal, or take its autoresearch resource away (`ray start`)")


def _measure(
    task: NodeTask,
    folder: Path,
    order: Mapping[str, Any],
    programs: Sequence[Frame] | None,
    own_logs: Sequence[Frame],
    references: Sequence[Sequence[Frame]],
) -> Iterator[Event]:
    own = order["id"]
    log_dir, snapshot_dir = folder / "logs" / own, folder / "snapshots" / own
    reference_dirs = [folder / "logs" / f"{own}-{number}" for number in range(len(references))]
    programs_dir = None if programs is None else folder / "programs" / order["program_hash"]
    try:
        for path, frames in zip([log_dir, *reference_dirs], [own_logs, *references], strict=True):
            write_folder(path, frames)
        if programs_dir is not None and programs is not None and not programs_dir.exists():
            write_folder(programs_dir, programs)
        snapshot_dir.parent.mkdir(parents=True, exist_ok=True)
        charged, champion = order["compile_cost"]
        work = Work(
            Candidate(order["source"], order["program_hash"], programs_dir, order["facts"]),
            order["seed"],
            log_dir,
            snapshot_dir,
            scrutiny=Scrutiny(order["scrutiny"]),
            stop_above=tuple(LossLimit(*limit) for limit in order["stop_above"]),
            reference_log_dirs=reference_dirs,
            compile_cost=CompileCost(charged, champion),
        )
        last: Event | None = None
        for event in _in_thread(task, work, reports=order["reports"]):
            if event[0] == PROGRESS:
                yield event
            last = event
        assert last is not None
        kind, found = last
        frames_sent = 0
        for frame in read_frames(log_dir, LOG_BYTES):
            yield LOG, frame
            frames_sent += 1
        if kind == FAILED:
            yield FAILED, _error_to_data(found, str(log_dir), order["log_dir"])
            return
        if found.snapshot is not None:
            for frame in read_frames(snapshot_dir):
                yield SNAPSHOT, frame
                frames_sent += 1
        yield MEASURED, {"frames": frames_sent, **_measurement_to_data(found, str(log_dir), order["log_dir"])}
    finally:
        for path in (log_dir, snapshot_dir, *reference_dirs):
            remove_tree(path)


def _in_thread(task: NodeTask, work: Work, *, reports: bool) -> Iterator[Event]:
    """Yields PROGRESS events while a trial runs, then MEASURED with the measurement or FAILED with the exception."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def report(progress: Mapping[str, Scalar]) -> None:
        if reports:
            events.put((PROGRESS, dict(progress)))

    def measure() -> None:
        try:
            events.put((MEASURED, work.measured_by(task.measure, report)))
        except BaseException as error:
            events.put((FAILED, error))

    threading.Thread(target=measure, daemon=True).start()
    while True:
        event = events.get()
        yield event
        if event[0] != PROGRESS:
            return


def read_frames(folder: Path, most: int | None = None, paths: Iterable[Path] | None = None) -> Iterator[Frame]:
    """Files and folders below a folder, all of them or `paths`; of each file at most `most` bytes."""
    for path in sorted(folder.rglob("*")) if paths is None else paths:
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            continue
        if path.is_dir():
            yield f"{name}/", 0o755, b""
        elif path.is_file():
            mode, left = path.stat().st_mode & 0o777, path.stat().st_size if most is None else most
            with path.open("rb") as file:
                data = file.read(min(FRAME_BYTES, left))
                while True:
                    yield name, mode, data
                    left -= len(data)
                    if not (left and (data := file.read(min(FRAME_BYTES, left)))):
                        break


def write_frame(folder: Path, frame: Frame) -> None:
    """Adds a frame to what is below a folder.

    Raises:
      OSError: it cannot be written.
      ValueError: the path leads out of the folder.
    """
    name, mode, data = frame
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        raise ValueError(f"{name}: leads out of its folder")
    path = folder / name
    if name.endswith("/"):
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(data)
    path.chmod(mode | 0o200)


def write_folder(folder: Path, frames: Sequence[Frame]) -> None:
    """Makes a folder of frames; raises as `write_frame` does."""
    folder.mkdir(parents=True, exist_ok=True)
    for frame in frames:
        write_frame(folder, frame)


def _measurement_to_data(measurement: Measurement, node_dir: str, log_dir: str) -> dict[str, Any]:
    error = measurement.error
    return {
        "status": str(measurement.status),
        "value": measurement.value,
        "seed": measurement.seed,
        "metrics": dict(measurement.metrics),
        "snapshot": measurement.snapshot is not None,
        "error": None if error is None else error.replace(node_dir, log_dir),
        "items": None if measurement.items is None else list(measurement.items),
    }


def measurement_from_data(data: Mapping[str, Any], snapshot_dir: Path) -> Measurement:
    """The measurement of a MEASURED event, whose snapshot is at `snapshot_dir` if there is one."""
    return Measurement(
        Status(data["status"]),
        data["value"],
        data["seed"],
        data["metrics"],
        snapshot=snapshot_dir if data["snapshot"] else None,
        error=data["error"],
        items=None if data["items"] is None else tuple(data["items"]),
    )


def _error_to_data(error: BaseException, node_dir: str = "", log_dir: str = "") -> dict[str, Any]:
    disk = error if isinstance(error, OSError) else disk_error(error)
    kinds = (CandidateUntouched, TermsChanged)
    return {
        "kind": next((kind.__name__ for kind in kinds if isinstance(error, kind)), type(error).__name__),
        "place": socket.gethostname(),
        "message": str(error).replace(node_dir, log_dir) if node_dir else str(error),
        "traceback": "".join(traceback.format_exception(error)),
        "is_disk": disk is error,
        "disk": None if disk is None else [disk.errno, disk.strerror, disk.filename and str(disk.filename)],
    }


def error_from_data(data: Mapping[str, Any]) -> Exception:
    """The error of a FAILED event: CandidateUntouched, TermsChanged, OSError, else FailedOnNode."""
    place, message = data["place"], data["message"]
    disk = None
    if data["disk"] is not None:
        number, words, path = data["disk"]
        disk = OSError(number, words, f"{place}:{path}") if path else OSError(number, f"{place}: {words}")
    error: Exception
    if data["is_disk"]:
        assert disk is not None
        error = disk
    elif data["kind"] == CandidateUntouched.__name__:
        error = CandidateUntouched(f"node {place}: {message}")
    elif data["kind"] == TermsChanged.__name__:
        error = TermsChanged(f"node {place}: {message}")
    else:
        error = FailedOnNode(f"{data['kind']} on node {place}: {message}")
    error.__cause__ = None if disk is error else disk
    error.add_note(data["traceback"])
    return error
