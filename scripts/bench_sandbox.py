"""Measures what the sandbox costs; called by bench_sandbox.sh.

Each figure is the median of differences to a plain process that was run just before, in seconds:
  sandbox_startup_seconds_LEVEL      of a Python that does nothing (wanted: at most 0.3)
  sandbox_jax_import_seconds_LEVEL   of one that imports jax, the compiled standard library's archive included
  trial_process_seconds              of the process of a trial, confined, until it is ready, to one that is not (wanted:
                                     at most 0.1)
  trial_process_cpu_seconds          the same in processor time, the least of all to the least of all: other work on the
                                     machine bends it less
  trial_narrowing_seconds            not a difference: what it takes that process to confine itself to its own trial
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from autoresearch_jax.sandbox.linux import landlock_abi
from autoresearch_jax.sandbox.sandbox import Level, Sandbox, SandboxError, open_sandbox, remove_tree
from autoresearch_jax.tasks.lm import cage as trial_cage
from autoresearch_jax.tasks.lm.device import start_worker

TRIAL_PROCESSES = 15
READY_SECONDS = 120.0
NARROWING = """
import json, sys, time
from autoresearch_jax.sandbox.linux import restrict_files
files = json.load(sys.stdin)
start = time.perf_counter()
restrict_files(**files)
print(time.perf_counter() - start)
"""
PAYLOADS = {"startup": ("pass", 21), "jax_import": ("import jax, jax.numpy", 7)}


def seconds_of(action: Callable[[], None]) -> float:
    start = time.monotonic()
    action()
    return time.monotonic() - start


def differences(cages: list[Sandbox], code: str, repeats: int, folder: Path) -> dict[Level, list[float]]:
    """Seconds of `code` in each cage minus those of a plain process, `repeats` times in turn."""
    mounts = cages[0].mounts
    packages = ":".join(map(str, mounts.import_path[1:]))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": packages, "PYTHONDONTWRITEBYTECODE": "1"}

    def plain() -> None:
        subprocess.run([mounts.interpreter, "-P", "-s", "-S", "-c", code], env=environment, check=True)

    def caged(cage: Sandbox) -> None:
        scratch = folder / "scratch"
        scratch.mkdir()
        outcome = cage.run_python(["-c", code], scratch=scratch, environment=os.environ, log_path=folder / "log")
        remove_tree(scratch)
        if outcome.returncode != 0:
            sys.exit(f"bench_sandbox: {cage.level}: {(folder / 'log').read_text()}")

    found: dict[Level, list[float]] = {cage.level: [] for cage in cages}
    plain()
    for _ in range(repeats):
        for cage in cages:
            without = seconds_of(plain)
            found[cage.level].append(seconds_of(lambda cage=cage: caged(cage)) - without)
    return found


def process_seconds(folder: Path, reach: trial_cage.FileAccess | None) -> tuple[float, float]:
    """Seconds until the process of a trial is ready, by the wall clock and of processors."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with closing(
        start_worker("cpu", 1, folder / "log", environment=os.environ, compile_cache_dir=folder / "cache", reach=reach)
    ) as worker:
        worker.receive(READY_SECONDS)
        seconds = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def trial_figures(folder: Path, repeats: int) -> dict[str, float]:
    """What confinement costs the process of a trial."""
    reach = trial_cage.FileAccess(writable=(folder,))
    process_seconds(folder, None)
    confined: list[tuple[float, float]] = []
    free: list[tuple[float, float]] = []
    for number in range(repeats):
        for one in (confined, free) if number % 2 else (free, confined):
            one.append(process_seconds(folder, reach if one is confined else None))
    wall = statistics.median(with_walls[0] - without[0] for with_walls, without in zip(confined, free, strict=True))
    cpu = min(seconds for _, seconds in confined) - min(seconds for _, seconds in free)
    files = json.dumps(trial_cage.landlock("cpu", 1, os.environ, reach))
    command = [sys.executable, "-c", NARROWING]
    narrowing = [float(subprocess.check_output(command, input=files, text=True)) for _ in range(repeats)]
    return {
        "trial_process_seconds": wall,
        "trial_process_cpu_seconds": cpu,
        "trial_narrowing_seconds": statistics.median(narrowing),
    }


def main() -> int:
    cages = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for level in Level:
            try:
                cages.append(open_sandbox(level, cache_dir=folder, environment=os.environ))
            except SandboxError as error:
                print(error, file=sys.stderr)
        figures = {
            f"sandbox_{payload}_seconds_{level}": statistics.median(seconds)
            for payload, (code, repeats) in PAYLOADS.items()
            for level, seconds in differences(cages, code, repeats, folder).items()
        }
        if landlock_abi():
            figures |= trial_figures(folder, TRIAL_PROCESSES)
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}")
    print(f"python: {platform.python_version()}")
    for key, value in figures.items():
        print(f"{key}: {value:.3f}")
    return 0 if len(cages) == len(Level) and landlock_abi() else 1


if __name__ == "__main__":
    sys.exit(main())
