"""Secrets taken out of whatever is written down."""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

REDACTED = "[secret]"
SHORTEST_SECRET = 8  # characters; shorter words are placeholders such as "none", and would blank out half of a text

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)


def secret_values(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Values of the variables whose names say that they are secrets; a path to a file of secrets is none itself.

    One secret in base64 of 64 begins with a slash too, so only what is there, or could be put into a folder that is
    there, is a path.
    """
    values = (value.strip() for name, value in environment.items() if _SECRET_NAME.search(name))
    return tuple(value for value in values if value and not _is_path(value))


def redact(text: str, secrets: Iterable[str]) -> str:
    """The text with every secret blanked out."""
    for secret, blank in blanks(secrets).items():
        text = text.replace(secret, blank)
    return text


def redact_value(value: Any, secrets: Iterable[str]) -> Any:
    """A JSON value with every secret in its texts and keys blanked out."""
    secrets = list(blanks(secrets))
    if isinstance(value, str):
        return redact(value, secrets)
    if isinstance(value, dict):
        return {redact(key, secrets): redact_value(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_value(item, secrets) for item in value]
    return value


def blanks(secrets: Iterable[str]) -> dict[str, str]:
    """What is written instead of each secret worth hiding; the longest first, since one may be part of another."""
    worth_hiding = {secret for secret in secrets if len(secret) >= SHORTEST_SECRET}
    return dict.fromkeys(sorted(worth_hiding, key=len, reverse=True), REDACTED)


def _is_path(value: str) -> bool:
    folder = os.path.dirname(value)
    return value.startswith("/") and (os.path.lexists(value) or (folder != "/" and os.path.isdir(folder)))
