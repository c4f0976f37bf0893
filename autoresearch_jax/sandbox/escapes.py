"""Tries for real to get out of a sandbox, and sees from outside what came of it. For `autoresearch doctor`."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from autoresearch_jax.sandbox.linux import SCOPE_ABI, landlock_abi
from autoresearch_jax.sandbox.sandbox import MEBIBYTE, Level, ProcessLimits, Sandbox, SandboxResult, remove_tree

LIMITS = ProcessLimits(
    wall_seconds=20.0,
    cpu_seconds=1.0,
    memory_bytes=256 * MEBIBYTE,
    processes=30,
    threads=60,
    file_bytes=16 * MEBIBYTE,
    scratch_bytes=16 * MEBIBYTE,
    log_bytes=MEBIBYTE,
)
SHORT_SECONDS = 1.0

# Prints what it can read; what else it achieves is seen from outside.
_REACH_OUT = """
import json, os, socket, sys
plan = json.loads(sys.argv[1])
def attempt(action):
    try:
        return action()
    except OSError:
        return None
for name, path in plan["read"].items():
    text = attempt(lambda: open(path, "rb").read())
    if text is not None and plan["expected"][name].encode() in text:
        print("read", name)
attempt(lambda: open(plan["write"], "w").close())
attempt(lambda: socket.create_connection(("127.0.0.1", plan["port"]), 2).close())
attempt(lambda: os.kill(plan["victim"], 15))
"""
_DAEMON = """
import os, time  # {word}
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for descriptor in range(3):
            os.close(descriptor)
        open("alive", "w").close()
        time.sleep(60)
    os._exit(0)
while not os.path.exists("alive"):
    time.sleep(0.01)
"""
# Each with the limit that must stop it. Were nothing to stop it, it would end by itself.
_EXCESSES: dict[str, tuple[str, str]] = {
    "exceed_memory": ("memory_bytes", "hold = [b'x' * (1 << 24) for _ in range(64)]\nimport time; time.sleep(5)"),
    "exceed_cpu_time": ("cpu_seconds", "import time\nwhile time.process_time() < 6: pass"),
    "fork_bomb": ("processes", "import os, time\nfor _ in range(9):\n    os.fork()\ntime.sleep(5)"),
    "fill_disk": (
        "scratch_bytes",
        "import time\nfor i in range(8): open(f'f{i}', 'wb').write(b'x' * (8 << 20))\ntime.sleep(5)",
    ),
    "fill_log": ("log_bytes", "for _ in range(1 << 15): print('x' * 1000)"),
    "run_for_ever": ("wall_seconds", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(20)"),
}
_READING = "read_your_files", "read_dataset", "read_run_folder", "read_stdlib"
_ENVIRONMENT = "read_environment"


@dataclass(frozen=True)
class Attempt:
    """One way out, tried.

    Attributes:
      name: what was tried.
      blocked: whether it failed.
      claimed: whether the sandbox's level is there to block it.
    """

    name: str
    blocked: bool
    claimed: bool


def try_to_escape(cage: Sandbox, folder: Path, environment: Mapping[str, str]) -> list[Attempt]:
    """Runs every attempt, some seconds together; all are harmless where they succeed.

    Args:
      cage: the sandbox.
      folder: an existing folder of the user's, in which things to find are planted and taken away again.
      environment: variables of this process.
    """
    place = Path(tempfile.mkdtemp(prefix="doctor-", dir=folder)).resolve()
    try:
        attempts = _reach_out(cage, place, environment)
        attempts.append(_leave_a_daemon(cage, place, environment))
        for name, (limit, code) in _EXCESSES.items():
            wall_seconds = SHORT_SECONDS if limit == "wall_seconds" else LIMITS.wall_seconds
            outcome = _run(cage, place, environment, ["-c", code], replace(LIMITS, wall_seconds=wall_seconds))
            attempts.append(Attempt(name, outcome.broken_limit == limit, claimed=True))
        return attempts
    finally:
        remove_tree(place)


def _reach_out(cage: Sandbox, place: Path, environment: Mapping[str, str]) -> list[Attempt]:
    """Reads, writes, connects and signals what is not its own."""
    word = secrets.token_hex(16)
    planted = [place / "secret", place / "data" / "val.tokens", place / "runs" / "tonight" / "ledger.db"]
    for path in planted:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(word)
    read = {**dict(zip(_READING, map(str, planted), strict=False)), _READING[-1]: os.__file__}
    expected = {**dict.fromkeys(read, word), _READING[-1]: "def makedirs", _ENVIRONMENT: word}
    target = place / "written"
    victim = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "import sys; print(flush=True); sys.stdin.read()"],
        env={"SECRET": word},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert victim.stdout is not None
        victim.stdout.readline()
        read[_ENVIRONMENT] = f"/proc/{victim.pid}/environ"
        with socket.create_server(("127.0.0.1", 0)) as listener:
            plan = {
                "read": read,
                "expected": expected,
                "write": str(target),
                "port": listener.getsockname()[1],
                "victim": victim.pid,
            }
            outcome = _run(cage, place, environment, ["-c", _REACH_OUT, json.dumps(plan)], LIMITS)
            reached = _was_reached(listener)
        with contextlib.suppress(subprocess.TimeoutExpired):
            victim.wait(0.2)
        signalled = victim.returncode == -signal.SIGTERM
    finally:
        victim.kill()
        victim.communicate()
    done = (place / "log").read_text(errors="replace").splitlines()
    ran = outcome.returncode == 0
    confined = cage.level is not Level.LIMITS
    signals = cage.level is Level.BUBBLEWRAP or outcome.own_namespaces or (confined and landlock_abi() >= SCOPE_ABI)
    return [
        *(Attempt(name, ran and f"read {name}" not in done, claimed=confined) for name in (*_READING, _ENVIRONMENT)),
        Attempt("write_elsewhere", ran and not target.exists(), claimed=confined),
        Attempt("open_connection", ran and not reached, claimed=confined),
        Attempt("signal_process", ran and not signalled, claimed=signals),
    ]


def _leave_a_daemon(cage: Sandbox, place: Path, environment: Mapping[str, str]) -> Attempt:
    word = secrets.token_hex(16)
    outcome = _run(cage, place, environment, ["-c", _DAEMON.format(word=word)], LIMITS)
    left = processes_with(word)
    for pid in left:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    return Attempt("leave_daemon", outcome.returncode == 0 and not left, claimed=True)


def _run(
    cage: Sandbox, place: Path, environment: Mapping[str, str], arguments: list[str], limits: ProcessLimits
) -> SandboxResult:
    scratch = place / "scratch"
    remove_tree(scratch)
    scratch.mkdir()
    (place / "log").unlink(missing_ok=True)
    return cage.run_python(arguments, scratch=scratch, environment=environment, log_path=place / "log", limits=limits)


def _was_reached(listener: socket.socket) -> bool:
    listener.setblocking(False)
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def processes_with(word: str) -> list[int]:
    """Processes whose command line holds a word."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if word.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found
