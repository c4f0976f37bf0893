"""What an agent says of its change: the hypothesis and the category, in the forms in which agents write them."""

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


def read_explanation(text: str, categories: Sequence[str] = ()) -> Explanation:
    """What a text says: its first line that is no label, fence or front matter, and its category.

    Args:
      text: Markdown, or one JSON object.
      categories: of these one is named in more words, such as "Optimizer (learning rate)".
    """
    fields = _json_object(text)
    if fields is not None:
        hypothesis = next((value for key in _KEYS if isinstance(value := fields.get(key), str) and value.strip()), "")
        category = fields.get("category")
        first = read_explanation(hypothesis).hypothesis
        return Explanation(first, read_category(category, categories) if isinstance(category, str) else "")
    words = category = ""
    is_next = False  # the category stands on the line after its heading
    for line in _lines(text):
        match = _CATEGORY.fullmatch(line)
        if match is not None:
            category = category or read_category(match["value"] or "", categories)
            is_next = not category
            continue
        plain = _MARKS.sub("", line).replace("**", "").strip()
        if is_next:
            category, is_next = read_category(plain, categories), False
            continue
        words = words or _LABEL.sub("", plain, count=1).strip() if _LABEL.match(plain) else words or plain
    return Explanation(words, category)


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
        elif not has_front_matter or _LABEL.match(line) or _CATEGORY.fullmatch(line):
            yield line


def _json_object(text: str) -> dict[str, Any] | None:
    """The fields of a text that is one JSON object, with or without a fence around it."""
    body = "\n".join(line for line in text.strip().splitlines() if not _FENCE.match(line))
    try:
        found = json.loads(body, strict=False) if body.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
