"""Doctor's own worktree goes again, and the user's stay, whatever happens meanwhile."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from autoresearch_jax.commands.checks.git import check_git

# Answers of git to `worktree add`: what makes it fail, or has this process interrupted, when it has made one.
FAILING = "exit 1"
INTERRUPTED = "kill -INT $PPID; sleep 1; exit 0"
KILLED = 'echo initializing > "$(ls -d .git/worktrees/worktree)/locked"; exit 137'


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with a worktree of the user's on a disk that is not mounted now."""
    repo = tmp_path / "repo"
    git(tmp_path, "init", "-q", str(repo))
    (repo / "train_lib.py").write_text("LR = 1\n")
    git(repo, "add", ".")
    git(repo, "-c", "user.name=x", "-c", "user.email=x", "commit", "-qm", "start")
    git(repo, "worktree", "add", "-q", "--detach", str(tmp_path / "disk" / "mine"))
    (tmp_path / "disk").rename(tmp_path / "away")
    return repo


@pytest.mark.parametrize("answer", [FAILING, INTERRUPTED, KILLED])
def test_worktrees_of_the_user_that_are_away_stay_known(repo: Path, tmp_path: Path, answer: str) -> None:
    wrapper = tmp_path / "bin" / "git"
    wrapper.parent.mkdir()
    real = shutil.which("git")
    wrapper.write_text(f'#!/bin/sh\ncase "$*" in *"worktree add"*) {real} "$@"; {answer} ;; esac\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    environment = {**os.environ, "PATH": f"{wrapper.parent}:{os.environ['PATH']}"}

    def failed() -> list[str]:
        found = check_git(repo / "train_lib.py", None, tmp_path / "runs", environment)
        return [check.name for check in found if not check.is_ok]

    if answer == INTERRUPTED:
        with pytest.raises(KeyboardInterrupt):
            failed()
    else:
        assert failed() == ["git_worktree"]
    assert [path.name for path in (repo / ".git" / "worktrees").iterdir()] == ["mine"]
