"""An optimizer and an agent that share the experiments, and what happens when one of them is out."""

import dataclasses
from collections.abc import Callable

import pytest
from fakes import SOURCE, Silent

from autoresearch_jax.assets.python_constants import read_constants, set_constants
from autoresearch_jax.proposers.base import (
    DEFAULT_CATEGORIES,
    Brief,
    LimitReached,
    PastExperiment,
    Proposal,
    ProposalFailed,
    ServiceDown,
    SpaceExhausted,
)
from autoresearch_jax.proposers.constants import ConstantsProposer
from autoresearch_jax.proposers.hints import hint_lines
from autoresearch_jax.proposers.hybrid import MAX_WAIT_SECONDS, HybridProposer, draw_category, draw_order
from autoresearch_jax.proposers.space import Constant, FloatRange, IntRange
from autoresearch_jax.types import Metric, Status

SPACE = (Constant("LR", FloatRange(0.01, 1.0, log=True)), Constant("DEPTH", IntRange(2, 8)))
NARROW = (Constant("DEPTH", IntRange(4, 4)),)  # nothing to move
START = PastExperiment(0, "", "baseline", "", read_constants(SOURCE), Status.OK, 2.0, True, "")
FIRST = Brief(1, 0, Metric("loss"), "", SPACE, SOURCE, START.constants, 2.0, (START,), noise_floor=0.01)


