"""The judge: bits per byte of a trained candidate on one split, with the probes of `probes.py`.

Of the candidate it runs the `logits` program; normalisation, sum and byte counts are the judge's own.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from autoresearch_jax.errors import UserError
from autoresearch_jax.tasks.lm.data.dataset import Dataset
from autoresearch_jax.tasks.lm.flops import memory_bytes
from autoresearch_jax.tasks.lm.leading import ALONE, SCORE, Lead
from autoresearch_jax.tasks.lm.probes import (
    NUM_PASSES,
    WHOLE_SHARE,
    CutWeights,
    InvalidCandidateError,
    Probe,
    check_probes,
    draw_pass,
    draw_quarters,
    draw_sample,
    plan_probes,
)
from autoresearch_jax.tasks.lm.programs import Programs
from autoresearch_jax.types import Scrutiny


class EmptySplitError(UserError):
    """The split holds no text to score."""


def bits_per_byte(nats_NxT: np.ndarray, num_bytes_NxT: np.ndarray) -> float:
    """Bits per byte of text; what predicts a special token, of 0 bytes, costs its nats too.

    Else it would pay to give the beginning of a document no probability.

    Raises:
      EmptySplitError: no target token stands for a byte.
    """
    total_bytes = int(num_bytes_NxT.sum(dtype=np.int64))
    if total_bytes == 0:
        raise EmptySplitError("the split holds no text: run `autoresearch prepare` again")
    return float(nats_NxT.sum(dtype=np.float64)) / (math.log(2) * total_bytes)


def bits_per_byte_original(nats_NxT: np.ndarray, num_bytes_NxT: np.ndarray) -> float:
    """The formula of the original autoresearch, where special tokens count on neither side."""
    return bits_per_byte(np.where(num_bytes_NxT > 0, nats_NxT, 0.0), num_bytes_NxT)


def unigram_nats(train_counts_V: np.ndarray) -> np.ndarray:
    """Nats of each token, float64[V], under its add-one smoothed frequency in the training rows."""
    smoothed_V = train_counts_V.astype(np.float64) + 1.0
    return np.log(smoothed_V.sum()) - np.log(smoothed_V)


@dataclass(frozen=True)
class EvalResult:
    """Scores of one split."""

    bpb: float  # bits per raw byte
    bpb_original: float  # by the formula and byte counts of the original, to compare with published numbers
    unigram_bpb: float  # of a unigram model over the same tokens
    num_tokens: int  # target tokens that stand for bytes
    batch_rows: int
    num_probes: int  # rows that were scored again, each time counted
    worst_probe: float  # the largest difference of a probe, in nats
    seconds: float  # compilation excluded
    probe_seconds: float  # of these, what the probes took
    nats_NxT: np.ndarray  # of each target token, float32


class Scorer:
    """The `logits` program for one batch size, and the judge's own, which makes likelihoods of the targets of logits.

    They are compiled apart: where the candidate's runs there are no targets, and nothing of the judge's arithmetic is
    put together with the candidate's, which could give the same logits another rounding.
    """

    def __init__(self, programs: Programs, mesh: Mesh, batch_rows: int, lead: Lead = ALONE) -> None:
        """Compiles it; `lead` has the other hosts of the mesh score each batch, too."""
        exported = programs.logits[batch_rows]
        self.batch_rows = batch_rows
        self.lead = lead
        self._by_rows = NamedSharding(mesh, PartitionSpec("data"))

        def score(logits_BxTxV: jax.Array, targets_BxT: jax.Array) -> jax.Array:
            floats_BxTxV = logits_BxTxV.astype(jnp.float32)
            # Their size must not matter: a large constant added to all would round the differences away
            shifted_BxTxV = floats_BxTxV - floats_BxTxV.max(axis=-1, keepdims=True)
            target_BxT = jnp.take_along_axis(shifted_BxTxV, targets_BxT[..., None], axis=-1)[..., 0]
            return jnp.log(jnp.exp(shifted_BxTxV).sum(axis=-1)) - target_BxT

        leaf_structs = [
            jax.ShapeDtypeStruct(programs.init.out_avals[i].shape, programs.init.out_avals[i].dtype)
            for i in programs.read_leaves
        ]
        leaf_shardings = [programs.init.out_shardings_jax(mesh)[i] for i in programs.read_leaves]
        (aval,) = exported.out_avals
        tokens = jax.ShapeDtypeStruct((batch_rows, programs.sequence_length), jnp.int32)
        logits = jax.ShapeDtypeStruct(aval.shape, aval.dtype)
        predict = jax.jit(exported.call, in_shardings=(leaf_shardings, self._by_rows), out_shardings=self._by_rows)
        # where a mesh has several hosts, this process reads what the devices of others have computed
        nats = self._by_rows if self._by_rows.is_fully_addressable else NamedSharding(mesh, PartitionSpec())
        score_jit = jax.jit(score, in_shardings=(self._by_rows, self._by_rows), out_shardings=nats)
        self._predict = predict.lower(leaf_structs, tokens).compile()
        self._score = score_jit.lower(logits, tokens).compile()
        self.memory_bytes = _sum(memory_bytes(self._predict), memory_bytes(self._score))

    def __call__(self, read_leaves: Sequence[jax.Array], inputs_BxT: np.ndarray, targets_BxT: np.ndarray) -> jax.Array:
        """Nats of each target token given the inputs up to its place, float32[B, T]."""
        inputs, targets = (self.lead.put(self._by_rows, x.astype(np.int32)) for x in (inputs_BxT, targets_BxT))
        self.lead.announce(SCORE, batch_rows=self.batch_rows)
        return self.score(read_leaves, inputs, targets)

    def score(self, read_leaves: Sequence[jax.Array], inputs_BxT: jax.Array, targets_BxT: jax.Array) -> jax.Array:
        """The same of tokens that are on the devices."""
        return self._score(self._predict(list(read_leaves), inputs_BxT), targets_BxT)


def _sum(*sizes: int | None) -> int | None:
    """None if one is not known."""
    return None if None in sizes else sum(filter(None, sizes))


@dataclass(frozen=True)
class EvalSet:
    """Rows to be scored, and facts about tokens, by the ids that the candidate knows them by."""

    rows_NxT1: np.ndarray  # token ids
    num_bytes_V: np.ndarray  # raw bytes of each token, 0 for special ones
    num_bytes_original_V: np.ndarray  # the same by the original's count
    unigram_nats_V: np.ndarray  # under the unigram model


def load_eval_set(dataset: Dataset, vocab_size: int, split: str, judge_tokens: int | None, seed: int) -> EvalSet:
    """The first rows of a split, about `judge_tokens` tokens, by the ids of the trial with this seed.

    Raises:
      DatasetError: they cannot be read.
    """
    rows: np.ndarray = dataset.rows(vocab_size, split)
    if judge_tokens is not None:
        rows = rows[: max(1, judge_tokens // dataset.sequence_length)]
    tokenizer = dataset.tokenizer(vocab_size)
    ids_V = tokenizer.draw_ids(seed)
    tokens_V = np.argsort(ids_V)  # by their ids in the trial
    return EvalSet(
        rows_NxT1=ids_V.astype(rows.dtype)[rows],
        num_bytes_V=tokenizer.num_bytes()[tokens_V],
        num_bytes_original_V=tokenizer.num_bytes_original()[tokens_V],
        unigram_nats_V=unigram_nats(dataset.train_counts(vocab_size))[tokens_V],
    )


def judge(
    scorer: Scorer,
    read_leaves: Sequence[jax.Array],
    eval_set: EvalSet,
    *,
    random: np.random.Generator,
    limit_seconds: float = math.inf,
    scrutiny: Scrutiny = Scrutiny.SEARCH,
    references: Sequence[np.ndarray] = (),
    on_progress: Callable[[float], None] = lambda share: None,
    now: Callable[[], float] = time.monotonic,
) -> EvalResult:
    """Scores every row and probes the candidate: a sample of the rows, or (but for SEARCH) every row several times.

    Args:
      scorer: for the batch size to judge with.
      read_leaves: the arrays that `logits` reads.
      eval_set: the split.
      random: draws the probes' rows and positions; the candidate must not know it.
      limit_seconds: for the batches of every row once; a batch of probes has as much. A candidate that needs longer
        does in `logits` what belongs into the budget.
      scrutiny: see above.
      references: nats of other models, float32[N, T], to draw positions by; NaN where they are not known.
      on_progress: called with the share of the batches, probes included, that is done.
      now: the clock that the limit is counted by.

    Raises:
      InvalidCandidateError: a probe failed, a likelihood is no number, or it took too long.
    """
    start = time.monotonic()
    rows_NxT1, num_rows = eval_set.rows_NxT1, len(eval_set.rows_NxT1)
    num_passes = 0 if scrutiny is Scrutiny.SEARCH else NUM_PASSES
    num_sampled, num_extra_batches = plan_probes(num_rows, scorer.batch_rows, num_passes)
    num_batches = -(-num_rows // scorer.batch_rows)
    num_planned = num_batches + num_extra_batches
    work = _Work(scorer, read_leaves, num_planned, limit_seconds * num_planned / num_batches, on_progress, now)
    # The rows that fill no batch share their last ones with the sample, unless they are to be probed themselves.
    in_full_batches = max(num_rows - num_rows % scorer.batch_rows, min(num_rows, scorer.batch_rows))
    num_first = num_rows if num_passes else in_full_batches
    nats_NxT = np.empty((num_rows, rows_NxT1.shape[1] - 1), np.float32)
    nats_NxT[:num_first] = work.score(rows_NxT1[:num_first, :-1], rows_NxT1[:num_first, 1:])
    _require_finite(nats_NxT[:num_first])

    begin = time.monotonic()
    unigram_nats_MxT = eval_set.unigram_nats_V[rows_NxT1[:num_first, 1:]]
    weights = CutWeights.of(nats_NxT[:num_first], unigram_nats_MxT, [other_NxT[:num_first] for other_NxT in references])
    # where every row is cut besides, the sample is for what is left: a row's last positions, among other rows
    whole_share = 1.0 if num_passes else WHOLE_SHARE
    sample = draw_sample(rows_NxT1, weights, num_sampled, random, whole_share=whole_share)
    drawn = time.monotonic()
    rest = rows_NxT1[num_first:]
    nats_NxT[num_first:], sample_nats_PxT = work.score_mixed(rest, sample, random)
    scored = time.monotonic()
    _require_finite(nats_NxT)
    worst = check_probes(sample, sample_nats_PxT, nats_NxT, work.score, random)
    for quarters in draw_quarters(num_rows, random) if num_passes else ():
        probe = draw_pass(rows_NxT1, weights, quarters, random)
        _, probe_nats_PxT = work.score_mixed(rows_NxT1[:0], probe, random)
        worst = max(worst, check_probes(probe, probe_nats_PxT, nats_NxT, work.score, random))
    end = time.monotonic()

    num_mixed_batches = -(-(len(rest) + num_sampled) // scorer.batch_rows)
    num_own_batches = num_extra_batches - num_passes * num_batches
    targets_NxT = np.asarray(rows_NxT1[:, 1:])
    num_bytes_NxT = eval_set.num_bytes_V[targets_NxT]
    return EvalResult(
        bpb=bits_per_byte(nats_NxT, num_bytes_NxT),
        bpb_original=bits_per_byte_original(nats_NxT, eval_set.num_bytes_original_V[targets_NxT]),
        unigram_bpb=bits_per_byte(eval_set.unigram_nats_V[targets_NxT], num_bytes_NxT),
        num_tokens=int((num_bytes_NxT > 0).sum()),
        batch_rows=scorer.batch_rows,
        num_probes=num_sampled + num_passes * num_rows,
        worst_probe=worst,
        seconds=end - start,
        probe_seconds=(drawn - begin) + num_own_batches / num_mixed_batches * (scored - drawn) + (end - scored),
        nats_NxT=nats_NxT,
    )


def judge_within_memory(
    programs: Programs,
    mesh: Mesh,
    scorer: Scorer,
    read_leaves: Sequence[jax.Array],
    eval_set: EvalSet,
    compiling: Callable[[], AbstractContextManager[None]] = nullcontext,
    **options: Any,
) -> EvalResult:
    """Judges, with the next smaller batch each time the devices' memory does not suffice; for `options` see `judge`.

    The program for that batch is compiled within `compiling()`.
    """
    while True:
        try:
            return judge(scorer, read_leaves, eval_set, random=np.random.default_rng(), **options)
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            with compiling():
                smaller = smaller_scorer(programs, mesh, scorer)
            if smaller is None:
                raise
        scorer = smaller


def smaller_scorer(programs: Programs, mesh: Mesh, scorer: Scorer) -> Scorer | None:
    """The scorer for the next smaller batch, compiled; None if there is none."""
    sizes = [rows for rows in programs.logits if rows < scorer.batch_rows]
    return Scorer(programs, mesh, max(sizes), scorer.lead) if sizes else None


def is_out_of_memory(error: Exception) -> bool:
    """Whether XLA says that a device's memory did not suffice."""
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()


