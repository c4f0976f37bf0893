"""What a peer's store holds, as figures and rows: peers, their findings, what was refused."""

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from autoresearch_jax.engine.database import connect_to_read
from autoresearch_jax.engine.run_folder import find_runs
from autoresearch_jax.errors import UsageError
from autoresearch_jax.findings.folder import OWN, FindingFolder, Library, open_library, origin_of
from autoresearch_jax.findings.format import Evidence, Finding, FindingError, parse_finding, status_of
from autoresearch_jax.findings.trust import Trust, only_replays, peer_of_source, trust_of
from autoresearch_jax.sanitize import clean_line, counted
from autoresearch_jax.swarm.chain import MAX_COMMITS, PAGE, Champion, day_of, read_champion, read_pages
from autoresearch_jax.swarm.exchange import MemberExchange
from autoresearch_jax.swarm.membership import (
    NO_REMOTE,
    Settings,
    SwarmError,
    SwarmFolder,
    read_members,
    without_password,
)
from autoresearch_jax.swarm.outbox import Outbox
from autoresearch_jax.swarm.peer import Peer
from autoresearch_jax.swarm.store import (
    CHAMPIONS,
    FINDINGS,
    REMOTE_PREFIX,
    SEEN_PREFIX,
    ChainCommit,
    Store,
    peer_of,
    seen,
)
from autoresearch_jax.swarm.transport import GitRemote
from autoresearch_jax.types import Scalar

CELL_CHARACTERS = 40  # of a peer's own word in a table


@dataclass(frozen=True)
class Paper:
    """A finding of a peer, as it stands in its chain."""

    peer: str
    commit: ChainCommit
    finding: Finding

    def called(self, ids: Mapping[tuple[str, str], str]) -> "Paper":
        """The same under the id that its finding has here."""
        name = ids.get(self.finding.content, self.finding.id)
        return self if name == self.finding.id else replace(self, finding=replace(self.finding, id=name))


@dataclass(frozen=True)
class Swarm:
    """Everything that was read, and this peer's own; of replays of others and of this peer, those that wait, too."""

    settings: Settings
    read: tuple[Paper, ...]
    own: tuple[Paper, ...]
    replays: tuple[Finding, ...]
    champions: Mapping[str, Champion]
    members: tuple[str, ...]
    blocked: frozenset[str]
    refused: tuple[Mapping[str, str], ...]
    waiting: int
    answered_at: float | None
    run_dir: Path

    def figures(self) -> dict[str, Scalar]:
        """Where this peer stands."""
        answered = "never" if self.answered_at is None else _moment(self.answered_at)
        return {
            "name": self.settings.name,
            "remote": without_password(self.settings.remote) or NO_REMOTE,
            "answered": answered,
            "members": len(self.members),
            "peers": len({paper.peer for paper in self.read}),
            "findings sent": len(self.own),
            "findings waiting": self.waiting,
            "findings read": len(self.read),
            "kept": sum(paper.finding.status == "kept" for paper in self.read),
            "refuted": sum(paper.finding.status == "refuted" for paper in self.read),
            "replays": len(self.replays),
        }

    def evidence_on(self, finding: Finding) -> Sequence[Evidence]:
        """Of all peers on this change, each with its name; the latest of each experiment."""
        return tuple(self._evidence.get(finding.content, {}).values())

    @cached_property
    def _evidence(self) -> Mapping[object, Mapping[object, Evidence]]:
        found: dict[object, dict[object, Evidence]] = {}
        for finding in (*(paper.finding for paper in (*self.read, *self.own)), *self.replays):
            found.setdefault(finding.content, {}).update({origin_of(one): one for one in finding.evidence})
        return found

    def _marked(self, name: str) -> str:
        """A peer's name in a table."""
        return f"{name} (this)" if name == self.settings.name else name

    def trust(self, paper: Paper) -> Trust:
        """What others say of what a peer claims."""
        return trust_of(self.evidence_on(paper.finding), paper.peer, peer_of_source(paper.finding.source))

    def peers(self) -> list[dict[str, Scalar]]:
        """A row a peer that something was read of, that is a member, or that was refused."""
        papers: dict[str, list[Paper]] = {}
        for paper in (*self.own, *self.read):
            papers.setdefault(paper.peer, []).append(paper)
        why = {str(one["peer"]): str(one["why"]) for one in self.refused}
        rows: list[dict[str, Scalar]] = []
        for name in sorted({*papers, *self.members, *why}):
            own = papers.get(name, [])
            status = Counter(paper.finding.status for paper in own)
            classes = {item.device_class for paper in own for item in paper.finding.evidence}
            days = Counter(day_of(paper.commit.date) for paper in own)
            state = "blocked" if name in self.blocked else "refused" if name in why else "" if own else "silent"
            champion = self.champions.get(name)
            claims = {one.finding.content: one for one in own if peer_of_source(one.finding.source) is None}
            trust = [self.trust(paper) for paper in claims.values()]
            rows.append(
                {
                    "peer": self._marked(name),
                    "findings": len(own),
                    "kept": status["kept"],
                    "refuted": status["refuted"],
                    "confirmed by others": sum(one.is_confirmed for one in trust),
                    "refuted by others": sum(one.is_refuted for one in trust),
                    "device classes": clean_line(", ".join(sorted(classes)), 2 * CELL_CHARACTERS),
                    "most a day": max(days.values(), default=0),
                    "last": max((_moment(paper.commit.date) for paper in own), default=""),
                    "champion": "" if champion is None else _cell(champion.words.get("score", "")),
                    "state": state,
                }
            )
        return rows

    def papers(self) -> list[dict[str, Scalar]]:
        """A row a finding, also of this peer, the latest first; `tried` and `used` count experiments of runs here."""
        tried, used = _mentions(self.run_dir)
        rows: list[dict[str, Scalar]] = []
        for paper in sorted(
            (*self.read, *self.own), key=lambda paper: (-paper.commit.date, paper.peer, paper.finding.id)
        ):
            evidence = paper.finding.evidence[-1] if paper.finding.evidence else None
            rows.append(
                {
                    "date": _moment(paper.commit.date),
                    "peer": self._marked(paper.peer),
                    "id": paper.finding.id,
                    "status": paper.finding.status,
                    "device class": "" if evidence is None else _cell(evidence.device_class),
                    "effect": None if evidence is None else evidence.effect,
                    "error": None if evidence is None else evidence.error,
                    "trust": self.trust(paper).short,
                    "tried": tried[paper.finding.id],
                    "used": used[paper.finding.id],
                    "title": paper.finding.title,
                }
            )
        return rows


