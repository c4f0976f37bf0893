"""Snapshots in another place than the run's folder, through fsspec: in a folder, on gs:// or on s3://."""

import base64
import hashlib
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from autoresearch_jax.errors import UserError
from autoresearch_jax.files import write_whole
from autoresearch_jax.sanitize import clean_line

MANIFEST = "manifest.json"  # copied last and removed first: a folder with one is whole
PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}  # what reaches each kind of bucket; fsspec loads it on demand
_PARALLEL_FILES = 8  # most files are small, and a bucket takes its time for each
_PLACES = "name a folder, or " + ", ".join(f"{scheme}://BUCKET/FOLDER" for scheme in PACKAGES)


class StoreError(UserError):
    """A place of snapshots cannot be reached, read or written; the message names it."""


class SnapshotStore:
    """Folders of snapshots in one place. Each step may be repeated, and completes what a kill left undone.

    A bucket's library repeats requests that fail for want of a connection.
    """

    root: str
    """The place in full: a copy of it in the ledger means the same wherever it is read."""

    def __init__(self, place: str) -> None:
        """Opens a place; connects to nothing yet.

        Raises StoreError if there is no such kind of place, or a package is missing.
        """
        scheme = _scheme_of(place)
        self._is_local = scheme is None
        with _in_one_line(place, "opened"):
            import fsspec.core  # only here: a run that moves no snapshots does not wait for it

            if scheme is None:
                self.root = self._path = str(Path(place).expanduser().absolute())
                self._filesystem: Any = fsspec.filesystem("file", auto_mkdir=True)
                return
            package = PACKAGES[scheme]
            logging.getLogger(package).addHandler(logging.NullHandler())  # else it prints what it raises
            try:
                # listings are never cached: others may write to the same place
                self._filesystem, path = fsspec.core.url_to_fs(place, use_listings_cache=False)
            except ImportError as error:
                raise StoreError(
                    f"{place}: {scheme}:// needs the package {package}, which is missing: in the checkout "
                    f"./scripts/setup.sh {scheme}, elsewhere pip install {package}"
                ) from error
            self._path = str(path).rstrip("/")
            self.root = f"{scheme}://{self._path}"

    def check(self) -> None:
        """Writes a file there, reads it and removes it; a folder is made if it is not there.

        Raises:
          StoreError: that is not possible, and why.
        """
        name, text = f"{self._path}/.check-{secrets.token_hex(8)}", b"may be deleted\n"
        with _in_one_line(self.root, "written to"):
            self._filesystem.pipe_file(name, text)
        with _in_one_line(self.root, "read"):
            if self._filesystem.cat_file(name) != text:
                raise StoreError(f"{self.root}: what is read there is not what was written")
        with _in_one_line(self.root, "deleted from"):
            self._filesystem.rm_file(name)

    def address(self, name: str) -> str:
        """Where a snapshot is, or would be; `split_address` takes it apart."""
        return f"{self.root}/{name}"

    def put(self, folder: Path) -> str:
        """Copies a snapshot here, under the name of its folder.

        Returns:
          Its address; it is whole there, as far as sizes and, where the bucket tells it, MD5 show.

        Raises:
          StoreError: the place could not be written, `folder` is not whole, or there is another one of that name.
        """
        name, address = folder.name, self.address(folder.name)
        if os.path.exists(address) and os.path.samefile(address, folder):
            raise StoreError(f"{address}: is the very folder that was to be copied")
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        if MANIFEST not in files:
            raise StoreError(f"{folder}: has no {MANIFEST}, so it is no whole snapshot: nothing was copied")
        manifest = files.pop(MANIFEST)
        with _in_one_line(address, "written"):
            there = self._files(name)
            if MANIFEST in there:
                if self._filesystem.cat_file(f"{self._path}/{name}/{MANIFEST}") == manifest.read_bytes():
                    return address
                raise StoreError(
                    f"{address}: another snapshot of that name is there, as of another run with this tag: name another "
                    "--snapshot_dir"
                )
            if extra := there.keys() - files.keys():
                self._filesystem.rm([f"{self._path}/{name}/{file}" for file in extra])
            # a file of the same size may be another snapshot's: only a hash says that it need not be sent again
            missing = [file for file, path in files.items() if not _is_copy(there.get(file), path, needs_md5=True)]
            targets = [f"{self._path}/{name}/{file}" for file in missing]
            if missing:
                sources = [str(files[file]) for file in missing]
                self._filesystem.put(sources, targets, batch_size=_PARALLEL_FILES)
            self._require_copies(name, files)
            if self._is_local:
                for target in targets:  # the original is deleted afterwards: a power cut must not take the copy
                    with open(target, "rb") as file:
                        os.fsync(file.fileno())
                write_whole(Path(address) / MANIFEST, manifest.read_bytes())
            else:
                self._filesystem.put_file(str(manifest), f"{self._path}/{name}/{MANIFEST}")
            self._require_copies(name, {MANIFEST: manifest})
        return address

    def fetch(self, name: str, folder: Path) -> None:
        """Copies a snapshot from here to a local folder, which is not there yet.

        Raises:
          StoreError: it is not here or not whole, or could not be read.
        """
        address = self.address(name)
        with _in_one_line(address, "fetched"):
            there = self._files(name)
            if MANIFEST not in there:
                raise StoreError(f"{address}: there is no whole snapshot")
            for file in there:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
            sources, targets = [f"{self._path}/{name}/{file}" for file in there], [str(folder / file) for file in there]
            self._filesystem.get(sources, targets, batch_size=_PARALLEL_FILES)
            if changed := [file for file, info in there.items() if not _is_copy(info, folder / file)]:
                raise StoreError(f"{address}/{min(changed)}: what arrived is not what is there: try again")

    def is_whole(self, name: str) -> bool:
        """True if a snapshot is here, and whole.

        Raises:
          StoreError: the place cannot be reached.
        """
        with _in_one_line(self.address(name), "looked for"):
            return MANIFEST in self._files(name)

    def remove(self, name: str) -> None:
        """Removes a snapshot, if it is here or a part of it.

        Raises:
          StoreError: it could not be removed; what is left is the whole one, or has no manifest.
        """
        with _in_one_line(self.address(name), "removed"):
            files = self._files(name)  # raises if the place itself is gone
            if MANIFEST in files:
                self._filesystem.rm_file(f"{self._path}/{name}/{MANIFEST}")
            if self._is_local:
                with suppress(FileNotFoundError):
                    shutil.rmtree(self.address(name))
            elif rest := [f"{self._path}/{name}/{file}" for file in files if file != MANIFEST]:
                self._filesystem.rm(rest)

    def _files(self, name: str) -> dict[str, Mapping[str, Any]]:
        """All files of a snapshot, by name, as fsspec describes them; none if there is no such folder."""
        if self._is_local and not os.path.isdir(self.root):
            raise StoreError(f"{self.root}: is not there: mount it, or make it anew if it was empty")
        base = f"{self._path}/{name}/"
        options = {"on_error": "raise"} if self._is_local else {}  # a bucket's library raises in any case
        try:
            found = self._filesystem.find(base, detail=True, **options)
        except FileNotFoundError:
            if self._is_local:
                return {}
            raise
        return {
            path.removeprefix(base): info
            for path, info in found.items()
            if path.startswith(base) and path != base and info["type"] == "file"
        }

    def _require_copies(self, name: str, files: Mapping[str, Path]) -> None:
        there = self._files(name)
        if changed := [file for file, path in files.items() if not _is_copy(there.get(file), path)]:
            raise StoreError(f"{self.address(name)}/{min(changed)}: is not there as it was sent: try again")


