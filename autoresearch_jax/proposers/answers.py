"""A model's answer: the schema that is asked for, and what is read where a model keeps to it only nearly.

What is read is what was meant for certain: JSON within prose, with comments or commas too many, or edits as blocks. An
answer that could mean two things goes back to the model.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from autoresearch_jax.edits import (
    MAX_CHARACTERS,
    Edit,
    EditError,
    apply_edits,
    read_edits,
    replace_file,
    unfenced,
)
from autoresearch_jax.proposers.base import MAX_WHY_CHARACTERS, Brief
from autoresearch_jax.proposers.briefing import MAX_CATEGORY_CHARACTERS
from autoresearch_jax.python_source import BYTE_ORDER_MARK
from autoresearch_jax.sanitize import clean_line, clean_secret_line, redact, redact_value

MAX_HYPOTHESIS_CHARACTERS = 300  # as an agent's with a command line
MAX_EFFECT_CHARACTERS = 40  # of an expected effect in words
MAX_EFFECT = 1e300
MAX_PROBLEMS = 10  # of an answer's form that are named
MAX_OBJECTS = 50  # of JSON in an answer that are looked at
MAX_MENDED = 4  # of them, so that a text that is made to be read for long is not
OTHER_CATEGORY = "other"
NO_HYPOTHESIS = "edits without a word"
_KEYS = frozenset({"hypothesis", "edits"})  # an object that has one of them is meant as an answer
_THOUGHT = re.compile(
    r"</(?:\w+:)?(?:think|thinking|thoughts?|reasoning|analysis|reflection|scratchpad)>|\[/think\]|◁/think▷",
    re.IGNORECASE,
)
_OBJECT = re.compile(r"\{(?=\s*+[\"/#])")
# Strings are matched first, so that nothing is altered in them; each alternative runs to the end of the text at most
# once.
_STRING = r'"(?:[^"\\]|\\.)*+"?'
_COMMENT = re.compile(rf"({_STRING})|//[^\n]*|#[^\n]*|/\*(?:.*?\*/|.*)", re.DOTALL)
_COMMA = re.compile(rf"({_STRING})|,(?=\s*+[}}\]])", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_BARE_EFFECT = re.compile(r'("predicted_effect"\s*:)\s*(?!null|true|false)([^\s",{}\[\]][^",{}\[\]\n]*)')


class Answer(NamedTuple):
    """What can be used of an answer; `why` is empty and `used` has nothing where that was not said."""

    hypothesis: str
    category: str
    source: str
    why: str = ""
    used: tuple[str, ...] = ()


def answer_schema(brief: Brief, count: int = 1) -> dict[str, Any]:
    """The response schema of an answer with this number of proposals."""
    text = {"type": "STRING"}
    edit = {"type": "OBJECT", "properties": {"search": text, "replace": text}, "required": ["search", "replace"]}
    proposal: dict[str, Any] = {
        "type": "OBJECT",
        "properties": {
            "hypothesis": text,
            "category": {"type": "STRING", "enum": category_names(brief)},
            "predicted_effect": {"type": "NUMBER"},
            "edits": {"type": "ARRAY", "items": edit},
            "file": {"type": "STRING", "nullable": True},
            "why": {"type": "STRING", "nullable": True},
        },
        "required": ["hypothesis", "category", "predicted_effect"],
        "property_ordering": ["hypothesis", "category", "predicted_effect", "edits", "file", "why"],
    }
    if brief.papers:
        proposal["properties"]["used"] = {"type": "ARRAY", "items": {"type": "STRING", "enum": list(brief.papers)}}
        proposal["property_ordering"].append("used")
    if count == 1:
        return proposal
    several = {"type": "ARRAY", "items": proposal}
    return {"type": "OBJECT", "properties": {"proposals": several}, "required": ["proposals"]}


def category_names(brief: Brief) -> list[str]:
    """The categories that may be named, each once."""
    return list(dict.fromkeys([*map(clean_line, brief.categories), OTHER_CATEGORY]))


def read_answers(
    text: str, brief: Brief, count: int, secrets: Sequence[str] = ()
) -> tuple[list[Answer], list[EditError]]:
    """As `read_answer`, where `count` proposals were asked for: those that can be used, and why others cannot.

    Raises:
      EditError: none can be used.
    """
    found = _distinct_objects(_THOUGHT.split(text)[-1]) if count > 1 else []
    if len(found) < 2:
        return [read_answer(text, brief, secrets)], []
    good: list[Answer] = []
    faults: list[EditError] = []
    for number, one in enumerate(found, 1):
        value = dict(redact_value(one, secrets))
        try:
            good.append(_as_proposal(value, _checked_edits(value, brief.champion_source), brief, secrets))
        except EditError as error:
            faults.append(EditError(f"proposal {number}: {error}", unchanged=error.unchanged))
    if not good:
        raise EditError("\n".join(map(str, faults)), unchanged=all(fault.unchanged for fault in faults))
    return good, faults


def read_answer(text: str, brief: Brief, secrets: Sequence[str] = ()) -> Answer:
    """What can be used of an answer: JSON of the schema, or a free text with edits.

    Args:
      secrets: what the answer must not bring in.

    Raises:
      EditError: it cannot be used; the message tells the model what is to be mended.
    """
    text = text.strip().removeprefix(BYTE_ORDER_MARK)
    if not text.strip():
        raise EditError("the answer was empty")
    words = _THOUGHT.split(text)[-1]
    fault = ""
    try:
        value = dict(redact_value(read_object(text), secrets))  # JSON may have spelt a secret with escapes
    except (ValueError, RecursionError) as error:
        value, fault = {}, clean_line(str(error))
    if not value.get("edits") and not value.get("file") and (blocks := read_edits(words)):
        edits = blocks
        value.setdefault("hypothesis", re.split(r"(?m)^[ \t]*(?:<{5,}|@@|---|```|diff )", words)[0])
    elif fault:
        raise EditError(fault)
    else:
        edits = _checked_edits(value, brief.champion_source)
    return _as_proposal(value, edits, brief, secrets)


def _as_proposal(value: Mapping[str, Any], edits: Sequence[Edit], brief: Brief, secrets: Sequence[str]) -> Answer:
    """What can be used of an answer's fields."""
    said = value.get("hypothesis")
    hypothesis = clean_secret_line(said, secrets, MAX_HYPOTHESIS_CHARACTERS) if isinstance(said, str) else ""
    hypothesis = (hypothesis or NO_HYPOTHESIS) + _expectation(value.get("predicted_effect"), secrets)
    champion = brief.champion_source
    source = (
        replace_file(champion, value["file"], brief.asset)
        if value.get("file")
        else apply_edits(champion, edits, brief.asset)
    )
    if redact(source, [secret for secret in secrets if secret not in champion]) != source:
        raise EditError("the edits put together a key or another secret: leave it out")
    word = clean_line(str(value.get("category")), MAX_CATEGORY_CHARACTERS).lower()
    category = {name.lower(): name for name in brief.categories}.get(word) or brief.category or OTHER_CATEGORY
    why = value.get("why")
    opinion = clean_secret_line(why, secrets, MAX_WHY_CHARACTERS) if isinstance(why, str) else ""
    return Answer(hypothesis, category, source, opinion, brief.used_papers(value.get("used")))


