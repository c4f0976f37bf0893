"""The option --sandbox, the sandbox that it asks for, and what is said where something is not confined."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoresearch_jax.commands.options import InRun, option
from autoresearch_jax.sandbox.sandbox import (
    CHOICES,
    DOCTOR,
    NO_LANDLOCK,
    Level,
    Sandbox,
    SandboxError,
    open_sandbox,
    worker_level,
)

UNCONFINED = (
    "the edited file runs with limits but not confined: it can read this machine's files; "
    "`autoresearch doctor` says how to get a sandbox, --sandbox=require refuses to run without"
)
UNCONFINED_TRIALS = (
    "the edited file is confined while it is traced, but the processes that run its programs are not: {why}; "
    "`autoresearch doctor` says more, --sandbox=require refuses to run so"
)
UNCONFINED_SNAPSHOT = (
    "the process that runs the snapshot's programs is not confined: {why}; `autoresearch doctor` says more, "
    "--sandbox=require refuses to run so"
)


def sandbox_option() -> Any:
    """The option --sandbox."""
    return option(
        "auto",
        "what confines the edited file while it is traced, and the processes that run its programs: auto takes the "
        "best that works here, require the same but at least landlock, a name that one; `autoresearch doctor` tries "
        "them",
        choices=CHOICES,
        in_run=InRun.FREE,
    )


def find_sandbox(choice: str, environment: Mapping[str, str], cache_dir: Path) -> Sandbox:
    """The sandbox of a value of --sandbox.

    Raises:
      SandboxError: it cannot be had.
    """
    return open_sandbox(choice, cache_dir=cache_dir, environment=environment)


def confines_snapshots(choice: str) -> bool:
    """Whether, by a value of --sandbox, processes that run a snapshot's programs are confined; says so if not.

    Raises:
      SandboxError: they must be, and cannot.
    """
    if worker_level(choice) is not Level.LIMITS:
        return True
    if choice in ("require", Level.LANDLOCK):
        raise SandboxError(f"--sandbox={choice}: {NO_LANDLOCK}; {DOCTOR}")
    notice(UNCONFINED_SNAPSHOT.format(why=f"--sandbox={choice}" if choice == Level.LIMITS else NO_LANDLOCK))
    return False


def notice(text: str) -> None:
    """Tells the user on standard error."""
    print(f"autoresearch: {text}", file=sys.stderr, flush=True)
