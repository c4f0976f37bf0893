"""The checkout of a run's branch in the run's folder, and what a git that was killed leaves of it."""

import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from autoresearch_jax.engine.git import Git, GitError
from autoresearch_jax.errors import UserError

LOCK_SECONDS = 5.0  # a git that outlived its driver has done its work by then, and a lock that is left is nobody's
_BROKEN = ".broken"  # added to the name of a worktree that is about to be deleted


class WorktreeError(UserError):
    """The folder is no worktree of the run; the message says what to do."""


class Worktree:
    """A linked worktree in which nobody but the run has anything to do."""

    def __init__(self, git: Git, folder: Path) -> None:
        """Stores where it is.

        Args:
          git: in the user's own checkout.
          folder: of the worktree, there or not.
        """
        self._git = git
        self._folder = folder

    def show(self, branch: str) -> None:
        """Checks a branch out; makes the worktree if it is not there, or not whole.

        Raises:
          WorktreeError: the folder is something else than this worktree.
          GitError: git refuses.
        """
        here = Git(self._folder, self._git.environment)
        own_dir = self._own_dir()
        if own_dir is not None and not self._is_half_made(own_dir):
            if _common_dir(here) != _common_dir(self._git) or not self._is_this_place(own_dir):
                raise WorktreeError(
                    f"{self._folder} is not a worktree of {self._git.folder}, or that of another place there, as after "
                    "a copy or a move: delete it, and the same command makes it anew"
                )
        else:
            if own_dir is not None:
                self._delete()
            elif self._folder.is_dir() and any(self._folder.iterdir()):
                raise WorktreeError(
                    f"{self._folder} is there and is no worktree: move it away, and the same command makes one"
                )
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            self._git.text("worktree", "add", "--force", "--force", str(self._folder), branch)
        # not `reset`: it would move whatever branch someone has checked out there
        here.text("checkout", "--quiet", "--force", "--ignore-other-worktrees", branch, "--")

    def free_locks(self, ref_files: Iterable[str]) -> None:
        """Removes the lock files of a git that was killed; only for who holds the run's own lock.

        Args:
          ref_files: of the run's refs, as patterns inside the repository's folder.
        """
        common_dir, own_dir = _common_dir(self._git), self._own_dir()
        assert common_dir is not None
        found = {path for pattern in ref_files for path in common_dir.glob(f"{pattern}.lock")}
        if own_dir is not None and self._is_of_this_repository(own_dir):
            found |= set(own_dir.glob("*.lock"))
        deadline = time.monotonic() + LOCK_SECONDS
        while any(path.exists() for path in found) and time.monotonic() < deadline:
            time.sleep(0.05)
        for path in found:
            path.unlink(missing_ok=True)

    def _own_dir(self) -> Path | None:
        """Where git keeps what is this worktree's alone; None if there is no worktree.

        Raises:
          WorktreeError: there is a repository of its own.
        """
        try:
            words = (self._folder / ".git").read_text(encoding="utf-8").strip()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except IsADirectoryError as error:
            raise WorktreeError(f"{self._folder} is a repository of its own: move it away") from error
        return self._folder / words.removeprefix("gitdir: ")

    def _is_half_made(self, own_dir: Path) -> bool:
        """Whether git was killed while it made this worktree, which is locked until it is whole."""
        try:
            reason = (own_dir / "locked").read_text(encoding="utf-8").strip()
        except OSError:
            return False
        return reason == "initializing" and self._is_of_this_repository(own_dir)

    def _is_this_place(self, own_dir: Path) -> bool:
        """Whether git knows this worktree here, and not at another place, which this one would be a copy of."""
        try:
            known = (own_dir / "gitdir").read_text(encoding="utf-8").strip()
        except OSError:
            return False
        return Path(known).resolve() == (self._folder / ".git").resolve()

    def _is_of_this_repository(self, own_dir: Path) -> bool:
        common_dir = _common_dir(self._git)
        return common_dir is not None and own_dir.resolve().parent == common_dir / "worktrees"

    def _delete(self) -> None:
        """Out of the way in one step, so that a kill leaves no half of it there."""
        broken = self._folder.with_name(self._folder.name + _BROKEN)
        shutil.rmtree(broken, ignore_errors=True)
        with suppress(FileNotFoundError):
            self._folder.rename(broken)
        shutil.rmtree(broken, ignore_errors=True)


def _common_dir(git: Git) -> Path | None:
    """The folder of the repository that a folder is a checkout of; None if it is gone."""
    try:
        return (git.folder / git.text("rev-parse", "--git-common-dir")).resolve()
    except (GitError, NotADirectoryError):
        return None
