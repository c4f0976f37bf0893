"""What a proposer is told, what it answers, and the protocol between the two."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from autoresearch_jax.measurement import Metric, Scalar, Status
from autoresearch_jax.proposers.space import Constant

Constants = Mapping[str, Scalar | tuple[Scalar, ...]]


class SpaceExhausted(Exception):
    """The proposer has nothing left to try; the message says why in one line. Ends the loop cleanly."""


@dataclass(frozen=True)
class Outcome:
    """An experiment that is over, as a proposer sees it.

    Attributes:
      experiment: its number; 0 is the baseline.
      proposer: who proposed it.
      hypothesis: one line.
      category: such as "constants" or "attention".
      constants: the top-level constants of the proposed source.
      status: how measuring it ended.
      score: the metric, None where there is none.
      kept: True if it became the champion.
      reason: the decision's or the failure's one line.
    """

    experiment: int
    proposer: str
    hypothesis: str
    category: str
    constants: Constants
    status: Status
    score: float | None
    kept: bool
    reason: str


@dataclass(frozen=True)
class Brief:
    """All that a proposal may depend on.

    Attributes:
      experiment: number of the experiment to propose.
      run_seed: with `experiment`, the source of all randomness of the proposal.
      metric: what is to become better.
      program: text of program.md, verbatim.
      space: constants that an optimizer may move; every one is in `champion_constants`.
      champion_source: the editable file as it stands.
      champion_constants: its top-level constants.
      champion_score: its score.
      history: every experiment so far, the oldest first.
    """

    experiment: int
    run_seed: int
    metric: Metric
    program: str
    space: Sequence[Constant]
    champion_source: str
    champion_constants: Constants
    champion_score: float
    history: Sequence[Outcome]


@dataclass(frozen=True)
class Proposal:
    """What to try next: new values for constants of the champion, or a whole new text.

    Attributes:
      hypothesis: one line: what is changed, and what is expected of it.
      category: what kind of change it is.
      constants: new values of constants of the champion's source; empty with `source`.
      source: the whole text of the editable file; None with `constants`.
      cost_dollars: what proposing it cost.
    """

    hypothesis: str
    category: str
    constants: Mapping[str, Scalar] = field(default_factory=dict)
    source: str | None = None
    cost_dollars: float = 0.0

    def __post_init__(self) -> None:
        if bool(self.constants) == (self.source is not None):
            raise ValueError("a proposal is either constants or a source")


class Proposer(Protocol):
    """Who proposes experiments."""

    @property
    def name(self) -> str:
        """As it is stored beside each proposal, such as "optuna"."""
        ...

    def propose(self, brief: Brief) -> Proposal:
        """The next experiment; never one that changes nothing.

        Must depend on the brief alone, so that a resumed run proposes what the uninterrupted one would have.

        Raises:
          SpaceExhausted: there is nothing left to try.
        """
        ...
