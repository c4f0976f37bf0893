"""Git, and whether a run could start from the training file and keep its commits."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from autoresearch_jax.commands.checks.check import Check, reason, refusal
from autoresearch_jax.engine.git import Git, GitError
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.workspace import TagError, Workspace, WorkspaceError
from autoresearch_jax.types import Scalar

ANY_TAG = "doctor"  # where none is given; nothing of this name is made
_BLOCK = b"0" * 4096


def check_git(
    editable: Path,
    tag: str | None,
    run_dir: Path,
    environment: Mapping[str, str],
    constants: Mapping[str, Scalar] | None = None,
) -> Iterator[Check]:
    """Git itself, the training file, the identity for commits, the repository, and the run's branch.

    Args:
      editable: value of --editable.
      tag: value of --tag; None without one.
      run_dir: value of --run_dir.
      environment: of this process.
      constants: value of --set.
    """
    try:
        version = Git(Path.cwd(), environment).text("version").removeprefix("git version ")
    except (OSError, GitError) as error:
        outcome = "not installed" if isinstance(error.__cause__, FileNotFoundError) else reason(error)
        yield Check("git", outcome, is_ok=False, remedy="install it, on Debian with apt-get install git")
        return
    yield Check("git", version)
    folder = RunFolder(run_dir / (tag or ANY_TAG))
    try:
        workspace = Workspace.of(editable, tag or ANY_TAG, folder.workspace, environment, constants)
    except TagError as error:
        yield refusal("branch", error)
        return
    except WorkspaceError as error:
        yield refusal("editable", error)
        return
    except GitError as error:  # such as a repository of somebody else's
        remedy = f"call `git status` in {editable.resolve().parent}: it says what to do"
        yield Check("editable", str(error), is_ok=False, remedy=remedy)
        return
    goes_on = tag is not None and folder.ledger.is_file()
    yield _committed(editable, workspace, goes_on)
    git = Git(editable.resolve().parent, environment)
    yield _identity(git)
    yield _try("git_objects", lambda: _write_beside_objects(git), git)
    if git.succeeds("rev-parse", "--verify", "--quiet", "HEAD"):
        yield _try("git_worktree", lambda: _make_worktree(git), git)
    if tag is not None:
        yield _branch(workspace, folder, goes_on)


def _committed(editable: Path, workspace: Workspace, goes_on: bool) -> Check:
    if goes_on:
        return Check("editable", f"{editable}; the run goes on from its own commits")
    try:
        workspace.baseline()
    except WorkspaceError as error:
        return refusal("editable", error)
    return Check("editable", f"{editable}, committed and unchanged")


def _identity(git: Git) -> Check:
    missing = [name for name in ("user.name", "user.email") if not git.succeeds("config", "--get", name)]
    if not missing:
        return Check("git_identity", "set")
    remedy = f"if commits should carry yours: git config --global {missing[0]} ..."
    return Check("git_identity", f"{' and '.join(missing)} not set, commits get one of their own", remedy=remedy)


def _try(name: str, action: Callable[[], None], git: Git) -> Check:
    try:
        action()
    except (OSError, GitError) as error:
        remedy = f"make the repository of {git.folder} one that you can write to, on a disk with room"
        return Check(name, reason(error), is_ok=False, remedy=remedy)
    return Check(name, "can be made")


def _write_beside_objects(git: Git) -> None:
    """Writes where commits go, to a file without a name: nothing is left of it, whatever happens."""
    folder = git.folder / git.text("rev-parse", "--git-path", "objects")
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(_BLOCK)
        file.flush()
        os.fsync(file.fileno())


def _make_worktree(git: Git) -> None:
    """Makes a worktree without files, and takes it away again."""
    with tempfile.TemporaryDirectory(prefix="autoresearch-doctor-") as scratch:
        tree = f"{scratch}/worktree"
        try:
            git.text("worktree", "add", "--detach", "--no-checkout", tree, "HEAD")
            git.text("worktree", "remove", "--force", tree)
        except BaseException:
            # twice forced: one that is half made is locked; never `prune`: the user's may be on disks that are away
            git.succeeds("worktree", "remove", "--force", "--force", tree)
            raise


def _branch(workspace: Workspace, folder: RunFolder, goes_on: bool) -> Check:
    """Whether the run's branch is free, or the run's own."""
    if (holder := folder.holder()) is not None:
        remedy = "wait for it, stop it, or choose another --tag"
        return Check("branch", f"{holder} is at work on {folder.path}", is_ok=False, remedy=remedy)
    if goes_on:
        return Check("branch", f"{workspace.branch}, the run goes on")
    try:
        workspace.require_unused_branch()
    except WorkspaceError as error:
        return refusal("branch", error)
    return Check("branch", f"{workspace.branch}, not used yet")
