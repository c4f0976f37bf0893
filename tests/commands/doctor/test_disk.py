"""`autoresearch doctor`, section disk."""

import errno
import fcntl
import os
import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path

import pytest
from doctor_calls import Doctor, in_own_mounts, lines

from autoresearch_jax.cli import main
from autoresearch_jax.commands.checks import disk


def test_a_disk_that_is_read_only(tmp_path: Path) -> None:
    place = f"mount -t tmpfs -o ro none {tmp_path}"
    result = in_own_mounts(place, "--sections=disk", f"--run_dir={tmp_path}/runs", f"--data_dir={tmp_path}/data")
    assert result.returncode == 1, result.stderr
    found = lines(result.stdout)
    assert found["faults"] == "run_dir", "a dataset that is there need not be written to"
    assert "tmpfs, read-only: Read-only file system; a run writes there: name another --run_dir" in found["run_dir"]
    assert "`autoresearch prepare` writes there: name another --data_dir" in found["data_dir"]


@pytest.mark.parametrize("free_kilobytes", [0, 40])
def test_a_disk_that_is_full(tmp_path: Path, free_kilobytes: int) -> None:
    fill = f"head -c {(256 - free_kilobytes) * 1024} /dev/zero > {tmp_path}/block"
    place = f"mount -t tmpfs -o size=256k none {tmp_path}; {fill}"
    result = in_own_mounts(place, "--sections=disk", f"--run_dir={tmp_path}/runs")
    assert result.returncode == 1, result.stderr
    found = lines(result.stdout)
    assert found["faults"] == "run_dir"
    assert "No space left on device; free some room there, or name another --run_dir" in found["run_dir"]


def test_a_disk_that_is_almost_full(tmp_path: Path) -> None:
    result = in_own_mounts(
        f"mount -t tmpfs -o size=50m none {tmp_path}", "--sections=disk", f"--run_dir={tmp_path}/runs"
    )
    assert result.returncode == 1, result.stderr
    found = lines(result.stdout)
    assert found["faults"] == "run_dir_free"
    assert found["run_dir_free"].startswith("52 MB")
    assert found["run_dir_free"].endswith("; free some room there, or name another --run_dir")
    assert found["run_dir_files"] == "lock, rename, write-ahead log work"


def test_a_place_that_is_a_file(doctor: Doctor, repo: Path) -> None:
    (repo / "runs").write_text("")
    status, found = doctor("disk")
    assert (status, found["faults"]) == (1, "run_dir")
    assert "Not a directory; a run writes there: name another --run_dir" in found["run_dir"]


def test_a_file_system_without_locks_is_no_fault(doctor: Doctor, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "no")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    status, found = doctor("disk")
    assert (status, found["faults"]) == (0, "none")
    assert found["run_dir_files"].startswith("no lock (No locks available); a run makes do without it, another --run")


def test_locks_that_do_not_exclude_are_none(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *arguments: None)
    status, found = doctor("disk")
    assert (status, found["run_dir_files"].split(";")[0]) == (0, "no lock (two hold it at once)")


def test_a_file_system_on_which_no_ledger_can_be_kept(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(sqlite3, "connect", refuse)
    status, found = doctor("disk")
    assert (status, found["faults"]) == (1, "run_dir_files")
    assert found["run_dir_files"] == "no write-ahead log (disk I/O error); name another --run_dir on a local disk"


def test_a_folder_that_is_mounted_as_buckets_are_is_no_fault(doctor: Doctor, tmp_path: Path) -> None:
    """Where processes share no memory, a ledger does without a write-ahead log."""
    (tmp_path / "source").mkdir()
    (tmp_path / "mounted").mkdir()
    mount = ["bindfs", "-o", "direct_io", str(tmp_path / "source"), str(tmp_path / "mounted")]
    if shutil.which("bindfs") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("bindfs cannot mount here")
    try:
        status, found = doctor("disk", f"--run_dir={tmp_path / 'mounted' / 'runs'}")
    finally:
        subprocess.run(["fusermount", "-u", "-z", str(tmp_path / "mounted")], check=True)
    assert (status, found["faults"]) == (0, "none")
    says = "no write-ahead log (disk I/O error); a run makes do without it, another --run_dir on a local disk has it"
    assert found["run_dir_files"] == says
    assert not list((tmp_path / "source").iterdir())


def test_a_slow_disk_is_told_and_no_fault(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "SLOW_FSYNC_SECONDS", -1.0)
    status, found = doctor("disk")
    assert status == 0
    assert "; each row of the ledger waits for it: --run_dir on a local disk is faster" in found["run_dir_fsync"]


def test_a_signal_while_a_disk_is_tried_leaves_nothing(
    doctor: Doctor, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Path] = []

    def stop(descriptor: int) -> None:
        tried.extend(repo.glob("autoresearch-doctor-*"))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(os, "fsync", stop)
    assert main(["doctor", "--sections=disk"]) == 130
    assert len(tried) == 1
    assert not list(repo.glob("autoresearch-doctor-*"))


def test_the_file_system_is_found_by_its_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    folder = tmp_path / "a b"
    folder.mkdir()
    escaped = str(folder).replace(" ", "\\040")
    mounts.write_text(
        "1 0 0:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
        f"2 1 0:2 / {escaped} rw,relatime - nfs4 server:/x ro,vers=4.2\n"
        f"3 1 0:3 / {escaped}c rw - xfs /dev/c rw\n"
    )
    assert disk.file_system(folder, mounts) == "nfs4, read-only"
    assert disk.file_system(tmp_path, mounts) == "ext4"
    assert disk.file_system(tmp_path, tmp_path / "nothing") is None
