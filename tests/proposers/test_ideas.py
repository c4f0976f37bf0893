"""Tests of who tries findings: in which order, what is passed over, and that a night goes on where it was killed."""

import dataclasses
from collections import Counter
from collections.abc import Callable

import pytest

from autoresearch_jax.assets.kinds import TRAINING_FILE
from autoresearch_jax.commands.proposers import merge_changes
from autoresearch_jax.engine.git import Git
from autoresearch_jax.findings.folder import FindingFolder
from autoresearch_jax.findings.format import Evidence, Finding, base_digest
from autoresearch_jax.proposers.base import Brief, Objection, PastExperiment, Proposal, Running, SpaceExhausted
from autoresearch_jax.proposers.ideas import IdeasProposer, draw_order, order_of_own
from autoresearch_jax.types import Metric, Status

SOURCE = '''"""A training file."""

WIDTH = 64  # of the model
RATE = 0.1  # of learning


def act(x):
    return max(x, 0)


def norm(x):
    return x / abs(x)


def loss(x):
    return x * x
'''
START = PastExperiment(0, "", "baseline", "", {}, Status.OK, 2.0, True, "")
FIRST = Brief(1, 0, Metric("loss"), "", (), SOURCE, {}, 2.0, (START,))
CLASS = "NVIDIA H100 80GB HBM3"


def finding(id: str, old: str, new: str, category: str = "architecture", *evidence: Evidence) -> Finding:
    change = f"<<<<<<< SEARCH\n{old}\n=======\n{new}\n>>>>>>> REPLACE\n"
    source = f"https://example.org/{id}"
    return Finding(id, f"Try {id}", category, "idea", source, base_digest(SOURCE), "Why.", change, evidence)


IDEAS = (
    finding("square", "    return max(x, 0)", "    return max(x, 0) ** 2"),
    finding("no-norm", "    return x / abs(x)", "    return x", "normalization"),
    finding("absolute", "    return x * x", "    return abs(x)", "regularization"),
)


class Bench:
    """A proposer with a folder of findings, and what it is told."""

    def __init__(self, folder, environment) -> None:
        self.notices: list[str] = []
        self.examined: list[str | None] = []
        self.objections: dict[str, Objection] = {}
        self.store = FindingFolder(folder / "findings", self.notices.append)
        self._git = Git(folder, environment)
        self.proposer = self.fresh()

    def fresh(self) -> IdeasProposer:
        merge = merge_changes(self._git.merge, TRAINING_FILE)
        return IdeasProposer(self.store, order_of_own(CLASS), merge, self._examine, self.notices.append)

    def _examine(self, brief: Brief, proposal: Proposal) -> Objection | None:
        self.examined.append(proposal.finding)
        return self.objections.get(proposal.finding or "")


@pytest.fixture
def bench(tmp_path, monkeypatch) -> Bench:
    bench = Bench(tmp_path, {"PATH": "/usr/local/bin:/usr/bin:/bin"})
    for one in IDEAS:
        bench.store.add(one, SOURCE)
    return bench


def following(brief: Brief, proposal: Proposal, kept: bool = False) -> Brief:
    result = PastExperiment(
        *(brief.experiment, "ideas", proposal.hypothesis, proposal.category, {}, Status.OK, 1.0, kept, ""),
        finding=proposal.finding,
    )
    source = proposal.source if kept else brief.champion_source
    history = (*brief.history, result)
    return dataclasses.replace(brief, experiment=brief.experiment + 1, history=history, champion_source=source)


def test_each_finding_is_tried_once_and_says_where_it_comes_from(bench):
    brief = FIRST
    seen = {}
    for _ in IDEAS:
        proposal = bench.proposer.propose(brief)
        assert bench.fresh().propose(brief) == proposal, "a fresh one"
        seen[proposal.finding] = proposal
        brief = following(brief, proposal)
    assert set(seen) == {one.id for one in IDEAS}
    assert seen["square"].hypothesis == "Try square (https://example.org/square)"
    assert seen["no-norm"].category == "normalization"
    assert seen["absolute"].source == SOURCE.replace("x * x", "abs(x)")
    with pytest.raises(SpaceExhausted, match="all 3"):
        bench.proposer.propose(brief)
    assert bench.notices == []
    assert not bench.proposer.asks_ahead(FIRST)


def test_a_champion_with_other_constants_and_lines_beside_is_changed_all_the_same(bench):
    both = "WIDTH = 64  # of the model\nRATE = 0.1  # of learning"
    bench.store.add(finding("wide", both, "WIDTH = 96\nRATE = 0.1"), SOURCE)
    champion = SOURCE.replace("RATE = 0.1", "RATE = 0.3")
    history = (START, *_tried("square", "no-norm", "absolute"))
    brief = dataclasses.replace(FIRST, champion_source=champion, history=history)
    assert bench.proposer.propose(dataclasses.replace(brief, experiment=4)).source == champion.replace(
        "WIDTH = 64  # of the model\nRATE = 0.3  # of learning", "WIDTH = 96\nRATE = 0.3"
    )


def _tried(*names: str, kept: bool = False, category: str = "architecture") -> list[PastExperiment]:
    return [
        PastExperiment(number, "ideas", "", category, {}, Status.OK, 1.0, kept, "", finding=name)
        for number, name in enumerate(names, 1)
    ]


