"""Notices by zenoh: a few hundred bytes that say which chain has grown, so that others fetch at once.

A notice is never believed: it only has the next round made soon, which verifies all it reads. So a member can at most
cause rounds, and a stranger needs a certificate. zenoh tells nothing of a connection that fails, such as by a wrong
certificate; what tells is whether a member answers a question.
"""

import atexit
import functools
import importlib.util
import json
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from autoresearch_jax.errors import UsageError, UserError
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.swarm.membership import Settings, is_name

MAX_NOTICE_BYTES = 1000
ANSWER_SECONDS = 5.0
UNANSWERED = "none is at work there, or a certificate, an address or a port is wrong (zenoh does not tell)"
_PURPOSE = 26  # of OpenSSL: a certificate for clients alone, which do not listen
_NOTICES, _HERE = "autoresearch/swarm/notice", "autoresearch/swarm/here"


def require_zenoh() -> None:
    """Checks that zenoh is there.

    Raises:
      UserError: the package is missing.
    """
    if importlib.util.find_spec("zenoh") is None:
        raise UserError(
            "notices need the package eclipse-zenoh, which is missing: in the checkout ./scripts/setup.sh swarm, "
            "elsewhere pip install 'autoresearch_jax[swarm]'"
        )


def check_notices(settings: Settings) -> None:
    """Refuses settings that cannot work.

    Raises:
      UsageError: a flag is missing, or names no file.
    """
    if settings.router and not settings.listen:
        raise UsageError("--router: others connect to a router: say where it listens with --listen=tls/0.0.0.0:7447")
    for endpoint in (*settings.listen, *settings.connect):
        if "/" not in endpoint or ":" not in endpoint:
            raise UsageError(f"{endpoint}: no endpoint of zenoh, such as tls/box:7447")
    files = {"tls_ca": settings.tls_ca, "tls_certificate": settings.tls_certificate, "tls_key": settings.tls_key}
    for name, path in files.items():
        if path and not Path(path).is_file():
            raise UsageError(f"--{name}={path}: no such file: name one in PEM")
        if not path and any(endpoint.startswith("tls/") for endpoint in (*settings.listen, *settings.connect)):
            raise UsageError(f"--{name} is missing, which tls/ needs: all three of {', '.join(files)}")
    if all(files.values()):
        _check_certificate(settings)


def _check_certificate(settings: Settings) -> None:
    """Refuses a certificate that other members would refuse without a word, by a handshake in memory.

    Raises UsageError if the key is that of another one, the authority did not sign it, or its time is over.
    """
    certificate = f"--tls_certificate={settings.tls_certificate}"
    here, there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    there.check_hostname = False
    try:
        here.load_cert_chain(settings.tls_certificate, settings.tls_key, password="")
    except OSError as error:
        why = "is not the key of it, has a passphrase, or one of both is no PEM"
        raise UsageError(f"{certificate}: --tls_key={settings.tls_key} {why}") from error
    try:
        there.load_verify_locations(settings.tls_ca)
    except OSError as error:
        raise UsageError(f"--tls_ca={settings.tls_ca}: no certificate in PEM") from error
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client, server = there.wrap_bio(to_client, to_server), here.wrap_bio(to_server, to_client, server_side=True)
    try:
        for side in (client, server, client):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        if error.verify_code != _PURPOSE:
            said = f"{certificate}: {error.verify_message}: have --tls_ca={settings.tls_ca} sign it"
            raise UsageError(said) from error


def _plain(said: str) -> str:
    """What zenoh says of a session that it cannot open, in plain words where it is one of the usual reasons."""
    if "Address already in use" in said:
        return "another process listens there, such as a run of this folder"
    if "Unable to connect" in said:
        return UNANSWERED
    return clean_line(said.partition(" at /")[0], 200)


class Part(Protocol):
    """What else works in the session of the notices."""

    def opened(self, session: Any) -> None:
        """A session was opened, in the place of one before."""

    def closing(self) -> None:
        """It is about to be closed."""


