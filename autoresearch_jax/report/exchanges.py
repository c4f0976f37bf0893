"""What was asked of models: dollars, tokens, requests and seconds, from the files that exchanges are stored in."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from autoresearch_jax.engine.run_folder import RunFolder

MEMO_FILES = 20_000  # files that are not read again as long as they do not change


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
    return sum(_files(folder.exchanges()), ModelUse())


def _files(paths: Iterable[Path]) -> Iterable[ModelUse]:
    for path in paths:
        try:
            found = path.stat()
        except OSError:  # gone meanwhile
            continue
        yield _read(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=MEMO_FILES)
def _read(path: Path, modified: int, size: int) -> ModelUse:
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
