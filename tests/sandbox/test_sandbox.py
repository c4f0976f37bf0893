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
from autoresearch_jax.sandbox.linux import take_idle_time_only
from autoresearch_jax.sandbox.sandbox import (
    MEBIBYTE,
    Level,
    ProcessLimits,
    Sandbox,
    SandboxError,
    SandboxResult,
    open_sandbox,
    remove_tree,
    scratch_folder,
)

SMALL = ProcessLimits(
    wall_seconds=20.0,
    cpu_seconds=15.0,
    memory_bytes=256 * MEBIBYTE,
    processes=30,
    threads=80,
    file_bytes=4 * MEBIBYTE,
    scratch_bytes=8 * MEBIBYTE,
    scratch_files=200,
    log_bytes=64 << 10,
)
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


def processes_with(word: str) -> list[int]:
    """Processes whose command line holds a word."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


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


def test_it_inherits_no_keys(cage: Sandbox, run: Run, tmp_path: Path) -> None:
    environment = {"PATH": "/bin", "GEMINI_API_KEY": "planted", "HF_TOKEN": "planted", "SSH_AUTH_SOCK": "planted"}
    assert run(cage, "import os; print(dict(os.environ))", environment).returncode == 0
    log = (tmp_path / "log").read_text()
    assert "'PATH': '/bin'" in log
    assert "planted" not in log


def test_no_environment_of_ours_can_be_read(cage: Sandbox, run: Run, tmp_path: Path) -> None:
    code = f"""
for pid in (*range(1, 20), {os.getpid()}, {os.getppid()}, *__import__("os").listdir("/proc")):
    try:
        print(open(f"/proc/{{pid}}/environ").read().count("PYTEST_CURRENT_TEST"))
    except OSError:
        pass
"""
    assert "PYTEST_CURRENT_TEST" in os.environ
    run(cage, code)
    if cage.level is Level.LIMITS and os.geteuid() != 0:
        pytest.skip("without namespaces a user's processes may look into one another")
    assert "1" not in (tmp_path / "log").read_text().splitlines()


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


def test_other_processes_cannot_be_signalled(cage: Sandbox, run: Run) -> None:
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        code = f"""
import os
for pid in ({victim.pid}, {os.getpid()}, os.getppid(), 1):
    try:
        os.kill(pid, 15)
    except OSError:
        pass