def open_own_library(folder: SwarmFolder, findings: Path | None = None) -> Library:
    """The library that says which id a finding has here: that of the shipped one or of the user's, if it is one."""
    own = folder.path.parent / OWN if findings is None else findings
    return open_library(own, lambda text: None, peers=folder.findings)


def read_swarm(
    folder: SwarmFolder,
    environment: Mapping[str, str],
    library: Library | None = None,
    pages: dict[str, Finding] | None = None,
) -> Swarm:
    """Reads all that a peer's folder holds; the network is not asked.

    Args:
      folder: of the peer.
      environment: of this process.
      library: which has the ids of findings; by default that of `open_own_library`, whose pages are then read anew.
      pages: those that were read before, by their commits, and from now on; each takes some milliseconds.

    Raises:
      SwarmError: this folder is no peer's.
      GitError: there is no git.
    """
    peer, pages = Peer(folder, environment, lambda text: None), {} if pages is None else pages
    settings, store, blocked = peer.settings, peer.store, folder.blocked_names()
    read: list[Paper] = []
    champions: dict[str, Champion] = {}
    own_tip = peer.own_tip(FINDINGS)
    for ref, tip in store.refs(SEEN_PREFIX).items():
        kind, name = peer_of(ref)
        if name in blocked:
            continue
        if kind == FINDINGS:
            read += _papers(store, name, tip, settings.quota, pages)
            continue
        try:
            champions[name] = read_champion(store, name, tip)
        except FindingError:
            continue
    own = [] if own_tip is None else _papers(store, settings.name, own_tip, settings.quota, pages)
    try:
        members = tuple(read_members(peer.members))
    except SwarmError:
        members = ()
    state = peer.read_state()
    entries = {**state.get(MemberExchange.refusals, {}), **state.get(GitRemote.refusals, {})}
    both = dict.fromkeys((peer_of(ref)[1], str(one["why"])) for ref, one in entries.items())  # chains of a peer
    refused = [{"peer": name, "why": why} for name, why in both]
    waiting = Outbox(folder.outbox, settings.name, environment).waiting()
    replays = [paper.finding for paper in (*read, *own) if only_replays(paper.finding)]
    for entry in waiting:
        with suppress(FindingError, UnicodeDecodeError):
            finding = _by(settings.name, parse_finding(entry.files.get(PAGE, b"").decode(), str(entry.path)))
            replays += [finding] if only_replays(finding) else []
    read, own = ([one for one in papers if not only_replays(one.finding)] for papers in (read, own))
    if read or own:
        ids = {one.content: one.id for one in (library or open_own_library(folder)).findings()}
        read, own = ([paper.called(ids) for paper in papers] for papers in (read, own))
    return Swarm(
        *(settings, tuple(read), tuple(own), tuple(replays), champions, members, frozenset(blocked), tuple(refused)),
        *(len(waiting), state.get("answered_at"), folder.path.parent),
    )


