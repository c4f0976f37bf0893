"""Notices by zenoh over TLS: who has no certificate of the members' authority is told nothing and tells nothing."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from swarm_place import BASE, Place, write_certificates

from autoresearch_jax.errors import UsageError
from autoresearch_jax.swarm.background import BackgroundPeer
from autoresearch_jax.swarm.joining import check_joining
from autoresearch_jax.swarm.membership import Settings
from autoresearch_jax.swarm.notices import ZenohNotices, check_notices

pytest.importorskip("zenoh", reason="needs eclipse-zenoh")


@contextmanager
def opened(settings: Settings, notice=lambda text: None) -> Iterator[ZenohNotices]:
    notices = ZenohNotices(settings, lambda: None, notice)
    notices.open()
    try:
        yield notices
    finally:
        notices.close()


def test_a_member_is_told_at_once_and_a_stranger_never(place: Place, make_finding, endpoint: str):
    write_certificates(place.path, "authority", ["alice", "bob", "carol"])
    write_certificates(place.path, "nobody", ["mallory"])

    router = place.peer("carol", **place.tls("carol", listen=(endpoint,), router=True))
    alice, bob = (place.peer(name, **place.tls(name, connect=(endpoint,))) for name in ("alice", "bob"))
    (unheard,) = [one for one in check_joining(bob.folder, bob.settings, os.environ) if one.name == "notices"]
    assert unheard.fine
    assert f"NO ANSWER at {endpoint}: none is at work there, or a certificate" in unheard.said
    of_router: list[str] = []
    with opened(router.settings, of_router.append) as hub:
        (heard,) = [one for one in check_joining(bob.folder, bob.settings, os.environ) if one.name == "notices"]
        assert heard.said == f"carol answered at {endpoint}"
        stranger = replace(bob.settings, name="mallory", **place.tls("mallory"))
        (silence,) = [one for one in check_joining(bob.folder, stranger, os.environ) if one.name == "notices"]
        assert "NO ANSWER" in silence.said

        again: list[str] = []
        second = ZenohNotices(router.settings, print, again.append)  # as `run` beside `serve`
        assert not second.refresh()
        assert [f"{endpoint}: another process listens there" in said for said in again] == [True]

        came = threading.Event()
        told: list[str] = []

        def tell(text: str) -> None:
            told.append(text)
            if "1 finding of alice" in text:
                came.set()

        background = BackgroundPeer(bob, lambda peer: 0, tell, poll_seconds=600, gather_seconds=0)
        notices = ZenohNotices(bob.settings, background.wake, tell)
        background.start(notices)
        alice.offer([(make_finding("first"), BASE)])
        with opened(alice.settings) as others:
            odd = "autoresearch/swarm/here/odd"
            others._session.declare_queryable(odd, lambda query: query.reply(odd, b"\xff"))  # as a member might
            assert "carol" in others.answering(10)
            while "bob" not in others.answering(10):
                pass
            ((ref, commit),) = alice.round().pushed.items()
            hub.refresh()
            others.publish(ref, commit)
            assert came.wait(60), told
        background.close()
        hub.refresh()
        assert of_router == ["swarm: notices come"], "nothing to say where others connect to this one"
        assert told[0] == "swarm: notices come"
        assert place.said("bob") == []


def test_a_certificate_that_others_would_refuse_is_refused_here(place: Place):
    write_certificates(place.path, "authority", ["alice", "bob"])
    write_certificates(place.path, "nobody", ["mallory"])

    def check(**given) -> None:
        check_notices(Settings("r", "n", "k", "m", **place.tls("alice", listen=("tls/box:1",), **given)))

    check()
    for given, said in (
        ({"tls_key": "bob.tls"}, "alice.pem: --tls_key=.*bob.tls is not the key of it"),
        ({"tls_ca": "nobody.pem"}, "alice.pem: unable to get local issuer certificate: have --tls_ca=.*nobody.pem"),
        ({"tls_ca": "alice.tls"}, "--tls_ca=.*alice.tls: no certificate in PEM"),
    ):
        with pytest.raises(UsageError, match=said):
            check(**given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"router": True}, "--router"),
        ({"listen": ("box",)}, "no endpoint of zenoh"),
        ({"listen": ("tls/box:1",)}, "--tls_ca is missing"),
        ({"connect": ("tls/box:1",), "tls_ca": "/nowhere"}, "--tls_ca=/nowhere: no such file"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(given: dict, said: str):
    with pytest.raises(UsageError, match=said):
        check_notices(Settings("r", "n", "k", "m", **given))
