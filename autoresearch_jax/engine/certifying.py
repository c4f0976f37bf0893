"""Certification of a run: the champion without some of its edits, and what is known of each kept edit."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoresearch_jax.audit.ablation import Version, revert
from autoresearch_jax.decide.certification import (
    CERTAIN,
    CertificationSettings,
    MeasureChampion,
    Revert,
    is_due,
    next_step,
    wanted_runs,
)
from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import ExperimentRow, Intent, Kind, Purpose
from autoresearch_jax.engine.state import kept_for_length, read_state
from autoresearch_jax.engine.task import RunError
from autoresearch_jax.engine.training_file import Merge, known_constants
from autoresearch_jax.proposers.base import CERTIFICATION
from autoresearch_jax.sanitize import clean_line


class Word(enum.StrEnum):
    """What a kept edit is by now."""

    CERTIFIED = "certified"  # an improvement with probability `CERTAIN` at least
    KEPT = "kept"  # a bet that is still open
    REVERTED = "reverted"  # taken out again


@dataclass(frozen=True)
class Certificate:
    """What is known of a kept edit.

    Attributes:
      word: see there.
      gain: in the metric's unit, positive where it is better.
      probability: that it is an improvement.
    """

    word: Word
    gain: Estimate
    probability: float


def certificates(ledger: Ledger) -> Mapping[int, Certificate]:
    """By experiment, for each edit that was kept; none under the greedy rule."""
    return ledger.remembered(_certificates)


def _certificates(ledger: Ledger) -> Mapping[int, Certificate]:
    lineage = ledger.lineage()
    if lineage is None:
        return {}
    found = {}
    for number, gain in lineage.posterior.gains.items():
        if ledger.experiment(number).kind is not Kind.PROPOSAL:
            continue
        word = Word.CERTIFIED if gain.real >= CERTAIN else Word.KEPT
        if number not in lineage.champion:
            word = Word.REVERTED
        found[number] = Certificate(word, lineage.posterior.gain_of([number]), gain.real)
    return found


REVERT = "revert"  # category of what certification tries


class Certifying:
    """What certification does next, from the ledger."""

    def __init__(self, ledger: Ledger, settings: CertificationSettings | None) -> None:
        """Takes the run's ledger, and what certification may spend; None for nothing."""
        self._ledger = ledger
        self._settings = settings
        self._since: tuple[int, int] | None = None  # an experiment, and how many trials there were then

    @property
    def is_anew(self) -> bool:
        """True if a run that is over is certified again."""
        return self._since is not None

    def begin_anew(self) -> None:
        """Looks at all edits again, with the share of trials that a run has for it; takes up what was cut short.

        Raises:
          RunError: an experiment of the search is not over.
        """
        ledger, row = self._ledger, self._ledger.open_experiment()
        if row is None:
            self._since = ledger.experiments()[-1].id, len(ledger.trials())
        elif row.kind is Kind.REVERT:
            self._since = row.id - 1, len(ledger.trials()) - len(ledger.trials(row.id))
        else:
            raise RunError(f"experiment {row.id} is not over: end the run first, with the command that began it")

    def next_step(self, *, at_end: bool) -> MeasureChampion | Revert | None:
        """One step; None if there is none to take. Before the end there is one only after so many keeps."""
        state, settings = read_state(self._ledger), self._settings
        if state is None or state.lineage is None or settings is None:
            return None
        if not at_end and not is_due(state.keeps_since_certified, settings):
            return None
        looked_at, spent = state.looked_at, state.certification_runs
        if self._since is not None:
            looked_at, spent = self._looked_at_since(*self._since)
        return next_step(state.lineage, looked_at, spent, settings, at_end=at_end)

    def may_come_next(self) -> bool:
        """True if certification comes next once the running experiment is kept: then it takes the next number."""
        state, settings = read_state(self._ledger), self._settings
        if state is None or state.lineage is None or settings is None:
            return False
        if not is_due(state.keeps_since_certified + 1, settings):
            return False
        return next_step(state.lineage, state.looked_at, state.certification_runs, settings, at_end=False) is not None

    def seconds_needed(self) -> float:
        """Time that certification would take if the search ended now."""
        state, settings = read_state(self._ledger), self._settings
        if state is None or state.lineage is None or settings is None:
            return 0.0
        wanted = wanted_runs(state.lineage, state.looked_at, state.certification_runs, settings)
        durations = [trial.finished_at - trial.started_at for trial in state.runs if trial.finished_at is not None]
        return wanted * max(durations, default=0.0)

    def _looked_at_since(self, experiment: int, num_trials: int) -> tuple[frozenset[int], int]:
        """Edits that were taken out after an experiment, and certification runs after the first `num_trials` trials."""
        rows = self._ledger.experiments()
        reverts = [row for row in rows if row.kind is Kind.REVERT and row.id > experiment]
        runs = sum(trial.purpose is Purpose.CERTIFY for trial in self._ledger.trials()[num_trials:])
        return frozenset(number for row in reverts for number in row.without) | kept_for_length(rows), runs


def revert_intent(champion: ExperimentRow, edits: Sequence[ExperimentRow], source: str) -> Intent:
    """An experiment that measures the champion without some edits."""
    numbers = [row.id for row in edits]
    hypotheses = "; ".join(row.hypothesis for row in edits)
    return Intent(
        kind=Kind.REVERT,
        source=source,
        constants=known_constants(source),
        hypothesis=clean_line(f"without {', '.join(map(str, numbers))}: {hypotheses}"),
        category=REVERT,
        proposer=CERTIFICATION,
        parent=champion.id,
        parent_commit=champion.commit,
        without=numbers,
    )


@dataclass(frozen=True)
class TakenOut:
    """The champion without a group of edits.

    Attributes:
      edits: that are out, by their experiments.
      source: the text without them.
      obstacles: why each of the others could not be taken out.
    """

    edits: Sequence[int]
    source: str
    obstacles: Mapping[int, str]


def take_out(ledger: Ledger, edits: Sequence[int], merge: Merge) -> TakenOut:
    """Takes edits out of the champion's text, the latest first.

    Args:
      ledger: of the run.
      edits: experiments that were kept.
      merge: merges three texts.
    """
    kept = [row for row in ledger.experiments() if row.kind is not Kind.TRIAL and row.decision is Action.KEEP]
    champion = kept[-1]
    source, taken, obstacles = ledger.source(champion.id), [], {}
    for number in sorted(edits, reverse=True):
        parent = ledger.experiment(number).parent
        assert parent is not None
        versions = [Version(number, ledger.source(parent)), Version(number, ledger.source(number))]
        found = revert([*versions, Version(champion.id, source)], 1, merge)
        if found.source is None or found.source == source or found.note:  # a note tells of a part that has to stay
            obstacles[number] = f"{found.obstacle or 'cannot be taken out whole'}{found.note and ': '}{found.note}"
            continue
        source = found.source
        taken.append(number)
    return TakenOut(sorted(taken), source, obstacles)
