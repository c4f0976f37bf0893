"""Documents into train, val and holdout by their content, without duplicates, and the files of text."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from autoresearch_jax.tasks.lm.data.manifest import SPLITS, SplitCount, text_file
from autoresearch_jax.tasks.lm.data.text_files import Document, Skipped

VAL_SHARE = 0.04
HOLDOUT_SHARE = 0.04
DUPLICATE = "duplicate"  # reason why a document is left out
_REMEMBERED = 8_000_000  # documents, in about 0.6 GB; of what comes later only repetitions of these are found


def split_of(digest: bytes) -> str:
    """The split for a document whose text has this SHA-256; the same on every machine and in any order."""
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < VAL_SHARE:
        return "val"
    return "holdout" if position < VAL_SHARE + HOLDOUT_SHARE else "train"


def write_splits(
    documents: Iterable[Document],
    folder: Path,
    skipped: Skipped,
    on_document: Callable[[], None],
) -> dict[str, SplitCount]:
    """Writes each document to the file of its split, one line of JSON with a `text` each.

    A text that came before is left out. Where the corpus itself assigns the splits, only val and holdout are
    remembered, so they must come first, and repetitions within a split stay, as its makers left them; else a text's
    hash puts it into the same split every time, and what is remembered is bounded.

    Args:
      documents: read once.
      folder: of the dataset; gets `text/<split>.jsonl`.
      skipped: duplicates are counted here.
      on_document: called after each document that was read.

    Returns:
      documents and bytes of each split.
    """
    counts = dict.fromkeys(SPLITS, 0)
    sizes = dict.fromkeys(SPLITS, 0)
    seen: dict[int, str] = {}  # the split of each text, by the first half of its SHA-256
    with ExitStack() as stack:
        files = {split: stack.enter_context(_create(folder / text_file(split))) for split in SPLITS}
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


def read_split(folder: Path, split: str) -> Iterator[str]:
    """The texts of a split, in the order they were written."""
    with (folder / text_file(split)).open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield json.loads(line)["text"]


def _create(path: Path) -> TextIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("w", encoding="utf-8", newline="\n")
