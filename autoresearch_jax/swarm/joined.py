"""A peer with all that `join` set up for it: its exchange with members, notices and claims."""

from collections.abc import Callable, Mapping

from autoresearch_jax.errors import UserError
from autoresearch_jax.swarm.claims import Claims
from autoresearch_jax.swarm.exchange import MemberExchange
from autoresearch_jax.swarm.membership import SwarmFolder
from autoresearch_jax.swarm.notices import ZenohNotices, require_zenoh
from autoresearch_jax.swarm.peer import Peer


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
