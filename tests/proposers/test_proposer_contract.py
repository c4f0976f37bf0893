"""What every proposer must do; add a maker to PROPOSERS for each new one."""

import dataclasses
import os
import re
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import SOURCE, ScriptedProposer, Silent, moved
from gemini_server import GeminiServer, Request, Step, answer, llm_dir, quick

from autoresearch_jax.assets.python_constants import read_constants, set_constants
from autoresearch_jax.findings.folder import FindingFolder
from autoresearch_jax.findings.format import Finding, base_digest
from autoresearch_jax.proposers.base import Brief, PastExperiment, Proposal, Proposer, SpaceExhausted
from autoresearch_jax.proposers.command import Agent, CommandProposer
from autoresearch_jax.proposers.constants import ConstantsProposer
from autoresearch_jax.proposers.hybrid import HybridProposer
from autoresearch_jax.proposers.ideas import IdeasProposer, order_of_own
from autoresearch_jax.proposers.llm import GeminiProposer
from autoresearch_jax.proposers.space import Choices, Constant, FloatRange, IntRange
from autoresearch_jax.types import Metric, Status

SPACE = (
    Constant("LR", FloatRange(0.01, 1.0, log=True)),
    Constant("DEPTH", IntRange(2, 8)),
    Constant("PATTERN", Choices(("SL", "SSSL", "L"))),
)
# An agent that counts, which is all it can do to propose the same again.
COUNTING = (
    """n=$(sed -n 's/^# Experiment //p' BRIEF.md); sed -i "s/^LR = .*/LR = 0.$((100 + n))/" train_lib.py; echo LR $n"""
)


def counting_agent() -> CommandProposer:
    logs = tempfile.TemporaryDirectory()  # which is gone with the proposer
    return CommandProposer(
        Agent(COUNTING), "train_lib.py", lambda target: None, lambda number: Path(logs.name), os.environ
    )


class CountingModel(GeminiProposer):
    """A model that counts, and a server of its own that ends with it."""

    def __init__(self) -> None:
        def count(request: Request) -> Step:
            number = int(re.search(r"^# Experiment (\d+)", request.text, re.MULTILINE)[1])
            (line,) = [line for line in request.text.splitlines() if line.startswith("LR = ")]
            return answer([(line, f"LR = 0.{100 + number}")], hypothesis=f"LR {number}")

        self._server = GeminiServer(count)
        self._server.__enter__()
        self._logs = tempfile.TemporaryDirectory()
        weakref.finalize(self, self._server.__exit__)
        super().__init__(quick(self._server), "train_lib.py", None, llm_dir(Path(self._logs.name)))

    def propose(self, brief: Brief) -> Proposal:
        return dataclasses.replace(super().propose(brief), cost_dollars=0.0)  # asked twice, it costs twice


def counting_ideas() -> IdeasProposer:
    """Findings of the training file, an LR each, in a folder that is gone with the proposer."""
    folder = tempfile.TemporaryDirectory()
    store = FindingFolder(Path(folder.name), print)
    (line,) = [line for line in SOURCE.splitlines() if line.startswith("LR = ")]
    for number in range(12):
        change = f"<<<<<<< SEARCH\n{line}\n=======\n{line}\nEXTRA = {number}\n>>>>>>> REPLACE\n"
        words = (f"Extra {number}", "optimizer", "idea", "https://example.org", base_digest(SOURCE), "Why.", change)
        store.add(Finding(f"extra-{number}", *words), SOURCE)
    proposer = IdeasProposer(store, order_of_own("cpu"), lambda base, ours, theirs: None, None, print)
    weakref.finalize(proposer, folder.cleanup)
    return proposer


PROPOSERS: dict[str, Callable[[], Proposer]] = {
    "command": counting_agent,
    "gemini": CountingModel,
    "hybrid": lambda: HybridProposer(ConstantsProposer(), counting_agent(), Silent()),
    "hybrid without an agent": lambda: HybridProposer(ConstantsProposer(), None, Silent()),
    "hybrid with ideas": lambda: HybridProposer(ConstantsProposer(), None, Silent(), ideas=counting_ideas()),
    "ideas": counting_ideas,
    "constants": ConstantsProposer,
    "scripted": lambda: ScriptedProposer([moved(LR=0.5 - 0.01 * n) for n in range(1, 40)]),
}


