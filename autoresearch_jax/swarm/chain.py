"""A peer's chain: what its commits hold, and what is checked of one that others pushed.

The signature of the tip vouches for all that it descends from: a commit names its parents by hash. So one signature is
verified for each chain that has grown, and a chain is only ever gone on with from what was found to be in order.
"""

import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autoresearch_jax.assets.kinds import guessed_kind
from autoresearch_jax.assets.text import TextKind
from autoresearch_jax.errors import UserError
from autoresearch_jax.files import plain_text
from autoresearch_jax.findings.folder import DIFF_NAME, id_of_content
from autoresearch_jax.findings.format import (
    MAX_BYTES,
    Finding,
    FindingError,
    changed_base,
    diff_change,
    finding_json,
    finding_text,
    parse_finding,
)
from autoresearch_jax.findings.trust import source_of_peer
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.swarm.membership import FORMAT, SwarmError
from autoresearch_jax.swarm.store import ChainCommit, Store, blob_name, peer_of, tree_entries

PAGE, TWIN, BASE, CHANGED, DIFF = "finding.md", "finding.json", "base.txt", "changed.txt", "change.diff"
CHAMPION, CHAMPION_TEXT = "champion.json", "champion.txt"
MAX_COMMITS = 20_000  # of a chain; half a year at the default quota
MAX_FILES = 16  # of a commit
MAX_COMMIT_BYTES = 4 * 2**20  # of its files together: a text, its change and the page, each at most 1 MiB
MAX_HEAD_BYTES = 64 * 1024  # of a commit's or a tree's object
MAX_AHEAD_SECONDS = 26 * 3600  # that a commit may be dated later than now: clocks and time zones that are set wrongly
_READ_AT_ONCE = 64  # commits
_FILE_MODE = "100644"


class ChainError(UserError):
    """A chain that is refused; the message says why, without the peer's name."""


@dataclass(frozen=True)
class PeerFinding:
    """A finding of a peer, whose signature was verified."""

    peer: str  # the name
    commit: str  # of its chain
    date: int  # of that commit, in seconds since the epoch by the peer's clock
    finding: Finding  # what it says; its source names the peer
    base_text: str  # the text that it changes
    diff: str  # the change as a unified diff


@dataclass(frozen=True)
class Champion:
    """What a peer says of its champion, and its text."""

    peer: str
    commit: str
    date: int
    words: Mapping[str, Any]
    text: str


def finding_files(finding: Finding, base_text: str, peer: str) -> dict[str, bytes]:
    """The files of a finding's commit.

    Its prose names no run of this machine to measure it again, which is another experiment elsewhere.

    Raises:
      FindingError: it does not fit its base.
    """
    command = f"`autoresearch swarm replay {finding.id} {peer} --tag=RUN`"
    for own in {one.replay for one in finding.evidence} - {""}:
        finding = replace(finding, about=finding.about.replace(f"`{own}`", command))
    asset = guessed_kind(base_text)
    changed = changed_base(finding, base_text, asset)
    diff = diff_change(base_text, changed, DIFF_NAME, asset)
    twin = {"format": FORMAT, "peer": peer, **finding_json(finding, diff)}
    files = {PAGE: finding_text(finding), TWIN: _json(twin), BASE: base_text, CHANGED: changed, DIFF: diff}
    return {name: text.encode() for name, text in files.items()}


def champion_files(words: Mapping[str, Any], text: str, peer: str) -> dict[str, bytes]:
    """The files of a champion's commit."""
    return {CHAMPION: _json({"format": FORMAT, "peer": peer, **words}).encode(), CHAMPION_TEXT: text.encode()}


def check_chain(store: Store, ref: str, tip: str, known: str | None, members: Path, now: float) -> list[ChainCommit]:
    """The new commits of a chain that was fetched, the oldest first.

    Args:
      store: which has them.
      ref: of the chain at the remote.
      tip: its tip there.
      known: the tip that was in order before; None where the chain is new.
      members: the members' file.
      now: seconds since the epoch.

    Raises:
      ChainError: it is no member's, was rewritten, or is oversized.
      SwarmError: signatures cannot be verified here.
    """
    name = peer_of(ref)[1]
    (head,) = store.read([tip], MAX_HEAD_BYTES)
    if head is None:
        raise ChainError(f"its tip is missing or has more than {MAX_HEAD_BYTES:,} bytes")
    verify_signature(head, name, members)
    commits = store.chain(tip, known, MAX_COMMITS + 1)
    if known is None and not commits:  # the bytes of a signed commit in an object of another kind
        raise ChainError(f"{tip[:10]} is no commit")
    first = commits[0].parents if commits else ()
    if known is not None and first != (known,) and not store.descends(tip, known):
        raise ChainError(f"was rewritten: {tip[:10]} does not go on from {known[:10]}, which was there before")
    if len(commits) > MAX_COMMITS:
        raise ChainError(f"oversized: more than {MAX_COMMITS:,} commits")
    parent, date = known, 0 if known is None else store.chain(known, None, 1)[0].date
    for commit in commits:
        if commit.parents != (() if parent is None else (parent,)):
            raise ChainError(f"{commit.commit[:10]} does not have the commit before as its one parent")
        if not date <= commit.date <= now + MAX_AHEAD_SECONDS:
            raise ChainError(f"{commit.commit[:10]} is dated before its parent or in the future")
        parent, date = commit.commit, commit.date
    _check_files(store, commits)
    return commits


