"""The process of one trial: answers the driver's requests, one JSON line each. It runs our code only.

    python -m autoresearch_jax.tasks.lm.worker [--standby]

It touches no device before it is told to measure. With --standby it imports what a trial needs at idle priority, emits
{"event": "waiting"}, and becomes the worker of the trial whose log it is sent. It exits when its input is closed.
Commands that run the programs of a snapshot start one for a single request, see `verification.py`.
"""

import collections
import contextlib
import importlib
import json
import os
import queue
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from autoresearch_jax.errors import UserError
from autoresearch_jax.sandbox import linux, priority
from autoresearch_jax.tasks.lm.cage import OPERATIONS

STANDARD_OUTPUT = 1


def main(arguments: list[str]) -> int:
    _keep_output_for_answers()
    if arguments == ["--standby"]:
        # Only root can raise a priority again: lower that of another thread than those that will do the trial
        with priority.behind_other_sessions():
            thread = threading.Thread(target=_import_when_idle)
            thread.start()
            thread.join()
        _import_operations()
        _emit({"event": "waiting"})
        line = sys.stdin.readline()
        if not line:
            return 0
        _print_to(Path(json.loads(line)["log"]))
        _emit({"event": "logging"})
    return serve()


def serve() -> int:
    """Answers requests until the input is closed."""
    with contextlib.suppress(OSError):  # when memory runs out, the trial is killed first, not the driver
        Path("/proc/self/oom_score_adj").write_text("1000")  # where it is confined, this was done before
    _import_operations()
    requests = _requests_until_closed()
    _emit({"event": "ready"})
    for message in requests:
        try:
            _emit(_answer(message))
        except Exception as error:
            with contextlib.suppress(OSError):  # the log's disk may be full, too
                _log(error)
            _emit(failure(error))
    return 0


def failure(error: Exception) -> dict[str, Any]:
    """The event for a failure; "disk" describes the error of a disk that caused it."""
    from autoresearch_jax.files import disk_error, disk_error_to_json
    from autoresearch_jax.tasks.lm.integrity import UnfitSnapshotError

    reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    if (fault := disk_error(error)) is not None:
        return {"event": "failed", "reason": reason, "disk": disk_error_to_json(fault)}
    return {"event": "unfit" if isinstance(error, UnfitSnapshotError) else "failed", "reason": reason}


def _answer(message: Mapping[str, Any]) -> dict[str, Any]:
    from autoresearch_jax.tasks.lm.channel import Gathering
    from autoresearch_jax.tasks.lm.clock import Reference
    from autoresearch_jax.tasks.lm.config import (
        FOLLOW,
        JUDGE_AGAIN,
        MEASURE,
        SAMPLE,
        SCORE_SNAPSHOT,
        TIME_REFERENCE,
        Caps,
        MeasureRequest,
    )
    from autoresearch_jax.tasks.lm.device import DEVICES
    from autoresearch_jax.tasks.lm.following import follow
    from autoresearch_jax.tasks.lm.judging import judge_again
    from autoresearch_jax.tasks.lm.leading import ALONE, Lead
    from autoresearch_jax.tasks.lm.measure import measure
    from autoresearch_jax.tasks.lm.programs import check_traced, try_devices

    operation = message["op"]
    if operation == "check":
        return check_traced(Path(message["programs_dir"]), message["request"], Caps(**message["caps"]))
    if operation == DEVICES:
        if message.get("hosts") is None:
            return _devices()
        lead = Lead.gather(Gathering(**message["hosts"]))
        try:
            return _devices()
        finally:
            lead.close()
    if operation == TIME_REFERENCE:
        return {"event": "reference", "seconds": Reference().measure()}
    if operation == FOLLOW:
        return follow(message)
    if operation in (MEASURE, JUDGE_AGAIN):
        request = MeasureRequest.from_json(message)
        lead = ALONE if request.hosts is None else Lead.gather(request.hosts)
        try_devices()  # what fails before the first phase of a trial is no fault of the candidate
        if request.files is not None:
            _confine(request.files)
        answer = measure(request, _emit, lead) if operation == MEASURE else judge_again(request, _emit)
        return {"event": "result", **answer}
    if operation in (SCORE_SNAPSHOT, SAMPLE):
        return _answer_about_snapshot(message)
    raise ValueError(f"unknown request {operation!r}")


def _answer_about_snapshot(message: Mapping[str, Any]) -> dict[str, Any]:
    import jax

    from autoresearch_jax.tasks.lm.config import SAMPLE, SNAPSHOT_BEGINS, SampleSettings
    from autoresearch_jax.tasks.lm.integrity import SnapshotError
    from autoresearch_jax.tasks.lm.judging import score_snapshot
    from autoresearch_jax.tasks.lm.programs import try_devices
    from autoresearch_jax.tasks.lm.snapshot import sample

    folder = Path(message["snapshot_dir"])
    try:
        jax.devices()
    except RuntimeError:  # there are none of that kind, of which the snapshot's own check tells
        pass
    else:
        try_devices()  # what fails here is no fault of the snapshot
    _emit({"event": SNAPSHOT_BEGINS})
    try:
        if message["op"] == SAMPLE:
            return {"event": "result", "text": sample(folder, SampleSettings(**message["settings"]))}
        return {"event": "result", **score_snapshot(folder, message["dataset"], message["batch_rows"])}
    except SnapshotError as error:
        return {"event": "unusable", "reason": str(error)}


def _confine(files: Mapping[str, Any]) -> None:
    """Narrows what this thread, and those that it starts from here on, may touch to what this trial needs."""
    linux.restrict_files(**{**files, "writable": [*files["writable"], tempfile.gettempdir()]})


def _devices() -> dict[str, Any]:
    """What there is to run on. Takes hold of the devices."""
    import jax

    first = jax.local_devices()[0]
    stats = first.memory_stats() or {}
    kinds = collections.Counter((device.process_index, device.device_kind) for device in jax.devices())
    return {
        "event": "devices",
        "platform": {"gpu": "cuda"}.get(first.platform, first.platform),
        "device_kind": first.device_kind,
        "num_devices": jax.device_count(),
        "device_memory_bytes": stats.get("bytes_limit"),
        "hosts": [[host_id, kind, number] for (host_id, kind), number in sorted(kinds.items())],
    }


def _log(error: Exception) -> None:
    if isinstance(error, UserError):
        print(error, file=sys.stderr, flush=True)
    else:
        traceback.print_exception(error)


def _requests_until_closed() -> Iterator[dict[str, Any]]:
    """Yields requests; a thread ends the process at once when the input is closed."""
    arrived: queue.Queue[dict[str, Any]] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            arrived.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield arrived.get()


def _import_when_idle() -> None:
    with contextlib.suppress(OSError):
        priority.take_idle_time_only()
    _import_operations()


def _import_operations() -> None:
    """Imports JAX, in a standby at idle priority; so nothing here imports it at its top."""
    for name in OPERATIONS:
        importlib.import_module(name)


def _print_to(log_path: Path) -> None:
    """Appends standard error, of C++ code too, to a file from now on."""
    sys.stderr.flush()
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, sys.stderr.fileno())
    os.dup2(log, STANDARD_OUTPUT)
    os.close(log)


def _keep_output_for_answers() -> None:
    """Has what C++ code prints to standard output, such as Gloo, go where standard error goes."""
    sys.stdout = os.fdopen(os.dup(STANDARD_OUTPUT), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), STANDARD_OUTPUT)


def _emit(event: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
