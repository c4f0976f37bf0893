"""Measures what the sandbox costs; called by bench_sandbox.sh.

Each figure is the median of differences to a plain process that was run just before, in seconds:
  sandbox_startup_seconds_LEVEL      of a Python that does nothing (wanted: at most 0.3)
  sandbox_jax_import_seconds_LEVEL   of one that imports jax, the compiled standard library's archive included
"""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from autoresearch_jax.sandbox.sandbox import Level, Sandbox, SandboxError, open_sandbox, remove_tree

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
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}")
    print(f"python: {platform.python_version()}")
    for key, value in figures.items():
        print(f"{key}: {value:.3f}")
    return 0 if len(cages) == len(Level) else 1


if __name__ == "__main__":
    sys.exit(main())
