"""What an agent with a command line left in its folder: the asset, its explanation, other changes."""

import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from autoresearch_jax.assets.base import AssetKind, AssetSyntaxError
from autoresearch_jax.files import plain_text
from autoresearch_jax.proposers.base import (
    CONSTANTS_CATEGORY,
    MAX_WHY_CHARACTERS,
    NO_PROPOSAL,
    Brief,
    Proposal,
    ProposalFailed,
)
from autoresearch_jax.proposers.briefing import MAX_CATEGORY_CHARACTERS
from autoresearch_jax.proposers.hypothesis import Explanation, read_explanation
from autoresearch_jax.sandbox.sandbox import remove_tree
from autoresearch_jax.sanitize import clean_line, clean_secret_line, redact

MAX_SOURCE_BYTES = 1 << 20
MAX_HYPOTHESIS_CHARACTERS = 300  # so that notes find room behind it
_MARKERS = (NO_PROPOSAL, CONSTANTS_CATEGORY)  # categories by which the driver knows its own proposals


def remove(path: Path) -> None:
    """Removes a link and not what it points to, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)


def write_anew(path: Path, data: bytes) -> None:
    """Writes a file in place of what is there, which may be a link to elsewhere."""
    remove(path)
    path.write_bytes(data)


def file_states(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What tells one state of a file from another, by path in the folder; links are not followed."""
    found = {}
    for path in folder.rglob("*"):
        with suppress(OSError):
            status = path.lstat()
            if not stat.S_ISDIR(status.st_mode):
                found[path.relative_to(folder).as_posix()] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


def with_notes(words: str, notes: list[str]) -> str:
    return f"{words} ({'; '.join(notes)})" if notes else words


def read_source(path: Path, notes: list[str]) -> str:
    """The asset as the agent left it; raises ProposalFailed if it is gone, or no text."""
    data = read_beginning(path)
    if data is None:
        why = f"the agent deleted {path.name}, or made something else of it"
    elif len(data) > MAX_SOURCE_BYTES:
        why = f"the agent made {path.name} larger than {MAX_SOURCE_BYTES} bytes"
    else:
        try:
            return plain_text(data)
        except UnicodeDecodeError as error:
            why = f"the agent left {path.name} that is not UTF-8 text: {error}"
    raise ProposalFailed(with_notes(why, notes))


def require_finished(path: Path, before: bytes | None, why: str, asset: AssetKind) -> None:
    """Raises ProposalFailed unless an agent that was cut off left another text that can be parsed."""
    data = read_beginning(path)
    if data is None or data == before:
        raise ProposalFailed(f"{why}, and had changed nothing in {path.name}")
    try:
        asset.check(plain_text(data))
    except (AssetSyntaxError, UnicodeDecodeError) as error:
        raise ProposalFailed(f"{why}, and left {path.name} unfinished: {clean_line(str(error))}") from error


def read_beginning(path: Path) -> bytes | None:
    """The beginning of a regular file; None of anything else."""
    with suppress(OSError):
        if stat.S_ISREG(path.lstat().st_mode):
            with path.open("rb") as file:
                return file.read(MAX_SOURCE_BYTES + 1)
    return None


def explain(path: Path, last_line: str, secrets: Sequence[str], categories: Sequence[str]) -> Explanation:
    """From HYPOTHESIS.md, or else the last line of output; what is not said is empty."""
    text = redact((read_beginning(path) or b"").decode("utf-8-sig", "replace"), secrets)
    line = clean_secret_line(last_line, secrets, max(len(last_line), 1))  # whole: it may be JSON
    written, said = read_explanation(text, categories), read_explanation(line, categories)
    words = written.hypothesis or said.hypothesis or line or "a change that the agent did not explain"
    category = clean_secret_line(written.category or said.category, secrets, MAX_CATEGORY_CHARACTERS)
    hypothesis = clean_secret_line(words, secrets, MAX_HYPOTHESIS_CHARACTERS)
    why = clean_secret_line(written.why or said.why, secrets, MAX_WHY_CHARACTERS)
    return Explanation(hypothesis, "" if category in _MARKERS else category, why, written.used or said.used)


def explained(
    brief: Brief, explanation: Explanation, category: str, source: str, proposer: str, notes: list[str]
) -> Proposal:
    """A proposed text with what was said of it; it is of `category` where that names none."""
    return Proposal(
        with_notes(explanation.hypothesis, notes),
        explanation.category or category,
        source=source,
        proposer=proposer,
        used=brief.used_papers(explanation.used),
        why=explanation.why,
    )
