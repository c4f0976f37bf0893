"""Documents from files of text, JSON lines and Parquet, plain or compressed, in bounded memory."""

import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from autoresearch_jax.errors import UserError

EMPTY = "empty"  # reasons why a document is left out
UNDECODABLE = "undecodable"
UNKNOWN_FORMAT = "unknown_format"  # and why a file is
FORMATS = ".txt, .jsonl (both also .gz or .zst) and .parquet"

# A longer text becomes several documents: packing holds a thousand of them, as up to 4 bytes a token.
LONGEST_DOCUMENT = 1 << 19  # bytes
_LONGEST_LINE = 1 << 26  # bytes; a file without line breaks is no JSON lines, and would fill the memory
_PARQUET_BATCH = 64  # documents read at once
_READ_AHEAD = 1 << 20  # bytes
_COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
_COMPRESSED_SHARE = 0.3  # size of a compressed file over that of its text
_EXAMPLES = 20  # of what was left out, for each reason


class CorpusError(UserError):
    """A corpus that cannot be read, or holds no text; the message names the file and line."""


@dataclass(frozen=True)
class Document:
    """One text that is not blank and can be encoded as UTF-8."""

    text: str
    split: str | None = None  # None leaves it to the text's hash
    place: str = ""  # its file, and where in it


@dataclass
class Skipped:
    """Documents and files that were left out, by reason: counts, and where the first were."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, place: str | None = None) -> None:
        """Counts one more; `place` names it."""
        self.counts[reason] += 1
        if place is not None and len(places := self.examples.setdefault(reason, [])) < _EXAMPLES:
            places.append(place)

    def in_words(self) -> str:
        """Counts by reason, for the end of a message; "" if there were none."""
        if not self.counts:
            return ""
        return f" (left out: {', '.join(f'{count} {reason}' for reason, count in sorted(self.counts.items()))})"


@dataclass(frozen=True)
class TextFile:
    """A file, and the split of its documents; None leaves it to their hashes."""

    path: Path
    split: str | None = None


@dataclass(frozen=True)
class TextFiles:
    """Files on this machine, in a fixed order."""

    files: tuple[TextFile, ...]
    description: dict[str, str]  # for the manifest
    unknown: tuple[Path, ...] = ()  # further files, in no format that can be read

    def num_bytes(self) -> int:
        """About how many bytes of text they hold, rather too many than too few; reads only their sizes.

        Raises:
          CorpusError: a file is missing or cannot be read.
        """
        total = 0.0
        for path in (file.path for file in self.files):
            try:
                size = path.stat().st_size
            except OSError as error:
                raise unreadable(path, error) from error
            is_compressed = path.suffix.lower() in (*_COMPRESSED, ".parquet")
            total += size / _COMPRESSED_SHARE if is_compressed else size
        return int(total)

    def documents(self, skipped: Skipped) -> Iterator[Document]:
        """All documents, in a fixed order; what is left out goes to `skipped`.

        Raises:
          CorpusError: a file is missing or cannot be read.
        """
        for path in self.unknown:
            skipped.add(UNKNOWN_FORMAT, name_of(path))
        for file in self.files:
            try:
                for place, raw in _READERS[_suffix(file.path)](file.path):
                    whole_place = f"{name_of(file.path)}{place}"
                    for piece in _pieces(raw):
                        try:
                            text = piece.decode("utf-8")
                        except UnicodeDecodeError:
                            skipped.add(UNDECODABLE, whole_place)
                            continue
                        if text.strip():
                            yield Document(text, file.split, whole_place)
                        else:
                            skipped.add(EMPTY, whole_place)
            except OSError as error:
                raise unreadable(file.path, error) from error


def can_read(path: Path) -> bool:
    """Whether a file's name has a known suffix."""
    # Parquet is compressed inside, and read from its end
    return _suffix(path) in (".txt", ".jsonl") or path.suffix.lower() == ".parquet"


def unreadable(path: Path, error: OSError) -> CorpusError:
    """What to raise for a file that the system does not let us read."""
    return CorpusError(
        f"cannot read {name_of(path)}: {error.strerror or _first_line(error)}: mend it, or leave it out of --corpus"
    )


def name_of(path: Path) -> str:
    """A path as text; bytes that are no UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")


def _suffix(path: Path) -> str:
    """The suffix without that of the compression."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() in _COMPRESSED else path.suffix.lower()


