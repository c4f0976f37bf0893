"""A confined process that the driver talks to, times, freezes and ends, at any level of the sandbox."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from autoresearch_jax.sandbox.accounting import PROC, descendants
from autoresearch_jax.sandbox.mounts import Mounts, bubblewrap_argv
from autoresearch_jax.sandbox.process import KILL_WAIT_SECONDS, WatchError, bare_environment, watched
from autoresearch_jax.sandbox.process_tree import SWEEP_LIMIT_SECONDS
from autoresearch_jax.sandbox.sandbox import Level, ProcessLimits, Sandbox, SandboxResult

PYTHONS = ("python3", "python")  # names for this Python, with its packages
FREEZE_SECONDS = 5.0  # until all processes of a tree have to stand still
SWEEP_SECONDS = 0.002
# What a program of the system needs beside /usr; what is not there is left out.
_SYSTEM = ("/usr", "/etc/alternatives", "/etc/fonts", "/etc/ssl", "/etc/locale.alias", "/etc/timezone")
_TOP_LINKS = ("/bin", "/sbin")
_PYTHON_LIBRARIES = ("/usr/lib", "/usr/local/lib")
_USER = "nobody:x:65534:65534:nobody:/tmp:/bin/sh\n"
_GROUP = "nogroup:x:65534:\n"


class Confined:
    """A command of the user's system in the sandbox. It and all that it starts end with this process, or by `stop`."""

    def __init__(
        self,
        sandbox: Sandbox,
        argv: Sequence[str],
        *,
        scratch: Path,
        cwd: Path,
        readable: Sequence[Path],
        environment: Mapping[str, str],
        variables: Mapping[str, str],
        log_path: Path,
        limits: ProcessLimits,
        talks: bool = False,
        local_sockets: bool = False,
    ) -> None:
        """Starts it.

        Args:
          sandbox: what confines it.
          argv: the command; a first word of `PYTHONS` is this Python.
          scratch: an existing folder, links resolved, that is all it can write to; its /tmp and /dev/shm lie in it.
          cwd: its working folder.
          readable: files and folders that it may read beside Python and the programs of the system.
          environment: variables of this process, of which it gets an allow-listed few.
          variables: further variables.
          log_path: what it prints to standard error is added there, and to standard output unless it `talks`.
          limits: what it may use.
          talks: whether `input` and `output` lead to it; else it has no input.
          local_sockets: whether it may make and reach local sockets.
        """
        mounts = _with_system(sandbox.mounts, readable)
        confined = sandbox.level is not Level.LIMITS
        python = [mounts.interpreter, "-s", "-S"]
        _write_places(scratch, python)
        import_path = [str(path) for path in mounts.import_path[0 if confined else 1 :]]
        words = [*python, *argv[1:]] if argv[0] in PYTHONS else list(argv)
        sandbox = replace(sandbox, mounts=mounts)
        if sandbox.level is Level.BUBBLEWRAP:
            assert sandbox.bwrap is not None
            words = bubblewrap_argv(sandbox.bwrap, mounts, scratch, words, cwd=cwd, more=_system_words(scratch))
        path = f"{scratch}/bin:{environment.get('PATH', os.defpath)}"
        own = {
            "PATH": path,
            "HOME": str(scratch / "tmp"),
            "TMPDIR": str(scratch / "tmp"),
            "PYTHONPATH": ":".join(import_path),
            "PYTHONDONTWRITEBYTECODE": "1",
            **({"PYTHONHOME": mounts.python_home} if confined else {}),
        }
        order: dict[str, Any] = {
            "argv": words,
            "environment": bare_environment(environment, **{**own, **variables}),
            "cwd": str(cwd),
            "scratch": str(scratch),
            "driver": os.getpid(),
            "limits": asdict(limits),
            "blanks": {},
            "confine": {
                **sandbox.confinement(scratch),
                "fixed_addresses": False,
                "local_sockets": local_sockets,
                "stays_stopped": True,
            },
        }
        streams: tuple[int, ...] = ()
        if talks:
            its_input, self.input = os.pipe()
            self.output, its_output = os.pipe()
            streams = its_input, its_output
            order["streams"] = streams
        self._talks, self._log_path = talks, log_path
        self._answer: bytes | None = None
        with log_path.open("ab") as log:
            self._watch = subprocess.Popen(
                watched(),
                env=order["environment"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=streams,
                start_new_session=True,  # Ctrl-C is for the driver, which then ends this
            )
        for stream in streams:
            os.close(stream)
        assert self._watch.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._watch.stdin as file:
            file.write(json.dumps(order).encode() + b"\n")

    @property
    def root(self) -> int:
        """The process whose descendants are the command and all that it started."""
        return self._watch.pid

    @property
    def is_running(self) -> bool:
        """Whether the command has not ended yet."""
        return self._watch.poll() is None

    def wait(self, seconds: float) -> bool:
        """Waits for the command's end, at most so long; returns whether it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._watch.wait(seconds)
        return not self.is_running

    def stop(self) -> SandboxResult:
        """Ends the command, unless it has ended, and all that it started; returns how it ended.

        Raises:
          WatchError: the watching process failed, or something cannot be killed.
        """
        self._watch.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._watch.wait(SWEEP_LIMIT_SECONDS + KILL_WAIT_SECONDS)
        self._watch.kill()
        self._watch.wait()
        if self._answer is None:
            assert self._watch.stdout is not None
            with self._watch.stdout as file:
                self._answer = file.read()
            self._close_streams()
        try:
            answer = json.loads(self._answer)
        except ValueError as error:
            raise WatchError(f"the process that watches over the command failed; see {self._log_path}") from error
        if answer["left"]:
            raise WatchError(f"{answer['left']} processes of the sandbox cannot be killed; see {self._log_path}")
        return SandboxResult.from_answer(answer)

    def freeze(self) -> None:
        """Stops the command and all that it started until `thaw`: none of them runs when this returns.

        Raises:
          WatchError: one of them goes on.
        """
        deadline, frozen = time.monotonic() + FREEZE_SECONDS, set[int]()
        while time.monotonic() < deadline:
            found = descendants(self.root)
            for pid in found:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGSTOP)
            if frozen == set(found) and all(map(_stands_still, found)):
                return
            frozen = set(found)
            time.sleep(SWEEP_SECONDS)
        raise WatchError("the asset's processes do not stop when they are told to")

    def thaw(self) -> None:
        """Has the command go on, and all that it started."""
        for pid in descendants(self.root):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGCONT)

    def _close_streams(self) -> None:
        if self._talks:
            for descriptor in (self.input, self.output):
                os.close(descriptor)


def _stands_still(pid: int) -> bool:
    try:
        with open(f"{PROC}/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"T", b"Z", b"X")
    except OSError:  # gone
        return True


def _with_system(mounts: Mounts, named: Sequence[Path]) -> Mounts:
    """The mounts with the programs of the system and what is named; no standard library in the text."""
    system = [Path(path) for path in _SYSTEM if os.path.exists(path)]
    hidden = {path for folder in _PYTHON_LIBRARIES for path in Path(folder).glob("python*") if path.is_dir()}
    readable = {*mounts.readable, *(path.resolve() for path in system), *named}
    return replace(
        mounts,
        readable=tuple(sorted(readable)),
        hidden=tuple(sorted({*mounts.hidden, *(path.resolve() for path in hidden)})),
    )


def _write_places(scratch: Path, python: Sequence[str]) -> None:
    """Makes the folders of a scratch folder, Python under its usual name, and a file of users."""
    for name in ("tmp", "shm", "bin"):
        (scratch / name).mkdir(exist_ok=True)
    (scratch / "passwd").write_text(_USER)
    (scratch / "group").write_text(_GROUP)
    for name in PYTHONS:
        program = scratch / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {shlex.join(python)} "$@"\n')
        program.chmod(0o755)


def _system_words(scratch: Path) -> list[str]:
    """Options of bubblewrap for what programs of the system expect."""
    words = ["--bind", str(scratch / "shm"), "/dev/shm"]
    for name in ("passwd", "group"):
        words += ["--ro-bind", str(scratch / name), f"/etc/{name}"]
    for link in _TOP_LINKS:
        if os.path.islink(link):
            words += ["--symlink", os.readlink(link), link]
    return words
