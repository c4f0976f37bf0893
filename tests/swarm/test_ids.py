"""Ids of findings: a peer who gives its own change the id of another hides none, in either order of reading."""

import os
from dataclasses import replace

import pytest
from swarm_place import BASE, Place, words_of, write_by_hand

from autoresearch_jax.findings.folder import SHIPPED, FindingFolder, id_of_content, open_library
from autoresearch_jax.findings.format import Finding
from autoresearch_jax.swarm.chain import finding_files
from autoresearch_jax.swarm.contents import read_swarm


def write_as_bob(place: Place, finding: Finding, parent: str | None = None) -> str:
    """Has bob's chain hold a finding under the id that he likes."""
    files = finding_files(finding, BASE, "bob")
    return write_by_hand(place, "bob", {name: text.decode() for name, text in files.items()}, parent, "bob")


@pytest.mark.parametrize("first", ["alice", "bob"])
def test_an_id_is_not_worth_stealing(place: Place, make_finding, first: str):
    """Bob takes the id of alice's finding, that of a shipped idea, and that of a finding in carol's own folder."""
    alice, carol = place.peer("alice"), place.peer("carol")
    idea = FindingFolder(SHIPPED, print).findings()[0]
    idea_base = FindingFolder(SHIPPED, print).base_text(idea.base)
    honest, shared = make_finding("honest"), make_finding("shared", "return x + 1")
    of_carol = make_finding("of-carol", "return 7 * x")
    own = FindingFolder(carol.folder.path.parent / "findings", print)
    own.add(replace(honest, id="named-by-carol", evidence=()), BASE)
    own.add(replace(of_carol, evidence=()), BASE)
    thefts = {id: make_finding(id, "return 0") for id in (id_of_content(honest), idea.id, of_carol.id)}

    def alice_is_read() -> None:
        kept = replace(idea, status="kept", evidence=honest.evidence)
        alice.offer([(honest, BASE), (replace(shared, id="by-alice"), BASE), (kept, idea_base)])
        alice.round(), carol.round()

    def bob_is_read() -> None:
        parent = write_as_bob(place, replace(shared, id="by-bob", title="Bob's words"))
        for theft in thefts.values():
            parent = write_as_bob(place, theft, parent)
        carol.round()

    for read in (alice_is_read, bob_is_read) if first == "alice" else (bob_is_read, alice_is_read):
        read()
    library = open_library(own.path, place.told.append, peers=carol.folder.findings)
    found = {one.content: one for one in library.findings()}
    assert place.told == [], "no finding has the id of another"

    def of(finding: Finding) -> tuple[str, set[str]]:
        here = found[finding.content]
        return here.id, {one.peer for one in here.evidence if one.peer}

    assert of(honest) == ("named-by-carol", {"alice"})
    assert of(idea) == (idea.id, {"alice"})
    assert of(of_carol) == ("of-carol", set())
    assert (words_of(of(shared)[0]), of(shared)[1]) == (f"by-{first}", {"alice", "bob"})
    assert [words_of(of(one)[0]) for one in thefts.values()] == ["honest", idea.id, "of-carol"]
    assert {peer for one in thefts.values() for peer in of(one)[1]} == {"bob"}

    swarm = read_swarm(carol.folder, os.environ)
    by_alice = {("alice", of(one)[0]) for one in (honest, shared, idea)}
    by_bob = {("bob", of(one)[0]) for one in (shared, *thefts.values())}
    assert {(paper.peer, paper.finding.id) for paper in swarm.read} == by_alice | by_bob, "as in the library"
    assert {one.peer for one in swarm.evidence_on(shared)} == {"alice", "bob"}