def _open(path: Path) -> IO[bytes]:
    """A file for reading, decompressed on the way."""
    if path.suffix.lower() not in _COMPRESSED:
        return path.open("rb")
    import pyarrow as pa

    # the type stubs know nothing of it, but it is all that a buffered reader needs
    stream = pa.input_stream(path.open("rb"), compression=_COMPRESSED[path.suffix.lower()], buffer_size=_READ_AHEAD)
    return io.BufferedReader(cast(Any, stream), _READ_AHEAD)


def _read_text(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yields a file byte for byte, a long one in several pieces."""
    with _open(path) as file:
        start = 0
        rest = b""
        while block := file.read(LONGEST_DOCUMENT):
            *pieces, rest = _pieces(rest + block)
            for piece in pieces:
                yield _from_byte(start), piece
                start += len(piece)
        if rest or not start:
            yield _from_byte(start), rest


def _from_byte(start: int) -> str:
    return f", from byte {start}" if start else ""


def _read_jsonl(path: Path) -> Iterator[tuple[str, bytes]]:
    with _open(path) as file:
        number = 0
        while line := file.readline(_LONGEST_LINE):
            number += 1
            where = f"{name_of(path)}, line {number}"
            if len(line) == _LONGEST_LINE:
                raise CorpusError(f"{where}: longer than {_LONGEST_LINE >> 20} MB: cut it into several")
            if not line.strip():
                continue
            try:
                # some systems begin a file with a byte order mark, which is no part of the text
                record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError:
                yield f", line {number}", b"\xff"  # which is no UTF-8 either
                continue
            except (ValueError, RecursionError) as error:
                raise CorpusError(f"{where}: not JSON ({error}): mend or remove the line") from error
            text = record.get("text", 0) if isinstance(record, dict) else 0
            if text is not None and not isinstance(text, str):
                raise CorpusError(
                    f"{where}: not an object with a `text` that is a string: rename the field, or mend the line"
                )
            # JSON can hold half a surrogate pair, which UTF-8 cannot
            yield f", line {number}", (text or "").encode("utf-8", "surrogatepass")


def _read_parquet(path: Path) -> Iterator[tuple[str, bytes]]:
    import pyarrow as pa
    from pyarrow import parquet

    number = 0
    try:
        # with a buffer, pages are read as they are needed; without, all of a row group's column at once
        with (
            path.open("rb") as raw,
            parquet.ParquetFile(raw, buffer_size=_READ_AHEAD, pre_buffer=False) as file,
        ):
            columns = dict(zip(file.schema_arrow.names, file.schema_arrow.types, strict=True))
            if "text" not in columns:
                raise CorpusError(
                    f"{name_of(path)}: has no column `text`, only {', '.join(columns)}: rename the one with the texts"
                )
            if not (pa.types.is_string(columns["text"]) or pa.types.is_large_string(columns["text"])):
                raise CorpusError(f"{name_of(path)}: the column `text` holds {columns['text']}, not strings")
            for batch in file.iter_batches(_PARQUET_BATCH, columns=["text"]):
                # As bytes, since one text that is no UTF-8 would else make the whole column unreadable.
                for value in batch.column("text").cast(pa.large_binary()):
                    number += 1
                    yield f", row {number}", value.as_py() or b""
    except pa.ArrowException as error:
        raise CorpusError(
            f"{name_of(path)}: cannot be read as Parquet ({_first_line(error)}): make or fetch the file again"
        ) from error


# Yield where in the file a text is, to be said behind its name, and its bytes, which should be UTF-8.
_READERS: dict[str, Callable[[Path], Iterator[tuple[str, bytes]]]] = {
    ".py": _read_text,
    ".txt": _read_text,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def _pieces(text: bytes) -> Iterator[bytes]:
    """A long text in several: each ends behind its last line, else between two characters."""
    start = 0
    while len(text) - start > LONGEST_DOCUMENT:
        longest = start + LONGEST_DOCUMENT
        end = text.rfind(b"\n", start, longest) + 1
        if not end:
            end = longest
            while end > longest - 3 and text[end] & 0xC0 == 0x80:  # within a character, which has 4 bytes at most
                end -= 1
        yield text[start:end]
        start = end
    yield text[start:]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
