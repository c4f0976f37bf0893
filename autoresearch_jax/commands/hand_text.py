"""An asset that somebody changed by hand: its text, what it is a change of, and what is said of it."""

import os
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from autoresearch_jax.assets.base import AssetKind, AssetSyntaxError
from autoresearch_jax.assets.merging import adds_nothing, rebase_text
from autoresearch_jax.commands.options import option
from autoresearch_jax.commands.task_options import DEFAULT_EDITABLE, DEFAULT_TASK_FILE
from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.git import Git, GitError
from autoresearch_jax.engine.inbox import nearest
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.state import concluded
from autoresearch_jax.engine.workspace import BRANCH_PREFIX
from autoresearch_jax.errors import UsageError, UserError
from autoresearch_jax.files import plain_text
from autoresearch_jax.proposers.agent_files import (
    MAX_HYPOTHESIS_CHARACTERS,
    Explanation,
    read_category,
    read_explanation,
)
from autoresearch_jax.proposers.base import CONSTANTS_CATEGORY, MAX_WHY_CHARACTERS, NO_PROPOSAL
from autoresearch_jax.proposers.briefing import MAX_CATEGORY_CHARACTERS
from autoresearch_jax.proposers.command import DEFAULT_CATEGORY, HYPOTHESIS_FILE
from autoresearch_jax.sanitize import clean_line, clean_secret_line, quoted, redact, secret_values
from autoresearch_jax.types import Merge

_COMMITTED = -1  # in place of an experiment's number
_SAME_LINES = "both change the same lines"


@dataclass(frozen=True)
class TextOptions:
    """Which text."""

    file: Path | None = option(None, "file with the text (default: --editable as it stands)")
    as_is: bool = option(
        False,
        "take the text as it stands, where it is a change of an earlier champion, in place of carrying the change over",
    )


