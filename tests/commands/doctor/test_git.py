"""`autoresearch doctor`, section git."""

import os
import shutil
from pathlib import Path

import pytest
from doctor_calls import Doctor, git, in_own_mounts, lines
from fakes import SOURCE

from autoresearch_jax.cli import main


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
