"""The folder of all datasets: what lies in it, how much room there is, and how parts of it are removed."""

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from autoresearch_jax.errors import UsageError
from autoresearch_jax.files import exclusive_lock, free_bytes
from autoresearch_jax.tasks.lm.data.manifest import DatasetError, Manifest, tokenizer_file

_STAGING = ".staging"
_REPLACED = ".replaced"
_SCRATCH = ".scratch"
TEXT = "text"  # the part of a dataset that its vocabularies are made from
UNFINISHED = "unfinished"  # what an interrupted call left, and the next one goes on with


class NoRoomError(DatasetError):
    """A disk with less free than what is to be written; what is there already stays."""


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


def staging_folder(folder: Path) -> Path:
    """Where a dataset grows before it is moved to `folder`."""
    return folder.with_name(f".{folder.name}{_STAGING}")


def replaced_folder(folder: Path) -> Path:
    """Where a dataset goes that is being removed."""
    return folder.with_name(f".{folder.name}{_REPLACED}")


def scratch_folder(folder: Path) -> Path:
    """Where new files of a dataset are made before they are moved to their places in it."""
    return folder / _SCRATCH


def lock_dataset(folder: Path, on_wait: Callable[[], None]) -> AbstractContextManager[None]:
    """The lock of those that change a dataset; see `exclusive_lock`."""
    return exclusive_lock(folder.with_name(f".{folder.name}.lock"), on_wait)


def check_room(folder: Path, needed: int) -> None:
    """Raises NoRoomError unless the disk of a folder, which need not be there yet, has so many bytes free."""
    free = free_bytes(folder)
    if free < needed:
        raise NoRoomError(
            f"the dataset needs about {_gigabytes(needed)} more in {folder.parent}, where {_gigabytes(free)} are free: "
            "make room (`autoresearch prepare --list`), or choose another place with --data_dir"
        )


def list_parts(data_dir: Path) -> list[Part]:
    """The parts of all datasets in a folder, by the dataset's name.

    Folders without a readable manifest are left out, unless they are what interrupted calls left.

    Raises:
      DatasetError: the folder cannot be read.
    """
    parts = []
    try:
        for folder in sorted(data_dir.iterdir()) if data_dir.is_dir() else []:
            if name := _name_of_unfinished(folder):
                parts.append(Part(name, UNFINISHED, _bytes_below(folder)))
            elif (manifest := _manifest(folder)) is not None:
                parts += _parts_of(folder, manifest)
    except OSError as error:
        raise DatasetError(f"cannot read {error.filename or data_dir}: {error.strerror or error}") from error
    return sorted(parts, key=lambda part: part.dataset)


def _name_of_unfinished(folder: Path) -> str:
    """Name of the dataset that a hidden folder is being made for, or was; "" for any other folder."""
    for ending in (_STAGING, _REPLACED):
        if folder.name.startswith(".") and folder.name.endswith(ending):
            return folder.name.removeprefix(".").removesuffix(ending)
    return ""


def _parts_of(folder: Path, manifest: Manifest) -> list[Part]:
    parts = [Part(folder.name, TEXT, sum(manifest.files[name].size for name in _below(manifest, "text/")))]
    for name in sorted({Path(name).parent.name for name in _below(manifest, "rows/")}, key=_by_size):
        size = sum(manifest.files[file].size for file in _below(manifest, f"rows/{name}/"))
        parts.append(Part(folder.name, name, size, manifest.rows.get(f"rows/{name}/train.npy")))
    if size := sum(_size(path) for path in _unlisted(folder, manifest)):
        parts.append(Part(folder.name, UNFINISHED, size))
    return parts


def _unlisted(folder: Path, manifest: Manifest) -> list[Path]:
    """Files that an interrupted call left in a dataset: new ones, or rows of which the manifest knows no more."""
    known = {folder / name for name in manifest.files}
    places = [folder / "rows", folder / "tokenizers", scratch_folder(folder)]
    return [path for place in places for path in place.rglob("*") if path.is_file() and path not in known]


def remove(data_dir: Path, what: str, on_wait: Callable[[], None]) -> int:
    """Removes a dataset, or the rows of one vocabulary and length from it.

    A run that is using them fails at its next trial; the text, which fingerprints cover, goes only with the dataset.

    Args:
      data_dir: the folder of all datasets.
      what: "NAME" or "NAME/VxT".
      on_wait: called if another call is at work on the dataset, before waiting for it.

    Returns:
      bytes that are free again.

    Raises:
      UsageError: there is no such part.
    """
    name, _, rows = what.partition("/")
    folder = data_dir / name
    parts = [part for part in list_parts(data_dir) if part.dataset == name and (not rows or part.name == rows)]
    if not parts or rows in (TEXT, UNFINISHED):
        there = sorted({part.dataset for part in list_parts(data_dir)})
        raise UsageError(
            f"--remove={what}: there is no such dataset or rows in {data_dir}, only "
            f"{', '.join(there) or 'nothing'}: `autoresearch prepare --list` shows NAME and NAME/VxT"
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


def _remove_dataset(folder: Path) -> None:
    replaced = replaced_folder(folder)
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        folder.rename(replaced)  # at once, so that nobody sees a half
    for path in (replaced, staging_folder(folder)):
        if path.exists():
            shutil.rmtree(path)


def _remove_rows(folder: Path, rows: str) -> None:
    """The manifest forgets them first, so that it never names what is not there."""
    manifest = Manifest.load(folder)
    if manifest is None:
        return
    gone = _below(manifest, f"rows/{rows}/")
    vocab_size = rows.partition("x")[0]
    if not [name for name in _below(manifest, f"rows/{vocab_size}x") if name not in gone]:
        gone = [*gone, tokenizer_file(int(vocab_size))]
    left = replace(
        manifest,
        files={name: entry for name, entry in manifest.files.items() if name not in gone},
        rows={name: count for name, count in manifest.rows.items() if name not in gone},
    )
    left.save(folder)
    for path in _unlisted(folder, left):  # these, and what a call that was killed left
        path.unlink(missing_ok=True)
    shutil.rmtree(scratch_folder(folder), ignore_errors=True)
    shutil.rmtree(folder / "rows" / rows, ignore_errors=True)


def _manifest(folder: Path) -> Manifest | None:
    try:
        return Manifest.load(folder)
    except DatasetError:
        return None


def _below(manifest: Manifest, prefix: str) -> list[str]:
    return [name for name in manifest.files if name.startswith(prefix)]


def _by_size(rows: str) -> tuple[int, ...]:
    return tuple(map(int, rows.split("x")))


def _bytes_below(folder: Path) -> int:
    return sum(_size(path) for path in folder.rglob("*") if path.is_file())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # another call has just moved it
        return 0


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
