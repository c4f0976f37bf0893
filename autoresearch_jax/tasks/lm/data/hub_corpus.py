"""Corpora that are fetched from the Hugging Face hub: those of the original, and one for small models."""

from dataclasses import dataclass

from autoresearch_jax.errors import UsageError
from autoresearch_jax.files import sha256_of_json
from autoresearch_jax.tasks.lm.data.reporter import Reporter
from autoresearch_jax.tasks.lm.data.rules import ORIGINAL, STANDARD, Rules
from autoresearch_jax.tasks.lm.data.text_files import TextFile, TextFiles

CLIMBMIX = "climbmix"
TINYSTORIES = "tinystories"

# On its page: about 0.1 GB a shard, 60 million tokens
_CLIMBMIX_REPOSITORY = "karpathy/climbmix-400b-shuffle"
_VAL_SHARD = 6542  # pinned by the original
_HOLDOUT_SHARD = 6541  # the original trains on it, but only if all shards are there
_DEFAULT_SHARDS = 10  # the original's

# On its page: 0.7 GB, 2.7 million stories of some 700 characters
_TINYSTORIES_REPOSITORY = "karpathy/tinystories-gpt4-clean"
_TINYSTORIES_FILE = "tinystories_gpt4_clean.parquet"


@dataclass(frozen=True)
class HubCorpus:
    """Parquet files of one dataset on the hub. The members are those of `Corpus`.

    A dataset stays with the commit that it was made from, which its manifest names.

    Attributes:
      spec, name, rules: see `Corpus`.
      repository: "owner/name" of a dataset.
      files: names in the repository, and the split of each, or None where the text's hash decides; val and holdout
        come before train, so that it can leave out what they have.
    """

    spec: str
    name: str
    rules: Rules
    repository: str
    files: tuple[tuple[str, str | None], ...]

    def state(self) -> str:
        return sha256_of_json([self.repository, self.files])

    def fetch(self, reporter: Reporter) -> TextFiles:
        from autoresearch_jax.tasks.lm.data.hub import fetch_files

        fetched = fetch_files(self.repository, [name for name, _ in self.files], reporter)
        description = {"repository": self.repository, "commit": fetched.commit}
        return TextFiles(tuple(TextFile(fetched.paths[name], split) for name, split in self.files), description)


def climbmix(spec: str) -> HubCorpus:
    """The original's corpus, by its rules: "climbmix", or "climbmix:N" with N shards of train.

    Raises:
      UsageError: N is no number of shards.
    """
    _, _, number = spec.partition(":")
    try:
        num_shards = int(number) if ":" in spec else _DEFAULT_SHARDS
    except ValueError:
        num_shards = 0
    if not 1 <= num_shards <= _HOLDOUT_SHARD:
        raise UsageError(f"--corpus={spec}: the number of shards must be from 1 to {_HOLDOUT_SHARD}")
    shards: list[tuple[int, str]] = [(_VAL_SHARD, "val"), (_HOLDOUT_SHARD, "holdout")]
    shards += [(number, "train") for number in range(num_shards)]
    files = tuple((f"shard_{number:05d}.parquet", split) for number, split in shards)
    return HubCorpus(f"{CLIMBMIX}:{num_shards}", f"{CLIMBMIX}-{num_shards}", ORIGINAL, _CLIMBMIX_REPOSITORY, files)


def tinystories() -> HubCorpus:
    """Short stories in simple words, on which a model of a few million parameters already writes sense."""
    return HubCorpus(TINYSTORIES, TINYSTORIES, STANDARD, _TINYSTORIES_REPOSITORY, ((_TINYSTORIES_FILE, None),))
