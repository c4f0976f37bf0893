"""One peer at work, a round at a time: it pushes what its outbox holds, and reads and checks what others pushed."""

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from autoresearch_jax.engine.git import GitError
from autoresearch_jax.files import write_json
from autoresearch_jax.findings.folder import FindingFolder
from autoresearch_jax.findings.format import Finding, FindingError, parse_finding
from autoresearch_jax.findings.trust import only_replays
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.swarm.chain import (
    MAX_COMMITS,
    MAX_HEAD_BYTES,
    PAGE,
    ChainError,
    PeerFinding,
    check_chain,
    day_of,
    read_champion,
    read_files,
    read_findings,
    read_pages,
    verify_signature,
    within_quota,
)
from autoresearch_jax.swarm.membership import Settings, SwarmError, SwarmFolder, read_members, without_password
from autoresearch_jax.swarm.outbox import Entry, Outbox
from autoresearch_jax.swarm.store import (
    CHAMPIONS,
    FINDINGS,
    KINDS,
    REMOTE_PREFIX,
    ChainCommit,
    Store,
    peer_of,
    seen,
)
from autoresearch_jax.swarm.transport import GitRemote, Transport

FINDINGS_A_PACK = 200  # that are read between two looks whether git has much to pack
FETCH_AGAIN_SECONDS = 3600  # after which a chain that could not be fetched is tried again
MAX_PUSH_TRIES = 4  # in a round, where another machine of this peer pushes, too


@dataclass
class Round:
    """What one round did: whether the remote answered, new tips by their refs, findings that were read."""

    answered: bool = False
    pushed: dict[str, str] = field(default_factory=dict)
    read: list[PeerFinding] = field(default_factory=list)


