"""Options of the dataset: which one, which part of it, and where it and all other caches are."""

import os
from dataclasses import dataclass
from pathlib import Path

from autoresearch_jax.commands.options import InRun, option
from autoresearch_jax.commands.paths import default_cache_dir, home_folder
from autoresearch_jax.errors import UsageError
from autoresearch_jax.tasks.lm.data.corpus import with_num_shards
from autoresearch_jax.tasks.lm.data.dataset import Dataset, dataset_folder
from autoresearch_jax.tasks.lm.data.tokenizer import VocabularyError, check_vocab_size


@dataclass(frozen=True)
class DatasetOptions:
    """Which dataset, and which part of it."""

    corpus: str = option(
        "stdlib",
        "where the text comes from: stdlib (the .py files of Python's own library), climbmix (the original's), "
        "tinystories, or files:GLOB (your own .txt, .jsonl with a `text` field, both also .gz or .zst, or .parquet "
        "with a `text` column)",
        in_run=InRun.BOUND,
    )
    num_shards: int | None = option(
        None,
        "shards of train that climbmix has, of 0.1 GB each, besides val and holdout; default: 10",
        least=1,
        in_run=InRun.BOUND,
    )
    name: str | None = option(None, "name of the dataset; default: made from the corpus", in_run=InRun.BOUND)
    cache_dir: Path | None = option(
        None,
        "folder of all caches: datasets, compiled programs, Python as the sandbox shows it, downloads; default: "
        "autoresearch_jax in $XDG_CACHE_HOME, else in ~/.cache, else in the folder of temporary files",
        in_run=InRun.MACHINE,
    )
    data_dir: Path | None = option(None, "folder of all datasets; default: data in --cache_dir", in_run=InRun.MACHINE)
    sequence_length: int = option(256, "tokens of context", least=1, in_run=InRun.BOUND)
    vocab_sizes: tuple[int, ...] = option(
        (1024, 2048, 4096), "vocabulary sizes to offer, by commas", in_run=InRun.BOUND
    )

    def __post_init__(self) -> None:
        if self.name is not None and (self.name != Path(self.name).name or self.name.startswith(".")):
            raise UsageError(f"--name={self.name}: it must be a plain folder name that does not begin with a dot")
        object.__setattr__(self, "corpus", with_num_shards(self.corpus, self.num_shards))
        object.__setattr__(self, "vocab_sizes", tuple(sorted(set(self.vocab_sizes))))
        if not self.vocab_sizes:
            raise UsageError("--vocab_sizes: name at least one")
        for size in self.vocab_sizes:
            try:
                check_vocab_size(size)
            except VocabularyError as error:
                raise UsageError(f"--vocab_sizes={','.join(map(str, self.vocab_sizes))}: {error}") from error

    @property
    def caches(self) -> Path:
        """The folder of all caches.

        Raises:
          UsageError: it is not named, and there is no place for it.
        """
        return (self.cache_dir or default_cache_dir(os.environ)).absolute()

    @property
    def datasets(self) -> Path:
        """The folder of all datasets; raises as `caches` does."""
        return (self.data_dir or self.caches / "data").absolute()

    @property
    def downloads(self) -> Path | None:
        """Where files of the Hugging Face hub go; None for the place that `huggingface_hub` has for them."""
        if os.environ.get("HF_HOME") or os.environ.get("HF_HUB_CACHE"):
            return None
        return self.caches / "huggingface" if self.cache_dir is not None or home_folder() is None else None

    @property
    def folder(self) -> Path:
        """The folder of the dataset.

        Raises:
          UsageError: there is no such corpus, or no place for datasets.
        """
        return dataset_folder(self.datasets, self.corpus, self.name)

    def open(self) -> Dataset:
        """The dataset.

        Raises:
          DatasetError: it is not there, or not whole; the message has the command that makes it.
        """
        return Dataset.open(
            self.folder, sequence_length=self.sequence_length, vocab_sizes=self.vocab_sizes, corpus=self.corpus
        )
