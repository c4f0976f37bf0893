"""Bits per byte: of measured negative log-likelihoods, and of a unigram model to compare with."""

import math

import numpy as np

from autoresearch_jax.errors import UserError


class EmptySplitError(UserError):
    """The split holds no text to score."""


def bits_per_byte(nats_NxT: np.ndarray, num_bytes_NxT: np.ndarray) -> float:
    """Bits per byte over the tokens that stand for bytes.

    Args:
      nats_NxT: negative log-likelihood of each target token, in nats.
      num_bytes_NxT: bytes each target token stands for; 0 for special tokens, which count on neither side.

    Raises:
      EmptySplitError: no target token stands for a byte.
    """
    total_bytes = int(num_bytes_NxT.sum(dtype=np.int64))
    if total_bytes == 0:
        raise EmptySplitError("the split holds no text: run `autoresearch prepare` again")
    total_nats = float(np.where(num_bytes_NxT > 0, nats_NxT, 0.0).sum(dtype=np.float64))
    return total_nats / (math.log(2) * total_bytes)


def unigram_nats(train_counts_V: np.ndarray) -> np.ndarray:
    """Negative log-likelihood of each token under its frequency in the training rows, add-one smoothed.

    Args:
      train_counts_V: how often each token occurs in the training rows.

    Returns:
      float64[V], nats.
    """
    smoothed_V = train_counts_V.astype(np.float64) + 1.0
    return np.log(smoothed_V.sum()) - np.log(smoothed_V)
