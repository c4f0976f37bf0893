"""Decisions from recorded numbers: pure statistics, without files, clock or randomness."""
