"""Git as a subprocess, without hooks, prompts, fetches or optional locks; and the worktree of a run."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from autoresearch_jax.errors import UserError

# Variables by which a caller, such as a hook, would point git at another repository or file than the one asked for.
_REPOSITORY_VARIABLES = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
    *("GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS"),  # git takes none beside the literal ones
)
# Go before what the user has set.
SETTINGS = (
    *("-c", "core.hooksPath=/dev/null"),
    *("-c", "core.fsmonitor=false"),  # a program, or a daemon that would outlive the run's worktree
    *("-c", "commit.gpgSign=false"),
    *("-c", "i18n.commitEncoding=UTF-8"),  # of the messages that are given
    *("-c", "submodule.recurse=false"),  # else a checkout moves the submodules of the user's own
)
_AS_COMMITTED = ("-c", "core.autocrlf=false", "-c", "core.eol=lf")
_MOST_CONFLICTS = 127  # the exit status of `git merge-file` counts them; beyond, it is an error
_FALLBACK_NAME, _FALLBACK_EMAIL = "autoresearch", "autoresearch@localhost"

# Nothing is ever fetched. A folder that somebody sent may name a remote, and git would run any command that its
# configuration calls a way to get there, for an object that it lacks.
_NO_REMOTE = {"GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1"}


class GitError(UserError):
    """Git is missing, or refused; the message says what was asked of it."""


class Git:
    """Runs git in one folder."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        """Stores where to run."""
        self.folder = folder
        self.environment = {
            **{name: value for name, value in environment.items() if name not in _REPOSITORY_VARIABLES},
            "LC_ALL": "C",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_OPTIONAL_LOCKS": "0",  # `git status` would else rewrite the user's index
            "GIT_LITERAL_PATHSPECS": "1",  # no character of a path is a pattern
            **_NO_REMOTE,
        }
        self._identity: dict[str, str] | None = None
        self._listings: tuple[str, dict[PurePosixPath, bytes]] = ("", {})  # of one commit's folders, see `_listing`

    def text(
        self,
        *words: str,
        stdin: bytes = b"",
        variables: Mapping[str, str] | None = None,
        settings: Sequence[str] = (),
    ) -> str:
        """Standard output of a git command, stripped; see `raw`."""
        return self.raw(*words, stdin=stdin, variables=variables, settings=settings).decode("utf-8", "replace").strip()

    def path(self, *words: str) -> Path:
        """The path that a git command prints, in any encoding; a relative one starts at the folder."""
        return self.folder / os.fsdecode(self.raw(*words).removesuffix(b"\n"))

    def raw(
        self,
        *words: str,
        stdin: bytes = b"",
        variables: Mapping[str, str] | None = None,
        settings: Sequence[str] = (),
    ) -> bytes:
        """Standard output of a git command as it is.

        Args:
          words: the command.
          stdin: its standard input.
          variables: added to its environment.
          settings: words that go before it, such as those of `as_committed`.

        Raises:
          GitError: it failed.
        """
        result = self._run((*settings, *words), stdin, variables or {})
        if result.returncode != 0:
            said = " ".join(result.stderr.decode("utf-8", "replace").split()) or f"exit {result.returncode}"
            raise GitError(f"git {words[0]} failed in {self.folder}: {said}")
        return result.stdout

    def succeeds(self, *words: str, variables: Mapping[str, str] | None = None) -> bool:
        """True if a git command exits with 0."""
        return self._run(words, b"", variables or {}).returncode == 0

    def as_committed(self) -> Sequence[str]:
        """Settings under which files are written as committed: line ends kept, no filters, which may be missing."""
        listed = self._run(("config", "--null", "--name-only", "--get-regexp", r"^filter\."), b"", {}).stdout
        drivers = {os.fsdecode(name).rpartition(".")[0] for name in listed.split(b"\0")[:-1]}
        off = (f"{driver}.{key}" for driver in sorted(drivers) for key in ("smudge=", "process=", "required=false"))
        return [*_AS_COMMITTED, *(word for setting in off for word in ("-c", setting))]

    def commit_date(self, commit: str) -> float:
        """When a commit was made, in seconds since the epoch."""
        header = self.raw("cat-file", "commit", commit).partition(b"\n\n")[0]
        (committer,) = (line for line in header.split(b"\n") if line.startswith(b"committer "))
        return float(committer.rsplit(b" ", 2)[1])

    def tree_with(self, commit: str, path: str, text: bytes) -> str:
        """Makes a tree that differs from a commit's in the text of one file alone."""
        made = self.text("hash-object", "-w", "--stdin", stdin=text)
        place = PurePosixPath(path)
        for changed in (place, *place.parents[:-1]):  # from the file upwards, each folder on its way anew
            entries = _with_object(self._listing(commit, changed.parent), changed.name, made)
            made = self.text("mktree", "-z", "--missing", stdin=entries)  # what else is in there need not be at hand
        return made

    def _listing(self, commit: str, folder: PurePosixPath) -> bytes:
        """Entries of a commit's folder, as `ls-tree -z` prints them; read once as long as it is the same commit."""
        if self._listings[0] != commit:
            self._listings = (commit, {})
        listings = self._listings[1]
        if folder not in listings:
            listings[folder] = self.raw("ls-tree", "-z", f"{commit}:{'' if folder == PurePosixPath() else folder}")
        return listings[folder]

    def commit_tree(self, tree: str, parent: str, message: str, date: float) -> str:
        """Makes a commit object that no branch knows yet; equal arguments give the same one."""
        stamp = f"@{int(date)} +0000"
        return self.text(
            *("commit-tree", tree, "-p", parent, "-F", "-"),
            stdin=message.encode(),
            variables={**self._own_identity(), "GIT_AUTHOR_DATE": stamp, "GIT_COMMITTER_DATE": stamp},
        )

    def merge(self, base: str, ours: str, theirs: str) -> str | None:
        """A text with the changes that lead from `base` to two others; None where both change the same lines.

        Raises:
          GitError: git takes a text for no text.
        """
        with tempfile.TemporaryDirectory() as scratch:
            paths = [Path(scratch) / name for name in ("ours", "base", "theirs")]
            for path, text in zip(paths, (ours, base, theirs), strict=True):
                path.write_bytes(text.encode())
            words = ("merge-file", "--stdout", "--quiet", *map(str, paths))
            result = self._run(words, b"", {})
        if result.returncode == 0:
            return result.stdout.decode()
        if result.returncode <= _MOST_CONFLICTS:
            return None
        raise GitError(f"git merge-file failed: {' '.join(result.stderr.decode('utf-8', 'replace').split())}")

    def _own_identity(self) -> Mapping[str, str]:
        """A name, an address or both for commits, where the user has set none that git takes, such as an empty one."""
        if self._identity is None:
            self._identity = {}
            for role in ("GIT_AUTHOR", "GIT_COMMITTER"):
                name, email = {f"{role}_NAME": _FALLBACK_NAME}, {f"{role}_EMAIL": _FALLBACK_EMAIL}
                asked = ("-c", "user.useConfigOnly=true", "var", f"{role}_IDENT")
                tries: tuple[dict[str, str], ...] = ({}, name, email, name | email)
                self._identity |= next((own for own in tries if self.succeeds(*asked, variables=own)), name | email)
        return self._identity

    def _run(
        self, words: Sequence[str], stdin: bytes, variables: Mapping[str, str]
    ) -> subprocess.CompletedProcess[bytes]:
        command = ["git", *SETTINGS, *words]
        try:
            return subprocess.run(
                command,
                cwd=self.folder,
                env={**self.environment, **variables},
                input=stdin,
                capture_output=True,
                check=False,
                start_new_session=True,  # Ctrl-C is for us: git finishes what it began
            )
        except FileNotFoundError as error:
            raise GitError("git is not installed: install it (Debian: apt-get install git)") from error


