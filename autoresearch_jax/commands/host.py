"""Takes part in the trials of another host, which runs the loop, until its command ends.

    autoresearch host --coordinator_address=10.0.0.2:8483 --host_id=1

What host 0 runs with --num_hosts, and the same --coordinator_address and --host_id=0, trains on the devices of all
hosts. Under SLURM and on Cloud TPU start the same `autoresearch run` on all hosts instead, without these two flags.
This host needs the same version of this project and of JAX; no dataset, no program.md, no git.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoresearch_jax.commands.console import say
from autoresearch_jax.commands.machine_options import MeetingOptions, confines_snapshots, sandbox_option
from autoresearch_jax.commands.options import option
from autoresearch_jax.commands.paths import default_cache_dir
from autoresearch_jax.commands.task_options import TaskOptions
from autoresearch_jax.tasks.lm.host import serve
from autoresearch_jax.tasks.lm.hosts import Cluster

WAIT_SECONDS = 600.0


@dataclass(frozen=True)
class Options:
    """What `autoresearch host` was asked to do."""

    meeting: MeetingOptions = field(default_factory=MeetingOptions)
    compile_cache: str | None = option(
        None, "folder of XLA's compile cache; default: compiled in the folder of caches; empty for none", path=True
    )
    sandbox: str = sandbox_option()
    wait_seconds: float = option(
        WAIT_SECONDS, "give up after this long without an answer of host 0", above=0, hint="such as 600"
    )


def run(options: Options, arguments: Sequence[str]) -> int:
    """Serves until host 0's command ends."""
    cache = options.compile_cache
    cache_dir = default_cache_dir(os.environ) / "compiled" if cache is None else Path(cache) if cache else None
    return _serve(options.meeting.meeting(), cache_dir, options.sandbox, options.wait_seconds)


def serve_instead(options: Any) -> int | None:
    """On another host than the first, does the part of this one in what `options` ask for; None on the first."""
    task = getattr(options, "task", None)
    if not isinstance(task, TaskOptions):
        return None
    meeting = task.hosts.place(task.platform)
    if meeting is None or meeting.host_id == 0:
        return None
    return _serve(meeting, task.compile_cache_dir, task.sandbox, WAIT_SECONDS)


def _serve(meeting: Cluster, cache_dir: Path | None, sandbox: str, wait_seconds: float) -> int:
    serve(
        meeting.address,
        meeting.host_id,
        compile_cache_dir=cache_dir,
        confined=confines_snapshots(sandbox),
        wait_seconds=wait_seconds,
        say=lambda text: say(f"autoresearch host: {text}", sys.stderr),
    )
    return 0
