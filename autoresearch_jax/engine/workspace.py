"""A run's branch, its worktree, and a commit for every candidate. The user's own checkout is never touched."""

import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from autoresearch_jax.assets.base import AssetKind, AssetSyntaxError, ConstantError
from autoresearch_jax.assets.kinds import TRAINING_FILE
from autoresearch_jax.engine.git import Git, GitError, Worktree
from autoresearch_jax.errors import UsageError, UserError
from autoresearch_jax.files import as_written, plain_text
from autoresearch_jax.types import Scalar

BRANCH_PREFIX = "autoresearch/"
DISCARDED_PREFIX = "refs/autoresearch/"
_LFS_POINTER = "version https://git-lfs.github.com/"


class WorkspaceError(UserError):
    """The repository is not in a state to start from; the message says what to do."""


class TagError(UsageError):
    """The tag cannot be the name of a branch and of a folder."""


@dataclass(frozen=True)
class Baseline:
    """Where a run starts: the user's last commit, or one upon it that only sets constants."""

    commit: str
    source: str


class Workspace:
    """Branch `autoresearch/<tag>`, whose tip is the champion, checked out in the run's folder."""

    def __init__(
        self, git: Git, editable: str, tag: str, folder: Path, constants: Mapping[str, Scalar], asset: AssetKind
    ) -> None:
        self._git = git  # runs in the top folder of the user's checkout
        self.editable = editable  # path inside the repository
        self.folder = folder  # of the worktree
        self._tag = tag
        self._constants = constants
        self.asset = asset  # its kind
        self._worktree = Worktree(git, folder)
        self._read: tuple[str, bytes] = "", b""  # a commit, and the editable file as it has it

    @classmethod
    def of(
        cls,
        editable: Path,
        tag: str,
        folder: Path,
        environment: Mapping[str, str],
        constants: Mapping[str, Scalar] | None = None,
        asset: AssetKind = TRAINING_FILE,
    ) -> "Workspace":
        """Finds the repository that the editable file is in.

        `constants` are those that the run starts with, where the user's file has others; `asset` is the file's kind.

        Raises:
          TagError: the tag is no name for a branch.
          WorkspaceError: there is no such file, or no repository around it.
          GitError: git is missing.
        """
        if not editable.is_file():
            raise WorkspaceError(f"{editable}: no such file: name the file to edit with --editable")
        place = editable.resolve()
        git = Git(place.parent, environment)
        check_tag(tag, git)
        try:
            top = git.path("rev-parse", "--show-toplevel")
        except GitError as error:
            if "not a git repository" not in str(error):  # such as one of another user's, which git calls dubious
                raise
            raise WorkspaceError(
                f"{editable} is in no git repository, and the loop keeps its results as commits: run "
                f"git init && git add {place.name} && git commit -m start in {place.parent}"
            ) from error
        git = Git(top, environment)
        relative = place.relative_to(git.folder.resolve()).as_posix()
        return cls(git, relative, tag, folder.resolve(), dict(constants or {}), asset)

    @property
    def branch(self) -> str:
        """Name of the run's branch."""
        return BRANCH_PREFIX + self._tag

    def baseline(self, *, despite_changes: bool = False) -> Baseline:
        """The editable file as the user last committed it; with other constants in a commit of their own.

        Asked again it gives the same, as long as the user commits nothing.

        Args:
          despite_changes: whether the file may have changes that are not committed, such as one to be tried.

        Raises:
          WorkspaceError: no commit, or the file is not in it as it stands now, or it has no such constants.
        """
        self._check_committed(despite_changes)
        commit = self._git.text("rev-parse", "HEAD")
        source = self.source_at(commit)
        if source.startswith(_LFS_POINTER):
            raise WorkspaceError(
                f"{self.editable} is kept by Git LFS, and the loop needs its text in git: run git lfs untrack "
                f"{self.editable} && git add --renormalize {self.editable} && git commit -m start"
            )
        try:
            wanted = self.asset.set_constants(source, self._constants) if self._constants else source
        except (ConstantError, AssetSyntaxError) as error:
            raise WorkspaceError(f"--set: {self.editable}: {error}") from error
        if wanted == source:
            return Baseline(commit, source)
        names = ", ".join(f"{name} = {value}" for name, value in self._constants.items())
        message = f"The run starts with {names}\n"
        return Baseline(self.commit(wanted, commit, message, self._git.commit_date(commit)), wanted)

    def source_at(self, commit: str) -> str:
        """The editable file as a commit has it, its lines ended by one character and without a byte-order mark.

        Raises:
          WorkspaceError: it is not UTF-8.
        """
        try:
            return plain_text(self._blob(commit))
        except UnicodeDecodeError as error:
            raise WorkspaceError(f"{self.editable} is not UTF-8 text: {error}") from error

    def free_locks(self) -> None:
        """Removes locks of a git that was killed with its driver, from the run's own refs and its own worktree."""
        self._worktree.free_locks((self._branch_ref, f"{DISCARDED_PREFIX}{self._tag}/*"))

    def require_unused_branch(self) -> None:
        """Refuses a name whose branch or discarded refs exist, or that git has no room for beside another branch.

        Raises:
          WorkspaceError: there is one of these.
        """
        if self._tip(self._branch_ref) is not None:
            raise WorkspaceError(
                f"branch {self.branch} exists already, and the run folder {self.folder.parent} knows nothing of it: "
                f"choose another --tag, or delete the branch with git worktree prune && git branch -D {self.branch}"
            )
        branch = self._first_ref(f"{self._branch_ref}/").removeprefix("refs/heads/")
        if self._tip(f"refs/heads/{BRANCH_PREFIX}".rstrip("/")) is not None:
            branch = BRANCH_PREFIX.rstrip("/")
        if branch:
            raise WorkspaceError(
                f"git makes no branch {self.branch} beside a branch {branch}: rename that one with "
                f"git branch -m {branch} NAME"
            )
        discarded = f"{DISCARDED_PREFIX}{self._tag}/"
        if self._first_ref(discarded):
            raise WorkspaceError(
                f"an earlier run of this tag left discarded candidates under {discarded}: choose another --tag, or "
                f"delete them with git for-each-ref --format='delete %(refname)' {discarded} | git update-ref --stdin"
            )

    def commit(self, source: str, parent: str, message: str, date: float) -> str:
        """Makes a commit that differs from its parent in the editable file alone; no ref knows it yet.

        The file keeps its parent's byte-order mark and line ends, so that no other line is changed.
        Equal arguments give the same commit, so that a step repeated after a kill changes nothing.
        """
        tree = self._git.tree_with(parent, self.editable, as_written(source, self._blob(parent)))
        return self._git.commit_tree(tree, parent, message, date)

    def merge(self, base: str, ours: str, theirs: str) -> str | None:
        """See `Git.merge`."""
        return self._git.merge(base, ours, theirs)

    def copy_files(self, target: Path) -> None:
        """Copies the files of the commit that the worktree shows."""
        git = Git(self.folder, self._git.environment)
        git.text("checkout-index", "--all", "--force", f"--prefix={target}/", settings=git.as_committed())

    def keep(self, commit: str, previous: str | None, only: str | None = None) -> None:
        """Makes a commit the tip of the run's branch, and shows it in the worktree. May be repeated.

        Args:
          commit: the new tip.
          previous: where the branch must stand now; None if any place will do.
          only: a path, if that file is all that the worktree needs.

        Raises:
          WorkspaceError: someone else moved the branch, or has it checked out.
        """
        if self._git.text("rev-parse", "--symbolic-full-name", "HEAD") == self._branch_ref:
            raise WorkspaceError(
                f"{self._git.folder} has branch {self.branch} checked out, which the run moves: check out another "
                "one there, such as with git checkout -b mine"
            )
        tip = self._tip(self._branch_ref)
        if tip is not None and previous is not None and tip not in (commit, previous):
            raise WorkspaceError(
                f"branch {self.branch} was moved to {tip[:10]}, the ledger's champion is {commit[:10]}: put it back "
                f"with git update-ref {self._branch_ref} {commit}"
            )
        if tip != commit:
            self._git.text("update-ref", self._branch_ref, commit, tip or "")
        self._worktree.show(self.branch, only)

    def discard(self, commit: str, experiment: int) -> None:
        """Names a commit under refs/autoresearch/, so that no diff is ever lost. May be repeated."""
        ref = f"{DISCARDED_PREFIX}{self._tag}/{experiment:04d}"
        self._git.text("update-ref", ref, commit)

    def _blob(self, commit: str) -> bytes:
        if self._read[0] != commit:  # most commits have the champion as their parent
            self._read = commit, self._git.raw("cat-file", "blob", f"{commit}:{self.editable}")
        return self._read[1]

    def _tip(self, ref: str) -> str | None:
        try:
            return self._git.text("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
        except GitError:
            return None

    def _first_ref(self, prefix: str) -> str:
        """A ref whose name begins so; empty if there is none."""
        return self._git.text("for-each-ref", "--count=1", "--format=%(refname)", prefix)

    @property
    def _branch_ref(self) -> str:
        return f"refs/heads/{self.branch}"

    def _check_committed(self, despite_changes: bool) -> None:
        if not self._git.succeeds("rev-parse", "--verify", "--quiet", "HEAD^{commit}"):
            raise WorkspaceError(
                f"the git repository {self._git.folder} has no commit yet: run "
                f"git add {self.editable} && git commit -m start"
            )
        if not self._git.succeeds("cat-file", "-e", f"HEAD:{self.editable}"):
            raise WorkspaceError(
                f"{self.editable} is not in the last commit, and the loop starts from there: run "
                f"git add {self.editable} && git commit -m start"
            )
        if not despite_changes and self._git.text("status", "--porcelain", "--", self.editable):
            raise WorkspaceError(
                f"{self.editable} has changes that are not committed, and the loop starts from the last commit: "
                f"run git commit {self.editable}, or put them aside with git stash"
            )


@contextmanager
def made_up_run(editable: Path, environment: Mapping[str, str], *, whole: bool) -> Iterator[Workspace]:
    """The workspace of a run that is made up, with a commit kept on its branch; branch and worktree go at the end.

    Args:
      editable: the file to edit.
      environment: of this process.
      whole: whether the worktree has all files, or that one alone.

    Raises:
      UserError: a run could not do that; the message says what to do.
    """
    git = Git(editable.resolve().parent, environment)
    with tempfile.TemporaryDirectory(prefix="autoresearch-try-") as scratch:
        folder = Path(scratch).resolve() / "workspace"
        workspace = Workspace.of(editable, f"try-{secrets.randbits(64):016x}", folder, environment)
        try:
            try:
                made = workspace.commit("# tried\n", git.text("rev-parse", "HEAD"), "Tried\n", time.time())
                workspace.keep(made, None, None if whole else workspace.editable)
            except (OSError, GitError) as error:
                remedy = f"make the repository of {git.folder} one that you can write to, on a disk with room"
                raise WorkspaceError(f"{error}: {remedy}") from error
            yield workspace
        finally:
            # twice forced: one that is half made is locked; never `prune`: the user's may be on disks that are away
            git.succeeds("worktree", "remove", "--force", "--force", str(folder))
            git.succeeds("update-ref", "-d", f"refs/heads/{workspace.branch}")


def check_tag(tag: str, git: Git) -> None:
    """Refuses a tag that cannot name a branch and a folder.

    Raises:
      TagError: it cannot.
    """
    ref = f"refs/heads/{BRANCH_PREFIX}{tag}"
    if not tag or "/" in tag or tag.startswith("-") or not git.succeeds("check-ref-format", ref):
        raise TagError(
            f"--tag={tag}: git takes no branch of that name: use letters, digits, '-' and '_', such as --tag=nov20"
        )
