"""Writes experiments down before anything is spent on them; one that cannot be measured is over at once."""

from dataclasses import replace

from autoresearch_jax.decide.rule import Action, Decision
from autoresearch_jax.engine.inbox import HAND, HandedText, Inbox
from autoresearch_jax.engine.measuring import Parts
from autoresearch_jax.engine.plan import Conclude
from autoresearch_jax.engine.recorder import Recorder
from autoresearch_jax.engine.records import ExperimentRow, Intent, Kind
from autoresearch_jax.engine.training_file import ConstantError, known_constants, set_constants
from autoresearch_jax.proposers.base import NO_PROPOSAL, Brief, Proposal, ProposalFailed
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.types import Status

NO_LONGER_FITS = (
    "it changes the same lines as the champion (experiment {}) did since, or nothing that it has not: make the change "
    "in the champion's text"
)


class Entries:
    """Enters proposals, and texts of the inbox, as experiments of the champion.

    `started` is in each method `time.monotonic()` from which on the time is the experiment's.
    """

    def __init__(self, parts: Parts, recorder: Recorder) -> None:
        self._parts = parts
        self._ledger = parts.ledger
        self._recorder = recorder
        self.inbox = Inbox(parts.ledger)

    def begin(self, champion: ExperimentRow, brief: Brief, proposal: Proposal, started: float) -> ExperimentRow:
        """Enters a proposal; one that cannot be applied is over at once."""
        source = proposal.source
        if source is None:
            try:
                source = set_constants(brief.champion_source, proposal.constants)
            except (ConstantError, SyntaxError) as error:
                return self.reject(self._intent(champion, brief.champion_source, proposal), str(error), started)
        intent = self._intent(champion, source, proposal)
        return self._ledger.begin_experiment(replace(intent, constants=known_constants(source)))

    def begin_text(self, champion: ExperimentRow, text: HandedText, started: float) -> ExperimentRow:
        """Enters a text of the inbox; one that does not fit the champion of now is over at once."""
        of_champion = self._ledger.source(champion.id)
        source = text.for_champion(of_champion, self._parts.workspace.merge)
        proposal = Proposal(text.hypothesis, text.category, source=source or of_champion, proposer=HAND)
        intent = self._intent(champion, source or of_champion, proposal)
        with self._ledger.transaction():
            if source is None:
                experiment = self.reject(intent, NO_LONGER_FITS.format(champion.id), started)
            else:
                experiment = self._ledger.begin_experiment(replace(intent, constants=known_constants(source)))
            self.inbox.take(text.id, experiment.id)
        return experiment

    def enter_failure(self, champion: ExperimentRow, brief: Brief, failure: ProposalFailed, started: float) -> None:
        """Enters that there was no proposal."""
        nothing = Proposal(
            NO_PROPOSAL,
            NO_PROPOSAL,
            source=brief.champion_source,
            cost_dollars=failure.cost_dollars,
            proposer=failure.proposer,
        )
        self.reject(self._intent(champion, brief.champion_source, nothing), str(failure), started)

    def reject(self, intent: Intent, reason: str, started: float) -> ExperimentRow:
        """Enters an experiment that is over before it began."""
        with self._ledger.transaction():
            experiment = self._ledger.begin_experiment(intent)
            rejection = Conclude(Status.REJECTED, Decision(Action.DISCARD, reason))
            experiment = self._recorder.conclude(experiment, rejection, started)
        self._parts.observer.ends(experiment)
        return experiment

    def _intent(self, champion: ExperimentRow, source: str, proposal: Proposal) -> Intent:
        """The experiment record without its constants; the caller fills them in."""
        return Intent(
            kind=Kind.PROPOSAL,
            source=source,
            hypothesis=clean_line(proposal.hypothesis),
            category=proposal.category,
            proposer=proposal.proposer or self._parts.proposer.name,
            parent=champion.id,
            parent_commit=champion.commit,
            cost_dollars=proposal.cost_dollars,
            finding=proposal.finding,
        )
