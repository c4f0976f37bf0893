"""A peer at work beside a run: what `run --swarm` and `swarm sync --tag` give the others, and what they hear."""

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from autoresearch_jax.commands.folder_options import FindingOptions, FolderOptions
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.run_findings import findings_of_run
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.state import asset_of
from autoresearch_jax.findings.folder import Library, open_library
from autoresearch_jax.findings.format import device_class
from autoresearch_jax.report.summary import summarize_run
from autoresearch_jax.report.tables import rounded
from autoresearch_jax.swarm.background import EXCHANGE_SECONDS, POLL_SECONDS, BackgroundPeer, JoinedPeer
from autoresearch_jax.swarm.claims import Claims
from autoresearch_jax.swarm.membership import SwarmFolder
from autoresearch_jax.swarm.peer import Peer
from autoresearch_jax.types import Scalar


class OwnRun:
    """What a run found so far, put into a peer's outbox; another process may write to its ledger."""

    def __init__(self, run: RunFolder, findings: Path, peers: Path, claims: Claims | None = None) -> None:
        """`findings` and `peers` are the folders of those that it may have tried; `claims` tell what it measures."""
        self._run = run
        self._claims = claims
        self._measures: tuple[list[str], str, str, float] = ([], "", "", 0.0)
        self._folders = findings, peers
        self._library: Library | None = None  # which keeps the pages that it read
        self._changes: dict[int, str] = {}
        self._read_at = 0.0

    def __call__(self, peer: Peer) -> int:
        """Offers its findings and its champion; returns how many are new, none where nothing was written since."""
        count = self._offer(peer)
        if self._claims is not None:
            self._claims.announce(*self._measures)
        return count

    def _offer(self, peer: Peer) -> int:
        if (written_at := self._run.last_write) == self._read_at:
            return 0
        with closing(Ledger.open_to_read(self._run.ledger)) as ledger, ledger.as_of_now():
            if self._library is None:
                self._library = open_library(self._folders[0], lambda text: None, asset_of(ledger), self._folders[1])
            found = findings_of_run(ledger, self._run.path.name, self._library, self._changes)
            champion = _champion(ledger, self._run.path.name)
            self._measures = _measured_now(ledger)
        self._read_at = written_at
        count = peer.offer((one.finding, one.base_text) for one in found.findings)
        return count if champion is None else count + peer.offer_champion(*champion)


def _measured_now(ledger: Ledger) -> tuple[list[str], str, str, float]:
    """What a run claims: its open programs, the task's fingerprint, its device class, seconds of the longest trial."""
    settings = ledger.settings()
    programs = [row.program_hash for row in ledger.open_experiments() if row.program_hash is not None]
    took = (one.finished_at - one.started_at for one in ledger.trials() if one.finished_at is not None)
    return programs, str(settings.get("fingerprint")), device_class(settings), max(took, default=0.0)


def _champion(ledger: Ledger, tag: str) -> tuple[dict[str, Scalar], str] | None:
    """What is told of a run's champion, and its text; None before there is one."""
    summary = summarize_run(ledger)
    if summary.champion is None or summary.champion_score is None:
        return None
    settings = ledger.settings()
    names = ("metric", "direction", "fingerprint", "budget_seconds", "budget_steps")
    words: dict[str, Scalar] = {name: settings.get(name) for name in names}
    words |= {"run": tag, "experiment": summary.champion.id, "device_class": device_class(settings)}
    words |= {"score": rounded(summary.champion_score.mean), "certified": summary.certified[0]}
    return words, ledger.source(summary.champion.id)


def open_background(
    where: FolderOptions, findings: FindingOptions, notice: Callable[[str], None]
) -> tuple[BackgroundPeer, Claims]:
    """Begins to share the findings of a run in a thread of its own; returns what other members measure, too.

    Args:
      where: the run.
      findings: where findings are that it may try.
      notice: is told of what is wrong, in that thread.
    """
    folder, run = SwarmFolder(Path(where.run_dir)), where.folder
    joined = JoinedPeer(folder, os.environ, lambda text: notice(f"swarm: {text}"))
    own = OwnRun(run, findings.folder(where), folder.findings, joined.claims)
    return started(joined, own, notice), joined.claims


def started(
    joined: JoinedPeer, own: Callable[[Peer], int], notice: Callable[[str], None], poll_seconds: float | None = None
) -> BackgroundPeer:
    """A peer at work; with notices where they were asked for and can be had."""
    seconds = POLL_SECONDS if joined.peer.settings.remote else EXCHANGE_SECONDS
    background = BackgroundPeer(joined.peer, own, notice, poll_seconds or seconds)
    background.start(joined.notices(background.wake, notice))
    return background
