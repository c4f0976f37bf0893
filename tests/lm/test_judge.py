"""The judge on a candidate with known likelihoods, and on candidates that see what they must not."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from tracing import JUDGE_BATCH_ROWS, edited, traced

from autoresearch_jax.lm.bits import bits_per_byte
from autoresearch_jax.lm.judge import Exam, InvalidCandidateError, Scorer, Verdict, _compare, judge
from autoresearch_jax.lm.measure import judge_within_memory, make_mesh
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


def test_the_next_smaller_batch_gives_the_same_score(tiny_source: str, tmp_path: Path) -> None:
    programs = load_programs(traced(tiny_source, tmp_path / "honest"))
    large, small = (Scorer(programs, MESH, rows) for rows in (4, 2))

    class Full(Scorer):
        """A scorer for which the device has not enough memory."""

        def __init__(self) -> None:
            self.batch_rows = 4

        def __call__(self, *arguments: object) -> tuple[jax.Array, jax.Array]:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")

    leaves = [jax.numpy.asarray(TABLE)]
    verdict = judge_within_memory(programs, MESH, Full(), leaves, EXAM, lambda share: None)
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


@pytest.mark.parametrize("differences", [[0.0, np.nan], [np.nan, 0.0], [0.0, np.inf], [2e-3, 0.0]])
def test_a_probe_passes_small_differences_only(differences: list[float]) -> None:
    first, second = (np.full((2, 3), difference) for difference in differences)
    with pytest.raises(InvalidCandidateError, match=r"reason \(by (nan|inf|0.002) nats, tolerance 0.001\)"):
        _compare("reason", first, second)
    _compare("reason", np.full(3, 1e-4), np.zeros(0))
