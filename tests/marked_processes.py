"""Processes that inherited a variable which nobody else has, whoever their parent is by now."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

MARK = "JAX_TEST_MARK"  # a name that processes of trials inherit
WAIT_SECONDS = 60.0
# Leaves a process behind that belongs to no group and no session of its parent's, and has its descriptors.
DAEMON = """
import os, sys, time
pipe = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(pipe[1], b"alive")
        time.sleep(600)
    os._exit(0)
os.wait()
os.read(pipe[0], 1)
"""


def marked_processes(mark: str) -> list[int]:
    """Processes in whose environment, as it was when they became what they are, the mark is; zombies have none."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # gone meanwhile
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def comes_true(condition: Callable[[], bool], seconds: float = WAIT_SECONDS) -> bool:
    """Waits for a condition, and tells whether it came true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
