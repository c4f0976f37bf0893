"""How text becomes rows: the rules, best-fit packing without padding, and the files of rows."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

# GPT-4's way to cut text before merging (contractions, words with one leading character, numbers,
# punctuation, newlines, spaces) with two changes: numbers go in twos, since a small vocabulary cannot afford
# a thousand triples; runs of white space end at 100, since the regex engine's stack overflows on millions.
SPLIT_PATTERN = "|".join(
    (
        r"'(?i:[sdmt]|ll|ve|re)",
        r"[^\r\n\p{L}\p{N}]?+\p{L}+",
        r"\p{N}{1,2}",
        r" ?[^\s\p{L}\p{N}]++[\r\n]*",
        r"\s{0,100}[\r\n]",
        r"\s{1,100}(?!\S)",
        r"\s{1,100}",
    )
)
_ENDLESS_SPACE = SPLIT_PATTERN.replace(r"\s{0,100}", r"\s*").replace(r"\s{1,100}", r"\s+")
_WRITE_BYTES = 1 << 22


@dataclass(frozen=True)
class PackingRules:
    """All that decides how the documents of a split become rows.

    Attributes:
      split_pattern: regular expression that cuts the text before tokens are merged.
      training_characters: a vocabulary is learnt from the first documents of train that together have so many.
      training_bytes: or so many bytes of UTF-8, if they have these first; None for no such limit.
      training_document_characters: of each document only so many count for that; None for all.
      reserved_tokens: ids after BOS that no text ever has.
      buffer_documents: documents that packing chooses from.
      refill_documents: how many are added to them at once when they are fewer.
      keep_remainder: whether what is cropped off a document to fill a row begins another row, or is dropped.
    """

    split_pattern: str = SPLIT_PATTERN
    training_characters: int = 1_000_000_000
    # More changes the merges little; and while they are learnt each different word takes half a kilobyte, of which a
    # text without spaces between its words, such as Chinese, has one for each clause: 1.4 GB at worst.
    training_bytes: int | None = 1 << 25
    training_document_characters: int | None = None
    reserved_tokens: int = 0
    buffer_documents: int = 1000  # as in the original
    refill_documents: int = 1
    keep_remainder: bool = True


STANDARD = PackingRules()
# Those of karpathy/autoresearch, prepare.py. It crops what does not fit and drops the rest: right where documents are
# about as long as a row, but where they are ten times as long nine tenths of the text would go.
ORIGINAL = PackingRules(
    split_pattern=_ENDLESS_SPACE,
    training_bytes=None,
    training_document_characters=10_000,
    reserved_tokens=3,
    refill_documents=128,
    keep_remainder=False,
)


def pack_rows(
    documents: Iterable[np.ndarray],
    row_tokens: int,
    rules: PackingRules = STANDARD,
) -> Iterator[np.ndarray]:
    """Fills rows from a buffer of documents: always the longest that fits the room left.

    When none fits, the shortest is cropped to fill the row exactly. What the crop cuts off goes back
    into the buffer as a document of its own (without BOS), or is dropped, as the rules say.
    Among equals the one that came first is taken. A last row that cannot be filled is dropped.

    Args:
      documents: integers[n] each, BOS first.
      row_tokens: length of a row, T + 1.
      rules: how many documents are held to choose from, and what becomes of what is cropped off.

    Yields:
      rows, integers[row_tokens] of the documents' dtype.
    """
    source = iter(documents)
    arrivals = count()
    # (length, arrival, tokens), shortest first. `arrival` is unique, so that tokens are never compared.
    buffer: list[tuple[int, int, np.ndarray]] = []
    row: np.ndarray | None = None
    filled = 0
    while True:
        while len(buffer) < rules.buffer_documents and (refill := list(islice(source, rules.refill_documents))):
            for tokens in refill:
                insort(buffer, (len(tokens), next(arrivals), tokens))
        if not buffer:
            return
        room = row_tokens - filled
        fitting = bisect_right(buffer, room, key=_length)
        if fitting:
            longest = buffer[fitting - 1][0]
            _, _, piece = buffer.pop(bisect_left(buffer, longest, key=_length))
        else:
            _, _, shortest = buffer.pop(0)
            piece = shortest[:room]
            if rules.keep_remainder:
                insort(buffer, (len(shortest) - room, next(arrivals), shortest[room:]))
        if row is None:
            row = np.empty(row_tokens, piece.dtype)
        row[filled : filled + len(piece)] = piece
        filled += len(piece)
        if filled == row_tokens:
            yield row
            row, filled = None, 0


def _length(entry: tuple[int, int, np.ndarray]) -> int:
    return entry[0]


def write_rows(path: Path, rows: Iterable[np.ndarray], row_tokens: int, vocab_size: int) -> tuple[int, np.ndarray]:
    """Writes rows to a .npy file as they come; holds a few megabytes of them at most.

    Args:
      path: file to write, [N, row_tokens] of `row_dtype(vocab_size)`.
      rows: integers[row_tokens] each.
      row_tokens: length of a row, T + 1.
      vocab_size: V.

    Returns:
      N, and how often each token occurs, int64[V].
    """
    dtype = row_dtype(vocab_size)
    at_once = max(1, _WRITE_BYTES // (row_tokens * dtype.itemsize))
    source = iter(rows)
    written = 0
    counts = np.zeros(vocab_size, np.int64)
    with path.open("wb") as file:
        data_start = _write_header(file, written, row_tokens, dtype)
        while block := list(islice(source, at_once)):
            tokens = np.stack(block).astype(dtype, copy=False)
            file.write(tokens.tobytes())
            written += len(block)
            counts += np.bincount(tokens.ravel(), minlength=vocab_size)
        file.seek(0)
        # NumPy leaves room in the header for the first dimension to grow, for just this use.
        if _write_header(file, written, row_tokens, dtype) != data_start:
            raise RuntimeError(f"the header of {path} grew over its data")
    return written, counts


def row_dtype(vocab_size: int) -> np.dtype:
    """The smallest of uint16 and int32 that holds every token."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.int32)


def _write_header(file: BinaryIO, num_rows: int, row_tokens: int, dtype: np.dtype) -> int:
    header = {"descr": dtype.str, "fortran_order": False, "shape": (num_rows, row_tokens)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()
