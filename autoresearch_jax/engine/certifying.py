"""Certification of a run: the champion without some of its edits, and what is known of each kept edit."""

import enum
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoresearch_jax.assets.base import AssetKind, same_value
from autoresearch_jax.assets.kinds import TRAINING_FILE
from autoresearch_jax.assets.merging import is_same_apart_from, known_constants, merge_texts, moved_constants
from autoresearch_jax.decide.certification import (
    CERTAIN,
    CertificationSettings,
    MeasureChampion,
    Revert,
    is_due,
    next_step,
    wanted_of_champion,
    wanted_runs,
)
from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import ExperimentRow, Intent, Kind
from autoresearch_jax.engine.state import asset_of, certification_runs, kept_for_length, read_state
from autoresearch_jax.engine.task import RunError
from autoresearch_jax.proposers.base import CERTIFICATION
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.types import Merge

REVERT = "revert"  # category of what certification tries
SUPERSEDED = "superseded"
CONFLICT = "cannot be reverted"


class Word(enum.StrEnum):
    """What a kept edit is by now."""

    CERTIFIED = "certified"  # an improvement with probability `CERTAIN` at least
    KEPT = "kept"  # a bet that is still open
    REVERTED = "reverted"  # taken out again


@dataclass(frozen=True)
class Certificate:
    """What is known of a kept edit: its gain in the metric's unit, and the probability that it is an improvement."""

    word: Word
    gain: Estimate
    probability: float


def certificates(ledger: Ledger) -> Mapping[int, Certificate]:
    """A certificate for each edit that was kept, by experiment; none under the greedy rule."""
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

    def begin_anew(self) -> tuple[int, int]:
        """Looks at all edits again, with the share of trials that a run has for it; takes up what was cut short.

        Returns:
          The last experiment before it, and how many trials there were then.

        Raises:
          RunError: an experiment of the search is not over.
        """
        ledger, rows = self._ledger, self._ledger.open_experiments()
        for row in rows:
            if row.kind is not Kind.REVERT:
                raise RunError(f"experiment {row.id} is not over: end the run first, with the command that began it")
        since = ledger.left_certification().get("since")
        if since is not None:
            self._since = since[0], since[1]
        elif not rows:
            self._since = ledger.next_number() - 1, len(ledger.trials())
        else:
            (row,) = rows
            self._since = row.id - 1, len(ledger.trials()) - len(ledger.trials(row.id))
        return self._since

    def next_step(self, *, at_end: bool) -> MeasureChampion | Revert | None:
        """The next step, None if there is none; before the end, certification begins after `every` keeps."""
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
        """True if certification comes next, and so takes the next number, once the running experiment is kept."""
        state, settings = read_state(self._ledger), self._settings
        if state is None or state.lineage is None or settings is None:
            return False
        if not is_due(state.keeps_since_certified + 1, settings):
            return False
        return next_step(state.lineage, state.looked_at, state.certification_runs, settings, at_end=False) is not None

    def champion_runs_left(self) -> int:
        """How many runs of the champion certification still takes."""
        state, settings = read_state(self._ledger), self._settings
        if state is None or state.lineage is None or settings is None:
            return 0
        spent = state.certification_runs if self._since is None else self._looked_at_since(*self._since)[1]
        return wanted_of_champion(state.lineage, spent, settings)

    def seconds_needed(self, slots: int) -> float:
        """Seconds that certification would take now, with `slots` trials at a time."""
        state, settings = read_state(self._ledger), self._settings
        if state is None or state.lineage is None or settings is None:
            return 0.0
        wanted = wanted_runs(state.lineage, state.looked_at, state.certification_runs, settings)
        of_champion = wanted_of_champion(state.lineage, state.certification_runs, settings)
        durations = [trial.finished_at - trial.started_at for trial in state.runs if trial.finished_at is not None]
        return (wanted - of_champion + math.ceil(of_champion / slots)) * max(durations, default=0.0)

    def _looked_at_since(self, experiment: int, num_trials: int) -> tuple[frozenset[int], int]:
        """Edits that were taken out after an experiment, and certification runs after the first `num_trials` trials."""
        rows = self._ledger.experiments()
        reverts = [row for row in rows if row.kind is Kind.REVERT and row.id > experiment]
        runs = certification_runs(self._ledger.trials()[num_trials:], reverts)
        return frozenset(number for row in reverts for number in row.without) | kept_for_length(rows), runs


