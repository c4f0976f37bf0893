"""What the probes find, by a candidate made of NumPy: fast enough to ask often."""

from collections.abc import Callable

import numpy as np
import pytest

from autoresearch_jax.tasks.lm.probes import (
    EVERY_ROW,
    PROBE_SHARE,
    InvalidCandidateError,
    check_probes,
    draw_probes,
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


def probe(candidate: Candidate, num_probes: int, seed: int) -> float:
    random = np.random.default_rng(seed)
    evaluate = score(candidate)
    judged = evaluate(ROWS[:, :-1], ROWS[:, 1:])
    drawn = draw_probes(ROWS, judged, UNIGRAM[ROWS[:, 1:]], num_probes, random)
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


def test_a_leak_in_one_row_is_found_for_certain_where_every_row_is_probed() -> None:
    def peeking_in_one_row(inputs: np.ndarray) -> np.ndarray:
        is_it = (inputs[:, :8] == ROWS[41, :8]).all(axis=1)
        leaking = peeking(np.arange(LENGTH) < LENGTH)(inputs)
        return np.where(is_it[:, None, None], leaking, honest(inputs))

    assert share_caught(peeking_in_one_row, plan_probes(NUM_ROWS, 8)[0]) < 0.4
    assert share_caught(peeking_in_one_row, plan_probes(NUM_ROWS, 8, EVERY_ROW)[0]) == 1.0


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
    drawn = draw_probes(ROWS, judged, UNIGRAM[ROWS[:, 1:]], 8, random)
    nats = evaluate(drawn.inputs, drawn.targets)
    nats[3, 0] = value
    with pytest.raises(InvalidCandidateError, match=r"\(by (nan|inf) nats"):
        check_probes(drawn, nats, judged, evaluate, random)
