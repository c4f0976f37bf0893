"""The cage in which a candidate's Python runs: bubblewrap, else Landlock, else limits alone.

At every level a watching process (`watch.py`) keeps the command within its limits and leaves nothing of it behind.
"""

import contextlib
import enum
import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from autoresearch_jax.errors import UserError
from autoresearch_jax.sandbox.linux import FILTER_DESCRIPTOR, IS_LINUX, READ_AND_WRITE_ANYTHING, landlock_abi
from autoresearch_jax.sandbox.mounts import (
    READABLE_DEVICES,
    WRITABLE_DEVICES,
    Mounts,
    bubblewrap_argv,
    compiled_standard_library,
    package_root,
    python_mounts,
)
from autoresearch_jax.sandbox.process import CommandStopped, WatchError, bare_environment, carry_out

GIBIBYTE = 1 << 30
MEBIBYTE = 1 << 20
PROBE_SECONDS = 20.0
NO_LANDLOCK = "the kernel has no Landlock, or it is switched off"
DOCTOR = "`autoresearch doctor` says what helps"
_OWN_NAME_CHARACTERS = 6  # of the hash of this machine's name, in the names of scratch folders


class Level(enum.StrEnum):
    """How a candidate is confined, the best first."""

    BUBBLEWRAP = "bubblewrap"
    LANDLOCK = "landlock"
    LIMITS = "limits"


CHOICES = ("auto", "require", *Level)


class SandboxError(UserError):
    """The sandbox asked for cannot be had; the message says why and what would help."""


def default_memory_bytes() -> int:
    """8 GiB, or half of the machine's memory where that is less."""
    return min(8 * GIBIBYTE, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)


def default_threads() -> int:
    """Threads of all processes: JAX's pools grow with the number of cores."""
    return 512 + 64 + 32 * (os.cpu_count() or 1)


@dataclass(frozen=True)
class ProcessLimits:
    """What a confined command and all that it starts may use together, unless said otherwise.

    Attributes:
      wall_seconds: from its start.
      cpu_seconds: of all cores.
      memory_bytes: resident.
      address_bytes: virtual, of one process; only a backstop, since JAX reserves far more than it uses.
      processes: at a time.
      threads: of all processes.
      open_files: of one process.
      file_bytes: one file's size.
      scratch_bytes: all that lies in the scratch folder, or is held open without a name.
      scratch_files: how many of them.
      log_bytes: what it prints.
    """

    wall_seconds: float = 300.0
    cpu_seconds: float = 900.0
    memory_bytes: int = field(default_factory=default_memory_bytes)
    address_bytes: int = 1 << 40
    processes: int = 64
    threads: int = field(default_factory=default_threads)
    open_files: int = 1024
    file_bytes: int = 256 * MEBIBYTE
    scratch_bytes: int = 512 * MEBIBYTE
    scratch_files: int = 10_000
    log_bytes: int = 8 * MEBIBYTE


@dataclass(frozen=True)
class SandboxResult:
    """How a confined command ended.

    Attributes:
      returncode: its exit status, negative for a signal; None if it was killed by us.
      broken_limit: name of the one among `ProcessLimits` that it broke, None if none.
      words: what it did then, such as "ran longer than 5 s".
      seconds: how long it ran.
      peak_memory_bytes: the most that was seen of its memory.
      own_namespaces: whether it had process ids of its own and no network, at the levels below bubblewrap.
    """

    returncode: int | None
    broken_limit: str | None
    words: str | None
    seconds: float
    peak_memory_bytes: int
    own_namespaces: bool

    @classmethod
    def from_answer(cls, answer: Mapping[str, Any]) -> "SandboxResult":
        """What the watching process answered."""
        breach = answer["breach"] or {"limit": None, "words": None}
        return cls(
            returncode=_returncode(answer["status"]),
            broken_limit=breach["limit"],
            words=breach["words"],
            seconds=answer["seconds"],
            peak_memory_bytes=answer["peak_memory_bytes"],
            own_namespaces=answer["namespaces"],
        )


