"""Flags of the proposer that asks a Gemini model, and what the environment says about it."""

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from absl import flags

from autoresearch_jax.errors import UsageError
from autoresearch_jax.proposers.base import Examine, LimitReached
from autoresearch_jax.proposers.llm_budget import (
    DEFAULT_LOCATION,
    DEFAULT_MODEL,
    GeminiOptions,
    Limits,
    Price,
    Usage,
    check_limits,
    cost,
)
from autoresearch_jax.sanitize import clean_line

if TYPE_CHECKING:
    from autoresearch_jax.proposers.llm import GeminiProposer

KEY_VARIABLE = "GEMINI_API_KEY"
KEY_VARIABLES = ("GOOGLE_API_KEY", KEY_VARIABLE)  # the first that is set holds, as with google-genai itself
_MODEL = re.compile(r"[\w@-][\w.@-]*(/[\w@-][\w.@-]*)*", re.ASCII)


def define_gemini_flags(flag_values: flags.FlagValues) -> None:
    """Defines --gemini_model, the ways to the service, and the limits of what it may cost."""
    flags.DEFINE_string("gemini_model", DEFAULT_MODEL, "model that is asked", flag_values=flag_values)
    flags.DEFINE_string(
        "gemini_base_url",
        None,
        "service that speaks Gemini's protocol, instead of Google's; the key goes there, if there is one",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "gemini_vertex_project",
        None,
        "Google Cloud project that pays for Vertex AI, with application-default credentials instead of a key",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "gemini_vertex_location",
        None,
        f'region in which Vertex AI computes; "{DEFAULT_LOCATION}" by default',
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "max_output_tokens",
        GeminiOptions.max_output_tokens,
        "length of an answer of the model, its thinking included",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_float("temperature", None, "of the model; the service's own by default", flag_values=flag_values)
    flags.DEFINE_integer(
        "repair_rounds",
        GeminiOptions.repair_rounds,
        "how often an answer that cannot be measured goes back to the model, for one proposal",
        lower_bound=0,
        flag_values=flag_values,
    )
    flags.DEFINE_float(
        "proposal_seconds",
        GeminiOptions.proposal_seconds,
        "time limit of all requests to the model, and waits between them, for one proposal",
        flag_values=flag_values,
    )
    flags.DEFINE_float("max_dollars", None, "what the run may spend on the model", flag_values=flag_values)
    flags.DEFINE_integer(
        "max_tokens",
        None,
        "how many tokens the run may send and receive, thinking included",
        lower_bound=0,
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "max_requests", None, "how many requests the run may send", lower_bound=0, flag_values=flag_values
    )
    flags.DEFINE_string(
        "model_price",
        None,
        "IN,OUT: dollars per million tokens of input and output, instead of the list's",
        flag_values=flag_values,
    )


def check_gemini_flags(flag_values: flags.FlagValues) -> None:
    """Refuses values that make no sense, whoever proposes.

    Raises:
      UsageError: a value makes no sense.
    """
    for flag in ("max_dollars", "temperature"):
        value = flag_values[flag].value
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise UsageError(f"--{flag}={value:g}: expected a number, 0 or more")
    if not (math.isfinite(flag_values.proposal_seconds) and flag_values.proposal_seconds > 0):
        raise UsageError(f"--proposal_seconds={flag_values.proposal_seconds:g}: the model needs some time, such as 600")
    _model(flag_values.gemini_model)
    _base_url(flag_values.gemini_base_url)
    _price(flag_values.model_price)


def gemini_options(
    flag_values: flags.FlagValues, environment: Mapping[str, str], required: bool = True
) -> GeminiOptions | None:
    """How the model is to be asked; None if there is no way to it and none is required.

    Args:
      flag_values: the flags above.
      environment: of this process, which has the key.
      required: whether the run cannot do without.

    Raises:
      UsageError: no way is given, or a value makes no sense.
    """
    check_gemini_flags(flag_values)
    limits = Limits(flag_values.max_dollars, flag_values.max_tokens, flag_values.max_requests)
    keys = {name: environment[name].strip() for name in KEY_VARIABLES if environment.get(name, "").strip()}
    project, location = flag_values.gemini_vertex_project, flag_values.gemini_vertex_location
    if location and not project:
        raise UsageError("--gemini_vertex_location needs --gemini_vertex_project, the project that pays")
    base_url = _base_url(flag_values.gemini_base_url)
    options = GeminiOptions(
        model=_model(flag_values.gemini_model),
        key=None if project else next(iter(keys.values()), None),
        base_url=base_url,
        vertex_project=_name("gemini_vertex_project", project),
        vertex_location=_name("gemini_vertex_location", location) or DEFAULT_LOCATION,
        secrets=tuple(keys.values()),
        max_output_tokens=flag_values.max_output_tokens,
        temperature=flag_values.temperature,
        repair_rounds=flag_values.repair_rounds,
        proposal_seconds=flag_values.proposal_seconds,
        limits=limits,
        price=_price(flag_values.model_price),
    )
    if not (options.key or project or base_url):
        if not required:
            return None
        raise UsageError(
            f"--proposer=gemini needs a key in {KEY_VARIABLE}, or --gemini_vertex_project with application-default "
            "credentials (--gemini_vertex_location names a region), or --gemini_base_url of a service of your own"
        )
    if options.key is not None and not (options.key.isascii() and options.key.isprintable() and " " not in options.key):
        name = next(iter(keys))
        raise UsageError(f"{name}: the key has spaces or characters that no key has: was it copied whole?")
    if limits.dollars is not None:
        require_price(options, f"--max_dollars={limits.dollars:g}")
    return options


def require_price(options: GeminiOptions, limit: str = "a limit of dollars") -> None:
    """Refuses a limit of dollars where nobody knows what the model costs.

    Args:
      options: whom to ask.
      limit: who asks for it, such as "program.md:12".

    Raises:
      UsageError: the model has no known price.
    """
    if cost(options, Usage(1, 1), datetime.now(UTC)) is None:
        where = options.model
        if options.vertex_project is not None and options.vertex_location != DEFAULT_LOCATION:
            where += f" in {options.vertex_location}"
        raise UsageError(
            f"{limit}: the price of {where} is not known: give it, --model_price=IN,OUT in dollars per million tokens, "
            f"or limit tokens with --max_tokens instead of dollars"
        )


def require_room(options: GeminiOptions, input_tokens: int) -> None:
    """Refuses limits under which not one request would be sent.

    Args:
      options: whom to ask, and how much of it.
      input_tokens: of the shortest request.

    Raises:
      UsageError: there is one; it names the flag and the figures.
    """
    worst = Usage(input_tokens, options.max_output_tokens)
    try:
        check_limits(options, worst)
    except LimitReached as error:
        raise UsageError(f"{error}, so nothing would ever be asked: raise it, or lower --max_output_tokens") from error


def make_gemini(
    options: GeminiOptions,
    *,
    editable_name: str,
    examine: Examine | None,
    llm_dir: Callable[[int], Path],
    brief_tokens: int,
) -> "GeminiProposer":
    """The proposer; sends nothing yet.

    Args:
      options: whom to ask, and how much of it.
      editable_name: of the training file.
      examine: tries a text before it is proposed.
      llm_dir: an existing folder for an experiment's exchanges, by its number; all of them are in one folder.
      brief_tokens: length of the brief.

    Raises:
      UserError: there are no application-default credentials, and they are asked for.
    """
    # google-genai takes half a second to import, which the commands and runs that ask no model do not spend.
    from autoresearch_jax.proposers.llm import GeminiProposer

    return GeminiProposer(options, editable_name, examine, llm_dir, brief_tokens)


def _model(name: str) -> str:
    if not _MODEL.fullmatch(name or ""):
        raise UsageError(f"--gemini_model={name}: expected a model's name, such as {DEFAULT_MODEL}")
    return name


def _name(flag: str, value: str | None) -> str | None:
    """A name that becomes part of a URL."""
    if value and not re.fullmatch(r"[\w.:-]+", value, re.ASCII):
        raise UsageError(f"--{flag}={value}: expected a name of letters, digits and hyphens")
    return value or None


def _base_url(url: str | None) -> str | None:
    if not url:
        return None
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode()  # refuses labels that are empty or too long
        known = re.fullmatch(r"[\w.-]+", host, re.ASCII) or ":" in host  # a colon: in brackets, which urlsplit checks
        usable = parts.scheme in ("http", "https") and bool(known) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    printed = url.isprintable() and " " not in url  # urlsplit leaves out line ends
    if not usable or not printed or parts.query or parts.fragment:
        raise UsageError(f"--gemini_base_url={clean_line(url)}: expected a URL such as http://127.0.0.1:8080")
    if parts.username is not None or parts.password is not None:
        raise UsageError(f"--gemini_base_url: leave out name and password; a key is read from {KEY_VARIABLE}")
    return url


def _price(text: str | None) -> Price | None:
    if text is None:
        return None
    try:
        given, made = (float(word) for word in text.split(","))
    except ValueError:
        given = made = math.nan
    if not (math.isfinite(given) and math.isfinite(made) and given >= 0 and made >= 0):
        raise UsageError(f"--model_price={text}: expected IN,OUT in dollars per million tokens, such as 0.30,2.50")
    return Price(given, made)
