"""Peers that share findings through a git remote: chains of signed commits, notices, quotas."""
