"""Rows are full, nothing is lost, and the original's rule gives what a person works out by hand."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch_jax.tasks.lm.data.packing import pack_rows, row_dtype, write_rows
from autoresearch_jax.tasks.lm.data.tokenizer import TextRules

BOS = 9


def documents_of(lengths: list[int]) -> list[np.ndarray]:
    """Documents whose tokens (BOS aside) differ from all others, so that pieces can be recognised."""
    starts = 1000 * np.arange(1, len(lengths) + 1)
    return [np.array([BOS, *range(start, start + n - 1)]) for start, n in zip(starts, lengths, strict=True)]


def test_remainder_is_put_back_without_bos() -> None:
    (a,) = documents_of([9])
    rows = list(pack_rows([a], 4))
    assert [row.tolist() for row in rows] == [a[:4].tolist(), a[4:8].tolist()]  # the ninth cannot fill a row


def test_longest_that_fits_is_taken_from_the_buffer_only() -> None:
    a, b, c = documents_of([2, 3, 4])
    # With a buffer of one there is no choice: documents follow each other.
    rows = list(pack_rows([a, b, c], 3, TextRules(buffer_documents=1)))
    assert np.concatenate(rows).tolist() == [*a, *b, *c]
    # With all in the buffer, b fills a row by itself; a and the head of c share the next.
    rows = list(pack_rows([a, b, c], 3, TextRules(buffer_documents=3)))
    assert [row.tolist() for row in rows] == [b.tolist(), [*a, c[0]], c[1:].tolist()]


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), max_size=60),
    row_tokens=st.integers(2, 17),
    buffer_documents=st.integers(1, 10),
)
def test_every_token_is_in_one_row_or_in_what_could_not_fill_one(
    lengths: list[int], row_tokens: int, buffer_documents: int
) -> None:
    documents = documents_of(lengths)
    rows = list(pack_rows(iter(documents), row_tokens, TextRules(buffer_documents=buffer_documents)))
    assert all(len(row) == row_tokens for row in rows)
    packed = np.concatenate([*rows, np.array([], int)])
    assert 0 <= sum(lengths) - len(packed) < row_tokens
    # Each document is there from its first word on, in its own order, once; only the end may be missing.
    for document in documents:
        words = packed[np.isin(packed, document[1:])]
        assert words.tolist() == document[1 : 1 + len(words)].tolist()
    assert (packed == BOS).sum() <= len(documents)


@pytest.mark.parametrize(("vocab_size", "dtype"), [(256, np.uint16), (65536, np.uint16), (65537, np.int32)])
def test_file_holds_the_rows_and_their_counts(
    tmp_path: Path, vocab_size: int, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoresearch_jax.tasks.lm.data.packing._WRITE_BYTES", 1)  # so that there are several blocks
    rows = [np.full(5, vocab_size - 1), np.array([0, 1, 2, 1, 0])]
    num_rows, counts = write_rows(tmp_path / "rows.npy", rows, 5, vocab_size)
    stored = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert stored.dtype == dtype == row_dtype(vocab_size)
    assert num_rows == 2
    assert stored.tolist() == [row.tolist() for row in rows]
    assert counts.dtype == np.int64
    assert counts.sum() == 10
    assert counts[[0, 1, 2, vocab_size - 1]].tolist() == [2, 2, 1, 5]