def _with_object(listing: bytes, name: str, made: str) -> bytes:
    """Entries as `ls-tree -z` prints them, with another object under one of the names."""
    entries = []
    for entry in listing.split(b"\0")[:-1]:
        words, _, found = entry.partition(b"\t")
        if found == os.fsencode(name):
            mode, kind, _ = words.split(b" ")
            entry = b"%s %s %s\t%s" % (mode, kind, made.encode(), found)
        entries.append(entry + b"\0")
    return b"".join(entries)


LOCK_SECONDS = 5.0  # a git that outlived its driver has ended by then
_BROKEN = ".broken"  # added to the name of a worktree that is about to be deleted


class WorktreeError(UserError):
    """The folder is no worktree of the run; the message says what to do."""


class Worktree:
    """A linked worktree that belongs to one run."""

    def __init__(self, git: Git, folder: Path) -> None:
        """Stores where it is."""
        self._git = git
        self._folder = folder

    def show(self, branch: str, only: str | None = None) -> None:
        """Checks a branch out; makes the worktree if it is not there, or not whole.

        Args:
          only: a path in the repository, if that file is enough.

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
            self._git.text("worktree", "add", "--no-checkout", "--force", "--force", str(self._folder), branch)
        # not `reset`, which would move a branch that a user has checked out there
        what = ("--ignore-other-worktrees", branch, "--") if only is None else (f"refs/heads/{branch}", "--", only)
        here.text("checkout", "--quiet", "--force", *what, settings=here.as_committed())

    def free_locks(self, ref_files: Iterable[str]) -> None:
        """Removes the lock files of a git that was killed; only for who holds the run's own lock.

        `ref_files` are patterns of the run's refs inside the repository's folder.
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

        Raises WorktreeError if there is a repository of its own.
        """
        try:
            words = _read_path(self._folder / ".git")
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
            known = _read_path(own_dir / "gitdir")
        except OSError:
            return False
        return (own_dir / known).resolve() == (self._folder / ".git").resolve()  # with worktree.useRelativePaths

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


def _read_path(file: Path) -> str:
    """What git wrote into a file that says where something is."""
    return os.fsdecode(file.read_bytes().removesuffix(b"\n"))


def _common_dir(git: Git) -> Path | None:
    """The folder of the repository that a folder is a checkout of; None if it is gone."""
    try:
        return git.path("rev-parse", "--git-common-dir").resolve()
    except (GitError, NotADirectoryError):
        return None
