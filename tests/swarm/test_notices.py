"""Notices by zenoh over TLS: who has no certificate of the members' authority is told nothing and tells nothing."""

import datetime
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from swarm_place import BASE, Place

from autoresearch_jax.errors import UsageError
from autoresearch_jax.swarm.background import BackgroundPeer
from autoresearch_jax.swarm.joining import check_joining
from autoresearch_jax.swarm.membership import Settings
from autoresearch_jax.swarm.notices import ZenohNotices, check_notices

pytest.importorskip("zenoh", reason="needs eclipse-zenoh")


def write_certificates(folder: Path, authority: str, names: list[str]) -> None:
    """An authority's certificate and those that it signed, with their keys, in PEM."""
    own = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, authority)])
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    for name in (authority, *names):
        key = own if name == authority else ec.generate_private_key(ec.SECP256R1())
        made = x509.CertificateBuilder(issuer, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        made = made.public_key(key.public_key()).serial_number(x509.random_serial_number())
        made = made.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
        if name == authority:
            made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        else:
            made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            made = made.add_extension(usage, critical=False)
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        (folder / f"{name}.pem").write_bytes(made.sign(own, hashes.SHA256()).public_bytes(pem))
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
        (folder / f"{name}.tls").write_bytes(private)


@pytest.fixture
def endpoint() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"tls/127.0.0.1:{free.getsockname()[1]}"


@contextmanager
def opened(settings: Settings, wake=lambda: None) -> Iterator[ZenohNotices]:
    notices = ZenohNotices(settings, wake, lambda text: None)
    notices.open()
    try:
        yield notices
    finally:
        notices.close()


def test_a_member_is_told_at_once_and_a_stranger_never(place: Place, make_finding, endpoint: str):
    write_certificates(place.path, "authority", ["alice", "bob", "carol"])
    write_certificates(place.path, "nobody", ["mallory"])

    def tls(name: str, **given) -> dict:
        own = {"tls_ca": "authority.pem", "tls_certificate": f"{name}.pem", "tls_key": f"{name}.tls", **given}
        return {key: str(place.path / value) if key.startswith("tls_") else value for key, value in own.items()}

    router = place.peer("carol", **tls("carol", listen=(endpoint,), router=True))
    alice, bob = (place.peer(name, **tls(name, connect=(endpoint,))) for name in ("alice", "bob"))
    (unheard,) = [one for one in check_joining(bob.folder, bob.settings, os.environ) if one.name == "notices"]
    assert unheard.fine
    assert f"NO ANSWER at {endpoint}" in unheard.said
    with opened(router.settings):
        (heard,) = [one for one in check_joining(bob.folder, bob.settings, os.environ) if one.name == "notices"]
        assert heard.said == f"carol answered at {endpoint}"
        stranger = replace(bob.settings, name="mallory", **tls("mallory"))
        (silence,) = [one for one in check_joining(bob.folder, stranger, os.environ) if one.name == "notices"]
        assert "NO ANSWER" in silence.said

        came = threading.Event()
        told: list[str] = []

        def tell(text: str) -> None:
            told.append(text)
            if "findings of" in text:
                came.set()

        background = BackgroundPeer(bob, lambda peer: 0, tell, poll_seconds=600, gather_seconds=0)
        notices = ZenohNotices(bob.settings, background.wake, tell)
        background.start(notices)
        alice.offer([(make_finding("first"), BASE)])
        with opened(alice.settings) as others:
            assert "carol" in others.answering(10)
            while "bob" not in others.answering(10):
                pass
            ((ref, commit),) = alice.round().pushed.items()
            others.publish(ref, commit)
            assert came.wait(60), told
        background.close()
        assert told[0] == "swarm: notices come"
        assert place.said("bob") == []


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
