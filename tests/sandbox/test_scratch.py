"""Folders of killed processes are removed, and nobody else's."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from autoresearch_jax.sandbox import scratch
from autoresearch_jax.sandbox.machine import ProcessIdentity, this_process
from autoresearch_jax.sandbox.scratch import scratch_folder

LEAVE = """
import os, shutil, signal, sys
from pathlib import Path
from autoresearch_jax.sandbox.scratch import scratch_folder
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


def leave(place: Path, process: ProcessIdentity) -> Path:
    """The scratch folder of a process that did not remove it."""
    with scratch_folder(".trace-", place, lambda folder: None, process) as folder:
        return folder


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
    owner = left.name.removeprefix(".trace-")
    names = [".trace-notes-of-mine", ".trace-a-b-c-notes-of-mine", f".tracing-{owner}", f"other-{owner}"]
    others = [tmp_path / name for name in names]
    for folder in others:
        folder.mkdir()
    leave(tmp_path, replace(this_process(), started=1))  # the number is in use again
    assert left.exists()
    with scratch_folder(".trace-", tmp_path, shutil.rmtree) as own:
        assert {*tmp_path.iterdir()} == {used, own, *others}
    living.communicate()
    assert {*tmp_path.iterdir()} == set(others)


@pytest.mark.parametrize(
    "differing",
    [
        pytest.param({"namespace": "pid:[1]"}, id="a container of this machine"),
        pytest.param({"host": "elsewhere", "boot": "another-boot"}, id="another machine"),
        pytest.param({"host": "elsewhere"}, id="this machine by another name"),
    ],
)
def test_what_a_process_has_whose_number_says_nothing_here_is_left_alone(
    tmp_path: Path, differing: dict[str, str]
) -> None:
    unused = {"pid": 2**22 + 1, "started": 1}  # numbers end at 2**22
    folder = leave(tmp_path, replace(this_process(), **unused, **differing))
    with scratch_folder(".trace-", tmp_path, shutil.rmtree) as own:
        assert {*tmp_path.iterdir()} == {folder, own}


@pytest.mark.parametrize(("kind", "is_left"), [("ext4", False), ("nfs4", True), (None, True)])
def test_what_a_former_boot_left_is_removed_where_no_other_machine_can_have_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str | None, is_left: bool
) -> None:
    device = tmp_path.stat().st_dev
    mount = f"20 1 {os.major(device)}:{os.minor(device)} / / rw shared:1 - {kind} /dev/x rw\n"
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "mountinfo").write_text(
        "19 1 0:99999 / /sys rw - ext4 x rw\n" + (mount if kind else "")
    )
    monkeypatch.setattr(scratch, "PROC", tmp_path / "proc")
    place = tmp_path / "place"
    place.mkdir()
    folder = leave(place, replace(this_process(), boot="the-boot-before"))
    with scratch_folder(".trace-", place, shutil.rmtree):
        assert folder.exists() == is_left
