"""A disk of a few megabytes, for tests that fill it: a real one, in memory, that only they and what they start see."""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_HOLD = 'mount -t tmpfs -o "size=$1m,nr_inodes=$2" tmpfs "$0" && echo mounted && exec cat'
_CHUNK_BYTES = 4096


class SmallDisk:
    """A mounted disk, at a path that only processes started by `run` and `start` find it under.

    Attributes:
      path: where those find it.
      outside: where all others of this user find it, such as the test; but not what resolves symbolic links first, as
        SQLite does.
    """

    def __init__(self, path: Path, pid: int, enter: Sequence[str]) -> None:
        self.path = path
        self.outside = Path(f"/proc/{pid}/root{path}")
        self._enter = ["nsenter", f"--target={pid}", *enter, "--"]

    def command(self, words: Sequence[str | Path]) -> list[str]:
        """A command, so that it sees the disk and works in it."""
        return [*self._enter, "sh", "-c", 'cd "$0" && exec "$@"', str(self.path), *map(str, words)]

    def run(self, words: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs a command on the disk; `options` as for `subprocess.run`."""
        return subprocess.run(self.command(words), capture_output=True, text=True, check=False, **options)

    def start(self, words: Sequence[str | Path], **options: Any) -> subprocess.Popen[str]:
        """Starts a command on the disk; `options` as for `subprocess.Popen`."""
        return subprocess.Popen(
            self.command(words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )

    def fill(self, leave_bytes: int = 0) -> None:
        """Fills the disk up to the last block, or to so many bytes before."""
        with (self.outside / "ballast").open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(_CHUNK_BYTES))
        if leave_bytes:
            os.truncate(self.outside / "ballast", (self.outside / "ballast").stat().st_size - leave_bytes)

    def make_room(self) -> None:
        """Removes what `fill` wrote."""
        (self.outside / "ballast").unlink()

    def remount(self, options: str) -> None:
        """Changes the mounted disk: "ro", "rw", "size=64m"."""
        result = self.run(["mount", "-o", f"remount,{options}", self.path])
        assert result.returncode == 0, result.stderr


@contextmanager
def small_disk(path: Path, megabytes: int = 4, files: int = 1000) -> Iterator[SmallDisk]:
    """Mounts a disk at a folder, in a namespace that ends with the last process in it. Skips the test where we may not.

    Args:
      path: an existing folder.
      megabytes: its size.
      files: how many it can hold.
    """
    why = "no unshare here"
    for unshare, enter in (
        (["--mount"], ["--mount"]),
        (["--mount", "--user", "--map-root-user"], ["--mount", "--user", "--preserve-credentials"]),
    ):
        words = ["unshare", "--propagation=private", *unshare, "sh", "-c", _HOLD, str(path), str(megabytes), str(files)]
        with (
            contextlib.suppress(FileNotFoundError),
            subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ) as holder,
        ):
            if holder.stdout.readline() != "mounted\n":
                why = holder.stderr.read().strip()
                continue
            try:
                yield SmallDisk(path, holder.pid, enter)
            finally:
                holder.stdin.close()
            return
    pytest.skip(f"no disk of our own can be mounted: {why}")
