"""How a model is asked, what its tokens cost, and what a run has spent on it: known from files, so kept over kills.

Each request is a file `NNNN/KK.json`: NNNN the experiment, KK the request's number in it. It is written before the
request is sent, at the most that the request may cost, and again when it is over. No secret is written.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autoresearch_jax.errors import UserError
from autoresearch_jax.files import write_whole
from autoresearch_jax.proposers.base import LimitReached
from autoresearch_jax.proposers.briefing import BYTES_PER_TOKEN, count_tokens
from autoresearch_jax.sanitize import clean_secret_line, redact_value

DEFAULT_MODEL = "gemini-3.8-flash"
DEFAULT_LOCATION = "global"
MILLION = 1_000_000
MOST_TIMES = BYTES_PER_TOKEN  # the worst case: more is not believed, since no token has less than one byte
REPORTED = "reported"  # usage that the service named
WORST_CASE = "worst case"  # usage that is not known, so the most that the request may have taken
NOTHING = "nothing"  # the request was refused, or did not reach the service


class ExchangeError(UserError):
    """An exchange cannot be read or written, so what was spent is not known."""


@dataclass(frozen=True)
class SpendingLimits:
    """What a whole run may spend, over all processes that work on it; None is no limit."""

    dollars: float | None = None
    tokens: int | None = None
    requests: int | None = None


@dataclass(frozen=True)
class Usage:
    """Tokens of a request; output includes the thinking before the answer, which costs the same."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens, as --model_price gives them."""

    input: float
    output: float


@dataclass(frozen=True)
class GeminiOptions:
    """How a Gemini model is to be asked."""

    model: str = DEFAULT_MODEL  # its name at the service
    # for the service; None with Vertex AI, and where a service of one's own asks for none
    key: str | None = field(default=None, repr=False)
    base_url: str | None = None  # of the service; None for Google's
    # Google Cloud project that pays, for Vertex AI with application-default credentials; else None
    vertex_project: str | None = None
    vertex_location: str = DEFAULT_LOCATION  # where Vertex AI computes
    secrets: tuple[str, ...] = field(default=(), repr=False)  # what else must not be written anywhere
    # of one answer, thinking included; a whole file of 800 lines is a fourth of the default
    max_output_tokens: int = 32_768
    temperature: float | None = None  # None leaves it to the service
    repair_rounds: int = 2  # how often an answer may go back to the model
    proposal_seconds: float = 600.0  # for all requests and waits of a proposal
    request_seconds: float = 300.0  # for one request: thinking takes minutes, and a stuck one leaves time for another
    first_wait_seconds: float = 1.0  # before the first retry; it doubles with each
    limits: SpendingLimits = field(default_factory=SpendingLimits)  # for the run
    price: Price | None = None  # of its tokens; None for the list price
    proposals: int = 1  # how many it gives in one answer


def cost(options: GeminiOptions, usage: Usage, when: datetime) -> float | None:
    """Dollars for a request, by --model_price or else by the list of genai-prices; None if that has no price.

    List prices are those of Google's own service and of Vertex AI's "global" location; a region's are higher.
    """
    if options.price is not None:
        return (usage.input_tokens * options.price.input + usage.output_tokens * options.price.output) / MILLION
    if options.vertex_project is not None and options.vertex_location != DEFAULT_LOCATION:
        return None
    import genai_prices  # half a second

    tokens = genai_prices.Usage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
    model = options.model.rsplit("/", 1)[-1]
    try:
        price = genai_prices.calc_price(tokens, model, provider_id="google", genai_request_timestamp=when)
    except LookupError:
        return None
    return float(price.total_price)


@dataclass(frozen=True)
class _Paid:
    """What is remembered of an exchange."""

    experiment: int
    usage: Usage
    dollars: float | None


