"""The peers' chains in a bare repository of our own: fetched, pushed and read by git, with a deadline.

The user's repository is not used: nothing of the swarm gets into it, and nothing of it gets out.
"""

import hashlib
import os
import resource
import signal
import subprocess
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from autoresearch_jax.engine.git import SETTINGS, Git, GitError
from autoresearch_jax.sanitize import clean_line

FINDINGS, CHAMPIONS = "findings", "champions"
KINDS = (FINDINGS, CHAMPIONS)
REMOTE_PREFIX = "refs/autoresearch/"
FETCHED_PREFIX = "refs/fetched/"  # as they came
SEEN_PREFIX = "refs/seen/"  # those that were found to be in order
GIT_SECONDS = 60.0  # that one git command may take
MAX_FETCH_BYTES = 32 * 2**20  # of one pack, and of any file that git writes; 160 findings of a 20 kB file have 1 MB
MAX_JOINT_BYTES = 8 * 2**20  # of the pack of several chains, so that one that is too large holds up the others briefly
_UNPACKED_OBJECTS = 100  # below which a bundle's objects get files of their own, as with `git fetch`
_MEMO_BYTES = 8 * 2**20  # of objects that are kept in memory, the same base of many findings among them
_PROTOCOLS = "file:git:http:https:ssh"  # no `ext`, which runs any command
_NO_ASKING = {
    "GIT_ASKPASS": "",
    "SSH_ASKPASS_REQUIRE": "never",
    "GCM_INTERACTIVE": "never",
    "GIT_ALLOW_PROTOCOL": _PROTOCOLS,
}
# A user's own settings of these would change what is pushed or fetched, or have a server refuse it.
_PLAIN_PUSH = ("-c", "push.pushOption=", "-c", "push.useForceIfIncludes=false")
_PUSH = (
    "push",
    "--porcelain",
    "--no-verify",
    "--no-signed",
    "--no-follow-tags",
    "--recurse-submodules=no",
    "--no-thin",
)
_FETCH = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-prune", "--no-recurse-submodules", "--stdin")
_FETCH_SETTINGS = ("-c", "fetch.fsckObjects=true", "-c", "fetch.writeCommitGraph=false", "-c", "maintenance.auto=false")


@dataclass(frozen=True)
class ChainCommit:
    """A commit of a chain; `date` in seconds since the epoch, as its committer says."""

    commit: str
    tree: str
    parents: tuple[str, ...]
    date: int


@dataclass(frozen=True)
class Pushed:
    """What became of a push: whether the remote took it, and what it said."""

    done: bool
    said: str


class _LimitedGit(Git):
    """Git for the network: it never prompts, and is ended with its children at its deadline."""

    def __init__(self, folder: Path, environment: Mapping[str, str], seconds: float, most_bytes: int) -> None:
        super().__init__(folder, environment)
        self.environment |= _NO_ASKING
        self._seconds = seconds
        self._most_bytes = most_bytes  # of a file that it writes

    def _run(
        self, words: Sequence[str], stdin: bytes, variables: Mapping[str, str]
    ) -> subprocess.CompletedProcess[bytes]:
        command = ["git", *SETTINGS, *words]
        try:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**self.environment, **variables},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise GitError("git is not installed: install it (Debian: apt-get install git)") from error
        except OSError as error:
            raise GitError(f"git cannot be started in {self.folder}: {error.strerror}") from error
        with suppress(OSError):  # it may have ended
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (self._most_bytes, self._most_bytes))
        try:
            out, err = process.communicate(stdin, self._seconds)
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                name = next((word for word in words if not word.startswith("-") and "=" not in word), "git")
                raise GitError(f"git {name} took more than {self._seconds:g} s: ended") from error
            raise
        return subprocess.CompletedProcess(command, process.returncode, out, err)


