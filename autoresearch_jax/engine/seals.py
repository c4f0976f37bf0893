"""SHA-256 seals of what a run wrote down: of a row when it is concluded, of the ledger's file when it is closed."""

import hashlib
import json
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path

DIGEST = "digest"  # column of a row's seal, and among the settings the name of theirs


def row_digest(row: Mapping[str, object]) -> str:
    """SHA-256 over the canonical JSON of a row's columns, in hexadecimal.

    The column of the digest itself is left out, and so is what is null.
    """
    columns = {name: value for name, value in row.items() if name != DIGEST and value is not None}
    return hashlib.sha256(json.dumps(columns, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def seal_of(path: Path) -> Path:
    """Where the seal of a file is."""
    return path.with_name(path.name + ".sha256")


def seal_text(path: Path) -> str:
    """What the seal of a file says if the file is as it is now; `sha256sum --check` reads it too."""
    with path.open("rb") as file:
        return seal_text_of(file, path.name)


def seal_text_of(file: BufferedReader, name: str) -> str:
    """What the seal says of a file that is open, from its beginning."""
    return f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n"
