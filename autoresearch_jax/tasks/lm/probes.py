"""Probes of a candidate's predictions: judged rows are scored again with changes that must not matter.

One batch tests three things at once: each row has another place among other rows (a row sees only itself), most rows
have another ending (a position sees no later token), and all are evaluated twice (the same tokens give the same
numbers). Only after a difference are they tested one by one.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

# In nats. Honest candidates differ by the order of a device's additions; a gain within it is below the noise of seeds.
PROBE_TOLERANCE = 1e-3
PROBE_SHARE = 0.05  # of the rows, rounded to whole batches, in a sample
MIN_PROBES = 8  # even if they need another batch
WHOLE_SHARE = 0.25  # of a sample keep their whole row: only place and neighbours differ
NUM_PASSES = 4  # over every row, before a keep: one cut in each quarter of a row
EVENLY, BY_GAIN, BY_DIFFERENCE = range(3)  # what a cut's place is drawn by
_SUFFIX_DRAWS = 16  # to find other tokens
_ROWS_AT_ONCE = 512  # whose cuts are drawn together, to bound the memory

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


def plan_probes(num_rows: int, batch_rows: int, num_passes: int = 0) -> tuple[int, int]:
    """Number of rows in the sample, and of additional batches for all probes.

    The sample fills the free places of the last batch, and as many batches as `PROBE_SHARE` allows, one at least if
    there would be too few. Beside `num_passes` over every row it has batches of its own.
    """
    num_batches = -(-num_rows // batch_rows)
    if num_passes:
        extra = -(-max(MIN_PROBES, int(PROBE_SHARE * num_rows)) // batch_rows)
        return extra * batch_rows, extra + num_passes * num_batches
    free = num_batches * batch_rows - num_rows if num_batches > 1 else 0
    extra = int(PROBE_SHARE * num_batches)
    if extra == 0 and free < MIN_PROBES:
        extra = 1
    return free + extra * batch_rows, extra


@dataclass(frozen=True)
class CutWeights:
    """Where a peek at the next token would pay: cuts are drawn by it.

    A peek that reaches no further shows only in a cut right behind its position. A draw in proportion to what it would
    pay finds a candidate that owes a share of its score to peeking with that probability. The gain over a unigram model
    is blind to a peek that lifts to the unigram model what an honest model finds far less likely; the difference from
    other models is not, unless all of them owe as much to peeking: so one of them should be a person's.

    Attributes:
      gain_NxT: nats that the candidate gains over a unigram model, 0 where it gains none.
      difference_NxT: nats by which it differs from other models, the largest difference; NaN where no other's are
        known. None without other models.
    """

    gain_NxT: np.ndarray
    difference_NxT: np.ndarray | None

    @classmethod
    def of(cls, nats_NxT: np.ndarray, unigram_nats_NxT: np.ndarray, references: Sequence[np.ndarray]) -> "CutWeights":
        """From nats of the candidate, of a unigram model, and of other models."""
        differences = [np.abs(nats_NxT - other_NxT) for other_NxT in references]
        difference_NxT = functools.reduce(np.fmax, differences) if differences else None
        return cls(np.maximum(unigram_nats_NxT - nats_NxT, 0.0), difference_NxT)

    def draw_cuts(
        self, rows: np.ndarray, bounds_Px2: np.ndarray, by: np.ndarray, random: np.random.Generator
    ) -> np.ndarray:
        """A cut for each of `rows`, int[P], from the first of its bounds to below the second.

        Each is drawn by what `by` says: EVENLY, BY_GAIN, or BY_DIFFERENCE. Where all weights are 0, evenly.
        """
        cuts = [
            self._draw(
                rows[i : i + _ROWS_AT_ONCE], bounds_Px2[i : i + _ROWS_AT_ONCE], by[i : i + _ROWS_AT_ONCE], random
            )
            for i in range(0, len(rows), _ROWS_AT_ONCE)
        ]
        return np.concatenate(cuts)

    def _draw(
        self, rows: np.ndarray, bounds_Px2: np.ndarray, by: np.ndarray, random: np.random.Generator
    ) -> np.ndarray:
        length = self.gain_NxT.shape[1]
        place = np.arange(1, length + 1)  # a cut lies right behind the position whose weight it is drawn by
        inside_PxT = (place >= bounds_Px2[:, :1]) & (place < bounds_Px2[:, 1:])
        weight_PxT = np.zeros(inside_PxT.shape)
        weight_PxT[by == BY_GAIN] = self.gain_NxT[rows[by == BY_GAIN]]
        if self.difference_NxT is not None:
            weight_PxT[by == BY_DIFFERENCE] = np.nan_to_num(self.difference_NxT[rows[by == BY_DIFFERENCE]])
        weight_PxT *= inside_PxT
        is_even = weight_PxT.sum(axis=1) == 0
        weight_PxT[is_even] = inside_PxT[is_even]
        total_PxT = weight_PxT.cumsum(axis=1)
        drawn = random.random((len(rows), 1)) * total_PxT[:, -1:]
        return np.minimum((total_PxT <= drawn).sum(axis=1), length - 1) + 1


def draw_sample(
    rows_NxT1: np.ndarray, weights: CutWeights, num_probes: int, random: np.random.Generator, *, whole_share: float
) -> Probe:
    """Draws rows, no row twice before all are drawn once, and where to cut them; `random` must not be known.

    Args:
      rows_NxT1: the split.
      weights: of its first M rows, which are drawn from.
      num_probes: P.
      random: see above.
      whole_share: of the rows that are not cut.
    """
    num_judged, length = weights.gain_NxT.shape
    rounds = -(-num_probes // num_judged)
    rows = np.concatenate([random.permutation(num_judged) for _ in range(rounds)])[:num_probes]
    bounds = np.broadcast_to([1, max(length, 2)], (num_probes, 2))
    third = BY_GAIN if weights.difference_NxT is None else BY_DIFFERENCE
    by = np.array([EVENLY, BY_GAIN, third])[random.integers(0, 3, num_probes)]
    cuts = weights.draw_cuts(rows, bounds, by, random)
    cuts = np.where(random.random(num_probes) < whole_share, length, np.minimum(cuts, length))
    return _probe(rows_NxT1, rows, cuts, random)


def draw_pass(rows_NxT1: np.ndarray, weights: CutWeights, quarters: np.ndarray, random: np.random.Generator) -> Probe:
    """Cuts every row once, in the quarter of it that `quarters`, int[N], names; see `draw_quarters`."""
    num_rows, length = weights.gain_NxT.shape
    edges = 1 + np.arange(NUM_PASSES + 1) * max(length - 1, 1) // NUM_PASSES
    bounds = np.stack([edges[quarters], np.maximum(edges[quarters + 1], edges[quarters] + 1)], axis=1)
    by = np.array([EVENLY, BY_GAIN, BY_DIFFERENCE, BY_DIFFERENCE])[random.integers(0, 4, num_rows)]
    cuts = np.minimum(weights.draw_cuts(np.arange(num_rows), bounds, by, random), length)
    return _probe(rows_NxT1, np.arange(num_rows), cuts, random)


def draw_quarters(num_rows: int, random: np.random.Generator) -> np.ndarray:
    """For each pass the quarter in which it cuts each row, int[NUM_PASSES, N]: each row has each quarter once."""
    return random.permuted(np.tile(np.arange(NUM_PASSES)[:, None], num_rows), axis=0)


def _probe(rows_NxT1: np.ndarray, rows: np.ndarray, cuts: np.ndarray, random: np.random.Generator) -> Probe:
    whole_PxT1 = np.asarray(rows_NxT1[rows])
    inputs = whole_PxT1[:, :-1].copy()
    for row, cut in zip(inputs, cuts, strict=True):
        row[cut:] = _other_tokens(rows_NxT1, row[cut:], random)
    return Probe(rows, whole_PxT1, cuts, inputs)


def check_probes(
    probe: Probe, nats_PxT: np.ndarray, nats_NxT: np.ndarray, score: Score, random: np.random.Generator
) -> float:
    """The largest difference, in nats, between the probes and the same rows as they were judged.

    Args:
      probe: rows and what was changed in them.
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


def _other_tokens(rows_NxT1: np.ndarray, tokens: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Tokens from elsewhere in the split, each another than the one of `tokens` in its place where one can be found."""
    others = tokens
    for _ in range(_SUFFIX_DRAWS):
        same = others == tokens
        if not same.any():
            break
        row = rows_NxT1[random.integers(len(rows_NxT1))]
        found = np.roll(row, -int(random.integers(len(row))))[: len(tokens)]
        others = np.where(same, found, others)
    return others


def _worst(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max(initial=0.0))


def _failure(reason: str, nats: float) -> InvalidCandidateError:
    return InvalidCandidateError(f"{reason} (by {nats:.3g} nats, tolerance {PROBE_TOLERANCE:g})")
