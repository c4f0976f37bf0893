"""What proposers are told, read from a run's ledger, its logs and its page of instructions."""

import csv
import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from autoresearch_jax.decide.demands import demands
from autoresearch_jax.decide.noise import round_to_noise
from autoresearch_jax.decide.rule import Action, LineageRule, LineageSettings
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.plan import moves_constants_alone
from autoresearch_jax.engine.recorder import past_experiments, score_of
from autoresearch_jax.engine.records import ExperimentRow, Kind
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.state import CONTRACT, FACTS, TOLD, RunState, asset_of, concluded, read_state
from autoresearch_jax.findings.folder import FindingStore
from autoresearch_jax.findings.format import MAX_TITLE_CHARACTERS, device_class
from autoresearch_jax.proposers.base import DEFAULT_CATEGORIES, Brief, Running
from autoresearch_jax.proposers.peer_papers import relevant_papers
from autoresearch_jax.proposers.space import Constant
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.types import Metric, Scalar, Status

LOSS_CURVE = "loss.csv"  # in an experiment's logs, where its task writes one; its last column is the loss
CURVE_POINTS = 10
CURVES = 4  # the champion's and three candidates'
LOOKED_AT = 12  # latest experiments whose logs are searched for curves
CHANGES = 4  # latest candidates whose diffs are shown
CONTEXT_LINES = 1  # around a change
MAX_CHANGE_LINES = 80  # of one diff
MAX_CHANGE_COLUMNS = 160


@dataclass(frozen=True)
class Asking:
    """What of a brief the user chose, see `Brief`, and where findings of peers are read."""

    categories: Sequence[str] = DEFAULT_CATEGORIES
    plateau: int | None = None
    peers: FindingStore | None = None  # the library; only what peers measured is told


def make_brief(
    ledger: Ledger,
    folder: RunFolder,
    *,
    experiment: int,
    program: str,
    space: Sequence[Constant],
    limits_left: Sequence[str],
    asking: Asking,
) -> Brief:
    """The brief for an experiment of a run that has a baseline; for the arguments see `Brief`."""
    state, rows, settings = read_state(ledger), concluded(ledger), ledger.settings()
    sigma = None if state is None else state.sigma
    metric = Metric(str(settings["metric"]), str(settings["direction"]))
    rule = LineageRule(metric, LineageSettings.of(settings)) if settings["decision"] == "lineage" else None
    champion, asset = next(row for row in reversed(rows) if row.decision is Action.KEEP), asset_of(ledger)
    return Brief(
        experiment=experiment,
        run_seed=int(settings["seed"] or 0),
        metric=metric,
        program=program,
        space=space,
        champion_source=ledger.source(champion.id),
        champion_constants=champion.constants,
        champion_score=round_to_noise(score_of(champion), sigma),
        history=past_experiments(rows, sigma),
        noise_floor=noise_floor(state),
        limits_left=limits_left,
        facts=known_facts(ledger, state),
        curves=loss_curves(folder, rows, ledger.measured(champion).id),
        categories=asking.categories,
        plateau=asking.plateau,
        contract=str(settings.get(CONTRACT) or ""),
        to_be_kept=demands(rule, None if state is None else state.lineage, asset.unit),
        changes=latest_changes(ledger, rows),
        asset=asset,
        running=running_proposals(ledger),
        papers=_papers(asking.peers, device_class(settings), rows),
    )


def _papers(peers: FindingStore | None, of_class: str, rows: Sequence[ExperimentRow]) -> dict[str, str]:
    """The most relevant findings of peers; one that the run proposed and a peer adopted counts as tried."""
    findings = [] if peers is None else peers.findings()
    if not findings:
        return {}
    tried = {clean_line(row.hypothesis, MAX_TITLE_CHARACTERS) for row in rows}
    return relevant_papers(findings, of_class, tried | {row.finding for row in rows if row.finding is not None})


def running_proposals(ledger: Ledger) -> list[Running]:
    """The proposals that are being measured, as proposers see them."""
    return [as_running(row) for row in ledger.open_experiments() if row.kind is Kind.PROPOSAL]


def as_running(row: ExperimentRow) -> Running:
    """An open experiment, as proposers see it."""
    words = (row.proposer, row.hypothesis, row.category, row.constants, row.finding, row.program_hash, row.adopted_from)
    return Running(row.id, *words)


def noise_floor(state: RunState | None) -> float | None:
    """Sigma to one digit, as proposers see it; None where it is not known."""
    return None if state is None or state.sigma is None else float(f"{state.sigma:.1g}")


def known_facts(ledger: Ledger, state: RunState | None) -> dict[str, Scalar]:
    """What a candidate has to work with, the time box of a trial, and what the champion's latest run cost."""
    settings = ledger.settings()
    facts: dict[str, Scalar] = json.loads(str(settings.get(FACTS) or "{}"))
    facts |= {name: settings.get(name) for name in ("budget_seconds", "budget_steps")}
    if state is not None and state.runs:
        told = json.loads(str(settings.get(TOLD) or "[]"))
        facts |= {f"champion's {name}": state.runs[-1].metrics.get(name) for name in told}
    return {name: value for name, value in facts.items() if value is not None}


def latest_changes(ledger: Ledger, rows: Sequence[ExperimentRow]) -> dict[int, str]:
    """Diffs of the latest candidates with a score, by experiment; of moved constants the hypothesis says all."""
    changes: dict[int, str] = {}
    for row in reversed(rows):
        if len(changes) == CHANGES:
            break
        is_measured = row.kind is Kind.PROPOSAL and row.status is Status.OK
        if is_measured and row.parent is not None and not moves_constants_alone(row):
            changes[row.id] = change_text(ledger.source(row.parent), ledger.source(row.id))
    return changes


@lru_cache(maxsize=2 * CHANGES)  # each is on several pages
def change_text(before: str, after: str) -> str:
    """A short unified diff in printable characters."""
    found = difflib.unified_diff(before.splitlines(), after.splitlines(), n=CONTEXT_LINES, lineterm="")
    lines = ["".join(c if c.isprintable() else " " for c in line) for line in list(found)[2:]]  # without file names
    shown = [f"{line[: MAX_CHANGE_COLUMNS - 3]}..." if len(line) > MAX_CHANGE_COLUMNS else line for line in lines]
    left_out = len(shown) - MAX_CHANGE_LINES
    return "\n".join([*shown[:MAX_CHANGE_LINES], *([f"... and {left_out} more lines"] if left_out > 0 else [])])


def loss_curves(folder: RunFolder, rows: Sequence[ExperimentRow], champion: int) -> dict[int, list[float]]:
    """Loss at even steps, of the champion and of the latest candidates that have a curve; `rows` come oldest first."""
    curves = {champion: read_loss_file(folder.log_dir(champion) / LOSS_CURVE)}
    for row in reversed(rows[-LOOKED_AT:]):
        if sum(map(bool, curves.values())) >= CURVES:
            break
        if row.kind is Kind.PROPOSAL and row.id not in curves:
            curves[row.id] = read_loss_file(folder.log_dir(row.id) / LOSS_CURVE)
    return {number: curve for number, curve in curves.items() if curve}


def read_loss_file(path: Path, points: int = CURVE_POINTS) -> list[float]:
    """A few losses of a file, the last among them, evenly spread; none where there is no such file."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = [line for line in file if not line.isspace()][1:]
        if len(lines) > points:
            lines = [lines[round(place * (len(lines) - 1) / (points - 1))] for place in range(points)]
        return [float(row[-1]) for row in csv.reader(lines)]
    except (OSError, ValueError, csv.Error):  # none; or cut off in the midst of a number
        return []