class Store:
    """A peer's bare repository, and the remote."""

    def __init__(self, folder: Path, environment: Mapping[str, str], seconds: float = GIT_SECONDS) -> None:
        """Stores where it is; `seconds` is the time that one command may take."""
        self.folder = folder
        self._environment = environment
        self._seconds = seconds
        self._sizes: dict[str, int] = {}  # of objects, which never change, by their names
        self._objects: dict[str, bytes] = {}

    @property
    def _git(self) -> Git:
        return self._limited(MAX_FETCH_BYTES, self._seconds)

    def _limited(self, most_bytes: int, seconds: float) -> Git:
        git = _LimitedGit(self.folder, self._environment, seconds, most_bytes)
        git.environment["GIT_DIR"] = str(self.folder.resolve())  # as `safe.bareRepository=explicit` asks for
        return git

    def make(self) -> None:
        """Makes the repository where there is none.

        Raises:
          GitError: it cannot be made.
        """
        if (self.folder / "HEAD").is_file():
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GitError(f"{self.folder}: cannot be made: {error.strerror}") from error
        git = self._git
        git.text("init", "--quiet", "--bare", "--template=", "--object-format=sha1", str(self.folder.resolve()))
        for name in ("gc.autoDetach", "maintenance.autoDetach"):  # no process that outlives us
            git.text("config", name, "false")

    # ---- the remote

    def remote_refs(self, url: str) -> dict[str, str]:
        """The tips of all chains of a remote, by ref.

        Raises:
          GitError: it does not answer.
        """
        patterns = [f"{REMOTE_PREFIX}{kind}/*" for kind in KINDS]
        listed = self._git.text("ls-remote", "--quiet", "--refs", "--", url, *patterns)
        return {ref: tip for tip, _, ref in (line.partition("\t") for line in listed.splitlines()) if ref}

    def fetch(self, url: str, refs: Collection[str], seconds: float | None = None) -> None:
        """Fetches chains, by their refs at the remote, all at once, within some seconds.

        Raises:
          GitError: one of them is gone or too large, its objects are faulty, or the remote does not answer.
        """
        asked = "".join(f"+{ref}:{fetched(ref)}\n" for ref in refs)
        git = self._limited(MAX_JOINT_BYTES if len(refs) > 1 else MAX_FETCH_BYTES, seconds or self._seconds)
        git.text(*_FETCH, "--", url, stdin=asked.encode(), settings=_FETCH_SETTINGS)

    def make_bundle(self, ref: str, since: str | None, seconds: float) -> bytes:
        """The commits of a ref of this store as a git bundle, from `since`, which is left out.

        Raises:
          GitError: there are none, they are too large, or it takes longer.
        """
        git = self._limited(MAX_FETCH_BYTES, seconds)
        asked = "".join(f"{word}\n" for word in (ref, *(() if since is None else (f"^{since}",))))
        with tempfile.TemporaryDirectory(prefix="autoresearch-bundle-") as scratch:
            path = Path(scratch) / "bundle"
            words = ("bundle", "create", "--quiet", str(path), "--stdin")
            git.text(*words, stdin=asked.encode(), settings=("-c", "pack.threads=1"))
            return path.read_bytes()

    def take_bundle(self, bundle: bytes, ref: str, tip: str, seconds: float) -> None:
        """Unpacks a git bundle as a fetch of a ref would, with the same checks and limits; `tip` is kept as fetched.

        `git fetch` does not check the objects of a bundle before git 2.46, so its pack is given to git alone.

        Raises:
          GitError: it is none, is too large, its objects are faulty or not linked to those here, or it lacks the tip.
        """
        head, _, pack = bundle.partition(b"\n\n")
        if not head.startswith(b"# v2 git bundle\n") or not pack.startswith(b"PACK"):
            raise GitError("what came is no git bundle of version 2")
        few = int.from_bytes(pack[8:12], "big") < _UNPACKED_OBJECTS
        words = ("unpack-objects", "-q") if few else ("index-pack", "--stdin", "--fix-thin")
        git = self._limited(MAX_FETCH_BYTES, seconds)
        git.raw(*words, "--strict", f"--max-input-size={MAX_FETCH_BYTES}", stdin=pack)
        git.text("update-ref", "--no-deref", fetched(ref), tip)

    def collect_garbage(self) -> None:
        """Packs what came loose, if that is much, and drops what was refused long ago."""
        self._git.succeeds("gc", "--auto", "--quiet")

    def push(self, url: str, commit: str, ref: str, expected: str | None, *, dry_run: bool = False) -> Pushed:
        """Makes a commit the tip of a ref of the remote, if that is at `expected` now; None if there is none."""
        lease = f"--force-with-lease={ref}:{expected or ''}"
        dry = ("--dry-run",) if dry_run else ()
        try:
            self._git.text(*_PUSH, *dry, lease, "--", url, f"{commit}:{ref}", settings=_PLAIN_PUSH)
        except GitError as error:
            return Pushed(False, clean_line(str(error)))
        return Pushed(True, "")

    # ---- refs and commits

    def refs(self, prefix: str = SEEN_PREFIX) -> dict[str, str]:
        """The tips of the refs below a prefix."""
        listed = self._git.text("for-each-ref", "--format=%(objectname) %(refname)", prefix)
        return {ref: tip for tip, _, ref in (line.partition(" ") for line in listed.splitlines())}

    def set_ref(self, ref: str, commit: str) -> None:
        """Moves a ref of the store."""
        self._git.text("update-ref", "--no-deref", ref, commit)

    def delete_ref(self, ref: str) -> None:
        """Removes a ref of the store, which need not exist."""
        self._git.succeeds("update-ref", "--no-deref", "-d", ref)

    def descends(self, commit: str, ancestor: str) -> bool:
        """Whether one commit comes after another."""
        return self._git.succeeds("merge-base", "--is-ancestor", ancestor, commit)

    def chain(self, tip: str, since: str | None, most: int) -> list[ChainCommit]:
        """The commits from `since`, which is left out, to a tip, the oldest first; of more than `most` the newest.

        Raises:
          GitError: the tip is no commit.
        """
        words = ("rev-list", f"--max-count={most}", "--topo-order", "--encoding=UTF-8", "--format=%H %T %ct %P", tip)
        listed = self._git.text(*words, *(() if since is None else (f"^{since}",)), "--")
        found = []
        for line in listed.splitlines():
            if not line.startswith("commit "):
                commit, tree, date, *parents = line.split()
                found.append(ChainCommit(commit, tree, tuple(parents), int(date)))
        return found[::-1]

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """Bytes of objects, by their names; None for one that is missing."""
        asked = [name for name in dict.fromkeys(names) if name not in self._sizes]
        if asked:
            listed = self._git.raw("cat-file", "--batch-check", stdin="".join(f"{name}\n" for name in asked).encode())
            words = (line.split()[-1] for line in listed.splitlines())
            self._sizes |= {name: int(word) for name, word in zip(asked, words, strict=True) if word.isdigit()}
        return [self._sizes.get(name) for name in names]

    def read(self, names: Sequence[str], limit: int) -> list[bytes | None]:
        """Objects by their names; None for one that is missing or has more than `limit` bytes."""
        taken = {
            name for name, size in zip(names, self.sizes(names), strict=True) if size is not None and size <= limit
        }
        if sum(map(len, self._objects.values())) > _MEMO_BYTES:
            self._objects.clear()
            self._sizes.clear()
        if asked := [name for name in sorted(taken) if name not in self._objects]:
            printed = self._git.raw("cat-file", "--batch", stdin="".join(f"{name}\n" for name in asked).encode())
            self._objects |= zip(asked, _batch(printed), strict=True)
        return [self._objects[name] if name in taken else None for name in names]

    def write_commit(
        self, files: Mapping[str, bytes], parent: str | None, author: str, message: str, key: Path, date: int
    ) -> str:
        """Makes a commit of files at the top, signed with an ssh key.

        Raises:
          GitError: the key does not sign, or the disk is full.
        """
        git = self._git
        names = sorted(files)
        with tempfile.TemporaryDirectory(prefix="autoresearch-commit-") as scratch:
            paths = [Path(scratch) / name for name in names]
            for path in paths:
                path.write_bytes(files[path.name])
            asked = "".join(f"{path}\n" for path in paths).encode()
            blobs = git.text("hash-object", "-w", "--no-filters", "--stdin-paths", stdin=asked).split()
        entries = (f"100644 blob {blob}\t{name}\n" for blob, name in zip(blobs, names, strict=True))
        tree = git.text("mktree", stdin="".join(entries).encode())
        words = {"NAME": author, "EMAIL": author, "DATE": f"@{date} +0000"}
        who = {f"GIT_{role}_{what}": word for role in ("AUTHOR", "COMMITTER") for what, word in words.items()}
        signing = ("-c", "gpg.format=ssh", "-c", "gpg.ssh.program=ssh-keygen", "-c", f"user.signingKey={key}")
        parents = () if parent is None else ("-p", parent)
        return git.text(
            *("commit-tree", "-S", tree, *parents, "-F", "-"), stdin=message.encode(), settings=signing, variables=who
        )


