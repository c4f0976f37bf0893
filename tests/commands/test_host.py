"""Trials on several hosts as a person starts them: the same command on each, or `autoresearch host`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoresearch_jax.cli import main
from autoresearch_jax.tasks.lm.hosts import free_ports

HERE = "--coordinator_address=127.0.0.1:8483"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--num_hosts=2"], "--coordinator_address is missing: neither SLURM nor Cloud TPU tells it: "),
        (["--num_hosts=2", HERE], "--host_id is missing: neither SLURM nor Cloud TPU tells it: "),
        (["--num_hosts=2", HERE, "--host_id=2"], "--host_id=2: --num_hosts=2 has 0 to 1"),
        (["--coordinator_address=there"], "--coordinator_address=there: expected HOST:PORT, such as "),
        (["--num_hosts=2", HERE, "--host_id=0", "--mesh=data=3"], "--mesh asks for 3 devices, which --num_hosts=2 "),
        (["--num_hosts=2", HERE, "--host_id=0", "--workers=2"], "--num_hosts=2: one trial has all devices: leave out "),
    ],
)
def test_hosts_that_cannot_meet_are_refused(
    words: list[str], said: str, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trial", *flags, "--platform=cpu", *words]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"autoresearch trial: {said}")


def test_slurm_says_how_many_hosts_there_are(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "n[1-4]", "SLURM_PROCID": "3", "SLURM_NTASKS": "4"}
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    assert main(["trial", *flags, "--num_hosts=2"]) == 2
    assert capsys.readouterr().err == "autoresearch trial: --num_hosts=2: SLURM started 4: one process a host\n"


def test_a_host_gives_up_where_there_is_no_coordinator(capsys: pytest.CaptureFixture[str]) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    command = ["host", f"--coordinator_address={address}", "--host_id=1", "--wait_seconds=0.1", "--sandbox=limits"]
    assert main(command) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"autoresearch host: --coordinator_address={address}: nothing answers within 0.1 s (")


@pytest.mark.slow
def test_the_same_command_on_each_host(flags: list[str], tmp_path: Path) -> None:
    by_seconds = [flag for flag in flags if not flag.startswith(("--budget", "--run_dir"))]
    address = f"127.0.0.1:{free_ports(1)[0]}"
    command = [sys.executable, "-m", "autoresearch_jax.cli", "trial", *by_seconds, "--budget_seconds=2", "--clock=wall"]
    command += ["--platform=cpu", "--num_hosts=2", "--mesh=data=4", f"--coordinator_address={address}"]
    started = [
        subprocess.Popen(
            [*command, f"--host_id={host_id}", f"--run_dir={tmp_path / str(host_id)}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ,
        )
        for host_id in (1, 0)
    ]
    (said, complained), (summary, words) = (process.communicate(timeout=300) for process in started)
    assert [process.returncode for process in started] == [0, 0], (complained, summary, words)
    assert said == ""
    assert "host 1: joins" in complained
    assert "status:              ok" in summary
    assert not (tmp_path / "1").exists()  # the loop and its files are on host 0
