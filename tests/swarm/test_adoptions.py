"""Who found what and who adopted it, from made-up papers."""

from collections.abc import Callable
from dataclasses import replace

from autoresearch_jax.findings.format import Finding
from autoresearch_jax.swarm.adoptions import all_adoptions, shared_findings
from autoresearch_jax.swarm.contents import Paper
from autoresearch_jax.swarm.store import ChainCommit

READ_OF_ALICE = "peer alice, run x"


def test_the_finder_is_named_and_the_latest_answer_of_each_peer_counts(make_finding: Callable[..., Finding]) -> None:
    def paper(peer: str, date: int, id: str, decision: str, source: str = "run x", device_class: str = "cpu") -> Paper:
        finding = make_finding(id, decision=decision)
        evidence = tuple(replace(one, device_class=device_class) for one in finding.evidence)
        finding = replace(finding, source=source, evidence=evidence, title=f"{id} by {peer}")
        return Paper(peer, ChainCommit(f"{peer}{date}", "", (), date), finding)

    other_change = paper("mallory", 1, "deep", "keep")
    papers = [
        replace(other_change, finding=replace(other_change.finding, change="another")),
        paper("bob", 40, "deep", "keep", READ_OF_ALICE),  # its clock is behind
        paper("bob", 300, "deep", "keep", READ_OF_ALICE),  # certified meanwhile
        paper("bob", 310, "deep", "discard", READ_OF_ALICE, "H100"),
        paper("alice", 100, "deep", "keep"),
        paper("alice", 120, "worse", "discard"),
        paper("alice", 130, "wide", "keep"),
        paper("carol", 200, "deep", "discard", READ_OF_ALICE),
        paper("carol", 400, "deep", "keep", READ_OF_ALICE),
        paper("carol", 410, "wide", "keep", READ_OF_ALICE),
        paper("carol", 420, "wide", "discard", READ_OF_ALICE),  # taken out again
        paper("dave", 250, "deep", "crash", READ_OF_ALICE, "TPU"),
        paper("dave", 260, "deep", "differs", READ_OF_ALICE),
    ]
    deep, of_mallory, wide = found = shared_findings(papers)
    assert (deep.title, deep.finder, deep.found_on, deep.found_at) == ("deep by alice", "alice", "cpu", 100)
    assert [(one.peer, one.device_class, str(one.result), one.date) for one in deep.answers] == [
        ("bob", "cpu", "adopted", 100),
        ("dave", "TPU", "failed", 250),
        ("bob", "H100", "discarded", 310),
        ("carol", "cpu", "adopted", 400),
    ]
    assert [(one.peer, one.date) for one in deep.adoptions] == [("bob", 100), ("carol", 400)]
    assert (of_mallory.id, of_mallory.finder, of_mallory.answers) == ("deep", "mallory", ())
    assert [(one.peer, str(one.result)) for one in wide.answers] == [("carol", "discarded")]
    assert [(answer.date, finding.id) for answer, finding in all_adoptions(found)] == [(100, "deep"), (400, "deep")]
    assert shared_findings(papers[5:6]) == [], "nobody kept it"
