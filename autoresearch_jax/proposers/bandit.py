"""Who proposes the next experiment and what kind of change is asked for: a bandit with a floor for every arm.

The arms are the optimizer, and the agent with each of its categories. First it is drawn who proposes, then, for the
agent, the category; both by Thompson sampling ("On the likelihood that one unknown probability exceeds another", 1933):
of each arm one draw from the Beta posterior of "a proposal of it is a gain", the highest wins. An experiment counts the
less the older it is, since what pays off early in a night need not later.

What holds whatever the outcomes are:

- Of the experiments 5k+1 .. 5k+5 at least one is the optimizer's and one the agent's.
- That one of the agent takes the categories in turn, so that of K categories each is asked for in any K such blocks.
- After N discards in a row (N is the brief's plateau) all draws but the optimizer's one in five are the agent's, and
  for a category that was least tried instead of the one whose turn it is. That lasts until there is a gain, or N
  further experiments are over; then the posteriors decide for N, and so on: an agent that is no good cannot keep the
  table from ending the plateau.
- A draw depends on the run's seed, the experiment's number, and experiments at least two before it. The one just
  before may still be measured when an agent is asked ahead, and must make no difference.
"""

import random
from collections.abc import Sequence

from autoresearch_jax.proposers.base import Brief, Outcome
from autoresearch_jax.proposers.plateau import is_gain, least_tried, since_plateau

BLOCK = 5  # experiments of which each proposer has one for certain, a share of 0.2
HALF_LIFE = 40.0  # experiments after which one counts half; a night has about a hundred
PRIOR_GAINS, PRIOR_MISSES = 0.25, 2.25  # one in ten is a gain, but a few proposals outweigh that: a night has no more

_OPTIMIZER, _AGENT = "optimizer", "agent"


def draws_agent(brief: Brief, optimizer: str, agent: str) -> bool:
    """True if the next proposal is to come from the agent.

    Without a table of constants the optimizer has nothing to propose, and all draws are the agent's.

    Args:
      brief: of the experiment to propose.
      optimizer: the optimizer's name, as it is stored beside its proposals.
      agent: the agent's.
    """
    if not brief.space:
        return True
    floor = _floor(brief)
    if floor is not None:
        return floor == _AGENT
    known = _known(brief)
    if _shifted(known, brief.plateau):
        return True
    rng = _rng(brief, f"proposer {brief.experiment}")
    of_optimizer = _posterior_draw(rng, brief, [outcome for outcome in known if outcome.proposer == optimizer])
    of_agent = _posterior_draw(rng, brief, [outcome for outcome in known if outcome.proposer == agent])
    return of_agent > of_optimizer


def draw_category(brief: Brief, agent: str) -> str | None:
    """The kind of change that the agent is asked for; None if the brief names none.

    Args:
      brief: of the experiment to propose.
      agent: the agent's name.
    """
    categories = list(brief.categories)
    if not categories:
        return None
    known = _known(brief)
    rng = _rng(brief, f"category {brief.experiment}")
    if _shifted(known, brief.plateau):
        counts = least_tried(known, categories)
        return rng.choice([category for category, count in counts if count == counts[0][1]])
    if _floor(brief) == _AGENT:
        _rng(brief, "turns").shuffle(categories)
        return categories[_block(brief) % len(categories)]
    groups: dict[str, list[Outcome]] = {category: [] for category in categories}
    for outcome in known:
        if outcome.proposer == agent and outcome.category in groups:  # one it made up counts for the agent as a whole
            groups[outcome.category].append(outcome)
    draws = {category: _posterior_draw(rng, brief, group) for category, group in groups.items()}
    return max(draws, key=lambda category: draws[category])


def _block(brief: Brief) -> int:
    return (brief.experiment - 1) // BLOCK


def _floor(brief: Brief) -> str | None:
    """Whose this experiment is whatever came before; None where the posterior decides."""
    optimizers, agents = _rng(brief, f"block {_block(brief)}").sample(range(BLOCK), 2)
    return {optimizers: _OPTIMIZER, agents: _AGENT}.get((brief.experiment - 1) % BLOCK)


def _known(brief: Brief) -> list[Outcome]:
    """What a draw may depend on: neither the baseline, which nobody proposed, nor the experiment just before."""
    return [outcome for outcome in brief.history[1:] if outcome.experiment <= brief.experiment - 2]


def _shifted(known: Sequence[Outcome], plateau: int | None) -> bool:
    """True while a plateau gives the draws to the agent; its failures count, or it would keep them by failing."""
    after = since_plateau(known, plateau)
    if plateau is None or after is None:
        return False
    return (len(after) // max(1, plateau)) % 2 == 0


def _posterior_draw(rng: random.Random, brief: Brief, outcomes: Sequence[Outcome]) -> float:
    """A draw of the probability that one more is a gain, given these."""
    gains, misses = PRIOR_GAINS, PRIOR_MISSES
    for outcome in outcomes:
        weight = 0.5 ** ((brief.experiment - outcome.experiment) / HALF_LIFE)
        if is_gain(outcome):
            gains += weight
        else:
            misses += weight
    return rng.betavariate(gains, misses)


def _rng(brief: Brief, purpose: str) -> random.Random:
    """Of its own for each purpose, so that no draw shifts another."""
    return random.Random(f"bandit {brief.run_seed} {purpose}")
