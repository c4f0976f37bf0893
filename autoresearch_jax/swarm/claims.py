"""Claims: which programs members measure now, so that two do not spend on one.

A claim is a digest of a program, its task and device class, with an expiry; a message of a few hundred bytes has all
that are new, go on or are over. It is not signed, and believed no further than "pass this over for now": a liar, who
can use the name of any member, delays a program until the expiry, `MAX_CLAIM_SECONDS` in all for each name, and holds
back `MAX_CLAIMS` at a time for each.

A run without a session, since `swarm serve` of its folder has the address, leaves its claims in a file there, which
`serve` tells.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoresearch_jax.files import write_json
from autoresearch_jax.sanitize import clean_line

MAX_CLAIMS = 16  # of a peer at a time, both heard and told
MAX_CLAIM_BYTES = 1000  # of a message
MIN_CLAIM_SECONDS, MAX_CLAIM_SECONDS = 60.0, 2 * 3600.0
RELAYED_SECONDS = 60.0  # for which what a run left in a file holds
AGAIN_SECONDS = 20.0  # after which claims that go on are told again: for those who came meanwhile
WAITING = 256  # messages that are kept until they are looked at; older ones are dropped
MAX_REMEMBERED = 2000  # programs that a peer ever claimed; it is not heard beyond
CLAIMS = "autoresearch/swarm/claim"
_DIGEST_CHARACTERS = 20


@dataclass
class _Peer:
    """What one peer claimed: until when, by digest, and when each was claimed first."""

    until: dict[str, float] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)


class Claims:
    """The claims of this peer and of others; for use in any thread."""

    def __init__(
        self,
        name: str,
        names: Callable[[], Collection[str]],
        clock: Callable[[], float] = time.monotonic,
        relay: Path | None = None,
    ) -> None:
        """Knows none yet; `relay` is a folder where claims are left while there is no session, None for nowhere."""
        self._name = name
        self._names = names
        self._clock = clock
        self._lock = threading.Lock()
        self._peers: dict[str, _Peer] = {}
        self._session: Any = None
        self._heard: Any = None
        self._told: frozenset[str] = frozenset()
        self._told_at = 0.0
        self._relay = relay
        self._left: frozenset[str] = frozenset()  # in a file
        self._left_at = 0.0

    def opened(self, session: Any) -> None:
        """Tells and hears of claims in a session of zenoh."""
        import zenoh

        with self._lock:
            self._heard = session.declare_subscriber(f"{CLAIMS}/*", zenoh.handlers.RingChannel(WAITING))
            self._session, self._told = session, frozenset()

    def closing(self) -> None:
        """The session is about to be closed: withdraws what is claimed."""
        self.announce((), "", "", 0.0)
        with self._lock:
            self._session = self._heard = None

    def announce(self, programs: Collection[str], fingerprint: str, device_class: str, longest_trial: float) -> None:
        """Claims programs in the place of those that were claimed before; to be called again while they run.

        Args:
          programs: hashes of those that are being measured.
          fingerprint: of the task.
          device_class: on which they are measured.
          longest_trial: seconds; a claim holds twice as long if it is not renewed.
        """
        own = frozenset(sorted(digest_of(one, fingerprint, device_class) for one in programs)[:MAX_CLAIMS])
        seconds = max(MIN_CLAIM_SECONDS, min(2 * longest_trial, MAX_CLAIM_SECONDS))
        if self._session is None:
            self._leave(own, seconds)
        else:
            self._tell(own, seconds)

    def _leave(self, own: frozenset[str], seconds: float) -> None:
        """Leaves claims for `relay` of another process."""
        is_due = own and self._clock() - self._left_at >= AGAIN_SECONDS
        if self._relay is None or (own == self._left and not is_due):
            return
        self._left, self._left_at = own, self._clock()
        with suppress(OSError):  # a claim is a courtesy
            self._relay.mkdir(exist_ok=True)
            write_json(self._relay / f"{os.getpid()}.json", {"seconds": seconds, "measures": sorted(own)})

    def relay(self) -> None:
        """Claims what runs of this folder left, in the place of what was claimed before; to be called again."""
        own, longest = set[str](), MIN_CLAIM_SECONDS
        for path in [] if self._relay is None else self._relay.glob("*.json"):
            with suppress(OSError, ValueError, KeyError, TypeError):
                if time.time() - path.stat().st_mtime > RELAYED_SECONDS:
                    path.unlink()
                    continue
                left = json.loads(path.read_text(encoding="utf-8"))
                own |= set(map(str, left["measures"]))
                longest = max(longest, float(left["seconds"]))
        self._tell(frozenset(sorted(own)[:MAX_CLAIMS]), longest)

    def _tell(self, own: frozenset[str], seconds: float) -> None:
        with self._lock:
            is_due = own and self._clock() - self._told_at >= min(AGAIN_SECONDS, seconds / 3)
            if self._session is None or (own == self._told and not is_due):
                return
            words = {"id": self._name, "seconds": round(seconds), "measures": sorted(own)}
            words["over"] = sorted(self._told - own)[:MAX_CLAIMS]
            self._told, self._told_at = own, self._clock()
            import zenoh  # is there, where there is a session

            try:
                self._session.put(f"{CLAIMS}/{self._name}", json.dumps(words, separators=(",", ":")))
            except zenoh.ZError:  # a claim is a courtesy
                return

    def holder(self, program_hash: str, fingerprint: str, device_class: str) -> str | None:
        """The peer that says it measures a program on this task and device class now; None if none does."""
        digest = digest_of(program_hash, fingerprint, device_class)
        with self._lock:
            self._hear()
            now = self._clock()
            return next((name for name, peer in self._peers.items() if peer.until.get(digest, now) > now), None)

    def _hear(self) -> None:
        if self._heard is None:
            return
        import zenoh

        try:
            for _ in range(WAITING):
                if (sample := self._heard.try_recv()) is None:
                    return
                if len(sample.payload) <= MAX_CLAIM_BYTES:
                    self._take(sample.payload.to_bytes())
        except zenoh.ZError:  # the session was closed
            return

    def _take(self, message: bytes) -> None:
        """Enters a message of another member."""
        try:
            told: Mapping[str, Any] = json.loads(message)
            name, seconds = str(told["id"]), min(max(0.0, float(told["seconds"])), MAX_CLAIM_SECONDS)
            measures, over = ([str(one)[:_DIGEST_CHARACTERS] for one in told[key]] for key in ("measures", "over"))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return
        if name == self._name or name not in self._names():
            return
        peer, now = self._peers.setdefault(name, _Peer()), self._clock()
        for digest in (*over, *(one for one, until in peer.until.items() if until <= now)):
            peer.until.pop(digest, None)
        for digest in measures:
            is_held = digest in peer.until
            is_new = digest not in peer.first
            if (not is_held and len(peer.until) >= MAX_CLAIMS) or (is_new and len(peer.first) >= MAX_REMEMBERED):
                continue
            last = peer.first.setdefault(digest, now) + MAX_CLAIM_SECONDS
            peer.until[digest] = min(now + seconds, last)


def digest_of(program_hash: str, fingerprint: str, device_class: str) -> str:
    """What a claim names: the same for the same program of a task on a device class."""
    words = json.dumps([program_hash, fingerprint, clean_line(device_class)])
    return hashlib.sha256(words.encode()).hexdigest()[:_DIGEST_CHARACTERS]
