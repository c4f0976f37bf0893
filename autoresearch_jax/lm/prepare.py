"""Makes a dataset, or adds what it lacks; whatever stops it, the folder stays whole.

New files are made in a staging folder beside the dataset and moved into place when they are complete; the
manifest comes last. Only one process at a time works on a dataset, so a staging folder that it finds there
is a dead call's.
"""

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np

from autoresearch_jax.lm import splits, tokenizer
from autoresearch_jax.lm.corpus import Corpus, CorpusError
from autoresearch_jax.lm.dataset import Dataset
from autoresearch_jax.lm.files import exclusive_lock
from autoresearch_jax.lm.manifest import (
    SPLITS,
    DatasetError,
    Manifest,
    counts_file,
    files_for,
    rows_file,
    rows_folder,
    text_file,
    tokenizer_file,
)
from autoresearch_jax.lm.packing import BUFFER_DOCUMENTS, pack_rows, row_dtype, write_rows
from autoresearch_jax.lm.tokenizer import Tokenizer, train_tokenizer

# All that decides how text becomes rows: a dataset made with anything else is made again.
SETTINGS: dict[str, int | float | str | bool] = {
    "format": 1,
    "val_share": splits.VAL_SHARE,
    "holdout_share": splits.HOLDOUT_SHARE,
    "split_pattern": tokenizer.SPLIT_PATTERN,
    "tokenizer_training_characters": tokenizer.TRAINING_CHARACTERS,
    "packing_buffer_documents": BUFFER_DOCUMENTS,
    "packing_keep_remainder": True,
}
_ENCODED_AT_ONCE = 1 << 20  # characters of text handed to the encoding threads together
_TEXT_FILES = [text_file(split) for split in SPLITS]


class Reporter(Protocol):
    """Told how far the work is."""

    def note(self, text: str) -> None:
        """Something that people should know."""
        ...

    def stage(self, what: str, documents: int | None) -> None:
        """The next stage begins; it takes that many documents, None if that is not known."""
        ...

    def advance(self) -> None:
        """One more document of the stage is done."""
        ...


def prepare_dataset(
    folder: Path, corpus: Corpus, *, sequence_length: int, vocab_sizes: tuple[int, ...], reporter: Reporter
) -> Dataset:
    """Makes sure that a dataset holds rows of a length in some vocabularies; does only what is missing.

    Args:
      folder: of the dataset; its parent is made if it is missing.
      corpus: where the text comes from. If it has changed since, the dataset is made again.
      sequence_length: T.
      vocab_sizes: vocabularies to offer.
      reporter: told how far the work is.

    Raises:
      CorpusError: the corpus cannot be read, or is empty.
      VocabularyError: a vocabulary is too large for the text.
      DatasetError: the text is too little, the folder is something else, or it cannot be written.
    """
    state = corpus.state()
    manifest, _ = _usable(folder, corpus, state)
    if manifest is None or _missing(manifest, sequence_length, vocab_sizes):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = folder.with_name(f".{folder.name}.lock")
            with exclusive_lock(lock, lambda: reporter.note("another call is at work on this dataset: waiting")):
                _bring_up_to_date(folder, corpus, state, sequence_length, vocab_sizes, reporter)
        except OSError as error:
            raise DatasetError(f"cannot write the dataset {folder}: {error} (see --data_dir)") from error
    return Dataset.open(folder, sequence_length=sequence_length, vocab_sizes=vocab_sizes)


def _bring_up_to_date(
    folder: Path,
    corpus: Corpus,
    state: str,
    sequence_length: int,
    vocab_sizes: tuple[int, ...],
    reporter: Reporter,
) -> None:
    """What `prepare_dataset` does under the lock."""
    manifest, outdated = _usable(folder, corpus, state)  # again: another call may just have made it
    with _staging(folder) as staging:
        if manifest is None:
            if outdated:
                reporter.note(f"{outdated}: making the dataset again")
            manifest = _write_text(staging, corpus, state, reporter)
            manifest = _add_rows(manifest, staging, staging, sequence_length, vocab_sizes, reporter)
            manifest.save(staging)
            _replace_folder(folder, staging)
        elif missing := _missing(manifest, sequence_length, vocab_sizes):
            larger = _add_rows(manifest, folder, staging, sequence_length, missing, reporter)
            for path in [path for path in staging.rglob("*") if path.is_file()]:
                target = folder / path.relative_to(staging)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
            larger.save(folder)


