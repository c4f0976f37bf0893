"""Snapshots in another place than the run's folder: copied there, fetched, removed, whole whatever is killed."""

import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue

from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.snapshots.stores import Store, StoreError, open_store

MANIFEST = "manifest.json"  # is copied last and removed first: a folder with one is whole
_OWNER_FILE = (".run", "id")  # folder and name
PARALLEL_FILES = 8  # most files are small, and a bucket takes its time for each


class RemoteSnapshots:
    """Folders of snapshots in one place. All of it may be repeated, and completes what a kill left undone.

    A snapshot is written and judged in the run's folder first; only whole ones come here.
    """

    def __init__(self, place: str) -> None:
        """Opens a place; makes nothing there.

        Args:
          place: a folder, such as a mounted bucket, or gs://BUCKET/FOLDER, or s3://BUCKET/FOLDER.

        Raises:
          StoreError: there is no such kind of place, or a package is missing.
        """
        with _in_one_line(place, "opened"):
            self._store: Store = open_store(place)

    def check(self) -> None:
        """Tries to write a file there, to read it and to remove it; a folder is made if it is not there.

        Raises:
          StoreError: that is not possible, and why.
        """
        root, name, text = self._store.root, f".check-{secrets.token_hex(8)}", b"may be deleted\n"
        with tempfile.NamedTemporaryFile() as file:
            file.write(text)
            file.flush()
            with _in_one_line(root, "written to"):
                self._store.prepare()
                self._store.put(Path(file.name), name, "file")
        with _in_one_line(root, "read"):
            if self._store.read(name, "file") != text:
                raise StoreError(f"{root}: what is read there is not what was written")
        with _in_one_line(root, "deleted from"):
            self._store.remove(name, "file")
            self._store.remove_folder(name)

    @property
    def root(self) -> str:
        """The place in full."""
        return self._store.root

    def claim(self, owner: str, has_moved: bool) -> None:
        """Makes the place one run's, whose snapshots another run would else replace by its own; and checks it.

        Args:
          owner: the run's id.
          has_moved: True if that run moved snapshots here before: then the place must be the one of that time.

        Raises:
          StoreError: it is another run's, it is not the one of before, or it cannot be written to.
        """
        with _in_one_line(self.root, "read"):
            found = self._owner()
        if found is None and has_moved:
            raise StoreError(
                f"{self.root}: snapshots of this run were moved there, and there is no trace of it: mount it again, or "
                "name another --snapshot_dir"
            )
        if found not in (None, owner):
            raise StoreError(
                f"{self.root}: has snapshots of another run with this tag: name another --snapshot_dir, or if it is "
                f"of no use any more delete it"
            )
        self.check()
        if found is None:
            with tempfile.NamedTemporaryFile() as file, _in_one_line(self.root, "written to"):
                file.write(owner.encode())
                file.flush()
                self._store.put(Path(file.name), *_OWNER_FILE)

    def _owner(self) -> str | None:
        """Whose place this is; None if it is nobody's, or not there."""
        folder, name = _OWNER_FILE
        try:
            there = self._store.files(folder)
        except StoreError:  # a folder that is not there
            return None
        return self._store.read(folder, name).decode() if name in there else None

    def address(self, name: str) -> str:
        """Where a snapshot is, or would be: what the ledger says of it, and `split_address` takes apart."""
        return f"{self._store.root}/{name}"

    def put(self, folder: Path) -> str:
        """Copies a snapshot here, under the name of its folder.

        Returns:
          Its address; it is whole there, as far as the store can tell.

        Raises:
          StoreError: the place could not be written, `folder` is not whole, or there is another one of that name.
        """
        name = folder.name
        if os.path.exists(self.address(name)) and os.path.samefile(self.address(name), folder):
            raise StoreError(f"{self.address(name)}: is the very folder that was to be copied")
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        if MANIFEST not in files:
            raise StoreError(f"{folder}: has no {MANIFEST}, so it is no whole snapshot: nothing was copied")
        manifest = files.pop(MANIFEST)
        with _in_one_line(self.address(name), "written"):
            there = self._store.files(name)
            if MANIFEST in there:
                same = there.keys() - {MANIFEST} == files.keys()
                same = same and all(there[file].may_be(path) for file, path in files.items())
                if same and self._store.read(name, MANIFEST) == manifest.read_bytes():
                    return self.address(name)
                raise StoreError(
                    f"{self.address(name)}: another snapshot of that name is there, as where a copy of the run goes on "
                    "elsewhere: name another --snapshot_dir"
                )
            _for_each(lambda file: self._store.remove(name, file), there.keys() - files.keys() - {MANIFEST})
            # a file of that size may be one of another snapshot: only a hash says that it need not be sent again
            missing = [file for file, path in files.items() if file not in there or not there[file].is_surely(path)]
            _for_each(lambda file: self._store.put(files[file], name, file), missing)
            self._require_same(name, files)
            self._store.put(manifest, name, MANIFEST)
            self._require_same(name, {MANIFEST: manifest})
        return self.address(name)

    def fetch(self, name: str, folder: Path) -> None:
        """Copies a snapshot from here to a local folder, which then holds a whole one or is not there.

        Args:
          name: of the snapshot.
          folder: where it will be; one that is there is taken for whole and left as it is.

        Raises:
          StoreError: it is not here or not whole, or could not be read.
        """
        if folder.exists():
            return
        address = self.address(name)
        partial = folder.with_name(f".{folder.name}.partial")
        with _in_one_line(address, "fetched"):
            there = self._store.files(name)
            if MANIFEST not in there:
                raise StoreError(f"{address}: there is no whole snapshot")
            shutil.rmtree(partial, ignore_errors=True)
            for file in there:
                (partial / file).parent.mkdir(parents=True, exist_ok=True)
            _for_each(lambda file: self._store.get(name, file, partial / file), there)
            if changed := [file for file in there if not there[file].may_be(partial / file)]:
                raise StoreError(f"{address}/{min(changed)}: what arrived is not what is there: try again")
            os.rename(partial, folder)

    def is_whole(self, name: str) -> bool:
        """True if a snapshot is here, and whole.

        Raises:
          StoreError: the place cannot be reached, so that nobody knows.
        """
        with _in_one_line(self.address(name), "looked for"):
            return MANIFEST in self._store.files(name)

    def remove(self, name: str) -> None:
        """Removes a snapshot, if it is here or a part of it.

        Raises:
          StoreError: it could not be removed; what is left is no whole one, or the whole one.
        """
        with _in_one_line(self.address(name), "removed"):
            self._store.files(name)  # raises if the place itself is gone, in which case nothing may be said of it
            self._store.remove(name, MANIFEST)
            self._store.remove_folder(name)

    def _require_same(self, name: str, files: dict[str, Path]) -> None:
        there = self._store.files(name)
        changed = [file for file, path in files.items() if file not in there or not there[file].may_be(path)]
        if changed:
            raise StoreError(f"{self.address(name)}/{min(changed)}: is not there as it was sent: try again")


