"""Whether two texts are one program, and one text is one program each time it is prepared."""

import hashlib
import itertools
from collections.abc import Callable, Mapping

from autoresearch_jax.assets.base import AssetSyntaxError
from autoresearch_jax.decide.rule import Action, Decision
from autoresearch_jax.engine.disk import DiskGuard
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.plan import Conclude, NextAction
from autoresearch_jax.engine.records import ExperimentRow, Kind
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.stopping import Interrupts
from autoresearch_jax.engine.task import RepeatableTask, Task
from autoresearch_jax.proposers.base import Brief, Objection, PastExperiment, Running
from autoresearch_jax.sanitize import quoted
from autoresearch_jax.types import HASHED_BY, SCORE_DECIMALS, Candidate, CandidateRejected, Status

COMPARED = 50  # latest texts with the same constants; a comparison takes 20 ms
VARIES = (
    "it traces to another program each time: remove what depends on time, randomness, addresses, the order of sets or "
    "the environment"
)


class SameProgram:
    """Compares program hashes; prepares texts again where that takes it."""

    def __init__(
        self,
        task: Task,
        ledger: Ledger,
        folder: RunFolder,
        disk: DiskGuard,
        interrupts: Interrupts,
        enter_failure: Callable[[ExperimentRow, Exception], object],
    ) -> None:
        """Stores what to compare with; `enter_failure` is told what the task itself failed of, and may raise."""
        self._task = task
        self._ledger = ledger
        self._folder = folder
        self._disk = disk
        self._interrupts = interrupts
        self._enter_failure = enter_failure
        self._repeated: set[int] = set()  # experiments whose text became the same program twice
        self._trees: dict[int, str | None] = {}  # of texts that were compared, see `_tree`
        self._hashes_now: dict[int, str | None] = {}  # of champions whose hash was made by another JAX

    def champion(
        self, experiment: ExperimentRow, candidate: Candidate, champion: ExperimentRow | None
    ) -> ExperimentRow | None:
        """The champion, if the candidate is the same program.

        Another JAX or autoresearch hashes a program to something else. A champion from before is prepared again, once a
        process; other twins from before are not found, and their programs are measured anew.
        """
        if champion is None:
            return None
        found = champion.program_hash
        trial = self._ledger.trials(self._ledger.measured(champion).id)[0]
        if trial.metrics.get(HASHED_BY) != candidate.facts.get(HASHED_BY):
            found = self._hash_now(experiment, champion)
        return champion if found == candidate.program_hash else None

    def _hash_now(self, experiment: ExperimentRow, champion: ExperimentRow) -> str | None:
        if champion.id not in self._hashes_now:
            log_dir = self._folder.log_dir(experiment.id) / "champion"
            log_dir.mkdir(exist_ok=True)
            try:
                now = self._task.prepare(self._ledger.source(champion.id), log_dir).program_hash
            except CandidateRejected:
                now = None
            self._task.close()  # what it made ready is not what will be measured
            self._hashes_now[champion.id] = now
        return self._hashes_now[champion.id]

    def known(self, experiment: ExperimentRow) -> Candidate | None:
        """A proposal that differs from an earlier text in comments, docstrings and layout alone, with its program.

        None for another text, and for one whose twin was never traced. Nothing is prepared.
        """
        if experiment.kind is not Kind.PROPOSAL:
            return None
        same_constants = (
            row
            for row in reversed(self._ledger.experiments())
            if row.id < experiment.id and row.program_hash is not None and row.constants == experiment.constants
        )
        for row in itertools.islice(same_constants, COMPARED):
            tree = self._tree(row)
            if tree is not None and tree == self._tree(experiment):
                return Candidate(self._ledger.source(experiment.id), row.program_hash or "")
        return None

    def _tree(self, row: ExperimentRow) -> str | None:
        """A digest of the text's canonical form; None where it does not parse."""
        if row.id not in self._trees:
            try:
                tree = self._task.asset.canonical(self._ledger.source(row.id))
            except AssetSyntaxError:
                self._trees[row.id] = None
            else:
                self._trees[row.id] = hashlib.sha256(tree.encode("utf-8", "surrogatepass")).hexdigest()
        return self._trees[row.id]

    def refusal(self, experiment: ExperimentRow, candidate: Candidate, action: NextAction) -> Conclude | None:
        """How an experiment that is about to be kept ends if its text becomes another program under other conditions.

        None if it becomes the same, or is not about to be kept. Nothing is stored: after a kill it is prepared again.

        Raises:
          RunError: the task failed too often; the experiment stays open.
          KeyboardInterrupt: the process was asked to end; the experiment stays open.
        """
        is_kept = experiment.kind is Kind.BASELINE or (action.decision is not None and action.decision.action.keeps)
        if not is_kept or experiment.id in self._repeated or not isinstance(self._task, RepeatableTask):
            return None
        log_dir = self._folder.log_dir(experiment.id) / "again"
        log_dir.mkdir(exist_ok=True)
        while True:
            try:
                with self._interrupts.allowed():
                    again = self._task.prepare_again(candidate.source, log_dir)
            except CandidateRejected as rejection:
                self._disk.require_room()  # a full disk is no candidate's fault
                reason = f"prepared a second time, before it is kept: {rejection.reason}"
                return Conclude(rejection.status, Decision(Action.DISCARD, reason))
            except Exception as error:
                self._enter_failure(experiment, error)
                continue
            if again.program_hash != candidate.program_hash:
                return Conclude(Status.REJECTED, Decision(Action.DISCARD, VARIES))
            self._repeated.add(experiment.id)
            return None


def repetition(
    brief: Brief, source: str, program_hash: str, scores: Mapping[int, str] | None = None
) -> Objection | None:
    """An objection to a program that was or is being measured, or refused; not to the champion's in a shorter text.

    Args:
      scores: of experiments, as people see them; by default those of the brief, which proposers see.
    """
    known = scores or {}
    before = [outcome for outcome in brief.history if outcome.program_hash == program_hash]
    if not before:
        running = next((running for running in brief.running if running.program_hash == program_hash), None)
        return None if running is None else _same(f"{_name(running)}, which is being measured right now")
    champion = [outcome for outcome in brief.history if outcome.kept][-1]
    if champion.program_hash != program_hash:
        return _same(_words(before[0], known))
    listed = [constant.name for constant in brief.space]
    nodes, champion_nodes = (brief.asset.size(text, listed) for text in (source, brief.champion_source))
    if nodes is not None and champion_nodes is not None and nodes < champion_nodes:
        return None
    words = _words(champion, known)
    return Objection(
        f"it changes nothing: it is the champion's own program ({words}) in a text that is no shorter",
        repeats=True,
    )


def claimed(peer: str | None) -> Objection | None:
    """An objection to a program that another peer says it measures now, on the same task and device class."""
    if peer is None:
        return None
    return Objection(
        f"{peer}, a peer of the swarm, measures the same program right now: propose something else",
        repeats=True,
        for_now=True,
    )


def _same(words: str) -> Objection:
    return Objection(f"it is the same program as {words}: propose something else", repeats=True)


def _name(experiment: PastExperiment | Running) -> str:
    return f"experiment {experiment.experiment}, {quoted(experiment.hypothesis)}"


def _words(outcome: PastExperiment, scores: Mapping[int, str]) -> str:
    became = "kept" if outcome.kept else "discarded" if outcome.status is Status.OK else str(outcome.status)
    score = "" if outcome.score is None else scores.get(outcome.experiment, str(round(outcome.score, SCORE_DECIMALS)))
    return f"{_name(outcome)}, which was {became}" + (f" with {score}" if score else "")
