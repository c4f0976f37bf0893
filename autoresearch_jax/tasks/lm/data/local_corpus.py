"""Corpora of files on this machine: Python's own library, and the user's files."""

import glob
import hashlib
import os
import platform
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autoresearch_jax.errors import UsageError
from autoresearch_jax.tasks.lm.data.reporter import Reporter
from autoresearch_jax.tasks.lm.data.rules import STANDARD, Rules
from autoresearch_jax.tasks.lm.data.text_files import (
    FORMATS,
    CorpusError,
    TextFile,
    TextFiles,
    can_read,
    name_of,
    unreadable,
)

STDLIB = "stdlib"
FILES = "files:"
# Folders below the standard library's that hold its tests, or what is not the standard library, or
# (pydoc_data) one generated file of manual pages: 7 % of the text, and 70 % of val if its hash puts it there.
_NOT_STDLIB = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "pydoc_data"}


@dataclass(frozen=True)
class LocalCorpus:
    """Files on this machine. The members are those of `Corpus`.

    Attributes:
      spec, name, rules: see `Corpus`.
      find: the files, in an order that never changes.
    """

    spec: str
    name: str
    find: Callable[[], TextFiles]
    rules: Rules = STANDARD

    def state(self) -> str:
        digest = hashlib.sha256()
        for path in (file.path for file in self.find().files):
            try:
                status = path.stat()
            except OSError as error:
                raise unreadable(path, error) from error
            digest.update(os.fsencode(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n"))
        return digest.hexdigest()

    def fetch(self, reporter: Reporter) -> TextFiles:
        del reporter  # nothing to wait for
        return self.find()


def stdlib() -> LocalCorpus:
    """The .py files of the running Python's standard library, without its tests and generated manual.

    It differs from one Python to the next, so the version is part of the name: two Pythons that share a data
    folder would otherwise take turns in rebuilding it.
    """
    root = Path(sysconfig.get_path("stdlib"))
    version = platform.python_version()

    def find() -> TextFiles:
        found = []
        for folder, subfolders, names in os.walk(root):
            subfolders[:] = [name for name in subfolders if name not in _NOT_STDLIB]
            found += [Path(folder, name) for name in names if name.endswith(".py")]
        if not found:
            raise CorpusError(f"there is no standard library below {root}: use --corpus=files:GLOB instead")
        description = {"python": version, "implementation": platform.python_implementation(), "folder": str(root)}
        return TextFiles(tuple(map(TextFile, sorted(found))), description)

    return LocalCorpus(STDLIB, f"stdlib-{version}", find)


def user_files(pattern: str) -> LocalCorpus:
    """The user's own files; the name is a hash of the absolute pattern."""
    pattern = os.path.abspath(os.path.expanduser(pattern))
    if name_of(Path(pattern)) != pattern:
        raise UsageError(f"--corpus={FILES}{name_of(Path(pattern))}: not UTF-8: use a * for the names that are not")

    def find() -> TextFiles:
        found = [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if not os.path.isdir(name)]
        if not found:
            hint = f": it is a folder, so use {pattern}/*, or {pattern}/**" if os.path.isdir(pattern) else ""
            raise CorpusError(f"--corpus={FILES}{pattern}: no file matches{hint}")
        files = tuple(TextFile(path) for path in found if can_read(path))
        if not files:
            raise CorpusError(
                f"{name_of(found[0])}: only {FORMATS} can be read, and no file that matches --corpus is one"
            )
        return TextFiles(files, {"pattern": pattern}, tuple(path for path in found if not can_read(path)))

    name = f"files-{hashlib.sha256(os.fsencode(pattern)).hexdigest()[:8]}"
    return LocalCorpus(FILES + pattern, name, find)
