"""The cage at each level that works here: what its inmate cannot reach, cannot use up and cannot leave behind."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoresearch_jax.sandbox import sandbox as sandbox_module
from autoresearch_jax.sandbox.escapes import LIMITS, processes_with, try_to_escape
from autoresearch_jax.sandbox.linux import take_idle_time_only
from autoresearch_jax.sandbox.sandbox import (
    MEBIBYTE,
    Level,
    Sandbox,
    SandboxError,
    SandboxResult,
    open_sandbox,
    remove_tree,
)

SMALL = replace(
    LIMITS, wall_seconds=120.0, cpu_seconds=15.0, scratch_bytes=8 * MEBIBYTE, scratch_files=200, log_bytes=64 << 10
)
SMALL = replace(SMALL, threads=80, file_bytes=4 * MEBIBYTE)
CONFINED = (Level.BUBBLEWRAP, Level.LANDLOCK)
Run = Callable[..., SandboxResult]


def level_or_skip(level: Level, cache: Path) -> Sandbox:
    try:
        return open_sandbox(level, cache_dir=cache, environment=os.environ)
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture(params=list(Level))
def cage(request: pytest.FixtureRequest, sandbox_cache: Path) -> Sandbox:
    return level_or_skip(request.param, sandbox_cache)


@pytest.fixture(params=CONFINED)
def closed_cage(request: pytest.FixtureRequest, sandbox_cache: Path) -> Sandbox:
    return level_or_skip(request.param, sandbox_cache)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def run(scratch: Path, tmp_path: Path) -> Run:
    """Runs Python code in a cage; what it printed is in tmp_path / "log"."""

    def run_code(cage: Sandbox, code: str, environment: Mapping[str, str] = os.environ, **limits: Any) -> SandboxResult:
        return cage.run_python(
            ["-c", code],
            scratch=scratch,
            environment=environment,
            log_path=tmp_path / "log",
            limits=replace(SMALL, **limits),
        )

    return run_code


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
DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            os.close(0); os.close(1); os.close(2)
            open(f"alive{{os.getpid()}}", "w").close()
            time.sleep(60)
            open("outlived", "w").close()
    os._exit(0)
while not [name for name in os.listdir(".") if name.startswith("alive")]:
    time.sleep(0.01)
{then}  # the daemon that was left
"""


