"""Secrets taken out of whatever is written down."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

REDACTED = "[secret]"
SHORTEST_SECRET = 8  # characters; shorter words are placeholders such as "none", and would blank out half of a text

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)


def secret_values(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Values of the variables whose names say that they are secrets; a path to a file of secrets is none itself."""
    return tuple(
        value for name, value in environment.items() if _SECRET_NAME.search(name) and not value.startswith("/")
    )


def redact(text: str, secrets: Iterable[str]) -> str:
    """The text with every secret blanked out."""
    for secret in _worth_hiding(secrets):
        text = text.replace(secret, REDACTED)
    return text


def redact_value(value: Any, secrets: Iterable[str]) -> Any:
    """A JSON value with every secret in its texts and keys blanked out."""
    secrets = _worth_hiding(secrets)
    if isinstance(value, str):
        return redact(value, secrets)
    if isinstance(value, dict):
        return {redact(key, secrets): redact_value(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_value(item, secrets) for item in value]
    return value


def redact_file(path: Path, secrets: Iterable[str]) -> None:
    """Blanks out every secret in a file of any bytes; one without any is left as it is."""
    data = clean = path.read_bytes()
    for secret in _worth_hiding(secrets):
        clean = clean.replace(secret.encode(), REDACTED.encode())
    if clean != data:
        path.write_bytes(clean)


def _worth_hiding(secrets: Iterable[str]) -> list[str]:
    """The longest first, since one may be part of another."""
    return sorted({secret for secret in secrets if len(secret) >= SHORTEST_SECRET}, key=len, reverse=True)
