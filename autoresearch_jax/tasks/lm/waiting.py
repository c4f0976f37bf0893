"""The process of a trial to come: imports what a trial needs where nobody misses the time, waits, then serves it.

    python -m autoresearch_jax.tasks.lm.waiting

It says {"event": "waiting"} when all is imported, and touches no device. The first line of its input tells the trial's
log; from then on it is `worker.py`. When its input is closed it ends, and so does a guard's child whatever it does.
"""

import contextlib
import importlib
import json
import os
import sys
import threading
from pathlib import Path

from autoresearch_jax.sandbox import linux

_WORKER = "autoresearch_jax.tasks.lm.worker"


def main() -> int:
    # The priority is a thread's own and, but for root, cannot be raised again: the trial's threads are not this one's.
    thread = threading.Thread(target=_import_when_idle)
    thread.start()
    thread.join()
    worker = importlib.import_module(_WORKER)
    _emit({"event": "waiting"})
    line = sys.stdin.readline()
    if not line:
        return 0
    _print_to(Path(json.loads(line)["log"]))
    _emit({"event": "logging"})
    return int(worker.main())


def _import_when_idle() -> None:
    """Imports all that a trial needs, in time that nobody else wants, where that can be had."""
    with contextlib.suppress(OSError):
        linux.take_idle_time_only()
    importlib.import_module(_WORKER)


def _print_to(log_path: Path) -> None:
    """Adds what is printed from here on, by whatever code, to another file."""
    sys.stderr.flush()
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, sys.stderr.fileno())
    os.close(log)


def _emit(event: dict[str, str]) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    sys.exit(main())