def split_address(address: str) -> tuple[str, str]:
    """Place and name of a snapshot's address."""
    place, _, name = address.rpartition("/")
    return place, name


@contextmanager
def _in_one_line(address: str, what: str) -> Iterator[None]:
    """Turns whatever a store's library raises into one line: those libraries have no base class for it in common."""
    try:
        yield
    except StoreError:
        raise
    except FileNotFoundError as error:
        raise StoreError(f"{address}: cannot be {what}: not found: is there such a bucket or folder?") from error
    except Exception as error:
        reason = clean_line(str(error)) or type(error).__name__
        raise StoreError(f"{address}: cannot be {what}: {reason}") from error


def _for_each(function: Callable[[str], None], names: Iterable[str]) -> None:
    """Calls a function with each name, several at once; the first exception ends it, once those under way are over.

    Ctrl-C does not wait for them: they are threads that end with the process.
    """
    waiting: SimpleQueue[str] = SimpleQueue()
    ended: SimpleQueue[Exception | None] = SimpleQueue()
    stopped = threading.Event()

    def work() -> None:
        while not stopped.is_set():
            try:
                name = waiting.get_nowait()
            except Empty:
                return
            try:
                function(name)
                ended.put(None)
            except Exception as error:
                ended.put(error)

    count = 0
    for name in sorted(names):
        waiting.put(name)
        count += 1
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(PARALLEL_FILES, count))]
    for thread in threads:
        thread.start()
    try:
        for _ in range(count):
            error = ended.get()
            if error is not None:
                stopped.set()
                for thread in threads:
                    thread.join()
                raise error
    finally:
        stopped.set()