class ZenohNotices:
    """Tells of this peer's chains, and is told of others'."""

    def __init__(
        self,
        settings: Settings,
        wake: Callable[[], None],
        notice: Callable[[str], None],
        parts: Sequence[Part] = (),
    ) -> None:
        """Opens nothing yet.

        Args:
          settings: of the peer.
          wake: called, in any thread, when another peer tells of a chain.
          notice: is told whether members answer, when that changes.
          parts: that use the same session.
        """
        self._settings = settings
        self._wake = wake
        self._notice = notice
        self._parts = parts
        self._session: Any = None
        self._said = ""

    def refresh(self) -> bool:
        """Opens the session, anew where no member answers; in the thread of the rounds, which it may have wait."""
        problem = self._open()
        is_answered = not problem and next(self._answers(ANSWER_SECONDS), None) is not None
        if is_answered:
            said = "notices come"
        elif not self._settings.connect and not problem:
            said = ""  # others connect to this one
        else:
            self.close()
            where = ", ".join(self._settings.connect)
            said = f"no member answers at {where}" if where else f"cannot listen at {', '.join(self._settings.listen)}"
            said += f": {problem or UNANSWERED};"
            said += " findings are polled for" if self._settings.remote else " it is tried again"
        if said != self._said:
            self._said = said
            if said:
                self._notice(f"swarm: {said}")
        return is_answered or not (self._settings.connect or problem)

    def answering(self, seconds: float) -> set[str]:
        """The names of other members who answer."""
        return set(self._answers(seconds))

    def _answers(self, seconds: float) -> Iterator[str]:
        """The same one by one: a member that was killed takes all the time that there is."""
        import zenoh

        if self._session is None:
            return
        for reply in self._session.get(f"{_HERE}/*", timeout=seconds, target=zenoh.QueryTarget.ALL):
            name = reply.ok.payload.to_bytes().decode("utf-8", "replace") if reply.ok else ""
            if is_name(name) and name != self._settings.name:
                yield name

    def publish(self, ref: str, commit: str) -> None:
        """Tells of a tip that was pushed."""
        import zenoh

        words = json.dumps({"ref": ref, "commit": commit, "id": self._settings.name})
        try:
            if self._session is not None:
                self._session.put(f"{_NOTICES}/{self._settings.name}", words)
        except zenoh.ZError:  # others poll
            self.close()

    def close(self) -> None:
        """Ends the session, if there is one."""
        session, self._session = self._session, None
        atexit.unregister(self.close)
        if session is not None:
            for part in self._parts:
                part.closing()
            session.close()

    def open(self) -> None:
        """Opens the session.

        Raises:
          UserError: zenoh cannot listen or connect.
        """
        if problem := self._open():
            raise UserError(f"{', '.join((*self._settings.listen, *self._settings.connect))}: {problem}")

    def _open(self) -> str:
        """Opens the session if there is none; what fails, else nothing."""
        import zenoh

        if self._session is not None:
            return ""
        try:
            self._session = session = zenoh.open(self._config())
            atexit.register(self.close)  # a process whose session is open does not end
            # Else each gets a thread that Python waits for at its exit.
            callback: Any = functools.partial(zenoh.handlers.Callback, indirect=False)
            session.declare_subscriber(f"{_NOTICES}/*", callback(self._heard))
            own = f"{_HERE}/{self._settings.name}"
            session.declare_queryable(own, callback(lambda query: query.reply(own, self._settings.name)))
            for part in self._parts:
                part.opened(session)
        except zenoh.ZError as error:
            self.close()
            return _plain(str(error))
        return ""

    def _heard(self, sample: Any) -> None:
        """Has a round made; in a thread of zenoh's."""
        payload = sample.payload.to_bytes()
        if len(payload) > MAX_NOTICE_BYTES:
            return
        try:
            told = json.loads(payload)
            is_other = isinstance(told, dict) and told.get("id") != self._settings.name
        except (ValueError, RecursionError):
            return
        if is_other:
            self._wake()

    def _config(self) -> Any:
        import zenoh

        settings, config = self._settings, zenoh.Config()
        mode = "router" if settings.router else "peer" if settings.listen else "client"
        words: dict[str, Any] = {
            "mode": mode,
            "scouting/multicast/enabled": False,
            "listen/endpoints": list(settings.listen),
            "connect/endpoints": list(settings.connect),
            "connect/timeout_ms": 0,
            "connect/exit_on_failure": False,
            "transport/shared_memory/enabled": False,  # takes 16 MB for each member on the same host
        }
        if settings.tls_ca:
            words["transport/link/tls"] = {
                "root_ca_certificate": settings.tls_ca,
                "enable_mtls": True,
                # The authority signs members alone, so each certificate of its is good for each address.
                "verify_name_on_connect": False,
                **{f"{side}_certificate": settings.tls_certificate for side in ("listen", "connect")},
                **{f"{side}_private_key": settings.tls_key for side in ("listen", "connect")},
            }
        for key, value in words.items():
            config.insert_json5(key, json.dumps(value))
        return config
