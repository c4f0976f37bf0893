"""Whether the dataset that the flags name is there and whole."""

import re
import shlex
from collections.abc import Iterator

from autoresearch_jax.commands.checks.check import Check, shown
from autoresearch_jax.commands.dataset_flags import DatasetOptions
from autoresearch_jax.tasks.lm.data.dataset import (
    SPLITS,
    Dataset,
    DatasetError,
    Manifest,
    covered_files,
    prepare_command,
    rows_file,
)

_ADVICE = re.compile(": (?:run `|remove the folder)")
HASHED_BYTES = 200_000_000  # up to which all files are hashed, which takes a second or less


def check_dataset(options: DatasetOptions) -> Iterator[Check]:
    """The dataset, its fingerprint, what it holds, and its files.

    Args:
      options: the dataset flags.
    """
    try:
        dataset = Dataset.open(options.folder, sequence_length=options.sequence_length, vocab_sizes=options.vocab_sizes)
    except DatasetError as error:
        outcome = _ADVICE.split(str(error))[0]  # what follows is said better where all flags are known
        yield Check("dataset", outcome, is_ok=False, remedy=_remedy(options))
        return
    manifest = dataset.manifest
    yield Check("dataset", shown(dataset.folder))
    yield Check("fingerprint", dataset.fingerprint)
    texts = (f"{split} {manifest.splits[split].bytes / 1e6:.1f} MB" for split in SPLITS)
    yield Check("dataset_text", ", ".join(texts))
    for size in dataset.vocab_sizes:
        rows = (f"{split} {manifest.rows[rows_file(size, dataset.sequence_length, split)]}" for split in SPLITS)
        yield Check(f"dataset_rows_{size}", f"{', '.join(rows)}, of {dataset.sequence_length} tokens")
    yield _files(dataset, options)


def _files(dataset: Dataset, options: DatasetOptions) -> Check:
    names = covered_files(dataset.vocab_sizes, dataset.sequence_length)
    size = sum(dataset.manifest.files[name].size for name in names)
    there = f"{len(names)} files, {size / 1e6:.1f} MB"
    if sum(entry.size for entry in dataset.manifest.files.values()) > HASHED_BYTES:
        return Check("dataset_files", f"{there}: sizes as written; the hashes of so much were not computed")
    wrong = sorted(set(dataset.verify()) & set(names))
    if wrong:
        remedy = f"rm {shlex.quote(str(dataset.folder / wrong[0]))} && {_command(options)}"
        return Check("dataset_files", f"{', '.join(wrong)}: not as written", is_ok=False, remedy=remedy)
    return Check("dataset_files", f"{there}: sizes and hashes as written")


def _remedy(options: DatasetOptions) -> str:
    try:
        return _command(options)
    except DatasetError:  # its manifest cannot be read, and nothing can be added to such a folder
        command = prepare_command(options.folder, options.corpus, options.sequence_length, options.vocab_sizes)
        return f"rm -r {shlex.quote(str(options.folder))} && {command}"


def _command(options: DatasetOptions) -> str:
    """The command that makes what is missing; of a dataset that is there its own corpus counts.

    Raises:
      DatasetError: what is there cannot be read.
    """
    manifest = Manifest.load(options.folder)
    corpus = options.corpus if manifest is None else manifest.corpus
    return prepare_command(options.folder, corpus, options.sequence_length, options.vocab_sizes)