class Peer:
    """A peer of the swarm; all of it may be used from several processes, which take turns."""

    def __init__(
        self,
        folder: SwarmFolder,
        environment: Mapping[str, str],
        notice: Callable[[str], None],
        clock: Callable[[], float] = time.time,
        exchange: Transport | None = None,
    ) -> None:
        """Opens a peer's folder; `notice` is told of each thing that is wrong, once.

        An exchange among members is in the place of a remote or beside it. Raises SwarmError if this folder is no
        peer's; GitError if there is no git.
        """
        self.folder = folder
        self.settings: Settings = folder.read_settings()
        self.members = Path(self.settings.members)
        self.store = Store(folder.store, environment)
        self.store.make()
        self.outbox = Outbox(folder.outbox, self.settings.name, environment)
        remote = GitRemote(self.store, self.settings.remote) if self.settings.remote else None
        self._transports = [one for one in (remote, exchange) if one is not None]
        self.names: Collection[str] = ()  # of the members, as they were read last
        self._notice = lambda text: notice(without_password(text))
        self._clock = clock
        self._told: dict[str, str] = {}
        self._champion: str | None = None  # its text as it was offered last
        self._unpacked = 0  # findings that were read since git packed them
        self._library = FindingFolder(folder.findings, self._tell)

    def round(self, on_push: Callable[[str, str], None] = lambda ref, commit: None) -> Round:
        """Pushes what waits and reads what is new, if no other process is at it; tells of what fails and goes on.

        `on_push` is told at once of each ref that was pushed, and of its tip.
        """
        from filelock import FileLock, Timeout  # its import takes a quarter of a second

        done = Round()
        try:
            with FileLock(self.folder.lock, timeout=0):
                self._round(done, on_push)
        except Timeout:
            pass
        except (SwarmError, GitError) as error:
            self._tell(f"{error}: goes on alone and tries again", "peer")
        except OSError as error:
            self._tell(f"{self.folder.path}: {error.strerror}: goes on alone and tries again", "disk")
        return done

    def _round(self, done: Round, on_push: Callable[[str, str], None]) -> None:
        if not self._transports:
            raise SwarmError("there is no remote, and no exchange with members by zenoh")
        here, state = self.store.refs("refs/"), self.read_state()
        self.folder.forget_if_changed(state, self.members, [one.refusals for one in self._transports])
        for transport in self._transports:
            is_own = transport is self._transports[0]  # what this peer makes goes there
            try:
                tips = transport.tips(here)
            except GitError as error:
                if is_own and (server := self.folder.server_for(self.settings)) is not None:
                    self._tell(f"{server} answers members, and sends what waits in {self.outbox.path}", "remote")
                elif is_own:
                    self._tell(f"{error}: goes on alone and tries again", "remote")
                continue
            if is_own:
                if self._told.pop("remote", None) is not None:
                    self._notice(f"{transport.where} answers again")
                done.answered = True
                self._push_all(transport, tips, here, done, on_push)
                state["answered_at"] = round(self._clock())
            try:
                self._read_others(transport, tips, here, state, done)
            finally:
                write_json(self.folder.state, state)
        self._unpacked += len(done.read)
        if self._unpacked > FINDINGS_A_PACK:
            self._unpacked = 0
            self.store.collect_garbage()

    def _push_all(
        self,
        transport: Transport,
        tips: Mapping[str, str],
        here: dict[str, str],
        done: Round,
        on_push: Callable[[str, str], None],
    ) -> None:
        for kind in KINDS:
            ref = self._own_ref(kind)
            if tips.get(ref) == here.get(ref) and not self.outbox.waiting(kind):
                continue
            if (commit := self._push(transport, kind, tips.get(ref))) is not None:
                here[ref] = done.pushed[ref] = commit
                on_push(ref, commit)

    # ---- what is sent

    def offer(self, findings: Iterable[tuple[Finding, str | None]]) -> int:
        """Puts findings of this peer into the outbox, with the texts that they change; returns how many are new.

        One that was sent is sent again only where its status, its decision or its certificate is another: its effect
        moves a little with each further run, and others would read it each time.
        """
        count = 0
        for finding, base_text in findings:
            said = _said(finding)
            if base_text is None or self._sent.get(finding.content) == said:
                continue
            self._sent[finding.content] = said
            try:
                self.outbox.put_finding(finding, base_text)
                count += 1
            except FindingError as error:
                self._tell(f"{error}: left out")
        return count

    def offer_champion(self, words: Mapping[str, Any], text: str) -> int:
        """Puts this peer's champion into the outbox, where its text is another; returns 1 then.

        Args:
          words: what is told of it, such as its score and device class.
          text: the file.
        """
        if self._champion is None:
            tip = self.own_tip(CHAMPIONS)
            with suppress(FindingError):
                self._champion = "" if tip is None else read_champion(self.store, self.settings.name, tip).text
        if text == self._champion:
            return 0
        self._champion = text
        try:
            self.outbox.put_champion(words, text)
        except FindingError as error:
            self._tell(f"{error}: left out")
            return 0
        return 1

    @cached_property
    def _sent(self) -> dict[object, object]:
        """What was said last of each finding of this peer; not counting replays."""
        tip = self.own_tip(FINDINGS)
        chain = [] if tip is None else self.store.chain(tip, None, MAX_COMMITS)
        pages = [page for _, page in read_pages(self.store, self.settings.name, chain)]
        for entry in self.outbox.waiting(FINDINGS):
            with suppress(FindingError):
                pages.append(parse_finding(entry.files[PAGE].decode(), str(entry.path)))
        return {page.content: _said(page) for page in pages if not only_replays(page)}

    def own_tip(self, kind: str) -> str | None:
        """The tip of this peer's chain, as it was pushed last."""
        ref = self._own_ref(kind)
        return self.store.refs(ref).get(ref)

    def _own_ref(self, kind: str) -> str:
        return f"{REMOTE_PREFIX}{kind}/{self.settings.name}"

    def _push(self, transport: Transport, kind: str, at_remote: str | None) -> str | None:
        """Pushes what waits, and the chain again where the remote lost it; returns the new tip, None for none."""
        ref = self._own_ref(kind)
        for _ in range(MAX_PUSH_TRIES):
            if not self._adopt_own(transport, kind, at_remote):
                at_remote = transport.tips(self.store.refs("refs/")).get(ref)  # of another member
                continue
            try:
                tip, done = self._commit_waiting(kind)
            except GitError as error:
                self._tell(f"{self.settings.key} does not sign: {error}: findings wait in {self.outbox.path}", "key")
                return None
            if tip is None or tip == at_remote:
                self.outbox.remove(done)
                return None
            pushed = transport.push(tip, ref, at_remote)
            if pushed.done:
                self.store.set_ref(ref, tip)
                self.outbox.remove(done)
                self._told.pop("push", None)
                return tip
            now = transport.tips({}).get(ref)
            if now == at_remote:
                said = f"cannot push to {transport.where}: {pushed.said}"
                self._tell(f"{said}: findings wait in {self.outbox.path}", "push")
                return None
            at_remote = now
        return None

    def _commit_waiting(self, kind: str) -> tuple[str | None, list[Entry]]:
        """Makes commits of what waits on this peer's chain; returns the tip and the entries that it has now.

        Of findings no more than others read of a day; the rest waits for the next.
        """
        tip, waiting, done = self.own_tip(kind), self.outbox.waiting(kind), []
        chain = [] if tip is None or not waiting else self.store.chain(tip, None, MAX_COMMITS)
        there = {commit.tree for commit in chain}
        date = max(int(self._clock()), chain[-1].date if chain else 0)
        room = self.settings.quota - sum(day_of(commit.date) == day_of(date) for commit in chain)
        for entry in waiting:
            if entry.tree not in there:
                if kind == FINDINGS and room <= 0:
                    self._tell(f"{self.settings.quota} findings were sent today: the rest waits for tomorrow", "quota")
                    break
                room -= 1
                there.add(entry.tree)
                words = (entry.files, tip, self.settings.name, entry.message, Path(self.settings.key), date)
                tip = self.store.write_commit(*words)
            done.append(entry)
        return tip, done

    def _adopt_own(self, transport: Transport, kind: str, at_remote: str | None) -> bool:
        """Goes on from this peer's chain at the remote where that is ahead, as after the loss of this folder.

        What another machine of the same name and key pushed meanwhile is built upon; what others wrote over it is not.
        False if this peer has no chain yet, and a member names one that is not this peer's; at a remote an error.
        """
        ref, own = self._own_ref(kind), self.own_tip(kind)
        if at_remote is None or at_remote == own:
            return True
        try:
            failed: dict[str, str] = {}
            if not list(transport.fetch({ref: at_remote}, failed.__setitem__)):
                raise GitError(failed.get(ref, f"{at_remote[:10]} is sent by no member"))
            (head,) = self.store.read([at_remote], MAX_HEAD_BYTES)
            verify_signature(head or b"", self.settings.name, self.members)
        except (GitError, ChainError) as error:
            if own is None and transport.lists_all:
                raise SwarmError(f"the name {self.settings.name} is taken at the remote: {error}") from error
            self._tell(f"{ref} was changed by others at {transport.where}: put back: {error}")
            return own is not None
        if own is not None and self.store.descends(own, at_remote):
            return True  # a push that is still to come
        missing = [] if own is None else self.store.chain(own, at_remote, MAX_COMMITS)
        if missing and not transport.lists_all:
            self._tell(f"{ref} goes on elsewhere, too: two machines of one name need a remote")
            return True
        for commit in missing:
            self.outbox.put(kind, read_files(self.store, commit), "again")
        self.store.set_ref(ref, at_remote)
        return True

    # ---- what is read

    def _read_others(
        self, transport: Transport, tips: Mapping[str, str], here: dict[str, str], state: dict[str, Any], done: Round
    ) -> None:
        members, blocked = read_members(self.members), self.folder.blocked_names()
        self.names = frozenset(members)
        refused: dict[str, Any] = state.setdefault(transport.refusals, {})
        wanted: dict[str, str] = {}
        for ref, tip in tips.items():
            kind, name = peer_of(ref)
            if kind not in KINDS or name in blocked or name == self.settings.name:
                continue
            if name not in members:
                if transport.lists_all:
                    self._refuse(refused, ref, tip, f"no member of that name in {self.members}: not fetched")
            elif here.get(seen(ref)) != tip and not self._is_refused(refused.get(ref, {}), tip):
                wanted[ref] = tip
        for ref in [ref for ref in refused if ref not in tips or here.get(seen(ref)) == tips[ref]]:
            if transport.lists_all:
                del refused[ref]

        def failed(ref: str, why: str) -> None:
            self._refuse(refused, ref, wanted[ref], why)
            refused[ref]["until"] = round(self._clock()) + FETCH_AGAIN_SECONDS

        for came in transport.fetch(wanted, failed):
            checked: dict[str, list[ChainCommit]] = {}
            for ref in came:
                try:
                    known = here.get(seen(ref))
                    checked[ref] = check_chain(self.store, ref, wanted[ref], known, self.members, self._clock())
                except ChainError as error:
                    self._refuse(refused, ref, wanted[ref], str(error))
            for ref, commits in sorted(checked.items(), key=lambda one: len(one[1])):  # who floods comes last
                self._take(ref, commits, done)
                self.store.set_ref(seen(ref), wanted[ref])
                here[seen(ref)] = wanted[ref]
                refused.pop(ref, None)

    def _take(self, ref: str, commits: Sequence[ChainCommit], done: Round) -> None:
        """Hands over the findings of a chain's new commits, as far as the quota of a day goes."""
        kind, name = peer_of(ref)
        if kind == FINDINGS:
            taken = within_quota(self.store, commits, self.settings.quota)
            if left := len(commits) - len(taken):
                self._tell(f"{name}: more than {self.settings.quota} findings of a day: {left} left out")
            self._hand_over(read_findings(self.store, name, taken), done)

    def _is_refused(self, entry: Mapping[str, Any], tip: str) -> bool:
        """Whether a tip was refused before, or its chain could not be fetched a short time ago."""
        return entry.get("tip") == tip or entry.get("until", 0) > self._clock()

    def _hand_over(self, findings: Iterable[PeerFinding | FindingError], done: Round) -> None:
        for found in findings:
            try:
                if isinstance(found, FindingError):
                    raise found
                self._library.add(found.finding, found.base_text, found.diff)
                done.read.append(found)
            except FindingError as error:
                self._tell(f"{error}: left out")

    def _refuse(self, refused: dict[str, Any], ref: str, tip: str, why: str) -> None:
        why, name = without_password(why), peer_of(ref)[1]
        if not any(peer_of(other)[1] == name and one["why"] == why for other, one in refused.items()):
            self._notice(f"{clean_line(name, 60)}: chain refused: {why}")
        refused[ref] = {"tip": tip, "why": why, "at": round(self._clock())}

    def read_state(self) -> dict[str, Any]:
        """What was refused, and when the remote answered last; empty where there is nothing."""
        with suppress(OSError, ValueError):
            state = json.loads(self.folder.state.read_text(encoding="utf-8"))
            if isinstance(state, dict):
                return state
        return {}

    def _tell(self, text: str, about: str = "") -> None:
        """Tells of something once, or when what is said about it changes."""
        if self._told.get(about or text) != text:
            self._told[about or text] = text
            self._notice(text)


def _said(finding: Finding) -> object:
    """What a finding says, but for numbers that move a little with each run."""
    evidence = (
        (one.replay, one.device_class, one.fingerprint, one.decision, one.certified) for one in finding.evidence
    )
    return finding.status, tuple(evidence)