def _usable(folder: Path, corpus: Corpus, state: str) -> tuple[Manifest | None, str | None]:
    """The manifest without damaged files; or None, and why all must be made again unless there is nothing."""
    manifest = Manifest.load(folder)
    if manifest is None:
        # A dataset appears with its manifest in it, so this folder is somebody else's.
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise DatasetError(f"{folder} is no dataset, and in the way: move it, or choose another --name")
        return None, None
    if manifest.corpus != corpus.spec:
        raise DatasetError(f"{folder} was made from --corpus={manifest.corpus}: choose another --name")
    if manifest.settings != SETTINGS:
        return None, "the dataset was made with other settings"
    if manifest.source_state != state:
        return None, "the corpus has changed"
    damaged = set(manifest.damaged(folder, manifest.files))
    if damaged & set(_TEXT_FILES):
        return None, "the text of the dataset is damaged"
    for name in [name for name in damaged if name.startswith("tokenizers/")]:
        # Rows are only as good as the vocabulary that they were made with.
        damaged |= {other for other in manifest.files if other.startswith(f"rows/{Path(name).stem}x")}
    return replace(manifest, files={n: e for n, e in manifest.files.items() if n not in damaged}), None


def _missing(manifest: Manifest, sequence_length: int, vocab_sizes: tuple[int, ...]) -> tuple[int, ...]:
    there = manifest.vocab_sizes(sequence_length)
    return tuple(size for size in vocab_sizes if size not in there)


def _write_text(staging: Path, corpus: Corpus, state: str, reporter: Reporter) -> Manifest:
    """Reads the corpus into the files of its splits."""
    reporter.stage("reading the corpus", None)
    skipped: Counter[str] = Counter()
    counts = splits.write_splits(corpus.documents(skipped), staging, skipped, reporter.advance)
    if not any(count.documents for count in counts.values()):
        raise CorpusError(f"--corpus={corpus.spec}: there is no text in it{_in_words(skipped)}")
    for split, count in counts.items():
        if not count.documents:
            total = sum(count.documents for count in counts.values())
            raise DatasetError(
                f"--corpus={corpus.spec}: too small, none of its {total} documents falls into {split}"
                f"{_in_words(skipped)}: give more documents, or cut long ones into several"
            )
    libraries = {name: version(name) for name in ("rustbpe", "tiktoken", "numpy")}
    manifest = Manifest(
        corpus=corpus.spec,
        source=corpus.description,
        source_state=state,
        settings=SETTINGS,
        libraries=libraries,
        splits=counts,
        skipped=dict(sorted(skipped.items())),
    )
    return manifest.with_files(staging, _TEXT_FILES, {})


def _in_words(skipped: Counter[str]) -> str:
    return f" (left out: {', '.join(f'{n} {reason}' for reason, n in sorted(skipped.items()))})" if skipped else ""


def _add_rows(
    manifest: Manifest,
    folder: Path,
    staging: Path,
    sequence_length: int,
    vocab_sizes: tuple[int, ...],
    reporter: Reporter,
) -> Manifest:
    """Makes rows, and the vocabularies that are not there yet, in `staging` from the text in `folder`."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for size in vocab_sizes:
            made = [name for name in files_for(size, sequence_length) if name != tokenizer_file(size)]
            if tokenizer_file(size) in manifest.files:
                vocabulary = Tokenizer.load(folder / tokenizer_file(size))
            else:
                reporter.stage(f"vocabulary {size}: learning", manifest.splits["train"].documents)
                vocabulary = train_tokenizer(_counted(splits.read_split(folder, "train"), reporter), size)
                (staging / tokenizer_file(size)).parent.mkdir(exist_ok=True)
                vocabulary.save(staging / tokenizer_file(size))
                made.append(tokenizer_file(size))
            (staging / rows_folder(size, sequence_length)).mkdir(parents=True)
            rows = {}
            for split in SPLITS:
                reporter.stage(f"vocabulary {size}: packing {split}", manifest.splits[split].documents)
                texts = _counted(splits.read_split(folder, split), reporter)
                packed = pack_rows(_encoded(texts, vocabulary, threads), sequence_length + 1)
                name = rows_file(size, sequence_length, split)
                rows[name], counts = write_rows(staging / name, packed, sequence_length + 1, size)
                if not rows[name]:
                    raise DatasetError(
                        f"the text of {split} does not fill one row of {sequence_length} tokens: "
                        "give more text, or a smaller --sequence_length"
                    )
                if split == "train":
                    np.save(staging / counts_file(size, sequence_length), counts)
            manifest = manifest.with_files(staging, made, rows)
    return manifest


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
        if characters >= _ENCODED_AT_ONCE:
            yield batch
            batch, characters = [], 0
    yield batch


def _counted(texts: Iterable[str], reporter: Reporter) -> Iterator[str]:
    for text in texts:
        yield text
        reporter.advance()


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """An empty folder beside the dataset's, gone afterwards; clears away what dead calls have left."""
    staging, replaced = (
        folder.with_name(f".{folder.name}.staging"),
        folder.with_name(f".{folder.name}.replaced"),
    )
    for leftover in (staging, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    staging.mkdir()
    try:
        yield staging
    finally:
        for leftover in (staging, replaced):
            shutil.rmtree(leftover, ignore_errors=True)


def _replace_folder(folder: Path, staging: Path) -> None:
    """Puts the staging folder in the place of the dataset's; `_staging` removes what was there."""
    if folder.exists():
        folder.rename(folder.with_name(f".{folder.name}.replaced"))
    staging.rename(folder)