def revert_intent(champion: ExperimentRow, edits: Sequence[ExperimentRow], source: str, asset: AssetKind) -> Intent:
    """An experiment that measures the champion without some edits."""
    numbers = [row.id for row in edits]
    hypotheses = "; ".join(row.hypothesis for row in edits)
    return Intent(
        kind=Kind.REVERT,
        source=source,
        constants=known_constants(asset, source),
        hypothesis=clean_line(f"without {', '.join(map(str, numbers))}: {hypotheses}"),
        category=REVERT,
        proposer=CERTIFICATION,
        parent=champion.id,
        parent_commit=champion.commit,
        without=numbers,
    )


@dataclass(frozen=True)
class Version:
    """The text of a champion, and the experiment that was kept with it."""

    experiment: int
    source: str


@dataclass(frozen=True)
class Reverted:
    """The champion without one change."""

    source: str | None  # the text; None if there is none
    obstacle: str = ""  # why there is none, `SUPERSEDED` or `CONFLICT`; else empty
    note: str = ""  # what else is to be said, one line; may be empty


def revert(versions: Sequence[Version], index: int, merge: Merge, asset: AssetKind = TRAINING_FILE) -> Reverted:
    """Takes one change back out of the last version and leaves all others in.

    Constants get the values that they had before the change, unless a later change moved them again. The rest of the
    text is merged line by line, with all constants alike on the three sides, so that a line beside one is no conflict.

    `versions` are the baseline and every champion after it; `index` is of the one that brought the change, at least 1.
    """
    champion = versions[-1].source
    before, after = versions[index - 1].source, versions[index].source
    old = moved_constants(asset, before, after)
    again = {name: moved_by for name in old if (moved_by := _moved_again(asset, versions[index:], name)) is not None}
    values = {name: value for name, value in old.items() if name not in again}
    note = ", ".join(f"{name} was moved again by {experiment}" for name, experiment in again.items())
    if is_same_apart_from(asset, before, after, old):
        if not values:
            return Reverted(None, SUPERSEDED, note)
        return Reverted(asset.set_constants(champion, values), note=note)
    merged = merge_texts(asset, after, champion, before, values, merge)
    if merged is None:
        return Reverted(None, CONFLICT, "later changes touch the same lines")
    return Reverted(merged, note=note)


def _moved_again(asset: AssetKind, versions: Sequence[Version], name: str) -> int | None:
    """The last experiment after the first version that gave a constant another value or took it away."""
    moved_by = None
    for earlier, later in itertools.pairwise(versions):
        old, new = asset.settable(earlier.source), asset.settable(later.source)
        if name in old and not (name in new and same_value(old[name], new[name])):
            moved_by = later.experiment
    return moved_by


def take_out(ledger: Ledger, edits: Sequence[int], merge: Merge) -> tuple[list[int], str, dict[int, str]]:
    """Takes edits out of the champion's text, the latest first.

    Returns:
      The edits that are out, the text without them, and why each of the others could not be taken out.
    """
    champion = [row for row in ledger.experiments() if row.kind is not Kind.TRIAL and row.decision is Action.KEEP][-1]
    asset, source, taken, obstacles = asset_of(ledger), ledger.source(champion.id), list[int](), dict[int, str]()
    for number in sorted(edits, reverse=True):
        parent = ledger.experiment(number).parent
        assert parent is not None
        versions = [Version(number, ledger.source(parent)), Version(number, ledger.source(number))]
        found = revert([*versions, Version(champion.id, source)], 1, merge, asset)
        if found.source is None or found.source == source or found.note:  # a note tells of a part that has to stay
            obstacles[number] = f"{found.obstacle or 'cannot be taken out whole'}{found.note and ': '}{found.note}"
            continue
        source = found.source
        taken.append(number)
    return sorted(taken), source, obstacles
