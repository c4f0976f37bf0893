"""What two ledgers of equal runs have in common."""

from autoresearch_jax.engine.ledger import Ledger


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
