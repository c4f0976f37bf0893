"""Measures how soon the commands for an experiment by hand answer; called by bench_try.sh.

A run of the default training file has a baseline of two steps. Each figure is a median of the wall time of a process in
seconds, with its start; those of `try` end with a row in the ledger, but for the text that is no Python:
  try_duplicate_seconds      the champion with another comment (wanted: under 4)
  try_same_program_seconds   the champion with a function that nothing calls: traced, and then known
  try_untraceable_seconds    a name that is not defined: the trace fails (wanted: under 4)
  try_syntax_error_seconds   no Python
  check_seconds              the champion with a constant that nothing reads: traced, and then known
  brief_seconds              the page for agents
  NAME_cpu_seconds           the same in processor time, of the process and all that it starts
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench_conditions import make_repository

ROOT = Path(__file__).resolve().parent.parent
RUN = ("--tag=bench", f"--flagfile={ROOT / 'configs/cpu.flags'}", "--budget_steps=2", "--judge_tokens=4096")
BASELINE = ("--experiments=0", "--baseline_runs=2", "--min_steps=0")
TRY = ("try", "--tag=bench", "--hypothesis=measured by a benchmark")


def timed(repository: Path, words: Sequence[str], status: int) -> tuple[float, float]:
    """Wall and processor seconds of a command, which must end with that status."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(["autoresearch", *words], cwd=repository, capture_output=True, text=True)
    seconds = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != status:
        sys.exit(f"bench_try: {' '.join(words)}: exit status {done.returncode}: {done.stdout}{done.stderr}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        repository = Path(scratch) / "repository"
        make_repository(repository, {"program.md": (ROOT / "program.md").read_text()})
        training_file = repository / "train_lib.py"
        champion = training_file.read_text()
        timed(repository, ("run", *RUN, *BASELINE), 0)
        cases = {
            "try_duplicate": (TRY, "# note {}\n", 3),
            "try_same_program": (TRY, "\n\ndef unused_{}():\n    return 0\n", 3),
            "try_untraceable": (TRY, "\n\nUNKNOWN = not_defined_{}\n", 4),
            "try_syntax_error": (TRY, "\n\ndef (:  # {}\n", 4),
            "check": (("check", "--tag=bench"), "\n\nUNROLL = {}\n", 4),
            "brief": (("brief", "--tag=bench"), "", 0),
        }
        for number in range(repeats + 1):
            for name, (words, added, status) in cases.items():
                training_file.write_text(champion + added.format(number))
                one = timed(repository, words, status)
                if number:  # the first fills the page cache
                    found.setdefault(name, []).append(one)
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}")
    print(f"python: {platform.python_version()}")
    for name, pairs in found.items():
        wall, cpu = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{name}_seconds: {wall:.2f}")
        print(f"{name}_cpu_seconds: {cpu:.2f}")


if __name__ == "__main__":
    main()
