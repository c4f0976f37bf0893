"""The page of a run while it goes on, for a browser on this machine. It reads the run and cannot disturb it.

autoresearch watch --tag=nov20
autoresearch watch --tag=nov20 --host=0.0.0.0 --token=SECRET    # for other machines, too
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from autoresearch_jax.commands.folder_options import FolderOptions
from autoresearch_jax.commands.options import option
from autoresearch_jax.commands.report import again
from autoresearch_jax.errors import UsageError
from autoresearch_jax.report.feed import RunFeed
from autoresearch_jax.report.server import Broadcast, is_loopback, listen, make_app, serve
from autoresearch_jax.report.swarm import SwarmReader
from autoresearch_jax.swarm.membership import SwarmFolder

SHORTEST_TOKEN = 8


@dataclass(frozen=True)
class Options:
    """What `autoresearch watch` was asked for."""

    where: FolderOptions
    port: int = option(8765, "to listen on; 0 takes a free one", least=0, most=65535)
    host: str = option("127.0.0.1", "address to listen on; another machine needs --token to see the page")
    token: str | None = option(None, "what a browser has to know to see the page, at least 8 characters")

    def __post_init__(self) -> None:
        if "," in (self.where.tag or ""):
            raise UsageError(f"--tag={self.where.tag}: one run only; `autoresearch report` compares several")
        if self.token is not None and len(self.token) < SHORTEST_TOKEN:
            raise UsageError(f"--token: at least {SHORTEST_TOKEN} characters")
        if not is_loopback(self.host) and self.token is None:
            raise UsageError(f"--host={self.host}: others can see the page there, so it needs --token=SECRET")


def run(options: Options, arguments: list[str]) -> int:
    """Serves the page until it is interrupted."""
    folder = options.where.existing
    swarm = SwarmReader(SwarmFolder(Path(options.where.run_dir)), os.environ)
    broadcast = Broadcast(lambda: RunFeed(folder, again, swarm.latest))
    with listen(options.host, options.port) as listening:
        port = listening.getsockname()[1]
        host = f"[{options.host}]" if ":" in options.host else options.host
        secret = "" if options.token is None else f"?token={quote(options.token, safe='')}"
        print(f"http://{host}:{port}/{secret}", flush=True)
        print("Ctrl-C ends the page, not the run", file=sys.stderr, flush=True)
        serve(make_app(broadcast, options.token), broadcast, listening)
    return 0
