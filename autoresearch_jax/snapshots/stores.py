"""Places that hold files: a folder, such as a mounted bucket, or a bucket through fsspec, as Orbax reaches it."""

import base64
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from autoresearch_jax.errors import UserError

PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}  # what reaches each kind of bucket; fsspec loads it when it is asked for one
_LIKE_AN_ADDRESS = re.compile(r"(\w+):(/*)([^/]*)")


class StoreError(UserError):
    """A place of snapshots cannot be reached, read or written; the message names it."""


@dataclass(frozen=True)
class StoredFile:
    """A file as its store tells of it.

    Attributes:
      size: in bytes.
      md5: in base64; None where the store does not tell.
    """

    size: int
    md5: str | None = None

    def may_be(self, path: Path) -> bool:
        """False if this is surely not a copy of a local file."""
        return self.size == path.stat().st_size and (self.md5 is None or self.md5 == md5_of(path))

    def is_surely(self, path: Path) -> bool:
        """True if this is surely a copy of a local file."""
        return self.md5 is not None and self.may_be(path)


def md5_of(path: Path) -> str:
    """MD5 of a file's bytes, in base64, as buckets tell it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return base64.b64encode(digest.digest()).decode()


class Store(Protocol):
    """Files by folder and name. A file is there whole or not at all. May be called from several threads.

    What goes wrong raises whatever the store's library raises.
    """

    root: str
    """The place in full: a copy of it in the ledger means the same wherever it is read."""

    def prepare(self) -> None:
        """Makes the place, if it is of a kind that can be made."""
        ...

    def files(self, folder: str) -> Mapping[str, StoredFile]:
        """All files below a folder, by name relative to it; none if there is no such folder."""
        ...

    def put(self, path: Path, folder: str, name: str) -> None:
        """Copies a local file into a folder."""
        ...

    def get(self, folder: str, name: str, path: Path) -> None:
        """Copies a file of a folder to a local path."""
        ...

    def read(self, folder: str, name: str) -> bytes:
        """The bytes of a small file."""
        ...

    def remove(self, folder: str, name: str) -> None:
        """Removes a file, if it is there."""
        ...

    def remove_folder(self, folder: str) -> None:
        """Removes a folder and all files in it, if it is there."""
        ...


def open_store(place: str) -> Store:
    """The store of a place: a folder, or gs://BUCKET/FOLDER and the like.

    Raises:
      StoreError: it is of no kind that is known, or what reaches it is not installed.
    """
    if not place:
        raise StoreError("no place for snapshots: name a folder, or a bucket such as gs://BUCKET/FOLDER")
    found = _LIKE_AN_ADDRESS.match(place)
    if found is None:
        return FolderStore(Path(place))
    scheme, slashes, bucket = found[1].lower(), found[2], found[3]
    if scheme in PACKAGES and bucket:
        if place.startswith(f"{scheme}://{bucket}"):
            return BucketStore(place)
        raise StoreError(f"{place}: no place for snapshots: such a bucket is spelt {scheme}://{bucket}/FOLDER")
    if slashes or scheme in PACKAGES:
        known = ", ".join(f"{name}://BUCKET/FOLDER" for name in PACKAGES)
        raise StoreError(f"{place}: no place for snapshots: name a folder, or {known}")
    return FolderStore(Path(place))


class FolderStore:
    """A folder that this machine sees: on another disk, or a mounted bucket."""

    def __init__(self, path: Path) -> None:
        """Makes nothing yet."""
        self._path = path.expanduser().absolute()
        self.root = str(self._path)

    def prepare(self) -> None:
        """See `Store.prepare`."""
        self._path.mkdir(parents=True, exist_ok=True)

    def files(self, folder: str) -> dict[str, StoredFile]:
        """See `Store.files`.

        Raises:
          StoreError: the place itself is gone, as when a bucket is not mounted: that tells nothing of its files.
        """
        if not self._path.is_dir():
            raise StoreError(f"{self._path}: is not there: mount it, or make it anew if it was empty")
        found: dict[str, StoredFile] = {}
        for parent, _, names in os.walk(self._path / folder, onerror=_raise_unless_missing):
            for path in (Path(parent) / name for name in names):
                found[path.relative_to(self._path / folder).as_posix()] = StoredFile(path.stat().st_size)
        return found

    def put(self, path: Path, folder: str, name: str) -> None:
        """See `Store.put`."""
        final = self._path / folder / name
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = final.with_name(f".{final.name}.partial")
        with path.open("rb") as source, partial.open("wb") as target:
            shutil.copyfileobj(source, target)
            target.flush()
            os.fsync(target.fileno())  # the original is deleted afterwards: a power cut must not take the copy
        partial.replace(final)

    def get(self, folder: str, name: str, path: Path) -> None:
        """See `Store.get`."""
        shutil.copyfile(self._path / folder / name, path)

    def read(self, folder: str, name: str) -> bytes:
        """See `Store.read`."""
        return (self._path / folder / name).read_bytes()

    def remove(self, folder: str, name: str) -> None:
        """See `Store.remove`."""
        (self._path / folder / name).unlink(missing_ok=True)

    def remove_folder(self, folder: str) -> None:
        """See `Store.remove_folder`."""
        if (self._path / folder).exists():
            shutil.rmtree(self._path / folder)


class BucketStore:
    """A bucket, or a folder of one. Its library tries again by itself what failed for want of a connection."""

    def __init__(self, place: str) -> None:
        """Finds out who asks for what, but does not connect yet.

        Raises:
          StoreError: what reaches such a bucket is not installed, or does not take these credentials.
        """
        scheme = place.partition("://")[0]
        package = PACKAGES[scheme]
        logger = logging.getLogger(package)
        if not logger.handlers:  # what goes wrong is raised, too; without a handler it would be printed besides
            logger.addHandler(logging.NullHandler())
        try:
            import fsspec.core  # only here: a run without a bucket does not wait for it

            # listings are never kept: others may write to the same place, and it is seldom asked
            filesystem, path = fsspec.core.url_to_fs(place, use_listings_cache=False)
        except ImportError as error:
            raise StoreError(
                f"{place}: {scheme}:// needs the package {package}, which is missing: in the checkout "
                f"./scripts/setup.sh {scheme}, elsewhere pip install {package}"
            ) from error
        self._filesystem: Any = filesystem
        self._path = str(path).rstrip("/")
        self.root = f"{scheme}://{self._path}"

    def prepare(self) -> None:
        """Does nothing: a bucket has no folders, and buckets are made by whoever pays for them."""

    def files(self, folder: str) -> dict[str, StoredFile]:
        """See `Store.files`."""
        base = f"{self._path}/{folder}/"
        return {
            name.removeprefix(base): StoredFile(int(info["size"]), info.get("md5Hash"))
            for name, info in self._filesystem.find(base, detail=True).items()
            if name.startswith(base) and name != base and info["type"] == "file"
        }

    def put(self, path: Path, folder: str, name: str) -> None:
        """See `Store.put`."""
        self._filesystem.put_file(str(path), f"{self._path}/{folder}/{name}")

    def get(self, folder: str, name: str, path: Path) -> None:
        """See `Store.get`."""
        self._filesystem.get_file(f"{self._path}/{folder}/{name}", str(path))

    def read(self, folder: str, name: str) -> bytes:
        """See `Store.read`."""
        content: bytes = self._filesystem.cat_file(f"{self._path}/{folder}/{name}")
        return content

    def remove(self, folder: str, name: str) -> None:
        """See `Store.remove`."""
        try:
            self._filesystem.rm_file(f"{self._path}/{folder}/{name}")
        except FileNotFoundError:
            return

    def remove_folder(self, folder: str) -> None:
        """See `Store.remove_folder`."""
        names = [f"{self._path}/{folder}/{name}" for name in self.files(folder)]
        if names:
            self._filesystem.rm(names)


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
