"""Documents into train, val and holdout by their content, without duplicates, and the files of text."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from autoresearch_jax.lm.corpus import Document
from autoresearch_jax.lm.manifest import SPLITS, SplitCount, text_file

VAL_SHARE = 0.04
HOLDOUT_SHARE = 0.04
DUPLICATE = "duplicate"  # reason why a document is left out


def split_of(digest: bytes) -> str:
    """The split for a document whose text has this SHA-256; the same on every machine and in any order."""
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < VAL_SHARE:
        return "val"
    return "holdout" if position < VAL_SHARE + HOLDOUT_SHARE else "train"


def write_splits(
    documents: Iterable[Document],
    folder: Path,
    skipped: Counter[str],
    on_document: Callable[[], None],
) -> dict[str, SplitCount]:
    """Writes each document to the file of its split, one line of JSON with a `text` each.

    A text that came before is left out, in whichever split it was: a corpus that assigns splits itself
    should therefore yield val and holdout first.

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
    seen: set[bytes] = set()
    with ExitStack() as stack:
        files = {split: stack.enter_context(_create(folder / text_file(split))) for split in SPLITS}
        for document in documents:
            text = document.text.encode("utf-8")
            on_document()
            digest = hashlib.sha256(text).digest()
            if digest in seen:
                skipped[DUPLICATE] += 1
                continue
            seen.add(digest)
            split = document.split or split_of(digest)
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
