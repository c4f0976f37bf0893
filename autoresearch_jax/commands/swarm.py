"""Findings shared among peers, through a git remote or by zenoh.

    autoresearch swarm join --remote=ssh://box/findings.git --name=alice    # checks all that it needs
    autoresearch swarm join --name=alice --connect=tls/box:7447 ...         # without a common remote
    autoresearch run --tag=tonight --swarm                                  # sends and reads while it runs
    autoresearch swarm sync [--tag=RUN]                                     # once, by hand; of a run that is over
    autoresearch swarm serve [--tag=RUN]                                    # without a run, until Ctrl-C
    autoresearch swarm replay [ID [PEER]] --tag=RUN                         # a peer's program, run again here
    autoresearch swarm status | peers | papers [ID]
    autoresearch swarm block NAME | unblock NAME

docs/guide/swarm.md tells how to set up a remote, keys and the members' file.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from autoresearch_jax.commands.console import say
from autoresearch_jax.commands.folder_options import FindingOptions, FolderOptions
from autoresearch_jax.commands.options import format_option, option
from autoresearch_jax.commands.paths import home_folder
from autoresearch_jax.commands.swarm_beside import OwnRun, started
from autoresearch_jax.engine.git import Git, GitError
from autoresearch_jax.errors import UsageError, UserError
from autoresearch_jax.findings.folder import is_named
from autoresearch_jax.findings.format import finding_text
from autoresearch_jax.findings.trust import only_replays
from autoresearch_jax.report.tables import format_table, print_lines
from autoresearch_jax.sanitize import clean_block, clean_line
from autoresearch_jax.swarm.background import JoinedPeer
from autoresearch_jax.swarm.contents import block_peer, open_own_library, read_swarm
from autoresearch_jax.swarm.joining import check_joining
from autoresearch_jax.swarm.membership import (
    DEFAULT_QUOTA,
    NO_REMOTE,
    Settings,
    SwarmFolder,
    check_name,
    require_same_name,
    without_password,
)
from autoresearch_jax.swarm.notices import check_notices, require_zenoh
from autoresearch_jax.swarm.peer import Peer
from autoresearch_jax.types import Scalar

TAKES_ARGUMENTS = True
ACTIONS = "join, sync, serve, replay [ID [PEER]], status, peers, papers [ID], block NAME or unblock NAME"
_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")


@dataclass(frozen=True)
class JoinOptions:
    """What `join` asks for; kept in the swarm's folder."""

    remote: str | None = option(
        None,
        "join: URL of the git repository that all members can push to, or the name of a remote of yours; without it "
        "members exchange what they have by zenoh",
    )
    name: str | None = option(None, "join: of this peer, as in the members' file")
    key: str | None = option(
        None, "join: ssh key to sign with; by default the first of ~/.ssh/id_ed25519, id_ecdsa, id_rsa", path=True
    )
    members: str | None = option(
        None, "join: file with a line `NAME KEY` a member; by default `swarm/members` in --run_dir", path=True
    )
    quota: int = option(DEFAULT_QUOTA, "join: findings that are read, and sent, of a peer and day (UTC)", least=1)

    listen: tuple[str, ...] = option((), "join: where zenoh listens for members, such as tls/0.0.0.0:7447")
    connect: tuple[str, ...] = option((), "join: where other members listen, such as tls/box:7447")
    router: bool = option(False, "join: pass notices on among members that connect to this one")
    tls_ca: Path | None = option(None, "join: certificate (PEM) that signed those of all members, for notices")
    tls_certificate: Path | None = option(None, "join: this member's certificate (PEM)")
    tls_key: Path | None = option(None, "join: key (PEM) of this member's certificate")

    def settings(self, folder: SwarmFolder) -> Settings:
        """The settings of a peer that joins.

        Raises:
          UsageError: a flag is missing, or there is no key.
        """
        if self.name is None or not (self.remote or self.listen or self.connect):
            raise UsageError("swarm join needs --name=NAME and --remote=URL, or --listen or --connect without a remote")
        check_name(self.name)
        members = str(folder.members if self.members is None else self.members)
        settings = Settings(
            remote=_url(self.remote) if self.remote else "",
            name=self.name,
            key=str(self._key()),
            members=str(Path(members).absolute()),
            quota=self.quota,
            listen=self.listen,
            connect=self.connect,
            router=self.router,
            tls_ca=_whole(self.tls_ca),
            tls_certificate=_whole(self.tls_certificate),
            tls_key=_whole(self.tls_key),
        )
        check_notices(settings)
        if settings.has_notices:
            require_zenoh()
        return settings

    def _key(self) -> Path:
        if self.key is not None:
            if not Path(self.key).is_file():
                raise UsageError(f"--key={self.key}: no such file: name an ssh key, such as ~/.ssh/id_ed25519")
            return Path(self.key).absolute()
        home = home_folder()
        for path in [] if home is None else [home / ".ssh" / name for name in _KEYS]:
            if path.is_file():
                return path
        raise UsageError("there is no ssh key in ~/.ssh: make one with ssh-keygen -t ed25519, or name one with --key")


