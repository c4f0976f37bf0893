"""Trials on several hosts as a person starts them: the same command on each, or `autoresearch host`."""

import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from autoresearch_jax.cli import main
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.tasks.lm.channel import Channel
from autoresearch_jax.tasks.lm.hosts import BUSY, BYE, free_ports, versions

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


def test_a_host_joins_again_until_host_0_says_good_bye() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        command = [sys.executable, "-m", "autoresearch_jax.cli", "host", f"--coordinator_address={address}"]
        process = subprocess.Popen([*command, "--host_id=2"], stderr=subprocess.PIPE, text=True)
        for told in (None, {"do": BUSY, "reason": "there is one already"}, {"do": BYE}):
            channel = Channel(server.accept()[0])
            hello, _ = channel.receive(60.0)
            assert hello == {"host_id": 2, "versions": versions("cpu")}
            if told is not None:  # else as if host 0's command was killed
                channel.send(told)
            channel.close()
        said = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 0
    steps = (f"host 2: waits for host 0 at {address}", f"host 2: joins {address}")
    words = [*steps, "host 2: host 0 is lost", *steps, "there is one already", *steps]
    assert [line for line in said if "autoresearch host: " in line] == [f"autoresearch host: {word}" for word in words]


@pytest.mark.slow
def test_a_run_as_srun_starts_it(tiny_run: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "autoresearch_jax.cli", "run", "--tag=n", *tiny_run, "--proposer=constants"]
    command += ["--experiments=2", "--platform=cpu", "--num_hosts=2", "--mesh=data=2"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    job = {"SLURM_JOB_ID": str(free_ports(1)[0]), "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2"}
    started = [
        subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **job, "SLURM_PROCID": number},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number, folder in (("0", tmp_path), ("1", elsewhere))
    ]
    said = [process.communicate(timeout=600)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    with closing(Ledger.open_to_read(tmp_path / "runs" / "n" / "ledger.db")) as ledger:
        assert [row.score is not None for row in ledger.experiments()] == [True, True, True], said
    assert list(elsewhere.iterdir()) == []


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