@dataclass(frozen=True)
class Sandbox:
    """A level that works on this machine.

    Attributes:
      level: what is in force.
      mounts: what the command sees of the file system; at `LIMITS` it sees everything.
      why_not: for each better level, why it is not in force.
      bwrap: the program bubblewrap; None where it is not installed.
      worker: what confines the process that runs the traced programs: Landlock, or nothing. It lives long and needs
        devices, which bubblewrap would not let it give up one after the other.
    """

    level: Level
    mounts: Mounts
    why_not: Mapping[Level, str] = field(default_factory=dict)
    bwrap: str | None = None
    worker: Level = Level.LIMITS

    def run_python(
        self,
        arguments: Sequence[str],
        *,
        scratch: Path,
        environment: Mapping[str, str],
        log_path: Path,
        limits: ProcessLimits | None = None,
        variables: Mapping[str, str] | None = None,
        stop: threading.Event | None = None,
        fixed_addresses: bool = False,
    ) -> SandboxResult:
        """Runs this Python, with its packages and ours, on the arguments. No process of it is left afterwards.

        Args:
          arguments: of Python, such as ("-m", "package.module").
          scratch: the folder that it may write to; its working directory, home and place for temporary files.
          environment: variables of this process, of which it gets an allow-listed few.
          log_path: what it prints is added to this file.
          limits: what it may use.
          variables: further variables.
          stop: set by another thread to end it.
          fixed_addresses: whether the kernel is asked to load it to the same addresses each time.

        Raises:
          SandboxError: the watching process failed, or it was stopped.
        """
        scratch = scratch.resolve()
        temporary = scratch / "tmp"
        temporary.mkdir(exist_ok=True)
        packages = scratch / "packages"  # ours under its name, and not what lies beside it
        packages.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (packages / package_root().name).symlink_to(package_root())
        # of the library's folders only the archive: at the last level the real ones are seen anyway, and are faster
        confined = self.level is not Level.LIMITS
        import_path = [str(path) for path in self.mounts.import_path[0 if confined else 1 :]]
        variables = {
            "HOME": str(scratch),
            "PYTHONPATH": ":".join([*import_path, str(packages)]),
            "PYTHONDONTWRITEBYTECODE": "1",
            **({"PYTHONHOME": self.mounts.python_home} if confined else {}),
            **(variables or {}),
            "TMPDIR": str(temporary),
        }
        argv = [self.mounts.interpreter, "-P", "-s", "-S", *arguments]
        if self.level is Level.BUBBLEWRAP:
            assert self.bwrap is not None
            argv = bubblewrap_argv(self.bwrap, self.mounts, scratch, argv)
        order = {
            "argv": argv,
            "environment": bare_environment(environment, **variables),
            "cwd": str(scratch),
            "limits": asdict(limits or ProcessLimits()),
            "blanks": {},
            "confine": {**self.confinement(scratch), "fixed_addresses": fixed_addresses},
        }
        try:
            answer = carry_out(order, log_path=log_path, log_mode="ab", stop=stop)
        except (WatchError, CommandStopped) as error:
            raise SandboxError(str(error)) from error
        if answer["left"]:
            raise SandboxError(f"{answer['left']} processes of the sandbox cannot be killed; see {log_path}")
        return SandboxResult.from_answer(answer)

    def confinement(self, scratch: Path) -> dict[str, Any]:
        """The order's `confine`, see `watch.py`."""
        found: dict[str, Any] = {
            "namespaces": IS_LINUX,
            "keep_capabilities": None,
            "landlock": None,
            "filter_descriptor": None,
        }
        if self.level is Level.BUBBLEWRAP:  # which makes namespaces and drops capabilities itself
            return {**found, "namespaces": False, "filter_descriptor": FILTER_DESCRIPTOR}
        if self.level is Level.LANDLOCK:
            readable = [*self.mounts.allowed(), *READABLE_DEVICES]
            return {
                **found,
                "keep_capabilities": 0,
                "landlock": {"readable": readable, "writable": [str(scratch), *WRITABLE_DEVICES]},
            }
        # reading is free at the last level, and root's Python may lie in another user's home
        return {**found, "keep_capabilities": READ_AND_WRITE_ANYTHING}


