"""What a proposer is told, what it answers, the protocol between the two, and what a history says of a plateau."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from autoresearch_jax.assets.base import AssetKind
from autoresearch_jax.assets.kinds import TRAINING_FILE
from autoresearch_jax.assets.merging import rebase_text
from autoresearch_jax.proposers.space import Constant
from autoresearch_jax.types import Merge, Metric, Scalar, Status

Constants = Mapping[str, Scalar | tuple[Scalar, ...]]
CERTIFICATION = "certification"  # in place of a proposer: the champion without some of its edits
NO_PROPOSAL = "no proposal"  # the category of an experiment whose proposer failed, see `ProposalFailed`
CONSTANTS_CATEGORY = "constants"  # of proposals that move nothing but constants of program.md's table
CONSTANTS_PROPOSER = "constants"  # name of the proposer that moves constants; replayed and resumed runs keep it
MAX_WHY_CHARACTERS = 600  # of a proposer's opinion why its change should work
# Kinds of structural change that an agent may be asked for; a run may name its own.
DEFAULT_CATEGORIES = (
    *("architecture", "attention", "embedding", "normalization", "initialization"),
    *("optimizer", "schedule", "regularization", "batch", "numerics", "simplification"),
)


class SpaceExhausted(Exception):
    """The proposer has nothing left to try; the message says why in one line. Ends the loop cleanly."""


class LimitReached(SpaceExhausted):
    """A spending limit is reached; the message names the flag."""


class ProposalFailed(Exception):
    """The proposer has no proposal this time; the message says why in one line.

    The loop records a rejected experiment and goes on; after a few in a row it waits between tries.

    Attributes:
      cost_dollars: what it cost all the same.
      proposer: name of the proposer that failed, where one stands for several; None for the one that raised it.
      worth_waiting: False if trying later would fail in the same way.
    """

    def __init__(
        self, reason: str, cost_dollars: float = 0.0, proposer: str | None = None, worth_waiting: bool = True
    ) -> None:
        super().__init__(reason)
        self.cost_dollars = cost_dollars
        self.proposer = proposer
        self.worth_waiting = worth_waiting


class ServiceDown(Exception):
    """The service behind the proposer does not answer; no experiment is recorded.

    The loop asks again later, for as long as its stopping list lets it.

    Attributes:
      retry_seconds: when to ask again; what the server asked for, if it did.
    """

    def __init__(self, reason: str, retry_seconds: float) -> None:
        super().__init__(reason)
        self.retry_seconds = retry_seconds


@dataclass(frozen=True)
class Objection:
    """Why a text is not worth measuring, found before a trial is spent on it."""

    text: str  # what the agent is told, a few clean lines at most
    # True if further tries may cost as much again for nothing: the text says what was measured before, or its trace
    # does not end; or if the author may mean it. Texts of this kind go back to the agent once.
    repeats: bool = False
    may_be_meant: bool = False  # True if the text can be measured, and only takes something from the optimizer
    for_now: bool = False  # True if it is a matter of time: another peer measures the program just now


@dataclass(frozen=True)
class PastExperiment:
    """An experiment that is over, as a proposer sees it."""

    experiment: int  # its number; 0 is the baseline
    proposer: str  # who proposed it
    hypothesis: str  # one line
    category: str  # such as "constants" or "attention"
    constants: Constants  # the top-level constants of the proposed source
    status: Status  # how measuring it ended
    score: float | None  # the metric, None where there is none
    kept: bool  # True if it became the champion
    reason: str  # the decision's or the failure's one line
    program_hash: str | None = None  # of what it ran; None of what was never traced
    simplification: bool = False  # True if it was kept for its shorter source alone, which is no gain
    finding: str | None = None  # id of the finding that it tried; None if it tried none
    price: float = 0.0  # what a discarded one had to gain for its memory and length, in the metric's unit
    adopted_from: str | None = None  # name of the peer whose finding or champion it tried; None if it was no peer's


@dataclass(frozen=True)
class Running:
    """An experiment that is still being measured while another one is proposed; see `PastExperiment`."""

    experiment: int
    proposer: str
    hypothesis: str
    category: str
    constants: Constants
    finding: str | None = None
    program_hash: str | None = None
    adopted_from: str | None = None


@dataclass(frozen=True)
class Brief:
    """Everything that a proposal may depend on."""

    experiment: int  # number of the experiment to propose
    run_seed: int  # with `experiment`, the source of all randomness of the proposal
    metric: Metric  # what is to become better
    program: str  # text of program.md, verbatim
    space: Sequence[Constant]  # constants that an optimizer may move; every one is in `champion_constants`
    champion_source: str  # the editable file as it stands
    champion_constants: Constants  # its constants
    champion_score: float  # its score
    history: Sequence[PastExperiment]  # every experiment so far, the oldest first
    # standard deviation of one run, to one digit; every score here is rounded to it. None where it is not known.
    noise_floor: float | None = None
    limits_left: Sequence[str] = ()  # what is left before the run ends, in words, such as "37 experiments"
    # what is known of the champion's runs and their device, by name ("step_flops", "peak_memory_bytes", ...); nothing
    # that was measured on validation text
    facts: Mapping[str, Scalar] = field(default_factory=dict)
    # loss at even steps of a run, by experiment: the champion's and the latest candidates'
    curves: Mapping[int, Sequence[float]] = field(default_factory=dict)
    # the experiments that are still being measured, the oldest first; none of them is in the history
    running: Sequence[Running] = ()
    categories: Sequence[str] = DEFAULT_CATEGORIES  # kinds of structural change that may be named
    category: str | None = None  # the kind that is asked for this time; None leaves the choice
    # number of discards in a row after which a structural change is demanded; None for never
    plateau: int | None = None
    hints: Sequence[str] = ()  # what the constants proposer found out about each constant, a line each
    contract: str = ""  # what the task asks of the asset, as Markdown in the task's own words
    to_be_kept: Sequence[str] = ()  # what it takes to be kept, with figures, in clean lines of ours
    # unified diffs of the latest candidates with a score, by experiment, each against its champion
    changes: Mapping[int, str] = field(default_factory=dict)
    asset: AssetKind = TRAINING_FILE  # what kind of text the editable file is
    # the most relevant findings of peers, the most relevant first: a line each, by their ids
    papers: Mapping[str, str] = field(default_factory=dict)

    def used_papers(self, named: object) -> tuple[str, ...]:
        """Those of its papers that an agent named, in a text or in a list of texts."""
        texts = named if isinstance(named, list) else [named]
        words = {word for text in texts if isinstance(text, str) for word in re.findall(r"[\w-]+", text)}
        return tuple(paper for paper in self.papers if paper in words)


@dataclass(frozen=True)
class Proposal:
    """What to try next: new values for constants of the champion, or a whole new text."""

    hypothesis: str  # one line: what is changed, and what is expected of it
    category: str  # what kind of change it is
    # new values of constants of the champion's source; empty with `source`
    constants: Mapping[str, Scalar] = field(default_factory=dict)
    source: str | None = None  # the whole text of the editable file; None with `constants`
    cost_dollars: float = 0.0  # what proposing it cost
    proposer: str | None = None  # name of its proposer, where one stands for several; None for the one that returned it
    finding: str | None = None  # id of the finding that it tries; None if it tries none
    adopted_from: str | None = None  # name of the peer whose finding it is; None if it is no peer's
    used: Sequence[str] = ()  # ids of the findings that its proposer says it used
    why: str = ""  # its proposer's opinion why it should work, a clean paragraph; empty if there is none

    def __post_init__(self) -> None:
        if bool(self.constants) == (self.source is not None):
            raise ValueError("a proposal is either constants or a source")


class ServiceObserver(Protocol):
    """Who is told how the service behind a proposer is; in any thread."""

    def notice(self, text: str) -> None:
        """One line for the user."""

    def service_down(self, what: str, since: float, again_at: float) -> None:
        """A service does not answer, and the run goes on without it; called again for each further try.

        Args:
          what: one clean line.
          since: seconds since 1970.
          again_at: before which it is not asked again, in seconds since 1970.
        """

    def service_back(self) -> None:
        """It answers again, or is not asked any more."""


Examine = Callable[[Brief, Proposal], Objection | None]
"""Tries a whole text before it is proposed: stores it, traces it, and checks whether it was measured before. Called in
the proposer's thread with the proposal as it would be returned; None if there is no objection."""


