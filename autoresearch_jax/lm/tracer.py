"""Runs the trace of a candidate in a process of its own, and tells what became of it. Loads no JAX."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoresearch_jax.measurement import CandidateRejected, Status
from autoresearch_jax.runtime.process import ProcessTimeoutError, bare_environment, describe_exit, run_bounded

MAX_REASON_CHARACTERS = 500
MAX_LOG_BYTES = 4000  # of the trace's log that go with a rejection


def run_trace(
    request: Mapping[str, Any],
    out_dir: Path,
    *,
    environment: Mapping[str, str],
    log_path: Path,
    timeout_seconds: float,
) -> None:
    """Runs the candidate's Python, once, in a process that sees no data and no keys.

    Args:
      request: see `trace.py`; "source" lies in a folder of its own, which is the process's home.
      out_dir: an empty folder, for what the trace writes.
      environment: variables of this process, of which the trace gets an allow-listed few.
      log_path: for its output.
      timeout_seconds: after which it is killed with everything it started.

    Raises:
      CandidateRejected: there are no programs, and why.
    """
    home = Path(request["source"]).parent
    request_path = home / "request.json"
    request_path.write_text(json.dumps(request))
    bare = bare_environment(
        environment,
        HOME=str(home),
        JAX_PLATFORMS="cpu",
        XLA_FLAGS=f"--xla_force_host_platform_device_count={request['task']['num_devices']}",
    )
    argv = [sys.executable, "-m", "autoresearch_jax.lm.trace", str(request_path), str(out_dir)]
    try:
        returncode = run_bounded(argv, environment=bare, cwd=home, log_path=log_path, timeout_seconds=timeout_seconds)
    except ProcessTimeoutError as error:
        raise CandidateRejected(Status.TIMEOUT, f"the trace {error}", _tail(log_path)) from error
    if returncode != 0:
        raise _rejection(out_dir / "failure.json", returncode, log_path)
    if not (out_dir / "signature.json").exists():
        raise CandidateRejected(Status.CRASH, "the trace ended before it had written its programs", _tail(log_path))


def one_line(text: str) -> str:
    """A candidate's words as they may be printed and stored: neither lines nor half characters of its own making."""
    return " ".join(text.split())[:MAX_REASON_CHARACTERS].encode("utf-8", errors="replace").decode()


def _rejection(failure_path: Path, returncode: int, log_path: Path) -> CandidateRejected:
    """What the failed trace says of itself, which is the candidate's word: data, not truth."""
    try:
        failure = json.loads(failure_path.read_text())
        status = Status.CRASH if failure["kept_contract"] else Status.REJECTED
        return CandidateRejected(status, one_line(str(failure["reason"])), _tail(log_path))
    except (OSError, ValueError, KeyError, TypeError):
        return CandidateRejected(Status.CRASH, f"the trace {describe_exit(returncode)}", _tail(log_path))


def _tail(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - MAX_LOG_BYTES))
            return file.read(MAX_LOG_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return None