class Spending:
    """The exchanges of a run, of earlier processes too, and the limits of what they may cost."""

    def __init__(
        self,
        options: GeminiOptions,
        llm_dir: Callable[[int], Path],
        secrets: Callable[[], Sequence[str]],
        notice: Callable[[str], None],
    ) -> None:
        """Reads nothing yet.

        Args:
          llm_dir: an existing folder for an experiment's exchanges, by its number; all of them are in one folder.
          secrets: what must not be on disk, as it is known at that moment.
          notice: tells the user, once, that a service reports no usage that can be believed; from any thread.
        """
        self._options = options
        self._llm_dir = llm_dir
        self.secrets = secrets
        self._notice = notice
        self._has_noticed = False
        self._paid: dict[Path, _Paid] | None = None

    def dollars(self, experiment: int) -> float:
        """What an experiment's exchanges cost; those without a price count as nothing."""
        return sum(paid.dollars or 0.0 for paid in self._known(experiment).values() if paid.experiment == experiment)

    def begin(self, experiment: int, request: Mapping[str, Any]) -> "Exchange":
        """Writes down a request that is about to be sent.

        Raises:
          LimitReached: it could go beyond a limit.
          ExchangeError: an earlier exchange cannot be read, or this one cannot be written.
        """
        # The schema and the marks of JSON are counted, too: rather too many tokens than too few.
        worst = Usage(count_tokens(json.dumps(request, ensure_ascii=False)), self._options.max_output_tokens)
        check_limits(self._options, worst, list(self._known(experiment).values()))
        folder = self._llm_dir(experiment)
        taken = [int(path.stem) for path in folder.glob("*.json") if path.stem.isdigit()]
        path = folder / f"{max(taken, default=0) + 1:02d}.json"
        return Exchange(self, path, experiment, self._options, request, worst)

    def write(self, path: Path, experiment: int, usage: Usage, dollars: float | None, record: Any) -> None:
        """Writes an exchange, whole or not at all and without any secret, and remembers what it cost.

        Raises:
          ExchangeError: it cannot be written.
        """
        try:
            write_whole(path, json.dumps(redact_value(record, self.secrets()), indent=1) + "\n")
        except OSError as error:
            raise ExchangeError(f"{path}: the exchange cannot be written down: {error.strerror}") from error
        self._known(experiment)[path] = _Paid(experiment, usage, dollars)

    def disbelieve(self, path: Path, reported: Usage | None, worst: Usage) -> None:
        """Says, once, that an answer has no usage that can be believed."""
        if self._has_noticed:
            return
        self._has_noticed = True
        most = f"{worst.input_tokens + worst.output_tokens:,} tokens"
        if reported is None:
            said = "the service does not say what a request took"
        else:
            said = f"the service says that a request took {reported.input_tokens + reported.output_tokens:,} tokens"
        self._notice(f"{self._options.model}: {said}: counted as the most that it may take, {most}; see {path}")

    def _known(self, experiment: int) -> dict[Path, _Paid]:
        if self._paid is None:
            root = self._llm_dir(experiment).parent
            self._paid = {path: _read(path) for path in sorted(root.glob("*/*.json")) if path.stem.isdigit()}
        return self._paid