class Proposer(Protocol):
    """Who proposes experiments."""

    @property
    def name(self) -> str:
        """As it is stored beside each proposal, such as "constants"."""

    def propose(self, brief: Brief) -> Proposal:
        """The next experiment; never one that changes nothing.

        Must depend on the brief alone, so that a resumed run proposes what the uninterrupted one would have; but for an
        agent's answer, which is another one each time.

        May be called in another thread than the one that made it, but in one at a time.

        Raises:
          SpaceExhausted: there is nothing left to try.
          ProposalFailed: nothing came of it this time.
          ServiceDown: the service does not answer.
        """

    def asks_ahead(self, brief: Brief) -> bool:
        """True if the answer takes so long that it is worth asking while another experiment is measured."""

    def close(self) -> None:
        """Ends a `propose` under way in another thread, which raises ProposalFailed soon after."""


def moves_constants_alone(experiment: PastExperiment | Running) -> bool:
    """True if an experiment is known to have moved nothing but constants.

    An agent may give this category to a change of structure, so the proposer's name has to be ours too.
    """
    return experiment.category == CONSTANTS_CATEGORY and experiment.proposer == CONSTANTS_PROPOSER


def is_gain(outcome: PastExperiment) -> bool:
    """True if it was kept for what it scored: not for a shorter source alone, nor for what was taken out again."""
    is_new_text = outcome.status is not Status.DUPLICATE and outcome.proposer != CERTIFICATION
    return outcome.kept and is_new_text and not outcome.simplification


