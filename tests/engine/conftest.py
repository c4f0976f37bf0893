"""Fixtures of runs with a fake task, see benches.py."""

from benches import bench, repo, run_git, twin

__all__ = ["bench", "repo", "run_git", "twin"]