def verify_signature(commit: bytes, name: str, members: Path) -> None:
    """Checks that a commit is signed by a member.

    Args:
      commit: the object.
      name: of the member, whose keys stand in the members' file.
      members: that file.

    Raises:
      ChainError: it is not.
      SwarmError: there is no `ssh-keygen`.
    """
    payload, signature = _split_signature(commit)
    if not signature:
        raise ChainError(f"{name}'s chain is not signed")
    with tempfile.NamedTemporaryFile(prefix="autoresearch-signature-") as file:
        file.write(signature)
        file.flush()
        words = ("-Y", "verify", "-f", str(members), "-I", name, "-n", "git", "-s", file.name)
        if (said := ssh_keygen(words, payload)) is not None:
            raise ChainError(f"not signed with a key of {name} in {members}: {said}")


def ssh_keygen(words: Sequence[str], stdin: bytes) -> str | None:
    """What `ssh-keygen` complains of; None if nothing.

    Raises:
      SwarmError: there is none.
    """
    try:
        done = subprocess.run(
            ["ssh-keygen", *words], input=stdin, capture_output=True, check=False, timeout=30, start_new_session=True
        )
    except FileNotFoundError as error:
        raise SwarmError("ssh-keygen is not installed: install it (Debian: apt-get install openssh-client)") from error
    except subprocess.TimeoutExpired as error:
        raise SwarmError("ssh-keygen took more than 30 s: try it by hand") from error
    said = clean_line((done.stderr or done.stdout).decode("utf-8", "replace"), 200)
    return None if done.returncode == 0 else said or f"exit {done.returncode}"


def within_quota(store: Store, commits: Sequence[ChainCommit], quota: int) -> list[ChainCommit]:
    """Those of a chain's new commits that are among the first of their UTC day; the same for all who read it."""
    if not commits:
        return []
    count, day = 0, ""
    if (parents := commits[0].parents) and (before := store.chain(parents[0], None, quota)):
        day = day_of(before[-1].date)
        count = sum(day_of(commit.date) == day for commit in before)
    taken = []
    for commit in commits:
        count = count + 1 if day_of(commit.date) == day else 1
        day = day_of(commit.date)
        if count <= quota:
            taken.append(commit)
    return taken


def read_findings(store: Store, peer: str, commits: Sequence[ChainCommit]) -> Iterator[PeerFinding | FindingError]:
    """The findings of checked commits, in their order; an error for one that says nothing that can be used."""
    bases: dict[str, str] = {}
    for commit, names, (twin, page, diff) in _read_files(store, commits, (TWIN, PAGE, DIFF)):
        where = f"{peer}'s finding {commit.commit[:10]}"
        try:
            _check_format(twin, where, peer)
            if page is None or len(page) > MAX_BYTES:
                raise FindingError(f"{where}: has no {PAGE} of at most {MAX_BYTES:,} bytes")
            finding = parse_finding(_text(page, where), where)
            if (blob := names.get(BASE)) not in bases:
                bases = {str(blob): _text(store.read([str(blob)], MAX_COMMIT_BYTES)[0] if blob else None, where)}
            base_text, diff_text = bases[str(blob)], _text(diff, where)
            for change in (finding, replace(finding, change=diff_text)):
                if not _leads_to(change, base_text, names.get(CHANGED)):
                    raise FindingError(f"{where}: {CHANGED} is not {BASE} with the change")
        except FindingError as error:
            yield FindingError(clean_line(str(error)))
            continue
        yield PeerFinding(peer, commit.commit, commit.date, _of_peer(finding, peer), base_text, diff_text)


def _of_peer(finding: Finding, peer: str) -> Finding:
    """A finding as it was read: its id made here, and the peer who signed it in place of the names on the page."""
    evidence = tuple(replace(one, peer=peer) for one in finding.evidence)
    source = source_of_peer(peer, finding.source)
    return replace(finding, id=id_of_content(finding), source=source, evidence=evidence)


def _leads_to(finding: Finding, base_text: str, blob: str | None) -> bool:
    """Whether a base with a finding's change is the content of a blob.

    Raises FindingError if the change does not fit its base.
    """
    with suppress(FindingError):  # without parsing the texts, which takes most of the time and seldom matters
        if blob_name(changed_base(finding, base_text, TextKind()).encode()) == blob:
            return True
    return blob_name(changed_base(finding, base_text, guessed_kind(base_text)).encode()) == blob


