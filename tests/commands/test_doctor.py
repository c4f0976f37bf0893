"""`autoresearch doctor`: says what is there, what is wrong and what helps, and means it."""

import errno
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fakes import PROGRAM, SOURCE

import autoresearch_jax
from autoresearch_jax.cli import main
from autoresearch_jax.commands import task_flags
from autoresearch_jax.commands.checks import clock, disk
from autoresearch_jax.commands.checks import sandbox as sandbox_section
from autoresearch_jax.commands.checks.check import Check, look_at
from autoresearch_jax.commands.checks.python import check_python, requirements, what_lacks
from autoresearch_jax.commands.decision_flags import make_rule
from autoresearch_jax.commands.doctor import SECTIONS
from autoresearch_jax.lm.dataset import Dataset
from autoresearch_jax.lm.manifest import text_file
from autoresearch_jax.lm.task import LmTerms
from autoresearch_jax.measurement import Budget
from autoresearch_jax.runtime import escapes
from autoresearch_jax.runtime import sandbox as sandbox_module
from autoresearch_jax.runtime.sandbox import Level, Sandbox
from autoresearch_jax.search.ledger import Ledger
from autoresearch_jax.search.records import Intent, Kind
from autoresearch_jax.search.run_folder import RunFolder
from autoresearch_jax.search.run_settings import run_settings
from autoresearch_jax.search.sequential import SequentialSettings

ATTEMPTS = {
    *("read_your_files", "read_dataset", "read_run_folder", "read_stdlib", "read_environment", "write_elsewhere"),
    *("open_connection", "signal_process", "leave_daemon", "exceed_memory", "exceed_cpu_time", "fork_bomb"),
    *("fill_disk", "fill_log", "run_for_ever"),
}
ROOT = Path(autoresearch_jax.__file__).parent.parent
KEY = "AIza-xq7Vrr2-mmK9"
Doctor = Callable[..., tuple[int, dict[str, str]]]


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def lines(output: str) -> dict[str, str]:
    """What stands on each `key: value` line; headings and empty lines left out."""
    pairs = [line.split(":", 1) for line in output.splitlines() if line and not line.startswith("[")]
    assert len({name for name, _ in pairs}) == len(pairs), "names are unique"
    return {name: value.strip() for name, value in pairs}


def follow(line: str) -> None:
    """Does what a line says helps."""
    for command in line.split("; ")[1].split(" && "):
        words = shlex.split(command)
        if words[0] == "autoresearch":
            assert main(words[1:]) == 0
        else:
            subprocess.run(words, check=True)


