"""Answers members who ask for chains: which tips are here, and a chain's commits as a git bundle.

Queries wait in short rings of zenoh's, outside of Python, of which the oldest are dropped. Two threads take them from
there, and work a bounded share of the time: a member that floods with queries gets few answers and slows no run.
"""

import hashlib
import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from autoresearch_jax.engine.git import GitError
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.swarm.membership import is_name
from autoresearch_jax.swarm.store import KINDS, MAX_FETCH_BYTES, REMOTE_PREFIX, Store, chain_tips, peer_of
from autoresearch_jax.swarm.transport import FETCH_SECONDS

TIPS, BUNDLES = "autoresearch/swarm/tips", "autoresearch/swarm/bundle"
MAX_TIPS_BYTES = 512 * 1024  # of an answer: 2,400 members
MAX_QUERY_BYTES = 1000
WAITING = 64  # queries of a kind
LOOK_SECONDS = 0.1  # between two looks for queries
WORK_SHARE, WORK_AHEAD_SECONDS = 0.05, 10.0  # of a thread's time; and what it may work at once, as when many join
SENT_BYTES_A_SECOND = 32 * 2**20  # as fast as an answer counts to be sent
CACHE_BYTES = 16 * 2**20
TIPS_KEPT_SECONDS = 0.5  # for which they are not read again: all members ask at once after a notice
FAILED_SECONDS = 60.0
END_SECONDS = 5.0  # that an answer under way has at the end
TAKEN_SECONDS = 8.0  # that the end waits for a member to take what was pushed last
_ASKED_SECONDS = 60.0  # within which a member asked for something, so that one is there
_COMMIT = re.compile(r"[0-9a-f]{40}")


class ChainServer:
    """Tells tips and sends bundles of the chains in a store."""

    def __init__(self, store: Store, name: str, notice: Callable[[str], None]) -> None:
        """Answers nothing yet; the store is for the threads here alone."""
        self._store = store
        self._name = name
        self._notice = notice
        self._lock = threading.Condition()
        self._read: tuple[float, Mapping[str, tuple[str, str]]] = (0.0, {})  # tips, and until when they hold
        self._pushed: dict[str, str] = {}  # tips that no member took yet
        self._answering: list[threading.Thread] = []
        self._ending = threading.Event()
        self._asked_at = -_ASKED_SECONDS
        self._bundles: OrderedDict[tuple[str, str | None, str], bytes] = OrderedDict()
        self._failed: dict[tuple[str, str], float] = {}  # tips that cannot be sent, and until when they are not tried

    def start(self, session: Any) -> None:
        """Answers in a session of zenoh until `end`."""
        import zenoh

        self._ending = threading.Event()
        for key, answer in ((TIPS, self._tips_for), (BUNDLES, self._bundle_for)):
            queries = session.declare_queryable(f"{key}/{self._name}", zenoh.handlers.RingChannel(WAITING))
            words = (queries, f"{key}/{self._name}", answer, self._ending)
            thread = threading.Thread(target=_answer_all, args=words, name="swarm-answers", daemon=True)
            thread.start()
            self._answering.append(thread)

    def forget(self) -> None:
        """The tips may be others from now on."""
        with self._lock:
            self._read = (0.0, {})

    def pushed(self, ref: str, tip: str) -> None:
        """This peer's chain has grown; no other member has that yet."""
        with self._lock:
            self._pushed[ref] = tip
            self._read = (0.0, {})

    def end(self) -> None:
        """Answers no more, once a member took what was pushed, if one is there, or after `TAKEN_SECONDS`."""
        with self._lock:
            if time.monotonic() - self._asked_at < _ASKED_SECONDS:
                self._lock.wait_for(lambda: not self._pushed, TAKEN_SECONDS)
            self._pushed.clear()
        self._ending.set()
        for thread in self._answering:
            thread.join(END_SECONDS)
        self._answering.clear()

    def _tips(self) -> Mapping[str, tuple[str, str]]:
        """Of each chain its ref here and its tip."""
        with self._lock:
            until, tips = self._read
        if time.monotonic() > until:
            tips = chain_tips(self._store.refs("refs/"))
            with self._lock:
                self._read = (time.monotonic() + TIPS_KEPT_SECONDS, tips)
        return tips

    def _tips_for(self, query: bytes) -> bytes:
        self._asked_at = time.monotonic()
        tips = {ref: tip for ref, (_, tip) in self._tips().items()}
        return b"{}" if query.decode("ascii", "replace") == digest_of(tips) else json.dumps(tips).encode()

    def _bundle_for(self, query: bytes) -> bytes:
        asked = json.loads(query)
        ref, have = str(asked["ref"]), asked["have"]
        place, tip = self._tips()[ref]
        if not (isinstance(have, str) and _COMMIT.fullmatch(have) and self._store.sizes([have]) != [None]):
            have = None  # of another chain, or one that is longer here
        key = (ref, have, tip)
        bundle = self._bundles.get(key)
        if bundle is None:
            if self._failed.get((ref, tip), 0.0) > time.monotonic():
                raise GitError(f"it has more than {MAX_FETCH_BYTES:,} bytes, or cannot be packed")
            try:
                bundle = self._bundles[key] = self._store.make_bundle(place, have, FETCH_SECONDS)
            except GitError as error:
                if (ref, tip) not in self._failed:
                    self._notice(f"{ref} cannot be sent, or has more than {MAX_FETCH_BYTES:,} bytes: {error}")
                self._failed[ref, tip] = time.monotonic() + FAILED_SECONDS
                self._is_taken(ref, tip)
                raise
        self._bundles.move_to_end(key)
        while len(self._bundles) > 1 and sum(map(len, self._bundles.values())) > CACHE_BYTES:
            self._bundles.popitem(last=False)
        self._is_taken(ref, tip)
        return bundle

    def _is_taken(self, ref: str, tip: str) -> None:
        """Nobody has to be waited for any more that could take this."""
        with self._lock:
            if self._pushed.get(ref) == tip:
                del self._pushed[ref]
                self._lock.notify_all()


