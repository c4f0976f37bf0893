"""Seeds of trials, drawn by the driver: a candidate has no say in them."""

import hashlib

SEED_BITS = 31  # fits a signed 32-bit integer, which every random generator takes


def draw_seed(run_seed: int, experiment: int, trial: int) -> int:
    """A fresh seed; equal arguments give equal seeds on every machine.

    Args:
      run_seed: of the run.
      experiment: number of the experiment that the seed is drawn for.
      trial: 0 for the experiment's first trial, 1 for its second, ...
    """
    digest = hashlib.sha256(f"{run_seed}/{experiment}/{trial}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> (32 - SEED_BITS)
