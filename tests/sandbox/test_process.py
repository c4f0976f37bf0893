"""Child processes: what they inherit, and that nothing of them is left."""

import os
import sys
import time
from pathlib import Path

import pytest

from autoresearch_jax.sandbox.process import (
    JsonWorker,
    ProcessTimeoutError,
    WorkerDiedError,
    bare_environment,
    describe_exit,
)

# Starts a child of its own, writes that child's pid to a file, then waits for ever.
WITH_CHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1], "w").write(str(child.pid))
{then}
"""
ECHO = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_gone(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_alive(pid)


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


def test_a_worker_takes_its_children_along(tmp_path: Path) -> None:
    worker = json_worker(WITH_CHILD.format(then="print('{}', flush=True); time.sleep(600)"), tmp_path, "pid")
    worker.receive(30.0)
    worker.close()
    assert wait_until_gone(int((tmp_path / "pid").read_text()))


def test_exit_statuses_in_words() -> None:
    assert describe_exit(3) == "exited with status 3"
    assert describe_exit(-15) == "was killed by SIGTERM"