def read_object(text: str) -> Mapping[str, Any]:
    """The one object of JSON that a text is or has in it.

    Forgiven are prose and thinking around it, a fence, comments, commas before a closing bracket, line breaks in
    strings, and the same object once more.

    Raises:
      ValueError: there is none, or there are several that differ; the message says so to the model.
    """
    try:
        value = json.loads(unfenced(text), strict=False)
    except (ValueError, RecursionError) as error:
        value, fault = None, str(error)
    else:
        fault = ""
        if isinstance(value, Mapping) and (value.keys() & _KEYS or not value):
            return value
    text = _THOUGHT.split(text)[-1]
    found = _distinct_objects(text)
    if len(found) > 1:
        raise ValueError(f"the answer has {len(found)} objects that differ: give one")
    if found:
        return found[0]
    if not fault:
        if isinstance(value, Mapping):
            return value
        raise ValueError("the answer is JSON, but no object")
    quotes = " ".join(sorted(set(text) & set("“”„‟")))
    raise ValueError(f"the answer is not JSON: {fault}" + (f"; {quotes} are no quotes of JSON" if quotes else ""))


def _distinct_objects(text: str) -> list[Mapping[str, Any]]:
    """The objects in a text that are meant as answers, each once; none of a text that is too long to be looked at."""
    if len(text) > 2 * MAX_CHARACTERS:  # JSON writes a quote or a line break with two characters
        return []
    return list({json.dumps(one, sort_keys=True): one for one in _objects(text)}.values())


