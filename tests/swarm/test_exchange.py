"""Peers without a common remote, which exchange their chains as bundles; and claims. With real zenoh over TLS."""

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from repositories import git
from swarm_place import BASE, FINDINGS, Place, words_of, write_certificates

from autoresearch_jax import cli
from autoresearch_jax.findings.folder import FindingFolder
from autoresearch_jax.swarm.claims import CLAIMS, MAX_CLAIM_SECONDS, MAX_CLAIMS, Claims
from autoresearch_jax.swarm.exchange import MemberExchange
from autoresearch_jax.swarm.joining import check_joining
from autoresearch_jax.swarm.membership import Settings, SwarmFolder
from autoresearch_jax.swarm.notices import ZenohNotices
from autoresearch_jax.swarm.peer import Peer

pytest.importorskip("zenoh", reason="needs eclipse-zenoh")


@pytest.fixture(autouse=True)
def certificates(place: Place) -> None:
    write_certificates(place.path, "authority", ["alice", "bob", "carol"])


@contextmanager
def at_work(
    place: Place, name: str, folder: SwarmFolder | None = None, key: str | None = None, **given
) -> Iterator[Peer]:
    """A peer without a remote whose session is open."""
    folder = folder or place.folder(name)
    exchange = MemberExchange(folder, name, os.environ, lambda text: place.told.append(f"{name}: {text}"))
    peer = place.peer(name, key, folder, exchange, remote="", **place.tls(name, **given))
    with session(peer.settings, exchange):
        yield peer


@contextmanager
def session(settings: Settings, part) -> Iterator[ZenohNotices]:
    notices = ZenohNotices(settings, lambda: None, lambda text: None, (part,))
    notices.open()
    try:
        if settings.connect:
            wait_for(lambda: notices.answering(10))
        yield notices
    finally:
        notices.close()


