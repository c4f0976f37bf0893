"""Seeds of trials, drawn by the driver: a candidate has no say in them."""

import hashlib
from collections.abc import Collection

SEED_BITS = 31  # fits a signed 32-bit integer, which every random generator takes


def draw_seed(run_seed: int, experiment: int, trial: int) -> int:
    """A fresh seed; equal arguments give equal seeds on every machine.

    Args:
      run_seed: of the run.
      experiment: number of the experiment that the seed is drawn for.
      trial: 0 for the experiment's first trial, 1 for its second, ...
    """
    return _seed_of(f"{run_seed}/{experiment}/{trial}")


def draw_audit_seeds(run_seed: int, audit: int, count: int, used: Collection[int]) -> list[int]:
    """Different seeds for an audit that nothing else of the run has; equal arguments give equal seeds.

    Args:
      run_seed: of the run.
      audit: number of the audit.
      count: how many.
      used: seeds of all other trials of the run; 31 bits are few enough for two draws to meet one day.
    """
    seeds: list[int] = []
    draws = 0
    while len(seeds) < count:
        seed = _seed_of(f"{run_seed}/audit {audit}/{draws}")
        draws += 1
        if seed not in used and seed not in seeds:
            seeds.append(seed)
    return seeds


def _seed_of(text: str) -> int:
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:4], "big") >> (32 - SEED_BITS)
