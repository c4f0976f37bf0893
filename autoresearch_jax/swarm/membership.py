"""A peer's folder: its settings, the members' file with their keys, and the peers that are blocked."""

import fcntl
import hashlib
import json
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autoresearch_jax.errors import UsageError, UserError
from autoresearch_jax.files import write_json, write_whole
from autoresearch_jax.sanitize import REDACTED, clean_line

FORMAT = 1  # of the settings and of what a chain's commits hold
FOLDER_NAME = "swarm"  # in the folder of the runs
MAX_NAME_CHARACTERS = 40
DEFAULT_QUOTA = 100  # findings that are read of a peer and UTC day; a night of 126 experiments gave fewer
NO_REMOTE = "no common remote"
KEY_TYPES = ("ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-")

_LOCK_SECONDS = 1.0  # `server` in another process has the lock for a moment
_PASSWORD = re.compile(r"(//[^/@:\s]*):[^/@\s]*@")
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class SwarmError(UserError):
    """A peer cannot take part; the message says what to do."""


@dataclass(frozen=True)
class Settings:
    """What `autoresearch swarm join` was told."""

    # URL of the shared git repository, with which git's own configuration may do what it does; empty where members
    # exchange their chains by zenoh alone
    remote: str
    name: str  # of this peer; its chains are `refs/autoresearch/findings/NAME` and `refs/autoresearch/champions/NAME`
    key: str  # ssh key that signs; a public one whose private one an agent holds will do
    members: str  # the members' file
    quota: int = DEFAULT_QUOTA  # findings that are read of a peer and day
    listen: tuple[str, ...] = ()  # where zenoh listens, such as `tls/0.0.0.0:7447`
    connect: tuple[str, ...] = ()  # zenoh's of other members
    router: bool = False  # whether this member relays for those that cannot be reached
    tls_ca: str = ""  # certificate that those of the members are signed with
    tls_certificate: str = ""  # this member's
    tls_key: str = ""  # of this member's certificate

    @property
    def has_notices(self) -> bool:
        """Whether notices were asked for."""
        return bool(self.listen or self.connect)


def is_name(name: str) -> bool:
    """Whether a text can be a peer's name."""
    return _NAME.fullmatch(name) is not None and len(name) <= MAX_NAME_CHARACTERS


def check_name(name: str) -> None:
    """Refuses what cannot be a peer's name.

    Raises:
      UsageError: it cannot.
    """
    if not is_name(name):
        raise UsageError(
            f"{clean_line(name)}: no name of a peer: lower-case words joined by hyphens, at most {MAX_NAME_CHARACTERS} "
            "characters"
        )


def without_password(text: str) -> str:
    """A text with the passwords of URLs in it blanked out."""
    return _PASSWORD.sub(rf"\1:{REDACTED}@", text)