class FakeAgent:
    """Appends a line to the source, or raises what it is told to; remembers what it was asked."""

    name = "agent"

    def __init__(self) -> None:
        self.trouble: Exception | None = None
        self.briefs: list[Brief] = []
        self.closed = False

    def propose(self, brief: Brief) -> Proposal:
        self.briefs.append(brief)
        if self.trouble is not None:
            raise self.trouble
        source = f"{brief.champion_source}# {brief.experiment} {len(brief.hints)}\n"
        return Proposal(f"idea {brief.experiment}", brief.category or "any", source=source, cost_dollars=0.1)

    def asks_ahead(self, brief: Brief) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Optimizer(ConstantsProposer):
    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Told(Silent):
    """An observer that remembers what it is told of the service."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.down: list[tuple[str, float, float]] = []  # since it was down first

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def service_down(self, what: str, since: float, again_at: float) -> None:
        self.down.append((what, since, again_at))

    def service_back(self) -> None:
        self.down.clear()


class Bench:
    """A hybrid proposer whose parts can be looked at."""

    def __init__(self, with_agent: bool = True) -> None:
        self.agent, self.optimizer, self.clock = FakeAgent(), Optimizer(), Clock()
        self.told = Told()
        self.notices = self.told.notices
        agent = self.agent if with_agent else None
        self.hybrid = HybridProposer(self.optimizer, agent, self.told, self.clock)

    def down(self, seconds: float = 60.0) -> None:
        self.agent.trouble = ServiceDown("the service answers\n503", seconds)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def draws_agent(brief: Brief) -> bool:
    return draw_order(brief, "constants", ["agent"])[0] == "agent"


def drawn_for(agent: bool, **changes) -> Brief:
    """A brief whose draw is the agent's, or the optimizer's."""
    briefs = (dataclasses.replace(FIRST, run_seed=seed, **changes) for seed in range(1000))
    return next(brief for brief in briefs if draws_agent(brief) == agent)


AGENTS, OPTIMIZERS = drawn_for(True), drawn_for(False)


def following(brief: Brief, proposal: Proposal) -> Brief:
    """The brief after a proposal was measured; what an agent proposes is kept now and then."""
    source = proposal.source or set_constants(brief.champion_source, proposal.constants)
    constants = read_constants(source)
    score = round(1 + abs(constants["LR"] - 0.1) + abs(constants["DEPTH"] - 6) / 10 - source.count("#") / 100, 2)
    kept = score < brief.champion_score
    result = PastExperiment(
        *(brief.experiment, proposal.proposer, proposal.hypothesis, proposal.category),
        *(constants, Status.OK, score, kept, ""),
    )
    after = dataclasses.replace(brief, experiment=brief.experiment + 1, history=(*brief.history, result))
    if not kept:
        return after
    return dataclasses.replace(after, champion_source=source, champion_constants=constants, champion_score=score)


def night(propose: Callable[[Brief], Proposal], count: int, brief: Brief = FIRST) -> Brief:
    for _ in range(count):
        brief = following(brief, propose(brief))
    return brief


# Who proposes.


def test_constants_are_the_optimizers_and_structure_is_the_agents(bench):
    history = night(bench.hybrid.propose, 20).history[1:]
    by = {name: [one for one in history if one.proposer == name] for name in ("constants", "agent")}
    assert len(by["constants"]) + len(by["agent"]) == 20
    assert min(map(len, by.values())) >= 4
    assert {one.category for one in by["constants"]} == {"constants"}
    assert {one.category for one in by["agent"]} <= set(DEFAULT_CATEGORIES)
    assert len({one.category for one in by["agent"]}) > 2
    assert bench.notices == []
    assert bench.hybrid.name == "hybrid"


def test_the_agent_is_asked_for_a_kind_of_change_and_told_hints_about_the_constants(bench):
    brief = night(bench.optimizer.propose, 6)
    while not draws_agent(brief):
        brief = following(brief, bench.hybrid.propose(brief))
    proposal = bench.hybrid.propose(brief)
    (told,) = bench.agent.briefs
    assert told.category == draw_category(brief, "agent") == proposal.category
    hints = hint_lines(SPACE, brief.history, brief.metric, brief.champion_constants, 0.01)
    assert told.hints == hints
    assert sum(" tried; " in line for line in hints) == 2
    assert dataclasses.replace(told, category=None, hints=()) == brief
    assert (proposal.proposer, proposal.cost_dollars) == ("agent", 0.1)


def test_an_agents_failure_is_its_own(bench):
    bench.agent.trouble = ProposalFailed("changed nothing", cost_dollars=0.25)
    with pytest.raises(ProposalFailed, match=r"^changed nothing$") as failure:
        bench.hybrid.propose(AGENTS)
    assert (failure.value.proposer, failure.value.cost_dollars) == ("agent", 0.25)
    assert bench.hybrid.propose(OPTIMIZERS).proposer == "constants"
    assert bench.hybrid.asks_ahead(AGENTS), "it may do better the next time"
    assert not bench.hybrid.asks_ahead(OPTIMIZERS)


# Without an agent.


def test_without_an_agent_the_optimizer_is_alone_and_that_is_said_once():
    bench, alone = Bench(with_agent=False), ConstantsProposer()
    brief = FIRST
    for _ in range(4):
        proposal = bench.hybrid.propose(brief)
        assert proposal == dataclasses.replace(alone.propose(brief), proposer="constants")
        brief = following(brief, proposal)
    assert bench.notices == ["no agent: constants proposes alone"]
    assert not bench.hybrid.asks_ahead(AGENTS)
    for space, words in (((), "^program.md has no table"), (NARROW, "all tried before")):
        with pytest.raises(SpaceExhausted, match=words):
            bench.hybrid.propose(dataclasses.replace(FIRST, space=space))


# When the service is down.


def test_while_the_service_is_down_the_optimizer_proposes_and_that_is_said_once(bench):
    bench.down(60)
    for _ in range(3):
        assert bench.hybrid.propose(AGENTS).proposer == "constants"
        assert not bench.hybrid.asks_ahead(AGENTS)
    assert len(bench.agent.briefs) == 1, "not asked again so soon"
    assert bench.notices == ["the service answers 503; until it answers constants proposes"]
    bench.agent.trouble = None
    bench.clock.now += 59
    assert bench.hybrid.propose(AGENTS).proposer == "constants"
    bench.clock.now += 1
    assert bench.hybrid.asks_ahead(AGENTS)
    assert len(bench.notices) == 1
    ((what, since, again_at),) = bench.told.down
    assert what == "the service answers 503"
    assert 60 <= again_at - since < 90
    assert bench.hybrid.propose(AGENTS).proposer == "agent"
    assert bench.notices[1:] == ["agent answers again, after 60 s"]
    assert bench.told.down == []


def waits(bench: Bench, count: int) -> list[float]:
    """How long it is not asked, time after time."""
    found = []
    for _ in range(count):
        bench.hybrid.propose(AGENTS)
        asked, begun = len(bench.agent.briefs), bench.clock.now
        while len(bench.agent.briefs) == asked:
            bench.clock.now += 60
            bench.hybrid.propose(AGENTS)
        found.append(bench.clock.now - begun)
    return found


def test_the_longer_it_is_down_the_more_seldom_it_is_asked_until_it_answers(bench):
    bench.down(60)
    assert waits(bench, 6) == [60, 120, 240, 480, MAX_WAIT_SECONDS, MAX_WAIT_SECONDS]
    assert len(bench.notices) == 1
    assert len({since for _, since, _ in bench.told.down}) == 1, "since it was down first"
    for answer in (None, ProposalFailed("nothing")):
        bench.agent.trouble = answer
        bench.clock.now += MAX_WAIT_SECONDS
        try:
            bench.hybrid.propose(AGENTS)
        except ProposalFailed:
            assert answer is not None
        bench.down(60)
        assert waits(bench, 2) == [60, 120]
    assert [" answers again, after " in notice for notice in bench.notices] == [False, True, False, True, False]


# When the agent may spend no more.


@pytest.mark.parametrize("end", [LimitReached("--max_dollars=5 is spent"), SpaceExhausted("the script is over")])
def test_an_agent_that_is_done_is_not_asked_again(bench, end):
    bench.agent.trouble = end
    for _ in range(3):
        assert bench.hybrid.propose(AGENTS).proposer == "constants"
        bench.clock.now += 10_000
    assert len(bench.agent.briefs) == 1
    assert bench.notices == [f"{end}: constants proposes alone from here on"]
    assert not bench.hybrid.asks_ahead(AGENTS)


# When the table is empty, or tried to its end.


@pytest.mark.parametrize(("space", "brief"), [((), OPTIMIZERS), (NARROW, AGENTS), (NARROW, OPTIMIZERS)])
def test_without_constants_to_move_the_agent_carries_on(bench, space, brief):
    brief = dataclasses.replace(brief, space=space)
    proposal = bench.hybrid.propose(brief)
    assert (proposal.proposer, proposal.category) == ("agent", draw_category(brief, "agent"))
    assert bench.hybrid.propose(dataclasses.replace(OPTIMIZERS, space=SPACE)).proposer == "constants", "the table grew"
    if not space:
        assert bench.hybrid.asks_ahead(brief), "whose turn it is is known beforehand"


@pytest.mark.parametrize("brief", [AGENTS, OPTIMIZERS])
def test_where_both_are_at_their_end_both_reasons_are_given(bench, brief):
    bench.agent.trouble = LimitReached("--max_dollars=5 is spent")
    for _ in range(2):
        with pytest.raises(SpaceExhausted, match=r"all tried before: .*; and agent: --max_dollars=5 is spent$"):
            bench.hybrid.propose(dataclasses.replace(brief, space=NARROW))
    assert len(bench.agent.briefs) == 1


@pytest.mark.parametrize("brief", [AGENTS, OPTIMIZERS])
def test_where_only_the_service_could_propose_the_loop_waits_for_it(bench, brief):
    bench.down(60)
    brief = dataclasses.replace(brief, space=())
    for left in (60, 45):
        with pytest.raises(ServiceDown, match="503") as down:
            bench.hybrid.propose(brief)
        assert down.value.retry_seconds == left
        bench.clock.now += 15
    assert len(bench.agent.briefs) == 1
    bench.clock.now += 30
    bench.agent.trouble = None
    assert bench.hybrid.propose(brief).proposer == "agent"
    assert len(bench.notices) == 1, "the loop, which waited, says that it answers again"
    assert bench.told.down == []
