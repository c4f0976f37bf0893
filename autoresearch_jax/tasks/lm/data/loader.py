"""Endless, shuffled, prefetched batches of training tokens from packed rows, under the token ids of one trial."""

from collections.abc import Iterator
from itertools import chain
from typing import Self

import grain
import numpy as np

from autoresearch_jax.errors import UserError

# One thread gathers more rows a second than a step takes, and leaves the cores to the training itself.
_EPOCHS = 10**9  # without end; Grain's own "for ever" is too long for batches of one row
_PREFETCH = grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)


class BatchShapeError(UserError):
    """A batch shape that the rows cannot give."""


class TokenLoader(Iterator[np.ndarray]):
    """Endless batches, int32[rows, context + 1]; each epoch gives every row once, in another order.

    Tokens have the ids of the trial. A row of T + 1 tokens gives T / context sub-rows: the last target of one is the
    first input of the next. The constructor waits for the first batch. Not thread-safe.
    """

    def __init__(self, rows: np.ndarray, batch_shape: tuple[int, int], seed: int, token_ids_V: np.ndarray) -> None:
        """Starts to read integers[N, T + 1] in an order that follows from the seed, any integer from 0.

        `token_ids_V` are the trial's, see `Tokenizer.draw_ids`. Raises BatchShapeError if the context does not divide
        T, or the rows do not fill one batch.
        """
        batch_rows, context = batch_shape[0], batch_shape[1] - 1
        length = rows.shape[1] - 1
        if batch_rows < 1 or context < 1 or length % context:
            raise BatchShapeError(
                f"batch shape {tuple(batch_shape)}: it must be (rows, context + 1) with a context that "
                f"divides the sequence length {length}"
            )
        self._rows = rows.view(np.ndarray)  # indexing a np.memmap costs twice as much as the array under it
        self._token_ids_V = token_ids_V.astype(np.int32)
        self._per_row = length // context
        self._offsets = np.arange(context + 1)
        self._context = context
        if len(rows) * self._per_row < batch_rows:
            raise BatchShapeError(
                f"a batch of {batch_rows} rows with context {context} needs more than the "
                f"{len(rows) * self._per_row} rows there are: use a smaller batch or prepare more text"
            )
        # Grain gives epoch e of seed s the order of epoch 0 of seed s + e: hash the seed
        order_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        batches = (
            grain.MapDataset.range(len(rows) * self._per_row)
            .shuffle(seed=order_seed)
            .repeat(_EPOCHS)
            .batch(batch_rows)
            .map(self._gather)
        )
        self._batches = iter(batches.to_iter_dataset(_PREFETCH))
        self._ready = chain([next(self._batches)], self._batches)

    def __next__(self) -> np.ndarray:
        """The next batch, int32[rows, context + 1]."""
        return next(self._ready)

    def close(self) -> None:
        """Ends the prefetching thread."""
        self._batches.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _gather(self, indices: np.ndarray) -> np.ndarray:
        if self._per_row == 1:
            return self._token_ids_V[self._rows[indices]]
        row, part = np.divmod(indices, self._per_row)
        columns = part[:, None] * self._context + self._offsets
        return self._token_ids_V[self._rows[row[:, None], columns]]
