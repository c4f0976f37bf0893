"""Audits of a run: is its gain real, does each kept change earn its place, does it hold at another size."""
