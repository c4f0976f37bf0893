"""`autoresearch doctor`: says what is there, what is wrong and what helps, and means it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from doctor_calls import KEY, Doctor, git, lines

from autoresearch_jax.cli import main
from autoresearch_jax.commands.checks import disk
from autoresearch_jax.commands.checks.check import Check, look_at
from autoresearch_jax.commands.checks.python import requirements
from autoresearch_jax.commands.doctor import SECTIONS


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
