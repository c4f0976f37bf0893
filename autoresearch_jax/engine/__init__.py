"""The loop: brief, proposal, candidate, trials, decision, ledger."""
