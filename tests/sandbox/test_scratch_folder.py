"""Scratch folders are gone afterwards: also those of killed processes, and no others."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from autoresearch_jax.sandbox.sandbox import scratch_folder

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
