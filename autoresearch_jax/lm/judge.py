"""The judge: bits per byte of a trained candidate on one split, and probes that its score is an honest one.

It has the `logits` program, the arrays it reads and the rows of the split; the normalisation, the sum and the byte
counts are its own.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from autoresearch_jax.lm.bits import bits_per_byte
from autoresearch_jax.lm.programs import Programs

# A batch is judged twice with the same program, so an honest candidate gives the same numbers up to the order in
# which a device adds. In units of the compared quantity: nats for a likelihood.
PROBE_TOLERANCE = 1e-3


class InvalidCandidateError(Exception):
    """A probe failed; one line with the reason and the offending number."""


@dataclass(frozen=True)
class Verdict:
    """What the judge found.

    Attributes:
      bpb: bits per raw byte.
      bpb_original: with the byte counts of the original autoresearch, for comparing with published numbers.
      unigram_bpb: of a unigram model over the same tokens.
      num_tokens: target tokens that stand for bytes.
      batch_rows: rows of the batches it judged with.
      seconds: judging, compilation apart.
      probe_seconds: of these, for the probes.
    """

    bpb: float
    bpb_original: float
    unigram_bpb: float
    num_tokens: int
    batch_rows: int
    seconds: float
    probe_seconds: float


class Scorer:
    """The `logits` program for one batch size, compiled together with the judge's own normalisation."""

    def __init__(self, programs: Programs, mesh: Mesh, batch_rows: int) -> None:
        exported = programs.logits[batch_rows]
        self.batch_rows = batch_rows
        self._by_rows = NamedSharding(mesh, PartitionSpec("data"))

        def score(read_leaves: list[jax.Array], tokens_BxT1: jax.Array, probe_V: jax.Array) -> Any:
            logits_BxTxV = exported.call(read_leaves, tokens_BxT1[:, :-1]).astype(jnp.float32)
            log_total_BxT = jax.nn.logsumexp(logits_BxTxV, axis=-1)
            target_BxT = jnp.take_along_axis(logits_BxTxV, tokens_BxT1[:, 1:, None], axis=-1)[..., 0]
            # one number that hangs on the whole distribution, for the probes to compare
            projection_BxT = logits_BxTxV @ probe_V - log_total_BxT * probe_V.sum()
            return log_total_BxT - target_BxT, projection_BxT

        leaf_structs = [
            jax.ShapeDtypeStruct(programs.init.out_avals[i].shape, programs.init.out_avals[i].dtype)
            for i in programs.read_leaves
        ]
        leaf_shardings = [programs.init.out_shardings_jax(mesh)[i] for i in programs.read_leaves]
        tokens = jax.ShapeDtypeStruct((batch_rows, programs.sequence_length + 1), jnp.int32)
        probe = jax.ShapeDtypeStruct((programs.vocab_size,), jnp.float32)
        replicated = NamedSharding(mesh, PartitionSpec())
        jitted = jax.jit(score, in_shardings=(leaf_shardings, self._by_rows, replicated), out_shardings=self._by_rows)
        self._compiled = jitted.lower(leaf_structs, tokens, probe).compile()

    def __call__(
        self, read_leaves: Sequence[jax.Array], tokens_BxT1: np.ndarray, probe_V: np.ndarray
    ) -> tuple[jax.Array, jax.Array]:
        """Nats of each target token, and the probe's projection of each position's distribution; float32[B, T]."""
        tokens = jax.device_put(tokens_BxT1.astype(np.int32), self._by_rows)
        return self._compiled(list(read_leaves), tokens, probe_V)


@dataclass(frozen=True)
class Exam:
    """What is asked: rows and the facts about their tokens.

    Attributes:
      rows_NxT1: token ids, one more than the context a row.
      num_bytes_V: raw bytes of each token, 0 for special ones.
      num_bytes_original_V: the same by the original's count.
      unigram_nats_V: nats of each token under the unigram model.
    """

    rows_NxT1: np.ndarray
    num_bytes_V: np.ndarray
    num_bytes_original_V: np.ndarray
    unigram_nats_V: np.ndarray


