"""Snapshots of a run: which are kept, where they are, and what became of them."""
