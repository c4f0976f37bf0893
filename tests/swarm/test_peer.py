"""Peers that push to one remote and read what the others pushed, with real git and real keys."""

import json
import os
import shutil
from collections import Counter
from dataclasses import replace

from repositories import git
from swarm_place import BASE, FINDINGS, Place, words_of, write_by_hand

from autoresearch_jax.findings.folder import MOST_OF_A_PEER, FindingFolder, id_of_content
from autoresearch_jax.findings.format import finding_text, read_finding
from autoresearch_jax.swarm.chain import PAGE, TWIN, finding_files
from autoresearch_jax.swarm.contents import block_peer, read_swarm
from autoresearch_jax.swarm.peer import Peer


def pages(place: Place, name: str) -> set[str]:
    """Ids of the findings that a peer read, without their digits."""
    return {words_of(path.stem) for path in place.folder(name).findings.glob("*.md")}


def test_findings_arrive_and_late_joiners_have_all(place: Place, make_finding):
    alice, bob = place.peer("alice"), place.peer("bob")
    alice.offer([(make_finding("first"), BASE), (make_finding("second", "return -x", "discard"), BASE)])
    sent = alice.round()
    assert sent.answered
    assert sent.pushed == {f"{FINDINGS}/alice": place.refs()[f"{FINDINGS}/alice"]}
    assert not alice.outbox.waiting()
    read = bob.round().read
    assert [(one.peer, words_of(one.finding.id), one.finding.status, one.base_text) for one in read] == [
        ("alice", "first", "kept", BASE),
        ("alice", "second", "refuted", BASE),
    ]
    page = read_finding(place.folder("bob").findings / f"{id_of_content(make_finding('first'))}.md")
    assert page.source == "peer alice, run x"
    assert page.evidence == tuple(replace(one, peer="alice") for one in make_finding("first").evidence)
    assert bob.round().read == []
    files = git(place.remote, "ls-tree", "--name-only", f"{FINDINGS}/alice").split()
    assert files == ["base.txt", "change.diff", "changed.txt", "finding.json", "finding.md"]
    assert json.loads(git(place.remote, "show", f"{FINDINGS}/alice:finding.json"))["format"] == 1
    assert git(place.remote, "log", "--format=%an <%ae>", "-1", f"{FINDINGS}/alice") == "alice <alice>"

    alice.offer([(replace(make_finding("first"), about="Other words."), BASE)])
    assert alice.round().pushed == {}, "nothing new is said of it"
    again = Peer(alice.folder, os.environ, place.told.append, lambda: place.now)
    again.offer([(make_finding("first"), BASE), (make_finding("first", decision="discard"), BASE)])
    assert len(again.round().pushed) == 1, "now it is refuted"
    refuted = make_finding("first", decision="discard")
    again.outbox.put_finding(replace(refuted, evidence=(replace(refuted.evidence[0], decision="replayed"),)), BASE)
    again.round()
    late = Peer(alice.folder, os.environ, place.told.append, lambda: place.now)
    assert late.offer([(refuted, BASE)]) == 0, "a replay of the same is another matter"
    shutil.rmtree(alice.folder.path)
    alice = place.peer("alice")
    alice.offer([(make_finding("third", "return 3 * x"), BASE)])
    alice.round()
    assert git(place.remote, "rev-list", "--count", f"{FINDINGS}/alice") == "5", "goes on from what the remote has"
    assert [words_of(one.finding.id) for one in bob.round().read] == ["first", "first", "third"]
    place.peer("carol").round()
    assert pages(place, "carol") == pages(place, "bob") == {"first", "second", "third"}
    assert place.told == []


