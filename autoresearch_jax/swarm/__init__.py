"""Peers that share findings, by git or zenoh: chains of signed commits, notices, quotas."""
