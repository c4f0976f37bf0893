"""Every exchange with a model, on disk before it is used: what was asked, what came back, what it cost.

`NNNN/KK.json` below one folder: NNNN the experiment, KK the request's number in it. What was spent is known from these
files alone, after a kill, too: a request is written down before it is sent, at the most that it may cost.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autoresearch_jax.errors import UserError
from autoresearch_jax.proposers.prices import Usage
from autoresearch_jax.proposers.spelt_secrets import without_secrets

REPORTED = "reported"  # by the service
WORST_CASE = "worst case"  # nobody said, so the most that the request may have taken
NOTHING = "nothing"  # the request was refused, or did not reach the service


class ExchangeError(UserError):
    """An exchange cannot be read or written, so nobody would know what was spent."""


@dataclass(frozen=True)
class Exchange:
    """One request to a model and what became of it.

    Attributes:
      time: when it was sent, UTC, as ISO 8601 has it.
      model: who was asked.
      request: contents and config.
      response: the answer, as JSON has it; None if there was none.
      error: why there was none, one line; None if there was one.
      seconds: from request to answer.
      usage: what it took.
      usage_is: how that is known: `REPORTED`, `WORST_CASE` or `NOTHING`.
      dollars: what it cost; None where the model has no known price.
    """

    time: str
    model: str
    request: Any
    response: Any
    error: str | None
    seconds: float
    usage: Usage
    usage_is: str
    dollars: float | None


@dataclass(frozen=True)
class Paid:
    """What is remembered of an exchange."""

    experiment: int
    usage: Usage
    dollars: float | None


class Exchanges:
    """The stored exchanges of a run; one process at a time writes them."""

    def __init__(self, llm_dir: Callable[[int], Path], secrets: Callable[[], Sequence[str]]) -> None:
        """Stores where they are.

        Args:
          llm_dir: an existing folder for an experiment's exchanges, by its number; all of them are in one folder.
          secrets: what must not be on disk, as it is known at that moment.
        """
        self._llm_dir = llm_dir
        self._secrets = secrets
        self._paid: dict[Path, Paid] | None = None

    def paid(self, experiment: int) -> Iterable[Paid]:
        """What is remembered of all exchanges of the run, those of earlier processes too.

        Args:
          experiment: any one, by which the folder is found.

        Raises:
          ExchangeError: a file cannot be understood.
        """
        return self._known(experiment).values()

    def dollars(self, experiment: int) -> float:
        """What an experiment's exchanges cost; nothing where there is no price."""
        return sum(paid.dollars or 0.0 for paid in self.paid(experiment) if paid.experiment == experiment)

    def add(self, experiment: int, exchange: Exchange) -> Path:
        """Writes down an exchange under the next number of its experiment, and returns where."""
        self._known(experiment)
        folder = self._llm_dir(experiment)
        taken = [int(path.stem) for path in folder.glob("*.json") if path.stem.isdigit()]
        path = folder / f"{max(taken, default=0) + 1:02d}.json"
        self.write(path, experiment, exchange)
        return path

    def write(self, path: Path, experiment: int, exchange: Exchange) -> None:
        """Writes an exchange where `add` put it before, whole or not at all, without any secret.

        Raises:
          ExchangeError: it cannot be written.
        """
        known = self._known(experiment)
        text = json.dumps(self.clean(asdict(exchange)), indent=1)
        scratch = path.with_name(f"{path.name}.new")
        try:
            with scratch.open("w", encoding="utf-8") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())  # a lost file would be lost money
            scratch.replace(path)
        except OSError as error:
            raise ExchangeError(f"{path}: the exchange cannot be written down: {error.strerror}") from error
        known[path] = Paid(experiment, exchange.usage, exchange.dollars)

    def clean(self, value: Any) -> Any:
        """The same with every secret in its texts blanked out."""
        return without_secrets(value, self._secrets())

    def _known(self, experiment: int) -> dict[Path, Paid]:
        if self._paid is None:
            root = self._llm_dir(experiment).parent
            self._paid = {path: _read(path) for path in sorted(root.glob("*/*.json")) if path.stem.isdigit()}
        return self._paid


def _read(path: Path) -> Paid:
    """What a stored exchange cost.

    Raises:
      ExchangeError: it cannot be understood.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        usage = Usage(int(stored["usage"]["input_tokens"]), int(stored["usage"]["output_tokens"]))
        dollars = None if stored["dollars"] is None else float(stored["dollars"])
        return Paid(int(path.parent.name), usage, dollars)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExchangeError(
            f"{path}: this exchange cannot be read ({error!r}), so what was spent is not known: mend it, or delete it"
        ) from error
