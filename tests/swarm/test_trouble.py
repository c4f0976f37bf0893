"""Peers in trouble: odd settings of git, a remote that is away, a kill, a git that hangs."""

import json
import os
import random
import threading
import time
from pathlib import Path

import pytest
from repositories import git
from swarm_place import BASE, FINDINGS, Place, words_of, write_by_hand

from autoresearch_jax.engine.git import GitError
from autoresearch_jax.swarm import background as background_module
from autoresearch_jax.swarm.background import BackgroundPeer
from autoresearch_jax.swarm.peer import Peer
from autoresearch_jax.swarm.store import Store

ODD = """
[user]
    useConfigOnly = true
[commit]
    gpgSign = true
[push]
    followTags = true
    pushOption = odd
    gpgSign = if-asked
    recurseSubmodules = check
    useForceIfIncludes = true
[fetch]
    prune = true
    fsckObjects = true
    recurseSubmodules = true
[transfer]
    fsckObjects = true
[fsck]
    missingEmail = error
[core]
    hooksPath = {hooks}
    autocrlf = true
    eol = crlf
    safecrlf = true
    pager = false
    logAllRefUpdates = always
[i18n]
    commitEncoding = ISO-8859-1
    logOutputEncoding = UTF-16
[log]
    showSignature = true
[color]
    ui = always
[safe]
    bareRepository = explicit
[init]
    templateDir = {hooks}
    defaultBranch = trunk
[mailmap]
    file = {hooks}/mailmap
[protocol]
    allow = never
[gpg]
    format = openpgp
    program = false
[gpg "ssh"]
    program = false
    allowedSignersFile = /nowhere
[url "file://{path}/"]
    insteadOf = swarm:
"""


