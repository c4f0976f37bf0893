"""What a run searches: each task turns a source into a score."""
