"""The cage at each level that works here: what its inmate cannot reach, cannot use up and cannot leave behind."""

import json
import os
import shutil
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest
from cages import Run

from autoresearch_jax.sandbox import sandbox as sandbox_module
from autoresearch_jax.sandbox.escapes import try_to_escape
from autoresearch_jax.sandbox.priority import take_idle_time_only
from autoresearch_jax.sandbox.sandbox import (
    MEBIBYTE,
    Level,
    Sandbox,
    SandboxError,
    open_sandbox,
)


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="needs Linux")
def test_what_a_thread_starts_that_takes_idle_time_only_takes_no_other(cage: Sandbox, run: Run, tmp_path: Path) -> None:
    code = "import os; print('policy', os.sched_getscheduler(0))"

    def start() -> None:
        take_idle_time_only()
        run(cage, code)

    run(cage, code)
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines == [f"policy {os.SCHED_OTHER}", f"policy {os.SCHED_IDLE}"]


def test_what_it_prints_and_how_it_ends_is_told(cage: Sandbox, run: Run, scratch: Path, tmp_path: Path) -> None:
    code = """
import os, sys, tempfile
import jax, numpy, autoresearch_jax.contract  # as a training file does
assert os.getcwd() == os.environ["HOME"]
open("kept", "w").write("x")
tempfile.TemporaryFile().write(b"x")
print("out"); print("err", file=sys.stderr)
sys.exit(3)
"""
    outcome = run(cage, code, memory_bytes=2048 * MEBIBYTE)
    log = (tmp_path / "log").read_text()
    assert sorted(log.split()) == ["err", "out"], log
    assert (outcome.returncode, outcome.broken_limit) == (3, None)
    assert (scratch / "kept").read_text() == "x"
    assert outcome.peak_memory_bytes > 10 * MEBIBYTE
    assert run(cage, "import os; os.abort()").returncode == -signal.SIGABRT
    assert run(cage, "import os; os.kill(os.getpid(), 9)").returncode == -signal.SIGKILL


def test_no_way_out_is_open_that_the_level_closes(cage: Sandbox, tmp_path: Path) -> None:
    attempts = try_to_escape(cage, tmp_path, os.environ)
    assert [attempt.name for attempt in attempts if attempt.claimed and not attempt.blocked] == []
    assert cage.level is Level.LIMITS or all(attempt.claimed for attempt in attempts)


def test_it_inherits_no_keys(cage: Sandbox, run: Run, tmp_path: Path) -> None:
    environment = {"PATH": "/bin", "GEMINI_API_KEY": "planted", "HF_TOKEN": "planted", "SSH_AUTH_SOCK": "planted"}
    assert run(cage, "import os; print(dict(os.environ))", environment).returncode == 0
    log = (tmp_path / "log").read_text()
    assert "'PATH': '/bin'" in log
    assert "planted" not in log


