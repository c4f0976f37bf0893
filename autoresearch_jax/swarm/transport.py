"""How chains come and go: what a round needs of it, and the git remote that all members push to."""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from autoresearch_jax.engine.git import GitError
from autoresearch_jax.swarm.store import MAX_FETCH_BYTES, Pushed, Store

FETCH_SECONDS = 15.0  # that a fetch may take at first


class Transport(Protocol):
    """A way to other members' chains."""

    where: str  # what messages call it
    refusals: str  # name, in a peer's state, of what was refused of what came this way
    lists_all: bool  # whether a chain that it does not list is gone

    def tips(self, here: Mapping[str, str]) -> Mapping[str, str]:
        """The tips of all chains, by ref.

        Args:
          here: the refs of the store.

        Raises:
          GitError: nothing answers.
        """

    def fetch(self, wanted: Mapping[str, str], failed: Callable[[str, str], None]) -> Iterator[list[str]]:
        """Has chains come into the store, where they are not checked yet; yields the refs that came together.

        Args:
          wanted: tips by ref, as `tips` had them.
          failed: is told of a ref that is not to be tried again soon, and why.

        Raises:
          GitError: nothing answers.
        """

    def push(self, commit: str, ref: str, expected: str | None) -> Pushed:
        """Makes a commit of the store the tip of this peer's chain, if that is at `expected`; None if there is none."""


class GitRemote:
    """A git remote that all members push to; see `Transport`."""

    refusals = "refused"
    lists_all = True

    def __init__(self, store: Store, url: str) -> None:
        self.where = url
        self._store = store

    def tips(self, here: Mapping[str, str]) -> Mapping[str, str]:
        """See `Transport.tips`."""
        return self._store.remote_refs(self.where)

    def push(self, commit: str, ref: str, expected: str | None) -> Pushed:
        """See `Transport.push`."""
        return self._store.push(self.where, commit, ref, expected)

    def fetch(self, wanted: Mapping[str, str], failed: Callable[[str, str], None]) -> Iterator[list[str]]:
        """See `Transport.fetch`: all at once, or one by one where one of them cannot be had.

        One that is slow or too large holds up the others for `FETCH_SECONDS` or two.
        """
        if not wanted:
            return
        try:
            self._store.fetch(self.where, wanted, FETCH_SECONDS)
            yield list(wanted)
            return
        except GitError:
            self._store.remote_refs(self.where)  # raises where it is the remote that fails
        slow = []
        for ref in wanted if len(wanted) > 1 else ():
            try:
                self._store.fetch(self.where, [ref], FETCH_SECONDS)
                yield [ref]
            except GitError:
                slow.append(ref)
        for ref in slow if len(wanted) > 1 else wanted:
            try:
                self._store.fetch(self.where, [ref])
                yield [ref]
            except GitError as error:
                failed(ref, f"cannot be fetched, or has more than {MAX_FETCH_BYTES:,} bytes: {error}")
