"""What an agent with a command line left in its folder: the asset, its explanation, other changes."""

import json
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from autoresearch_jax.sandbox.sandbox import remove_tree
from autoresearch_jax.sanitize import clean_line, clean_secret_line, redact

_LABELS = (
    r"hypothes[ie]s(?:\.md)?|changes?|summary|title|idea|proposal|description|experiment|what (?:i |was )?changed"
    r"|expected (?:gain|effect)"
)
_OF_WHICH = r"(?: and why)?(?: for)?(?: the)?(?: next)?(?: experiment)?(?: ?#?\d+)?(?: \([^()]*\))?"  # after a label
_LABEL = re.compile(
    rf"[_*]{{0,2}}(?:the |my )?(?:proposed |experiment |main )?(?:{_LABELS}){_OF_WHICH}[_*]{{0,2}}"
    r"\s*(?:[:=][_*]{0,2}\s*|\s[-–—]\s|$)",
    re.IGNORECASE,
)
_CATEGORY = re.compile(r"[\W_]*categor(?:y|ies?)[\W_]*(?:(?:[:=]|(?<=\s)[-–—]\s)(?P<value>.*))?", re.IGNORECASE)
_FURTHER = re.compile(
    r"[\W_]*(?P<name>why|used)(?: it (?:should|might) work| findings)?[\W_]*(?:[:=](?P<value>.*))?", re.IGNORECASE
)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_MARKS = re.compile(r"^\s*(?:#+\s+|>\s+|[-*+]\s+|\d+[.)]\s+)*")
_NO_WORDS = re.compile(r"[\W_]*")
_FENCE = re.compile(r"\s*(?:```|~~~)")
_QUOTES = " \t\"'*_`.,;:"
_KEYS = ("hypothesis", "summary", "title", "description", "result")  # of a JSON object, the first that is there


@dataclass(frozen=True)
class Explanation:
    """What was said; empty where nothing was."""

    hypothesis: str = ""
    category: str = ""
    why: str = ""
    used: object = ""  # a text with ids of findings, or a list of such, as it was given


def read_explanation(text: str, categories: Sequence[str] = ()) -> Explanation:
    """What a text says: its first line that is no label, fence or front matter, its category, why, and what it used.

    The opinion goes on until the next heading or label.

    Args:
      text: Markdown, or one JSON object.
      categories: kinds of change; the text may name one in more words, such as "Optimizer (learning rate)".
    """
    fields = _json_object(text)
    if fields is not None:
        hypothesis = next((value for key in _KEYS if isinstance(value := fields.get(key), str) and value.strip()), "")
        category, why = fields.get("category"), fields.get("why")
        return Explanation(
            read_explanation(hypothesis).hypothesis,
            read_category(category, categories) if isinstance(category, str) else "",
            why if isinstance(why, str) else "",
            fields.get("used", ""),
        )
    words = category = ""
    said: dict[str, list[str]] = {"why": [], "used": []}
    next_is = ""  # what the next line belongs to, which stands below its heading
    for line in _lines(text):
        if match := _CATEGORY.fullmatch(line):
            category = category or read_category(match["value"] or "", categories)
            next_is = "" if category else "category"
            continue
        if match := _FURTHER.fullmatch(line):
            name, value = match["name"].lower(), (match["value"] or "").replace("**", "").strip()
            said[name].append(value)
            next_is = "" if name == "used" and value else name
            continue
        plain = _MARKS.sub("", line).replace("**", "").strip()
        if next_is in said and (line.lstrip().startswith("#") or _LABEL.match(plain)):
            next_is = ""
        if next_is == "category":
            category, next_is = read_category(plain, categories), ""
        elif next_is:
            said[next_is].append(plain)
        else:
            words = words or _LABEL.sub("", plain, count=1).strip() if _LABEL.match(plain) else words or plain
    why, used = (" ".join(said[name]).strip() for name in ("why", "used"))
    return Explanation(words or why, category, why, used)


def read_category(text: str, categories: Sequence[str] = ()) -> str:
    """The category that some words name, in small letters: a known one that they begin with, else their first part."""
    words = " ".join(text.replace("**", "").replace("`", "").lower().split()).strip(_QUOTES)
    known = sorted((name for name in categories if re.match(rf"{re.escape(name)}\b", words)), key=len)
    return known[-1] if known else re.split(r"[(\[,;/:|]|\s[-–—]\s", words)[0].strip(_QUOTES)


def _lines(text: str) -> Iterator[str]:
    """The lines that say something; of front matter the values of its keys that are labels."""
    lines = _COMMENT.sub("", text).strip().splitlines()
    has_front_matter = bool(lines) and lines[0].strip() == "---"
    for line in lines:
        if _FENCE.match(line) or _NO_WORDS.fullmatch(line):
            has_front_matter = has_front_matter and (line is lines[0] or line.strip() not in ("---", "..."))
        elif not has_front_matter or _LABEL.match(line) or _CATEGORY.fullmatch(line) or _FURTHER.fullmatch(line):
            yield line


def _json_object(text: str) -> dict[str, Any] | None:
    """The fields of a text that is one JSON object, with or without a fence around it."""
    body = "\n".join(line for line in text.strip().splitlines() if not _FENCE.match(line))
    try:
        found = json.loads(body, strict=False) if body.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


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
    """The asset as the agent left it.

    Raises:
      ProposalFailed: it is gone, or no text.
    """
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
