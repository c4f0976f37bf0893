"""What a proposer is told, what it answers, and the protocol between the two."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from autoresearch_jax.measurement import Metric, Scalar, Status
from autoresearch_jax.proposers.space import Constant

Constants = Mapping[str, Scalar | tuple[Scalar, ...]]
NO_PROPOSAL = "no proposal"  # the category of an experiment whose proposer failed, see `ProposalFailed`


class SpaceExhausted(Exception):
    """The proposer has nothing left to try; the message says why in one line. Ends the loop cleanly."""


class ProposalFailed(Exception):
    """The proposer did not come up with anything this time; the message says why in one line.

    The loop writes it down as an experiment that was rejected, and goes on; too many in a row end it.

    Attributes:
      cost_dollars: what it cost all the same.
    """

    def __init__(self, reason: str, cost_dollars: float = 0.0) -> None:
        super().__init__(reason)
        self.cost_dollars = cost_dollars


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
      noise_floor: standard deviation of one run, to one digit; every score here is rounded to it. None where it is not
        known.
      limits_left: what is left before the run ends, in words, such as "37 experiments".
      facts: what is known of the champion's runs and their device, by name ("step_flops", "peak_memory_bytes", ...);
        nothing that was measured on validation text.
      curves: training loss at even steps of a run, by experiment: the champion's and the latest candidates'.
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
    noise_floor: float | None = None
    limits_left: Sequence[str] = ()
    facts: Mapping[str, Scalar] = field(default_factory=dict)
    curves: Mapping[int, Sequence[float]] = field(default_factory=dict)


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

        Must depend on the brief alone, so that a resumed run proposes what the uninterrupted one would have; but for an
        agent's answer, which is another one each time.

        Raises:
          SpaceExhausted: there is nothing left to try.
          ProposalFailed: nothing came of it this time.
        """
        ...
