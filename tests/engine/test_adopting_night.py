"""Nights beside peers: findings that others kept are tried on the own champion, and answered."""

import os
from dataclasses import replace

import pytest
from fakes import SOURCE, FakeTask

from autoresearch_jax.commands.proposer_options import ProposerSettings
from autoresearch_jax.commands.proposers import make_proposer, merge_changes
from autoresearch_jax.decide.rule import LineageRule
from autoresearch_jax.engine.proposals import Precheck
from autoresearch_jax.engine.run_findings import findings_of_run
from autoresearch_jax.findings.folder import SHIPPED, FindingFolder, id_of_content, open_library
from autoresearch_jax.findings.format import Evidence, Finding, base_digest
from autoresearch_jax.findings.trust import peer_of_source
from autoresearch_jax.proposers.adopting import MOST_OBJECTIONS, AdoptingProposer, AdoptionOrder
from autoresearch_jax.proposers.base import Brief, Objection, PastExperiment, Proposal
from autoresearch_jax.report.summary import summarize_run
from autoresearch_jax.types import Metric, Status

RULE = LineageRule(Metric("loss"))
CLASS = "a fake"
SHARE = 1 / 3


def claim(name: str, peer: str, old: str, new: str, *others: Evidence) -> Finding:
    """A finding that a peer kept, with the evidence of others."""
    change = f"<<<<<<< SEARCH\n{old}\n=======\n{new}\n>>>>>>> REPLACE\n"
    evidence = Evidence(CLASS, "fake", "1 steps", 2, "keep", "2026-11-29", 0.1, 0.01, 0.99, sigma=0.01, peer=peer)
    words = (name, f"Try {name}", "schedule", "kept", f"peer {peer}, run x, experiment 3", base_digest(SOURCE), "Why.")
    return Finding(*words, change, (evidence, *others))


def answer(peer: str, decision: str, device_class: str = CLASS) -> Evidence:
    return Evidence(device_class, "fake", "1 steps", 2, decision, "2026-11-29", peer=peer)


FAULT, DEPTH = 'FAULT = "none"', "DEPTH = 4  # best at 6"
LIES = [claim(f"lie-{place}", "liar", FAULT, f"{FAULT}\nNOTHING_{place} = {place}") for place in range(30)]
DEEP = claim("deep", "alice", DEPTH, "DEPTH = 6")
CRASH = claim("crash", "alice", FAULT, 'FAULT = "crash"')
REFUTED = claim("refuted", "alice", DEPTH, "DEPTH = 3", answer("bob", "discard"), answer("carol", "discard"))
ONLY_AN_IDEA = replace(claim("idea", "alice", DEPTH, "DEPTH = 2"), evidence=(answer("alice", "discard"),))


@pytest.fixture
def peers(tmp_path):
    folder = FindingFolder(tmp_path / "peers", print)
    for one in (*LIES, DEEP, CRASH, REFUTED, ONLY_AN_IDEA):
        folder.add(one, SOURCE)
    return folder


class Nothing:
    """Proposes changes without effect."""

    name = "nothing"

    def propose(self, brief: Brief) -> Proposal:
        source = f"{brief.champion_source}OWN_{brief.experiment} = 1\n"
        return Proposal(f"own {brief.experiment}", "schedule", source=source)

    def asks_ahead(self, brief: Brief) -> bool:
        return False

    def close(self) -> None:
        """Nothing is to be closed."""


def loop_of(bench, peers, **options):
    """A loop whose own ideas come to nothing."""
    task = FakeTask(noise=0.02)
    precheck, merge = Precheck(task, bench.folder), bench.workspace().merge
    words = (peers, CLASS, merge_changes(merge, bench.asset), precheck.check, bench.recorder.notice, SHARE)
    return bench.loop(task, AdoptingProposer(Nothing(), *words), RULE, precheck=precheck, **options)


def test_peers_are_adopted_within_the_share_answered_and_who_lies_is_left_alone(bench, twin, peers, run_git):
    loop_of(bench, peers, max_experiments=42).run()
    ledger = bench.ledger()
    rows = [row for row in ledger.experiments() if row.kind == "proposal"]
    adopted = [row for row in rows if row.adopted_from is not None]
    assert {row.proposer for row in adopted} == {"peers"}
    assert {row.proposer for row in rows} == {"peers", "nothing"}
    for row in adopted:
        assert sum(other.id <= row.id for other in adopted) <= SHARE * row.id
    tried = {row.finding: row for row in adopted}
    assert {"refuted", "idea"}.isdisjoint(tried), "nobody keeps them, or more of this class discarded it"
    assert (tried["deep"].adopted_from, tried["deep"].decision) == ("alice", "keep")
    trailers = run_git(bench.repo, "log", "--grep=Try deep", "--format=%(trailers)", f"autoresearch/{bench.tag}")
    assert "Finding: deep\nAdopted-From: alice" in trailers
    assert summarize_run(ledger).adopted == (len(adopted), sum(row.decision == "keep" for row in adopted))
    lies = [row for row in adopted if row.adopted_from == "liar"]
    assert 1 <= len(lies) <= 8, "its claims were refuted here, and ten more had room"

    library = open_library(bench.repo / "none", print, peers=peers.path)
    answered = {one.finding.id: one.finding.evidence[0] for one in findings_of_run(ledger, "night", library).findings}
    assert tried.keys() <= answered.keys(), "also what is no clear refutation"
    assert (answered["deep"].decision, answered["deep"].peer) == ("keep", "")
    assert answered["deep"].value is not None
    assert answered["deep"].seed is not None
    assert {answered[row.finding].decision for row in lies} >= {"discard"}
    assert answered["crash"].decision == "crash"

    for experiments in (1, 5, 12):
        loop_of(twin, peers, max_experiments=experiments).run()
    again = [(row.hypothesis, row.adopted_from, row.decision) for row in twin.ledger().experiments()[:13]]
    assert again == [(row.hypothesis, row.adopted_from, row.decision) for row in ledger.experiments()[:13]]


