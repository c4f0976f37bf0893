"""`autoresearch doctor`, section sandbox."""

import json
from pathlib import Path

import pytest
from doctor_calls import ATTEMPTS, Doctor

from autoresearch_jax.cli import main
from autoresearch_jax.commands import task_flags
from autoresearch_jax.commands.checks import sandbox as sandbox_section
from autoresearch_jax.sandbox import escapes
from autoresearch_jax.sandbox import sandbox as sandbox_module
from autoresearch_jax.sandbox.sandbox import Level, Sandbox


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
