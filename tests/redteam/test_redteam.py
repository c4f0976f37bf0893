"""Every cheat gets the status it must get and nothing else: no score, no process, no file, no harm to later ones.

After the last one the arena measures the honest file again, see conftest.py.
"""

import math
import re
import subprocess
import sys

import numpy as np
import pytest
from redteam import cheats_carried, cheats_judge, cheats_process, cheats_programs, cheats_theft
from redteam.arena import Arena
from redteam.entries import NOTHING, TINY_SOURCE, Cheat, at_import, by_kind, tiny

from autoresearch_jax.sandbox.sandbox import Level
from autoresearch_jax.sanitize import MAX_LINE_CHARACTERS, clean_line
from autoresearch_jax.tasks.lm.judge import bits_per_byte
from autoresearch_jax.types import Status

CHEATS = {
    **cheats_judge.CHEATS,
    **cheats_carried.CHEATS,
    **cheats_programs.CHEATS,
    **cheats_theft.CHEATS,
    **cheats_process.CHEATS,
}
AT_ONCE = ("steals", "patches", "forges", "breaks")  # the first of each go together in the fast suite
THIEVES = [pytest.param(cheat, id=cheat.name) for cheat in cheats_theft.THIEVES if cheat.needs_cage]


def gets_its_status_and_nothing_else(cheat: Cheat, arena: Arena) -> None:
    if cheat.needs_cage and arena.sandbox.level is Level.LIMITS:
        pytest.skip("limits alone do not keep a candidate from reading files")
    honest_score = arena.honest_score
    seal = arena.seal()

    result = arena.run(cheat.source, budget=cheat.budget, limits=cheat.limits, scrutiny=cheat.scrutiny)

    assert arena.harm() == []
    assert arena.seal() == seal
    assert result.status in (cheat.status, cheat.or_status), result
    assert re.search(cheat.reason, result.reason), result
    assert clean_line(result.reason, MAX_LINE_CHARACTERS) == result.reason
    assert "\x1b" not in result.details
    assert arena.secret not in f"{result}"
    if cheat.status is not Status.OK:
        assert result.value is None
    elif cheat.gains == "nothing":
        assert result.value == pytest.approx(honest_score, abs=1e-6)
    else:
        assert result.value is not None
        assert math.isfinite(result.value)
        assert result.value > honest_score


@pytest.mark.parametrize(
    "cheat",
    [
        *by_kind({kind: cheats for kind, cheats in CHEATS.items() if kind not in AT_ONCE}),
        *by_kind({kind: CHEATS[kind] for kind in AT_ONCE}, fast=0),
    ],
)
def test_a_cheat_gets_its_status_and_nothing_else(cheat: Cheat, arena: Arena) -> None:
    gets_its_status_and_nothing_else(cheat, arena)


def test_a_thief_that_patches_forges_and_breaks_too_gains_nothing(arena: Arena) -> None:
    """What each does while its file is imported, one after the other: none of them needs a trial of its own to show."""
    before, after = TINY_SOURCE.split(NOTHING)
    is_caged = arena.sandbox.level is not Level.LIMITS
    first = [cheat for cheat in (CHEATS[kind][0] for kind in AT_ONCE) if is_caged or not cheat.needs_cage]
    assert {(cheat.status, cheat.gains) for cheat in first} == {(Status.OK, "nothing")}
    codes = [cheat.source.removeprefix(before).removesuffix(after) for cheat in first]
    gets_its_status_and_nothing_else(Cheat("all at once", at_import("\n".join(codes)), Status.OK), arena)


@pytest.mark.slow
@pytest.mark.parametrize("carried", ["val_table", "weights"])
def test_what_is_carried_in_would_pay_without_ids_of_each_trial(carried: str, arena: Arena) -> None:
    """With the dataset's own ids each table is better than an honest training: else its being worse proves nothing."""
    table_VxV = np.zeros((256, 256))
    table_VxV[:128, :128] = getattr(arena, carried) / 8
    nats_VxV = np.log(np.exp(table_VxV).sum(axis=1, keepdims=True)) - table_VxV
    rows = np.asarray(arena.dataset.rows(256, "val"))
    num_bytes_V = arena.dataset.tokenizer(256).num_bytes()
    score = bits_per_byte(nats_VxV[rows[:, :-1], rows[:, 1:]], num_bytes_V[rows[:, 1:]])
    assert score < arena.honest_score


@pytest.mark.parametrize("cheat", THIEVES)
def test_a_thief_would_steal_if_it_could(cheat: Cheat, arena: Arena) -> None:
    """Without a cage each thief finds something: else its coming home with nothing would prove nothing."""
    assert arena.honest_score  # whose programs are there to be found
    loot = arena.fill(cheat.source).partition("def loot")[2].partition("\n\n\ntry")[0]
    folder = arena.programs_dir / "cage" / "inner"
    folder.mkdir(parents=True, exist_ok=True)
    result = subprocess.run(
        [sys.executable, "-c", f"def loot{loot}\n\nprint(bool(loot()))"],
        cwd=folder,
        env=arena.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    arena.harm()
    assert result.stdout == "True\n"


@pytest.mark.slow
def test_another_seed_constant_that_nothing_reads_is_the_same_candidate(arena: Arena) -> None:
    result = arena.run(tiny(("UNUSED = 1", "SEED = 137")))
    assert result.program_hash == arena.honest().program_hash
    assert result.value == arena.honest_score
    assert arena.harm() == []
