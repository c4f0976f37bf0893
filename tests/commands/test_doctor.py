"""`autoresearch doctor`: says what is in force, and means it."""

import json
from pathlib import Path

import pytest

from autoresearch_jax.cli import main
from autoresearch_jax.commands import doctor, task_flags
from autoresearch_jax.runtime import escapes
from autoresearch_jax.runtime import sandbox as sandbox_module
from autoresearch_jax.runtime.sandbox import Level, Sandbox

ATTEMPTS = {
    *("read_your_files", "read_dataset", "read_run_folder", "read_stdlib", "read_environment", "write_elsewhere"),
    *("open_connection", "signal_process", "leave_daemon", "exceed_memory", "exceed_cpu_time", "fork_bomb"),
    *("fill_disk", "fill_log", "run_for_ever"),
}


@pytest.fixture(autouse=True)
def cache(sandbox_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (doctor, task_flags):
        monkeypatch.setattr(module, "CACHE_DIR", str(sandbox_cache))
    return sandbox_cache


def test_the_sandbox_of_this_machine_holds(cache: Path, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(cache.iterdir())
    assert main(["doctor", "--format=json"]) == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["sandbox"]}
    assert checks["sandbox"]["outcome"] == str(sandbox.level)
    assert checks.keys() >= ATTEMPTS
    if sandbox.level is not Level.LIMITS:
        assert {checks[name]["outcome"] for name in ATTEMPTS} == {"blocked"}
    assert set(cache.iterdir()) == before  # what was planted is gone


def test_limits_alone_are_told_with_what_helps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sandbox_module, "landlock_abi", lambda: 0)
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["doctor"]) == 1  # nothing confines, and nobody asked for that
    lines = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["sandbox"].strip() == "limits"
    assert lines["no_bubblewrap"].strip().startswith("bwrap is not installed; apt-get install bubblewrap")
    assert "lsm=landlock" in lines["no_landlock"]
    assert lines["read_your_files"].strip() == "OPEN; this level does not block it"
    assert lines["fork_bomb"].strip() == "blocked"

    monkeypatch.setattr(escapes, "_EXCESSES", {})
    assert main(["doctor", "--sandbox=require"]) == 1
    assert "--sandbox=require: bubblewrap: bwrap is not installed" in capsys.readouterr().out


def test_a_hole_in_the_sandbox_is_found(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
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
    assert main(["doctor"]) == 1
    lines = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["read_dataset"].strip().startswith("OPEN; this level should block it")
    assert lines["write_elsewhere"].strip() == "blocked"
