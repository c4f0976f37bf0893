"""Probes of a candidate's predictions: judged rows are scored again with changes that must not matter.

One batch tests three things at once: each row has another place among other rows (a row sees only itself), most rows
have another ending (a position sees no later token), and all are evaluated twice (the same tokens give the same
numbers). Only after a difference are they tested one by one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# In nats. Honest candidates differ by the order of a device's additions; a gain within it is below the noise of seeds.
PROBE_TOLERANCE = 1e-3
PROBE_SHARE = 0.05  # of the rows, rounded to whole batches
EVERY_ROW = 1.0  # as a share
MIN_PROBES = 8  # even if they need another batch
WHOLE_SHARE = 0.25  # of the probes keep their whole row: only place and neighbours differ
UNIFORM_SHARE = 0.25  # of the probes are cut anywhere; the others where the candidate gained
SUFFIX_DRAWS = 16  # to find one that begins with another token

Score = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (inputs[N, T], targets[N, T]) -> nats[N, T]


class InvalidCandidateError(Exception):
    """A probe failed; one line with the reason and the offending number."""


@dataclass(frozen=True)
class Probe:
    """Rows to be judged again."""

    rows: np.ndarray  # int[P], indices in the split
    whole_PxT1: np.ndarray  # the rows unchanged
    cuts: np.ndarray  # int[P]; inputs from here on are replaced, T for none
    inputs: np.ndarray  # int[P, T]

    @property
    def targets(self) -> np.ndarray:
        """The rows' original targets, int[P, T]."""
        return self.whole_PxT1[:, 1:]

    @property
    def is_unchanged(self) -> np.ndarray:
        """Positions before the cut, whose prediction must stay, bool[P, T]."""
        return np.arange(self.inputs.shape[1]) < self.cuts[:, None]


def plan_probes(num_rows: int, batch_rows: int, probe_share: float = PROBE_SHARE) -> tuple[int, int]:
    """Number of rows to probe, and of additional batches for them.

    Probes fill the free places of the last batch, and as many batches as `probe_share` allows, one at least if there
    would be too few. With `EVERY_ROW` they have their own batches: every row once, then a sample.
    """
    num_batches = -(-num_rows // batch_rows)
    if probe_share >= EVERY_ROW:
        extra = -(-(num_rows + max(MIN_PROBES, int(PROBE_SHARE * num_rows))) // batch_rows)
        return extra * batch_rows, extra
    free = num_batches * batch_rows - num_rows if num_batches > 1 else 0
    extra = int(probe_share * num_batches)
    if extra == 0 and free < MIN_PROBES:
        extra = 1
    return free + extra * batch_rows, extra


def draw_probes(
    rows_NxT1: np.ndarray,
    nats_MxT: np.ndarray,
    unigram_nats_MxT: np.ndarray,
    num_probes: int,
    random: np.random.Generator,
) -> Probe:
    """Draws rows and the positions where to cut them; `random` must not be known to the candidate.

    A peek at the next token from few positions shows only in a cut right behind one of them. So half of the cuts are
    drawn in proportion to the candidate's gain over a unigram model: each finds a candidate that owes a share of its
    gain to peeking with that probability. No row is drawn twice before all are drawn once; if all are, the first draw
    of each has a cut.

    Args:
      rows_NxT1: the split.
      nats_MxT: of its first M rows, which are probed.
      unigram_nats_MxT: the same under the unigram model.
      num_probes: P.
      random: see above.
    """
    num_judged, length = nats_MxT.shape
    rounds = -(-num_probes // num_judged)
    rows = np.concatenate([random.permutation(num_judged) for _ in range(rounds)])[:num_probes]
    cuts = random.integers(1, max(length, 2), num_probes)
    gain_PxT = np.maximum(unigram_nats_MxT[rows] - nats_MxT[rows], 0.0).astype(np.float64)
    gain_PxT[:, -1] = 0.0  # its target is in no input
    total_P = gain_PxT.cumsum(axis=1)
    weighted = (total_P < random.random((num_probes, 1)) * total_P[:, -1:]).sum(axis=1) + 1
    kind = random.random(num_probes)
    if num_probes >= num_judged:
        kind[:num_judged] = WHOLE_SHARE + (1 - WHOLE_SHARE) * kind[:num_judged]
    cuts = np.where((kind >= WHOLE_SHARE + UNIFORM_SHARE) & (total_P[:, -1] > 0), weighted, cuts)
    cuts = np.where(kind < WHOLE_SHARE, length, np.minimum(cuts, length))
    whole_PxT1 = np.asarray(rows_NxT1[rows])
    inputs = whole_PxT1[:, :-1].copy()
    for row, cut in zip(inputs, cuts, strict=True):
        if cut < length:
            row[cut:] = _suffix(rows_NxT1, int(row[cut]), length - cut, random)
    return Probe(rows, whole_PxT1, cuts, inputs)


def check_probes(
    probe: Probe, nats_PxT: np.ndarray, nats_NxT: np.ndarray, score: Score, random: np.random.Generator
) -> float:
    """The largest difference, in nats, between the probes and the same rows as they were judged.

    Args:
      probe: from `draw_probes`.
      nats_PxT: of its targets, evaluated in a random order among other rows.
      nats_NxT: of all rows of the split, as judged.
      score: evaluates rows again, to find the cause of a difference.
      random: not known to the candidate.

    Raises:
      InvalidCandidateError: it is above the tolerance.
    """
    judged_PxT = nats_NxT[probe.rows]
    different_PxT = np.where(probe.is_unchanged, np.abs(nats_PxT - judged_PxT), 0.0)
    worst = float(different_PxT.max(initial=0.0))
    if worst <= PROBE_TOLERANCE:  # a NaN, which NumPy's max hands on, is not
        return worst

    again = _worst(score(probe.inputs, probe.targets), score(probe.inputs, probe.targets))
    if not again <= PROBE_TOLERANCE:
        raise _failure("two evaluations of the same rows differ", again)
    is_bad = ~(different_PxT <= PROBE_TOLERANCE)
    among_others = float(different_PxT[probe.cuts == probe.inputs.shape[1]].max(initial=0.0))
    if among_others <= PROBE_TOLERANCE:  # no whole row came out otherwise: look at all of them whole
        order = random.permutation(len(probe.rows))
        whole_PxT1 = probe.whole_PxT1[order]
        among_others = _worst(score(whole_PxT1[:, :-1], whole_PxT1[:, 1:]), judged_PxT[order])
    if not among_others <= PROBE_TOLERANCE:
        raise _failure("rows of a batch are not independent: other rows change the prediction", among_others)
    row, position = np.argwhere(is_bad)[0]
    where = f"with other tokens from position {probe.cuts[row]} on, the prediction at position {position} is another"
    raise _failure(f"not causal: {where}", worst)


def _suffix(rows_NxT1: np.ndarray, not_first: int, length: int, random: np.random.Generator) -> np.ndarray:
    """Tokens from somewhere in the split, the first of them another than `not_first` where one can be found."""
    num_rows, row_length = rows_NxT1.shape
    for _ in range(SUFFIX_DRAWS):
        row = rows_NxT1[random.integers(num_rows)]
        begin = int(random.integers(row_length))
        if row[begin] != not_first:
            break
    return np.roll(row, -begin)[:length]


def _worst(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max(initial=0.0))


def _failure(reason: str, nats: float) -> InvalidCandidateError:
    return InvalidCandidateError(f"{reason} (by {nats:.3g} nats, tolerance {PROBE_TOLERANCE:g})")
