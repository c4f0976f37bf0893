"""What a Gemini model is asked for and what it answers: instructions, response schema, parsing."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoresearch_jax.proposers.base import Brief
from autoresearch_jax.proposers.briefing import MAX_CATEGORY_CHARACTERS
from autoresearch_jax.proposers.edits import Edit, EditError, apply_edits, replace_file, unfenced
from autoresearch_jax.proposers.spelt_secrets import clean_words, without_secrets, worth_hiding
from autoresearch_jax.sanitize import clean_line

OTHER_CATEGORY = "other"
MAX_HYPOTHESIS_CHARACTERS = 300  # as an agent's with a command line
MAX_PROBLEMS = 10  # of the form that are named
_INSTRUCTIONS = """\
You are to improve a training program. Answer with one change of `{name}`, whose source is shown below: one idea, as
small a change as it takes.

- The change is traced, trained on one trial's budget, judged and compared with the champion by others; there is no data
  here to try it on.
- Do not propose what was tried, as listed below, unless you know why it comes out otherwise this time.
- Give `edits`: each `search` is copied from the source to the letter, whole lines with their indentation, so many that
  they occur once; `replace` is what is to stand there instead. Edits are applied one after another. Give the whole new
  text as `file` only where edits would be longer, and never both.
- `hypothesis` is one line that says what is changed and why that is better.
- `predicted_effect` is the change that you expect of {metric}, a number; {better} is better, so a gain is {sign}.
- `category` names the kind of change, one of: {categories}.
"""


class AnswerError(Exception):
    """An answer that cannot be used; the message tells the model what is to be mended.

    Attributes:
      repeats: True if it would change nothing.
    """

    def __init__(self, reason: str, repeats: bool = False) -> None:
        super().__init__(reason)
        self.repeats = repeats


@dataclass(frozen=True)
class Answer:
    """A model's answer, understood.

    Attributes:
      hypothesis: one clean line, with the effect that is expected.
      category: one of the brief's, or "other".
      source: the whole text that it makes of the champion's; it parses.
    """

    hypothesis: str
    category: str
    source: str


def instructions(brief: Brief, name: str) -> str:
    """Our own words at the head of the brief, which itself says what is asked for this time.

    Args:
      brief: what is to be improved.
      name: of the training file.
    """
    minimize = brief.metric.direction == "minimize"
    return _INSTRUCTIONS.format(
        name=name,
        metric=clean_line(brief.metric.name),
        better="lower" if minimize else "higher",
        sign="negative" if minimize else "positive",
        categories=", ".join(_categories(brief)),
    )


def answer_schema(brief: Brief) -> dict[str, Any]:
    """What an answer must look like, as the service takes it."""
    text = {"type": "STRING"}
    edit = {"type": "OBJECT", "properties": {"search": text, "replace": text}, "required": ["search", "replace"]}
    return {
        "type": "OBJECT",
        "properties": {
            "hypothesis": text,
            "category": {"type": "STRING", "enum": list(_categories(brief))},
            "predicted_effect": {"type": "NUMBER"},
            "edits": {"type": "ARRAY", "items": edit},
            "file": {"type": "STRING", "nullable": True},
        },
        "required": ["hypothesis", "category", "predicted_effect"],
        "property_ordering": ["hypothesis", "category", "predicted_effect", "edits", "file"],
    }


def read_answer(text: str, brief: Brief, secrets: Sequence[str] = ()) -> Answer:
    """Understands an answer and applies it to the champion's source.

    Args:
      text: the answer.
      brief: what was asked.
      secrets: what neither the answer nor an error may say. They are looked for in what the JSON means, since JSON can
        spell a word in many ways, and again in what is made of it.

    Raises:
      AnswerError: it cannot be used.
    """
    try:
        return _read(text, brief, secrets)
    except AnswerError as error:
        # A message shows lines of a text that several edits may have put together.
        raise AnswerError(without_secrets(str(error), secrets), error.repeats) from error


def _read(text: str, brief: Brief, secrets: Sequence[str]) -> Answer:
    if not text.strip():
        raise AnswerError("the answer was empty")
    try:
        value = without_secrets(json.loads(unfenced(text)), secrets)
    except (ValueError, RecursionError) as error:
        raise AnswerError(f"the answer is not JSON: {clean_line(str(error))}") from error
    if not isinstance(value, Mapping):
        raise AnswerError("the answer is JSON, but no object")
    problems = list(_problems(value))
    if problems:
        raise AnswerError(f"the answer does not follow the schema: {'; '.join(problems)}")
    effect = float(value["predicted_effect"])
    words = clean_words(value["hypothesis"], secrets, MAX_HYPOTHESIS_CHARACTERS)
    try:
        source = _edited(value, brief)
    except EditError as error:
        raise AnswerError(str(error), repeats=error.unchanged) from error
    if any(source.count(secret) > brief.champion_source.count(secret) for secret in worth_hiding(secrets)):
        raise AnswerError("the edits put together a key or another secret: leave it out")
    return Answer(f"{words} (expected: {effect:+.3g})", _category(value, brief), source)


def _problems(value: Mapping[str, Any]) -> list[str]:
    """What is wrong with an answer's form, a few words each."""
    problems = []
    if not isinstance(value.get("hypothesis"), str) or not clean_line(value["hypothesis"]):
        problems.append("hypothesis must be a line of text")
    if not isinstance(value.get("category"), str):
        problems.append("category must be a word")
    if not _is_number(value.get("predicted_effect")):
        problems.append("predicted_effect must be a number")
    edits, file = value.get("edits") or [], value.get("file") or ""
    if not isinstance(edits, Sequence) or isinstance(edits, str):
        problems.append("edits must be a list")
    else:
        problems += [
            f"edit {number} must have the texts search and replace"
            for number, edit in enumerate(edits, 1)
            if not isinstance(edit, Mapping) or not all(isinstance(edit.get(k), str) for k in ("search", "replace"))
        ]
    if not isinstance(file, str):
        problems.append("file must be a text")
    if edits and file:
        problems.append("give edits or file, not both")
    if not edits and not file:
        problems.append("there are neither edits nor a file")
    return problems[:MAX_PROBLEMS]


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _categories(brief: Brief) -> Sequence[str]:
    """All that may be named, each once."""
    return tuple(dict.fromkeys([*map(clean_line, brief.categories), OTHER_CATEGORY]))


def _category(value: Mapping[str, Any], brief: Brief) -> str:
    word = clean_line(value["category"], MAX_CATEGORY_CHARACTERS).lower()
    known = {name.lower(): name for name in brief.categories}
    return known.get(word) or brief.category or OTHER_CATEGORY


def _edited(value: Mapping[str, Any], brief: Brief) -> str:
    """The new source.

    Raises:
      EditError: it cannot be made.
    """
    if value.get("file"):
        return replace_file(brief.champion_source, value["file"])
    edits = [Edit(edit["search"], edit["replace"]) for edit in value["edits"]]
    return apply_edits(brief.champion_source, edits)
