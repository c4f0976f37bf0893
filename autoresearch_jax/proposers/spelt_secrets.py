"""Secrets taken out of what a service sends, also where the JSON within a text spells them with escapes."""

import re
from collections.abc import Sequence
from typing import Any

from autoresearch_jax.proposers.redaction import REDACTED, SHORTEST_SECRET, redact_value
from autoresearch_jax.sanitize import MAX_LINE_CHARACTERS, clean_line


def without_secrets(value: Any, secrets: Sequence[str]) -> Any:
    """A JSON value with every secret in its texts and keys blanked out, however JSON spells it."""
    spelt = [_spellings(secret) for secret in worth_hiding(secrets)]
    return redact_value(_without(value, spelt), secrets)


def worth_hiding(secrets: Sequence[str]) -> Sequence[str]:
    """Those that are no placeholders; the longest first, since one may be part of another."""
    return sorted({secret for secret in secrets if len(secret) >= SHORTEST_SECRET}, key=len, reverse=True)


def clean_words(text: str, secrets: Sequence[str], limit: int = MAX_LINE_CHARACTERS) -> str:
    """`clean_line` of a text without any secret, one included that is whole only once the text is cleaned."""
    whole = clean_line(text, max(len(text), 1))  # cut afterwards, or half a secret would stay at the end
    return clean_line(without_secrets(whole, secrets), limit)


def _spellings(secret: str) -> re.Pattern[str]:
    """A secret as JSON may spell it, each character by itself or by its number, escaped once or more."""
    return re.compile("".join(map(_spelling, secret)))


def _spelling(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    # From the first of a run of backslashes, and nothing tried twice: a text of nothing else would take days.
    numbers = "".join(rf"(?<!\\)\\++u(?i:{units[at : at + 2].hex()})" for at in range(0, len(units), 2))
    marks = r"\\{0,8}" if character in '"\\/' else ""  # JSON has short escapes of these three
    return f"(?:{marks}{re.escape(character)}|{numbers})"


def _without(value: Any, spelt: Sequence[re.Pattern[str]]) -> Any:
    if isinstance(value, str):
        if "\\" in value:  # without one nothing is escaped
            for pattern in spelt:
                value = pattern.sub(REDACTED, value)
        return value
    if isinstance(value, dict):
        return {_without(key, spelt): _without(item, spelt) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without(item, spelt) for item in value]
    return value
