"""What the probes find, by a candidate made of NumPy: fast enough to ask often."""

from collections.abc import Callable

import numpy as np
import pytest

from autoresearch_jax.tasks.lm.probes import (
    NUM_PASSES,
    PROBE_SHARE,
    PROBE_TOLERANCE,
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

NUM_ROWS, LENGTH, VOCAB_SIZE = 64, 32, 50
RANDOM = np.random.default_rng(7)
ROWS = RANDOM.zipf(1.5, (NUM_ROWS, LENGTH + 1)).clip(max=VOCAB_SIZE) - 1
COUNTS = np.bincount(ROWS.ravel(), minlength=VOCAB_SIZE) + 1
UNIGRAM = -np.log(COUNTS / COUNTS.sum())

Candidate = Callable[[np.ndarray], np.ndarray]  # inputs[N, T] -> logits[N, T, V]


def honest(inputs: np.ndarray) -> np.ndarray:
    return np.broadcast_to(-UNIGRAM, (*inputs.shape, VOCAB_SIZE)).copy()


def peeking(positions: np.ndarray, nats: float = 5.0) -> Candidate:
    """Thinks more of the next token, at some positions only."""

    def logits(inputs: np.ndarray) -> np.ndarray:
        values = honest(inputs)
        following = np.roll(inputs, -1, axis=1)
        seen = positions[:-1] if len(positions) == LENGTH else positions
        for position in np.flatnonzero(seen):
            values[np.arange(len(inputs)), position, following[:, position]] += nats
        return values

    return logits


def score(candidate: Candidate) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def nats(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        logits = candidate(inputs)
        return np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, targets[..., None], -1)[..., 0]

    return nats


def sample(judged: np.ndarray, num_probes: int, random: np.random.Generator) -> Probe:
    weights = CutWeights.of(judged, UNIGRAM[ROWS[:, 1:]], [])
    return draw_sample(ROWS, weights, num_probes, random, whole_share=WHOLE_SHARE)


def probe(candidate: Candidate, num_probes: int, seed: int) -> float:
    random = np.random.default_rng(seed)
    evaluate = score(candidate)
    judged = evaluate(ROWS[:, :-1], ROWS[:, 1:])
    drawn = sample(judged, num_probes, random)
    return check_probes(drawn, evaluate(drawn.inputs, drawn.targets), judged, evaluate, random)


def share_caught(candidate: Candidate, num_probes: int, draws: int = 40) -> float:
    caught = 0
    for seed in range(draws):
        try:
            probe(candidate, num_probes, seed)
        except InvalidCandidateError:
            caught += 1
    return caught / draws


def only(position: int) -> np.ndarray:
    return np.arange(LENGTH) == position


def test_an_honest_candidate_passes_every_draw() -> None:
    assert max(probe(honest, 32, seed) for seed in range(20)) == 0.0


def test_a_peek_is_found_where_it_pays() -> None:
    everywhere = peeking(np.arange(LENGTH) < LENGTH)
    assert share_caught(everywhere, 8) == 1.0
    # one position of 32: a uniform cut finds it once in 31, a weighted one as often as it pays
    assert share_caught(peeking(only(17)), 24) >= 0.95
    assert share_caught(peeking(only(0)), 64) >= 0.95
    assert share_caught(peeking(only(LENGTH - 2)), 64) >= 0.95
    assert share_caught(peeking(only(17), nats=0.05), 200) >= 0.9  # pays next to nothing, still found by many


def test_the_reason_names_the_place_and_the_number() -> None:
    place = "with other tokens from position 18 on, the prediction at position 17 is another"
    with pytest.raises(InvalidCandidateError, match=rf"not causal: {place} \(by [\d.]+ nats, tolerance 0.001\)"):
        probe(peeking(only(17)), 100, 0)


def test_passes_cut_each_row_once_in_each_quarter_and_change_all_that_follows() -> None:
    random = np.random.default_rng(0)
    evaluate = score(honest)
    weights = CutWeights.of(evaluate(ROWS[:, :-1], ROWS[:, 1:]), UNIGRAM[ROWS[:, 1:]], [])
    cuts = []
    for quarters in draw_quarters(NUM_ROWS, random):
        drawn = draw_pass(ROWS, weights, quarters, random)
        assert (drawn.rows == np.arange(NUM_ROWS)).all()
        cuts.append(drawn.cuts)
        before = drawn.is_unchanged
        assert (drawn.inputs[before] == ROWS[:, :-1][before]).all()
        assert (drawn.inputs[~before] != ROWS[:, :-1][~before]).mean() > 0.99
    edges = [1, 8, 16, 24, 32]  # of 31 places to cut
    for place, low, high in zip(np.sort(cuts, axis=0), edges, edges[1:], strict=False):
        assert ((place >= low) & (place < high)).all()


class UnigramLift:
    """A leak that lifts to the unigram model what an honest model finds far less likely, and pays `gain` in all.

    Rows, an honest model's nats and a unigram model's are drawn with tails as long as those of real ones.
    """

    def __init__(self, gain_bpb: float, seed: int, num_rows: int = 400, length: int = 256) -> None:
        random = np.random.default_rng(seed)
        self.rows = random.integers(0, 2000, (num_rows, length + 1))
        self.unigram = random.gamma(4.0, 1.7, (num_rows, length)).astype(np.float32)
        self.honest = (self.unigram * random.gamma(0.7, 0.8, (num_rows, length))).astype(np.float32)
        self.other = (self.honest + random.normal(0, 0.4, (num_rows, length))).clip(min=0).astype(np.float32)
        lift = np.maximum(self.honest - self.unigram, 0.0)
        wanted = gain_bpb * 2.6 * np.log(2) * self.rows[:, 1:].size  # nats in all, at 2.6 bytes a token
        order = random.permutation(
            np.argsort(-lift, axis=None)[: 4 * int(wanted / np.sort(lift, axis=None)[-500:].mean())]
        )
        used = order[: int(np.searchsorted(lift.ravel()[order].cumsum(), wanted)) + 1]
        self.leaks = np.zeros(lift.shape, bool)
        self.leaks.ravel()[used] = True
        self.leaks[:, -1] = False
        self.nats = np.where(self.leaks, self.unigram, self.honest)

    def is_found(self, references: list[np.ndarray], seed: int) -> bool:
        random = np.random.default_rng(seed)
        weights = CutWeights.of(self.nats, self.unigram, references)
        for quarters in draw_quarters(len(self.rows), random):
            cuts = draw_pass(self.rows, weights, quarters, random).cuts
            if self.leaks[np.arange(len(cuts)), cuts - 1].any():  # shows only in a cut right behind
                return True
        return False


@pytest.mark.parametrize("gain_bpb", [0.007, pytest.param(0.010, marks=pytest.mark.slow)])
def test_a_leak_that_lifts_only_to_the_unigram_is_found_before_a_keep(gain_bpb: float) -> None:
    leak = UnigramLift(gain_bpb, seed=1)
    assert not np.maximum(leak.unigram - leak.nats, 0)[leak.leaks].any()  # the gain over it is 0 there
    assert all(leak.is_found([leak.other], seed) for seed in range(40))
    # the champion has the leak itself, the baseline has not
    assert all(leak.is_found([leak.nats, leak.other], seed) for seed in range(40))
    # with nothing to compare with, as for a first keep in another vocabulary, it is luck
    found = sum(leak.is_found([], seed) for seed in range(40))
    print(f"{gain_bpb} bpb: found {found} times in 40 with nothing to compare with")
    assert 4 < found < 36


def test_a_leak_in_one_row_is_found_for_certain_where_every_row_is_probed() -> None:
    def peeking_in_one_row(inputs: np.ndarray) -> np.ndarray:
        is_it = (inputs[:, :1] == ROWS[41, :1]).all(axis=1) & (inputs[:, 3:6] == ROWS[41, 3:6]).all(axis=1)
        leaking = peeking(np.arange(LENGTH) < LENGTH)(inputs)
        return np.where(is_it[:, None, None], leaking, honest(inputs))

    evaluate = score(peeking_in_one_row)
    judged = evaluate(ROWS[:, :-1], ROWS[:, 1:])
    weights = CutWeights.of(judged, UNIGRAM[ROWS[:, 1:]], [])
    assert share_caught(peeking_in_one_row, plan_probes(NUM_ROWS, 8)[0]) < 0.4
    for seed in range(20):
        random = np.random.default_rng(seed)
        drawn = [draw_pass(ROWS, weights, quarters, random) for quarters in draw_quarters(NUM_ROWS, random)]
        worst = [np.abs(evaluate(one.inputs, one.targets) - judged)[one.is_unchanged].max() for one in drawn]
        assert max(worst) > PROBE_TOLERANCE


def test_before_a_keep_every_row_is_looked_at_several_times() -> None:
    num_sampled, extra = plan_probes(100, 8, NUM_PASSES)
    assert num_sampled == 8
    assert extra == 1 + NUM_PASSES * 13


@pytest.mark.parametrize("num_rows", [20 * 32, 428, 10240, 33 * 32 + 31])
def test_probes_take_a_twentieth_at_most(num_rows: int) -> None:
    num_probes, extra = plan_probes(num_rows, 32)
    num_batches = -(-num_rows // 32)
    assert num_probes >= 8
    assert (num_rows + num_probes) % 32 == 0
    assert -(-(num_rows + num_probes) // 32) == num_batches + extra
    assert extra <= max(PROBE_SHARE * num_batches, num_batches < 20)  # of a small split one, if none is half empty


def test_what_is_not_repeatable_or_not_independent_is_told_apart() -> None:
    calls = iter(range(10**6))

    def restless(inputs: np.ndarray) -> np.ndarray:
        return honest(inputs) + 0.01 * np.random.default_rng(next(calls)).normal(size=VOCAB_SIZE)

    def sociable(inputs: np.ndarray) -> np.ndarray:
        logits = honest(inputs)
        logits[..., 0] += 0.01 * np.roll(inputs, 1, axis=0)
        return logits

    with pytest.raises(InvalidCandidateError, match=r"two evaluations of the same rows differ \(by 0.0\d+ nats"):
        probe(restless, 16, 0)
    with pytest.raises(InvalidCandidateError, match="rows of a batch are not independent"):
        probe(sociable, 16, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_passes_for_nothing(value: float) -> None:
    random = np.random.default_rng(0)
    evaluate = score(honest)
    judged = evaluate(ROWS[:, :-1], ROWS[:, 1:])
    drawn = sample(judged, 8, random)
    nats = evaluate(drawn.inputs, drawn.targets)
    nats[3, 0] = value
    with pytest.raises(InvalidCandidateError, match=r"\(by (nan|inf) nats"):
        check_probes(drawn, nats, judged, evaluate, random)