@pytest.fixture(params=["with namespaces", "without"])
def cage_with_or_without(request: pytest.FixtureRequest, cage: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """Also as on a machine whose kernel gives us no namespaces."""
    if request.param == "without":
        if cage.level is Level.BUBBLEWRAP:
            pytest.skip("bubblewrap has always namespaces")
        carry_out = sandbox_module.carry_out

        def without(order: Mapping[str, Any], **options: Any) -> dict[str, Any]:
            return carry_out({**order, "confine": {**order["confine"], "namespaces": False}}, **options)

        monkeypatch.setattr(sandbox_module, "carry_out", without)
    return cage


@pytest.mark.parametrize("then", ["sys.exit(0)", "os.abort()", "time.sleep(60)"])
def test_a_daemon_is_gone_when_the_run_is(then: str, cage_with_or_without: Sandbox, run: Run) -> None:
    limit = {"wall_seconds": 1.0} if "sleep" in then else {}
    outcome = run(cage_with_or_without, DAEMON.format(then=then), **limit)
    assert outcome.words == ("ran longer than 1 s" if "sleep" in then else None)
    assert not processes_with("the daemon that was left")


def test_a_fork_bomb_is_contained(cage_with_or_without: Sandbox, run: Run) -> None:
    # of at most 4096, should the cage not hold
    code = "import os, time\nfor _ in range(12):\n    os.fork()  # forked again and again\ntime.sleep(30)"
    outcome = run(cage_with_or_without, code)
    assert outcome.broken_limit == "processes"
    assert outcome.words == "started more than 30 processes"
    assert not processes_with("forked again and again")


def test_threads_count_too(cage: Sandbox, run: Run) -> None:
    code = """
import threading, time
for _ in range(100):
    threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
time.sleep(30)
"""
    outcome = run(cage, code)
    assert outcome.broken_limit == "threads" or outcome.returncode != 0  # our count, or the kernel's


def test_memory_is_limited_over_all_processes(cage: Sandbox, run: Run) -> None:
    code = """
import os
for _ in range(4):
    if os.fork() == 0:
        break
hold = bytearray(b"x" * (100 << 20))
import time; time.sleep(30)
"""
    outcome = run(cage, code)
    assert outcome.words == "used more than 0.2 GiB of memory"
    assert outcome.peak_memory_bytes < 1024 * MEBIBYTE


def test_what_processes_share_counts_once(cage: Sandbox, run: Run) -> None:
    code = """
import os, time
hold = bytearray(b"x" * (100 << 20))
for _ in range(3):
    if os.fork() == 0:
        break
time.sleep(0.5)
"""
    assert run(cage, code).returncode == 0


TOO_MUCH = "wrote more than 8 MiB"
FILES = "import os, time\nfor i in range(10): open(f'big{i}', 'wb').write(b'x' * (2 << 20))"
DISK_FILLERS = {
    "one file": ("open('big', 'wb').write(bytes(64 << 20))", None),
    "many files": (f"{FILES}\ntime.sleep(30)", TOO_MUCH),
    "at the end": (FILES, TOO_MUCH),
    "in /tmp": (FILES.replace("big", '{os.environ["TMPDIR"]}/big'), TOO_MUCH),
    "without a name": (
        "import tempfile, time\nhold = [tempfile.TemporaryFile() for _ in range(10)]\n"
        "for f in hold: f.write(b'x' * (2 << 20))\ntime.sleep(30)",
        TOO_MUCH,
    ),
    "in memory": (
        "import os, time\nfor _ in range(10): os.write(os.memfd_create('x'), b'x' * (2 << 20))\ntime.sleep(30)",
        TOO_MUCH,
    ),
    "empty files": ("for i in range(1000): open(f'f{i}', 'w')", "made more than 200 files"),
    "deep folders": ("import os\nfor i in range(100): os.mkdir('d'); os.chdir('d')", "made more than 64 folders"),
}


@pytest.mark.parametrize("filler", DISK_FILLERS)
def test_the_disk_cannot_be_filled(filler: str, cage: Sandbox, run: Run, scratch: Path, tmp_path: Path) -> None:
    code, words = DISK_FILLERS[filler]
    outcome = run(cage, code)
    assert (outcome.words or "").startswith(words or "")
    if words is None:
        assert (outcome.words, outcome.returncode) == (None, 1)
        assert "File too large" in (tmp_path / "log").read_text()
    assert sum(path.lstat().st_blocks * 512 for path in scratch.rglob("*")) < 64 * MEBIBYTE
    remove_tree(scratch)
    assert not scratch.exists()


BUSY = "import os, time\nfor _ in range(50):\n    if os.fork() == 0:\n        while time.process_time() < 0.2: pass\n"
BUSY += "        os._exit(0)\n    os.wait()"


def test_cpu_time_is_limited_over_all_processes(cage: Sandbox, run: Run) -> None:
    assert run(cage, BUSY, cpu_seconds=1.0, wall_seconds=60.0).words == "used more than 1 s of CPU time"


@pytest.mark.parametrize("own_namespaces", [True, False])
def test_all_is_gone_when_the_driver_is_killed(cage: Sandbox, own_namespaces: bool, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    code = DAEMON.format(then="time.sleep(60)").replace("the daemon", f"{tmp_path.name} the daemon")
    driver_code = f"""
import os
from pathlib import Path
from autoresearch_jax.sandbox import sandbox
carry_out = sandbox.carry_out
if not {own_namespaces}:
    sandbox.carry_out = lambda order, **options: carry_out(
        {{**order, "confine": {{**order["confine"], "namespaces": False}}}}, **options)
mounts = sandbox.python_mounts(Path({str(cage.mounts.import_path[0])!r}), os.environ)
cage = sandbox.Sandbox(sandbox.Level({str(cage.level)!r}), mounts, {{}}, {cage.bwrap!r})
cage.run_python(["-c", {code!r}], scratch=Path({str(scratch)!r}), environment=os.environ,
                log_path=Path({str(tmp_path / "log")!r}))
"""
    driver = subprocess.Popen([sys.executable, "-c", driver_code])
    deadline = time.monotonic() + 10
    while not list(scratch.glob("alive*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(scratch.glob("alive*")), (tmp_path / "log").read_text()
    driver.kill()
    driver.wait()
    while processes_with(tmp_path.name) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not processes_with(tmp_path.name)
    assert not (scratch / "outlived").exists()


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
