"""A peer in a thread beside a run: it never has the loop wait, and ends with it."""

import threading
from collections.abc import Callable, Iterable
from typing import Protocol

from autoresearch_jax.errors import UserError
from autoresearch_jax.findings.format import Finding
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.swarm.peer import Peer, Round

POLL_SECONDS = 60.0
GATHER_SECONDS = 1.0  # after a notice: those that come at once are one round, and who sends many is no load
FREE_NOTICES = 3  # that bring nothing new, as when two come for one push; each further one doubles the time to the next
CLOSE_SECONDS = 20.0  # that the end of a run waits for its last findings to be pushed


class Notices(Protocol):
    """Tells other peers that a chain has grown; what they tell wakes this one."""

    def refresh(self) -> None:
        """Connects where that is lost; may take some seconds."""
        ...

    def publish(self, ref: str, commit: str) -> None:
        """Tells of a tip that was pushed."""
        ...

    def close(self) -> None:
        """Ends it."""
        ...


class BackgroundPeer:
    """Makes a round each minute, after a notice, and at the end."""

    def __init__(
        self,
        peer: Peer,
        own: Callable[[], Iterable[tuple[Finding, str | None]]],
        notice: Callable[[str], None],
        poll_seconds: float = POLL_SECONDS,
        gather_seconds: float = GATHER_SECONDS,
    ) -> None:
        """Begins nothing yet.

        Args:
          peer: used by the thread alone from now on.
          own: the findings of this run so far; called in the thread.
          notice: is told of failures, in the thread.
          poll_seconds: between two rounds without a notice.
          gather_seconds: between a notice and the round that it brings about.
        """
        self._peer = peer
        self._own = own
        self._notice = notice
        self._poll_seconds = poll_seconds
        self._gather_seconds = gather_seconds
        self._notices: Notices | None = None
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._failure = ""
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
            self._notice("swarm: the remote takes its time: what was not sent waits in the outbox for the next run")
        elif self._notices is not None:
            self._notices.close()

    def round(self) -> Round:
        """One round with what the run found; told by notices."""
        if self._notices is not None and not self._ending.is_set():
            self._notices.refresh()
        self._peer.offer(self._own())
        done = self._peer.round()
        for ref, commit in done.pushed.items():
            if self._notices is not None:
                self._notices.publish(ref, commit)
        self._in_vain = 0 if done.read else self._in_vain + 1
        if done.read:
            peers = ", ".join(sorted({one.peer for one in done.read}))
            self._notice(f"swarm: {len(done.read)} findings of {peers}")
        return done

    def _work(self) -> None:
        while True:
            is_last = self._ending.is_set()
            self._wake.clear()
            try:
                self.round()
                self._failure = ""
            except UserError as error:
                self._fail(str(error))
            except Exception as error:  # a fault of ours must not end the night
                self._fail(f"{type(error).__name__}: {clean_line(str(error))}")
            if is_last:
                return
            if self._wake.wait(self._poll_seconds) and not self._ending.is_set():
                doubled = self._gather_seconds * 2 ** max(0, self._in_vain - FREE_NOTICES)
                self._ending.wait(min(doubled, self._poll_seconds))

    def _fail(self, why: str) -> None:
        if why != self._failure:
            self._failure = why
            self._notice(f"swarm: {why}: goes on without")