@pytest.fixture(autouse=True)
def cache(sandbox_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (sandbox_section, task_flags):
        monkeypatch.setattr(module, "CACHE_DIR", str(sandbox_cache))
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    return sandbox_cache


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files; nothing may be left in it, unless a test takes it away."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    assert not list(folder.iterdir())


@pytest.fixture
def repo(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that is the present folder, with a training file and a page that are committed."""
    folder = tmp_path / "repo"
    folder.mkdir()
    (folder / "train_lib.py").write_text(SOURCE)
    (folder / "program.md").write_text(PROGRAM.replace("loss", "val_bpb"))
    git(folder, "init", "-q", "-b", "main")
    git(folder, "config", "user.name", "Researcher")
    git(folder, "config", "user.email", "researcher@example.org")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "start")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def doctor(repo: Path, tiny_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Calls the command in that repository; later flags count. Returns exit status and lines."""
    flags = [
        f"--corpus={tiny_dataset.manifest.corpus}",
        f"--data_dir={tiny_dataset.folder.parent}",
        "--sequence_length=32",
        "--vocab_sizes=256,320",
        f"--compile_cache={tmp_path / 'compiled'}",
    ]

    def call(sections: str, *words: str) -> tuple[int, dict[str, str]]:
        status = main(["doctor", *flags, f"--sections={sections}", *words])
        found = capsys.readouterr()
        assert "Traceback" not in found.err
        return status, lines(found.out)

    return call


def in_own_mounts(commands: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs the command after some of shell in a mount namespace of its own, where one can be had."""
    unshare = ["unshare", "--mount", "sh", "-ec"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("no mount namespace can be made here")
    script = f'{commands}\nexec "$0" -m autoresearch_jax.cli doctor "$@"'
    return subprocess.run([*unshare, script, sys.executable, *words], capture_output=True, text=True)


def test_a_machine_on_which_a_run_would_work(doctor: Doctor, repo: Path) -> None:
    assert not {"devices", "sandbox"} - set(SECTIONS)
    status, found = doctor(",".join(set(SECTIONS) - {"sandbox"}))
    assert (status, found["faults"]) == (0, "none")
    assert found["python"].startswith("CPython 3.")
    assert found["packages"] == f"{len(requirements())} of {len(requirements())} are there"
    assert found["jaxlib"].endswith("fits")
    assert found["devices"].split()[0].isdecimal()
    assert found["trial_process"].startswith("starts")
    assert found["editable"] == "train_lib.py, committed and unchanged"
    assert found["git_objects"] == found["git_worktree"] == "can be made"
    assert found["run_dir_files"] == "lock, rename, write-ahead log work"
    assert found["run_dir"].startswith("runs, which is not there yet: tried in .,")
    assert found["key"].startswith("none; only --proposer=gemini")
    assert git(repo, "status", "--porcelain", "--ignored") == "", "nothing is left"
    assert git(repo, "worktree", "list").count("\n") == 0
    assert not (repo / ".git" / "worktrees").exists()


def test_json_has_the_same_as_text(doctor: Doctor, capsys: pytest.CaptureFixture[str]) -> None:
    _, found = doctor("git,key")
    assert main(["doctor", "--sections=key,git", "--format=json"]) == 0
    sections = json.loads(capsys.readouterr().out)
    assert list(sections) == ["git", "key"]
    assert sections["git"][0] == {"name": "git", "outcome": found["git"], "is_ok": True, "remedy": None}
    key = sections["key"][0]
    assert found["key"] == f"{key['outcome']}; {key['remedy']}"


def test_jax_is_not_loaded(repo: Path) -> None:
    code = (
        "import sys; from autoresearch_jax.cli import main\n"
        "status = main(['doctor', '--platform=cpu', '--sections=python,jax,devices,git,disk,clock,key,run'])\n"
        "sys.exit(99 if 'jax' in sys.modules else status)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_what_makes_no_sense_is_called_wrongly(doctor: Doctor, capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("--sections=gti", "--mesh=rows=2", "--vocab_sizes=7", "--budget_seconds=0", "--tag=../x"):
        assert main(["doctor", word]) == 2
        assert word.split("=")[0] in capsys.readouterr().err


# python, jax


def without(packages: set[str], tmp_path: Path) -> dict[str, str]:
    """Variables for a Python that has the packages of this one, except for some."""
    site = tmp_path / "site"
    site.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if entry.name.split("-")[0] not in packages:
            (site / entry.name).symlink_to(entry)
    return {**os.environ, "PYTHONPATH": f"{site}:{ROOT}"}


@pytest.mark.parametrize(("package", "sections"), [("flatbuffers", ["--sections=python"]), ("numpy", ["--platform=x"])])
def test_a_missing_package_is_named(package: str, sections: list[str], tmp_path: Path) -> None:
    """Also one without which not even the flags of a run are known."""
    call = [sys.executable, "-S", "-m", "autoresearch_jax.cli", "doctor"]
    environment = without({package}, tmp_path)
    result = subprocess.run([*call, *sections], env=environment, capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    assert result.stderr == ""
    found = lines(result.stdout)
    assert found["packages"].startswith(f"{package} is not installed; in the checkout: rm -f .venv/.installed-* && ./")
    assert "packages" in found["faults"]


def test_a_package_that_is_too_old_or_half_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert what_lacks("numpy>=2.0") is None
    assert what_lacks("numpy>=99") is not None
    assert str(what_lacks("numpy>=99")).endswith(" is not >=99")
    metadata = tmp_path / "half_gone-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: half-gone\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert what_lacks("half-gone>=1.0") == "half-gone 1.0 is recorded, and its files are gone"
    assert what_lacks("half-gone>=2") == "half-gone 1.0 is not >=2"


@pytest.mark.parametrize(("version", "is_ok", "helps"), [((3, 10, 1), False, "3.11"), ((3, 11, 2), True, "3.12")])
def test_an_old_python_is_told(version: tuple[int, ...], is_ok: bool, helps: str) -> None:
    check = next(iter(check_python(version)))
    assert check.is_ok is is_ok
    assert check.remedy is not None
    assert f"with CPython {helps} or newer" in check.remedy


def test_variables_that_steer_jax_are_named(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)  # JAX sets it in the process that loads it
    monkeypatch.setenv("XLA_FLAGS", "--xla_private")
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    status, found = doctor("jax")
    assert (status, found["jax_variables"].split(";")[0]) == (0, "XLA_FLAGS, JAX_PLATFORMS (not heeded: flags say it)")
    assert "--xla_private" not in str(found)


# devices


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU")
def test_a_platform_that_is_not_there(doctor: Doctor, scratch: Path) -> None:
    status, found = doctor("devices", "--platform=cuda")
    assert (status, found["faults"]) == (1, "devices")
    assert re.match(r"--platform=cuda: [^(]*\([^()]*\);", found["devices"])
    assert "--platform=cpu goes without" in found["devices"]
    log = Path(found["devices"].split("the end of ")[1])
    assert "Traceback" in log.read_text()
    shutil.rmtree(log.parent)


def test_a_trial_process_that_does_not_start(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--no_such_flag_of_xla")
    status, found = doctor("devices", "--platform=cpu")
    assert (status, found["faults"]) == (1, "devices")
    assert found["devices"].startswith("no trial process starts: the worker process ")
    log = Path(found["devices"].split("the end of ")[1].split(";")[0])
    assert "no_such_flag_of_xla" in log.read_text()
    shutil.rmtree(log.parent)


def test_an_interrupt_leaves_no_process_and_no_file(doctor: Doctor, scratch: Path) -> None:
    call = [sys.executable, "-m", "autoresearch_jax.cli", "doctor", "--platform=cpu", "--sections=devices"]
    process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not list(scratch.glob("*/worker.log")):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[1] == "autoresearch doctor: interrupted\n"
    assert process.returncode == 130


# sandbox


def test_the_sandbox_of_this_machine_holds(cache: Path, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(cache.iterdir())
    assert main(["doctor", "--sections=sandbox", "--format=json"]) == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["sandbox"]}
    assert checks["sandbox"]["outcome"] == str(sandbox.level)
    assert checks.keys() >= ATTEMPTS
    if sandbox.level is not Level.LIMITS:
        assert {checks[name]["outcome"] for name in ATTEMPTS} == {"blocked"}
    assert set(cache.iterdir()) == before  # what was planted is gone


def test_limits_alone_are_told_with_what_helps(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "landlock_abi", lambda: 0)
    monkeypatch.setenv("PATH", "/nowhere")
    status, found = doctor("sandbox")
    assert status == 1  # nothing confines, and nobody asked for that
    assert found["sandbox"].startswith("limits; nothing confines")
    assert found["no_bubblewrap"].startswith("bwrap is not installed; apt-get install bubblewrap")
    assert "lsm=landlock" in found["no_landlock"]
    assert found["read_your_files"] == "OPEN; this level does not block it"
    assert found["fork_bomb"] == "blocked"

    monkeypatch.setattr(escapes, "_EXCESSES", {})
    status, found = doctor("sandbox", "--sandbox=require")
    assert status == 1
    assert "--sandbox=require: bubblewrap: bwrap is not installed" in found["sandbox_flag"]
    assert "autoresearch doctor" not in str(found)


def test_a_hole_in_the_sandbox_is_found(sandbox: Sandbox, doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    if sandbox.level is Level.LIMITS:
        pytest.skip("nothing here can confine")
    open_sandbox = task_flags.open_sandbox

    def with_a_hole(*arguments: object, **keywords: object) -> Sandbox:
        cage = open_sandbox(*arguments, **keywords)  # type: ignore[arg-type]
        view = cage.view
        home = Path(task_flags.CACHE_DIR)
        object.__setattr__(view, "readable", (*view.readable, home))
        return cage

    monkeypatch.setattr(task_flags, "open_sandbox", with_a_hole)
    monkeypatch.setattr(escapes, "_EXCESSES", {})
    status, found = doctor("sandbox")
    assert status == 1
    assert found["read_dataset"].startswith("OPEN; this level should block it")
    assert found["write_elsewhere"] == "blocked"


def test_no_place_for_what_the_sandbox_shows(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sandbox_section, task_flags):
        monkeypatch.setattr(module, "CACHE_DIR", "/dev/null/cache")
    status, found = doctor("sandbox")
    assert (status, found["faults"]) == (1, "sandbox")
    assert "a folder that you can write to" in found["sandbox"]


# git


def test_no_git(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert doctor("git") == (
        1,
        {"git": "not installed; install it, on Debian with apt-get install git", "faults": "git"},
    )


def test_a_training_file_that_is_not_committed(doctor: Doctor, repo: Path) -> None:
    (repo / "train_lib.py").write_text(SOURCE + "\n# more\n")
    status, found = doctor("git")
    assert (status, found["faults"]) == (1, "editable")
    assert found["editable"].startswith("train_lib.py has changes that are not committed")
    assert "; run git commit train_lib.py" in found["editable"]
    assert found["git_worktree"] == "can be made", "the rest is looked at all the same"

    git(repo, "rm", "-q", "--cached", "train_lib.py")
    git(repo, "commit", "-q", "-m", "away")
    assert "run git add train_lib.py && git commit -m start" in doctor("git")[1]["editable"]


def test_no_training_file_no_repository_no_commit(doctor: Doctor, repo: Path, tmp_path: Path) -> None:
    status, found = doctor("git", "--editable=nothing.py")
    assert (status, found["editable"]) == (1, "nothing.py: no such file; name the file to edit with --editable")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "train_lib.py").write_text(SOURCE)
    status, found = doctor("git", f"--editable={outside / 'train_lib.py'}")
    assert (status, found["faults"]) == (1, "editable")
    assert "in no git repository" in found["editable"]
    assert "; run git init && git add train_lib.py" in found["editable"]
    git(outside, "init", "-q")
    status, found = doctor("git", f"--editable={outside / 'train_lib.py'}")
    assert (status, found["faults"]) == (1, "editable")
    assert "has no commit yet; run git add train_lib.py" in found["editable"]


def test_an_identity_that_is_not_set_is_no_fault(doctor: Doctor, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(repo, "config", "--unset", "user.email")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    status, found = doctor("git")
    assert status == 0
    assert found["git_identity"].startswith("user.email not set")


def test_a_branch_that_is_in_the_way(doctor: Doctor, repo: Path) -> None:
    status, found = doctor("git", "--tag=night")
    assert (status, found["branch"]) == (0, "autoresearch/night, not used yet")
    git(repo, "branch", "autoresearch/night")
    status, found = doctor("git", "--tag=night")
    assert (status, found["faults"]) == (1, "branch")
    assert "; choose another --tag, or delete the branch" in found["branch"]
    status, found = doctor("git", "--tag=a b")
    assert (status, found["faults"]) == (1, "branch")


def test_a_repository_that_cannot_be_written_to(repo: Path) -> None:
    result = in_own_mounts(
        f"mount --bind {repo / '.git'} {repo / '.git'}; mount -o remount,bind,ro {repo / '.git'}", "--sections=git"
    )
    assert result.returncode == 1, result.stderr
    found = lines(result.stdout)
    assert found["faults"] == "git_objects, git_worktree"
    assert found["git_objects"].startswith("Read-only file system; make the repository of ")
    assert git(repo, "worktree", "list").count("\n") == 0


def test_an_interrupt_while_a_worktree_is_made_leaves_none(
    doctor: Doctor, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrapper = tmp_path / "bin" / "git"
    wrapper.parent.mkdir()
    wrapper.write_text(
        f'#!/bin/sh\n{shutil.which("git")} "$@"\nstatus=$?\n'
        f'case "$*" in *"worktree add"*) kill -INT {os.getpid()}; sleep 1 ;; esac\nexit $status\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    assert main(["doctor", "--sections=git"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert git(repo, "worktree", "list").count("\n") == 0


# disk


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


# clock


def test_clocks_that_cannot_be_believed() -> None:
    def checks(**clocks: Callable[[], float]) -> dict[str, Check]:
        return {check.name: check for check in clock.check_clock(**clocks)}

    assert all(check.is_ok for check in checks().values())
    for seconds, says in ((0.0, "1970-01-01 00:00:00 UTC, which is long ago"), (1.74e9, "files of this package")):
        wrong = checks(wall=lambda seconds=seconds: seconds)["clock"]  # type: ignore[misc]
        assert not wrong.is_ok
        assert says in wrong.outcome
        assert wrong.remedy is not None
        assert "turn on NTP" in wrong.remedy
    for clocks in (
        {"monotonic": lambda: 5.0},
        {"wall": lambda: time.time() + time.monotonic()},  # twice as fast
    ):
        assert not checks(**clocks)["monotonic_clock"].is_ok
    jumps = iter([*[0.0] * 5, *[3600.0] * 1000])
    assert checks(wall=lambda: time.time() + next(jumps))["monotonic_clock"].is_ok, "the date was set just now"


# dataset


def test_a_dataset_is_described(doctor: Doctor, tiny_dataset: Dataset) -> None:
    status, found = doctor("dataset")
    assert status == 0
    assert found["fingerprint"] == tiny_dataset.fingerprint
    rows = len(tiny_dataset.rows(256, "train"))
    assert found["dataset_rows_256"].startswith(f"train {rows}, val ")
    assert found["dataset_files"].endswith("sizes and hashes as written")


def test_no_dataset(doctor: Doctor, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = doctor("dataset", f"--data_dir={tmp_path / 'data'}")
    assert (status, found["faults"]) == (1, "dataset")
    follow(found["dataset"])
    capsys.readouterr()
    assert doctor("dataset", f"--data_dir={tmp_path / 'data'}")[1]["faults"] == "none"


def test_a_dataset_that_lacks_something_or_is_damaged(
    doctor: Doctor, tiny_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_dir = tmp_path / "data"
    folder = shutil.copytree(tiny_dataset.folder, data_dir / tiny_dataset.folder.name)
    there = f"--data_dir={data_dir}"
    status, found = doctor("dataset", there, "--vocab_sizes=256,512")
    assert (status, found["faults"]) == (1, "dataset")
    assert "; autoresearch prepare " in found["dataset"]
    assert "--vocab_sizes=256,512" in found["dataset"]

    text = folder / text_file("val")
    damaged = bytearray(text.read_bytes())
    damaged[100] ^= 1
    text.write_bytes(damaged)
    status, found = doctor("dataset", there)
    assert (status, found["faults"]) == (1, "dataset_files")
    assert found["dataset_files"].startswith(f"{text_file('val')}: not as written; rm ")
    follow(found["dataset_files"])
    capsys.readouterr()
    assert doctor("dataset", there)[0] == 0

    (folder / "manifest.json").write_text("{")
    status, found = doctor("dataset", there)
    assert (status, found["faults"]) == (1, "dataset")
    follow(found["dataset"])
    capsys.readouterr()
    assert doctor("dataset", there)[0] == 0


# key


@pytest.mark.parametrize("name", ["GEMINI_API_KEY", "GOOGLE_API_KEY"])
@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (KEY, None),
        (f" {KEY}", "white space around"),
        (f"{KEY}\n", "white space around"),
        (f'"{KEY}"', "quotes"),
        (f"'{KEY}", "quotes"),
        (f"{KEY} {KEY}", "spaces or characters"),
        (f"{KEY}\x7f", "spaces or characters"),
        ("  ", "empty"),
    ],
)
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_key_is_never_shown(
    name: str,
    value: str,
    problem: str | None,
    form: str,
    doctor: Doctor,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, value)
    status = main(["doctor", "--sections=jax,git,key,run", f"--format={form}", "--proposer=hybrid"])
    output = "".join(capsys.readouterr())
    assert status == (0 if problem is None else 1)
    assert not any(KEY[start : start + 4] in output for start in range(len(KEY) - 3))
    if form == "json":
        return
    found = lines(output)
    if problem is None:
        assert (found["key"], found["faults"]) == (f"{name} is set", "none")
    else:
        assert problem in found[name.lower()]
        assert f"export {name}=..." in found[name.lower()]
        assert name.lower() in found["faults"]


def test_ways_to_a_model(doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, found = doctor("key")
    assert (status, found["model"]) == (0, "no way to one, not that --proposer=optuna asks any")
    status, found = doctor("key", "--proposer=gemini")
    assert (status, found["faults"]) == (1, "model")
    assert "needs a key in GEMINI_API_KEY" in found["model"]

    monkeypatch.setenv("HOME", str(tmp_path))
    vertex = ("key", "--proposer=gemini", "--gemini_vertex_project=mine")
    status, found = doctor(*vertex)
    assert (status, found["vertex"].split(";")[0]) == (0, "no file of credentials")
    credentials = tmp_path / "credentials.json"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(credentials))
    status, found = doctor(*vertex)
    assert (status, found["faults"]) == (1, "vertex")
    assert "; unset it and call gcloud auth application-default login" in found["vertex"]
    credentials.write_text("{}")
    assert doctor(*vertex)[0] == 0

    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("GOOGLE_API_KEY", KEY[::-1])
    assert doctor("key")[1]["key"] == "GOOGLE_API_KEY is set; GEMINI_API_KEY is set, too, and not used"


# run


def test_a_page_or_a_proposer_that_would_end_a_run(doctor: Doctor, repo: Path) -> None:
    status, found = doctor("run", "--proposer=command")
    assert (status, found["faults"]) == (1, "proposer")
    assert "--agent_command" in found["proposer"]
    (repo / "program.md").write_text(PROGRAM.replace("## Stop when", "## Stop when\n\n- 3 blue moons"))
    status, found = doctor("run")
    assert status == 1
    assert found["faults"].startswith("program")
    assert found["program"].startswith("program.md:")


@pytest.fixture
def night(repo: Path, tiny_dataset: Dataset) -> RunFolder:
    """A run in that repository that began with the flags of `doctor`, and has no driver."""
    folder = RunFolder(repo / "runs" / "night")
    folder.create()
    terms = LmTerms(tiny_dataset, Budget(seconds=task_flags.DEFAULT_BUDGET_SECONDS))
    with closing(Ledger.open(folder.ledger)) as ledger:
        ledger.save_settings(run_settings("train_lib.py", 0, terms, make_rule(SequentialSettings(), terms.metric)))
        folder.write_settings(ledger.settings())
        ledger.begin_experiment(Intent(Kind.BASELINE, SOURCE))
    return folder


def states(folder: Path) -> dict[str, tuple[int, int]]:
    """All files below a folder; of each what changes if it is written to, or another one takes its place."""
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in [folder, *folder.rglob("*")]}


def test_a_run_that_goes_on(doctor: Doctor, night: RunFolder) -> None:
    before = states(night.path)
    status, found = doctor("run", "--tag=night")
    assert (status, found["faults"]) == (0, "none")
    assert found["ledger"] == "runs/night/ledger.db, the run goes on"
    assert found["settings"] == "those that the run was started with"
    assert states(night.path) == before, "not even SQLite's files are left beside it"
    assert doctor("run", "--tag=day")[1]["ledger"] == "none yet, the run begins"
    assert "ledger" not in doctor("run")[1]


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--budget_steps=20", "budget_seconds 300.0 then, None now; budget_steps None then, 20 now"),
        ("--seed=7", "seed 0 then, 7 now"),
        ("--judge_tokens=900", "fingerprint "),
        ("--editable=other.py", "editable train_lib.py then, other.py now"),
        ("--decision=greedy", "decision sequential then, greedy now"),
        ("--alpha=0.1", "alpha 0.005 then, 0.1 now"),
    ],
)
def test_flags_that_are_not_the_run_s_own(flag: str, says: str, doctor: Doctor, night: RunFolder) -> None:
    shutil.copy("train_lib.py", "other.py")
    status, found = doctor("run", "--tag=night", flag)
    assert (status, found["faults"]) == (1, "settings")
    assert f"runs/night was started with other settings ({says}" in found["settings"]
    assert found["settings"].endswith("); use the same ones, or another --tag")


def test_settings_are_not_compared_without_a_dataset(doctor: Doctor, night: RunFolder, tmp_path: Path) -> None:
    status, found = doctor("dataset,run", "--tag=night", f"--data_dir={tmp_path / 'nothing'}")
    assert (status, found["faults"]) == (1, "dataset")
    assert found["settings"].startswith("not compared: ")


def test_a_ledger_with_which_the_run_cannot_go_on(doctor: Doctor, night: RunFolder, tmp_path: Path) -> None:
    def finds(says: str) -> None:
        before = states(night.path)
        status, found = doctor("run", "--tag=night")
        assert (status, found["faults"]) == (1, "ledger")
        assert found["ledger"].startswith(says), found["ledger"]
        assert states(night.path) == before
        shutil.copy(tmp_path / "kept.db", night.ledger)

    shutil.copy(night.ledger, tmp_path / "kept.db")
    connection = sqlite3.connect(night.ledger)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    finds("runs/night/ledger.db: the ledger has version 99 and this autoresearch reads ")

    data = bytearray(night.ledger.read_bytes())
    for page in range(4096, len(data), 4096):  # all but the first
        data[page : page + 100] = bytes(100)
    night.ledger.write_bytes(data)
    finds("runs/night/ledger.db: is damaged (")
    night.ledger.write_bytes(b"no database" * 100)
    finds("runs/night/ledger.db: is damaged (file is not a database); restore it from a copy")
    night.ledger.write_bytes(b"")
    finds("runs/night: has the files of a run, and its ledger.db is missing or empty; restore that from a copy")
    night.ledger.unlink()
    finds("runs/night: has the files of a run, and its ledger.db is missing or empty; restore that from a copy")
    with night.lock():
        holder = night.holder()
        status, found = doctor("run", "--tag=night")
    assert (status, found["ledger"].split(";")[0]) == (1, f"{holder} is at work on it")
    assert doctor("run", "--tag=night")[0] == 0


def test_a_run_s_folder_that_is_read_only(night: RunFolder) -> None:
    result = in_own_mounts(
        f"mount --bind {night.path} {night.path}; mount -o remount,bind,ro {night.path}",
        "--sections=run",
        "--tag=night",
    )
    assert result.returncode == 1, result.stderr
    found = lines(result.stdout)
    assert found["faults"] == "ledger"
    assert found["ledger"].startswith("runs/night, runs/night/ledger.db, runs/night/ledger.db.sha256: cannot be wr")


def test_a_place_for_snapshots_is_tried_and_left_as_it_was(doctor: Doctor, tmp_path: Path) -> None:
    there = tmp_path / "far"
    status, found = doctor("run", "--tag=night", f"--snapshot_dir={there / 'deep'}/")
    assert (status, found["faults"]) == (0, "none")
    assert found["snapshot_dir"].startswith(f"{there}/deep, which is not there yet: tried in {tmp_path}")
    assert not there.exists()
    (there / "night").mkdir(parents=True)
    before = states(there / "night")
    status, found = doctor("run", "--tag=night", f"--snapshot_dir={there}")
    assert (status, found["snapshot_dir"].split(",")[0]) == (0, str(there))
    assert [path.name for path in there.iterdir()] == ["night"]
    assert states(there / "night") == before
    assert doctor("run")[1]["snapshot_dir"] == "none, snapshots stay in the run's folder"


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("gs:/bucket/x", "gs:/bucket/x: no place for snapshots; such a bucket is spelt gs://bucket/FOLDER"),
        ("ftp://host/x", "ftp://host/x: no place for snapshots; name a folder, or gs://BUCKET/FOLDER"),
        ("s3://bucket/x", "s3://bucket/x: s3:// needs the package s3fs, which is missing; in the checkout ./scripts/"),
        ("train_lib.py/x", "./train_lib.py: is no folder; name another --snapshot_dir"),
    ],
)
def test_a_place_to_which_no_snapshot_can_be_moved(
    place: str, says: str, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    status, found = doctor("run", f"--snapshot_dir={place}")
    assert (status, found["faults"]) == (1, "snapshot_dir")
    assert found["snapshot_dir"].startswith(says)


def test_a_bucket_is_tried_and_left_as_it_was(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gcsfs", reason="gs:// is tried where the extra dev is installed")
    from gcs_server import GcsServer

    with GcsServer().running() as server:
        assert main(["doctor", "--sections=run", "--tag=night", "--snapshot_dir=gs://bucket/far"]) == 0
        assert lines(capsys.readouterr().out)["snapshot_dir"] == "gs://bucket/far"
        assert server.count("POST") > 0
        assert server.names() == []
        assert main(["doctor", "--sections=run", "--snapshot_dir=gs://nothing/far"]) == 1
        assert lines(capsys.readouterr().out)["snapshot_dir"].startswith("gs://nothing/far: cannot be written: ")


# any section


def test_a_check_that_fails_itself_ends_neither_its_section_nor_the_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails() -> Iterator[Check]:
        yield Check("first", "there")
        raise RuntimeError(f"no\n{KEY}")

    first, last = look_at("shelf", fails, [KEY])
    assert first == Check("first", "there")
    assert (last.name, last.is_ok, last.outcome) == ("shelf_failed", False, "RuntimeError: no [secret]")
    assert "please report it" in last.line
    traceback = capsys.readouterr().err
    assert "in fails" in traceback
    assert KEY not in traceback


def test_sections_after_one_that_fails_are_looked_at(
    repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(disk, "nearest_folder", lambda path: 1 / 0)
    assert main(["doctor", "--sections=disk,clock"]) == 1
    found = lines(capsys.readouterr().out)
    assert found["disk_failed"].startswith("ZeroDivisionError: division by zero; ")
    assert found["faults"] == "disk_failed"
    assert found["clock"].endswith("UTC")
