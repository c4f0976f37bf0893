"""Where things run: child processes, and what becomes of them."""
