"""The process that runs a snapshot's programs for a command, confined as that of a trial. Loads no JAX."""

import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from autoresearch_jax.sandbox.process import JsonWorker, ProcessTimeoutError, WorkerDiedError
from autoresearch_jax.sandbox.sandbox import remove_tree, scratch_folder
from autoresearch_jax.sanitize import clean_block, clean_line
from autoresearch_jax.tasks.lm import cage
from autoresearch_jax.tasks.lm.config import SNAPSHOT_BEGINS
from autoresearch_jax.tasks.lm.device import start_worker
from autoresearch_jax.tasks.lm.integrity import SnapshotError, load_manifest
from autoresearch_jax.tasks.lm.trial import naming_variables
from autoresearch_jax.types import CandidateUntouched

STARTUP_SECONDS = 120.0
ANSWER_SECONDS = 24 * 3600.0  # a person who waits ends it sooner
BEFORE = "the process that runs the snapshot's programs"
LOG_FOLDER = "autoresearch-log-"  # what the names of the folders of their logs begin with


def ask_about_snapshot(
    operation: str,
    folder: Path,
    request: Mapping[str, Any],
    *,
    environment: Mapping[str, str],
    confined: bool,
    readable: Iterable[Path] = (),
) -> dict[str, Any]:
    """The answer of a new process to a request about a snapshot; if it fails, the end of its log goes to stderr.

    Args:
      operation: `config.SCORE_SNAPSHOT` or `config.SAMPLE`.
      folder: of the snapshot.
      request: what else the request holds.
      environment: variables of this process, of which it inherits an allow-listed part.
      confined: whether it can touch nothing of the user's but the snapshot and `readable`.
      readable: see `confined`; absolute paths.

    Raises:
      SnapshotError: the snapshot is missing or damaged, was made for other devices than are here, or the process
        failed.
      CandidateUntouched: the process failed before it had read anything of the snapshot.
    """
    manifest = load_manifest(folder)
    place = folder.absolute()
    if confined:
        cage.write_bytecode(environment)
    with scratch_folder(LOG_FOLDER, None, remove_tree) as log_folder:
        log_path = log_folder / "worker.log"
        worker = start_worker(
            manifest["platform"],
            math.prod(manifest["mesh"].values()),
            log_path,
            environment=environment,
            compile_cache_dir=None,
            reach=cage.FileAccess((place, *readable)) if confined else None,
        )
        try:
            with naming_variables(environment):
                _begin(worker, {"op": operation, "snapshot_dir": str(place), **request})
            answer = worker.receive(ANSWER_SECONDS)
        except (ProcessTimeoutError, WorkerDiedError) as error:
            answer = {"event": "failed", "reason": str(error)}
        finally:
            worker.close()
        if answer["event"] == "result":
            return answer
        reason = answer["reason"].replace(str(place), str(folder))
        if answer["event"] == "unusable":
            raise SnapshotError(reason)
        print(clean_block(log_path.read_text(errors="replace")), file=sys.stderr, flush=True)
        raise SnapshotError(f"{folder}: its programs cannot be run: {reason}")


def _begin(worker: JsonWorker, request: Mapping[str, Any]) -> None:
    """Sends the request, and waits until the process is about to read the snapshot; else raises CandidateUntouched."""
    try:
        worker.receive(STARTUP_SECONDS)  # "ready"
        worker.send(request)
        event = worker.receive(STARTUP_SECONDS)
    except (ProcessTimeoutError, WorkerDiedError) as error:
        words = worker.last_words()
        raise CandidateUntouched(f"{BEFORE}: {error}{words and f': {words}'}") from error
    if event["event"] != SNAPSHOT_BEGINS:
        raise CandidateUntouched(f"{BEFORE}: {clean_line(event['reason'])}")
