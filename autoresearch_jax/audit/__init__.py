"""Audits of a finished search: fresh seeds, the holdout, each kept change, another size."""
