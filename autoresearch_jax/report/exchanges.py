"""What was asked of models: dollars, tokens, requests and seconds, from the files that exchanges are stored in."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from autoresearch_jax.engine.run_folder import RunFolder

LIMITED = ("dollars", "tokens", "requests")
MEMO_FOLDERS = 20_000  # that are not read again as long as they do not change


@dataclass(frozen=True)
class ModelUse:
    """What one exchange with a model took, or several together."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    dollars: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "ModelUse") -> "ModelUse":
        return ModelUse(
            self.requests + other.requests,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.dollars + other.dollars,
            self.seconds + other.seconds,
        )


def model_use(folder: RunFolder) -> ModelUse:
    """All exchanges of a run; a file that cannot be read counts as nothing."""
    return sum((_in_folder(*found) for found in _folders(folder)), ModelUse())


def limits_in_force(folder: RunFolder) -> Mapping[str, float]:
    """What the run may spend, by name ("dollars", "tokens", "requests"), as of the last request that can be read."""
    found = (_limits_in_folder(*entry) for entry in sorted(_folders(folder), reverse=True))
    return next((limits for limits in found if limits is not None), {})


@lru_cache(maxsize=MEMO_FOLDERS)
def _limits_in_folder(path: str, modified: int) -> Mapping[str, float] | None:
    for file in sorted((file for file in Path(path).glob("*.json") if file.stem.isdigit()), reverse=True):
        with suppress(OSError, ValueError, KeyError, TypeError):
            limits = json.loads(file.read_text(encoding="utf-8"))["limits"]
            return {name: float(limits[name]) for name in LIMITED if limits[name] is not None}
    return None


def _folders(folder: RunFolder) -> Iterator[tuple[str, int]]:
    """Folders of exchanges, and when each last got a file: an exchange is written under a new name, and renamed."""
    try:
        with os.scandir(folder.exchanges) as entries:
            found = [(entry.path, entry.stat().st_mtime_ns) for entry in entries if entry.is_dir()]
    except OSError:  # there is none, or it is gone meanwhile
        return
    yield from found


@lru_cache(maxsize=MEMO_FOLDERS)
def _in_folder(path: str, modified: int) -> ModelUse:
    return sum((_read(file) for file in Path(path).glob("*.json") if file.stem.isdigit()), ModelUse())


def _read(path: Path) -> ModelUse:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        usage = stored["usage"]
        return ModelUse(
            requests=1,
            input_tokens=int(usage["input_tokens"]),
            output_tokens=int(usage["output_tokens"]),
            dollars=float(stored["dollars"] or 0.0),
            seconds=float(stored["seconds"]),
        )
    except (OSError, ValueError, KeyError, TypeError):  # being written, or of another make
        return ModelUse()
