"""What a dataset folder holds, as its manifest.json says: written last, so a folder with one is whole."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from autoresearch_jax.errors import UserError
from autoresearch_jax.files import sha256_of_file, sha256_of_json, write_json
from autoresearch_jax.types import TermsChanged

SPLITS = ("train", "val", "holdout")
MANIFEST = "manifest.json"


class DatasetError(UserError):
    """A dataset that is missing, incomplete or damaged; the message gives the command that mends it."""


class DatasetChangedError(DatasetError, TermsChanged):
    """A dataset that was made anew or removed while it was in use."""


def text_file(split: str) -> str:
    """Name, relative to the dataset folder, of the documents of a split."""
    return f"text/{split}.jsonl"


def tokenizer_file(vocab_size: int) -> str:
    """Name, relative to the dataset folder, of a vocabulary."""
    return f"tokenizers/{vocab_size}.json"


def rows_folder(vocab_size: int, sequence_length: int) -> str:
    """Name, relative to the dataset folder, of the packed rows of a vocabulary and length."""
    return f"rows/{vocab_size}x{sequence_length}"


def rows_file(vocab_size: int, sequence_length: int, split: str) -> str:
    """Name, relative to the dataset folder, of the packed rows of a split."""
    return f"{rows_folder(vocab_size, sequence_length)}/{split}.npy"


def counts_file(vocab_size: int, sequence_length: int) -> str:
    """Name, relative to the dataset folder, of the token counts of the train rows."""
    return f"{rows_folder(vocab_size, sequence_length)}/train_counts.npy"


def files_for(vocab_size: int, sequence_length: int) -> list[str]:
    """Names of all files that one vocabulary adds to a dataset at one sequence length."""
    rows = [rows_file(vocab_size, sequence_length, split) for split in SPLITS]
    return [tokenizer_file(vocab_size), *rows, counts_file(vocab_size, sequence_length)]


def covered_files(vocab_sizes: Iterable[int], sequence_length: int) -> list[str]:
    """Names of all files that a fingerprint covers."""
    return [text_file(split) for split in SPLITS] + [
        name for size in vocab_sizes for name in files_for(size, sequence_length)
    ]


def is_read_by_judge(name: str, split: str) -> bool:
    """Whether judging a split reads a file: its rows, the vocabularies, the counts of the train rows."""
    return name.startswith("tokenizers/") or Path(name).name in (f"{split}.npy", "train_counts.npy")


@dataclass(frozen=True)
class FileEntry:
    """A file as it was written: size in bytes and SHA-256 in hexadecimal."""

    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "FileEntry":
        """The entry of a file as it is now."""
        return cls(path.stat().st_size, sha256_of_file(path))


@dataclass(frozen=True)
class SplitCount:
    """How much text a split holds: documents, and their UTF-8 bytes."""

    documents: int
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """What a dataset was made from and what it holds.

    Attributes:
      corpus: what to give to --corpus.
      source: what the corpus says of itself, for people.
      source_state: changes when the corpus does; see `Corpus.state`.
      settings: all that decides how text becomes rows, by name.
      libraries: versions of the libraries that made it, for people.
      splits: documents and bytes of each split.
      skipped: documents left out, by reason.
      skipped_examples: where the first of them were, by reason.
      rows: number of rows of each split, by the name of their file.
      files: every file but the manifest itself, by name relative to the folder.
    """

    corpus: str
    source: dict[str, str]
    source_state: str
    settings: dict[str, int | float | str | bool | None]
    libraries: dict[str, str]
    splits: dict[str, SplitCount]
    skipped: dict[str, int]
    skipped_examples: dict[str, list[str]] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    files: dict[str, FileEntry] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> "Manifest | None":
        """The manifest of a folder; None if it has none.

        Raises:
          DatasetError: there is one, but it cannot be read.
        """
        path = folder / MANIFEST
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            value["splits"] = {name: SplitCount(**count) for name, count in value["splits"].items()}
            value["files"] = {name: FileEntry(**entry) for name, entry in value["files"].items()}
            return cls(**value)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError(
                f"cannot read {path} ({error}): remove the folder and run `autoresearch prepare` again"
            ) from error

    def save(self, folder: Path) -> None:
        """Writes the manifest in one step; the last thing that happens to a dataset."""
        write_json(folder / MANIFEST, asdict(self))

    def with_files(self, folder: Path, names: Iterable[str], rows: dict[str, int]) -> "Manifest":
        """This manifest with further files of the folder and the row counts among them."""
        entries = {name: FileEntry.of(folder / name) for name in names}
        return replace(self, files={**self.files, **entries}, rows={**self.rows, **rows})

    def vocab_sizes(self, sequence_length: int) -> tuple[int, ...]:
        """Vocabulary sizes that are there in full for a sequence length, smallest first."""
        sizes = sorted(int(Path(name).stem) for name in self.files if name.startswith("tokenizers/"))
        return tuple(size for size in sizes if self.files.keys() >= set(files_for(size, sequence_length)))

    def damaged(self, folder: Path, names: Iterable[str]) -> list[str]:
        """Those of the named files that are missing or have another size than they were written with."""
        return [name for name in names if not _has_size(folder / name, self.files[name].size)]

    def fingerprint(self, sequence_length: int, vocab_sizes: Iterable[int]) -> str:
        """SHA-256 over all of the dataset that a score can depend on: text, length, vocabularies, rows.

        Vocabularies that are not asked for do not change it, so adding one later is safe.
        """
        offered = [
            {
                "vocab_size": size,
                **{name: self.files[name].sha256 for name in files_for(size, sequence_length)},
            }
            for size in sorted(vocab_sizes)
        ]
        text = {split: self.files[text_file(split)].sha256 for split in SPLITS}
        return sha256_of_json({"text": text, "sequence_length": sequence_length, "vocabularies": offered})


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False
