"""The exam of a run: a copy of what the judge reads, so that a snapshot can be scored when the dataset is gone.

It is a dataset folder without the rows to train on and without the text. Its manifest still has their hashes, so that
the fingerprint can be computed again.
"""

import os
import shutil
from dataclasses import replace
from pathlib import Path

from autoresearch_jax.errors import UserError
from autoresearch_jax.files import sha256_of_file
from autoresearch_jax.tasks.lm.data.dataset import Dataset, prepare_command
from autoresearch_jax.tasks.lm.data.manifest import MANIFEST, Manifest, covered_files, is_read_by_judge
from autoresearch_jax.tasks.lm.inventory import RESTORE, inventory_differences


class ExamError(UserError):
    """A run's exam is damaged or cannot be written; the message names the file."""


def keep_exam(dataset: Dataset, split: str, folder: Path) -> str:
    """Copies what judging a split reads into `folder`, whole or not at all, unless it is there.

    Args:
      dataset: what is judged on; every vocabulary it offers is copied.
      split: "val".
      folder: where the exam will be, or is.

    Returns:
      SHA-256 of the exam's manifest, which has the hashes of all other files.

    Raises:
      ExamError: it is there and was changed, or the dataset was, or it cannot be written.
    """
    if not folder.exists():
        try:
            _copy(dataset, split, folder)
        except OSError as error:
            raise ExamError(f"{folder}: the exam cannot be written: {error}") from error
    command = prepare_command(dataset.folder, dataset.manifest.corpus, dataset.sequence_length, dataset.vocab_sizes)
    todo = f"delete {folder}, run `{command}`, and the same command copies it again"
    if differences := exam_differences(folder, split, todo):
        raise ExamError(differences[0])
    return sha256_of_file(folder / MANIFEST)


def exam_differences(folder: Path, split: str, todo: str = RESTORE) -> list[str]:
    """A line for each file of an exam that is missing, changed or does not belong there.

    Its manifest is taken as it stands: compare its own hash first.

    Raises:
      DatasetError: the manifest cannot be read.
    """
    manifest = Manifest.load(folder)
    if manifest is None:
        return [f"{folder / MANIFEST}: is missing: {todo}"]
    expected = {name: entry for name, entry in manifest.files.items() if is_read_by_judge(name, split)}
    return inventory_differences(folder, expected, todo)


def _copy(dataset: Dataset, split: str, folder: Path) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    covered = covered_files(dataset.vocab_sizes, dataset.sequence_length)
    manifest = replace(
        dataset.manifest,
        files={name: dataset.manifest.files[name] for name in covered},
        rows={name: count for name, count in dataset.manifest.rows.items() if name in covered},
    )
    for name in filter(lambda name: is_read_by_judge(name, split), covered):
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(dataset.folder / name, partial / name)
    manifest.save(partial)
    os.rename(partial, folder)
