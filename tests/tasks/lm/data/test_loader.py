"""Batches: an order per seed and epoch, every row once an epoch, and nothing left running."""

import subprocess
import sys
import threading
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from autoresearch_jax.tasks.lm.data.dataset import Dataset
from autoresearch_jax.tasks.lm.data.loader import BatchShapeError, TokenLoader

NUM_ROWS, T = 60, 12
IDS = np.arange(NUM_ROWS * (T + 1))


@pytest.fixture
def rows(tmp_path: Path) -> np.ndarray:
    """Rows of which every token is different."""
    np.save(tmp_path / "rows.npy", np.arange(NUM_ROWS * (T + 1), dtype=np.uint16).reshape(NUM_ROWS, T + 1))
    return np.load(tmp_path / "rows.npy", mmap_mode="r")


def take(rows: np.ndarray, shape: tuple[int, int], seed: int, count: int) -> np.ndarray:
    with TokenLoader(rows, shape, seed, IDS) as loader:
        return np.concatenate(list(islice(loader, count)))


def test_batches_are_rows(rows: np.ndarray) -> None:
    with TokenLoader(rows, (8, T + 1), 0, IDS) as loader:
        batch = next(loader)
    assert type(batch) is np.ndarray
    assert batch.dtype == np.int32
    assert batch.shape == (8, T + 1)
    assert {tuple(row) for row in batch.tolist()} < {tuple(row) for row in rows.tolist()}


def test_tokens_have_the_ids_of_the_trial(rows: np.ndarray) -> None:
    ids = np.random.default_rng(0).permutation(len(IDS))
    for shape in ((NUM_ROWS, T + 1), (2 * NUM_ROWS, T // 2 + 1)):  # whole rows and parts of them
        with TokenLoader(rows, shape, 3, IDS) as loader, TokenLoader(rows, shape, 3, ids) as other:
            assert (ids[next(loader)] == next(other)).all()


def test_the_order_follows_from_the_seed(rows: np.ndarray) -> None:
    first = take(rows, (6, T + 1), 3, 25)
    assert (first == take(rows, (6, T + 1), 3, 25)).all()
    assert (first != take(rows, (6, T + 1), 4, 25)).any()


def test_each_epoch_gives_every_row_once_in_another_order(rows: np.ndarray) -> None:
    epochs = take(rows, (6, T + 1), 5, 30).reshape(3, NUM_ROWS, T + 1)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == rows.tolist()
    assert (epochs[0] != epochs[1]).any()
    assert (epochs[1] != epochs[2]).any()


def test_epochs_of_a_seed_are_not_those_of_its_neighbour(rows: np.ndarray) -> None:
    second_epoch = take(rows, (6, T + 1), 5, 20)[NUM_ROWS:]
    assert (second_epoch != take(rows, (6, T + 1), 6, 10)).any()


@pytest.mark.parametrize("context", [1, 4, 6])
def test_sub_rows_cover_a_row_and_share_one_token(rows: np.ndarray, context: int) -> None:
    per_row = T // context
    tokens = take(rows, (NUM_ROWS, context + 1), 2, per_row)
    expected = [row[i * context : (i + 1) * context + 1].tolist() for row in rows for i in range(per_row)]
    assert sorted(tokens.tolist()) == sorted(expected)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((8, 6), "divides the sequence length 12"),
        ((8, 1), "divides"),
        ((0, 13), "batch shape"),
        ((61, 13), "61 rows"),
        ((8, 25), "divides"),
    ],
)
def test_shapes_that_cannot_be(rows: np.ndarray, shape: tuple[int, int], message: str) -> None:
    with pytest.raises(BatchShapeError, match=message):
        TokenLoader(rows, shape, 0, IDS)


def test_close_ends_its_thread(rows: np.ndarray) -> None:
    before = set(threading.enumerate())
    loader = TokenLoader(rows, (8, 13), 0, IDS)
    started = set(threading.enumerate()) - before
    assert started
    loader.close()
    loader.close()
    for thread in started:
        thread.join(60)
        assert not thread.is_alive()


def test_a_process_that_forgets_to_close_still_exits(tiny_dataset: Dataset) -> None:
    script = (
        "import sys, numpy as np\n"
        "from autoresearch_jax.tasks.lm.data.loader import TokenLoader\n"
        f"rows = np.load({str(tiny_dataset.folder / 'rows/256x32/train.npy')!r}, mmap_mode='r')\n"
        "loader = TokenLoader(rows, (4, 33), 0, np.arange(256))\n"
        "print(next(loader).shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "(4, 33)"