def block_peer(folder: SwarmFolder, name: str, environment: Mapping[str, str], *, blocked: bool) -> str:
    """Blocks a peer, whose findings and evidence leave the folder; or has it read again from its beginning.

    What others say of a finding that was read of it first is read again from their chains.

    Raises:
      SwarmError: this folder is no peer's.
      UsageError: nothing is known of who is to be blocked.
    """
    settings, store = folder.read_settings(), Store(folder.store, environment)
    with suppress(SwarmError):  # members come and go
        was_read = {peer_of(ref)[1] for ref in store.refs(SEEN_PREFIX)}
        if blocked and name not in {*was_read, *read_members(Path(settings.members))}:
            raise UsageError(f"{name}: no member, and nothing was read of it: `autoresearch swarm peers` has all names")
    folder.block(name, blocked=blocked)
    if not blocked:
        for kind in (FINDINGS, CHAMPIONS):
            store.delete_ref(seen(f"{REMOTE_PREFIX}{kind}/{name}"))
        return "read again with the next round"
    library, removed, others = FindingFolder(folder.findings, lambda text: None), 0, set[str]()
    for finding in library.findings():
        left = tuple(one for one in finding.evidence if one.peer != name)
        is_first = peer_of_source(finding.source) == name
        if not is_first and len(left) == len(finding.evidence):
            continue
        for suffix in (".md", ".json"):
            (folder.findings / f"{finding.id}{suffix}").unlink(missing_ok=True)
        if is_first:
            removed += 1
            others |= {one.peer for one in left}
        else:
            without = replace(finding, evidence=left, status=status_of(left))
            library.add(without, library.base_text(finding.base))
    for other in others:
        store.delete_ref(seen(f"{REMOTE_PREFIX}{FINDINGS}/{other}"))
    return f"{counted(removed, 'finding')} taken out of {folder.findings}"


def _papers(store: Store, name: str, tip: str, quota: int, pages: dict[str, Finding]) -> list[Paper]:
    """A chain's findings, as far as its quota goes."""
    days: Counter[str] = Counter()
    taken = []
    for commit in store.chain(tip, None, MAX_COMMITS):
        days[day_of(commit.date)] += 1
        if days[day_of(commit.date)] <= quota:
            taken.append(commit)
    new = [commit for commit in taken if commit.commit not in pages]
    pages |= {commit.commit: _by(name, finding) for commit, finding in read_pages(store, name, new)}
    return [Paper(name, commit, pages[commit.commit]) for commit in taken if commit.commit in pages]


def _by(name: str, finding: Finding) -> Finding:
    """A finding with a peer's name on its evidence, in place of those on the page."""
    return replace(finding, evidence=tuple(replace(one, peer=name) for one in finding.evidence))


def _mentions(run_dir: Path) -> tuple[Counter[str], Counter[str]]:
    """How many experiments of a folder of runs tried each finding, and were made with it by what their agent says.

    A ledger that cannot be read, or is of another version, is left out.
    """
    tried: Counter[str] = Counter()
    used: Counter[str] = Counter()
    for run in find_runs(run_dir):
        with suppress(sqlite3.Error), closing(connect_to_read(run.ledger)) as ledger:
            for finding, names in ledger.execute("SELECT finding, used FROM experiments"):
                tried.update(() if finding is None else (finding,))
                used.update(json.loads(names or "[]"))
    return tried, used


def _cell(word: object) -> str:
    """A word of a peer, for a table."""
    return clean_line(str(word), CELL_CHARACTERS)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
