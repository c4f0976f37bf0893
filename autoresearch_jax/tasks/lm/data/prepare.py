"""Makes a dataset, or adds what it lacks; the folder stays whole after an error or a kill.

A new dataset grows in a staging folder beside its place and is moved there when it is complete. A manifest is written
after each stage (the text, then each vocabulary with its rows), so that the next call continues with the interrupted
stage. A lock lets one process at a time work on a dataset.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from autoresearch_jax.errors import UserError
from autoresearch_jax.files import free_bytes
from autoresearch_jax.tasks.lm.data.corpus import Corpus, Reporter
from autoresearch_jax.tasks.lm.data.dataset import SPLITS, Dataset, DatasetError, Manifest, SplitCount, text_file
from autoresearch_jax.tasks.lm.data.packing import add_vocabulary, rows_bytes
from autoresearch_jax.tasks.lm.data.storage import REPLACED, SCRATCH, STAGING, beside, lock_dataset
from autoresearch_jax.tasks.lm.data.text_files import (
    EMPTY,
    LONGEST_DOCUMENT,
    UNDECODABLE,
    UNKNOWN_FORMAT,
    CorpusError,
    Document,
    Skipped,
)
from autoresearch_jax.tasks.lm.data.tokenizer import TextRules

VAL_SHARE = 0.04
HOLDOUT_SHARE = 0.04
DUPLICATE = "duplicate"  # reason why a document is left out
_REMEMBERED = 8_000_000  # documents, in about 0.6 GB; of what comes later only repetitions of these are found
_TEXT_FILES = [text_file(split) for split in SPLITS]
_JSON_SHARE = 1.05  # of a text's bytes, as JSON lines
_TOLD_EXAMPLES = 3
_WHAT_TO_DO = {
    UNDECODABLE: "is not UTF-8: convert it, for instance with `iconv -f LATIN1 -t UTF-8`",
    EMPTY: "is empty or null",
    UNKNOWN_FORMAT: "has no format that can be read: narrow the pattern of --corpus, or convert it",
}


class NoRoomError(DatasetError):
    """A disk with less free space than is to be written; existing files stay."""


def settings(rules: TextRules) -> dict[str, int | float | str | bool | None]:
    """All that decides how text becomes rows, by name: a dataset made with anything else is made again."""
    return {
        "format": 2,
        "val_share": VAL_SHARE,
        "holdout_share": HOLDOUT_SHARE,
        "longest_document": LONGEST_DOCUMENT,
        **asdict(rules),
    }


def prepare_dataset(
    folder: Path, corpus: Corpus, *, sequence_length: int, vocab_sizes: tuple[int, ...], reporter: Reporter
) -> Dataset:
    """Makes sure that a dataset holds rows of a length in some vocabularies; does only what is missing.

    If the corpus has changed since, the dataset is made again.

    Raises:
      CorpusError: the corpus cannot be read, or is empty.
      VocabularyError: a vocabulary is too large for the text.
      DatasetError: the text is too little, the folder is something else, or it cannot be written.
    """
    state = corpus.state()
    manifest, _ = _usable(folder, corpus, state)
    if manifest is None or manifest.lacks(sequence_length, vocab_sizes):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with lock_dataset(folder, lambda: reporter.note("another call is at work on this dataset: waiting")):
                _bring_up_to_date(folder, corpus, state, sequence_length, vocab_sizes, reporter)
        except OSError as error:
            raise DatasetError(f"cannot write the dataset {folder}: {error} (see --data_dir)") from error
    return Dataset.open(folder, sequence_length=sequence_length, vocab_sizes=vocab_sizes)


def _bring_up_to_date(
    folder: Path, corpus: Corpus, state: str, sequence_length: int, vocab_sizes: tuple[int, ...], reporter: Reporter
) -> None:
    """What `prepare_dataset` does under the lock."""
    manifest, outdated = _usable(folder, corpus, state)  # again: another call may just have made it
    staging, replaced = beside(folder, STAGING), beside(folder, REPLACED)
    shutil.rmtree(replaced, ignore_errors=True)
    if manifest is not None:
        shutil.rmtree(staging, ignore_errors=True)
        _add_missing(folder, manifest, corpus.rules, sequence_length, vocab_sizes, reporter)
        return
    if outdated:
        reporter.note(f"{outdated}: making the dataset again, with the vocabularies that are asked for now")
    with contextlib.suppress(DatasetError):
        manifest, _ = _usable(staging, corpus, state)  # what an interrupted call left
    if manifest is None:
        shutil.rmtree(staging, ignore_errors=True)
        manifest = _write_text(staging, corpus, state, vocab_sizes, reporter)
    try:
        _add_missing(staging, manifest, corpus.rules, sequence_length, vocab_sizes, reporter)
    except NoRoomError:  # the same call continues here once there is room
        raise
    except UserError:  # the next call has to be another one
        shutil.rmtree(staging, ignore_errors=True)
        raise
    if folder.exists():
        folder.rename(replaced)
    staging.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)


def _usable(folder: Path, corpus: Corpus, state: str) -> tuple[Manifest | None, str | None]:
    """The manifest without damaged files; or None, and why all must be made again unless there is nothing."""
    manifest = Manifest.load(folder)
    if manifest is None:
        # A dataset appears with its manifest in it (perhaps just now), so this folder is no dataset.
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())) and Manifest.load(folder) is None:
            raise DatasetError(f"{folder} is no dataset, and in the way: move it, or choose another --name")
        return None, None
    if manifest.corpus != corpus.spec:
        raise DatasetError(f"{folder} was made from --corpus={manifest.corpus}: choose another --name")
    if manifest.settings != settings(corpus.rules):
        return None, "the dataset was made with other settings"
    if manifest.source_state != state:
        return None, "the corpus has changed"
    damaged = set(manifest.damaged(folder, manifest.files))
    if damaged & set(_TEXT_FILES):
        return None, "the text of the dataset is damaged"
    for name in [name for name in damaged if name.startswith("tokenizers/")]:
        # Rows are only as good as the vocabulary that they were made with.
        damaged |= {other for other in manifest.files if other.startswith(f"rows/{Path(name).stem}x")}
    return manifest.without_files(damaged), None


def _add_missing(
    folder: Path,
    manifest: Manifest,
    rules: TextRules,
    sequence_length: int,
    vocab_sizes: tuple[int, ...],
    reporter: Reporter,
) -> None:
    """Adds the vocabularies that a folder lacks, one by one; it is whole before and after each."""
    missing = manifest.lacks(sequence_length, vocab_sizes)
    text_bytes = sum(count.bytes for count in manifest.splits.values())
    _check_room(folder, sum(rows_bytes(text_bytes, size) for size in missing))
    scratch = folder / SCRATCH
    try:
        for size in missing:
            shutil.rmtree(scratch, ignore_errors=True)
            manifest = add_vocabulary(manifest, folder, scratch, sequence_length, size, rules, reporter)
            for path in [path for path in scratch.rglob("*") if path.is_file()]:
                target = folder / path.relative_to(scratch)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
            manifest.save(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_text(staging: Path, corpus: Corpus, state: str, vocab_sizes: Sequence[int], reporter: Reporter) -> Manifest:
    """Reads the corpus into the files of its splits, in a new folder, which is gone if that fails."""
    files = corpus.fetch(reporter)
    text_bytes = files.num_bytes()
    _check_room(staging, text_bytes * _JSON_SHARE + sum(rows_bytes(text_bytes, size) for size in vocab_sizes))
    reporter.stage("reading the corpus", None)
    skipped = Skipped()
    staging.mkdir()
    try:
        counts = write_splits(files.documents(skipped), staging, skipped, reporter.advance)
        _tell(skipped, reporter)
        _check_splits(counts, corpus, skipped)
        manifest = Manifest(
            corpus=corpus.spec,
            source=files.description,
            source_state=state,
            settings=settings(corpus.rules),
            libraries={name: version(name) for name in ("rustbpe", "tiktoken", "numpy")},
            splits=counts,
            skipped=dict(sorted(skipped.counts.items())),
            skipped_examples=dict(sorted(skipped.examples.items())),
        ).with_files(staging, _TEXT_FILES, {})
        manifest.save(staging)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return manifest


def _check_room(folder: Path, needed: float) -> None:
    """Raises NoRoomError unless the disk of a folder, which need not exist yet, has so many bytes free."""
    free = free_bytes(folder)
    if free < needed:
        raise NoRoomError(
            f"the dataset needs about {needed / 1e9:.2f} GB more in {folder.parent}, where {free / 1e9:.2f} GB are "
            "free: make room (`autoresearch prepare --list`), or choose another place with --data_dir"
        )


def _check_splits(counts: dict[str, SplitCount], corpus: Corpus, skipped: Skipped) -> None:
    """Raises unless there is text in every split."""
    total = sum(count.documents for count in counts.values())
    if not total:
        raise CorpusError(f"--corpus={corpus.spec}: there is no text in it{skipped.in_words()}")
    for split, count in counts.items():
        if not count.documents:
            raise DatasetError(
                f"--corpus={corpus.spec}: too small, none of its {total} documents falls into {split}"
                f"{skipped.in_words()}: give more documents, or cut long ones into several, such as with `split -l 200`"
            )


def _tell(skipped: Skipped, reporter: Reporter) -> None:
    """One line for each reason why something was left out that a user may want to mend."""
    for reason, what in _WHAT_TO_DO.items():
        if places := skipped.examples.get(reason):
            more = skipped.counts[reason] - min(len(places), _TOLD_EXAMPLES)
            told = "; ".join(places[:_TOLD_EXAMPLES]) + (f"; and {more} more" if more else "")
            reporter.note(f"left out, since it {what}: {told}")


def split_of(digest: bytes) -> str:
    """The split of a document by its text's SHA-256; the same on every machine and in any order."""
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < VAL_SHARE:
        return "val"
    return "holdout" if position < VAL_SHARE + HOLDOUT_SHARE else "train"