START = PastExperiment(0, "", "baseline", "", {}, Status.OK, 2.0, True, "")
FIRST = Brief(1, 0, Metric("loss"), "", (), SOURCE, {}, 2.0, (START,), noise_floor=0.01)


def order_of(peers) -> set[str | None]:
    """Whose findings are worth an experiment to a run that has only begun."""
    return {peer_of_source(one.source) for one in AdoptionOrder(CLASS)(FIRST, peers.findings(), peers.findings())}


def test_what_others_found_of_a_peer_counts_but_no_single_one_can_have_it_left_alone(bench, peers):
    """Six of a liar's claims that two others refuted: none of it is tried here."""
    assert order_of(peers) == {"alice", "liar"}
    for lie in LIES[:20]:
        peers.add(replace(lie, evidence=(answer("bob", "discard"), answer("bob", "discard", "gpu"))), SOURCE)
    assert order_of(peers) == {"alice", "liar"}
    for lie in LIES[:6]:
        peers.add(replace(lie, evidence=(answer("carol", "discard", "gpu"), answer("dave", "discard"))), SOURCE)
    assert order_of(peers) == {"alice"}
    loop_of(bench, peers, max_experiments=12).run()
    assert {row.adopted_from for row in bench.ledger().experiments()} == {None, "alice"}


def test_a_change_has_its_own_id_here_and_is_answered_when_it_gets_another(bench, tmp_path):
    """The user's folder has a peer's change under a name of its own, also where the run tries no findings of it."""
    shipped, peers = min(path.stem for path in SHIPPED.glob("*.md")), FindingFolder(tmp_path / "two", print)
    thief = claim(shipped, "liar", FAULT, f"{FAULT}\nNOTHING = 1")
    for one in (thief, DEEP):
        peers.add(replace(one, id=id_of_content(one)), SOURCE)
    own = FindingFolder(tmp_path / "own", print)
    own.add(replace(DEEP, id="mine", source="a book", evidence=()), SOURCE)
    task = FakeTask()
    precheck = Precheck(task, bench.folder)
    words = (bench.workspace(), bench.folder, os.environ, precheck.check, bench.recorder, CLASS)
    settings = ProposerSettings("constants", findings=own.path, peers=peers.path, adopt_share=1.0)
    bench.loop(task, make_proposer(settings, *words), RULE, precheck=precheck, max_experiments=3).run()
    tried = {row.finding: row.adopted_from for row in bench.ledger().experiments() if row.finding is not None}
    assert tried == {"mine": "alice", id_of_content(thief): "liar"}
    own.add(replace(thief, id="named-later", source="a book", evidence=()), SOURCE)
    found = findings_of_run(bench.ledger(), bench.tag, open_library(own.path, print, peers=peers.path)).findings
    answered = {one.finding.id: one.finding.content for one in found if one.finding.id in ("mine", "named-later")}
    assert answered == {"mine": DEEP.content, "named-later": thief.content}

    class Vanishing(FindingFolder):
        def findings(self):
            found = super().findings()
            self.path = tmp_path / "none"
            return found

    merge, told = merge_changes(bench.workspace().merge, bench.asset), print
    late = AdoptingProposer(Nothing(), Vanishing(peers.path, print), CLASS, merge, None, told, 1.0)
    assert late.propose(FIRST).adopted_from in ("alice", "liar")


def test_findings_that_cannot_be_traced_hold_the_run_up_only_so_long(bench, peers):
    examined = []

    def examine(brief: Brief, proposal: Proposal) -> Objection:
        examined.append(proposal.finding)
        return Objection("it does not end")

    merge = merge_changes(bench.workspace().merge, bench.asset)
    proposer = AdoptingProposer(Nothing(), peers, CLASS, merge, examine, print, 1.0)
    for turn in (1, 2):
        assert proposer.propose(FIRST).hypothesis == "own 1"
        assert len(set(examined)) == len(examined) == turn * MOST_OBJECTIONS
