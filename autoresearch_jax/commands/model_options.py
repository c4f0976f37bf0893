"""Options of a Gemini model: which one, the way to it, and what it may cost."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from autoresearch_jax.commands.options import InRun, option
from autoresearch_jax.errors import UsageError
from autoresearch_jax.proposers.llm_budget import (
    DEFAULT_LOCATION,
    DEFAULT_MODEL,
    GeminiOptions,
    Price,
    SpendingLimits,
    Usage,
    cost,
)
from autoresearch_jax.sanitize import clean_line

KEY_VARIABLE = "GEMINI_API_KEY"
KEY_VARIABLES = ("GOOGLE_API_KEY", KEY_VARIABLE)  # the first that is set holds, as with google-genai itself
_MODEL = re.compile(r"[\w@-][\w.@-]*(/[\w@-][\w.@-]*)*", re.ASCII)
_NAME = re.compile(r"[\w.:-]+", re.ASCII)
_URL = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[\w-]+(\.[\w-]+)*)(:\d{1,5})?(/[^\s?#]*)?", re.ASCII)


@dataclass(frozen=True)
class ModelOptions:
    """Which Gemini model, the way to it, and what it may cost."""

    gemini_model: str = option(DEFAULT_MODEL, "model that is asked", in_run=InRun.FREE)
    gemini_base_url: str | None = option(
        None,
        "service that speaks Gemini's protocol, instead of Google's; the key goes there, if there is one",
        in_run=InRun.FREE,
    )
    gemini_vertex_project: str | None = option(
        None,
        "Google Cloud project that pays for Vertex AI, with application-default credentials instead of a key",
        in_run=InRun.FREE,
    )
    gemini_vertex_location: str | None = option(
        None, f'region in which Vertex AI computes; "{DEFAULT_LOCATION}" by default', in_run=InRun.FREE
    )
    max_output_tokens: int = option(
        GeminiOptions.max_output_tokens,
        "length of an answer of the model, its thinking included",
        least=1,
        in_run=InRun.FREE,
    )
    temperature: float | None = option(None, "of the model; the service's own by default", least=0, in_run=InRun.FREE)
    repair_rounds: int = option(
        GeminiOptions.repair_rounds,
        "how often an answer that cannot be measured goes back to the model, or the agent, for one proposal",
        least=0,
        in_run=InRun.FREE,
    )
    proposal_seconds: float = option(
        GeminiOptions.proposal_seconds,
        "time limit of all requests to the model, and waits between them, for one proposal",
        above=0,
        hint="such as 600",
        in_run=InRun.FREE,
    )
    max_dollars: float | None = option(None, "what the run may spend on the model", least=0, in_run=InRun.FREE)
    max_tokens: int | None = option(
        None, "how many tokens the run may send and receive, thinking included", least=0, in_run=InRun.FREE
    )
    max_requests: int | None = option(None, "how many requests the run may send", least=0, in_run=InRun.FREE)
    model_price: str | None = option(
        None, "IN,OUT: dollars per million tokens of input and output, instead of the list's", in_run=InRun.FREE
    )

    def __post_init__(self) -> None:
        if not _MODEL.fullmatch(self.gemini_model):
            raise UsageError(f"--gemini_model={self.gemini_model}: expected a model's name, such as {DEFAULT_MODEL}")
        url = self.gemini_base_url or "http://localhost"
        if "@" in url:
            raise UsageError(f"--gemini_base_url: leave out name and password; a key is read from {KEY_VARIABLE}")
        if not _URL.fullmatch(url):
            raise UsageError(f"--gemini_base_url={clean_line(url)}: expected a URL such as http://127.0.0.1:8080")
        for name in ("gemini_vertex_project", "gemini_vertex_location"):
            if (value := getattr(self, name)) and not _NAME.fullmatch(value):  # it becomes part of a URL
                raise UsageError(f"--{name}={value}: expected a name of letters, digits and hyphens")
        if self.gemini_vertex_location and not self.gemini_vertex_project:
            raise UsageError("--gemini_vertex_location needs --gemini_vertex_project, the project that pays")
        self._price()

    @property
    def spending_limits(self) -> list[str]:
        """Names of the limits that are set."""
        return [name for name in ("max_dollars", "max_tokens", "max_requests") if getattr(self, name) is not None]

    @property
    def is_asked_for(self) -> bool:
        """Whether a flag names the model or the way to it, or limits what it takes. A key alone may be for others."""
        named = self.gemini_base_url or self.gemini_vertex_project or self.gemini_model != DEFAULT_MODEL
        return bool(named or self.spending_limits)

    def settings(self, environment: Mapping[str, str], *, required: bool = True) -> GeminiOptions | None:
        """How the model is asked; None if none is required, and there is no way to it or no flag that asks for it.

        Args:
          environment: of this process, which has the key.
          required: whether the run cannot do without the model.

        Raises:
          UsageError: no way to the model is given, or a value makes no sense.
        """
        if not (required or self.is_asked_for):
            return None
        keys = {name: environment[name].strip() for name in key_names(environment)}
        settings = GeminiOptions(
            model=self.gemini_model,
            key=None if self.gemini_vertex_project else next(iter(keys.values()), None),
            base_url=self.gemini_base_url or None,
            vertex_project=self.gemini_vertex_project or None,
            vertex_location=self.gemini_vertex_location or DEFAULT_LOCATION,
            secrets=tuple(keys.values()),
            max_output_tokens=self.max_output_tokens,
            temperature=self.temperature,
            repair_rounds=self.repair_rounds,
            proposal_seconds=self.proposal_seconds,
            limits=SpendingLimits(self.max_dollars, self.max_tokens, self.max_requests),
            price=self._price(),
        )
        if not (settings.key or settings.vertex_project or settings.base_url):
            if not required:
                return None
            raise UsageError(
                f"--proposer=gemini needs a key in {KEY_VARIABLE}, or --gemini_vertex_project with application-default "
                "credentials (--gemini_vertex_location names a region), or --gemini_base_url of a service of your own"
            )
        key = settings.key or "none"
        if not (key.isascii() and key.isprintable() and " " not in key):
            name = next(iter(keys))
            raise UsageError(f"{name}: the key has spaces or characters that no key has: was it copied whole?")
        if self.max_dollars is not None:
            require_price(settings, f"--max_dollars={self.max_dollars:g}")
        return settings

    def _price(self) -> Price | None:
        if self.model_price is None:
            return None
        try:
            given, made = (float(word) for word in self.model_price.split(","))
        except ValueError:
            given = made = math.nan
        if not (0 <= given < math.inf and 0 <= made < math.inf):
            raise UsageError(
                f"--model_price={self.model_price}: expected IN,OUT in dollars per million tokens, such as 0.30,2.50"
            )
        return Price(given, made)


def key_names(environment: Mapping[str, str]) -> list[str]:
    """The variables that hold a key; the first of them holds."""
    return [name for name in KEY_VARIABLES if environment.get(name, "").strip()]


def require_price(settings: GeminiOptions, limit: str) -> None:
    """Refuses a limit of dollars, such as that of "program.md:12", for a model whose price is not known.

    Raises:
      UsageError: it is not known.
    """
    if cost(settings, Usage(1, 1), datetime.now(UTC)) is None:
        where = settings.model
        if settings.vertex_project is not None and settings.vertex_location != DEFAULT_LOCATION:
            where += f" in {settings.vertex_location}"
        raise UsageError(
            f"{limit}: the price of {where} is not known: give it, --model_price=IN,OUT in dollars per million tokens, "
            "or limit tokens with --max_tokens instead of dollars"
        )


def try_model(gemini: GeminiOptions) -> None:
    """Makes a client of the model's service, and sends nothing to it.

    Raises:
      UserError: it cannot be made; the message names the variable or flag.
    """
    from autoresearch_jax.proposers.llm_client import GeminiClient  # takes half a second to import

    GeminiClient(gemini).close()