class SwarmFolder:
    """`swarm/` in the folder of the runs: all that a peer keeps."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / FOLDER_NAME
        self.settings = self.path / "swarm.json"
        self.members = self.path / "members"  # git's format of allowed signers
        self.blocked = self.path / "blocked"  # a name a line
        self.store = self.path / "store.git"
        self.outbox = self.path / "outbox"  # findings that are not pushed yet, a folder each
        self.findings = self.path / "findings"  # what was read of peers, as a folder of findings
        self.claims = self.path / "claims"  # of runs here, for `swarm serve` to tell
        self.state = self.path / "state.json"
        self.lock = self.path / "peer.lock"
        self._serve_lock = self.path / "serve.lock"
        self._serve_process = self.path / "serve.process"  # who holds it

    def create(self) -> None:
        """Makes the folder, out of the sight of a git repository around it.

        Raises:
          SwarmError: it cannot be made.
        """
        try:
            self.outbox.mkdir(parents=True, exist_ok=True)
            (self.path / ".gitignore").write_text("*\n")
        except OSError as error:
            raise SwarmError(f"{self.path}: cannot be made: {error.strerror}: name another --run_dir") from error

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Holds the lock of `swarm serve`, of which one is at work for a folder.

        Raises:
          SwarmError: another process has it.
        """
        from filelock import FileLock, Timeout  # its import takes a quarter of a second

        try:
            with FileLock(self._serve_lock, timeout=_LOCK_SECONDS):
                self._serve_process.write_text(_this_process())
                yield
        except Timeout as error:
            raise SwarmError(
                f"{self.path}: {self.server() or 'another'} is at work already: one is enough for a folder"
            ) from error

    def server(self) -> str | None:
        """Another process that is `swarm serve` of this folder, such as "swarm serve (pid 12 on box)"; else None."""
        try:
            with self._serve_lock.open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            with suppress(OSError):
                who = clean_line(self._serve_process.read_text(encoding="utf-8", errors="replace"), 100)
                return None if who == _this_process() else f"swarm serve ({who})"
        except OSError:  # there is none
            pass
        return None

    def server_for(self, settings: Settings) -> str | None:
        """The same where it listens in the place of this process, and there is no remote beside it."""
        return self.server() if settings.listen and not settings.remote else None

    def read_settings(self) -> Settings:
        """The peer's settings.

        Raises:
          SwarmError: there are none, or they cannot be read.
        """
        again = "join with: autoresearch swarm join --remote=URL --name=NAME"
        try:
            given = json.loads(self.settings.read_text(encoding="utf-8"))
            if given.pop("format") > FORMAT:
                raise SwarmError(f"{self.settings}: of a later version: update autoresearch_jax, or {again}")
            lists = {name: tuple(given[name]) for name in ("listen", "connect") if name in given}
            return Settings(**{**given, **lists})
        except FileNotFoundError as error:
            raise SwarmError(f"{self.settings}: not there, this folder is no peer's yet: {again}") from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise SwarmError(f"{self.settings}: cannot be read: {clean_line(str(error))}: {again}") from error

    def write_settings(self, settings: Settings) -> None:
        """Keeps a peer's settings."""
        write_json(self.settings, {"format": FORMAT, **asdict(settings)})

    def blocked_names(self) -> set[str]:
        """The peers of which nothing is read any more."""
        try:
            return set(self.blocked.read_text(encoding="utf-8").split())
        except (OSError, UnicodeDecodeError):
            return set()

    def block(self, name: str, *, blocked: bool) -> None:
        """Adds a peer to those that are blocked, or takes it out."""
        names = self.blocked_names()
        names = names | {name} if blocked else names - {name}
        write_whole(self.blocked, "".join(f"{one}\n" for one in sorted(names)))

    def forget_if_changed(self, state: dict[str, Any], members: Path, refusals: Iterable[str]) -> None:
        """Takes out of a peer's state what was refused by another version of the members' file; by these names."""
        try:
            digest = hashlib.sha256(members.read_bytes()).hexdigest()
        except OSError:
            return
        if state.get("members") not in (None, digest):
            for name in refusals:
                state.pop(name, None)
        state["members"] = digest


def require_same_name(folder: SwarmFolder, name: str) -> None:
    """Refuses another name for a folder that is a peer's: its findings would come again, as those of two.

    Raises:
      UsageError: it is another peer's.
    """
    with suppress(SwarmError):
        if (before := folder.read_settings().name) != name:
            raise UsageError(
                f"--name={name}: {folder.path} is {before}'s, and one folder is one peer's: use another --run_dir"
            )


def _this_process() -> str:
    return f"pid {os.getpid()} on {socket.gethostname()}"


def read_members(path: Path) -> Mapping[str, str]:
    """The members by name, each with the line of the file that has its key; read anew, so that members may come.

    Raises:
      SwarmError: there is no such file, or a line is none of a member; the message has its number.
    """
    form = 'expected a line a member, such as "alice ssh-ed25519 AAAA..."'
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "no text"
        raise SwarmError(f"{path}: the members' file cannot be read ({why}): {form}") from error
    members: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        name = words[0].strip('"')
        if not is_name(name):
            raise SwarmError(f"{path}:{number}: {clean_line(name, 60)} is no member's name: {form}")
        if "cert-authority" in line or not any(word.startswith(KEY_TYPES) for word in words[1:]):
            raise SwarmError(f"{path}:{number}: no ssh key of {name}: {form}")
        members[name] = f"{members[name]}\n{line}" if name in members else line
    return members
