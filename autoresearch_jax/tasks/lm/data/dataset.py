"""A dataset folder and its manifest, which is written last, so that a folder with one is whole."""

import json
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from autoresearch_jax.errors import UserError
from autoresearch_jax.files import sha256_of_file, sha256_of_json, write_json
from autoresearch_jax.tasks.lm.data.corpus import STDLIB, open_corpus
from autoresearch_jax.tasks.lm.data.tokenizer import Tokenizer
from autoresearch_jax.types import TermsChanged

SPLITS = ("train", "val", "holdout")
MANIFEST = "manifest.json"


class DatasetError(UserError):
    """A dataset is missing, incomplete or damaged; the message gives the command that mends it."""


class DatasetChangedError(DatasetError, TermsChanged):
    """A dataset was made anew or removed while it was in use."""


def text_file(split: str) -> str:
    """Name of the file of a split's documents, relative to the dataset's folder, as are the names below."""
    return f"text/{split}.jsonl"


def tokenizer_file(vocab_size: int) -> str:
    """A vocabulary."""
    return f"tokenizers/{vocab_size}.json"


def rows_file(vocab_size: int, sequence_length: int, split: str) -> str:
    """The packed rows of a split."""
    return f"rows/{vocab_size}x{sequence_length}/{split}.npy"


def counts_file(vocab_size: int, sequence_length: int) -> str:
    """Token counts of the train rows."""
    return f"rows/{vocab_size}x{sequence_length}/train_counts.npy"


def files_for(vocab_size: int, sequence_length: int) -> list[str]:
    """All files of one vocabulary at one sequence length."""
    rows = [rows_file(vocab_size, sequence_length, split) for split in SPLITS]
    return [tokenizer_file(vocab_size), *rows, counts_file(vocab_size, sequence_length)]


def covered_files(vocab_sizes: Iterable[int], sequence_length: int) -> list[str]:
    """All files that a fingerprint covers."""
    made = [name for size in vocab_sizes for name in files_for(size, sequence_length)]
    return [text_file(split) for split in SPLITS] + made


def is_read_by_judge(name: str, split: str) -> bool:
    """Whether judging a split reads a file: its rows, the vocabularies, the counts of the train rows."""
    return name.startswith("tokenizers/") or Path(name).name in (f"{split}.npy", "train_counts.npy")


@dataclass(frozen=True)
class FileEntry:
    """A file as it was written: size in bytes, SHA-256 in hexadecimal."""

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
    """What a dataset was made from and what it holds."""

    corpus: str  # the value of --corpus
    source: dict[str, str]  # the corpus's description, for people
    source_state: str  # see `Corpus.state`
    settings: dict[str, int | float | str | bool | None]  # all that decides how text becomes rows
    libraries: dict[str, str]  # versions, for people
    splits: dict[str, SplitCount]
    skipped: dict[str, int]  # documents left out, by reason
    skipped_examples: dict[str, list[str]] = field(default_factory=dict)  # where the first of them were
    rows: dict[str, int] = field(default_factory=dict)  # number of rows, by file name
    files: dict[str, FileEntry] = field(default_factory=dict)  # all but the manifest, by relative name

    @classmethod
    def load(cls, folder: Path) -> "Manifest | None":
        """The manifest of a folder, None if it has none; raises DatasetError if it cannot be read."""
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
        """Writes the manifest, whole or not at all."""
        write_json(folder / MANIFEST, asdict(self))

    def with_files(self, folder: Path, names: Iterable[str], rows: dict[str, int]) -> "Manifest":
        """This manifest with further files of the folder and the row counts among them."""
        entries = {name: FileEntry.of(folder / name) for name in names}
        return replace(self, files={**self.files, **entries}, rows={**self.rows, **rows})

    def without_files(self, names: Iterable[str]) -> "Manifest":
        """This manifest without some of its files."""
        gone = set(names)
        return replace(
            self,
            files={name: entry for name, entry in self.files.items() if name not in gone},
            rows={name: count for name, count in self.rows.items() if name not in gone},
        )

    def vocab_sizes(self, sequence_length: int) -> tuple[int, ...]:
        """Vocabulary sizes whose files are complete for a sequence length, smallest first."""
        sizes = sorted(int(Path(name).stem) for name in self.files if name.startswith("tokenizers/"))
        return tuple(size for size in sizes if self.files.keys() >= set(files_for(size, sequence_length)))

    def lacks(self, sequence_length: int, vocab_sizes: Iterable[int]) -> list[int]:
        """Those of the vocabulary sizes whose files are not complete for a sequence length."""
        there = self.vocab_sizes(sequence_length)
        return [size for size in vocab_sizes if size not in there]

    def damaged(self, folder: Path, names: Iterable[str]) -> list[str]:
        """Those of the named files that are missing or have another size than they were written with."""

        def has_size(name: str) -> bool:
            try:
                return (folder / name).stat().st_size == self.files[name].size
            except OSError:
                return False

        return [name for name in names if not has_size(name)]

    def fingerprint(self, sequence_length: int, vocab_sizes: Iterable[int]) -> str:
        """SHA-256 over all that a score can depend on: text, length, the vocabularies asked for and their rows."""
        offered = [
            {"vocab_size": size, **{name: self.files[name].sha256 for name in files_for(size, sequence_length)}}
            for size in sorted(vocab_sizes)
        ]
        text = {split: self.files[text_file(split)].sha256 for split in SPLITS}
        return sha256_of_json({"text": text, "sequence_length": sequence_length, "vocabularies": offered})


