"""The flags that name a dataset, shared by every command that makes or reads one."""

from dataclasses import dataclass
from pathlib import Path

from absl import flags

from autoresearch_jax.errors import UsageError
from autoresearch_jax.tasks.lm.data.corpus import with_num_shards
from autoresearch_jax.tasks.lm.data.dataset import dataset_folder
from autoresearch_jax.tasks.lm.data.tokenizer import VocabularyError, check_vocab_size

DEFAULT_DATA_DIR = "~/.cache/autoresearch_jax/data"


@dataclass(frozen=True)
class DatasetOptions:
    """Which dataset, and which part of it.

    Attributes:
      corpus: where the text comes from.
      folder: of the dataset.
      sequence_length: T.
      vocab_sizes: vocabulary sizes, smallest first.
    """

    corpus: str
    folder: Path
    sequence_length: int
    vocab_sizes: tuple[int, ...]


def define_dataset_flags(flag_values: flags.FlagValues) -> None:
    """Defines --corpus, --num_shards, --name, --data_dir, --sequence_length and --vocab_sizes."""
    flags.DEFINE_string(
        "corpus",
        "stdlib",
        "where the text comes from: stdlib (the .py files of Python's own library), climbmix (the original's), "
        "tinystories, or files:GLOB (your own .txt, .jsonl with a `text` field, both also .gz or .zst, or .parquet "
        "with a `text` column)",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "num_shards",
        None,
        "shards of train that climbmix has, of 0.1 GB each, besides val and holdout; default: 10",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_string("name", None, "name of the dataset; default: made from the corpus", flag_values=flag_values)
    flags.DEFINE_string("data_dir", DEFAULT_DATA_DIR, "folder of all datasets", flag_values=flag_values)
    flags.DEFINE_integer("sequence_length", 256, "tokens of context", lower_bound=1, flag_values=flag_values)
    flags.DEFINE_list(
        "vocab_sizes",
        ["1024", "2048", "4096"],
        "vocabulary sizes to offer, by commas",
        flag_values=flag_values,
    )


def dataset_options(flag_values: flags.FlagValues) -> DatasetOptions:
    """The flags' values, checked.

    Raises:
      UsageError: a value that cannot be; the message names the flag.
    """
    name = flag_values.name
    if name is not None and (name != Path(name).name or name.startswith(".")):
        raise UsageError(f"--name={name}: it must be a plain folder name that does not begin with a dot")
    corpus = with_num_shards(flag_values.corpus, flag_values.num_shards)
    data_dir = Path(flag_values.data_dir).expanduser().absolute()
    return DatasetOptions(
        corpus=corpus,
        folder=dataset_folder(data_dir, corpus, name),
        sequence_length=flag_values.sequence_length,
        vocab_sizes=_vocab_sizes(flag_values.vocab_sizes),
    )


def _vocab_sizes(words: list[str]) -> tuple[int, ...]:
    try:
        sizes = tuple(sorted({int(word) for word in words}))
        for size in sizes:
            check_vocab_size(size)
    except (ValueError, VocabularyError) as error:
        raise UsageError(f"--vocab_sizes={','.join(words)}: {error}") from error
    if not sizes:
        raise UsageError("--vocab_sizes: name at least one")
    return sizes
