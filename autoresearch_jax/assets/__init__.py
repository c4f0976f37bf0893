"""Kinds of editable file: what the loop asks of a text, and each kind's answers."""