def _answer_all(queries: Any, key: str, answer: Callable[[bytes], bytes], ending: threading.Event) -> None:
    """Answers the queries of one kind until the end.

    A thread that waited inside of zenoh for the next one would abort the process at its exit.
    """
    import zenoh

    left, since = WORK_AHEAD_SECONDS, time.monotonic()
    while not ending.is_set():
        try:
            query = queries.try_recv()
        except zenoh.ZError:  # the session was closed
            return
        if query is None:
            ending.wait(LOOK_SECONDS)
            continue
        began = time.monotonic()
        left = min(WORK_AHEAD_SECONDS, left + WORK_SHARE * (began - since))
        since, sent = began, b""
        try:
            with query:
                try:
                    payload = b"" if query.payload is None else query.payload.to_bytes()
                    if len(payload) > MAX_QUERY_BYTES:
                        raise ValueError("too long")
                    sent = answer(payload)
                except (ValueError, KeyError, TypeError, RecursionError):
                    query.reply_err(b"not understood, or unknown here")
                except (GitError, OSError) as error:
                    query.reply_err(clean_line(str(error), 200).encode())
                else:
                    query.reply(key, sent)
        except zenoh.ZError:  # it is over, or its asker gone
            continue
        left -= time.monotonic() - began + len(sent) / SENT_BYTES_A_SECOND
        if left < 0:
            ending.wait(-left / WORK_SHARE)


def digest_of(tips: Mapping[str, str]) -> str:
    """A digest of tips by ref; members with the same have nothing to tell each other."""
    return hashlib.sha256(json.dumps(tips, sort_keys=True).encode()).hexdigest()[:32]


def read_tips(payload: bytes) -> Mapping[str, str]:
    """The tips that a member names, by ref; what is none is left out."""
    try:
        told = json.loads(payload) if len(payload) <= MAX_TIPS_BYTES else None
    except (ValueError, RecursionError):
        return {}
    found = {}
    for ref, tip in told.items() if isinstance(told, dict) else ():
        kind, name = peer_of(ref)
        whole = f"{REMOTE_PREFIX}{kind}/{name}" == ref
        if whole and kind in KINDS and is_name(name) and isinstance(tip, str) and _COMMIT.fullmatch(tip):
            found[ref] = tip
    return found