def is_failed_proposal(outcome: PastExperiment) -> bool:
    """True if nothing was proposed. An experiment with a score was proposed, even if its agent names this category."""
    return outcome.category == NO_PROPOSAL and outcome.status is Status.REJECTED and outcome.score is None


def since_gain(history: Sequence[PastExperiment]) -> Sequence[PastExperiment]:
    """The experiments after the last gain, the oldest first; the baseline is one."""
    last = next((place for place in reversed(range(len(history))) if is_gain(history[place])), -1)
    return history[last + 1 :]


def rebase(proposal: Proposal, base: str, brief: Brief, merge: Merge) -> Proposal | None:
    """A proposed text, made for the source `base`, for another champion; None if it is stale, see `rebase_text`."""
    assert proposal.source is not None
    if base == brief.champion_source:
        return proposal
    merged = rebase_text(brief.asset, proposal.source, base, brief.champion_source, merge)
    return None if merged is None else replace(proposal, source=merged)


def discards_in_a_row(history: Sequence[PastExperiment]) -> int:
    """Experiments without a gain since the last gain; failed proposals do not count."""
    return sum(_is_discard(outcome) for outcome in since_gain(history))


def on_plateau(history: Sequence[PastExperiment], plateau: int | None) -> bool:
    """True once `plateau` experiments in a row were discarded; never for None."""
    return plateau is not None and discards_in_a_row(history) >= plateau


def since_plateau(history: Sequence[PastExperiment], plateau: int | None) -> Sequence[PastExperiment] | None:
    """The experiments after the discard that began a plateau, the oldest first; None if there is no plateau."""
    if plateau is None or not on_plateau(history, plateau):
        return None
    tail = since_gain(history)
    discards = [place for place, outcome in enumerate(tail) if _is_discard(outcome)]
    return tail[discards[plateau - 1] + 1 :] if plateau > 0 else tail


def least_tried(history: Sequence[PastExperiment | Running], categories: Sequence[str]) -> list[tuple[str, int]]:
    """The categories with how often each was tried, the least tried first; equals stay in their order."""
    counts = dict.fromkeys(categories, 0)
    for outcome in history:
        if outcome.category in counts:
            counts[outcome.category] += 1
    return sorted(counts.items(), key=lambda item: item[1])


def _is_discard(outcome: PastExperiment) -> bool:
    return not outcome.kept and not is_failed_proposal(outcome) and outcome.proposer != CERTIFICATION
