"""What an agent says of its change: hypothesis, category, opinion and findings used, as agents write them."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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

    The opinion goes on until the next heading or label. A category may be named in more words, such as "Optimizer
    (learning rate)".
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
