"""Findings: changes of an asset that were tried, or are worth a try."""
