"""Rows of ledgers: one to tell observers of, and what two ledgers of equal runs have in common."""

from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import ExperimentRow, Kind


def experiment_row(number: int, hypothesis: str = "", proposer: str = "") -> ExperimentRow:
    """An open proposal."""
    nothing = dict.fromkeys(("program_hash", "status", "score", "decision", "reason", "commit", "seconds"))
    return ExperimentRow(number, Kind.PROPOSAL, 0, None, proposer, hypothesis, "", 0.0, {}, 0.0, **nothing)


def substance(ledger: Ledger) -> list[tuple]:
    """All rows without times, durations, costs, and what contains times (commits do)."""
    experiments = [
        (
            *(row.id, row.kind, row.parent, row.proposer, row.hypothesis, row.category, row.program_hash, row.finding),
            *(row.constants, row.status, row.score, row.decision, row.reason, ledger.source(row.id)),
        )
        for row in ledger.experiments()
    ]
    trials = [(t.id, t.experiment, t.seed, t.purpose, t.status, t.value, t.error) for t in ledger.trials()]
    decisions = [(row[0], decision) for row in experiments for decision in ledger.decisions(row[0])]
    return experiments + trials + decisions
