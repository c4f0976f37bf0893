"""Folders of killed processes are removed, and nobody else's."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from autoresearch_jax.runtime.scratch import scratch_folder

LEAVE = """
import os, shutil, signal, sys
from pathlib import Path
from autoresearch_jax.runtime.scratch import scratch_folder
with scratch_folder(".trace-", Path(sys.argv[1]), shutil.rmtree) as folder:
    (folder / "inside").mkdir()
    print(folder, flush=True)
    {then}
"""


def start(place: Path, then: str) -> tuple[subprocess.Popen[str], Path]:
    """A process with a scratch folder, and that folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", LEAVE.format(then=then), str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
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


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    living, used = start(tmp_path, "sys.stdin.read()")
    killed, left = start(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    killed.communicate()
    others = [tmp_path / ".trace-notes-of-mine", tmp_path / ".tracing-1-1-x", tmp_path / "other-1-1-x"]
    for folder in others:
        folder.mkdir()
    of_a_former_process = tmp_path / f".trace-{os.getpid()}-1-x"  # the number is in use again
    of_a_former_process.mkdir()
    assert left.exists()
    with scratch_folder(".trace-", tmp_path, shutil.rmtree) as own:
        assert {*tmp_path.iterdir()} == {used, own, *others}
    living.communicate()
    assert {*tmp_path.iterdir()} == set(others)