def _objects(text: str) -> list[Mapping[str, Any]]:
    """The objects in a text that are meant as answers, in their order."""
    decoder = json.JSONDecoder(strict=False)
    found: list[Mapping[str, Any]] = []
    start, mended = _OBJECT.search(text), 0
    for _ in range(MAX_OBJECTS):
        if start is None:
            break
        at, end, value = start.start(), start.end(), None
        try:
            value, after = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            mended += 1
            with suppress(ValueError, RecursionError):
                strict = _mended(text[at:]) if mended <= MAX_MENDED else ""
                value, after = decoder.raw_decode(strict)
                text, end = strict, 1
        if isinstance(value, Mapping) and value.keys() & _KEYS:
            found.append(value)
            end = after
        start = _OBJECT.search(text, end)
    return found


def _mended(text: str) -> str:
    """A text that begins with an object, as strict JSON has it: without comments, commas too many, and escapes of '."""
    text = _COMMENT.sub(lambda match: match[1] or " ", text)
    text = _COMMA.sub(lambda match: match[1] or "", text)
    text = _ESCAPE.sub(lambda match: "'" if match[1] == "'" else match[0], text)
    return _BARE_EFFECT.sub(lambda match: f"{match[1]} {json.dumps(match[2].strip())}", text)


def _checked_edits(value: Mapping[str, Any], source: str) -> list[Edit]:
    """The edits of an answer; what decides nothing, such as the expected effect, is not looked at.

    Raises EditError if it gives no edits that could be applied to the source, or a file besides.
    """
    problems = []
    edits, file = value.get("edits") or [], value.get("file") or ""
    if isinstance(edits, str):
        edits = [{"search": edit.search, "replace": edit.replace} for edit in read_edits(edits)]
    if isinstance(edits, Mapping):
        edits = [edits]
    if not isinstance(edits, list):
        problems.append("edits must be a list")
        edits = []
    for number, edit in enumerate(edits, 1):
        if not isinstance(edit, Mapping) or not all(isinstance(edit.get(k), str) for k in ("search", "replace")):
            problems.append(f"edit {number} must have the texts search and replace")
    if not isinstance(file, str):
        problems.append("file must be a text")
    if bool(edits) == bool(file):
        problems.append("give edits or file, not both" if edits else "there are neither edits nor a file")
    if problems:
        raise EditError(f"the answer does not follow the schema: {'; '.join(problems[:MAX_PROBLEMS])}")
    return [_without_fences(Edit(edit["search"], edit["replace"]), source) for edit in edits]


def _without_fences(edit: Edit, source: str) -> Edit:
    """An edit whose search text stands in a Markdown fence, without it; of a fence in the source none is taken away."""
    if edit.search in source or (search := unfenced(edit.search)) == edit.search:
        return edit
    return Edit(search, unfenced(edit.replace))


def _expectation(effect: object, secrets: Sequence[str]) -> str:
    """The expected effect as it is shown after a hypothesis; empty where it says nothing."""
    if isinstance(effect, str):
        words = clean_secret_line(effect, secrets, MAX_EFFECT_CHARACTERS)
        try:
            effect = float(words)
        except ValueError:
            return f" (expected: {words})" if words else ""
    if isinstance(effect, bool) or not isinstance(effect, int | float) or math.isnan(effect):
        return ""
    return f" (expected: {effect:+.3g})" if -MAX_EFFECT <= effect <= MAX_EFFECT else ""