def open_sandbox(choice: str, *, cache_dir: Path, environment: Mapping[str, str]) -> Sandbox:
    """The sandbox of a choice, tried before it is believed.

    Args:
      choice: "auto" takes the best level that works, "require" the same but at least Landlock, a level's name that one.
      cache_dir: where the compiled standard library is kept.
      environment: variables of this process.

    Raises:
      SandboxError: it cannot be had.
    """
    wanted = [Level(choice)] if choice in list(Level) else list(Level)
    worker = worker_level(choice)
    if choice == "require":
        wanted.remove(Level.LIMITS)
    try:
        standard_library = compiled_standard_library(cache_dir)
    except OSError as error:
        what = f"{cache_dir}: {error.strerror}: what the sandbox shows of Python is kept there"
        raise SandboxError(f"{what}: name a folder that you can write to with --cache_dir") from error
    mounts = python_mounts(standard_library, environment)
    why_not: dict[Level, str] = {}
    for level in wanted:
        bwrap = shutil.which("bwrap", path=environment.get("PATH"))
        sandbox = Sandbox(level, mounts, dict(why_not), bwrap, Level.LIMITS if level is Level.LIMITS else worker)
        reason = _why_not(sandbox, environment)
        if reason is None and choice == "require" and worker is Level.LIMITS:
            raise SandboxError(f"--sandbox=require: the processes of trials need Landlock: {NO_LANDLOCK}; {DOCTOR}")
        if reason is None:
            return sandbox
        why_not[level] = reason
    reasons = "; ".join(f"{level}: {reason}" for level, reason in why_not.items())
    raise SandboxError(f"--sandbox={choice}: {reasons}; {DOCTOR}")


def worker_level(choice: str) -> Level:
    """What confines the processes that run traced programs: Landlock or nothing."""
    return Level.LANDLOCK if choice != Level.LIMITS and landlock_abi() else Level.LIMITS


def remove_tree(path: Path) -> None:
    """Removes a folder that a candidate could write to: however deep, and whatever its modes."""
    with contextlib.suppress(RecursionError):
        shutil.rmtree(path, ignore_errors=True)
    for words in (("chmod", "-R", "u+rwX"), ("rm", "-rf")):
        if path.exists():
            environment = {"PATH": os.defpath}
            subprocess.run([*words, "--", str(path)], env=environment, stderr=subprocess.DEVNULL, check=False)


@contextlib.contextmanager
def scratch_folder(
    name: str, parent: Path | None = None, remove: Callable[[Path], None] = remove_tree
) -> Iterator[Path]:
    """A new folder, removed at the end; before that, those are removed that killed processes of this machine left.

    A folder is in use while a process holds a lock on it, which ends with the process.

    Args:
      name: what the folder's name begins with, such as ".trace-": no other code may make such names in `parent`.
      parent: an existing folder; None for the system's folder of temporary files.
      remove: a folder and all that is in it, whoever may have written there.

    Raises:
      OSError: it cannot be made.
    """
    place = Path(tempfile.gettempdir()) if parent is None else parent
    machine = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:_OWN_NAME_CHARACTERS]
    prefix = f"{name}{machine}-"
    with _locked(place, wait=True):  # so that no other process takes a folder for left that is not locked yet
        for path in place.glob(f"{prefix}*"):
            with contextlib.suppress(OSError), _locked(path):
                remove(path)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place)).resolve()
        stack = contextlib.ExitStack()
        with contextlib.suppress(OSError):  # a file system without locks: what is left there stays
            stack.enter_context(_locked(folder))
    try:
        yield folder
    finally:
        remove(folder)
        stack.close()


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds the lock on a folder.

    Raises OSError if another process holds it, or there are no such locks; not with `wait`.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with contextlib.suppress(OSError) if wait else contextlib.nullcontext():
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def _why_not(sandbox: Sandbox, environment: Mapping[str, str]) -> str | None:
    """Why a level does not work here, found out by running an empty program in it; None if it works."""
    if sandbox.level is Level.BUBBLEWRAP and sandbox.bwrap is None:
        return "bwrap is not installed"
    if sandbox.level is Level.LANDLOCK and landlock_abi() == 0:
        return NO_LANDLOCK
    with tempfile.TemporaryDirectory(prefix="autoresearch-") as name:
        scratch, log_path = Path(name) / "scratch", Path(name) / "log"
        scratch.mkdir()
        limits = ProcessLimits(wall_seconds=PROBE_SECONDS)
        outcome = sandbox.run_python(
            ["-c", "pass"], scratch=scratch, environment=environment, log_path=log_path, limits=limits
        )
        if outcome.returncode == 0:
            return None
        lines = log_path.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else outcome.words or f"ended with status {outcome.returncode}"


def _returncode(status: int | None) -> int | None:
    """A shell's status of a process that a signal ended, as Python tells it."""
    return 128 - status if status is not None and 128 < status < 128 + 65 else status
