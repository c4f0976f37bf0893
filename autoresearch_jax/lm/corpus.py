"""Where text comes from: a corpus yields documents, and says when it has changed.

A further corpus is a class with the members of `Corpus` and a branch in `open_corpus`.
"""

import glob
import hashlib
import json
import os
import platform
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from autoresearch_jax.errors import UsageError, UserError

STDLIB = "stdlib"
FILES = "files:"
# Folders below the standard library's that hold its tests, or what is not the standard library, or
# (pydoc_data) one generated file of manual pages: 7 % of the text, and 70 % of val if its hash puts it there.
_NOT_STDLIB = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "pydoc_data"}
_PARQUET_BATCH = 256  # documents read at once

EMPTY = "empty"  # reasons why a document is left out
UNDECODABLE = "undecodable"


class CorpusError(UserError):
    """A corpus that cannot be read, or holds no text; the message names the file and line."""


@dataclass(frozen=True)
class Document:
    """One text.

    Attributes:
      text: never blank, and always what UTF-8 can hold.
      split: "train", "val" or "holdout" where the corpus itself decides; None leaves it to the text's hash.
    """

    text: str
    split: str | None = None


class Corpus(Protocol):
    """A source of documents."""

    @property
    def spec(self) -> str:
        """What --corpus must be to get this corpus from any working directory."""
        ...

    @property
    def name(self) -> str:
        """Name of the folder for the dataset made from it."""
        ...

    @property
    def description(self) -> dict[str, str]:
        """What people should know of it, for the manifest."""
        ...

    def state(self) -> str:
        """A hash that changes when the documents may have changed; takes milliseconds.

        Raises:
          CorpusError: the source is missing or cannot be read.
        """
        ...

    def documents(self, skipped: Counter[str]) -> Iterator[Document]:
        """All documents in an order that never changes; counts in `skipped`, by reason, what it leaves out.

        Raises:
          CorpusError: the source is missing or cannot be read.
        """
        ...


def open_corpus(spec: str) -> Corpus:
    """The corpus that --corpus names; reads nothing yet.

    Raises:
      UsageError: there is no such corpus.
    """
    if spec == STDLIB:
        return _stdlib()
    if spec.startswith(FILES) and len(spec) > len(FILES):
        return _files(spec.removeprefix(FILES))
    raise UsageError(f"--corpus={spec}: there is no such corpus; use `stdlib`, or `files:GLOB` for your own files")


@dataclass(frozen=True)
class LocalFiles:
    """Files on this machine. The members are those of `Corpus`.

    Attributes:
      spec, name, description: see `Corpus`.
      find: the files, in an order that never changes.
    """

    spec: str
    name: str
    description: dict[str, str]
    find: Callable[[], list[Path]]

    def state(self) -> str:
        digest = hashlib.sha256()
        for path in self.find():
            try:
                status = path.stat()
            except OSError as error:
                raise _unreadable(path, error) from error
            digest.update(os.fsencode(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n"))
        return digest.hexdigest()

    def documents(self, skipped: Counter[str]) -> Iterator[Document]:
        for path in self.find():
            try:
                for raw in _READERS[path.suffix](path):
                    text = _text_of(raw)
                    if text is None:
                        skipped[UNDECODABLE] += 1
                    elif not text.strip():
                        skipped[EMPTY] += 1
                    else:
                        yield Document(text)
            except OSError as error:
                raise _unreadable(path, error) from error


def _stdlib() -> LocalFiles:
    """The .py files of the running Python's standard library, without its tests and generated manual.

    It differs from one Python to the next, so the version is part of the name: two Pythons that share a data
    folder would otherwise take turns in rebuilding it.
    """
    root = Path(sysconfig.get_path("stdlib"))

    def find() -> list[Path]:
        found = []
        for folder, subfolders, names in os.walk(root):
            subfolders[:] = [name for name in subfolders if name not in _NOT_STDLIB]
            found += [Path(folder, name) for name in names if name.endswith(".py")]
        if not found:
            raise CorpusError(f"there is no standard library below {root}: use --corpus=files:GLOB instead")
        return sorted(found)

    version = platform.python_version()
    description = {"python": version, "implementation": platform.python_implementation(), "folder": str(root)}
    return LocalFiles(STDLIB, f"stdlib-{version}", description, find)


def _files(pattern: str) -> LocalFiles:
    """The user's own files; the name is a hash of the absolute pattern."""
    pattern = os.path.abspath(os.path.expanduser(pattern))

    def find() -> list[Path]:
        found = [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if not os.path.isdir(name)]
        if not found:
            raise CorpusError(f"--corpus={FILES}{pattern}: no file matches")
        for path in found:
            if path.suffix not in _READERS or path.suffix == ".py":
                raise CorpusError(f"{path}: only .txt, .jsonl and .parquet can be read; use a narrower pattern")
        return found

    name = f"files-{hashlib.sha256(os.fsencode(pattern)).hexdigest()[:8]}"
    return LocalFiles(FILES + pattern, name, {"pattern": pattern}, find)


def _read_text(path: Path) -> Iterator[bytes]:
    yield path.read_bytes()


def _read_jsonl(path: Path) -> Iterator[str | bytes]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError:
                yield line  # counted as undecodable
                continue
            except ValueError as error:
                raise CorpusError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(record, dict) or not isinstance(record.get("text"), str):
                raise CorpusError(f"{path}, line {number}: not an object with a `text` that is a string")
            yield record["text"]


def _read_parquet(path: Path) -> Iterator[bytes]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            columns = dict(zip(file.schema_arrow.names, file.schema_arrow.types, strict=True))
            if "text" not in columns:
                raise CorpusError(f"{path}: has no column `text`, only {', '.join(columns)}")
            if not (pa.types.is_string(columns["text"]) or pa.types.is_large_string(columns["text"])):
                raise CorpusError(f"{path}: the column `text` holds {columns['text']}, not strings")
            for batch in file.iter_batches(_PARQUET_BATCH, columns=["text"]):
                # As bytes, since one text that is no UTF-8 would else make the whole column unreadable.
                for value in batch.column("text").cast(pa.large_binary()):
                    yield value.as_py() or b""
    except pa.ArrowException as error:
        raise CorpusError(f"{path}: cannot be read as Parquet ({_first_line(error)})") from error


_READERS: dict[str, Callable[[Path], Iterator[str | bytes]]] = {
    ".py": _read_text,
    ".txt": _read_text,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def _text_of(raw: str | bytes) -> str | None:
    """The text, or None if it cannot be had; JSON can hold half a surrogate pair, which UTF-8 cannot."""
    try:
        if isinstance(raw, bytes):
            return raw.decode("utf-8")
        raw.encode("utf-8")
        return raw
    except UnicodeError:
        return None


def _unreadable(path: Path, error: OSError) -> CorpusError:
    return CorpusError(f"cannot read {path}: {error.strerror or _first_line(error)}")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
