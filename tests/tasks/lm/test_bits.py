"""Bits per byte, by hand."""

import math

import numpy as np
import pytest

from autoresearch_jax.tasks.lm.bits import EmptySplitError, bits_per_byte, unigram_nats


def test_special_tokens_count_on_neither_side() -> None:
    nats = np.array([[1.0, 2.0], [99.0, 3.0]], np.float32)
    num_bytes = np.array([[1, 2], [0, 1]])
    assert bits_per_byte(nats, num_bytes) == pytest.approx((1 + 2 + 3) / (4 * math.log(2)))


def test_even_bytes_cost_eight_bits() -> None:
    assert bits_per_byte(np.full((3, 5), math.log(256)), np.ones((3, 5), int)) == pytest.approx(8.0)


def test_no_text_is_an_error() -> None:
    with pytest.raises(EmptySplitError, match="autoresearch prepare"):
        bits_per_byte(np.ones((1, 2)), np.zeros((1, 2), int))


def test_unigram_is_add_one_smoothed() -> None:
    np.testing.assert_allclose(np.exp(-unigram_nats(np.array([3, 0, 5]))), [4 / 11, 1 / 11, 6 / 11])