class Exchange:
    """One request to a model: written when it is made, at the most that it may cost, and once more by `end`.

    Attributes:
      may_cost: False once the service is known to have computed nothing for it.
    """

    def __init__(
        self,
        spending: Spending,
        path: Path,
        experiment: int,
        options: GeminiOptions,
        request: Mapping[str, Any],
        worst: Usage,
    ) -> None:
        self._spending, self._path, self._experiment, self._options = spending, path, experiment, options
        self._request, self._worst = request, worst
        self._sent, self._start = datetime.now(UTC), time.monotonic()
        self._lock = threading.Lock()
        self._is_over = False
        self.may_cost = True
        self._write(None, "the process ended before an answer was written down")

    def end(self, response: Any = None, error: str | None = None) -> None:
        """Writes down what became of it; the first call counts, whichever thread makes it."""
        with self._lock:
            if not self._is_over:
                self._is_over = True
                self._write(response, None if error is None else clean_secret_line(error, self._spending.secrets()))

    def _write(self, response: Any, error: str | None) -> None:
        reported = reported_usage(response)
        usage, kind = reported, REPORTED
        if not self.may_cost:
            usage, kind = Usage(0, 0), NOTHING
        elif usage is None or not _is_credible(usage, self._worst):
            usage, kind = self._worst, WORST_CASE
        dollars = cost(self._options, usage, self._sent) if self.may_cost else 0.0
        record = {
            "time": self._sent.isoformat(timespec="seconds"),
            "model": self._options.model,
            "request": self._request,
            "response": response,
            "error": error,
            "seconds": round(time.monotonic() - self._start, 3),
            "usage": asdict(usage),
            "usage_is": kind,
            "dollars": dollars,
            "limits": asdict(self._options.limits),
        }
        self._spending.write(self._path, self._experiment, usage, dollars, record)
        if kind == WORST_CASE and error is None:
            self._spending.disbelieve(self._path, reported, self._worst)


def reported_usage(response: Any) -> Usage | None:
    """What a response says that it took; None if it does not say, or says what makes no sense."""
    said = response.get("usageMetadata") if isinstance(response, Mapping) else None
    if not isinstance(said, Mapping) or said.get("promptTokenCount") is None:
        return None
    names = ("promptTokenCount", "toolUsePromptTokenCount", "candidatesTokenCount", "thoughtsTokenCount")
    counts = [said.get(name) or 0 for name in (*names, "totalTokenCount")]
    if not all(type(count) is int and count >= 0 for count in counts):
        return None
    prompt, tools, answer, thoughts, total = counts
    return Usage(prompt + tools, max(answer + thoughts, total - prompt - tools))


def _is_credible(usage: Usage, worst: Usage) -> bool:
    return (
        0 < usage.input_tokens <= MOST_TIMES * worst.input_tokens  # a request has words
        and usage.output_tokens <= MOST_TIMES * worst.output_tokens
    )


def check_limits(options: GeminiOptions, worst: Usage, paid: Sequence[Any] = ()) -> None:
    """Refuses a request that could go beyond a limit.

    Args:
      paid: exchanges of the run so far; those without a price count at today's.

    Raises:
      LimitReached: it could; the message names the flag and the figures.
    """
    limits, now = options.limits, datetime.now(UTC)
    if limits.requests is not None and len(paid) + 1 > limits.requests:
        raise LimitReached(f"--max_requests={limits.requests}: {len(paid)} were sent")
    spent = sum(one.usage.input_tokens + one.usage.output_tokens for one in paid)
    tokens = worst.input_tokens + worst.output_tokens
    if limits.tokens is not None and spent + tokens > limits.tokens:
        raise LimitReached(f"--max_tokens={limits.tokens}: {spent} are spent, and the next request may take {tokens}")
    if limits.dollars is None:
        return
    dollars = cost(options, worst, now)
    if dollars is None:
        raise LimitReached(f"--max_dollars={limits.dollars:g}: what the next request costs is not known")
    paid_dollars = sum((one.dollars if one.dollars is not None else cost(options, one.usage, now)) or 0 for one in paid)
    if paid_dollars + dollars > limits.dollars:
        raise LimitReached(
            f"--max_dollars={limits.dollars:g}: {paid_dollars:.4f} are spent, and the next request may cost "
            f"{dollars:.4f}"
        )


def _read(path: Path) -> _Paid:
    """What a stored exchange cost; raises ExchangeError if it cannot be understood."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        usage = Usage(int(stored["usage"]["input_tokens"]), int(stored["usage"]["output_tokens"]))
        dollars = None if stored["dollars"] is None else float(stored["dollars"])
        return _Paid(int(path.parent.name), usage, dollars)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExchangeError(
            f"{path}: this exchange cannot be read ({error!r}), so what was spent is not known: mend it, or delete it"
        ) from error
