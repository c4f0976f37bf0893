"""From the text of a dataset to the rows of one vocabulary: learnt, encoded in parallel, packed, written."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from autoresearch_jax.tasks.lm.data.corpus import Reporter
from autoresearch_jax.tasks.lm.data.manifest import (
    SPLITS,
    DatasetError,
    Manifest,
    counts_file,
    files_for,
    rows_file,
    rows_folder,
    tokenizer_file,
)
from autoresearch_jax.tasks.lm.data.packing import PackingRules, pack_rows, row_dtype, write_rows
from autoresearch_jax.tasks.lm.data.splits import read_split
from autoresearch_jax.tasks.lm.data.tokenizer import MIN_VOCAB_SIZE, Tokenizer, train_tokenizer

_ENCODED_AT_ONCE = 1 << 20  # characters of text handed to the encoding threads together
_DOCUMENTS_AT_ONCE = 4096  # at most; a corpus of words has many in a megabyte
_TOKENS_PER_BYTE = ((MIN_VOCAB_SIZE, 1.0), (1023, 0.7))  # up to that size; on Python's own source it is rather less
_TOKENS_PER_BYTE_OF_LARGER = 0.4


def rows_bytes(text_bytes: int, vocab_size: int) -> int:
    """About how many bytes the rows of a text take, rather too many than too few."""
    per_byte = next((share for size, share in _TOKENS_PER_BYTE if vocab_size <= size), _TOKENS_PER_BYTE_OF_LARGER)
    return int(text_bytes * per_byte * row_dtype(vocab_size).itemsize)


def add_vocabulary(
    manifest: Manifest,
    folder: Path,
    scratch: Path,
    *,
    sequence_length: int,
    vocab_size: int,
    rules: PackingRules,
    reporter: Reporter,
) -> Manifest:
    """Makes the rows of a vocabulary, and the vocabulary if it is not there yet.

    Args:
      manifest: of the dataset.
      folder: of the dataset, for its text and its vocabularies.
      scratch: a folder that gets the new files.
      sequence_length: T.
      vocab_size: V.
      rules: how documents become rows.
      reporter: told how far the work is.

    Returns:
      the manifest with the new files.

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
        (scratch / tokenizer_file(vocab_size)).parent.mkdir(exist_ok=True)
        vocabulary.save(scratch / tokenizer_file(vocab_size))
        made.append(tokenizer_file(vocab_size))
    (scratch / rows_folder(vocab_size, sequence_length)).mkdir(parents=True)
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
        following = vocabulary.encode_documents(batch, threads, dtype)
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
