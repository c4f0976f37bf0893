"""The lock of a run's folder: one driver at a time, named to whoever comes second, free again after any end."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autoresearch_jax.engine.run_folder import RunFolder, RunFolderError

DRIVER = """
import subprocess, sys
from pathlib import Path
from autoresearch_jax.engine.run_folder import RunFolder, RunFolderError
print("ready", flush=True)
sys.stdin.readline()
try:
    with RunFolder(Path(sys.argv[1])).lock():
        child = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL) if "child" in sys.argv else None
        print("held", "" if child is None else child.pid, flush=True)
        sys.stdin.readline()
except RunFolderError as error:
    print(error, flush=True)
"""
LOOKER = """
import sys
from pathlib import Path
from autoresearch_jax.engine.run_folder import RunFolder
print("ready", flush=True)
while True:
    RunFolder(Path(sys.argv[1])).holder()
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "night")
    folder.create()
    return folder


@pytest.fixture
def start(folder: RunFolder) -> Iterator[Start]:
    """Starts a process that is ready."""
    started: list[subprocess.Popen[str]] = []

    def start_one(program: str = DRIVER, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, str(folder.path), *words]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start_one
    for process in started:
        process.kill()
        process.communicate()


def go(driver: subprocess.Popen[str]) -> str:
    driver.stdin.write("go\n")
    return driver.stdout.readline().strip()


def name_of(process: subprocess.Popen[str]) -> str:
    return f"pid {process.pid} on {socket.gethostname()}"


def test_of_several_drivers_one_goes_on_and_the_others_are_told_its_pid_and_host(folder, start):
    drivers = [start() for _ in range(3)]
    for driver in drivers:
        driver.stdin.write("go\n")
    answers = [driver.stdout.readline().strip() for driver in drivers]
    assert answers.count("held") == 1
    winner = drivers[answers.index("held")]
    refused = f"{folder.path}: {name_of(winner)} is at work on this run already"
    assert sorted(answers) == sorted(["held", *[refused] * 2])
    assert folder.holder() == name_of(winner)
    winner.communicate("end\n")
    assert folder.holder() is None
    assert sorted(path.name for path in folder.path.iterdir()) == [".gitignore", "driver.lock"]
    with folder.lock():
        assert folder.holder() == f"pid {os.getpid()} on {socket.gethostname()}"


def test_a_killed_drivers_run_is_free_at_once_whatever_its_children_do(folder, start):
    driver = start(DRIVER, "child")
    child = int(go(driver).split()[1])
    try:
        driver.kill()
        driver.wait()
        assert folder.holder() is None
        (folder.path / "results.tsv.1.partial").touch()
        with folder.lock():
            assert folder.holder() == f"pid {os.getpid()} on {socket.gethostname()}"
            assert not (folder.path / "results.tsv.1.partial").exists(), "half-written files go"
    finally:
        os.kill(child, signal.SIGKILL)


def test_who_only_looks_never_keeps_a_driver_from_starting(folder, start):
    with folder.lock():
        pass
    looker = start(LOOKER)
    for _ in range(20):
        with folder.lock():
            pass
    assert looker.poll() is None


def test_a_driver_that_could_not_write_its_name(folder):
    with folder.lock():
        (folder.path / "driver.txt").unlink()
        with pytest.raises(RunFolderError, match="night: another process is at work on this run already"):
            folder.lock().__enter__()


def test_a_folder_that_cannot_be_used(folder):
    (folder.path / "driver.lock").mkdir()
    with pytest.raises(RunFolderError, match=r"driver\.lock: cannot be locked: .*--run_dir"):
        folder.lock().__enter__()
