"""Durable operations of a process (SQLite commits, renames, removals, git commands that write), counted.

A process can be told to die, as by `kill -9`, or to stop just before one of them, or to keep a copy of what a kill
would leave there. The product knows nothing of this.
"""

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
from functools import partial
from pathlib import Path

# For `follow_environment`: a part of the operation's label; a name that processes of trials inherit.
LABEL = "JAX_TEST_STOP_BEFORE"
_WRITES = ("INSERT", "REPLACE", "UPDATE", "DELETE", "CREATE", "DROP", "ALTER")
_GIT_READS = ("rev-parse", "show", "cat-file", "status", "for-each-ref", "config", "ls-tree", "log", "merge-file")


class Operations:
    """The durable operations of this process from here on.

    Args:
      die_before: number of the operation, from 0 on, before which this process dies; None for never.
      journal: file to which a line for each operation is added.
      stop_at: a part of the label of the operation before which it is stopped, so that another process can kill it.
      states: a folder, and another where it is copied to before each operation, under its number.
    """

    def __init__(
        self,
        die_before: int | None = None,
        journal: Path | None = None,
        stop_at: str | None = None,
        states: tuple[Path, Path] | None = None,
    ) -> None:
        self._states = states
        self._die_before = die_before
        self._stop_at = stop_at
        self._journal = journal and os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._numbers = itertools.count()
        sqlite3.connect = partial(sqlite3.connect, factory=partial(_Connection, self))  # type: ignore[misc]
        sys.addaudithook(self._heed)

    def add(self, label: str) -> None:
        """Counts one that is about to happen."""
        number = next(self._numbers)
        if number == self._die_before:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._stop_at and self._stop_at in label:
            os.kill(os.getpid(), signal.SIGSTOP)
        if self._states is not None:  # by another process: one that closes a ledger loses its locks on it
            subprocess.run(["cp", "-a", self._states[0], self._states[1] / str(number)], check=True)
        if self._journal is not None:
            os.write(self._journal, f"{label}\n".encode())

    def _heed(self, event: str, arguments: tuple) -> None:
        if event == "os.rename":  # os.replace and pathlib's methods, too
            path = os.fsdecode(arguments[1])
            if not path.endswith("/live.json"):  # which no run reads, and which comes with the clock
                self.add(f"rename {path}")
        elif event == "shutil.rmtree":
            self.add(f"remove {os.fsdecode(arguments[0])}")
        elif event == "subprocess.Popen" and arguments[1][0] == "git":
            words = [str(word) for word in arguments[1][1:]]
            while words and words[0].startswith("-"):
                words = words[2 if words[0] in ("-c", "-C") else 1 :]
            if words and words[0] not in _GIT_READS:
                self.add(f"git {words[0]}")


class _Connection(sqlite3.Connection):
    """Counts what commits: transactions by the tables that they write, and statements outside of one."""

    def __init__(self, operations: Operations, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self._operations = operations
        self._written: list[str] = []

    def execute(self, statement, *arguments):
        verb, *words = statement.split(None, 4)
        if verb in _WRITES:
            table = next(word for word in words if word not in ("OR", "INTO", "FROM", "TABLE", "REPLACE"))
            self._written.append(f"{verb} {table}")
        if self._written and (verb == "COMMIT" or (verb in _WRITES and not self.in_transaction)):
            self._operations.add(f"commit {', '.join(self._written)}")
        if verb in ("COMMIT", "ROLLBACK") or not self.in_transaction:
            self._written.clear()
        return super().execute(statement, *arguments)


def follow_environment() -> None:
    """Counts, in this process and those that it starts, if a variable says before what to stop: for sitecustomize."""
    if label := os.environ.get(LABEL):
        Operations(stop_at=label)