def test_what_is_not_in_order_is_refused_and_the_rest_is_read(place: Place, make_finding):
    alice, carol = place.peer("alice"), place.peer("carol", quota=5)
    alice.offer([(make_finding("honest"), BASE)])
    alice.round()
    mallory = place.peer("mallory")
    mallory.offer([(make_finding("stranger"), BASE)])
    mallory.offer_champion({"score": 1.0}, BASE)
    assert len(mallory.round().pushed) == 2, "no git server checks signatures"
    page = {"finding.md": "x", "finding.json": '{"format": 1}'}
    write_by_hand(place, "bob", page, None, "mallory")
    carol.round()
    assert pages(place, "carol") == {"honest"}
    stranger, forged = sorted(place.said("carol"), key=lambda line: "bob" in line)
    assert stranger == f"mallory: chain refused: no member of that name in {place.members}: not fetched"
    assert forged.startswith(f"bob: chain refused: not signed with a key of bob in {place.members}: ")
    assert carol.store.sizes([place.refs()[f"{FINDINGS}/mallory"]]) == [None], "its objects are not here"
    carol.round()
    assert place.said("carol") == [], "it was told"

    bob = place.peer("bob")
    bob.round()
    assert place.said("bob")[0].startswith("the name bob is taken at the remote: not signed with a key of bob")
    git(place.remote, "update-ref", "-d", f"{FINDINGS}/bob")
    bob.offer([(make_finding("mine"), BASE)])
    first = bob.round().pushed[f"{FINDINGS}/bob"]
    work = place.path / "by-hand"
    (work / "commit").write_bytes(bob.store.read([first], 10_000)[0])
    blob = git(work, "hash-object", "-w", "--no-filters", "commit")
    git(work, "push", "-q", "--force", str(place.remote), f"{blob}:{FINDINGS}/bob")
    carol.round()
    assert place.said("carol") == [f"bob: chain refused: {blob[:10]} is no commit"], "though bob signed these bytes"
    git(place.remote, "update-ref", f"{FINDINGS}/bob", first)
    write_by_hand(place, "bob", page, first, "mallory")
    bob.offer([(make_finding("more", "return 4 * x"), BASE)])
    bob.round()
    assert "was changed by others" in place.said("bob")[-1], "and bob's own is put back"
    assert git(place.remote, "rev-list", "--count", f"{FINDINGS}/bob") == "2"
    carol.round()
    assert pages(place, "carol") == {"honest", "mine", "more"}
    assert place.said("carol") == []

    tip = place.refs()[f"{FINDINGS}/bob"]
    later = finding_files(make_finding("later"), BASE, "bob")
    files = {**{name: text.decode() for name, text in later.items()}, TWIN: '{"format": 7}'}
    for about in ("one", "two"):
        tip = write_by_hand(place, "bob", {**files, "about": about}, tip, "bob")
        carol.round()
    assert place.said("carol") == [
        "findings and champions of bob are of a later format, 7: update autoresearch_jax to read them: left out"
    ]
    assert {words_of(one.finding.id) for one in read_swarm(carol.folder, os.environ).read} == {"honest", "mine", "more"}
    tip = write_by_hand(place, "bob", page, tip, "bob")
    carol.round()
    (line,) = place.said("carol")
    assert line.startswith(f"bob's finding {tip[:10]}")
    assert "front matter" in line
    for files in ({f"{number}.txt": "x" for number in range(17)}, {"a/b": "x"}, {"big.txt": "x" * (4 * 2**20 + 1)}):
        write_by_hand(place, "bob", files, tip, "bob")
        carol.round()
        assert place.said("carol")[0].startswith("bob: chain refused: oversized: ")
    write_by_hand(place, "bob", page, first, "bob")
    carol.round()
    assert place.said("carol")[0].startswith("bob: chain refused: was rewritten: ")
    of_mallory = {f"refs/autoresearch/{kind}/mallory" for kind in ("findings", "champions")}
    assert carol.read_state()["refused"].keys() == {f"{FINDINGS}/bob", *of_mallory}
    assert [one["peer"] for one in read_swarm(carol.folder, os.environ).refused].count("mallory") == 1

    alice.offer([(make_finding(f"flood-{number}", f"return {number} * x"), BASE) for number in range(10, 20)])
    alice.round()
    assert [words_of(one.finding.id) for one in carol.round().read] == ["flood-10", "flood-11", "flood-12", "flood-13"]
    assert place.said("carol") == ["alice: more than 5 findings of a day: 6 left out"]
    shutil.rmtree(carol.folder.path)
    place.peer("carol", quota=5).round()
    assert sum(name.startswith("flood") for name in pages(place, "carol")) == 4, "the same for a late joiner"