@dataclass
class _Work:
    """Scores batches of rows within a time limit, which covers nothing else."""

    scorer: Scorer
    read_leaves: Sequence[jax.Array]
    num_planned: int
    limit_seconds: float
    on_progress: Callable[[float], None]
    now: Callable[[], float]
    num_done: int = 0
    seconds: float = 0.0  # in earlier calls of `score`
    begin: float = 0.0  # of the present one

    def score(self, inputs_NxT: np.ndarray, targets_NxT: np.ndarray) -> np.ndarray:
        """Nats of each target, float32[N, T]; the last batch is filled up with its own rows again."""
        self.begin = self.now()
        num_rows, batch_rows = len(inputs_NxT), self.scorer.batch_rows
        nats_NxT = np.empty(inputs_NxT.shape, np.float32)
        pending: tuple[int, jax.Array] | None = None  # the device works on one batch while the host reads the next
        for first in range(0, num_rows, batch_rows):
            last = min(first + batch_rows, num_rows)
            rows = first + np.arange(batch_rows) % (last - first)
            nats_BxT = self.scorer(self.read_leaves, inputs_NxT[rows], targets_NxT[rows])
            if pending is not None:
                self._store(nats_NxT, *pending)
            pending = (first, nats_BxT)
        if pending is not None:
            self._store(nats_NxT, *pending)
        self.seconds += self.now() - self.begin
        return nats_NxT

    def score_mixed(
        self, rows_NxT1: np.ndarray, probe: Probe, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Nats of rows and of a probe, evaluated in the same batches, in a random order."""
        inputs = np.concatenate([rows_NxT1[:, :-1], probe.inputs])
        targets = np.concatenate([rows_NxT1[:, 1:], probe.targets])
        order = random.permutation(len(inputs))
        nats = np.empty(inputs.shape, np.float32)
        nats[order] = self.score(inputs[order], targets[order])
        return nats[: len(rows_NxT1)], nats[len(rows_NxT1) :]

    def _store(self, nats_NxT: np.ndarray, first: int, nats_BxT: jax.Array) -> None:
        rows = nats_NxT[first : first + nats_BxT.shape[0]]
        rows[:] = np.asarray(nats_BxT)[: len(rows)]
        self.num_done += 1
        share = self.num_done / self.num_planned
        self.on_progress(min(1.0, share))
        elapsed = self.seconds + self.now() - self.begin
        limit_seconds = self.limit_seconds * max(1.0, share)  # above 1 while it is found out why a probe failed
        if elapsed > limit_seconds:
            raise InvalidCandidateError(
                f"judging {min(1.0, share):.0%} of the rows took {elapsed:.1f} s, and all of "
                f"them may take {limit_seconds:.1f} s: `logits` must not do the work of `step`"
            )


def _require_finite(nats_NxT: np.ndarray) -> None:
    if not np.isfinite(nats_NxT).all():
        bad = int((~np.isfinite(nats_NxT)).sum())
        raise InvalidCandidateError(f"logits are not finite: {bad} of {nats_NxT.size} tokens have no likelihood")
