"""Makes datasets, adds what they lack, lists and removes their parts; a folder stays whole after an error or a kill.

A new dataset grows in a staging folder beside its place and is moved there when it is complete. A manifest is written
after each stage (the text, then each vocabulary with its rows), so that the next call continues with the interrupted
stage. A lock lets one process at a time work on a dataset.
"""

import contextlib
import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from autoresearch_jax.errors import UsageError, UserError
from autoresearch_jax.files import exclusive_lock, free_bytes
from autoresearch_jax.sandbox.mounts import readable_files
from autoresearch_jax.tasks.lm.data.corpus import HOLDOUT_SHARE, VAL_SHARE, Corpus, Reporter, split_of
from autoresearch_jax.tasks.lm.data.dataset import (
    SPLITS,
    Dataset,
    DatasetError,
    Manifest,
    SplitCount,
    text_file,
    tokenizer_file,
)
from autoresearch_jax.tasks.lm.data.overlap import SHARED_RUN, FilesText
from autoresearch_jax.tasks.lm.data.packing import add_vocabulary, rows_bytes
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

# Suffixes of hidden paths beside a dataset's folder: where it is made, where it is moved to be removed, its lock
STAGING, REPLACED, LOCK = ".staging", ".replaced", ".lock"
SCRATCH = ".scratch"  # in a dataset's folder: new files before they are moved to their places
TEXT = "text"  # names of parts
UNFINISHED = "unfinished"  # left by an interrupted call

DUPLICATE = "duplicate"  # reasons why a document is left out
READABLE = "readable_in_sandbox"
_REMEMBERED = 8_000_000  # documents, in about 0.6 GB; of what comes later only repetitions of these are found
_TEXT_FILES = [text_file(split) for split in SPLITS]
_JSON_SHARE = 1.05  # of a text's bytes, as JSON lines
_TOLD_EXAMPLES = 3
_WHAT_TO_DO = {
    UNDECODABLE: "is not UTF-8: convert it, for instance with `iconv -f LATIN1 -t UTF-8`",
    EMPTY: "is empty or null",
    UNKNOWN_FORMAT: "has no format that can be read: narrow the pattern of --corpus, or convert it",
    READABLE: "shares a long passage with a file that the sandbox shows, such as an installed package's",
}


class NoRoomError(DatasetError):
    """A disk with less free space than is to be written; existing files stay."""


def settings(rules: TextRules) -> dict[str, int | float | str | bool | None]:
    """All that decides how text becomes rows, by name: a dataset made with anything else is made again."""
    return {
        "format": 3,
        "val_share": VAL_SHARE,
        "holdout_share": HOLDOUT_SHARE,
        "shared_run": SHARED_RUN,
        "longest_document": LONGEST_DOCUMENT,
        **asdict(rules),
    }


