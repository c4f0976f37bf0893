"""Overnight research loops in JAX: propose, train for a fixed budget, judge, keep or discard."""
