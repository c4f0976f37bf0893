"""What it takes to be kept, in words for proposers: from a rule's settings and the noise of the runs so far."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from autoresearch_jax.decide.lineage import Lineage
from autoresearch_jax.decide.rule import Action, Complexity, LineageRule

CLEAR_SIGMA = 8  # standard deviations of a run within which a clear gain is looked for
CLEAR_STEPS = 16  # parts of one to which it is found


def demands(rule: LineageRule | None, lineage: Lineage | None, unit: str = "syntax nodes") -> Sequence[str]:
    """A line each; sizes have one digit, as few as the noise has.

    Args:
      rule: decides; None for the greedy rule.
      lineage: what was measured; None before there is a baseline.
      unit: what complexity is counted in.
    """
    if rule is None:
        return ["kept is what scores better than the champion in one run"]
    if lineage is None:
        return []
    if lineage.posterior.sigma == 0:
        return ["there is no noise: any gain is kept, and a shorter source without a loss"]
    return list(_demands(rule, lineage, unit))


def _demands(rule: LineageRule, lineage: Lineage, unit: str) -> Iterator[str]:
    settings, sigma, gain = rule.with_settings, lineage.posterior.sigma, clear_gain(rule, lineage)
    clear = "one run is never enough" if gain is None else f"a gain of about {_one_digit(gain)} in one run is clear"
    yield (
        f"kept is what is better than the champion with probability {settings.keep_probability:g} or more: {clear}; "
        f"less is measured again while that is worth it, {settings.max_runs} runs at most"
    )
    price = (
        f"{_one_digit(sigma)} for each {settings.memory_percent:g} % of peak memory beyond "
        f"{100 + settings.memory_percent:g} % of the baseline's, or of a tenth of the device's memory if that is more"
    )
    if settings.nodes_price:
        price = f"{_one_digit(settings.nodes_price * sigma)} for 100 more {unit}, {price}"
    yield f"what a gain has to pay for: {price}"
    if settings.loss_allowance:
        yield f"a shorter source is kept if it probably loses less than {_one_digit(settings.loss_allowance * sigma)}"


def clear_gain(rule: LineageRule, lineage: Lineage) -> float | None:
    """Least gain in one run that keeps a candidate of equal complexity at once, in the metric's unit.

    None if no gain within `CLEAR_SIGMA` does.
    """
    sigma = lineage.posterior.sigma
    champion = lineage.posterior.score(lineage.champion).mean
    of_items = lineage.champion_item_variance * sigma**2
    number = max(lineage.programs) + 1

    def keeps(steps: int) -> bool:
        trial = lineage.copy()
        trial.begin(number)
        trial.observe(number, trial.sign * (champion + sigma * steps / CLEAR_STEPS), item_variance=of_items)
        return rule.decide(trial, number, Complexity()).action is Action.KEEP

    most = CLEAR_SIGMA * CLEAR_STEPS
    steps = bisect_left(range(most + 1), True, key=keeps)
    return None if steps > most else sigma * steps / CLEAR_STEPS


def _one_digit(size: float) -> str:
    return f"{float(f'{size:.1g}'):g}"