@dataclass(frozen=True)
class Options:
    """What `autoresearch swarm` was asked to do."""

    join: JoinOptions = field(default_factory=JoinOptions)
    where: FolderOptions = field(default_factory=FolderOptions)
    findings: FindingOptions = field(default_factory=FindingOptions)
    poll_seconds: float | None = option(
        None, "serve: seconds between two rounds without a notice; by default 60, without a remote 30", above=0
    )
    format: str = format_option()


def run(options: Options, arguments: list[str]) -> int:
    """Does one of `ACTIONS`."""
    action, rest = (arguments[0], arguments[1:]) if arguments else ("status", [])
    folder = SwarmFolder(Path(options.where.run_dir))
    alone: Mapping[str, Callable[[SwarmFolder, Options], int]] = {
        "join": join,
        "sync": sync,
        "serve": serve,
        "status": show_status,
        "peers": show_peers,
    }
    if action in alone and not rest:
        return alone[action](folder, options)
    if action == "papers" and len(rest) <= 1:
        return show_papers(folder, options, rest[0] if rest else None)
    if action == "replay" and len(rest) <= 2:
        from autoresearch_jax.commands.swarm_replay import replay  # tasks take half a second to import

        return replay(folder, options.where, options.format, rest)
    if action in ("block", "unblock") and len(rest) == 1:
        return block(folder, rest[0], blocked=action == "block")
    raise UsageError(f"swarm {clean_line(' '.join(arguments))}: expected {ACTIONS}")


def join(folder: SwarmFolder, options: Options) -> int:
    """Checks all that a peer needs, a line each, and keeps its settings if all of it is there."""
    settings = options.join.settings(folder)
    require_same_name(folder, settings.name)
    folder.create()
    print(f"folder:              {folder.path}")
    fine = True
    for check in check_joining(folder, settings, os.environ):
        fine &= check.fine
        print(f"{check.name + ':':<20} {'' if check.fine else 'FAILED: '}{without_password(check.said)}", flush=True)
    if not fine:
        say("autoresearch swarm: not joined: mend what failed, and join again", sys.stderr)
        return 1
    folder.write_settings(settings)
    print(f"joined:              as {settings.name}: autoresearch run --swarm sends and reads while it runs")
    return 0


def sync(folder: SwarmFolder, options: Options) -> int:
    """Sends and reads once; with --tag first puts that run's findings into the outbox."""
    told: list[str] = []
    joined = JoinedPeer(folder, os.environ, told.append)
    peer = joined.peer
    if options.where.tag is not None:
        OwnRun(options.where.existing, options.findings.folder(options.where), folder.findings)(peer)
    if (server := folder.server_for(peer.settings)) is not None:
        print(f"served:              {server} answers members, and sends what waits in {folder.outbox}")
        return 0
    notices = None if peer.settings.remote else joined.notices(lambda: None, told.append)
    if notices is None:
        done = peer.round()
    else:
        with closing(notices):
            notices.open()
            done = peer.round(notices.publish)
    for text in told:
        say(f"autoresearch swarm: {text}", sys.stderr)
    for found in done.read:
        page = found.finding
        said = page.evidence[-1].decision if only_replays(page) else page.status
        print(f"{page.id}  {said}  of {found.peer}: {page.title}")
    figures: dict[str, Scalar] = {
        "answered": done.answered,
        "pushed": ", ".join(f"{tip[:10]} to {ref}" for ref, tip in done.pushed.items()) or "nothing",
        "waiting": len(peer.outbox.waiting()),
        "read": len(done.read),
        "folder": str(folder.findings),
    }
    print_lines(figures, sys.stdout)
    return 0 if done.answered else 1


