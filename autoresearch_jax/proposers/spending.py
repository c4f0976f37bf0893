"""What a run may spend on a model and what it has spent: no request is sent that could go beyond a limit."""

from collections.abc import Iterable
from dataclasses import dataclass

from autoresearch_jax.proposers.base import LimitReached
from autoresearch_jax.proposers.exchanges import Paid
from autoresearch_jax.proposers.prices import Price, Usage


@dataclass(frozen=True)
class Limits:
    """For a whole run, over all processes that work on it; None is no limit."""

    dollars: float | None = None
    tokens: int | None = None
    requests: int | None = None


@dataclass(frozen=True)
class Spent:
    """So far.

    Attributes:
      requests: that were sent, failed ones too.
      tokens: of input and output.
      dollars: for them.
    """

    requests: int
    tokens: int
    dollars: float


def spent(paid: Iterable[Paid], price: Price | None) -> Spent:
    """The sum of exchanges.

    Args:
      paid: of the run.
      price: at which those are counted that had none when they were made.
    """
    requests, tokens, dollars = 0, 0, 0.0
    for exchange in paid:
        requests += 1
        tokens += exchange.usage.tokens
        if exchange.dollars is not None:
            dollars += exchange.dollars
        elif price is not None:
            dollars += price.dollars(exchange.usage)
    return Spent(requests, tokens, dollars)


def check_limits(limits: Limits, so_far: Spent, worst: Usage, price: Price | None) -> None:
    """Refuses a request that could go beyond a limit.

    Args:
      limits: of the run.
      so_far: spent before it.
      worst: the most that it may take.
      price: of its tokens; there is one if there is a limit of dollars.

    Raises:
      LimitReached: it could; the message names the flag and the figures.
    """
    if limits.requests is not None and so_far.requests + 1 > limits.requests:
        raise LimitReached(f"--max_requests={limits.requests}: {so_far.requests} were sent")
    if limits.tokens is not None and so_far.tokens + worst.tokens > limits.tokens:
        raise LimitReached(
            f"--max_tokens={limits.tokens}: {so_far.tokens} are spent, and the next request may take {worst.tokens}"
        )
    if limits.dollars is not None:
        if price is None:
            raise LimitReached(f"--max_dollars={limits.dollars:g}: what the next request costs is not known")
        cost = price.dollars(worst)
        if so_far.dollars + cost > limits.dollars:
            raise LimitReached(
                f"--max_dollars={limits.dollars:g}: {so_far.dollars:.4f} are spent, and the next request may cost "
                f"{cost:.4f}"
            )
