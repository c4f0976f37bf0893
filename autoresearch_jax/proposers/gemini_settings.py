"""How a Gemini model is to be asked."""

from dataclasses import dataclass, field
from datetime import date

from autoresearch_jax.proposers.prices import Price, list_price
from autoresearch_jax.proposers.spending import Limits

DEFAULT_MODEL = "gemini-3.8-flash"
DEFAULT_LOCATION = "global"
DEFAULT_OUTPUT_TOKENS = 32_768  # a whole training file is a fourth of it, the rest is for thinking
DEFAULT_REPAIRS = 2
DEFAULT_SECONDS = 600.0
REQUEST_SECONDS = 300.0  # for one answer: thinking takes minutes, and a stuck request leaves time for another
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class GeminiOptions:
    """All that a user says about it.

    Attributes:
      model: its name at the service.
      key: for the service; None with Vertex AI, and where a service of one's own asks for none.
      base_url: of the service; None for Google's.
      vertex_project: Google Cloud project that pays, for Vertex AI with application-default credentials; else None.
      vertex_location: where Vertex AI computes.
      secrets: what else must not be written anywhere.
      max_output_tokens: of one answer, thinking included.
      temperature: None leaves it to the service.
      repair_rounds: how often an answer may go back to the model.
      proposal_seconds: for all requests and waits of a proposal.
      request_seconds: for one request.
      first_wait_seconds: the longest wait before the first retry; it doubles with each.
      longest_wait_seconds: where the doubling ends.
      limits: for the run.
      price: of its tokens; None for the list's, see `price_on`.
    """

    model: str = DEFAULT_MODEL
    key: str | None = field(default=None, repr=False)
    base_url: str | None = None
    vertex_project: str | None = None
    vertex_location: str = DEFAULT_LOCATION
    secrets: tuple[str, ...] = field(default=(), repr=False)
    max_output_tokens: int = DEFAULT_OUTPUT_TOKENS
    temperature: float | None = None
    repair_rounds: int = DEFAULT_REPAIRS
    proposal_seconds: float = DEFAULT_SECONDS
    request_seconds: float = REQUEST_SECONDS
    first_wait_seconds: float = FIRST_WAIT_SECONDS
    longest_wait_seconds: float = LONGEST_WAIT_SECONDS
    limits: Limits = field(default_factory=Limits)
    price: Price | None = None


def price_on(options: GeminiOptions, day: date) -> Price | None:
    """What the model's tokens cost on a day; None if that is not known.

    List prices are those of Google's own service and of Vertex AI's "global" location; a region's are higher.
    """
    if options.price is not None:
        return options.price
    if options.vertex_project is not None and options.vertex_location != DEFAULT_LOCATION:
        return None
    return list_price(options.model, day)
