"""Why an experiment was kept or discarded: its runs, the difference they show, and what happened next."""

from typing import Any, TextIO

from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import describe_gain, shown
from autoresearch_jax.engine.certifying import certificates
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.recorder import INTERRUPTED, RUNNING, outcome
from autoresearch_jax.engine.records import TrialRow
from autoresearch_jax.report.tables import format_lines
from autoresearch_jax.types import ATTENDED_SHARE, SCORE_DECIMALS, USUAL_SHARE


def explain(ledger: Ledger, number: int, *, at_work: bool) -> dict[str, Any]:
    """What the ledger has on an experiment's decision.

    Args:
      at_work: whether a driver is, so that what is not over is running.

    Raises:
      LedgerError: there is none of that number.
    """
    row, decisions = ledger.experiment(number), ledger.decisions(number)
    last = decisions[-1] if decisions else None
    moves = ledger.select("moves", ("parent",), "WHERE experiment = ? ORDER BY id", number)
    certificate = certificates(ledger).get(number)
    return {
        "experiment": row.id,
        "hypothesis": row.hypothesis,
        "finding": row.finding,
        "adopted_from": row.adopted_from,
        "used": list(row.used),
        "why": row.why,
        "parents": [*(move["parent"] for move in moves), *([] if row.parent is None else [row.parent])],
        "outcome": outcome(row, at_work=at_work),
        "score": row.score,
        "error": row.error,
        "gain": None if last is None or last.gain is None else last.gain.mean,
        "gain_error": None if last is None or last.gain is None else last.gain.error,
        "probability": None if last is None else last.probability,
        "gain_now": None if certificate is None else certificate.gain.mean,
        "gain_now_error": None if certificate is None else certificate.gain.error,
        "probability_real": None if certificate is None else certificate.probability,
        "certificate": None if certificate is None else str(certificate.word),
        "reason": row.reason,
        "trials": [_trial(trial, at_work) for trial in ledger.trials(row.id)],
        "decisions": [{"action": str(found.action), "reason": found.reason} for found in decisions],
    }


def _trial(trial: TrialRow, at_work: bool) -> dict[str, Any]:
    return {
        "trial": trial.id,
        "run_as": str(trial.purpose),
        "seed": trial.seed,
        "score": trial.value,
        "status": str(trial.status or (RUNNING if at_work else INTERRUPTED)),
        ATTENDED_SHARE: trial.metrics.get(ATTENDED_SHARE),
        "error": trial.error,
    }


def print_explanation(found: dict[str, Any], stream: TextIO) -> None:
    """Prints what `explain` found: runs, difference, probability, outcome."""
    lines = {"experiment": f"{found['experiment']}: {found['hypothesis']}"}
    if found["finding"] is not None:
        lines["finding"] = found["finding"]
    if found["adopted_from"] is not None:
        lines["adopted_from"] = found["adopted_from"]
    if found["used"]:
        lines["used"] = ", ".join(found["used"])
    if found["why"]:
        lines["why"] = f"{found['why']} (its proposer's opinion)"
    first, *moved = found["parents"] or [None]
    if moved:
        lines["base"] = f"made from experiment {first}, moved to {', then '.join(map(str, moved))}"
    if found["trials"]:
        lines["runs"] = ", ".join(map(_run, found["trials"]))
    if found["gain"] is not None:
        lines["difference"] = describe_gain(Estimate(found["gain"], found["gain_error"]))
    if found["probability"] is not None:
        lines["probability"] = f"{shown(found['probability'])} of a gain above its price"
    lines["outcome"] = f"{found['outcome']}: {found['reason'] or 'not decided on'}"
    if found["certificate"] is not None:
        gain = describe_gain(Estimate(found["gain_now"], found["gain_now_error"]))
        lines["now"] = f"{gain} by all runs since, {shown(found['probability_real'])} real: {found['certificate']}"
    stream.write(format_lines(lines) + "\n")


def _run(trial: dict[str, Any]) -> str:
    words = f"{trial['status']}" if trial["score"] is None else f"{trial['score']:.{SCORE_DECIMALS}f}"
    if trial["run_as"] != "candidate":
        words += f" ({trial['run_as']})"
    if (share := trial[ATTENDED_SHARE]) is not None and share < USUAL_SHARE:
        words += f" ({share:.0%} attended)"
    return words if trial["error"] is None else f"{words}: {trial['error']}"
