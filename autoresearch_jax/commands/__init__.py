"""The commands of `autoresearch`, one module each."""