def wait_for(act: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not act():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def read_by(peer: Peer) -> list[tuple[str, str]]:
    return sorted((one.peer, words_of(one.finding.id)) for one in peer.round().read)


def test_a_chain_outlives_its_author_and_a_forged_one_is_refused(
    place: Place, make_finding, endpoint, monkeypatch, capsys
):
    place.now = time.time()
    others = ExitStack()
    bob = others.enter_context(at_work(place, "bob", listen=(endpoint,), router=True))
    bob.offer([(make_finding("waits", "return 8 * x"), BASE)])
    assert not bob.round().answered, "nobody is there who could have a chain of this name"
    with others:
        with at_work(place, "alice", connect=(endpoint,)) as alice:
            alice.offer([(make_finding("first"), BASE), (make_finding("second", "return -x"), BASE)])
            assert alice.round().pushed.keys() == {f"{FINDINGS}/alice"}
            assert alice.round().pushed == {}
            assert read_by(bob) == [("alice", "first"), ("alice", "second")]
            assert read_by(bob) == []
            assert place.said("bob") == [
                "no member answers by zenoh: goes on alone and tries again",
                "the exchange with members by zenoh answers again",
            ]
            big = "return x  # " + random.Random(0).randbytes(30_000).hex()
            alice.offer([(make_finding("big", big), BASE)])
            alice.round()
            with monkeypatch.context() as limits:
                limits.setattr("autoresearch_jax.swarm.store.MAX_FETCH_BYTES", 20_000)
                assert read_by(bob) == []
            assert "is not sent by alice" in place.said("bob")[0]
            assert "cannot be sent, or has more than" in place.said("alice")[0]
        flags = [f"--{flag}={value}" for flag, value in place.tls("carol", connect=endpoint).items()]
        flags += [f"--key={place.key('carol')}", f"--members={place.members}"]
        where = f"--run_dir={place.folder('carol').path.parent}"
        assert cli.main(["swarm", "join", "--name=carol", where, *flags]) == 0
        assert cli.main(["swarm", "sync", where]) == 0
        said = capsys.readouterr().out
        assert f"bob answered at {endpoint}" in said
        assert "read:                3\n" in said
        with at_work(place, "carol", connect=(endpoint,)) as carol:
            read = {words_of(one.id) for one in FindingFolder(place.folder("carol").findings, print).findings()}
            assert read == {"first", "second", "waits"}
            assert read_by(carol) == []

            forger = SwarmFolder(place.path / "forger/runs")
            with at_work(place, "alice", forger, "mallory", connect=(endpoint,)) as forged:
                forged.offer([(make_finding("forged", "return 3 * x"), BASE)])
                assert forged.round().pushed, "it goes on from alice's chain"
                assert read_by(carol) == []
                assert "alice: chain refused: not signed with a key of alice" in place.said("carol")[0]
                assert read_by(carol) == []
                assert place.said("carol") == [], "not asked for again"

                shutil.rmtree(place.folder("alice").path)
                alice = place.peer("alice", remote="", **place.tls("alice", connect=(endpoint,)))
                checks = {one.name: one for one in check_joining(alice.folder, alice.settings, os.environ)}
                assert checks.keys() == {"key", "members", "notices", "chain"}
                assert checks["notices"].fine
                with at_work(place, "alice", connect=(endpoint,)) as alice:
                    alice.offer([(make_finding("third", "return 4 * x"), BASE)])
                    alice.round()
                    wait_for(lambda: ("alice", "third") in read_by(carol))
                    assert git(carol.store.folder, "rev-list", "--count", "refs/seen/findings/alice") == "3"


def test_serve_sends_what_others_of_its_folder_found(
    place: Place, make_finding, endpoint: str, tmp_path, capsys, monkeypatch
):
    place.now = time.time()
    tls = place.tls("alice", listen=(endpoint,), router=True)
    alice = place.peer("alice", remote="", **tls)
    where = f"--run_dir={alice.folder.path.parent}"
    words = [sys.executable, "-m", "autoresearch_jax.cli", "swarm", "serve", where, "--poll_seconds=600"]
    said = tmp_path / "said"
    with said.open("w") as out, subprocess.Popen(words, stdout=out, stderr=out) as serve:
        try:
            wait_for(lambda: "serving:" in said.read_text())
            assert cli.main(["swarm", "serve", where]) == 1
            who = f"swarm serve (pid {serve.pid} on {socket.gethostname()})"
            assert capsys.readouterr().err == (
                f"autoresearch swarm: {alice.folder.path}: {who} is at work already: one is enough for a folder\n"
            )
            heard = Claims("bob", lambda: {"alice"})
            with at_work(place, "bob", connect=(endpoint,)) as bob, session(bob.settings, heard):
                Claims("alice", tuple, relay=alice.folder.claims).announce(["program"], "task", "cpu", 100.0)
                alice.offer([(make_finding("first"), BASE)])
                assert cli.main(["swarm", "sync", where]) == 0
                line = f"{who} answers members, and sends what waits in {alice.outbox.path}"
                assert capsys.readouterr() == (f"served:              {line}\n", "")
                with monkeypatch.context() as alone:
                    alone.setattr(SwarmFolder, "server", lambda folder: None)  # as beside a run
                    assert cli.main(["swarm", "sync", where]) == 1
                said_there = capsys.readouterr().err
                assert said_there.startswith(f"autoresearch swarm: {endpoint}: another process listens there, such as ")
                exchange = MemberExchange(alice.folder, "alice", os.environ, print)
                beside = place.peer("alice", exchange=exchange, remote="", **tls)  # of a run
                assert not beside.round().answered
                assert place.said("alice") == [line]
                wait_for(lambda: ("alice", "first") in read_by(bob))
                wait_for(lambda: not alice.outbox.names())
                wait_for(lambda: heard.holder("program", "task", "cpu") == "alice")
        finally:
            serve.terminate()
    assert (serve.returncode, "FATAL" in said.read_text()) == (0, False)
    assert alice.folder.server() is None


def test_a_process_that_fails_ends_though_its_session_is_open(place: Place, endpoint: str):
    place.peer("bob", remote="", listen=(endpoint.replace("tls", "tcp"),), router=True)
    code = f"""
import os
from pathlib import Path
from autoresearch_jax.swarm.background import JoinedPeer
from autoresearch_jax.swarm.membership import SwarmFolder
joined = JoinedPeer(SwarmFolder(Path({str(place.folder("bob").path.parent)!r})), os.environ, print)
joined.notices(print, print).open()
raise SystemExit(3)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 3


def test_a_claim_is_heard_until_it_is_over_or_its_time_is(place: Place, endpoint: str):
    now = [1000.0]
    names = {"alice", "bob"}
    alice, bob, mallory = (Claims(name, lambda: names, lambda: now[0]) for name in ("alice", "bob", "mallory"))
    settings = place.peer("bob", **place.tls("bob", listen=(endpoint,), router=True)).settings
    there = place.peer("alice", **place.tls("alice", connect=(endpoint,))).settings
    with session(settings, bob), session(there, alice) as notices, session(there, mallory):
        wait_for(lambda: "bob" in notices.answering(10))

        def holder(program: str = "program", device: str = "cpu") -> str | None:
            return bob.holder(program, "task", device)

        endless = '{"id": "alice", "measures": [], "over": [], "seconds": 1' + "0" * 400 + "}"
        notices._session.put(f"{CLAIMS}/alice", endless)  # which no float can hold
        mallory.announce(["program"], "task", "cpu", 100.0)
        alice.announce(["program", "other"], "task", "cpu", 100.0)
        wait_for(holder)
        assert (holder(), holder("other"), holder("third"), holder(device="H100")) == ("alice", "alice", None, None)
        alice.announce(["program"], "task", "cpu", 100.0)
        wait_for(lambda: holder("other") is None)
        now[0] += 199
        assert holder() == "alice"
        now[0] += 2
        assert holder() is None, "twice the longest trial"

        alice.announce([f"{number}" for number in range(100)], "task", "cpu", 1e9)
        wait_for(lambda: sum(holder(f"{number}") == "alice" for number in range(100)) == MAX_CLAIMS)
        held = [f"{number}" for number in range(100) if holder(f"{number}")]
        now[0] += MAX_CLAIM_SECONDS - 1
        alice.announce([*held, "later"], "task", "cpu", 1e9)
        now[0] += 2
        wait_for(lambda: not any(holder(one) for one in held))
        alice.announce([], "task", "cpu", 0.0)
        alice.announce(held[:1], "task", "cpu", 100.0)
        alice.announce(["last"], "task", "cpu", 100.0)
        wait_for(lambda: holder("last"))
        assert holder(held[0]) is None, "a program is held back once, by one peer"
    assert bob.holder("last", "task", "cpu") == "alice", "it was not withdrawn here"