"""
        outcome = run(cage, code)
        if not outcome.own_namespaces and cage.level is Level.LIMITS:
            pytest.skip("without namespaces a user's processes may signal one another")
        time.sleep(0.1)
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


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


@pytest.mark.parametrize("own_namespaces", [True, False])
@pytest.mark.parametrize("then", ["sys.exit(0)", "os.abort()", "time.sleep(60)"])
def test_a_daemon_is_gone_when_the_run_is(
    then: str, own_namespaces: bool, cage: Sandbox, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not own_namespaces:
        if cage.level is Level.BUBBLEWRAP:
            pytest.skip("bubblewrap has always namespaces")
        without_namespaces(monkeypatch)
    begin = time.monotonic()
    outcome = run(cage, DAEMON.format(then=then), wall_seconds=1.0)
    assert time.monotonic() - begin < 5.0
    assert outcome.words == ("ran longer than 1 s" if "sleep" in then else None)
    assert not processes_with("the daemon that was left")


def without_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the machine one whose kernel gives us no namespaces."""
    carry_out = sandbox_module.carry_out

    def without(order: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        return carry_out({**order, "confine": {**order["confine"], "namespaces": False}}, **options)

    monkeypatch.setattr(sandbox_module, "carry_out", without)


@pytest.mark.parametrize("own_namespaces", [True, False])
def test_a_fork_bomb_is_contained(
    own_namespaces: bool, cage: Sandbox, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not own_namespaces:
        if cage.level is Level.BUBBLEWRAP:
            pytest.skip("bubblewrap has always namespaces")
        without_namespaces(monkeypatch)
    # of at most 4096, should the cage not hold
    code = "import os, time\nfor _ in range(12):\n    os.fork()  # a fork bomb\ntime.sleep(30)"
    begin = time.monotonic()
    outcome = run(cage, code)
    assert time.monotonic() - begin < 10.0
    assert outcome.broken_limit == "processes"
    assert outcome.words == "started more than 30 processes"
    assert not processes_with("a fork bomb")


def test_threads_count_too(cage: Sandbox, run: Run) -> None:
    code = """
import threading, time
for _ in range(100):
    threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
time.sleep(30)
"""
    outcome = run(cage, code)
    assert outcome.broken_limit == "threads" or outcome.returncode != 0  # our count, or the kernel's


HOGS = {
    "one": "hold = [bytes(1 << 24) for _ in range(100)]; hold = [bytearray(b'x' * (1 << 24)) for _ in range(100)]",
    "many": """
import os
for _ in range(4):
    if os.fork() == 0:
        break
hold = bytearray(b"x" * (100 << 20))
import time; time.sleep(30)
""",
}


@pytest.mark.parametrize("hog", HOGS)
def test_memory_is_limited(hog: str, cage: Sandbox, run: Run) -> None:
    outcome = run(cage, HOGS[hog])
    assert outcome.broken_limit == "memory_bytes"
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


DISK_FILLERS = {
    "one file": ("open('big', 'wb').write(bytes(64 << 20))", None),
    "many files": (
        "for i in range(10): open(f'big{i}', 'wb').write(b'x' * (2 << 20))\nimport time; time.sleep(30)",
        "wrote more than 8 MiB",
    ),
    "at the end": ("for i in range(10): open(f'big{i}', 'wb').write(b'x' * (2 << 20))", "wrote more than 8 MiB"),
    "in /tmp": (
        "import os\nfor i in range(10): open(f'{os.environ[\"TMPDIR\"]}/big{i}', 'wb').write(b'x' * (2 << 20))",
        "wrote more than 8 MiB",
    ),
    "without a name": (
        "import tempfile, time\nhold = [tempfile.TemporaryFile() for _ in range(10)]\n"
        "for f in hold: f.write(b'x' * (2 << 20))\ntime.sleep(30)",
        "wrote more than 8 MiB",
    ),
    "in memory": (
        "import os, time\nfor _ in range(10): os.write(os.memfd_create('x'), b'x' * (2 << 20))\ntime.sleep(30)",
        "wrote more than 8 MiB",
    ),
    "empty files": ("for i in range(1000): open(f'f{i}', 'w')", "made more than 200 files"),
    "deep folders": (
        "import os\nfor i in range(100): os.mkdir('d'); os.chdir('d')",
        "made more than 64 folders in one another",
    ),
}


@pytest.mark.parametrize("filler", DISK_FILLERS)
def test_the_disk_cannot_be_filled(filler: str, cage: Sandbox, run: Run, scratch: Path, tmp_path: Path) -> None:
    code, words = DISK_FILLERS[filler]
    outcome = run(cage, code)
    assert outcome.words == words
    if words is None:
        assert outcome.returncode == 1
        assert "File too large" in (tmp_path / "log").read_text()
    assert sum(path.lstat().st_blocks * 512 for path in scratch.rglob("*")) < 64 * MEBIBYTE
    remove_tree(scratch)
    assert not scratch.exists()


def test_an_endless_print_ends(cage: Sandbox, run: Run, tmp_path: Path) -> None:
    outcome = run(cage, "while True: print('x' * 1000)")
    assert outcome.words == "printed more than 0.0625 MiB"
    assert (tmp_path / "log").stat().st_size == 64 << 10


def test_cpu_time_is_limited_over_all_processes(cage: Sandbox, run: Run) -> None:
    one = "while True: pass"
    many = (
        "import os, time\nfor _ in range(50):\n    if os.fork() == 0:\n        while time.process_time() < 0.2: pass\n"
    )
    many += "        os._exit(0)\n    os.wait()"
    for code in (one, many):
        outcome = run(cage, code, cpu_seconds=1.0)
        assert outcome.words == "used more than 1 s of CPU time"
        assert outcome.seconds < 10


def test_wall_time_is_limited(cage: Sandbox, run: Run) -> None:
    outcome = run(cage, "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)", wall_seconds=0.5)
    assert (outcome.broken_limit, outcome.words) == ("wall_seconds", "ran longer than 0.5 s")
    assert outcome.seconds < 5


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


LEAVE = """
import os, shutil, signal, sys
from pathlib import Path
from autoresearch_jax.sandbox.sandbox import scratch_folder
with scratch_folder(".trace-", Path(sys.argv[1]), shutil.rmtree) as folder:
    (folder / "inside").mkdir()
    print(folder, flush=True)
    {then}
"""


def start_with_scratch_folder(place: Path, then: str) -> tuple[subprocess.Popen[str], Path]:
    """A process with a scratch folder, and that folder."""
    words = [sys.executable, "-c", LEAVE.format(then=then), str(place)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_scratch_folder_is_gone_afterwards(tmp_path: Path) -> None:
    def fail() -> None:
        with scratch_folder("a-", tmp_path, shutil.rmtree) as folder:
            assert folder.parent == tmp_path.resolve()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_s_scratch_folder_is_removed_and_a_living_one_s_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    living, used = start_with_scratch_folder(tmp_path, "sys.stdin.read()")
    killed, left = start_with_scratch_folder(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    killed.communicate()
    others = [tmp_path / name for name in (".trace-notes-of-mine", f"other-{left.name}")]
    for folder in others:
        folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("socket.gethostname", lambda: "another machine")
        with scratch_folder(".trace-", tmp_path, shutil.rmtree) as own:
            assert {*tmp_path.iterdir()} == {used, left, own, *others}
    with scratch_folder(".trace-", tmp_path, shutil.rmtree) as own:
        assert {*tmp_path.iterdir()} == {used, own, *others}
    living.communicate()
    assert {*tmp_path.iterdir()} == set(others)
