"""`autoresearch doctor`: says what is there, what is wrong and what helps, and means it."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from doctored import KEY, ROOT, Doctor
from repositories import git

from autoresearch_jax.cli import main
from autoresearch_jax.commands import doctor_machine, task_options
from autoresearch_jax.commands.doctor import SECTIONS, Check, look_at
from autoresearch_jax.commands.doctor_machine import what_lacks
from autoresearch_jax.commands.run_options import RunOptions
from autoresearch_jax.sandbox import escapes
from autoresearch_jax.sandbox import sandbox as sandbox_module
from autoresearch_jax.sandbox.accounting import quota_cpus, try_accounting
from autoresearch_jax.sandbox.sandbox import Level, Sandbox
from autoresearch_jax.tasks.lm import device as devices

ATTEMPTS = {
    *("read_your_files", "read_dataset", "read_run_folder", "read_stdlib", "read_environment", "write_elsewhere"),
    *("open_connection", "signal_process", "leave_daemon", "exceed_memory", "exceed_cpu_time", "fork_bomb"),
    *("fill_disk", "fill_log", "run_for_ever"),
}


def test_a_machine_on_which_a_run_would_work(doctor: Doctor, repo: Path) -> None:
    refs = git(repo, "for-each-ref")
    status, found = doctor(",".join(set(SECTIONS) - {"sandbox"}))
    assert (status, found["faults"]) == (0, "none")
    assert found["python"].startswith("CPython 3.")
    assert found["packages"].endswith("are there")
    assert found["jax"].endswith("fits")
    assert found["devices"].split()[0].isdecimal()
    assert found["trial_process"].startswith("starts")
    assert found["editable"] == "train_lib.py, committed and unchanged"
    assert found["worktree"].endswith("can be made")
    assert found["run_dir"].endswith(" GB free")
    assert found["ends"] == "8 experiments"
    assert found["key"].startswith("none; only --proposer=gemini")
    assert git(repo, "status", "--porcelain", "--ignored") == "", "nothing is left"
    assert git(repo, "for-each-ref") == refs
    assert not (repo / ".git" / "worktrees").exists()


def test_neither_jax_nor_google_genai_is_loaded(repo: Path) -> None:
    code = (
        "import sys; from autoresearch_jax.cli import main\n"
        "status = main(['doctor', '--platform=cpu', '--sections=python,jax,git,clock,key,run'])\n"
        "sys.exit(99 if {'jax', 'google.genai'} & sys.modules.keys() else status)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_what_makes_no_sense_is_called_wrongly(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("--sections=gti", "--mesh=rows=2", "--vocab_sizes=7", "--budget_seconds=0", "--certify_share=2"):
        assert main(["doctor", word]) == 2
        assert word.split("=")[0] in capsys.readouterr().err


def test_a_check_that_fails_itself_is_a_fault_and_shows_no_key(capsys: pytest.CaptureFixture[str]) -> None:
    def check_shelf(options: RunOptions, environment: object) -> Iterator[Check]:
        yield Check("first", "there")
        raise RuntimeError(f"no\n{KEY}")

    first, last = look_at(check_shelf, RunOptions(), {"GEMINI_API_KEY": KEY})
    assert first == Check("first", "there")
    assert (last.name, last.is_ok, last.outcome) == ("shelf_failed", False, "RuntimeError: no [secret]")
    assert "please report it" in str(last.remedy)
    traceback = capsys.readouterr().err
    assert "in check_shelf" in traceback
    assert KEY not in traceback


@pytest.mark.parametrize("package", [pytest.param("flatbuffers", marks=pytest.mark.slow), "numpy"])
def test_a_missing_package_is_named(package: str, tmp_path: Path) -> None:
    """Also one without which not even the flags of a run are known."""
    site = tmp_path / "site"
    site.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if entry.name.split("-")[0] != package:
            (site / entry.name).symlink_to(entry)
    call = [sys.executable, "-S", "-m", "autoresearch_jax.cli", "doctor", "--sections=python"]
    result = subprocess.run(call, env={**os.environ, "PYTHONPATH": f"{site}:{ROOT}"}, capture_output=True, text=True)
    assert result.returncode == 1
    assert package in result.stdout + result.stderr
    assert "in the checkout: rm -f .venv/.installed-* && ./scripts/setup.sh" in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


def test_an_old_python_or_package_is_told(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    assert what_lacks("numpy>=2.0") is None
    assert str(what_lacks("numpy>=99")).startswith("numpy>=99 is not met by ")
    monkeypatch.setattr(doctor_machine, "OLDEST", (99,))
    status, found = doctor("python")
    assert (status, found["faults"]) == (1, "python")
    assert "./scripts/setup.sh" in found["python"]


def test_a_device_that_answers_only_without_walls(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(*arguments: object, confined: bool = False, **keywords: object) -> devices.Device:
        if confined:
            raise devices.DeviceError("--platform=cuda: the worker process exited with status 1")
        return devices.Device("cuda", "NVIDIA H100", 1, None)

    monkeypatch.setattr(sandbox_module, "landlock_abi", lambda: 4)
    monkeypatch.setattr(devices, "find_device", find)
    status, found = doctor("devices", "--platform=cuda")
    assert (status, found["faults"]) == (1, "trial_process")
    assert "--sandbox=limits" in found["trial_process"]
    assert doctor("devices", "--platform=cuda", "--sandbox=limits")[0] == 0


def test_variables_that_steer_jax_are_named(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_private")
    status, found = doctor("jax")
    assert status == 0
    assert "XLA_FLAGS" in found["jax_variables"]
    assert "--xla_private" not in str(found)


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU")
@pytest.mark.slow
def test_a_platform_that_is_not_there(doctor: Doctor) -> None:
    status, found = doctor("devices", "--platform=cuda")
    assert (status, found["faults"]) == (1, "devices")
    assert "--platform=cpu goes without" in found["devices"]
    assert "./scripts/setup.sh cuda12 or cuda13" in found["devices"]


@pytest.mark.slow
def test_a_trial_process_that_does_not_start(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--no_such_flag_of_xla")
    status, found = doctor("devices", "--platform=cpu")
    assert (status, found["faults"]) == (1, "devices")
    assert "jax_variables" in found["devices"]


@pytest.mark.slow
def test_an_interrupt_leaves_no_process_and_no_file(doctor: Doctor, scratch: Path) -> None:
    call = [sys.executable, "-m", "autoresearch_jax.cli", "doctor", "--platform=cpu", "--sections=devices"]
    process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not list(scratch.glob("*/worker.log")):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[1] == "autoresearch doctor: interrupted\n"
    assert process.returncode == 130


def test_the_clock_of_trials(doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor("clock", "--clock=wall")[1]["clock"].startswith("wall")
    assert doctor("clock", "--platform=cuda")[1]["clock"].startswith("wall: ")
    status, found = doctor("clock", "--platform=tpu", "--clock=attended")
    assert (status, found["faults"]) == (1, "clock")
    assert "tpu" in found["clock"]
    if Path("/proc/self/schedstat").exists():
        monkeypatch.setattr(doctor_machine, "quota_cpus", lambda: 0.5)
        status, found = doctor("clock")
        assert (status, found["faults"]) == (0, "none")
        assert found["clock"].startswith("attended")
        assert f"0.5 of {len(os.sched_getaffinity(0))} " in found["cpu_quota"]
    monkeypatch.setattr(task_options, "try_accounting", partial(try_accounting, tmp_path))
    status, found = doctor("clock")
    assert (status, found["faults"]) == (0, "none")
    assert found["clock"].startswith(f"wall: {tmp_path}/self/task: ")
    status, found = doctor("clock", "--clock=attended")
    assert (status, found["faults"]) == (1, "clock")
    assert found["clock"].endswith("; use --clock=wall")


@pytest.mark.parametrize(
    ("group", "files", "cpus"),
    [
        ("0::/a/b", {"cpu.stat": "", "a/cpu.stat": "", "a/b/cpu.stat": "", "a/b/cpu.max": "max 100000"}, None),
        ("0::/a/b", {"a/cpu.stat": "", "a/cpu.max": "150000 100000", "a/b/cpu.stat": "", "a/b/cpu.max": "3 1"}, 1.5),
        ("1:cpu:/", {"cpu/cpu.stat": "", "cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
    ],
)
def test_the_quota_of_a_container(group: str, files: dict[str, str], cpus: float | None, tmp_path: Path) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(f"{group}\n")
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert quota_cpus(tmp_path / "proc", tmp_path / "groups") == cpus


@pytest.mark.slow
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
    monkeypatch.setattr(escapes, "_EXCESSES", {})
    status, found = doctor("sandbox")
    assert status == 1  # nothing confines, and nobody asked for that
    assert found["sandbox"].startswith("limits; nothing confines")
    assert found["no_bubblewrap"].startswith("bwrap is not installed; apt-get install bubblewrap")
    assert "lsm=landlock" in found["no_landlock"]
    assert "lsm=landlock" in found["trial_sandbox"]
    assert found["read_your_files"] == "OPEN; this level does not block it"
    status, found = doctor("sandbox", "--sandbox=require")
    assert status == 1
    assert "--sandbox=require: bubblewrap: bwrap is not installed" in found["sandbox_flag"]


def test_a_hole_in_the_sandbox_is_found(
    cache: Path, sandbox: Sandbox, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sandbox.level is Level.LIMITS:
        pytest.skip("nothing here can confine")
    open_sandbox = doctor_machine.open_sandbox

    def with_a_hole(*arguments: object, **keywords: object) -> Sandbox:
        cage = open_sandbox(*arguments, **keywords)  # type: ignore[arg-type]
        object.__setattr__(cage.mounts, "readable", (*cage.mounts.readable, cache))
        return cage

    monkeypatch.setattr(doctor_machine, "open_sandbox", with_a_hole)
    monkeypatch.setattr(escapes, "_EXCESSES", {})
    status, found = doctor("sandbox")
    assert status == 1
    assert found["read_dataset"].startswith("OPEN; this level should block it")
    assert found["write_elsewhere"] == "blocked"
