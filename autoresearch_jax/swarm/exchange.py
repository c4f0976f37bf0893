"""Chains without a common remote: members ask each other by zenoh for tips, and for what they lack as git bundles.

Each answers for all chains that it has found to be in order, so that a chain outlives its author. What comes is checked
as what a remote has. A member may name any tip of another's chain, or not send it: the others are asked in random order
and such a tip is left alone for some minutes, so that it delays a chain and no more.
"""

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from autoresearch_jax.engine.git import GitError
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.swarm.membership import SwarmFolder, is_name
from autoresearch_jax.swarm.serving import BUNDLES, MAX_TIPS_BYTES, TIPS, ChainServer, digest_of, read_tips
from autoresearch_jax.swarm.store import MAX_FETCH_BYTES, Pushed, Store, chain_tips
from autoresearch_jax.swarm.transport import FETCH_SECONDS

TIPS_SECONDS = 5.0  # that members have to name their tips
ROUND_SECONDS = 60.0  # after which a round asks for no further bundle
MEMBERS_ASKED = 3  # for one chain, in a round
MISSED_SECONDS = 60.0  # for which a tip is left alone that no member sent
TRIED_SECONDS = 600.0  # and one that came and, since it is named again, was refused
MAX_ANSWERS_BYTES = 8 * MAX_TIPS_BYTES  # of all members together
_REMEMBERED = 10_000  # tips


class MemberExchange:
    """What other members have; see `transport.Transport`. Answers them, too, while the session of zenoh is open."""

    where = "the exchange with members by zenoh"
    refusals = "refused_of_members"
    lists_all = False

    def __init__(
        self,
        folder: SwarmFolder,
        name: str,
        environment: Mapping[str, str],
        notice: Callable[[str], None],
        *,
        answers: bool = True,
    ) -> None:
        """Asks nothing yet; `notice` is told once of each chain that cannot be sent, in a thread."""
        self._store = Store(folder.store, environment)
        self._server = ChainServer(Store(folder.store, environment), name, notice)
        self._notice = notice
        self._answers = answers
        self._session: Any = None
        self._offered: dict[str, list[str]] = {}  # members who have the tip of a ref that was found last
        self._left_alone: dict[tuple[str, str], float] = {}  # tips of refs, and until when
        self._known: set[tuple[str, str]] = set()  # tips of refs that a chain here goes on from
        self._told: set[str] = set()

    def opened(self, session: Any) -> None:
        """Asks in a session of zenoh from now on, and answers there."""
        self._session = session
        if self._answers:
            self._server.start(session)

    def closing(self) -> None:
        """The session is about to be closed: waits briefly for a member to take what was pushed last."""
        self._session = None
        self._server.end()

    def tips(self, here: Mapping[str, str]) -> Mapping[str, str]:
        """See `Transport.tips`: of a chain that no member has more of the tip here."""
        self._server.forget()
        found = {ref: tip for ref, (_, tip) in chain_tips(here).items()}
        own, now, self._offered = dict(found), time.monotonic(), {}
        if len(self._left_alone) + len(self._known) > _REMEMBERED:
            self._left_alone.clear()
            self._known.clear()
        answers = self._ask_all(digest_of(own))
        random.shuffle(answers)
        for member, tips in answers:
            for ref, tip in tips.items():
                if ref in self._offered:
                    if found[ref] == tip:
                        self._offered[ref].append(member)
                elif self._left_alone.get((ref, tip), now) <= now and not self._is_known(ref, tip, own.get(ref)):
                    found[ref], self._offered[ref] = tip, [member]
        return found

    def fetch(self, wanted: Mapping[str, str], failed: Callable[[str, str], None]) -> Iterator[list[str]]:
        """See `Transport.fetch`; a member that does not answer is asked for nothing more in this round."""
        here = chain_tips(self._store.refs("refs/"))
        silent, deadline = set[str](), time.monotonic() + ROUND_SECONDS
        for ref, tip in wanted.items():
            have = here.get(ref, ("", None))[1]
            self._left_alone[ref, tip] = time.monotonic() + MISSED_SECONDS
            for member in [one for one in self._offered.get(ref, ()) if one not in silent][:MEMBERS_ASKED]:
                if time.monotonic() > deadline:
                    return
                silent.add(member)
                for bundle in self._ask_one(member, ref, have):
                    silent.discard(member)
                    if self._take(bundle, member, ref, tip):
                        yield [ref]
                        break
                else:
                    continue
                break
        self._server.forget()

    def _take(self, bundle: bytes, member: str, ref: str, tip: str) -> bool:
        """Unpacks what a member sent, in which a tip should be."""
        if not bundle:
            return False
        try:
            self._store.take_bundle(bundle, ref, tip, FETCH_SECONDS)
        except GitError as error:
            self._tell(f"{ref} of {member}: {error}")
            return False
        self._left_alone[ref, tip] = time.monotonic() + TRIED_SECONDS
        return True

    def push(self, commit: str, ref: str, expected: str | None) -> Pushed:
        """See `Transport.push`: others take it from here."""
        self._server.pushed(ref, commit)
        return Pushed(True, "")

    def _is_known(self, ref: str, tip: str, own: str | None) -> bool:
        """Whether a tip is that of the chain here, or comes before it."""
        if own is None or (ref, tip) in self._known:
            return own is not None
        if own != tip and not self._store.descends(own, tip):
            return False
        self._known.add((ref, tip))
        return True

    def _ask_all(self, digest: str) -> list[tuple[str, Mapping[str, str]]]:
        """The members who answer, by the names that they give, and their tips; none where they are those here."""
        answers, size = [], 0
        for reply in self._get(f"{TIPS}/*", digest.encode(), TIPS_SECONDS):
            if not reply.ok:
                continue
            payload = reply.ok.payload.to_bytes()
            size += len(payload) + 1000
            if size > MAX_ANSWERS_BYTES:
                break
            name = str(reply.ok.key_expr).rpartition("/")[2]
            if is_name(name):
                answers.append((name, read_tips(payload)))
        if not answers:
            raise GitError("no member answers by zenoh")
        return answers

    def _ask_one(self, member: str, ref: str, have: str | None) -> Iterator[bytes]:
        """What a member has of a chain beyond a commit, as a bundle, empty if it says why not.

        Of several who have its name each answers.
        """
        for reply in self._get(f"{BUNDLES}/{member}", json.dumps({"ref": ref, "have": have}).encode(), FETCH_SECONDS):
            if reply.ok and len(reply.ok.payload) <= MAX_FETCH_BYTES:
                yield reply.ok.payload.to_bytes()
                continue
            why = "too large" if reply.ok else clean_line(reply.err.payload.to_bytes()[:200].decode("utf-8", "replace"))
            self._tell(f"{ref} is not sent by {member}: {why}")
            yield b""

    def _get(self, key: str, payload: bytes, seconds: float) -> Iterator[Any]:
        """Replies to a query, as they come; raises GitError if there is no session."""
        import zenoh

        if self._session is None:
            raise GitError("no member answers by zenoh")
        try:
            yield from self._session.get(
                key,
                payload=payload,
                timeout=seconds,
                target=zenoh.QueryTarget.ALL,
                consolidation=zenoh.ConsolidationMode.NONE,
                allowed_destination=zenoh.Locality.REMOTE,
            )
        except zenoh.ZError as error:
            raise GitError(f"zenoh fails: {clean_line(str(error), 200)}") from error

    def _tell(self, text: str) -> None:
        if text not in self._told and len(self._told) < 100:
            self._told.add(text)
            self._notice(text)
