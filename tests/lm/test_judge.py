"""The judge on a candidate with known likelihoods, and on candidates that see what they must not."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from tracing import JUDGE_BATCH_ROWS, edited, traced

from autoresearch_jax.lm.bits import bits_per_byte
from autoresearch_jax.lm.judge import PROBE_SHARE, Exam, Scorer, Verdict, judge, judge_within_memory, plan_probes
from autoresearch_jax.lm.measure import make_mesh
from autoresearch_jax.lm.probes import InvalidCandidateError
from autoresearch_jax.lm.programs import load_programs

NUM_ROWS = 9  # the last batch of four is not full
RANDOM = np.random.default_rng(0)
ROWS = RANDOM.integers(0, 256, (NUM_ROWS, 17)).astype(np.uint16)
TABLE = RANDOM.normal(size=(256, 256)).astype(np.float32)
NUM_BYTES = np.r_[np.ones(255, np.int32), 0]
EXAM = Exam(ROWS, NUM_BYTES, 2 * NUM_BYTES, np.full(256, np.log(256)))
MESH = make_mesh({"data": 1, "model": 1})
READ = 'return state["table"][tokens]'


def judged(source: str, folder: Path, table: np.ndarray = TABLE, exam: Exam = EXAM) -> Verdict:
    programs = load_programs(traced(source, folder))
    scorer = Scorer(programs, MESH, max(JUDGE_BATCH_ROWS))
    return judge(scorer, [jax.numpy.asarray(table)], exam, random=np.random.default_rng(1))


def expected_bpb(table: np.ndarray) -> float:
    logits = table.astype(np.float64)
    nats = np.log(np.exp(logits).sum(-1))[ROWS[:, :-1]] - logits[ROWS[:, :-1], ROWS[:, 1:]]
    return bits_per_byte(nats, NUM_BYTES[ROWS[:, 1:]])


def test_score_is_the_candidates_likelihood_per_byte(tiny_source: str, tmp_path: Path) -> None:
    verdict = judged(tiny_source, tmp_path / "honest")
    assert verdict.bpb == pytest.approx(expected_bpb(TABLE), rel=1e-6)
    assert verdict.bpb_original == pytest.approx(verdict.bpb / 2)
    assert verdict.unigram_bpb == pytest.approx(8.0)
    assert verdict.num_tokens == int((ROWS[:, 1:] < 255).sum())


def test_logits_need_no_normalisation_and_gain_nothing_by_it(tiny_source: str, tmp_path: Path) -> None:
    shifted = edited(tiny_source, (READ, READ + " + 1000.0"))
    assert judged(shifted, tmp_path / "shifted").bpb == pytest.approx(expected_bpb(TABLE), rel=1e-4)


@pytest.mark.parametrize("constant", ["1e9", "-1e9", "1e30"])
def test_a_constant_that_drowns_the_logits_makes_them_uniform(constant: str, tiny_source: str, tmp_path: Path) -> None:
    drowned = edited(tiny_source, (READ, f"{READ} * 1e-3 + {constant}"))
    assert judged(drowned, tmp_path / "drowned").bpb == pytest.approx(8.0)


def test_a_token_may_be_ruled_out(tiny_source: str, tmp_path: Path) -> None:
    masked = edited(tiny_source, (READ, f"{READ}.at[..., 255].set(-jnp.inf)"))
    exam = dataclasses.replace(EXAM, rows_NxT1=np.minimum(ROWS, 254))
    assert 0 < judged(masked, tmp_path / "masked", exam=exam).bpb < 20
    with pytest.raises(InvalidCandidateError, match=r"logits are not finite: \d+ of 128 tokens have no likelihood"):
        judged(masked, tmp_path / "ruled out what there is")


def test_the_next_smaller_batch_gives_the_same_score(tiny_source: str, tmp_path: Path) -> None:
    programs = load_programs(traced(tiny_source, tmp_path / "honest"))
    large, small = (Scorer(programs, MESH, rows) for rows in (4, 2))

    class Full(Scorer):
        """A scorer for which the device has not enough memory."""

        def __init__(self) -> None:
            self.batch_rows = 4

        def __call__(self, *arguments: object) -> jax.Array:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")

    leaves = [jax.numpy.asarray(TABLE)]
    verdict = judge_within_memory(programs, MESH, Full(), leaves, EXAM)
    assert verdict.batch_rows == 2
    assert verdict.bpb == pytest.approx(judge(large, leaves, EXAM, random=RANDOM).bpb, rel=1e-6)
    assert verdict.bpb == judge(small, leaves, EXAM, random=RANDOM).bpb


@pytest.mark.parametrize(
    ("leak", "reason"),
    [
        (" + state['table'][jnp.roll(tokens, -1, 1)]", "not causal"),
        (" + 0.1 * state['table'][tokens].mean(1, keepdims=True)", "not causal"),
        (" + 0.1 * state['table'][tokens].mean(0, keepdims=True)", "rows of a batch are not independent"),
        (" + state['table'][jnp.roll(tokens, 1, 0)]", "rows of a batch are not independent"),
        (" + jnp.where(tokens[..., None] == tokens[:1, :1, None], jnp.nan, 0)", "logits are not finite"),
    ],
)
def test_what_a_candidate_must_not_see_makes_it_invalid(
    leak: str, reason: str, tiny_source: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidCandidateError, match=reason):
        judged(edited(tiny_source, (READ, READ + leak)), tmp_path / "leak")


@pytest.mark.parametrize("leak", ["jnp.roll(tokens, -1, 1)", "jnp.roll(tokens, 1, 0)"])
def test_a_split_of_one_row_hides_nothing(leak: str, tiny_source: str, tmp_path: Path) -> None:
    one_row = dataclasses.replace(EXAM, rows_NxT1=ROWS[:1])
    with pytest.raises(InvalidCandidateError):
        judged(edited(tiny_source, (READ, f"{READ} + state['table'][{leak}]")), tmp_path / "leak", exam=one_row)


def test_a_causal_use_of_earlier_tokens_is_allowed(tiny_source: str, tmp_path: Path) -> None:
    earlier = "jnp.cumsum(state['table'][tokens], 1) / jnp.arange(1, 17)[:, None]"
    verdict = judged(edited(tiny_source, (READ, f"return {earlier}")), tmp_path / "mean of the past")
    assert 0 < verdict.bpb < 20


def test_a_candidate_that_trains_in_logits_takes_too_long(tiny_source: str, tmp_path: Path) -> None:
    programs = load_programs(traced(tiny_source, tmp_path / "honest"))
    scorer = Scorer(programs, MESH, 4)
    with pytest.raises(InvalidCandidateError, match=r"judging \d+% of the rows took .* `logits` must not do the work"):
        judge(scorer, [jax.numpy.asarray(TABLE)], EXAM, random=RANDOM, limit_seconds=0.0)


@pytest.mark.parametrize("num_rows", [20 * 32, 428, 505, 1275, 10240, 33 * 32 + 31])
def test_probes_take_a_twentieth_at_most(num_rows: int) -> None:
    num_probes, extra = plan_probes(num_rows, 32)
    num_batches = -(-num_rows // 32)
    assert num_probes >= 8
    assert (num_rows + num_probes) % 32 == 0
    assert -(-(num_rows + num_probes) // 32) == num_batches + extra
    assert extra <= max(PROBE_SHARE * num_batches, num_batches < 20)  # of a small exam one batch, if none is half empty