def serve(folder: SwarmFolder, options: Options) -> int:
    """Sends and reads until Ctrl-C or SIGTERM, without a run; as a router passes notices on.

    With --tag it runs programs of peers again meanwhile, on the task of that run.
    """

    def tell(text: str) -> None:
        say(f"autoresearch {text}", sys.stderr)

    joined = JoinedPeer(folder, os.environ, lambda text: tell(f"swarm: {text}"))
    idle = None
    if options.where.tag is not None:
        from autoresearch_jax.commands.swarm_replay import IdleReplays  # see `run`

        idle = IdleReplays(folder, options.where, tell)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    settings = joined.peer.settings

    def relay(peer: Peer) -> int:
        joined.claims.relay()
        return 0

    with folder.serving():
        background = started(joined, relay, tell, options.poll_seconds)
        print(f"serving:             {without_password(settings.remote) or NO_REMOTE} as {settings.name}", flush=True)
        if idle is None:
            stopped.wait()
        else:
            idle.work(stopped, background.wake)
        background.close()
    return 0


def show_status(folder: SwarmFolder, options: Options) -> int:
    """Prints where this peer stands."""
    swarm = read_swarm(folder, os.environ)
    figures = swarm.figures()
    if options.format == "json":
        print(json.dumps({**figures, "refused": [dict(one) for one in swarm.refused]}, indent=1))
        return 0
    print_lines(figures, sys.stdout)
    for one in swarm.refused:
        print(f"refused:             {one['peer']}: {one['why']}")
    return 0


def show_peers(folder: SwarmFolder, options: Options) -> int:
    """Prints a line a peer."""
    return _print_rows(read_swarm(folder, os.environ).peers(), options)


def show_papers(folder: SwarmFolder, options: Options, name: str | None) -> int:
    """Prints a line a finding of all peers, this one among them, the latest first; or the pages of those of an id."""
    library = open_own_library(folder, options.findings.folder(options.where))
    swarm = read_swarm(folder, os.environ, library)
    if name is None:
        return _print_rows(swarm.papers(), options)
    found = [paper for paper in (*swarm.read, *swarm.own) if is_named(paper.finding, name)]
    if not found:
        raise UserError(
            f"{clean_line(name)}: no finding of this id was read or sent: `autoresearch swarm papers` has all"
        )
    for paper in found:
        text = finding_text(replace(paper.finding, source=f"peer {paper.peer}, {paper.finding.source}"))
        print(clean_block(text, sys.maxsize) if sys.stdout.isatty() else text)
        print(swarm.trust(paper).sentence(paper.peer))
    return 0


def block(folder: SwarmFolder, name: str, *, blocked: bool) -> int:
    """Has nothing be read of a peer any more, and takes its findings out of the folder; or has it read again."""
    check_name(name)
    left = block_peer(folder, name, os.environ, blocked=blocked)
    print(f"{name}: {'blocked' if blocked else 'not blocked'}, {left}")
    return 0


def _print_rows(rows: list[dict[str, Scalar]], options: Options) -> int:
    if options.format == "json":
        print(json.dumps(rows, indent=1))
    else:
        print(format_table(rows) if rows else "nothing was read yet: autoresearch swarm sync")
    return 0


def _url(remote: str) -> str:
    """A URL as git takes it anywhere: of a remote that the repository here names, or a path in full."""
    if Path(remote).exists():
        return str(Path(remote).resolve())
    try:
        return Git(Path.cwd(), os.environ).text("ls-remote", "--get-url", remote) or remote
    except GitError:
        return remote


def _whole(path: Path | None) -> str:
    return "" if path is None else str(path.absolute())
