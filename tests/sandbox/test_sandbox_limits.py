"""What a confined command cannot use up or leave behind, at each level that works here."""

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cages import Run

from autoresearch_jax.sandbox import sandbox as sandbox_module
from autoresearch_jax.sandbox.escapes import processes_with
from autoresearch_jax.sandbox.sandbox import (
    MEBIBYTE,
    Level,
    Sandbox,
    remove_tree,
)

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


@pytest.mark.parametrize("then", ["sys.exit(0)", "time.sleep(60)"])
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