def tree_name(files: Mapping[str, bytes]) -> str:
    """The name that git gives the tree of these files at its top."""
    entries = b""
    for name, content in sorted(files.items()):
        entries += b"100644 %s\0" % name.encode() + bytes.fromhex(blob_name(content))
    return _object_name("tree", entries)


def blob_name(content: bytes) -> str:
    """The name that git gives a file's content."""
    return _object_name("blob", content)


def chain_tips(refs: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """The chains of a store's refs that are in order, its own among them: by the ref at a remote, ref here and tip."""
    found = {}
    for ref, tip in refs.items():
        for prefix in (SEEN_PREFIX, REMOTE_PREFIX):
            if ref.startswith(prefix) and peer_of(ref)[0] in KINDS:
                found[REMOTE_PREFIX + ref.removeprefix(prefix)] = (ref, tip)
    return found


def fetched(ref: str) -> str:
    """Where a ref of the remote is kept as it came."""
    return FETCHED_PREFIX + ref.removeprefix(REMOTE_PREFIX)


def seen(ref: str) -> str:
    """Where a ref of the remote is kept as it was found to be in order."""
    return SEEN_PREFIX + ref.removeprefix(REMOTE_PREFIX)


def peer_of(ref: str) -> tuple[str, str]:
    """The kind of a chain and the peer's name; the name has a slash where a ref lies deeper."""
    kind, _, name = ref.removeprefix(REMOTE_PREFIX).removeprefix(SEEN_PREFIX).partition("/")
    return kind, name


def tree_entries(tree: bytes) -> list[tuple[str, str, str]]:
    """The entries of a tree object: mode, name and the object's name (SHA-1)."""
    found, at = [], 0
    while at < len(tree):
        end = tree.index(b"\0", at)
        mode, _, name = tree[at:end].partition(b" ")
        found.append((mode.decode("ascii", "replace"), os.fsdecode(name), tree[end + 1 : end + 21].hex()))
        at = end + 21
    return found


def _batch(printed: bytes) -> Iterable[bytes]:
    """The objects that `cat-file --batch` printed."""
    at = 0
    while at < len(printed):
        end = printed.index(b"\n", at)
        size = int(printed[at:end].split()[-1])
        yield printed[end + 1 : end + 1 + size]
        at = end + 2 + size


def _object_name(kind: str, content: bytes) -> str:
    return hashlib.sha1(b"%s %d\0" % (kind.encode(), len(content)) + content, usedforsecurity=False).hexdigest()
