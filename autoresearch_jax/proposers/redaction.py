"""Secrets taken out of whatever is written down."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

REDACTED = "[secret]"
SHORTEST_SECRET = 8  # characters; a shorter value would be found in innocent words

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)


def secret_values(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Values of the variables whose names say that they are secrets; a path to a file of secrets is none itself."""
    return tuple(
        value
        for name, value in environment.items()
        if _SECRET_NAME.search(name) and len(value) >= SHORTEST_SECRET and not value.startswith("/")
    )


def redact(text: str, secrets: Iterable[str]) -> str:
    """The text with each secret replaced; the longest first, since one may contain another."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, REDACTED)
    return text


def redact_file(path: Path, secrets: Iterable[str]) -> None:
    """Takes secrets out of a file, which is left as it is where there are none."""
    data = path.read_bytes()
    clean = data
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        clean = clean.replace(secret.encode(), REDACTED.encode())
    if clean != data:
        path.write_bytes(clean)