def split_address(address: str) -> tuple[str, str]:
    """Place and name of a snapshot's address."""
    place, _, name = address.rpartition("/")
    return place, name


def _scheme_of(place: str) -> str | None:
    """The kind of bucket that a place is in; None for a folder. Raises StoreError if it is neither."""
    if not place:
        raise StoreError(f"no place for snapshots: {_PLACES}")
    found = re.match(r"(\w+):(/*)([^/]*)", place)
    if found is None or not (found[2] or found[1].lower() in PACKAGES):
        return None
    scheme, bucket = found[1].lower(), found[3]
    if scheme not in PACKAGES or not bucket:
        raise StoreError(f"{place}: no place for snapshots: {_PLACES}")
    if not place.startswith(f"{scheme}://{bucket}"):
        raise StoreError(f"{place}: no place for snapshots: such a bucket is spelt {scheme}://{bucket}/FOLDER")
    return scheme


def _is_copy(info: Mapping[str, Any] | None, path: Path, *, needs_md5: bool = False) -> bool:
    """Whether a stored file is a copy of a local one, by its size, and by its MD5 where the store tells it."""
    if info is None or info["size"] != path.stat().st_size:
        return False
    md5 = info.get("md5Hash")
    if md5 is None:
        return not needs_md5
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return bool(md5 == base64.b64encode(digest.digest()).decode())


@contextmanager
def _in_one_line(address: str, what: str) -> Iterator[None]:
    """Turns what a store's library raises into one line: those libraries have no base class for it in common."""
    try:
        yield
    except StoreError:
        raise
    except FileNotFoundError as error:
        raise StoreError(f"{address}: cannot be {what}: not found: is there such a bucket or folder?") from error
    except Exception as error:
        reason = clean_line(str(error)) or type(error).__name__
        raise StoreError(f"{address}: cannot be {what}: {reason}") from error
