"""What a peer needs to take part, each thing tried."""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from autoresearch_jax.engine.git import GitError
from autoresearch_jax.errors import UserError
from autoresearch_jax.sanitize import clean_line, counted
from autoresearch_jax.swarm.chain import MAX_HEAD_BYTES, ChainError, verify_signature
from autoresearch_jax.swarm.exchange import MemberExchange
from autoresearch_jax.swarm.membership import KEY_TYPES, Settings, SwarmError, SwarmFolder, read_members
from autoresearch_jax.swarm.notices import ANSWER_SECONDS, UNANSWERED, ZenohNotices
from autoresearch_jax.swarm.store import FINDINGS, REMOTE_PREFIX, Store
from autoresearch_jax.swarm.transport import GitRemote, Transport

CHECK_SECONDS = 30.0  # that one git command may take while somebody waits for it


@dataclass(frozen=True)
class Check:
    """One thing that was tried: its name, whether it is fine, and a line about it."""

    name: str
    fine: bool
    said: str


def check_joining(folder: SwarmFolder, settings: Settings, environment: Mapping[str, str]) -> Iterator[Check]:
    """Tries the key, the members' file, the remote, and a push that changes nothing.

    Args:
      folder: of the peer, which has been made.
      settings: to be tried; they need not be stored.
      environment: of this process.
    """
    store = Store(folder.store, environment, CHECK_SECONDS)
    try:
        store.make()
        tried = store.write_commit({"try": b""}, None, settings.name, "try", Path(settings.key), 0)
    except GitError as error:
        yield Check("key", False, f"{settings.key} does not sign: {error}: name another with --key")
        return
    yield Check("key", True, f"{settings.key} signs")
    yield _check_members(store, settings, tried)
    if not settings.remote:
        yield from _check_members_answer(folder, settings, environment)
        return
    remote = GitRemote(store, settings.remote)
    ref = f"{REMOTE_PREFIX}{FINDINGS}/{settings.name}"
    try:
        tips = store.remote_refs(settings.remote)
    except GitError as error:
        yield Check("remote", False, f"{settings.remote} does not answer: {_reason(error)}")
        return
    chains = sum(one.startswith(f"{REMOTE_PREFIX}{FINDINGS}/") for one in tips)
    yield Check("remote", True, f"{settings.remote} answers, with chains of {counted(chains, 'peer')}")
    pushed = store.push(settings.remote, tried, ref, tips.get(ref), dry_run=True)
    said = f"allowed to {ref} (tried without changing it)" if pushed.done else f"{pushed.said}: ask for push access"
    yield Check("push", pushed.done, said)
    if ref in tips:
        yield _check_own_chain(store, settings, remote, ref, tips[ref])
    if settings.has_notices:
        yield from _check_members_answer(folder, settings, environment)


def _check_members(store: Store, settings: Settings, tried: str) -> Check:
    members = Path(settings.members)
    line = f"{settings.name} {_public_key(Path(settings.key))}"
    another = f"name that one with --key, or give all members this line in its place: {line}"
    remedy = f"every member's file needs this line: {line}"
    try:
        known = read_members(members)
        if settings.name not in known:
            return Check("members", False, f"{members} has no {settings.name}: {remedy}")
        _check_keys(members, known)
        (commit,) = store.read([tried], MAX_HEAD_BYTES)
        verify_signature(commit or b"", settings.name, members)
    except ChainError:
        return Check("members", False, f"{members} has another key of {settings.name}: {another}")
    except SwarmError as error:
        return Check("members", False, f"{error}; yours is: {line}")
    return Check("members", True, f"{members} has {len(known)}, {settings.name} with this key")


def _check_keys(path: Path, members: Mapping[str, str]) -> None:
    """Refuses a members' file with a key that has lost a part, whose peer none could read.

    Raises SwarmError if there is one.
    """
    for name, lines in members.items():
        for line in lines.splitlines():
            if not _has_whole_key(line.split()):
                number = path.read_text(encoding="utf-8").splitlines().index(line) + 1
                raise SwarmError(f"{path}:{number}: the key of {name} cannot be read: ask for this line again")


def _has_whole_key(words: list[str]) -> bool:
    """Whether the base64 after a key's type is parts with their lengths, of which the type is the first (RFC 4253)."""
    place = next(place for place, word in enumerate(words) if place and word.startswith(KEY_TYPES))
    try:
        left = base64.b64decode("".join(words[place + 1 : place + 2]), validate=True)
    except ValueError:
        return False
    parts = []
    while left:
        end = 4 + int.from_bytes(left[:4])
        if len(left) < end:
            return False
        parts.append(left[4:end])
        left = left[end:]
    return len(parts) > 1 and parts[0] == words[place].encode()


def _check_own_chain(store: Store, settings: Settings, transport: Transport, ref: str, tip: str) -> Check:
    try:
        failed: dict[str, str] = {}
        if not list(transport.fetch({ref: tip}, failed.__setitem__)):
            raise GitError(failed.get(ref, "no member sends it"))
        (head,) = store.read([tip], MAX_HEAD_BYTES)
        verify_signature(head or b"", settings.name, Path(settings.members))
    except UserError as error:
        return Check("chain", False, f"{ref} is there and not yours: {error}: choose another --name")
    return Check("chain", True, f"goes on from {tip[:10]} of {transport.where}")


def _check_members_answer(folder: SwarmFolder, settings: Settings, environment: Mapping[str, str]) -> Iterator[Check]:
    """Asks whether a member answers; without a remote also for a chain of this name that they have."""
    exchange = MemberExchange(folder, settings.name, environment, lambda text: None, answers=False)
    notices = ZenohNotices(settings, lambda: None, lambda text: None, (exchange,))
    try:
        yield _check_notices(settings, notices)
        if not settings.remote:
            ref, store = f"{REMOTE_PREFIX}{FINDINGS}/{settings.name}", Store(folder.store, environment, CHECK_SECONDS)
            here = store.refs("refs/")
            tip = exchange.tips(here).get(ref)
            if tip not in (None, here.get(ref)):
                yield _check_own_chain(store, settings, exchange, ref, str(tip))
    except GitError as error:
        yield Check("chain", True, f"{error}: one of this name would be gone on with, so join while others are at work")
    finally:
        notices.close()


def _check_notices(settings: Settings, notices: ZenohNotices) -> Check:
    """That none answers is no failure: they may be asleep, and are asked again."""
    again = "findings are polled for meanwhile" if settings.remote else "asked again while a run is at work"
    listens = f"listens at {', '.join(settings.listen)}; " if settings.listen else ""
    where = ", ".join(settings.connect)
    try:
        notices.open()
        names = notices.answering(ANSWER_SECONDS) if settings.connect else set()
    except UserError as error:
        if settings.listen:
            return Check("notices", False, f"cannot listen, or not connect: {error}")
        return Check("notices", True, f"NO ANSWER at {error}: {again}")
    if not settings.connect:
        return Check("notices", True, f"{listens}others connect")
    if names:
        return Check("notices", True, f"{listens}{', '.join(sorted(names))} answered at {where}")
    return Check("notices", True, f"{listens}NO ANSWER at {where}: {UNANSWERED}: {again}")


def _public_key(key: Path) -> str:
    """The line of a key's public half, as far as a file beside it has it."""
    for path in (key.with_name(f"{key.name}.pub"), key):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if "PRIVATE KEY" not in text:
            return clean_line(" ".join(text.split()[:2]))
    return f"(what ssh-keygen -y -f {key} prints)"


def _reason(error: Exception) -> str:
    return clean_line(str(error))
