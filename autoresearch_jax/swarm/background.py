"""A peer in a thread beside a run: it never has the loop wait, and ends with it."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Protocol

from autoresearch_jax.errors import UserError
from autoresearch_jax.sanitize import clean_line, counted
from autoresearch_jax.swarm.chain import MAX_COMMITS
from autoresearch_jax.swarm.claims import Claims
from autoresearch_jax.swarm.exchange import MemberExchange
from autoresearch_jax.swarm.membership import SwarmError, SwarmFolder, read_members
from autoresearch_jax.swarm.notices import ZenohNotices, require_zenoh
from autoresearch_jax.swarm.peer import Peer
from autoresearch_jax.swarm.store import FINDINGS

POLL_SECONDS = 60.0
EXCHANGE_SECONDS = 30.0  # the same where members exchange chains without a remote
LOOK_SECONDS = 5.0
RETRY_SECONDS = 5.0  # after the first round that the remote did not answer; doubled up to `POLL_SECONDS`
CONNECT_SECONDS = 2.0  # the same after the first time that no member answered, as when all begin at once
GATHER_SECONDS = 0.5  # after a notice: those that come at once are one round, and who sends many is no load
FREE_NOTICES = 3  # that bring nothing new, as when two come for one push; each further one doubles the time to the next
CLOSE_SECONDS = 20.0  # that the end of a run waits for its last findings to be pushed


class Notices(Protocol):
    """Tells other peers that a chain has grown; what they tell wakes this one."""

    def refresh(self) -> bool:
        """Connects where that is lost, which may take some seconds; false if it is worth trying again soon."""

    def publish(self, ref: str, commit: str) -> None:
        """Tells of a tip that was pushed."""

    def close(self) -> None:
        """Ends it."""


class BackgroundPeer:
    """Makes a round each minute, after a notice, when the run found something, and at the end."""

    def __init__(
        self,
        peer: Peer,
        own: Callable[[Peer], int],
        notice: Callable[[str], None],
        poll_seconds: float = POLL_SECONDS,
        look_seconds: float = LOOK_SECONDS,
        gather_seconds: float = GATHER_SECONDS,
    ) -> None:
        """Begins nothing yet.

        Args:
          own: offers the peer what the run found, and returns how much of it is new; called in the thread, every few
            seconds.
          poll_seconds: between two rounds without a notice.
          look_seconds: between two looks at what the run found.
          gather_seconds: between a notice and the round that it brings about.
        """
        self._peer = peer
        self._own = own
        self._notice = notice
        self._poll_seconds = poll_seconds
        self._look_seconds = look_seconds
        self._gather_seconds = gather_seconds
        self._notices: Notices | None = None
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._failure = ""
        self._waiting: frozenset[str] = frozenset()  # in the outbox, at the last look
        self._next_seconds = poll_seconds  # until the next round, if nothing comes up
        self._connect_at = -math.inf  # when it is seen next whether notices come
        self._connect_seconds = CONNECT_SECONDS
        self._has_begun = False  # the first round is over
        self._first_tip: str | None = None  # of this peer's findings, before it
        self._in_vain = 0  # notices in a row after which there was nothing new
        self._thread = threading.Thread(target=self._work, name="swarm", daemon=True)

    def start(self, notices: Notices | None = None) -> None:
        """Begins; what is pushed is told by `notices`, if there are any, which are closed at the end."""
        self._notices = notices
        self._thread.start()

    def wake(self) -> None:
        """Has a round made soon; from any thread."""
        self._wake.set()

    def close(self) -> None:
        """Makes a last round, which sends what the run found last, and waits for it, but not for long."""
        self._ending.set()
        self._wake.set()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._notice("swarm: the network takes its time: what was not sent waits in the outbox for the next run")
            return
        self._guarded(self._tell_end)
        if self._notices is not None:
            self._notices.close()

    def _work(self) -> None:
        is_told = False  # the round is made because of a notice
        while True:
            is_last = self._ending.is_set()
            self._wake.clear()
            if not is_last:
                self._connect()
            found = self._guarded(self._round)
            self._in_vain = self._in_vain + 1 if is_told and not found else 0
            if is_last:
                return
            is_told = self._wait()
            if is_told and not self._ending.is_set():
                doubled = self._gather_seconds * 2 ** max(0, self._in_vain - FREE_NOTICES)
                self._ending.wait(min(doubled, self._poll_seconds))

    def _connect(self) -> None:
        """Sees to it that notices come, if it is time."""
        if self._notices is None or time.monotonic() < self._connect_at:
            return
        if self._peer.folder.server_for(self._peer.settings) is None and self._guarded(self._notices.refresh):
            wait, self._connect_seconds = self._poll_seconds, CONNECT_SECONDS
        else:
            wait = min(self._connect_seconds, self._poll_seconds)
            self._connect_seconds *= 2
        self._connect_at = time.monotonic() + wait

    def _wait(self) -> bool:
        """Waits until a round is due; true if a notice has it made."""
        due = time.monotonic() + self._next_seconds
        if self._notices is not None:
            due = min(due, self._connect_at)
        while (left := due - time.monotonic()) > 0:
            if self._wake.wait(min(left, self._look_seconds)):
                return True
            if self._guarded(self._look):
                return False
        return False

    def _look(self) -> bool:
        """Puts what the run found into the outbox; true if anything new is there, also of another process."""
        count = self._own(self._peer)
        waited, self._waiting = self._waiting, self._peer.outbox.names()
        return count > 0 or bool(self._waiting - waited)

    def _round(self) -> bool:
        """One round, what it pushed told by notices; true if it read anything."""
        is_first = not self._has_begun
        if is_first:
            self._first_tip = self._peer.own_tip(FINDINGS)
        self._look()
        done = self._peer.round(self._pushed)
        again = RETRY_SECONDS if self._next_seconds == self._poll_seconds else 2 * self._next_seconds
        self._next_seconds = self._poll_seconds if done.answered else min(again, self._poll_seconds)
        self._failure = ""
        if done.read:
            peers = ", ".join(sorted({one.peer for one in done.read}))
            self._notice(f"swarm: {counted(len(done.read), 'finding')} of {peers}")
        if is_first:
            self._has_begun = True
            self._tell_begin(answered=done.answered)
        return bool(done.read)

    def _tell_begin(self, *, answered: bool) -> None:
        """A line on who takes part, and what was read so far; whether notices come, they tell themselves."""
        peer = self._peer
        members = 0
        with suppress(SwarmError):  # of which the round has told
            members = len(read_members(peer.members))
        read = counted(sum(1 for _ in peer.folder.findings.glob("*.md")), "finding")
        who = "the remote" if peer.settings.remote else "a member"
        answer = f"{who} answers" if answered else f"{who} has not answered yet"
        self._notice(f"swarm: as {peer.settings.name}, {counted(members, 'member')}, {read} of peers here; {answer}")

    def _tell_end(self) -> None:
        """A line on what was sent, also by another process of this folder, and what was not."""
        peer = self._peer
        tip = peer.own_tip(FINDINGS)
        chain = [] if tip is None or not self._has_begun else peer.store.chain(tip, self._first_tip, MAX_COMMITS)
        waiting = len(peer.outbox.waiting(FINDINGS))
        left = f", {waiting} in the outbox for the next run, `sync` or `serve`" if waiting else ""
        self._notice(f"swarm: {counted(len(chain), 'finding')} sent{left}")

    def _pushed(self, ref: str, commit: str) -> None:
        if self._notices is not None:
            self._notices.publish(ref, commit)

    def _guarded(self, act: Callable[[], object]) -> bool:
        """Does something that may fail; false then, and what failed is told of once."""
        try:
            return bool(act())
        except UserError as error:
            self._fail(str(error))
        except Exception as error:  # a fault of ours must not end the night
            self._fail(f"{type(error).__name__}: {clean_line(str(error))}")
        return False

    def _fail(self, why: str) -> None:
        if why != self._failure:
            self._failure = why
            self._notice(f"swarm: {why}: goes on without")


class JoinedPeer:
    """A peer, what other members measure, and its notices."""

    def __init__(self, folder: SwarmFolder, environment: Mapping[str, str], notice: Callable[[str], None]) -> None:
        """Opens the peer's folder, and nothing of the network yet.

        Raises SwarmError if this folder is no peer's; GitError if there is no git.
        """
        settings = folder.read_settings()
        exchange = None
        if settings.has_notices:
            try:
                require_zenoh()
                exchange = MemberExchange(folder, settings.name, environment, notice)
            except UserError as error:
                notice(f"{error}: {'findings are polled for' if settings.remote else 'nothing is shared'}")
        self.peer = Peer(folder, environment, notice, exchange=exchange)
        relay = folder.claims if settings.has_notices else None
        self.claims = Claims(settings.name, lambda: self.peer.names, relay=relay)
        self._exchange = exchange

    def notices(self, wake: Callable[[], None], notice: Callable[[str], None]) -> ZenohNotices | None:
        """Notices, with the exchange and claims in their session; None where none were asked for or can be had."""
        if self._exchange is None:
            return None
        return ZenohNotices(self.peer.settings, wake, notice, (self._exchange, self.claims))