def test_what_does_not_fit_is_passed_over_with_one_notice_until_the_champion_changes(bench):
    champion = SOURCE.replace("return max(x, 0)", "return x").replace("x * x", "x + x")
    brief = dataclasses.replace(FIRST, champion_source=champion)
    proposal = bench.proposer.propose(brief)
    assert proposal.finding == "no-norm"
    after = following(brief, proposal)
    for _ in range(2):
        with pytest.raises(SpaceExhausted, match="2 do not fit"):
            bench.proposer.propose(after)
    assert sum("square" in notice for notice in bench.notices) == 1
    assert sum("absolute" in notice for notice in bench.notices) == 1
    assert not any("each with its number" in notice for notice in bench.notices)
    told = len(bench.notices)
    assert bench.proposer.propose(dataclasses.replace(after, champion_source=SOURCE)).finding in ("square", "absolute")
    assert len(bench.notices) == told


def test_what_cannot_be_traced_is_passed_over_and_what_the_table_loses_is_not(bench):
    bench.objections = {
        "square": Objection("it cannot be measured: no\nmore"),
        "absolute": Objection("a constant is lost", repeats=True, may_be_meant=True),
        "no-norm": Objection("it is the same program as experiment 1", repeats=True),
    }
    assert bench.proposer.propose(FIRST).finding == "absolute"
    after = following(FIRST, bench.proposer.propose(FIRST))
    for _ in range(2):
        with pytest.raises(SpaceExhausted):
            bench.proposer.propose(after)
    assert Counter(bench.examined)["square"] == Counter(bench.examined)["no-norm"] == 1
    assert any("square (it cannot be measured: no)" in notice for notice in bench.notices)


def test_of_a_text_that_is_another_no_finding_fits_and_that_is_said_once(bench):
    other = dataclasses.replace(FIRST, champion_source="import os\n\n\ndef main():\n    os.abort()\n")
    for _ in range(2):
        with pytest.raises(SpaceExhausted, match="3 do not fit"):
            bench.proposer.propose(other)
    assert len(bench.notices) == 1
    assert bench.examined == []


def test_no_finding_that_is_being_measured_is_tried_again(bench):
    for number in range(3, 8):
        bench.store.add(finding(f"rate-{number}", "RATE = 0.1  # of learning", f"RATE = 0.{number}"), SOURCE)
    running: list[Running] = []
    for number in range(1, 9):
        proposal = bench.proposer.propose(dataclasses.replace(FIRST, experiment=number, running=tuple(running)))
        running.append(Running(number, "ideas", proposal.hypothesis, proposal.category, {}, proposal.finding))
    assert len({one.finding for one in running}) == 8
    with pytest.raises(SpaceExhausted, match="all 8"):
        bench.proposer.propose(dataclasses.replace(FIRST, experiment=9, running=running))


def test_a_kind_that_is_asked_for_comes_first(bench):
    for seed in range(5):
        brief = dataclasses.replace(FIRST, run_seed=seed, category="normalization")
        assert bench.proposer.propose(brief).finding == "no-norm"
    assert bench.proposer.propose(dataclasses.replace(FIRST, category="attention")).finding


def test_without_findings_that_is_said(tmp_path):
    bench = Bench(tmp_path, {})
    with pytest.raises(SpaceExhausted, match="no findings"):
        bench.proposer.propose(FIRST)


# The order.


def first_of(findings: list[Finding], history: tuple[PastExperiment, ...] = (START,), seeds: int = 150) -> Counter[str]:
    """How often each is the first, over many seeds."""
    briefs = (dataclasses.replace(FIRST, run_seed=seed, experiment=9, history=history) for seed in range(seeds))
    return Counter(draw_order(brief, findings, findings, CLASS)[0].id for brief in briefs)


def seen(probability: float, device_class: str = CLASS) -> Evidence:
    decision = "keep" if probability > 0.5 else "discard"
    return Evidence(device_class, "abc", "20 s", 2, decision, "2026-11-29", 0.0, 0.01, probability)


def with_evidence(make: Callable[[str], tuple[Evidence, ...]]) -> list[Finding]:
    return [finding(id, "x", "y", "architecture", *make(id)) for id in ("a", "b", "c", "d")]


def test_a_finding_that_was_a_gain_on_such_a_device_comes_first_and_a_refuted_one_last():
    counts = first_of(with_evidence(lambda id: {"a": (seen(0.98),), "b": (seen(0.01),)}.get(id, ())))
    assert counts["a"] > 100
    assert counts["b"] < min(counts["c"], counts["d"]) / 2


def test_a_category_that_paid_off_in_this_run_or_elsewhere_comes_first():
    kinds = ("optimizer", "attention")
    findings = [finding(f"{kind}-{n}", "x", "y", kind) for kind in kinds for n in range(3)]

    def share(counts: Counter[str]) -> float:
        return sum(count for id, count in counts.items() if id.startswith("attention")) / counts.total()

    assert 0.4 < share(first_of(findings)) < 0.6
    history = (START, *_tried("p", "q", kept=True, category="attention"))
    assert share(first_of(findings, history)) > 0.8
    elsewhere = [finding(f"other-{n}", "x", "y", "attention", seen(0.98)) for n in range(4)]
    briefs = (dataclasses.replace(FIRST, run_seed=seed) for seed in range(300))
    orders = [draw_order(brief, findings, [*findings, *elsewhere], CLASS)[0].id for brief in briefs]
    assert share(Counter(orders)) > 0.65


def test_the_experiment_just_before_makes_no_difference_to_the_order():
    findings = with_evidence(lambda id: ())
    brief = dataclasses.replace(FIRST, experiment=2)
    after = dataclasses.replace(brief, history=(START, *_tried("p", kept=True)))
    assert draw_order(brief, findings, findings, CLASS) == draw_order(after, findings, findings, CLASS)
