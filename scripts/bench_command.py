"""Measures what the loop adds to an experiment of `--task=command`; called by bench_command.sh.

The command sleeps for a second, the evaluator is a Python that prints a number. A run of the baseline alone is timed,
and one of as many experiments as asked for; of what the second took longer, a second for each further trial is the
command's.
  command_trials             further trials, of which an experiment may have several
  command_trial_seconds      median of a trial's total_seconds in the ledger, the command's own second included
  command_overhead_seconds   what an experiment took longer than its commands (wanted: at most 0.3)
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from bench_conditions import make_repository

from autoresearch_jax.engine.ledger import Ledger

COMMAND_SECONDS = 1.0
TASK = """\
[asset]
file = "settings.toml"
[metric]
name = "loss"
direction = "minimize"
[budget]
seconds = 30
[run]
command = ["sleep", "1"]
[evaluate]
command = ["python3", "evaluate.py"]
"""
EVALUATE = """\
import json
print(json.dumps({"loss": 1.0}))
"""
PAGE = """\
# A page

## Goal

Lower it.

## You may change

| constant | values |
|---|---|
| VALUE | 0 .. 1000 |
"""
RUN = ("run", "--task=command", "--proposer=constants", "--seed=0", "--certify_every=0")


def timed_run(repository: Path, tag: str, experiments: int) -> tuple[float, list[float]]:
    """Wall seconds of a run, and the total seconds of each of its trials."""
    began = time.monotonic()
    words = ["autoresearch", *RUN, f"--tag={tag}", f"--experiments={experiments}"]
    done = subprocess.run(words, cwd=repository, capture_output=True, text=True)
    seconds = time.monotonic() - began
    if done.returncode != 0:
        sys.exit(f"bench_command: {' '.join(words)}: exit status {done.returncode}: {done.stdout}{done.stderr}")
    with closing(Ledger.open_to_read(repository / "runs" / tag / "ledger.db")) as ledger:
        totals = [float(trial.metrics["total_seconds"] or 0) for trial in ledger.trials()]
    return seconds, totals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=int, default=20)
    experiments = parser.parse_args().experiments
    files = {"settings.toml": "VALUE = 500\n", "task.toml": TASK, "evaluate.py": EVALUATE, "program.md": PAGE}
    with tempfile.TemporaryDirectory() as scratch:
        repository = Path(scratch) / "repository"
        make_repository(repository, files)
        timed_run(repository, "warm", 0)
        start, baseline = timed_run(repository, "baseline", 0)
        seconds, totals = timed_run(repository, "search", experiments)
    further = totals[len(baseline) :]
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}")
    print(f"python: {platform.python_version()}")
    print(f"command_trials: {len(further)}")
    print(f"command_trial_seconds: {statistics.median(further):.2f}")
    print(f"command_overhead_seconds: {(seconds - start - COMMAND_SECONDS * len(further)) / experiments:.2f}")


if __name__ == "__main__":
    main()
