"""From the text of a dataset to rows of equal length, packed without padding."""

import os
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import count, islice, repeat
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

import numpy as np

from autoresearch_jax.tasks.lm.data.corpus import Reporter
from autoresearch_jax.tasks.lm.data.dataset import (
    SPLITS,
    DatasetError,
    Manifest,
    counts_file,
    files_for,
    read_split,
    rows_file,
    tokenizer_file,
)
from autoresearch_jax.tasks.lm.data.tokenizer import MIN_VOCAB_SIZE, STANDARD, TextRules, Tokenizer, train_tokenizer

_WRITE_BYTES = 1 << 22
_ENCODED_AT_ONCE = 1 << 20  # characters of text handed to the encoding threads together
_DOCUMENTS_AT_ONCE = 4096  # at most; a corpus of words has many in a megabyte
_TOKENS_PER_BYTE = ((MIN_VOCAB_SIZE, 1.0), (1023, 0.7))  # up to that size; on Python's own source it is rather less
_TOKENS_PER_BYTE_OF_LARGER = 0.4


def pack_rows(documents: Iterable[np.ndarray], row_tokens: int, rules: TextRules = STANDARD) -> Iterator[np.ndarray]:
    """Fills rows, integers[row_tokens], from a buffer of documents, integers[n]: always the longest that fits.

    When none fits, the shortest is cropped to fill the row exactly. The remainder goes back into the buffer as another
    document (without BOS), or is dropped, as the rules say. Of equal lengths the earliest is taken. A last row that
    cannot be filled is dropped.
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
        fitting = bisect_right(buffer, room, key=itemgetter(0))
        if fitting:
            longest = buffer[fitting - 1][0]
            _, _, piece = buffer.pop(bisect_left(buffer, longest, key=itemgetter(0)))
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


def write_rows(path: Path, rows: Iterable[np.ndarray], row_tokens: int, vocab_size: int) -> tuple[int, np.ndarray]:
    """Writes rows to a .npy file of `row_dtype(vocab_size)`[N, row_tokens] as they come, a few megabytes at a time.

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
        # NumPy leaves room in the header for the first dimension to grow
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


def rows_bytes(text_bytes: int, vocab_size: int) -> int:
    """Estimated bytes of the rows of a text, rather too many than too few."""
    per_byte = next((share for size, share in _TOKENS_PER_BYTE if vocab_size <= size), _TOKENS_PER_BYTE_OF_LARGER)
    return int(text_bytes * per_byte * row_dtype(vocab_size).itemsize)


def add_vocabulary(
    manifest: Manifest,
    folder: Path,
    scratch: Path,
    sequence_length: int,
    vocab_size: int,
    rules: TextRules,
    reporter: Reporter,
) -> Manifest:
    """Makes the rows of a vocabulary, and the vocabulary if `folder` lacks it, in `scratch`; returns the new manifest.

    Raises:
      VocabularyError: the vocabulary is too large for the text.
      DatasetError: a split does not fill one row.
    """
    made = [name for name in files_for(vocab_size, sequence_length) if name != tokenizer_file(vocab_size)]
    if tokenizer_file(vocab_size) in manifest.files:
        vocabulary = Tokenizer.load(folder / tokenizer_file(vocab_size))
    else:
        reporter.stage(f"vocabulary {vocab_size}: learning", manifest.splits["train"].documents)
        vocabulary = train_tokenizer(_counted(read_split(folder, "train"), reporter), vocab_size, rules)
        (scratch / tokenizer_file(vocab_size)).parent.mkdir(parents=True)
        vocabulary.save(scratch / tokenizer_file(vocab_size))
        made.append(tokenizer_file(vocab_size))
    (scratch / counts_file(vocab_size, sequence_length)).parent.mkdir(parents=True)
    rows = {}
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for split in SPLITS:
            reporter.stage(f"vocabulary {vocab_size}: packing {split}", manifest.splits[split].documents)
            texts = _counted(read_split(folder, split), reporter)
            packed = pack_rows(_encoded(texts, vocabulary, threads), sequence_length + 1, rules)
            name = rows_file(vocab_size, sequence_length, split)
            rows[name], counts = write_rows(scratch / name, packed, sequence_length + 1, vocab_size)
            if not rows[name]:
                raise DatasetError(
                    f"the text of {split} does not fill one row of {sequence_length} tokens: "
                    "give more text, or a smaller --sequence_length"
                )
            if split == "train":
                np.save(scratch / counts_file(vocab_size, sequence_length), counts)
    return manifest.with_files(scratch, made, rows)


def _encoded(texts: Iterable[str], vocabulary: Tokenizer, threads: Executor) -> Iterator[np.ndarray]:
    """Tokens of each text; the next texts are encoded while those before are packed."""
    dtype = row_dtype(vocabulary.vocab_size)
    current: Iterable[np.ndarray] = ()
    for batch in _batched(texts):
        following = threads.map(vocabulary.encode_document, batch, repeat(dtype))
        yield from current
        current = following
    yield from current


def _batched(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= _ENCODED_AT_ONCE or len(batch) == _DOCUMENTS_AT_ONCE:
            yield batch
            batch, characters = [], 0
    yield batch


def _counted(texts: Iterable[str], reporter: Reporter) -> Iterator[str]:
    for text in texts:
        yield text
        reporter.advance()
