"""The process of one trial: imports what it needs, then does what the driver asks, one JSON line at a time.

    python -m autoresearch_jax.tasks.lm.worker

It runs our code only, never the candidate's Python. It touches no device before it is told to measure, so it
can wait beside another trial. When its input is closed its guard (`runtime/guard.py`) ends it, or it leaves by itself.
"""

import contextlib
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from autoresearch_jax.errors import UserError
from autoresearch_jax.sandbox.faults import FaultPoint, reach
from autoresearch_jax.sanitize import clean_line, quoted
from autoresearch_jax.tasks.lm.canonical import HASH_VERSION
from autoresearch_jax.tasks.lm.caps import Caps
from autoresearch_jax.tasks.lm.disk_faults import disk_error, to_json
from autoresearch_jax.tasks.lm.judge_again import UnfitSnapshotError, judge_again
from autoresearch_jax.tasks.lm.measure import measure
from autoresearch_jax.tasks.lm.messages import JUDGE_AGAIN, MEASURE, TIME_REFERENCE, MeasureRequest
from autoresearch_jax.tasks.lm.programs import ProgramError, check_asked, load_programs
from autoresearch_jax.tasks.lm.reference import Reference
from autoresearch_jax.types import HASHED_BY


def check(folder: Path, request: Mapping[str, Any], caps: Caps) -> dict[str, Any]:
    """Checks the traced programs of a request; tells their hash and what is known of them before they run."""
    try:
        programs = load_programs(folder)
        check_asked(programs, request, caps)
    except ProgramError as error:
        return {"event": "rejected", "reason": clean_line(str(error))}
    except Exception as error:  # of files made to be stumbled over
        if disk_error(error) is not None:
            raise
        traceback.print_exc()
        reason = f"the traced programs cannot be read: {type(error).__name__}: {quoted(str(error))}"
        return {"event": "rejected", "reason": reason}
    return {
        "event": "checked",
        "program_hash": programs.program_hash,
        "facts": {
            HASHED_BY: f"{HASH_VERSION}, jax {jax.__version__}",
            "num_params": programs.num_params,
            "vocab_size": programs.vocab_size,
            "state_bytes": programs.state_bytes,
            "constant_bytes": programs.constant_bytes,
            "batch_tokens": programs.steps[0].batch_shape[0] * (programs.steps[0].batch_shape[1] - 1),
        },
    }


def devices() -> dict[str, Any]:
    """What there is to run on. Takes hold of the devices."""
    first = jax.devices()[0]
    stats = first.memory_stats() or {}
    return {
        "event": "devices",
        "platform": {"gpu": "cuda"}.get(first.platform, first.platform),
        "device_kind": first.device_kind,
        "num_devices": jax.device_count(),
        "device_memory_bytes": stats.get("bytes_limit"),
    }


def main() -> int:
    with contextlib.suppress(OSError):  # where memory runs out, a candidate's trial dies first, not the driver
        Path("/proc/self/oom_score_adj").write_text("1000")
    requests = _requests_until_closed()
    _emit({"event": "ready"})
    for message in requests:
        try:
            if message["op"] == "check":
                _emit(check(Path(message["programs_dir"]), message["request"], Caps(**message["caps"])))
            elif message["op"] == "devices":
                _emit(devices())
            elif message["op"] == TIME_REFERENCE:
                _emit({"event": "reference", "seconds": Reference().measure()})
            elif message["op"] in (MEASURE, JUDGE_AGAIN):
                run = measure if message["op"] == MEASURE else judge_again
                answer = run(MeasureRequest.from_json(message), _emit)
                reach(FaultPoint.BEFORE_ANSWER)
                _emit({"event": "result", **answer})
            else:
                raise ValueError(f"unknown request {message['op']!r}")
        except Exception as error:
            with contextlib.suppress(OSError):  # the log's disk may be full, too
                _log(error)
            _emit(_failure(error))
    return 0


def _log(error: Exception) -> None:
    if isinstance(error, UnfitSnapshotError):
        print(f"the snapshot is not judged: {error}", file=sys.stderr, flush=True)
    elif not isinstance(error, UserError):
        traceback.print_exception(error)


def _failure(error: Exception) -> dict[str, Any]:
    """What the driver is told of a failure: whose it is follows from its kind, or from the disk's error behind it."""
    reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    if (fault := disk_error(error)) is not None:
        return {"event": "failed", "reason": reason, "disk": to_json(fault)}
    if isinstance(error, UnfitSnapshotError):
        return {"event": "unfit", "reason": str(error)}
    return {"event": "failed", "reason": reason}


def _requests_until_closed() -> Any:
    """Yields requests as they come; ends the process at once, whatever it is doing, when the input is closed."""
    arrived: queue.Queue[dict[str, Any]] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            arrived.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield arrived.get()


def _emit(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
