"""Which files a folder holds, with sizes and hashes, and how it differs from what it was written with."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from autoresearch_jax.files import sha256_of_file
from autoresearch_jax.tasks.lm.data.manifest import MANIFEST, FileEntry

RESTORE = "restore it from a copy"  # what to do about what was written once and cannot be made again


def take_inventory(folder: Path) -> dict[str, FileEntry]:
    """Every file below a folder but its manifest, by name relative to it, in order of the names."""
    return {name: FileEntry.of(folder / name) for name in sorted(_names(folder)) if name != MANIFEST}


def inventory_differences(folder: Path, expected: Mapping[str, FileEntry], todo: str) -> list[str]:
    """A line for each file below a folder, its manifest apart, that is missing, changed or was not there.

    Args:
      folder: where they should be.
      expected: what was written, by name relative to the folder.
      todo: what to do about it, for the end of each line.
    """
    found = set(_names(folder)) - {MANIFEST}
    lines = [f"{folder / name}: is missing: {todo}" for name in sorted(expected.keys() - found)]
    lines += [f"{folder / name}: was not there when it was written: {todo}" for name in sorted(found - expected.keys())]
    for name in sorted(found & expected.keys()):
        path, entry = folder / name, expected[name]
        if path.is_symlink() or path.stat().st_size != entry.size or sha256_of_file(path) != entry.sha256:
            lines.append(f"{path}: has been changed: {todo}")
    return lines


def file_differences(path: Path, sha256: str, todo: str) -> list[str]:
    """A line if a file is missing or does not hash to `sha256`."""
    if not path.is_file():
        return [f"{path}: is missing: {todo}"]
    return [] if sha256_of_file(path) == sha256 else [f"{path}: has been changed: {todo}"]


def _names(folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]  # which os.walk does not enter
        for name in (*files, *links):
            yield (Path(parent) / name).relative_to(folder).as_posix()