def read_source(path: Path, how: str, asset: AssetKind) -> str:
    """The text of an asset; `how` another one is named, for the message, such as "with --file".

    Raises:
      UserError: it cannot be read.
    """
    try:
        return plain_text(path.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        words = error.strerror if isinstance(error, OSError) else f"is not UTF-8 text ({error})"
        here = f"; {DEFAULT_TASK_FILE} is here: with --task=command it names the file"
        is_of_command = path == DEFAULT_EDITABLE and DEFAULT_TASK_FILE.is_file()
        raise UserError(f"{path}: {words}: name the {asset.noun} {how}{here if is_of_command else ''}") from error


def syntax_fault(path: Path, source: str, asset: AssetKind) -> str | None:
    """Why a text is none of its kind, in one line with the place; None if it is."""
    try:
        asset.check(source)
    except AssetSyntaxError as error:
        place = path.name if error.line is None else f"{path.name}:{error.line}"
        return f"{place}: SyntaxError: {clean_line(error.message)}"
    return None


def kept_texts(ledger: Ledger) -> dict[int, str]:
    """The texts that were champions, by their experiments, the present one last."""
    return {row.id: ledger.source(row.id) for row in concluded(ledger) if row.decision is Action.KEEP}


def committed_text(editable: Path, environment: Mapping[str, str]) -> str | None:
    """The asset as the last commit has it; None where there is none."""
    git = Git(editable.resolve().parent, environment)
    with suppress(GitError, UnicodeDecodeError):
        return plain_text(git.raw("cat-file", "blob", f"HEAD:./{editable.name}"))
    return None


def show_champion(tag: str, editable: Path) -> str:
    """The command that prints the text of a run's champion, in this folder."""
    return f"git show {shlex.quote(f'{BRANCH_PREFIX}{tag}:./{Path(os.path.relpath(editable)).as_posix()}')}"


def base_of(
    asset: AssetKind,
    path: Path,
    source: str,
    kept: Mapping[int, str],
    committed: str | None,
    merge: Merge,
    show: str | None,
    notice: Callable[[str], None],
) -> str:
    """The text that a source is a change of: of the champions so far the one that differs from it in the fewest lines.

    Where a run began with other constants (--set), it may be a change of the committed text, which was no champion. Of
    equals it is the one whose change undoes nothing that was kept.

    Args:
      path: of the file that has the source, for messages.
      kept: the champions' texts by their experiments, the present one's last.
      committed: see `committed_text`.
      show: see `show_champion`; None before there is a branch.
      notice: told if the change is to be carried over to the present champion, or could be one of several.

    Raises:
      UserError: it is no change, or one that does not fit the present champion.
    """
    texts = {**kept}
    if committed is not None and committed not in (source, *kept.values()):
        texts[_COMMITTED] = committed
    numbers, champion = nearest(source, texts), max(kept)
    ours, as_it_stands = kept[champion], "--as_is measures it as it stands"
    if same := [_name(number) for number in numbers if texts[number] == source]:
        raise UserError(f"{path}: is the text of {same[0]}, to the last character: change it first; {as_it_stands}")
    former = [number for number in numbers if texts[number] != ours]
    carried = {number: rebase_text(asset, source, texts[number], ours, merge) for number in former}
    is_of_champion, is_tie = len(former) < len(numbers), len(numbers) > 1
    if not former or (is_of_champion and source in carried.values()):
        return ours
    found = f"{path}: is {'as near to' if is_tie else 'a change of'} {' as to '.join(map(_name, numbers))}"
    if not is_tie and former == [_COMMITTED] and len(kept) == 1:
        found += ", and the run's baseline is another text (--set, or a later commit)"
    elif not is_of_champion:
        found += f", and the champion is experiment {champion} by now"
    for number, text in carried.items():
        if text is not None:
            taken = f"as a change of {_name(number)} it undoes nothing that was kept, and " if is_tie else "the change "
            notice(f"{found}: {taken}is carried over; {as_it_stands}")
            return texts[number]
    remedy = "make the change in the champion's text" + (f", which `{show}` prints" if show else ", with its constants")
    empty = {number: adds_nothing(asset, source, texts[number], ours, merge) for number in former}
    stale = [
        f"{f'as a change of {_name(number)} ' if is_tie else ''}{'it adds nothing' if empty[number] else _SAME_LINES}"
        for number in former
    ]
    if (is_of_champion or not any(empty.values())) and not _undoes(source, ours, [texts[one] for one in former]):
        # such as another value for what was kept
        notice(f"{found}; taken as a change of the champion, {_name(champion)}, of which it takes nothing back")
        return ours
    if is_of_champion:
        stale.append(f"as a change of {_name(champion)}, the champion, it takes back lines that it changed")
    raise UserError(f"{found}: {'; '.join(stale)}: {remedy}; {as_it_stands}")


def _name(number: int) -> str:
    return "the last commit" if number == _COMMITTED else f"experiment {number}"


def _undoes(source: str, champion: str, former: Sequence[str]) -> bool:
    """Whether a source has lines again that the champion's text has no more."""
    lines, ours = Counter(source.splitlines()), Counter(champion.splitlines())
    return any((lines - ours) & (Counter(text.splitlines()) - ours) for text in former)


@dataclass(frozen=True)
class Words:
    """What is said of a change, in clean lines; `why` is empty where nothing is."""

    hypothesis: str
    category: str
    why: str = ""


def tell_of_file(words: Words, beside: Path, folder: RunFolder, notice: Callable[[str], None]) -> None:
    """Tells that words come from HYPOTHESIS.md, and where that was left behind by an experiment of the same words."""
    file = beside / HYPOTHESIS_FILE
    said = f"{file}: the hypothesis is taken from there: {quoted(words.hypothesis)}"
    if folder.ledger.is_file():
        with closing(Ledger.open_to_read(folder.ledger)) as ledger:
            before = [row for row in ledger.experiments() if row.hypothesis == words.hypothesis and not row.is_open]
        with suppress(OSError):
            if before and before[-1].created_at > file.stat().st_mtime:
                said += f"; it is older than experiment {before[-1].id}, which had the same words: if this is another "
                said += "change, interrupt it and give --hypothesis"
    notice(said)


def words_of(
    hypothesis: str | None, category: str | None, why: str | None, beside: Path, categories: Sequence[str]
) -> Words:
    """What the flags say, or else HYPOTHESIS.md in a folder, which is read as it is from an agent.

    Raises:
      UsageError: there is no hypothesis, or a category that is the ledger's own mark.
    """
    written, secrets = Explanation(), secret_values(os.environ)
    if hypothesis is None:
        with suppress(OSError):
            text = (beside / HYPOTHESIS_FILE).read_text(encoding="utf-8-sig", errors="replace")
            written = read_explanation(redact(text, secrets), categories)
    line = clean_secret_line(hypothesis or written.hypothesis, secrets, MAX_HYPOTHESIS_CHARACTERS)
    if not line:
        raise UsageError(
            "--hypothesis is missing: say in a line what is changed and what it should gain, such as "
            f"--hypothesis='half the batch, twice the steps'; or write it to {beside / HYPOTHESIS_FILE}"
        )
    named = written.category if category is None else read_category(category, categories)
    kind = clean_secret_line(named, secrets, MAX_CATEGORY_CHARACTERS) or DEFAULT_CATEGORY
    if kind in (NO_PROPOSAL, CONSTANTS_CATEGORY):
        if category is not None:
            raise UsageError(f"--category={category}: is a mark of the ledger's own: name another")
        kind = DEFAULT_CATEGORY
    opinion = written.why if why is None else why
    return Words(line, kind, clean_secret_line(opinion, secrets, MAX_WHY_CHARACTERS))
