"""The judge: bits per byte by hand, and scores of candidates whose answer is known."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, export
from lm_trials import measure_request
from tracing import traced

from autoresearch_jax.tasks.lm.config import TimeLimits
from autoresearch_jax.tasks.lm.data.dataset import Dataset
from autoresearch_jax.tasks.lm.judge import (
    EmptySplitError,
    EvalResult,
    EvalSet,
    Scorer,
    bits_per_byte,
    bits_per_byte_original,
    judge,
    judge_within_memory,
    unigram_nats,
)
from autoresearch_jax.tasks.lm.judging import (
    LOGIT_BYTES,
    Judging,
    Phases,
    first_batch_rows,
    load_token_nats,
    save_token_nats,
)
from autoresearch_jax.tasks.lm.leading import ALONE
from autoresearch_jax.tasks.lm.preparing import JUDGE_BATCH_ROWS as JUDGE_SIZES
from autoresearch_jax.tasks.lm.probes import InvalidCandidateError
from autoresearch_jax.tasks.lm.programs import Programs, load_programs, make_mesh
from autoresearch_jax.types import HOLDOUT_SCORE, Scrutiny

pytestmark = pytest.mark.usefixtures("quick_to_compile")
NUM_ROWS = 9  # the last batch of four is not full
RANDOM = np.random.default_rng(0)
ROWS = RANDOM.integers(0, 256, (NUM_ROWS, 17)).astype(np.uint16)
TABLE = RANDOM.normal(size=(256, 256)).astype(np.float32)
NUM_BYTES = np.r_[np.ones(255, np.int32), 0]
EVAL_SET = EvalSet(ROWS, NUM_BYTES, 2 * NUM_BYTES, np.full(256, np.log(256)))
MESH = make_mesh({"data": 1, "model": 1})
Logits = Callable[[Array, Array], Array]  # of table and tokens


def test_special_tokens_cost_their_nats_but_for_the_originals_formula() -> None:
    nats = np.array([[1.0, 2.0], [99.0, 3.0]], np.float32)
    num_bytes = np.array([[1, 2], [0, 1]])
    assert bits_per_byte(nats, num_bytes) == pytest.approx((1 + 2 + 99 + 3) / (4 * math.log(2)))
    assert bits_per_byte_original(nats, num_bytes) == pytest.approx((1 + 2 + 3) / (4 * math.log(2)))


def test_no_text_is_an_error() -> None:
    with pytest.raises(EmptySplitError, match="autoresearch prepare"):
        bits_per_byte(np.ones((1, 2)), np.zeros((1, 2), int))


def test_nats_of_another_trial_are_read_only_if_they_are_of_these_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nats = RANDOM.random((5, 4)).astype(np.float16)
    save_token_nats(tmp_path, nats, 256)
    found = load_token_nats(tmp_path, (5, 4), 256)
    assert found is not None
    assert (found == nats).all()
    assert load_token_nats(tmp_path, (5, 4), 320) is None
    assert load_token_nats(tmp_path, (4, 4), 256) is None
    assert load_token_nats(tmp_path / "none", (5, 4), 256) is None
    monkeypatch.setattr("autoresearch_jax.tasks.lm.judging.MAX_TOKEN_NATS", 12)  # every other row
    save_token_nats(tmp_path, nats, 256)
    found = load_token_nats(tmp_path, (5, 4), 256)
    assert found is not None
    assert (found[::2] == nats[::2]).all()
    assert np.isnan(found[1::2]).all()
    for damaged in (b"PK\3\4 damaged", b""):
        (tmp_path / "token_nats.npz").write_bytes(damaged)
        assert load_token_nats(tmp_path, (5, 4), 256) is None


def test_unigram_is_add_one_smoothed() -> None:
    np.testing.assert_allclose(np.exp(-unigram_nats(np.array([3, 0, 5]))), [4 / 11, 1 / 11, 6 / 11])


@pytest.fixture(scope="module")
def programs(tiny_source: str, tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """A candidate whose logits are rows of a table."""
    return load_programs(traced(tiny_source, tmp_path_factory.mktemp("traced") / "tiny"))


def scorer_of(programs: Programs, logits: Logits) -> Scorer:
    """A scorer of that candidate with other logits."""
    structs = [jax.ShapeDtypeStruct((256, 256), jnp.float32)], jax.ShapeDtypeStruct((4, 16), jnp.int32)
    exported = export.export(jax.jit(lambda leaves, tokens: logits(leaves[0], tokens)), platforms=["cpu"])(*structs)
    return Scorer(dataclasses.replace(programs, logits={4: exported}), MESH, 4)


def judged(programs: Programs, logits: Logits, eval_set: EvalSet = EVAL_SET) -> EvalResult:
    scorer = scorer_of(programs, logits)
    return judge(scorer, [jnp.asarray(TABLE)], eval_set, random=np.random.default_rng(1))


def expected_bpb(table: np.ndarray) -> float:
    logits = table.astype(np.float64)
    nats = np.log(np.exp(logits).sum(-1))[ROWS[:, :-1]] - logits[ROWS[:, :-1], ROWS[:, 1:]]
    return bits_per_byte(nats, NUM_BYTES[ROWS[:, 1:]])


def test_score_is_the_candidates_likelihood_per_byte(programs: Programs) -> None:
    scorer = Scorer(programs, MESH, 4)
    result = judge(scorer, [jnp.asarray(TABLE)], EVAL_SET, random=np.random.default_rng(1))
    assert result.bpb == pytest.approx(expected_bpb(TABLE), rel=1e-6)
    nats = np.log(np.exp(TABLE.astype(np.float64)).sum(-1))[ROWS[:, :-1]] - TABLE[ROWS[:, :-1], ROWS[:, 1:]]
    np.testing.assert_allclose(result.nats_NxT, nats, rtol=1e-5)
    assert result.bpb_original == pytest.approx(bits_per_byte_original(nats, 2 * NUM_BYTES[ROWS[:, 1:]]))
    assert result.unigram_bpb == pytest.approx(8.0 * ROWS[:, 1:].size / result.num_tokens)
    assert result.num_tokens == int((ROWS[:, 1:] < 255).sum())


def test_logits_need_no_normalisation_and_gain_nothing_by_it(programs: Programs) -> None:
    shifted = judged(programs, lambda table, tokens: table[tokens] + 1000.0)
    assert shifted.bpb == pytest.approx(expected_bpb(TABLE), rel=1e-4)
    for constant in (-1e9, 1e30):  # rounds the differences away
        result = judged(programs, lambda table, tokens, c=constant: table[tokens] + c)
        assert result.bpb == pytest.approx(result.unigram_bpb)


def test_a_token_may_be_ruled_out(programs: Programs) -> None:
    def masked(table: Array, tokens: Array) -> Array:
        return table[tokens].at[..., 255].set(-jnp.inf)

    eval_set = dataclasses.replace(EVAL_SET, rows_NxT1=np.minimum(ROWS, 254))
    assert 0 < judged(programs, masked, eval_set).bpb < 20
    with pytest.raises(InvalidCandidateError, match=r"logits are not finite: \d+ of 128 tokens have no likelihood"):
        judged(programs, masked)


class TooLarge(Scorer):
    """A scorer for which the device has not enough memory."""

    def __init__(self) -> None:
        self.batch_rows, self.lead = 4, ALONE

    def __call__(self, *arguments: object) -> jax.Array:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")


def test_the_next_smaller_batch_gives_the_same_score(programs: Programs) -> None:
    large, small = (Scorer(programs, MESH, rows) for rows in (4, 2))
    leaves = [jax.numpy.asarray(TABLE)]
    result = judge_within_memory(programs, MESH, TooLarge(), leaves, EVAL_SET)
    assert result.batch_rows == 2
    assert result.bpb == pytest.approx(judge(large, leaves, EVAL_SET, random=RANDOM).bpb, rel=1e-6)
    assert result.bpb == judge(small, leaves, EVAL_SET, random=RANDOM).bpb


def test_the_driver_knows_the_time_limit_again_once_the_smaller_batch_is_compiled(
    programs: Programs, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoresearch_jax.tasks.lm.judging.load_eval_set", lambda *arguments: EVAL_SET)
    events: list[dict[str, Any]] = []
    phases = Phases(events.append)
    phases.metrics.update(wall_seconds=1.0, num_tokens=1000, clock="wall")
    request = measure_request(tmp_path, limits=TimeLimits(compile=900.0, free_judge=10.0))
    result = Judging(request, programs, MESH, tiny_dataset).judge(TooLarge(), [jnp.asarray(TABLE)], phases)
    assert result.batch_rows == 2
    assert [event["limit_seconds"] for event in events if event["event"] == "phase"] == [10.0, 900.0, 10.0]
    assert {event["phase"] for event in events} == {"judge"}


def test_a_leak_on_the_holdout_alone_ends_an_audit(
    programs: Programs, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holdout = np.where(np.arange(17) < 2, 255, ROWS)  # rows of val begin otherwise
    eval_sets = {"val": EVAL_SET, "holdout": dataclasses.replace(EVAL_SET, rows_NxT1=holdout)}
    monkeypatch.setattr(
        "autoresearch_jax.tasks.lm.judging.load_eval_set", lambda _, size, split, *more: eval_sets[split]
    )

    def leaking(table: Array, tokens: Array) -> Array:
        is_holdout_Bx1x1 = (tokens[:, :2] == 255).all(1)[:, None, None]
        return table[tokens] + is_holdout_Bx1x1 * table[jnp.roll(tokens, -1, 1)]

    phases = Phases(lambda event: None)
    phases.metrics.update(wall_seconds=1.0, num_tokens=1000, clock="wall")
    judging = Judging(measure_request(tmp_path, scrutiny=Scrutiny.AUDIT), programs, MESH, tiny_dataset)
    with pytest.raises(InvalidCandidateError, match=r"^on the holdout: not causal: "):
        judging.judge(scorer_of(programs, leaking), [jnp.asarray(TABLE)], phases)
    assert HOLDOUT_SCORE not in phases.metrics


@pytest.mark.parametrize(
    ("leak", "reason"),
    [
        (lambda table, tokens: table[jnp.roll(tokens, -1, 1)], "not causal"),
        (lambda table, tokens: 0.1 * table[tokens].mean(1, keepdims=True), "not causal"),
        (lambda table, tokens: 0.1 * table[tokens].mean(0, keepdims=True), "rows of a batch are not independent"),
        (lambda table, tokens: table[jnp.roll(tokens, 1, 0)], "rows of a batch are not independent"),
        (lambda table, tokens: jnp.where(tokens == tokens[:1, :1], jnp.nan, 0)[..., None], "logits are not finite"),
    ],
)
def test_what_a_candidate_must_not_see_makes_it_invalid(leak: Logits, reason: str, programs: Programs) -> None:
    with pytest.raises(InvalidCandidateError, match=reason):
        judged(programs, lambda table, tokens: table[tokens] + leak(table, tokens))


@pytest.mark.parametrize(("shift", "axis"), [(-1, 1), (1, 0)])
def test_a_split_of_one_row_hides_nothing(shift: int, axis: int, programs: Programs) -> None:
    one_row = dataclasses.replace(EVAL_SET, rows_NxT1=ROWS[:1])
    with pytest.raises(InvalidCandidateError):
        judged(programs, lambda table, tokens: table[tokens] + table[jnp.roll(tokens, shift, axis)], one_row)


@pytest.mark.parametrize("leaking_row", [100, 200], ids=["in the midst", "in the last batch, which is not full"])
def test_a_leak_in_one_row_is_missed_by_a_sample_and_found_by_probing_every_row(
    leaking_row: int, programs: Programs
) -> None:
    rows = np.random.default_rng(3).integers(0, 256, (201, 17))
    eval_set = dataclasses.replace(EVAL_SET, rows_NxT1=rows)

    def leaking(table: Array, tokens: Array) -> Array:
        is_it = (tokens[:, :4] == rows[leaking_row, :4]).all(1)[:, None, None]
        return table[tokens] + is_it * table[jnp.roll(tokens, -1, 1)]

    scorer, leaves = scorer_of(programs, leaking), [jnp.asarray(TABLE)]
    sample = judge(scorer, leaves, eval_set, random=np.random.default_rng(0))
    assert sample.num_probes == 11
    for seed in range(3):
        with pytest.raises(InvalidCandidateError, match="not causal"):
            judge(scorer, leaves, eval_set, random=np.random.default_rng(seed), scrutiny=Scrutiny.KEEP)


def test_how_much_is_probed_changes_no_score(programs: Programs) -> None:
    scorer, leaves = Scorer(programs, MESH, 4), [jnp.asarray(TABLE)]
    shares: list[float] = []
    sample, every = (
        judge(scorer, leaves, EVAL_SET, random=RANDOM, scrutiny=scrutiny, on_progress=shares.append)
        for scrutiny in (Scrutiny.SEARCH, Scrutiny.KEEP)
    )
    assert (sample.num_probes, every.num_probes) == (7, 8 + 4 * NUM_ROWS)
    assert every.bpb == sample.bpb
    assert shares[-1] == 1.0
    assert shares.count(1.0) == 2  # once for each: with all rows to be probed, little is done with the rows themselves


class TimedScorer:
    """A candidate for which each batch takes so long by a clock of its own."""

    batch_rows = 4

    def __init__(self, batch_seconds: float) -> None:
        self.now = 0.0
        self._batch_seconds = batch_seconds

    def __call__(self, read_leaves: object, inputs_BxT: np.ndarray, targets_BxT: np.ndarray) -> np.ndarray:
        self.now += self._batch_seconds
        return np.full(inputs_BxT.shape, np.log(256), np.float32)


@pytest.mark.parametrize("num_rows", [1, 9, 83])
@pytest.mark.parametrize("scrutiny", [Scrutiny.SEARCH, Scrutiny.KEEP])
def test_who_is_probed_more_is_not_in_more_of_a_hurry(scrutiny: Scrutiny, num_rows: int) -> None:
    eval_set = dataclasses.replace(EVAL_SET, rows_NxT1=np.random.default_rng(4).integers(0, 256, (num_rows, 17)))
    num_batches = -(-num_rows // 4)

    def judge_with(batch_seconds: float) -> EvalResult:
        scorer = TimedScorer(batch_seconds)
        return judge(
            scorer,
            [],
            eval_set,
            random=RANDOM,
            limit_seconds=100.0,
            scrutiny=scrutiny,
            now=lambda: scorer.now,
        )

    assert judge_with(99.0 / num_batches).num_probes > 0
    with pytest.raises(InvalidCandidateError, match="`logits` must not do the work of `step`"):
        judge_with(101.0 / num_batches)


def test_a_causal_use_of_earlier_tokens_is_allowed(programs: Programs) -> None:
    result = judged(programs, lambda table, tokens: jnp.cumsum(table[tokens], 1) / jnp.arange(1, 17)[:, None])
    assert 0 < result.bpb < 20


@pytest.mark.parametrize(
    ("platform", "length", "vocab_size", "rows"),
    [
        ("cpu", 256, 2048, 8),
        ("cpu", 32, 256, 32),
        ("cpu", 2048, 8192, 2),
        ("cuda", 2048, 8192, 32),
        ("tpu", 32, 256, 32),
    ],
)
def test_the_batch_suits_the_device(platform: str, length: int, vocab_size: int, rows: int) -> None:
    assert first_batch_rows(JUDGE_SIZES, platform, LOGIT_BYTES * length * vocab_size) == rows
