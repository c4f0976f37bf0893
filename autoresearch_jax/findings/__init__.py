"""Findings: changes of a training file that were tried, or are worth a try."""
