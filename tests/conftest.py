"""Fixtures for every test: a dataset small enough to make in a second, and real."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import Show, running_chromium, showing
from tiny_corpus import write_corpus

from autoresearch_jax.sandbox.sandbox import Sandbox, open_sandbox
from autoresearch_jax.tasks.lm.data.corpus import FILES, Reporter, open_corpus
from autoresearch_jax.tasks.lm.data.dataset import Dataset
from autoresearch_jax.tasks.lm.data.prepare import prepare_dataset

if TYPE_CHECKING:
    from playwright.sync_api import Browser

TINY_VOCAB_SIZES = (256, 320)
TINY_SEQUENCE_LENGTH = 32


class Notes(Reporter):
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.stages: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stage(self, what: str, total: int | None) -> None:
        self.stages.append(what)


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A value for --corpus: 300 short documents, which a model can learn from in a few steps."""
    path = tmp_path_factory.mktemp("corpus") / "tiny.jsonl"
    write_corpus(path)
    return FILES + str(path)


@pytest.fixture(scope="session")
def tiny_dataset(tiny_corpus: str, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The dataset of `tiny_corpus`, with T = 32 and vocabularies of 256 and 320; not to be written to.

    For a command: --corpus={tiny_dataset.manifest.corpus} --data_dir={tiny_dataset.folder.parent}
    --sequence_length=32 --vocab_sizes=256,320.
    """
    corpus = open_corpus(tiny_corpus)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{prepare_dataset.__module__}.readable_files", list)  # reading all packages takes seconds
        return prepare_dataset(
            tmp_path_factory.mktemp("data") / corpus.name,
            corpus,
            sequence_length=TINY_SEQUENCE_LENGTH,
            vocab_sizes=TINY_VOCAB_SIZES,
            reporter=Reporter(),
        )


@pytest.fixture(scope="session")
def sandbox_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the compiled standard library is kept while tests run."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def sandbox(sandbox_cache: Path) -> Sandbox:
    """The best sandbox that works on this machine."""
    return open_sandbox("auto", cache_dir=sandbox_cache, environment=os.environ)


@pytest.fixture
def reporter() -> Notes:
    return Notes()


@pytest.fixture(scope="session")
def tiny_source() -> str:
    """Text of a training file that compiles in a second; it wants a vocabulary of 256."""
    return (Path(__file__).parent / "tiny_train_lib.py").read_text()


@pytest.fixture(scope="module")
def chromium() -> "Iterator[Browser]":
    """A browser for a file of tests: as long as one runs, nothing in this thread can use asyncio."""
    with running_chromium() as browser:
        yield browser


@pytest.fixture
def show(chromium: "Browser") -> Iterator[Show]:
    """Opens pages."""
    with showing(chromium) as show:
        yield show
