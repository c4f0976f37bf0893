"""Fixtures for every test: a dataset small enough to make in a second, and real."""

import os
import signal
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
LONGEST = (
    *("test_redteam.py", "test_kill.py", "test_task.py", "test_trial.py", "test_train_lib_mesh.py", "test_hosts.py"),
)


def pytest_configure() -> None:
    """Has SIGINT end these processes: a shell ignores it for what it starts in the background, and tests send it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the files that take longest, else one process is left with one of them in the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


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
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this session of tests share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def sandbox_cache(shared_folder: Path) -> Path:
    """Where the compiled standard library is kept while tests run."""
    return shared_folder / "cache"


@pytest.fixture(scope="session")
def compile_cache(shared_folder: Path) -> Path:
    """XLA's compile cache of all trials: compiling takes a quarter of a tiny trial."""
    return shared_folder / "compiled"


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
def quick_to_compile() -> Iterator[None]:
    """Programs of this process are hardly optimized: for a module whose programs take longer to compile than to run."""
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


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
