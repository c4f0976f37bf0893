"""Child processes: what they inherit, and that nothing of them is left, whatever ends them or the driver."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from marked_processes import DAEMON, MARK, comes_true, marked_processes

from autoresearch_jax.sandbox.linux import IS_LINUX, landlock_abi
from autoresearch_jax.sandbox.process import (
    JsonWorker,
    ProcessTimeoutError,
    WorkerDiedError,
    bare_environment,
    describe_exit,
    telling_line,
)

ECHO = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"


def test_a_child_inherits_no_keys() -> None:
    environment = {"PATH": "/bin", "GEMINI_API_KEY": "secret", "HF_TOKEN": "secret", "PYTHONPATH": "/elsewhere"}
    assert "secret" not in bare_environment(environment).values()
    assert bare_environment(environment, EXTRA="1")["EXTRA"] == "1"
    assert bare_environment(environment)["PATH"] == "/bin"


def json_worker(code: str, tmp_path: Path, *arguments: str) -> JsonWorker:
    return JsonWorker(
        [sys.executable, "-c", code, *arguments],
        environment=bare_environment(os.environ),
        cwd=tmp_path,
        log_path=tmp_path / "log",
    )


def test_a_worker_answers_line_by_line_and_leaves_when_closed(tmp_path: Path) -> None:
    worker = json_worker(ECHO, tmp_path)
    for message in ({"op": "a"}, {"op": "ä", "n": 1.5}):
        worker.send(message)
        assert worker.receive(30.0) == message
    with pytest.raises(ProcessTimeoutError):
        worker.receive(0.05)
    worker.close()
    with pytest.raises(WorkerDiedError):
        worker.receive(30.0)


def test_a_worker_that_dies_is_told_with_its_status(tmp_path: Path) -> None:
    worker = json_worker("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", tmp_path)
    with pytest.raises(WorkerDiedError, match="was killed by SIGKILL"):
        worker.receive(30.0)
    with pytest.raises(WorkerDiedError):
        worker.send({"op": "a"})
    worker.close()


def test_what_a_library_prints_is_no_answer(tmp_path: Path) -> None:
    chatter = "print('NCCL version 2.27\\n7\\n{', flush=True)"
    worker = json_worker(f"{chatter}; print('{{\"a\": 1}}', flush=True); import time; time.sleep(600)", tmp_path)
    assert worker.receive(30.0) == {"a": 1}
    worker.close()


def test_a_worker_that_falls_silent_without_ending_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoresearch_jax.sandbox.process.KILL_WAIT_SECONDS", 0.1)
    worker = json_worker("import os, time; os.close(1); time.sleep(600)", tmp_path)
    with pytest.raises(WorkerDiedError, match="closed its output"):
        worker.receive(30.0)
    worker.close()


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("", ""),
        (
            "W1129 05:53:55.8 12 a.cc:3] slow\nF1129 05:53:55.804881   12424 flags.cc:234] Unknown flag\n",
            "Unknown flag",
        ),
        (
            "E1129 05:56:26.894980   15354 command_line_flags.cc:63] Couldn't interpret value abc\n"
            "F1129 05:56:26.895228   15354 flags.cc:220] Check failed: Parse\nusage: a\n --xla_dump_to=\n",
            "Couldn't interpret value abc",
        ),
        (
            "Fatal Python error: Segmentation fault\n\nThread 0x7 (most recent call first):\n  File x\n",
            "Segmentation fault",
        ),
        (
            "Traceback (most recent call last):\n  File x\nValueError: no \x1b[31msuch device\n--------------------\n"
            "For simplicity, JAX has removed its internal frames\n",
            "ValueError: no such device",
        ),
    ],
)
def test_the_line_of_a_log_that_says_why(log: str, line: str) -> None:
    assert telling_line(log) == line


def test_exit_statuses_in_words() -> None:
    assert describe_exit(3) == "exited with status 3"
    assert describe_exit(-15) == "was killed by SIGTERM"


READY = 'print("{}", flush=True)\n'
ASKED = "sys.stdin.readline()\n"
WAIT = "time.sleep(600)\n"
StartWorker = Callable[[str], JsonWorker]


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    """Of the processes that a test starts."""
    mark = f"{MARK}={tmp_path}"
    yield mark
    for pid in marked_processes(mark):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def start_worker(mark: str, tmp_path: Path) -> StartWorker:
    """A worker that has begun to do what the code says after it left a daemon behind."""

    def start(code: str) -> JsonWorker:
        worker = JsonWorker(
            [sys.executable, "-c", f"{DAEMON}{READY}{code}"],
            environment={**os.environ, MARK: str(tmp_path)},
            cwd=tmp_path,
            log_path=tmp_path / "log",
        )
        assert worker.receive(30.0) == {}
        assert len(marked_processes(mark)) == 3  # watch, worker, daemon
        return worker

    return start


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_closing_leaves_nothing(start_worker: StartWorker, mark: str) -> None:
    worker = start_worker(WAIT)
    worker.close()
    assert marked_processes(mark) == []  # at once
    worker.close()  # as often as one likes


@pytest.mark.parametrize(
    ("code", "returncode"),
    [
        ("sys.exit(7)", 7),
        ("os.kill(os.getpid(), 9)", -9),
        ("import signal; signal.signal(13, signal.SIG_DFL); os.kill(os.getpid(), 13)", -13),
    ],
)
def test_a_worker_s_end_is_told_as_it_was_and_takes_its_daemon_along(
    code: str, returncode: int, start_worker: StartWorker, mark: str
) -> None:
    worker = start_worker(ASKED + code)
    worker.send({})
    with pytest.raises(WorkerDiedError) as caught:
        worker.receive(30.0)
    assert caught.value.returncode == returncode
    assert marked_processes(mark) == []
    worker.close()


@pytest.mark.parametrize("send", ["", "worker.send({'op': 'a'})\n"], ids=["input empty", "input not read"])
def test_nothing_outlives_a_driver_that_is_killed(send: str, mark: str, tmp_path: Path) -> None:
    code = f"{DAEMON}{READY}while True: pass"
    driver = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, sys, time\nfrom pathlib import Path\n"
            "from autoresearch_jax.sandbox.process import JsonWorker\n"
            f"worker = JsonWorker([sys.executable, '-c', {code!r}], environment=os.environ | {{{MARK!r}: sys.argv[1]}},"
            " cwd=Path(sys.argv[1]), log_path=Path(sys.argv[1]) / 'log')\n"
            f"worker.receive(30.0)\n{send}print(flush=True)\ntime.sleep(600)",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
    )
    with driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"\n"
        assert len(marked_processes(mark)) == 3
        driver.kill()
    assert comes_true(lambda: not marked_processes(mark))


def test_a_watch_that_is_told_to_end_leaves_nothing(start_worker: StartWorker, mark: str) -> None:
    worker = start_worker(WAIT)
    worker._process.terminate()
    assert comes_true(lambda: not marked_processes(mark))
    worker.close()


def test_a_worker_dies_with_what_watches_it(start_worker: StartWorker) -> None:
    worker = start_worker(WAIT)
    (pid,) = (child for child in children(worker._process.pid) if is_worker(child))
    worker._process.kill()
    worker._process.wait()
    assert comes_true(lambda: not is_worker(pid))


def is_worker(pid: int) -> bool:
    """Whether it is the worker itself: the daemon leads no session."""
    try:
        return os.getsid(pid) == pid and bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except (OSError, ProcessLookupError):
        return False


def test_input_and_output_are_the_worker_s_own_and_what_watches_it_sleeps(start_worker: StartWorker) -> None:
    worker = start_worker(f'{ASKED}print("{{\\"n\\": 1}}", flush=True)\n{WAIT}')
    watch = worker._process.pid
    (pid,) = (child for child in children(watch) if is_worker(child))
    assert os.readlink(f"/proc/{pid}/fd/0") == os.readlink(f"/proc/{watch}/fd/0")
    assert os.readlink(f"/proc/{watch}/fd/1") == os.devnull

    def times_it_slept() -> str:
        status = Path(f"/proc/{watch}/status").read_text()
        return next(line for line in status.splitlines() if line.startswith("voluntary_ctxt_switches"))

    before = times_it_slept()
    worker.send({"op": "a"})  # what is written is for the worker
    assert worker.receive(30.0) == {"n": 1}
    assert times_it_slept() == before
    worker.close()


def test_what_cannot_be_run_is_named_in_the_log(tmp_path: Path) -> None:
    worker = JsonWorker(["/nowhere/python"], environment=os.environ, cwd=tmp_path, log_path=tmp_path / "log")
    with pytest.raises(WorkerDiedError, match="exited with status 126"):
        worker.receive(30.0)
    worker.close()
    assert (tmp_path / "log").read_text().startswith("/nowhere/python: cannot be run: ")


REACH_OUT = """
import json, os, socket, sys
def works(action):
    try:
        action()
    except OSError:
        return False
    return True