def prepare_dataset(
    folder: Path, corpus: Corpus, *, sequence_length: int, vocab_sizes: tuple[int, ...], reporter: Reporter
) -> Dataset:
    """Makes what a dataset lacks of some vocabularies at a sequence length; all of it if the corpus has changed.

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
            waiting = "another call is at work on this dataset: waiting"
            with exclusive_lock(_beside(folder, LOCK), lambda: reporter.note(waiting)):
                _bring_up_to_date(folder, corpus, state, sequence_length, vocab_sizes, reporter)
        except OSError as error:
            remedy = "name a folder that you can write to with --data_dir or --cache_dir"
            raise DatasetError(f"cannot write the dataset {folder}: {error.strerror or error}: {remedy}") from error
    return Dataset.open(folder, sequence_length=sequence_length, vocab_sizes=vocab_sizes)


def _bring_up_to_date(
    folder: Path, corpus: Corpus, state: str, sequence_length: int, vocab_sizes: tuple[int, ...], reporter: Reporter
) -> None:
    """What `prepare_dataset` does under the lock."""
    manifest, outdated = _usable(folder, corpus, state)  # again: another call may just have made it
    staging, replaced = _beside(folder, STAGING), _beside(folder, REPLACED)
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
    """The manifest without damaged files; or None, and why everything must be made again if there is something."""
    manifest = Manifest.load(folder)
    if manifest is None:
        # A dataset appears with its manifest in it, perhaps just now
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
    """Adds the vocabularies that a folder lacks, each whole or not at all."""
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
    """Reads the corpus into the files of its splits, in a new folder, which is removed on failure."""
    files = corpus.fetch(reporter)
    text_bytes = files.num_bytes()
    _check_room(staging, text_bytes * _JSON_SHARE + sum(rows_bytes(text_bytes, size) for size in vocab_sizes))
    reporter.stage("reading the corpus", None)
    skipped, readable = Skipped(), FilesText(readable_files)
    staging.mkdir()
    try:
        counts = write_splits(files.documents(skipped), staging, skipped, readable, reporter.advance)
        _tell(skipped, reporter)
        _check_splits(counts, corpus, skipped)
        manifest = Manifest(
            corpus=corpus.spec,
            source={**files.description, "compared_with": readable.in_words()},
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
    """Raises NoRoomError if the disk of a folder has fewer bytes free than are needed."""
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
    """Reports what was left out and can be mended, a line for each reason."""
    for reason, what in _WHAT_TO_DO.items():
        if places := skipped.examples.get(reason):
            more = skipped.counts[reason] - min(len(places), _TOLD_EXAMPLES)
            told = "; ".join(places[:_TOLD_EXAMPLES]) + (f"; and {more} more" if more else "")
            reporter.note(f"left out, since it {what}: {told}")


def write_splits(
    documents: Iterable[Document],
    folder: Path,
    skipped: Skipped,
    readable: FilesText,
    on_document: Callable[[], None],
) -> dict[str, SplitCount]:
    """Writes each document to `text/<split>.jsonl` of the folder, as JSON with a `text`; returns counts by split.

    Documents of val and holdout that share a run with `readable`, which a candidate can read, are skipped.

    Repeated texts are skipped. Where the corpus assigns the splits, texts of train are not remembered, so val and
    holdout must come first, and only repetitions in another split are skipped.
    """
    counts, sizes = Counter[str](), Counter[str]()
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
            if split != "train" and readable.shares_run(text):
                skipped.add(READABLE, document.place)
                continue
            if document.split != "train" and len(seen) < _REMEMBERED:
                seen.setdefault(key, split)
            line = json.dumps({"text": document.text}, ensure_ascii=False, separators=(",", ":"))
            files[split].write(line + "\n")
            counts[split] += 1
            sizes[split] += len(text)
    return {split: SplitCount(counts[split], sizes[split]) for split in SPLITS}


@dataclass(frozen=True)
class Part:
    """A part of a dataset."""

    dataset: str
    name: str  # TEXT, UNFINISHED, or "VxT" for the rows of a vocabulary of V at length T
    bytes: int
    train_rows: int | None = None


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(f".{folder.name}{suffix}")


def list_parts(data_dir: Path) -> list[Part]:
    """The parts of all datasets in a folder, sorted by dataset; raises DatasetError if the folder cannot be read."""
    parts = []
    try:
        for folder in sorted(data_dir.iterdir()) if data_dir.is_dir() else []:
            name = folder.name.removeprefix(".").removesuffix(STAGING).removesuffix(REPLACED)
            if folder.name in (f".{name}{STAGING}", f".{name}{REPLACED}"):
                parts.append(Part(name, UNFINISHED, _bytes_below(folder)))
            else:
                with contextlib.suppress(DatasetError):  # its manifest is damaged
                    parts += _parts_of(folder)
    except OSError as error:
        raise DatasetError(f"cannot read {error.filename or data_dir}: {error.strerror or error}") from error
    return sorted(parts, key=lambda part: part.dataset)


def remove(data_dir: Path, what: str, on_wait: Callable[[], None]) -> int:
    """Removes a dataset ("NAME") or rows of it ("NAME/VxT"); a run that uses them fails at its next trial.

    Args:
      data_dir: the folder of all datasets.
      what: see above.
      on_wait: called before waiting for another process that holds the dataset's lock.

    Returns:
      freed bytes.

    Raises:
      UsageError: there is no such part.
    """
    name, _, rows = what.partition("/")
    folder = data_dir / name
    there = list_parts(data_dir)
    parts = [part for part in there if part.dataset == name and (not rows or part.name == rows)]
    if not parts or rows in (TEXT, UNFINISHED):
        names = sorted({part.dataset for part in there})
        raise UsageError(
            f"--remove={what}: there is no such dataset or rows in {data_dir}, only "
            f"{', '.join(names) or 'nothing'}: `autoresearch prepare --list` shows NAME and NAME/VxT"
        )
    try:
        with exclusive_lock(_beside(folder, LOCK), on_wait):
            if rows:
                _remove_rows(folder, rows)
            else:
                _remove_dataset(folder)
    except OSError as error:
        raise DatasetError(f"cannot remove {error.filename or folder}: {error.strerror or error}") from error
    return sum(part.bytes for part in parts)


def _parts_of(folder: Path) -> list[Part]:
    if (manifest := Manifest.load(folder)) is None:
        return []
    parts = [Part(folder.name, TEXT, _bytes_below(folder / "text"))]
    rows = [path for path in (folder / "rows").iterdir() if path.is_dir()] if (folder / "rows").is_dir() else []
    for path in sorted(rows, key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)]):
        parts.append(Part(folder.name, path.name, _bytes_below(path), manifest.rows.get(f"rows/{path.name}/train.npy")))
    if size := _bytes_below(folder / SCRATCH):
        parts.append(Part(folder.name, UNFINISHED, size))
    return parts


def _remove_dataset(folder: Path) -> None:
    replaced = _beside(folder, REPLACED)
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        folder.rename(replaced)  # at once: no other call sees a part of it
    for path in (replaced, _beside(folder, STAGING)):
        if path.exists():
            shutil.rmtree(path)


def _remove_rows(folder: Path, rows: str) -> None:
    """Removes the rows from the manifest first, so that it never names a missing file."""
    manifest = Manifest.load(folder)
    if manifest is None:
        return
    left = manifest.without_files(name for name in manifest.files if name.startswith(f"rows/{rows}/"))
    vocab_size = rows.partition("x")[0]
    vocabulary = tokenizer_file(int(vocab_size))
    unused = not any(name.startswith(f"rows/{vocab_size}x") for name in left.files)
    (left.without_files([vocabulary]) if unused else left).save(folder)
    if unused:
        (folder / vocabulary).unlink(missing_ok=True)
    for path in (folder / "rows" / rows, folder / SCRATCH):
        shutil.rmtree(path, ignore_errors=True)


def _bytes_below(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # another call has just moved it
            size += path.stat().st_size if path.is_file() else 0
    return size
