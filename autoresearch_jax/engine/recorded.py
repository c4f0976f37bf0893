"""Reads the proposals of a run from its ledger, to propose them once more."""

from contextlib import closing

from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import ExperimentRow, Kind
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.proposers.base import NO_PROPOSAL, Proposal
from autoresearch_jax.proposers.replay import Recorded


def read_recorded(folder: RunFolder) -> list[Recorded]:
    """All proposals of a run that are over, in their order; they cost nothing any more.

    Raises:
      LedgerError: there is no ledger, or it cannot be read.
    """
    with closing(Ledger.open_to_read(folder.ledger)) as ledger:
        rows = [row for row in ledger.experiments() if row.kind is Kind.PROPOSAL and not row.is_open]
        return [_recorded(ledger, row) for row in rows]


def _recorded(ledger: Ledger, row: ExperimentRow) -> Recorded:
    assert row.parent is not None
    source, base = ledger.source(row.id), ledger.source(row.parent)
    if source == base:  # the row of a proposal that came to nothing, or could not be applied
        return Recorded(None, base, row.reason or NO_PROPOSAL, row.proposer)
    return Recorded(Proposal(row.hypothesis, row.category, source=source, proposer=row.proposer), base)
