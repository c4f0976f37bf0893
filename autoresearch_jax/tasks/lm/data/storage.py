"""The folder of all datasets: what takes room in it, and how parts are removed."""

import re
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from autoresearch_jax.errors import UsageError
from autoresearch_jax.files import exclusive_lock
from autoresearch_jax.tasks.lm.data.dataset import DatasetError, Manifest, tokenizer_file

STAGING = ".staging"  # ending of the hidden folder beside a dataset's, where it grows before it is moved to its place
REPLACED = ".replaced"  # and of the one where it is moved to be removed
SCRATCH = ".scratch"  # in a dataset's folder: where new files are made before they are moved to their places
TEXT = "text"  # the part of a dataset that its vocabularies are made from
UNFINISHED = "unfinished"  # left by an interrupted call; the next one continues with it or removes it


@dataclass(frozen=True)
class Part:
    """A part of a dataset that takes room.

    Attributes:
      dataset: its name.
      name: "text", "unfinished", or "VxT" for the rows of a vocabulary of V at length T.
      bytes: on the disk.
      train_rows: of rows, how many there are to train on.
    """

    dataset: str
    name: str
    bytes: int
    train_rows: int | None = None


def beside(folder: Path, ending: str) -> Path:
    """The hidden place beside a dataset's folder with this ending."""
    return folder.with_name(f".{folder.name}{ending}")


def lock_dataset(folder: Path, on_wait: Callable[[], None]) -> AbstractContextManager[None]:
    """The lock of the calls that change a dataset; see `exclusive_lock`."""
    return exclusive_lock(beside(folder, ".lock"), on_wait)


def list_parts(data_dir: Path) -> list[Part]:
    """The parts of all datasets in a folder, by the dataset's name; folders that are no datasets are left out.

    Raises:
      DatasetError: the folder cannot be read.
    """
    parts = []
    try:
        for folder in sorted(data_dir.iterdir()) if data_dir.is_dir() else []:
            name = folder.name.removeprefix(".").removesuffix(STAGING).removesuffix(REPLACED)
            if folder.name in (f".{name}{STAGING}", f".{name}{REPLACED}"):
                parts.append(Part(name, UNFINISHED, _bytes_below(folder)))
            elif (manifest := _readable_manifest(folder)) is not None:
                parts += _parts_of(folder, manifest)
    except OSError as error:
        raise DatasetError(f"cannot read {error.filename or data_dir}: {error.strerror or error}") from error
    return sorted(parts, key=lambda part: part.dataset)


def remove(data_dir: Path, what: str, on_wait: Callable[[], None]) -> int:
    """Removes a dataset, or the rows of one vocabulary and length from it.

    A run that is using them fails at its next trial; the text, which fingerprints cover, goes only with the dataset.

    Args:
      data_dir: the folder of all datasets.
      what: "NAME" or "NAME/VxT".
      on_wait: called before waiting for another call that is at work on the dataset.

    Returns:
      freed bytes.

    Raises:
      UsageError: there is no such part.
    """
    name, _, rows = what.partition("/")
    folder = data_dir / name
    there = list_parts(data_dir)
    parts = [part for part in there if part.dataset == name and (not rows or part.name == rows)]
    if not parts or rows in (TEXT, UNFINISHED):
        names = sorted({part.dataset for part in there})
        raise UsageError(
            f"--remove={what}: there is no such dataset or rows in {data_dir}, only "
            f"{', '.join(names) or 'nothing'}: `autoresearch prepare --list` shows NAME and NAME/VxT"
        )
    try:
        with lock_dataset(folder, on_wait):
            if rows:
                _remove_rows(folder, rows)
            else:
                _remove_dataset(folder)
    except OSError as error:
        raise DatasetError(f"cannot remove {error.filename or folder}: {error.strerror or error}") from error
    return sum(part.bytes for part in parts)


def _parts_of(folder: Path, manifest: Manifest) -> list[Part]:
    parts = [Part(folder.name, TEXT, _bytes_below(folder / "text"))]
    rows = [path for path in (folder / "rows").iterdir() if path.is_dir()] if (folder / "rows").is_dir() else []
    for path in sorted(rows, key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)]):
        parts.append(Part(folder.name, path.name, _bytes_below(path), manifest.rows.get(f"rows/{path.name}/train.npy")))
    if size := _bytes_below(folder / SCRATCH):
        parts.append(Part(folder.name, UNFINISHED, size))
    return parts


def _remove_dataset(folder: Path) -> None:
    replaced = beside(folder, REPLACED)
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        folder.rename(replaced)  # at once: no other call sees a part of it
    for path in (replaced, beside(folder, STAGING)):
        if path.exists():
            shutil.rmtree(path)


def _remove_rows(folder: Path, rows: str) -> None:
    """Removes the rows from the manifest first, so that it never names a missing file."""
    manifest = Manifest.load(folder)
    if manifest is None:
        return
    left = manifest.without_files(name for name in manifest.files if name.startswith(f"rows/{rows}/"))
    vocab_size = rows.partition("x")[0]
    vocabulary = tokenizer_file(int(vocab_size))
    unused = not any(name.startswith(f"rows/{vocab_size}x") for name in left.files)
    (left.without_files([vocabulary]) if unused else left).save(folder)
    if unused:
        (folder / vocabulary).unlink(missing_ok=True)
    for path in (folder / "rows" / rows, folder / SCRATCH):
        shutil.rmtree(path, ignore_errors=True)


def _readable_manifest(folder: Path) -> Manifest | None:
    try:
        return Manifest.load(folder)
    except DatasetError:
        return None


def _bytes_below(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        try:
            size += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # another call has just moved it
            continue
    return size