def read_pages(store: Store, peer: str, commits: Sequence[ChainCommit]) -> Iterator[tuple[ChainCommit, Finding]]:
    """The pages of findings that were read before, their ids made here; those that cannot be read are left out."""
    for commit, _, (twin, page) in _read_files(store, commits, (TWIN, PAGE)):
        try:
            _check_format(twin, peer, peer)
            finding = parse_finding(_text(page, peer), peer)
        except FindingError:
            continue
        yield commit, replace(finding, id=id_of_content(finding))


def read_champion(store: Store, peer: str, tip: str) -> Champion:
    """The champion at the tip of a peer's chain of champions.

    Raises:
      FindingError: it says nothing that can be used.
    """
    where = f"{peer}'s champion"
    files = (CHAMPION, CHAMPION_TEXT)
    ((commit, _, (words, text)),) = _read_files(store, store.chain(tip, None, 1), files, MAX_COMMIT_BYTES)
    return Champion(peer, commit.commit, commit.date, _check_format(words, where, peer), _text(text, where))


def read_files(store: Store, commit: ChainCommit) -> dict[str, bytes]:
    """All files of a commit of this peer's own chain."""
    (tree,) = store.read([commit.tree], MAX_HEAD_BYTES)
    entries = tree_entries(tree or b"")
    contents = store.read([blob for _, _, blob in entries], MAX_COMMIT_BYTES)
    return {name: content or b"" for (_, name, _), content in zip(entries, contents, strict=True)}


def _check_files(store: Store, commits: Sequence[ChainCommit]) -> None:
    for start in range(0, len(commits), _READ_AT_ONCE):
        part = commits[start : start + _READ_AT_ONCE]
        listed = []
        for commit, tree in zip(part, store.read([one.tree for one in part], MAX_HEAD_BYTES), strict=True):
            entries = [] if tree is None else tree_entries(tree)
            if not 0 < len(entries) <= MAX_FILES or any(mode != _FILE_MODE for mode, _, _ in entries):
                raise ChainError(f"oversized: {commit.commit[:10]} has other entries than 1 to {MAX_FILES} plain files")
            listed.append([blob for _, _, blob in entries])
        sizes = iter(store.sizes([blob for blobs in listed for blob in blobs]))
        for commit, blobs in zip(part, listed, strict=True):
            if sum(next(sizes) or 0 for _ in blobs) > MAX_COMMIT_BYTES:
                raise ChainError(f"oversized: {commit.commit[:10]} has more than {MAX_COMMIT_BYTES:,} bytes of files")


def _read_files(
    store: Store, commits: Sequence[ChainCommit], wanted: Sequence[str], limit: int = 2 * MAX_BYTES
) -> Iterator[tuple[ChainCommit, dict[str, str], list[bytes | None]]]:
    """Of each commit the names of its blobs, and the contents of some."""
    for start in range(0, len(commits), _READ_AT_ONCE):
        part = commits[start : start + _READ_AT_ONCE]
        trees = store.read([one.tree for one in part], MAX_HEAD_BYTES)
        listed = [{name: blob for _, name, blob in tree_entries(tree or b"")} for tree in trees]
        asked = [names[name] for names in listed for name in wanted if name in names]
        contents = iter(store.read(asked, limit))
        for commit, names in zip(part, listed, strict=True):
            yield commit, names, [next(contents) if name in names else None for name in wanted]


def _check_format(content: bytes | None, where: str, peer: str) -> Mapping[str, Any]:
    """The words of a JSON file of ours; refuses those of a later format, in the same words for all of a peer."""
    try:
        words = json.loads(_text(content, where))
        found = int(words["format"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise FindingError(f"{where}: has no {TWIN} or {CHAMPION} that can be read") from error
    if found > FORMAT:
        what = f"findings and champions of {peer} are of a later format, {found}"
        raise FindingError(f"{what}: update autoresearch_jax to read them")
    return dict(words)


def _split_signature(commit: bytes) -> tuple[bytes, bytes]:
    """What a commit's signature was made of, and the signature; the latter empty if there is none."""
    head, mark, message = commit.partition(b"\n\n")
    kept: list[bytes] = []
    signature: list[bytes] = []
    inside = False
    for line in head.split(b"\n"):
        inside = line.startswith(b"gpgsig ") or (inside and line.startswith(b" "))
        if inside:
            signature.append(line.removeprefix(b"gpgsig").removeprefix(b" "))
        else:
            kept.append(line)
    return b"\n".join(kept) + mark + message, b"".join(line + b"\n" for line in signature)


def _text(content: bytes | None, where: str) -> str:
    try:
        if content is None:
            raise FindingError(f"{where}: a file is missing or too large")
        return plain_text(content)
    except UnicodeDecodeError as error:
        raise FindingError(f"{where}: is not UTF-8") from error


def _json(words: Mapping[str, Any]) -> str:
    return json.dumps(words, indent=1, ensure_ascii=False) + "\n"


def day_of(date: int) -> str:
    """The UTC day of a time in seconds since the epoch."""
    return datetime.fromtimestamp(date, UTC).date().isoformat()