def test_settings_of_git_change_nothing(place: Place, make_finding, monkeypatch, tmp_path: Path):
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("pre-push", "reference-transaction", "post-index-change"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/hooked\nexit 1\n")
        (hooks / name).chmod(0o755)
    (hooks / "mailmap").write_text("Somebody <else@example.org> <alice>\n")
    git(place.remote, "config", "core.hooksPath", "/dev/null")  # it would read the settings, too
    (tmp_path / "gitconfig").write_text(ODD.format(hooks=hooks, path=tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    alice, bob = (place.peer(name, remote="swarm:remote.git") for name in ("alice", "bob"))
    alice.offer([(make_finding("one", "return x  # größer"), BASE)])
    assert alice.round().pushed
    (read,) = bob.round().read
    assert read.base_text == BASE, "line ends, too"
    assert place.told == []
    assert not (tmp_path / "hooked").exists()


def test_a_remote_that_is_away_delays_and_loses_nothing(place: Place, make_finding, tmp_path: Path):
    alice, bob = place.peer("alice"), place.peer("bob")
    away = tmp_path / "away"
    place.remote.rename(away)
    alice.offer([(make_finding("first"), BASE)])
    for _ in range(2):
        assert not alice.round().answered
    (line,) = place.said("alice")
    assert line.endswith(": goes on alone and tries again")
    assert len(alice.outbox.waiting()) == 1
    away.rename(place.remote)
    refuse = place.remote / "hooks" / "pre-receive"
    refuse.parent.mkdir(exist_ok=True)
    refuse.write_text("#!/bin/sh\necho you may not >&2\nexit 1\n")
    refuse.chmod(0o755)
    assert alice.round().answered
    back, refused = place.said("alice")
    assert back == f"file://{place.remote} answers again"
    assert "cannot push to" in refused
    assert str(alice.outbox.path) in refused
    refuse.unlink()

    waiting = json.loads(next(alice.outbox.path.glob("*.json")).read_text())
    pushed = alice.round().pushed[f"{FINDINGS}/alice"]
    (alice.outbox.path / "1.json").write_text(json.dumps(waiting))  # as if killed before it was removed
    (alice.outbox.path / "2.json").write_text("{")
    alice.store.delete_ref(f"{FINDINGS}/alice")
    assert alice.round().pushed == {}
    assert place.refs()[f"{FINDINGS}/alice"] == pushed
    assert [path.name for path in alice.outbox.path.glob("*.json")] == ["2.json"]
    assert [words_of(one.finding.id) for one in bob.round().read] == ["first"]

    git(place.remote, "update-ref", "-d", f"{FINDINGS}/alice")
    assert alice.round().pushed == {f"{FINDINGS}/alice": pushed}, "a remote that lost it gets it again"
    place.now += 7200
    place.peer("bob").offer([(make_finding("later", "return 2 * x"), BASE)])
    place.now -= 3600
    bob.round()
    assert [words_of(one.finding.id) for one in alice.round().read] == ["later"], "clocks that differ"
    place.key("bob").rename(place.path / "lost")
    place.peer("bob").offer([(make_finding("unsigned", "return 5 * x"), BASE)])
    alice.offer([(make_finding("more", "return 6 * x"), BASE)])
    alice.round()
    assert [words_of(one.finding.id) for one in bob.round().read] == ["more"]
    bob.round()
    (unsigned,) = place.said("bob")
    assert unsigned.startswith(f"{place.key('bob')} does not sign: ")
    place.members.write_text("bob\n")
    bob.round()
    assert place.said("bob")[-1].startswith(f"{place.members}:1: no ssh key of bob: ")


def test_a_chain_that_is_too_large_holds_no_other_up(place: Place, make_finding, monkeypatch):
    alice, carol = place.peer("alice"), place.peer("carol")
    alice.offer([(make_finding("first"), BASE)])
    alice.round()
    big = write_by_hand(place, "bob", {"big.txt": random.Random(0).randbytes(300_000).hex()}, None, "bob")
    with monkeypatch.context() as limits:
        limits.setattr("autoresearch_jax.swarm.store.MAX_JOINT_BYTES", 50_000)
        limits.setattr("autoresearch_jax.swarm.store.MAX_FETCH_BYTES", 100_000)
        assert [words_of(one.finding.id) for one in carol.round().read] == ["first"]
    assert place.said("carol")[0].startswith("bob: chain refused: cannot be fetched, or has more than")
    larger = write_by_hand(place, "bob", {"more.txt": "x"}, None, "bob")
    carol.round()
    assert carol.store.sizes([big, larger]) == [None, None], "not tried again yet"
    place.now += 3601
    carol.round()
    assert place.said("carol") == [f"bob's finding {larger[:10]}: a file is missing or too large: left out"]


def test_a_git_that_hangs_is_ended_with_all_it_began(place: Place, tmp_path: Path):
    ssh = tmp_path / "ssh"
    ssh.write_text(f"#!/bin/sh\nsleep 1000 & echo $! > {tmp_path}/pid; wait\n")
    ssh.chmod(0o755)
    store = Store(tmp_path / "store", {**os.environ, "GIT_SSH": str(ssh), "GIT_SSH_VARIANT": "simple"}, seconds=1.0)
    store.make()
    with pytest.raises(GitError, match="git ls-remote took more than 1 s"):
        store.remote_refs("ssh://nowhere/x.git")
    pid = int((tmp_path / "pid").read_text())
    state = Path(f"/proc/{pid}/stat")
    deadline = time.monotonic() + 60
    while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, "still at work"
        time.sleep(0.01)
    with pytest.raises(GitError, match="not allowed"):
        store.remote_refs(f"ext::sh -c touch% {tmp_path}/run")


def test_a_thread_sends_what_comes_up_and_the_last_at_the_end(place: Place, make_finding, monkeypatch):
    came, told = [[(make_finding("first"), BASE)], []], []
    sent = threading.Event()

    class Told:
        def refresh(self) -> bool:
            told.append("refresh")
            return True

        def publish(self, ref: str, commit: str) -> None:
            told.append(ref)
            sent.set()

        def close(self) -> None:
            told.append("closed")

    peer = place.peer("alice")
    background = BackgroundPeer(
        peer, lambda peer: peer.offer(came[0]), place.told.append, poll_seconds=600, gather_seconds=0
    )
    background.start(Told())
    assert sent.wait(60)
    came[0] = [(make_finding("last", "return 9 * x"), BASE)]
    background.close()
    assert told == ["refresh", f"{FINDINGS}/alice", f"{FINDINGS}/alice", "closed"]
    assert place.told == [
        "swarm: as alice, 3 members, 0 findings of peers here; the remote answers",
        "swarm: 2 findings sent",
    ]
    place.told.clear()
    assert [words_of(one.finding.id) for one in place.peer("bob").round().read] == ["first", "last"]

    monkeypatch.setattr(background_module, "CONNECT_SECONDS", 0.01)
    comes = threading.Event()

    class Late(Told):
        def refresh(self) -> bool:
            super().refresh()
            if told.count("refresh") == 3:
                comes.set()
            return comes.is_set()

    late = BackgroundPeer(place.peer("bob"), lambda peer: 0, place.told.append, poll_seconds=600)
    late.start(Late())
    assert comes.wait(60), "a member who begins later is found long before the next poll"
    late.close()
    assert place.told == [
        "swarm: as bob, 3 members, 2 findings of peers here; the remote answers",
        "swarm: 0 findings sent",
    ]
    place.told.clear()

    def fails(peer: Peer) -> int:
        raise ZeroDivisionError("x")

    failing = BackgroundPeer(place.peer("carol"), fails, place.told.append, gather_seconds=0)
    failing.start()
    failing.close()
    assert place.told == ["swarm: ZeroDivisionError: x: goes on without", "swarm: 0 findings sent"]