def test_only_what_python_needs_can_be_read(closed_cage: Sandbox, run: Run, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("planted")
    secrets = [
        str(tmp_path / "secret"),
        os.__file__,  # the default corpus: whoever reads it knows the validation text
        str(Path(os.__file__).parent / "__pycache__" / f"os.{sys.implementation.cache_tag}.pyc"),
        str(Path(__file__)),
        str(Path(sandbox_module.__file__).parents[2] / "README.md"),
        "/etc/passwd",
        "/bin/sh",
    ]
    folders = [str(tmp_path), str(Path.home()), "/home", "/etc", "/usr/bin", str(Path(os.__file__).parent)]
    code = f"""
import os, json, inspect
for path in {secrets}:
    try:
        open(path).read(1)
        print("OPEN", path)
    except OSError:
        pass
for path in {folders}:
    try:
        names = set(os.listdir(path)) - {{"scratch", "ld.so.cache", "localtime", "lib-dynload"}}
        names = [name for name in names if os.path.isfile(os.path.join(path, name))]
        print(*("OPEN" + os.path.join(path, name) for name in names))
    except OSError:
        pass
assert json.__doc__ is None
try:
    inspect.getsource(json)
    print("OPEN source")
except OSError:
    pass
print("done")
"""
    run(closed_cage, code)
    assert (tmp_path / "log").read_text().split() == ["done"]


def test_nothing_can_be_written_elsewhere(closed_cage: Sandbox, run: Run, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("untouched")
    elsewhere = [
        str(target),
        str(tmp_path / "new"),
        "/dev/shm/autoresearch-escape",
        "/autoresearch-escape",
        str(Path(sandbox_module.__file__).parent / "autoresearch-escape"),
    ]
    code = f"""
import os
for path in {elsewhere}:
    for attempt in (lambda: open(path, "w"), lambda: os.truncate(path, 0), lambda: os.link(path, "link"),
                    lambda: os.rename(path, "moved"), lambda: os.unlink(path)):
        try:
            attempt()  # in bubblewrap's own /tmp, of the same name, it may succeed
        except OSError:
            pass
print("done")
"""
    run(closed_cage, code)
    assert (tmp_path / "log").read_text().split() == ["done"]
    assert target.read_text() == "untouched"
    assert [path for path in elsewhere if Path(path).exists()] == [str(target)]


def test_there_is_no_network(cage: Sandbox, run: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as local:
        local.bind(str(tmp_path / "socket"))
        local.listen()
        port = listener.getsockname()[1]
        code = f"""
import socket
def udp():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", {port}))
def unix():
    socket.socket(socket.AF_UNIX).connect({str(tmp_path / "socket")!r})
for attempt in (lambda: socket.create_connection(("127.0.0.1", {port}), 2), udp, unix):
    try:
        attempt()
        print("OPEN")
    except OSError:
        print("shut")
"""
        run(cage, code)
    assert (tmp_path / "log").read_text().split() == ["shut"] * 3


# Starts processes that left their parent, session and output, and says when they are there.
def test_what_gets_around_the_walls_is_no_system_call(cage: Sandbox, run: Run, tmp_path: Path) -> None:
    code = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
for name, *arguments in (("unshare", 0x10000000), ("ptrace", 0, 0, 0, 0), ("shmget", 0, 4096, 0o1600),
                         ("mount", 0, 0, 0, 0, 0)):
    libc[name](*arguments)
    print(ctypes.get_errno() == errno.EPERM)
child = libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0)  # clone with a user namespace, on x86-64
print(child == -1 and ctypes.get_errno() == errno.EPERM)
"""
    if os.uname().machine != "x86_64":
        pytest.skip("the number of clone is another")
    run(cage, code)
    assert (tmp_path / "log").read_text().split() == ["True"] * 5


def test_require_is_refused_with_less_than_landlock(sandbox_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "landlock_abi", lambda: 0)
    nowhere = {"PATH": "/nowhere"}
    fallen = open_sandbox("auto", cache_dir=sandbox_cache, environment=nowhere)
    assert fallen.level is Level.LIMITS
    assert fallen.why_not[Level.BUBBLEWRAP] == "bwrap is not installed"
    for choice in ("require", "bubblewrap", "landlock"):
        with pytest.raises(SandboxError, match=rf"--sandbox={choice}: .*autoresearch doctor"):
            open_sandbox(choice, cache_dir=sandbox_cache, environment=nowhere)


def test_require_wants_walls_for_trials_too(sandbox_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("bwrap is not installed")
    monkeypatch.setattr(sandbox_module, "landlock_abi", lambda: 0)
    cage = open_sandbox("auto", cache_dir=sandbox_cache, environment=os.environ)
    assert cage.worker is Level.LIMITS
    if cage.level is Level.BUBBLEWRAP:
        with pytest.raises(SandboxError, match="--sandbox=require: the processes of trials need Landlock"):
            open_sandbox("require", cache_dir=sandbox_cache, environment=os.environ)


def test_limits_confine_no_trial(sandbox_cache: Path) -> None:
    assert open_sandbox("limits", cache_dir=sandbox_cache, environment=os.environ).worker is Level.LIMITS


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SandboxError, match=r"file/cache: Not a directory: what the sandbox shows"):
        open_sandbox("auto", cache_dir=tmp_path / "file" / "cache", environment=os.environ)


def test_a_bubblewrap_that_does_not_work_is_found_out(sandbox_cache: Path, tmp_path: Path) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    cage = open_sandbox("auto", cache_dir=sandbox_cache, environment={"PATH": f"{tmp_path}:/bin"})
    assert cage.level is not Level.BUBBLEWRAP
    assert cage.why_not[Level.BUBBLEWRAP] == "bwrap: No permissions to create new namespace"


def test_the_answer_of_the_watching_process_cannot_be_forged(cage: Sandbox, run: Run, tmp_path: Path) -> None:
    answer = json.dumps({"status": 0, "breach": None, "seconds": 0, "peak_memory_bytes": 0, "left": 0})
    code = f"""
import os
for descriptor in range(64):
    try:
        os.write(descriptor, {(answer + chr(10)).encode()!r})
    except OSError:
        pass
os._exit(5)
"""
    assert run(cage, code).returncode == 5