def test_a_members_file_that_is_mended_heals_what_it_had_refused(place: Place, make_finding):
    alice, bob, lines = place.peer("alice"), place.peer("bob"), place.members.read_text()
    alice.offer([(make_finding("first"), BASE)])
    assert alice.round().pushed
    for broken in (
        lines.replace("alice ", "alicia "),
        lines.replace("alice ssh-ed25519 AAAA", "alice ssh-ed25519 AAAB"),
    ):
        place.members.write_text(broken)
        assert (bob.round().read, bob.round().read) == ([], [])
        assert any("alice: chain refused" in line for line in place.said("bob"))
    place.members.write_text(lines)
    assert [words_of(one.finding.id) for one in bob.round().read] == ["first"]
    assert bob.read_state()["refused"] == {}


def test_a_member_who_sends_bombs_stops_nobody_and_hides_nothing(place: Place, make_finding):
    """Pages that grow without end when they are read, numbers that none can hold, evidence that buries a finding."""
    alice, carol = place.peer("alice"), place.peer("carol")
    honest = make_finding("first")
    alice.offer([(honest, BASE)])
    alice.round()
    carol.round()
    files = finding_files(honest, BASE, "bob")
    good = {name: text.decode() for name, text in files.items()}
    page = good[PAGE]
    doubling = "".join(f", &a{place + 1} [*a{place}, *a{place}]" for place in range(40))
    bombs = (
        {TWIN: '{"format": Infinity}'},
        {PAGE: page.replace("---\n", f"---\n? [&a0 [1]{doubling}]\n: x\n", 1)},
        {
            PAGE: page.replace("  - device_class", "  - &a\n    device_class").replace(
                "\n---\n\n", "\n  - *a" * 5000 + "\n---\n\n"
            )
        },
    )
    parent = None
    for bomb in bombs:
        parent = write_by_hand(place, "bob", {**good, **bomb}, parent, "bob")
        assert carol.round().read == []
        assert place.said("carol")[0].endswith(": left out")
    for number in range(3):
        many = (replace(honest.evidence[0], replay=f"{number} {item}", device="x" * 300) for item in range(300))
        buried = finding_text(replace(honest, evidence=tuple(many)))
        parent = write_by_hand(place, "bob", {**good, PAGE: buried}, parent, "bob")
        assert len(carol.round().read) == 1
    (found,) = FindingFolder(carol.folder.findings, place.told.append).findings()
    assert Counter(one.peer for one in found.evidence) == {"alice": 1, "bob": MOST_OF_A_PEER}
    bob = place.peer("bob")
    bob.offer_champion({"score": ["\x1b[2J" + "9" * 100_000]}, BASE)
    bob.round()
    carol.round()
    (row,) = (row for row in read_swarm(carol.folder, os.environ).peers() if row["peer"] == "bob")
    assert row["champion"].isprintable()
    assert len(row["champion"]) <= 40
    assert place.told == []


def test_who_is_blocked_takes_no_word_of_others_along(place: Place, make_finding):
    alice, bob, carol = (place.peer(name) for name in ("alice", "bob", "carol"))
    copied, other = make_finding("copied"), make_finding("other", "return -x")
    bob.offer([(replace(copied, title="Copied by bob"), BASE)])
    alice.offer([(other, BASE)])
    bob.round(), alice.round(), carol.round()
    bob.offer([(make_finding("other", "return -x", "discard"), BASE)])
    alice.offer([(copied, BASE)])
    bob.round(), alice.round(), carol.round()
    block_peer(carol.folder, "bob", os.environ, blocked=True)
    carol.round()
    library = FindingFolder(carol.folder.findings, place.told.append)
    found = {
        words_of(one.id): (one.title, one.source, {item.peer for item in one.evidence}) for one in library.findings()
    }
    assert found == {name: (f"On {name}", "peer alice, run x", {"alice"}) for name in ("copied", "other")}