def write_splits(
    documents: Iterable[Document], folder: Path, skipped: Skipped, on_document: Callable[[], None]
) -> dict[str, SplitCount]:
    """Writes each document to `text/<split>.jsonl` of the folder, one line of JSON with a `text` each.

    A text that came before is left out and counted in `skipped`. Where the corpus itself assigns the splits, only val
    and holdout are remembered, so they must come first, and repetitions within a split stay, as its makers left them;
    else a text's hash puts it into the same split every time, and what is remembered is bounded.

    Returns:
      documents and bytes of each split.
    """
    counts = dict.fromkeys(SPLITS, 0)
    sizes = dict.fromkeys(SPLITS, 0)
    seen: dict[int, str] = {}  # the split of each text, by the first half of its SHA-256
    (folder / "text").mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        files = {
            split: stack.enter_context((folder / text_file(split)).open("w", encoding="utf-8", newline="\n"))
            for split in SPLITS
        }
        for document in documents:
            text = document.text.encode("utf-8")
            on_document()
            digest = hashlib.sha256(text).digest()
            split = document.split or split_of(digest)
            key = int.from_bytes(digest[:16], "big")
            earlier = seen.get(key)
            if earlier is not None and (document.split is None or earlier != split):
                skipped.add(DUPLICATE)
                continue
            if document.split != "train" and len(seen) < _REMEMBERED:
                seen.setdefault(key, split)
            line = json.dumps({"text": document.text}, ensure_ascii=False, separators=(",", ":"))
            files[split].write(line + "\n")
            counts[split] += 1
            sizes[split] += len(text)
    return {split: SplitCount(counts[split], sizes[split]) for split in SPLITS}