def own_loopback():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        socket.create_connection(listener.getsockname(), 5).close()
tries = {
    "write": lambda: open("new", "w").close(),
    "read elsewhere": lambda: open(sys.argv[1], "rb").close(),
    "link": lambda: os.symlink("/", "link"),
    "host": lambda: socket.create_connection(("127.0.0.1", int(sys.argv[2])), 5).close(),
    "loopback": own_loopback,
    "datagrams": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
    "stream": lambda: socket.socket(socket.AF_UNIX),
}
print(json.dumps({"works": [name for name, action in tries.items() if works(action)]}), flush=True)
"""


@pytest.mark.skipif(landlock_abi() == 0, reason="the kernel has no Landlock")
@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (None, {"write"}),
        ("loopback", {"write", "loopback", "datagrams"}),
        ("host", {"write", "loopback", "datagrams", "host"}),
    ],
)
def test_a_confined_worker_has_the_network_and_the_files_it_needs(
    network: str | None, expected: set[str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    secret = tmp_path_factory.mktemp("elsewhere") / "secret"
    secret.touch()
    readable = ["/usr", "/lib", "/lib64", "/proc", "/etc/ld.so.cache", sys.prefix, sys.base_prefix, sys.executable]
    readable += [f"{secret}/inner", str(tmp_path / "loop"), "/" + "x" * 300]  # as PYTHONPATH may have them
    (tmp_path / "loop").symlink_to("loop")
    landlock = {"readable": readable, "writable": [str(tmp_path)], "network": network is not None, "plain": True}
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as resources:
        resources.callback((tmp_path / "gone").touch)
        worker = JsonWorker(
            [sys.executable, "-c", REACH_OUT, str(secret), str(listener.getsockname()[1])],
            environment=bare_environment(os.environ),
            cwd=tmp_path,
            log_path=tmp_path / "log",
            confine={"keep_capabilities": 0, "landlock": landlock, "network": network},
            resources=resources.pop_all(),
        )
        with contextlib.closing(worker):
            works = set(worker.receive(60)["works"])
    if network == "loopback" and "host" in works:
        pytest.skip("the kernel does not let this user have a network namespace")
    assert works == expected
    assert (tmp_path / "gone").exists()


REFUSED_HALFWAY = """
import os, sys
from pathlib import Path
from autoresearch_jax.sandbox import linux
call, write = linux._call, Path.write_text
def refuse_without_user(name, *arguments):
    if name == "unshare" and not arguments[0] & linux._CLONE_NEWUSER:
        raise PermissionError
    return call(name, *arguments)
def refuse_map(path, text):
    if path.name == "uid_map":
        raise PermissionError
    return write(path, text)
linux._call, Path.write_text = refuse_without_user, refuse_map
state = lambda: (os.getuid(), os.readlink("/proc/self/ns/net"), os.readlink("/proc/self/ns/user"))
before = state()
assert not getattr(linux, sys.argv[1])()
assert state() == before
"""


@pytest.mark.skipif(not IS_LINUX, reason="namespaces are Linux's")
@pytest.mark.parametrize("enter", ["enter_namespaces", "enter_loopback_namespace"])
def test_a_namespace_that_is_refused_halfway_changes_nothing(enter: str) -> None:
    subprocess.run([sys.executable, "-c", REFUSED_HALFWAY, enter], check=True)