def score(constants) -> float | None:
    """A deterministic score; some candidates fail."""
    if constants["DEPTH"] == 7:
        return None
    return abs(constants["LR"] - 0.1) + 0.1 * abs(constants["DEPTH"] - 6) + (constants["PATTERN"] != "SSSL")


def outcome(number: int, source: str, best: float | None, finding: str | None = None) -> PastExperiment:
    constants = read_constants(source)
    value = score(constants)
    return PastExperiment(
        experiment=number,
        proposer=ConstantsProposer.name,
        hypothesis="",
        category="constants",
        constants=constants,
        status=Status.CRASH if value is None else Status.OK,
        score=value,
        kept=value is not None and (best is None or value < best),
        reason="",
        finding=finding,
    )


def first_brief(seed: int = 0) -> Brief:
    start = outcome(0, SOURCE, None)
    return Brief(1, seed, Metric("loss"), "", SPACE, SOURCE, start.constants, start.score, (start,))


def following(brief: Brief, proposal) -> Brief:
    """The brief after a proposal was measured."""
    source = proposal.source or set_constants(brief.champion_source, proposal.constants)
    result = outcome(brief.experiment, source, brief.champion_score, proposal.finding)
    after = dataclasses.replace(brief, experiment=brief.experiment + 1, history=(*brief.history, result))
    if result.kept:
        after = dataclasses.replace(
            after, champion_source=source, champion_constants=result.constants, champion_score=result.score
        )
    return after


@pytest.fixture(params=PROPOSERS)
def make(request) -> Callable[[], Proposer]:
    return PROPOSERS[request.param]


def test_proposals_are_new_say_what_they_do_and_are_those_of_a_resumed_process(make):
    proposer, brief = make(), first_brief(seed=3)
    sources = {SOURCE}
    for number in range(6):
        proposal = proposer.propose(brief)
        if number % 2:
            assert make().propose(brief) == proposal, "a fresh proposer"
            assert proposer.propose(brief) == proposal, "the same one, asked again"
        source = proposal.source or set_constants(brief.champion_source, proposal.constants)
        assert source not in sources
        assert proposal.hypothesis
        assert "\n" not in proposal.hypothesis
        assert proposal.category
        sources.add(source)
        brief = following(brief, proposal)


# What follows is the constants proposer's own.


def night(brief: Brief, count: int) -> Brief:
    proposer = ConstantsProposer()
    for _ in range(count):
        brief = following(brief, proposer.propose(brief))
    return brief


def test_a_small_space_is_tried_to_its_end_and_then_said_to_be_exhausted():
    brief = dataclasses.replace(first_brief(), space=SPACE[1:2])
    proposer = ConstantsProposer()
    for _ in range(6):  # 2 to 8 without the champion's 4
        brief = following(brief, proposer.propose(brief))
    with pytest.raises(SpaceExhausted, match=r"tried before: widen a range or add a constant"):
        proposer.propose(brief)
    wider = dataclasses.replace(brief, space=(Constant("DEPTH", IntRange(2, 9)),))
    assert proposer.propose(wider).constants == {"DEPTH": 9}


def test_the_table_may_change_while_the_run_goes_on():
    brief = night(first_brief(), 6)
    spaces = [
        (Constant("LR", FloatRange(0.2, 0.3)), Constant("DEPTH", IntRange(5, 6))),  # past values lie outside
        (Constant("LR", Choices((0.1, 0.15))), Constant("DEPTH", Choices((3, 5, 6)))),  # another kind
        (*SPACE, Constant("FAULT", Choices(("none", "other")))),  # a new one
    ]
    proposer = ConstantsProposer()
    proposer.propose(brief)
    for space in spaces:
        changed = dataclasses.replace(brief, space=space)
        proposal = proposer.propose(changed)
        assert all(c.values.contains(proposal.constants[c.name]) for c in space if c.name in proposal.constants)
        assert proposal == ConstantsProposer().propose(changed)
        brief = following(changed, proposal)
