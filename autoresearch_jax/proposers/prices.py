"""What tokens of the Gemini models cost: list prices, each with the day it was read."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

MILLION = 1_000_000
LONG_PROMPT_TOKENS = 200_000  # of input; longer prompts cost more, the whole of them, where a model has such a price


@dataclass(frozen=True)
class Usage:
    """What a request takes.

    Attributes:
      input_tokens: of the prompt.
      output_tokens: of the answer and of the thinking before it, which costs the same.
    """

    input_tokens: int
    output_tokens: int

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens.

    Attributes:
      input: of a prompt.
      output: of an answer, thinking included.
      long_input: of a prompt of more than `LONG_PROMPT_TOKENS`; None if it is `input`.
      long_output: of an answer to such a prompt; None if it is `output`.
    """

    input: float
    output: float
    long_input: float | None = None
    long_output: float | None = None

    def dollars(self, usage: Usage) -> float:
        """What a request costs; what the service may take off for a prompt it has seen before is not."""
        rates = (self.input, self.output)
        if usage.input_tokens > LONG_PROMPT_TOKENS:
            rates = (
                self.input if self.long_input is None else self.long_input,
                self.output if self.long_output is None else self.long_output,
            )
        return (usage.input_tokens * rates[0] + usage.output_tokens * rates[1]) / MILLION


@dataclass(frozen=True)
class Listed:
    """A price as it was published.

    Attributes:
      price: what was published.
      read: when; year and month of the page that had it.
      since: the first day it holds.
    """

    price: Price
    read: str
    since: date = date.min


# Standard prices (not batch, flex or priority) for text of the page "Gemini Developer API pricing" of Google's
# documentation for developers, as that page and transcriptions of it had them in the month named.
PRICES: Mapping[str, tuple[Listed, ...]] = {
    "gemini-4-neon": (Listed(Price(3.00, 15.00), "2026-11"),),
    "gemini-4-hydrogen": (Listed(Price(1.50, 7.50), "2026-11"),),
    "gemini-3.8-flash": (
        Listed(Price(0.75, 3.75), "2026-10"),
        Listed(Price(1.50, 7.50), "2026-10", since=date(2027, 1, 1)),
    ),
    "gemini-3.5-flash": (Listed(Price(1.50, 9.00), "2026-10"),),
    "gemini-3.5-flash-lite": (Listed(Price(0.30, 2.50), "2026-10"),),
    "gemini-3.1-pro-preview": (Listed(Price(2.00, 12.00, 4.00, 18.00), "2026-10"),),
    "gemini-2.5-pro": (Listed(Price(1.25, 10.00, 2.50, 15.00), "2026-03"),),
    "gemini-2.5-flash": (Listed(Price(0.30, 2.50), "2026-03"),),
    "gemini-2.5-flash-lite": (Listed(Price(0.10, 0.40), "2026-03"),),
}


def bare_model(model: str) -> str:
    """A model's name without the folders that services write before it, such as "models/"."""
    return model.rsplit("/", 1)[-1]


def list_price(model: str, day: date) -> Price | None:
    """A model's price on a day; None of a model that the table does not have."""
    prices = [listed.price for listed in PRICES.get(bare_model(model), ()) if listed.since <= day]
    return prices[-1] if prices else None