@dataclass(frozen=True)
class Dataset:
    """What the trainer and the judge read. Made by `open`."""

    folder: Path
    sequence_length: int  # T; a row holds T + 1 tokens
    vocab_sizes: tuple[int, ...]  # on offer, smallest first
    fingerprint: str  # see `Manifest.fingerprint`; scores with different ones are never compared
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
        """Opens a dataset; checks that its files have the sizes they were written with.

        Args:
          folder: from `dataset_folder`.
          sequence_length: T.
          vocab_sizes: what to offer; None offers all that are there for T.
          only_split: require only what judging this split reads, which is all that an eval bundle has.
          corpus: for the message if there is no dataset.

        Raises:
          DatasetError: something is missing; the message gives the command that makes it.
        """
        manifest = Manifest.load(folder)
        command = prepare_command(folder, manifest.corpus if manifest else corpus, sequence_length, vocab_sizes)
        if manifest is None:
            raise DatasetError(f"no dataset in {folder}: run `{command}` first")
        there = manifest.vocab_sizes(sequence_length)
        offered = there if vocab_sizes is None else tuple(sorted(set(vocab_sizes)))
        if lacking := manifest.lacks(sequence_length, offered):
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
        return cls(folder, sequence_length, offered, manifest.fingerprint(sequence_length, offered), manifest)

    def rows(self, vocab_size: int, split: str) -> np.memmap:
        """Packed rows of a split, uint16 or int32[N, T + 1] with N > 0, memory-mapped and read-only.

        Raises:
          DatasetError: they cannot be read, or there are none.
        """
        path = self.folder / rows_file(vocab_size, self.sequence_length, split)
        try:
            rows: np.memmap = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            reason = next(iter(str(error).splitlines()), "")
            raise DatasetError(
                f"{path} cannot be read ({reason}): remove it and run `{self._prepare_command()}`"
            ) from error
        if not len(rows):
            raise DatasetError(f"{path} holds no row: remove it and run `{self._prepare_command()}`")
        return rows

    def train_counts(self, vocab_size: int) -> np.ndarray:
        """How often each token occurs in the train rows, int64[V]."""
        return np.load(self.folder / counts_file(vocab_size, self.sequence_length))

    def tokenizer_path(self, vocab_size: int) -> Path:
        """The file of a vocabulary."""
        return self.folder / tokenizer_file(vocab_size)

    def tokenizer(self, vocab_size: int) -> Tokenizer:
        """A vocabulary."""
        return Tokenizer.load(self.tokenizer_path(vocab_size))

    def require_unchanged(self) -> None:
        """Raises DatasetChangedError if the dataset was made anew or removed since it was opened; takes about 1 ms."""
        manifest = Manifest.load(self.folder)
        names = covered_files(self.vocab_sizes, self.sequence_length)
        if manifest is None or not manifest.files.keys() >= set(names):
            raise DatasetChangedError(
                f"the dataset {self.folder} was removed, in part or whole, while it was in use: "
                f"run `{self._prepare_command()}`"
            )
        if manifest.fingerprint(self.sequence_length, self.vocab_sizes) != self.fingerprint:
            raise DatasetChangedError(
                f"the dataset {self.folder} was made anew while it was in use, from another corpus or by other "
                "settings: scores before and after cannot be compared, so put back what it was made from and prepare "
                "it again, or choose another --tag"
            )

    def manifest_state(self) -> tuple[int, int]:
        """Inode and time of change of the manifest: another one once `prepare` has added to the folder."""
        stat = (self.folder / MANIFEST).stat()
        return stat.st_ino, stat.st_mtime_ns

    def verify(self) -> list[str]:
        """Names of the files whose SHA-256 is not the manifest's; reads all of them."""

        def is_whole(name: str, entry: FileEntry) -> bool:
            try:
                return sha256_of_file(self.folder / name) == entry.sha256
            except OSError:
                return False

        return [name for name, entry in self.manifest.files.items() if not is_whole(name, entry)]

    def _prepare_command(self) -> str:
        return prepare_command(self.folder, self.manifest.corpus, self.sequence_length, self.vocab_sizes)


def dataset_folder(data_dir: Path, corpus: str, name: str | None = None) -> Path:
    """Folder of a corpus's dataset below `data_dir`, named by the corpus unless a name is given."""
    return data_dir / (name or open_corpus(corpus).name)


def read_split(folder: Path, split: str) -> Iterator[str]:
    """The texts of a split, in the order they were written."""
    with (folder / text_file(split)).open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield json.loads(line)["text"]


def prepare_command(folder: Path, corpus: str | None, sequence_length: int, vocab_sizes: tuple[int, ...] | None) -> str:
    """The `autoresearch prepare` command line that makes what a dataset folder lacks; unknown values are None."""
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
