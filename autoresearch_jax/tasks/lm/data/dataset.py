"""A prepared dataset, read only: rows, vocabularies, byte counts and the fingerprint."""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autoresearch_jax.files import sha256_of_file
from autoresearch_jax.tasks.lm.data.corpus import STDLIB, open_corpus
from autoresearch_jax.tasks.lm.data.manifest import (
    SPLITS,
    DatasetChangedError,
    DatasetError,
    Manifest,
    counts_file,
    covered_files,
    is_read_by_judge,
    rows_file,
    tokenizer_file,
)

if TYPE_CHECKING:
    from autoresearch_jax.tasks.lm.data.tokenizer import Tokenizer

__all__ = ["SPLITS", "Dataset", "DatasetError", "dataset_folder", "prepare_command"]


def dataset_folder(data_dir: Path, corpus: str, name: str | None = None) -> Path:
    """Folder of a corpus's dataset: below `data_dir`, named by the corpus unless it is given a name.

    Raises:
      UsageError: there is no such corpus.
    """
    return data_dir / (name or open_corpus(corpus).name)


@dataclass(frozen=True)
class Dataset:
    """What the trainer and the judge read. Made by `open`.

    Attributes:
      folder: where it is.
      sequence_length: T; a row holds T + 1 tokens.
      vocab_sizes: the vocabulary sizes it offers, smallest first.
      fingerprint: SHA-256 over text, T, vocabularies and rows; scores with different ones are never compared.
      manifest: all that is known of how it was made.
    """

    folder: Path
    sequence_length: int
    vocab_sizes: tuple[int, ...]
    fingerprint: str
    manifest: Manifest

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        sequence_length: int,
        vocab_sizes: tuple[int, ...] | None = None,
        only_split: str | None = None,
        corpus: str | None = None,
    ) -> "Dataset":
        """Opens a dataset; checks that its files are there with the sizes they were written with.

        Args:
          folder: from `dataset_folder`.
          sequence_length: T.
          vocab_sizes: what to offer; None offers all that are there for T.
          corpus: that it would be made from, for the message if there is none.
          only_split: ask only for what judging this split reads, which is all that an exam's folder has.

        Raises:
          DatasetError: something is missing; the message gives the command that makes it.
        """
        manifest = Manifest.load(folder)
        if manifest is None:
            command = prepare_command(folder, corpus, sequence_length, vocab_sizes)
            raise DatasetError(f"no dataset in {folder}: run `{command}` first")
        command = prepare_command(folder, manifest.corpus, sequence_length, vocab_sizes)
        there = manifest.vocab_sizes(sequence_length)
        offered = there if vocab_sizes is None else tuple(sorted(set(vocab_sizes)))
        if lacking := [size for size in offered if size not in there]:
            raise DatasetError(
                f"the dataset {folder} has the vocabularies {_listed(there)} for sequence length "
                f"{sequence_length}, not {_listed(lacking)}: run `{command}` first, or choose with --vocab_sizes"
            )
        if not offered:
            raise DatasetError(f"the dataset {folder} has no rows of length {sequence_length}: run `{command}` first")
        names = covered_files(offered, sequence_length)
        if only_split is not None:
            names = [name for name in names if is_read_by_judge(name, only_split)]
        if damaged := manifest.damaged(folder, names):
            raise DatasetError(f"{folder / damaged[0]} is missing or has been changed: run `{command}` to mend it")
        fingerprint = manifest.fingerprint(sequence_length, offered)
        return cls(folder, sequence_length, offered, fingerprint, manifest)

    def rows(self, vocab_size: int, split: str) -> np.memmap:
        """Packed rows of a split, uint16 or int32[N, T + 1] with N > 0, memory-mapped and read-only.

        Raises:
          DatasetError: there are none, or they cannot be read.
        """
        path = self.folder / rows_file(vocab_size, self.sequence_length, split)
        command = prepare_command(self.folder, self.manifest.corpus, self.sequence_length, self.vocab_sizes)
        try:
            rows: np.memmap = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            reason = next(iter(str(error).splitlines()), "")
            raise DatasetError(f"{path} cannot be read ({reason}): remove it and run `{command}`") from error
        if not len(rows):
            raise DatasetError(f"{path} holds no row: remove it and run `{command}`")
        return rows

    def train_counts(self, vocab_size: int) -> np.ndarray:
        """How often each token occurs in the train rows, int64[V]."""
        return np.load(self.folder / counts_file(vocab_size, self.sequence_length))

    def tokenizer_path(self, vocab_size: int) -> Path:
        """File of a vocabulary."""
        return self.folder / tokenizer_file(vocab_size)

    def tokenizer(self, vocab_size: int) -> "Tokenizer":
        """A vocabulary, to encode and decode with."""
        from autoresearch_jax.tasks.lm.data.tokenizer import Tokenizer

        return Tokenizer.load(self.tokenizer_path(vocab_size))

    def num_bytes(self, vocab_size: int) -> np.ndarray:
        """Raw bytes each token stands for, int32[V]; 0 for BOS."""
        return self.tokenizer(vocab_size).num_bytes()

    def num_bytes_original(self, vocab_size: int) -> np.ndarray:
        """Bytes of each token as the original autoresearch counts them, int32[V]; 0 for BOS."""
        return self.tokenizer(vocab_size).num_bytes_original()

    def require_unchanged(self) -> None:
        """Looks whether the folder still holds what was opened, going by its manifest; takes a millisecond.

        Raises:
          DatasetChangedError: somebody has made the dataset anew since, or removed it.
        """
        manifest = Manifest.load(self.folder)
        names = covered_files(self.vocab_sizes, self.sequence_length)
        if manifest is not None and manifest.files.keys() >= set(names):
            if manifest.fingerprint(self.sequence_length, self.vocab_sizes) == self.fingerprint:
                return
            raise DatasetChangedError(
                f"the dataset {self.folder} was made anew while it was in use, from another corpus or by other "
                "settings: scores before and after cannot be compared, so put back what it was made from and prepare "
                "it again, or choose another --tag"
            )
        command = prepare_command(self.folder, self.manifest.corpus, self.sequence_length, self.vocab_sizes)
        raise DatasetChangedError(
            f"the dataset {self.folder} was removed, in part or whole, while it was in use: run `{command}`"
        )

    def verify(self) -> list[str]:
        """Names of the files whose SHA-256 is not the manifest's; reads all of them."""
        entries = self.manifest.files.items()
        return [name for name, entry in entries if _sha256_or_none(self.folder / name) != entry.sha256]


def prepare_command(folder: Path, corpus: str | None, sequence_length: int, vocab_sizes: tuple[int, ...] | None) -> str:
    """The `autoresearch prepare` command line that makes what a dataset folder lacks.

    Args:
      folder: the dataset's folder.
      corpus: its corpus; None if that is not known.
      sequence_length: T.
      vocab_sizes: vocabulary sizes to make; None for the default ones.
    """
    words = ["autoresearch", "prepare"]
    if corpus is None and folder.name != open_corpus(STDLIB).name:
        words.append("--corpus=...")
    elif corpus is not None:
        words.append(f"--corpus={corpus}")
        if folder.name != open_corpus(corpus).name:
            words.append(f"--name={folder.name}")
    if vocab_sizes is not None:
        words.append(f"--vocab_sizes={','.join(map(str, vocab_sizes))}")
    words += [f"--sequence_length={sequence_length}", f"--data_dir={folder.parent}"]
    return shlex.join(words)


def _listed(sizes: Iterable[int]) -> str:
    return ", ".join(map(str, sizes)) or "(none)"


def _sha256_or_none(path: Path) -> str | None:
    try:
        return sha256_of_file(path)
    except OSError:
        return None
