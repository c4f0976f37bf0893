"""Where text comes from: a corpus finds or fetches its files, and says when they have changed.

A further corpus is a class with the members of `Corpus` and a branch in `open_corpus`.
"""

from typing import Protocol

from autoresearch_jax.errors import UsageError
from autoresearch_jax.tasks.lm.data.hub_corpus import CLIMBMIX, TINYSTORIES, climbmix, tinystories
from autoresearch_jax.tasks.lm.data.local_corpus import FILES, STDLIB, stdlib, user_files
from autoresearch_jax.tasks.lm.data.reporter import Reporter
from autoresearch_jax.tasks.lm.data.rules import Rules
from autoresearch_jax.tasks.lm.data.text_files import TextFiles


class Corpus(Protocol):
    """A source of documents."""

    @property
    def spec(self) -> str:
        """What --corpus must be to get this corpus from any working directory."""
        ...

    @property
    def name(self) -> str:
        """Name of the folder for the dataset made from it."""
        ...

    @property
    def rules(self) -> Rules:
        """How its documents become rows."""
        ...

    def state(self) -> str:
        """A hash that changes when the documents may have changed; takes milliseconds.

        Raises:
          CorpusError: the source is missing or cannot be read.
        """
        ...

    def fetch(self, reporter: Reporter) -> TextFiles:
        """The files that hold the documents; those that are not on this machine yet are brought here first.

        Raises:
          CorpusError: they cannot be had.
        """
        ...


def open_corpus(spec: str) -> Corpus:
    """The corpus that --corpus names; reads nothing yet.

    Raises:
      UsageError: there is no such corpus.
    """
    if spec == STDLIB:
        return stdlib()
    if spec == TINYSTORIES:
        return tinystories()
    if spec == CLIMBMIX or spec.startswith(f"{CLIMBMIX}:"):
        return climbmix(spec)
    if spec.startswith(FILES) and len(spec) > len(FILES):
        return user_files(spec.removeprefix(FILES))
    raise UsageError(
        f"--corpus={spec}: there is no such corpus; use `{STDLIB}`, `{CLIMBMIX}`, `{TINYSTORIES}`, "
        f"or `{FILES}GLOB` for your own files"
    )


def with_num_shards(spec: str, num_shards: int | None) -> str:
    """--corpus with what --num_shards says, which wins over what --corpus has behind a colon.

    Raises:
      UsageError: the corpus has no shards to choose from.
    """
    if num_shards is None:
        return spec
    if spec.partition(":")[0] != CLIMBMIX:
        raise UsageError(f"--num_shards={num_shards}: only --corpus={CLIMBMIX} has shards to choose from")
    return f"{CLIMBMIX}:{num_shards}"
