"""What the process that runs a snapshot's programs reaches, as `sample` and `verify` start it, and how it ends."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from marked_processes import MARK, comes_true, marked_processes

from autoresearch_jax.sandbox.linux import landlock_abi
from autoresearch_jax.tasks.lm.config import SAMPLE
from autoresearch_jax.tasks.lm.integrity import FORMAT_VERSION
from autoresearch_jax.tasks.lm.verification import ask_about_snapshot
from autoresearch_jax.types import CandidateUntouched

# Modules that Python imports when it starts, before it is the process that runs programs
TELLS_WHAT_IT_REACHES = """
import os, socket, sys
if "autoresearch_jax.tasks.lm.worker" in sys.orig_argv:
    tries = {
        "snapshot": lambda: open("SNAPSHOT/manifest.json").close(),
        "eval bundle": lambda: os.listdir("BUNDLE"),
        "other snapshots": lambda: os.listdir("SNAPSHOT/.."),
        "writing": lambda: open("SNAPSHOT/new", "w").close(),
        "home": lambda: os.listdir("HOME"),
        "key": lambda: os.environ["NVIDIA_API_KEY"],
        "network": lambda: socket.socket(),
    }
    reached = []
    for name, attempt in tries.items():
        try:
            attempt()
        except (OSError, KeyError):
            continue
        reached.append(name)
    print("reached", ",".join(reached), file=sys.stderr, flush=True)
    os._exit(3)
"""
HANGS = "import sys, time\nif 'autoresearch_jax.tasks.lm.worker' in sys.orig_argv:\n    time.sleep(600)\n"


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """As much of a snapshot as is read before a process is started."""
    folder = tmp_path / "snapshots" / "0000-0001"
    folder.mkdir(parents=True)
    manifest = {"format_version": FORMAT_VERSION, "platform": "cpu", "mesh": {"data": 1, "model": 1}, "files": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.skipif(landlock_abi() == 0, reason="the kernel has no Landlock")
def test_it_reaches_the_snapshot_and_what_is_named(snapshot: Path, tmp_path: Path) -> None:
    site, bundle = tmp_path / "site", tmp_path / "bundle"
    site.mkdir()
    bundle.mkdir()
    words = {"SNAPSHOT": snapshot, "BUNDLE": bundle, "HOME": Path.home()}
    text = TELLS_WHAT_IT_REACHES
    for word, path in words.items():
        text = text.replace(f'"{word}', f'"{path}')
    (site / "sitecustomize.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(site), "NVIDIA_API_KEY": "secret"}

    def reached(*, confined: bool) -> set[str]:
        with pytest.raises(CandidateUntouched, match="exited with status 3: reached ") as caught:
            ask_about_snapshot(SAMPLE, snapshot, {}, environment=environment, confined=confined, readable=[bundle])
        return set(str(caught.value).partition("reached ")[2].partition(";")[0].split(","))

    assert reached(confined=True) == {"snapshot", "eval bundle"}
    assert reached(confined=False) >= {"snapshot", "eval bundle", "other snapshots", "writing", "home"}


def test_a_machine_that_runs_no_program_is_no_fault_of_the_snapshot(
    snapshot: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {**os.environ, "JAX_TRANSFER_GUARD": "disallow"}
    with pytest.raises(CandidateUntouched, match="; it inherits JAX_TRANSFER_GUARD"):
        ask_about_snapshot(SAMPLE, snapshot, {}, environment=environment, confined=False)
    assert capsys.readouterr().err == "", "one line is enough"


@pytest.fixture
def sampling(snapshot: Path, tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """The command `sample`, whose process never answers; both have this test's mark."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(HANGS)
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "autoresearch_jax.cli", "sample", f"--snapshot={snapshot}"]
    environment = {**os.environ, "PYTHONPATH": path, MARK: str(tmp_path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_an_interrupted_command_leaves_no_process(sampling: "subprocess.Popen[str]", tmp_path: Path) -> None:
    assert comes_true(lambda: len(marked_processes(f"{MARK}={tmp_path}")) == 3, 60.0), "command, watch, worker"
    sampling.send_signal(signal.SIGINT)
    assert sampling.communicate()[1].splitlines()[-1] == "autoresearch sample: interrupted"
    assert sampling.returncode == 128 + signal.SIGINT
    assert comes_true(lambda: marked_processes(f"{MARK}={tmp_path}") == [])