def judge(
    scorer: Scorer,
    read_leaves: Sequence[jax.Array],
    exam: Exam,
    *,
    random: np.random.Generator,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Verdict:
    """Scores every row and probes the candidate.

    Args:
      scorer: for the batch size to judge with.
      read_leaves: the arrays that `logits` reads.
      exam: the split.
      random: where the probes' positions come from; the candidate must not be able to know it.
      on_progress: told the share of rows that is done.

    Raises:
      InvalidCandidateError: a probe failed.
    """
    start = time.monotonic()
    num_rows, row_length = exam.rows_NxT1.shape
    probe_V = random.standard_normal(len(exam.num_bytes_V)).astype(np.float32) / np.sqrt(len(exam.num_bytes_V))
    nats_NxT = np.empty((num_rows, row_length - 1), np.float32)
    pending: tuple[int, jax.Array] | None = None  # the device works on one batch while the host reads the next
    for first in range(0, num_rows, scorer.batch_rows):
        nats_BxT, _ = scorer(read_leaves, _batch(exam.rows_NxT1, first, scorer.batch_rows), probe_V)
        if pending is not None:
            _store(nats_NxT, *pending)
        pending = (first, nats_BxT)
        on_progress(first / num_rows)
    if pending is not None:
        _store(nats_NxT, *pending)

    targets_NxT = np.asarray(exam.rows_NxT1[:, 1:])
    num_bytes_NxT = exam.num_bytes_V[targets_NxT]
    if not np.isfinite(nats_NxT).all():
        bad = int((~np.isfinite(nats_NxT)).sum())
        raise InvalidCandidateError(f"logits are not finite: {bad} of {nats_NxT.size} tokens have no likelihood")
    before_probes = time.monotonic()
    _probe(scorer, read_leaves, exam.rows_NxT1, probe_V, random)
    end = time.monotonic()
    return Verdict(
        bpb=bits_per_byte(nats_NxT, num_bytes_NxT),
        bpb_original=bits_per_byte(nats_NxT, exam.num_bytes_original_V[targets_NxT]),
        unigram_bpb=bits_per_byte(exam.unigram_nats_V[targets_NxT], num_bytes_NxT),
        num_tokens=int((num_bytes_NxT > 0).sum()),
        batch_rows=scorer.batch_rows,
        seconds=end - start,
        probe_seconds=end - before_probes,
    )


def _batch(rows_NxT1: np.ndarray, first: int, batch_rows: int) -> np.ndarray:
    """Rows from `first` on, the last batch filled up with its own rows again."""
    indices = np.arange(first, first + batch_rows)
    last = min(first + batch_rows, len(rows_NxT1))
    return np.asarray(rows_NxT1[np.where(indices < last, indices, first + (indices - first) % (last - first))])


def _store(nats_NxT: np.ndarray, first: int, nats_BxT: jax.Array) -> None:
    rows = nats_NxT[first : first + nats_BxT.shape[0]]
    rows[:] = np.asarray(nats_BxT)[: len(rows)]


def _probe(
    scorer: Scorer,
    read_leaves: Sequence[jax.Array],
    rows_NxT1: np.ndarray,
    probe_V: np.ndarray,
    random: np.random.Generator,
) -> None:
    """Judges one batch of real rows again with other neighbours, then with other suffixes; nothing else may change."""
    rows = scorer.batch_rows
    chosen = np.asarray(rows_NxT1[random.integers(0, len(rows_NxT1), rows)])
    row_length = chosen.shape[1]
    # rotated, so that they differ from the chosen ones even where a small split gives the same rows again
    others = np.roll(rows_NxT1[random.integers(0, len(rows_NxT1), rows)], random.integers(1, row_length), axis=1)
    nats_BxT, projection_BxT = map(np.asarray, scorer(read_leaves, chosen, probe_V))

    # Neighbours first: a candidate that fails this one fails the other too, whatever its attention does.
    stays_B = random.permutation(rows) < rows // 2
    mixed = np.where(stays_B[:, None], chosen, others)
    nats_mixed_BxT, projection_mixed_BxT = map(np.asarray, scorer(read_leaves, mixed, probe_V))
    _compare(
        "rows of a batch are not independent: other rows change the prediction",
        np.abs(projection_mixed_BxT - projection_BxT)[stays_B],
        np.abs(nats_mixed_BxT - nats_BxT)[stays_B],
    )

    cut_B = random.integers(1, row_length - 1, rows)  # tokens from here on are replaced
    position_T1 = np.arange(row_length)
    swapped = np.where(position_T1 < cut_B[:, None], chosen, others)
    nats_swapped_BxT, projection_swapped_BxT = map(np.asarray, scorer(read_leaves, swapped, probe_V))
    # position i predicts token i + 1: the distribution before the cut, and the likelihood of targets before it
    same_context_BxT = position_T1[:-1] < cut_B[:, None]
    same_target_BxT = position_T1[1:] < cut_B[:, None]
    _compare(
        "not causal: later tokens change the prediction at earlier positions",
        np.abs(projection_swapped_BxT - projection_BxT)[same_context_BxT],
        np.abs(nats_swapped_BxT - nats_BxT)[same_target_BxT],
    )


def _compare(reason: str, *differences: np.ndarray) -> None:
    # NumPy's max, unlike Python's, hands a NaN on wherever it stands
    worst = float(np.concatenate([difference.ravel() for difference in differences]).max(initial=0.0))
    if not worst <= PROBE_TOLERANCE:  # and a NaN must not pass
        raise InvalidCandidateError(f"{reason} (by {worst:.3g} nats, tolerance {PROBE_TOLERANCE:g})")
