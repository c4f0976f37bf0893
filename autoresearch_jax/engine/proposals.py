"""Where the next proposal comes from: asked for ahead, left by a killed process, or asked for now."""

import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace

from autoresearch_jax.engine.merging import Merge
from autoresearch_jax.engine.rebase import rebase
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.stored_proposals import STALE_FILE, Made, keep_proposal, kept_proposal, made_for, put_aside
from autoresearch_jax.errors import UserError
from autoresearch_jax.proposers.base import (
    Brief,
    Proposal,
    ProposalFailed,
    Proposer,
    ServiceDown,
    SpaceExhausted,
)
from autoresearch_jax.sandbox import linux
from autoresearch_jax.sanitize import clean_line

FAULT_FILE = "proposer_error.txt"
CLOSE_SECONDS = 3.0  # for a proposer to notice that it was closed

SourceOf = Callable[[int], str]  # of an experiment, by its number


class Proposals:
    """Asks the proposer, for the next experiment now or for the one after it while the next one is measured.

    What a slow proposer answers is on disk before it is used, so that a kill loses no answer that was paid for.
    """

    def __init__(
        self,
        proposer: Proposer,
        folder: RunFolder,
        source_of: SourceOf,
        merge: Merge,
        notice: Callable[[str], None],
        close_examiner: Callable[[], None],
    ) -> None:
        """Stores where to look and whom to ask.

        Args:
          proposer: who is asked.
          folder: the run's.
          source_of: reads a source from the ledger; called in the main thread only.
          merge: of three texts, such as `Git.merge`.
          notice: told when an answer is dropped.
          close_examiner: ends what the proposer has traced, see `Examiner.close`.
        """
        self._proposer = proposer
        self._folder = folder
        self._source_of = source_of
        self._merge = merge
        self._notice = notice
        self._close_examiner = close_examiner
        self._ahead: tuple[int, Future[Made]] | None = None

    def next(self, brief: Brief) -> Proposal:
        """The next proposal, for the champion of now; raises what `Proposer.propose` does.

        Where one was asked for ahead, waits for it.
        """
        made = self._made_before(brief)
        if made is None:
            return self._ask(brief).proposal
        proposal = self._for_champion_of_now(made, brief)
        if proposal is not None:
            return proposal
        put_aside(self._folder, brief.experiment, STALE_FILE)
        self._notice(
            f"what was proposed for experiment {brief.experiment} while another was measured does not fit the new "
            "champion: asked again"
        )
        again = self._ask(brief).proposal
        return replace(again, cost_dollars=max(again.cost_dollars, made.proposal.cost_dollars))

    def has_asked(self, experiment: int) -> bool:
        """True if the proposal for an experiment was asked for already; it is bound to that number."""
        is_ahead = self._ahead is not None and self._ahead[0] == experiment
        return is_ahead or kept_proposal(self._folder, experiment) is not None

    def look_ahead(self, brief: Brief) -> None:
        """Begins to ask for a proposal in a thread, if that is worth while; `next` collects it.

        Args:
          brief: of the experiment after the one that is about to be measured, see `Brief.running`.
        """
        if kept_proposal(self._folder, brief.experiment) is not None or not self._proposer.asks_ahead(brief):
            return
        future: Future[Made] = Future()

        def ask() -> None:
            try:
                with suppress(OSError):  # whatever it starts leaves the processors to the trial, where that is allowed
                    linux.lower_priority_of_this_thread()
                future.set_result(self._ask(brief))
            except BaseException as error:
                future.set_exception(error)

        self._ahead = brief.experiment, future
        self._thread = threading.Thread(target=ask, name="look-ahead", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the proposer, and what it is doing for us."""
        self._proposer.close()
        self._close_examiner()
        if self._ahead is not None:
            self._thread.join(CLOSE_SECONDS)
            self._ahead = None

    def _made_before(self, brief: Brief) -> Made | None:
        ahead, self._ahead = self._ahead, None
        made: Made | None = None
        if ahead is not None and ahead[0] == brief.experiment:
            try:
                made = ahead[1].result()
            except KeyboardInterrupt:
                self._ahead = ahead  # is still at work
                raise
        made = made or kept_proposal(self._folder, brief.experiment)
        # An optimizer that stood in for an agent did not know what was being measured: it is asked again.
        return None if made is None or made.proposal.source is None else made

    def _for_champion_of_now(self, made: Made, brief: Brief) -> Proposal | None:
        """None for one that is stale, or of a run that left its files here."""
        if made.is_for(brief.champion_source):
            return made.proposal
        try:
            base = self._source_of(made.champion)
        except UserError:
            return None
        return rebase(made.proposal, base, brief, self._merge) if made.is_for(base) else None

    def _ask(self, brief: Brief) -> Made:
        try:
            proposal = self._proposer.propose(brief)
        except (ProposalFailed, ServiceDown, SpaceExhausted):
            raise
        except UserError as error:  # such as a brief without room: to be mended while the loop goes on
            raise ProposalFailed(str(error)) from error
        except Exception as error:  # a fault of ours must not end a night either
            log = self._folder.log_dir(brief.experiment) / FAULT_FILE
            with suppress(OSError):
                log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
            words = f"{self._proposer.name} failed: {type(error).__name__}: {clean_line(str(error))}; see {log}"
            raise ProposalFailed(words) from error
        proposal = replace(proposal, proposer=proposal.proposer or self._proposer.name)
        if proposal.source is None:  # made again in no time
            return made_for(brief, proposal)
        return keep_proposal(self._folder, brief, proposal)
