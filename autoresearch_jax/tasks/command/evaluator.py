"""The user's evaluator: told what to evaluate, it asks the asset and answers with the metric. Trusted, not confined."""

import json
import math
import re
import shlex
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoresearch_jax.files import write_whole
from autoresearch_jax.sandbox.confined import PYTHONS
from autoresearch_jax.sandbox.process import (
    CommandStopped,
    JsonWorker,
    ProcessTimeoutError,
    WorkerDiedError,
    describe_exit,
)
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.tasks.command.asset import AssetProcess
from autoresearch_jax.tasks.command.task_file import LINES, SOCKET, TaskFile
from autoresearch_jax.tasks.command.timebox import AssetFailed
from autoresearch_jax.types import CandidateUntouched, Scalar, Status

LOG = "evaluate.log"
LOOK_SECONDS = 0.05  # between two looks at an asset that the evaluator reaches by itself
END_SECONDS = 10.0  # for the evaluator's end after its last line
_MEAN_TOLERANCE = 1e-6
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]{0,80}(?=:|$)")  # at the beginning of a traceback's last line


class EvaluatorFailed(CandidateUntouched):
    """The evaluator failed, which alone says nothing of the candidate; the message names its command and what to do.

    Attributes:
      what: it did, in words that candidates may hear.
    """

    def __init__(self, message: str, what: str) -> None:
        super().__init__(message)
        self.what = what


@dataclass(frozen=True)
class Evaluation:
    """What the evaluator answered: the metric, scores of items, further numbers."""

    value: float
    items: tuple[float, ...] | None = None
    metrics: Mapping[str, Scalar] = field(default_factory=dict)


def evaluate(
    task: TaskFile,
    split: str,
    seed: int,
    turn: int = 0,
    *,
    files: Mapping[str, list[str]],
    environment: Mapping[str, str],
    log_dir: Path,
    asset: AssetProcess | None,
    out: Path | None,
    stop: threading.Event,
) -> Evaluation:
    """Runs the evaluator once.

    Args:
      task: what is evaluated.
      split: "val" or "holdout".
      seed: of the trial.
      turn: counts the evaluations of one service on a split, from 0, where the metric is a latency.
      files: absolute paths of each split's files.
      environment: all of the evaluator's variables.
      log_dir: for what it prints to standard error.
      asset: the service that it asks; None for an asset that was run.
      out: what an asset wrote that was run, else None.
      stop: set by another thread to end it.

    Raises:
      AssetFailed: the asset failed meanwhile, took too long, or its answers are no valid result.
      EvaluatorFailed: the evaluator did.
      CommandStopped: `stop` was set.
    """
    speaks = None if task.serve is None else task.serve.speaks
    words = list(task.evaluate.command)
    if words[0] in PYTHONS:
        words[0] = sys.executable
    log_path = log_dir / LOG
    order = {
        "split": split,
        "seed": seed,
        "turn": turn,
        "files": files[split],
        "socket": str(asset.socket) if asset is not None and speaks == SOCKET else None,
        "out": None if out is None else str(out),
    }
    try:
        worker = JsonWorker(words, environment=environment, cwd=task.folder, log_path=log_path)
    except OSError as error:
        raise _failed(task, f"cannot be run: {error.strerror}", log_path) from error
    session = _Session(task, worker, asset, speaks, log_path, stop)
    try:
        return _read_answer(task, session.converse(order), log_path)
    finally:
        worker.close()


class _Session:
    """One conversation with the evaluator."""

    def __init__(
        self,
        task: TaskFile,
        worker: JsonWorker,
        asset: AssetProcess | None,
        speaks: str | None,
        log_path: Path,
        stop: threading.Event,
    ) -> None:
        self._task, self._worker, self._asset, self._speaks = task, worker, asset, speaks
        self._log_path, self._stop = log_path, stop
        self._own_seconds = 0.0  # that the evaluator took itself

    def converse(self, order: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answers its questions until it ends; returns its last line."""
        by_socket = self._asset is not None and self._speaks == SOCKET
        if by_socket:
            assert self._asset is not None
            self._asset.box.begin()
        last: Mapping[str, Any] | None = None
        try:
            self._worker.send(order)
            while True:
                event = self._next()
                if set(event) == {"ask"} and self._asset is not None and self._speaks == LINES:
                    answer, seconds = self._asset.ask(event["ask"])
                    self._worker.send({"answer": answer, "seconds": seconds})
                else:
                    last = event
        except WorkerDiedError as error:
            if self._asset is not None:
                self._asset.require_alive()  # of whose end the evaluator may have ended
            if error.returncode != 0:
                code = error.returncode
                words = "does not end" if code is None else describe_exit(code)
                raise _failed(self._task, words, self._log_path, self._worker.last_words()) from error
        if by_socket:
            assert self._asset is not None
            self._asset.box.end()
        if last is None:
            raise _failed(self._task, "printed no JSON object as its last line", self._log_path)
        return last

    def _next(self) -> dict[str, Any]:
        began = time.monotonic()
        limit = self._task.budget.evaluate_seconds
        while True:
            try:
                event = self._worker.receive(LOOK_SECONDS)
            except ProcessTimeoutError:
                event = None
            if self._stop.is_set():
                raise CommandStopped("stopped")
            if self._asset is not None:
                if event is None:
                    self._asset.require_alive()
                if self._speaks == SOCKET:
                    self._asset.box.check()
            own = self._own_seconds + time.monotonic() - began
            if event is not None:
                self._own_seconds = own
                return event
            if own > limit:
                place = self._task.place("budget", "evaluate_seconds")
                raise _failed(
                    self._task, f"took longer than {limit:g} s: see evaluate_seconds, {place}", self._log_path
                )


def _read_answer(task: TaskFile, answer: Mapping[str, Any], log_path: Path) -> Evaluation:
    """Checks the evaluator's last line."""
    if "invalid" in answer:
        raise AssetFailed(Status.INVALID, f"the evaluator: {clean_line(str(answer['invalid']))}")
    name = task.metric.name
    place = task.place("metric", "name")
    if name not in answer:
        there = ", ".join(clean_line(str(key)) for key in answer) or "nothing"
        raise _failed(task, f"answered with no {name}, which {place} names, but with {there}", log_path)
    value = answer[name]
    if not _is_number(value):
        raise _failed(task, f"answered with {name} = {clean_line(json.dumps(value))}, which is no number", log_path)
    items = answer.get("items")
    if items is not None:
        if not (isinstance(items, list) and items and all(map(_is_number, items))):
            raise _failed(task, "answered with items that are no list of numbers", log_path)
        mean = math.fsum(items) / len(items)
        if abs(mean - value) > _MEAN_TOLERANCE * max(1.0, abs(value)):
            raise _failed(task, f"answered with {name} = {value:g}, and the mean of its items is {mean:g}", log_path)
    elif task.metric.noise == "items":
        raise _failed(
            task, f"answered with no items, which noise = 'items' ({task.place('metric', 'noise')}) needs", log_path
        )
    others = {key: number for key, number in answer.items() if key not in (name, "items") and _is_number(number)}
    return Evaluation(float(value), None if items is None else tuple(map(float, items)), others)


def require_as_many(task: TaskFile, count: int, kept: Path, log_dir: Path) -> None:
    """Refuses another number of items than in earlier trials of the task: they are compared in pairs.

    Args:
      count: of the items.
      kept: file in which the first trial's number is.
      log_dir: where the evaluator's log is.

    Raises:
      EvaluatorFailed: the number is another one.
    """
    before = int(kept.read_text(encoding="ascii")) if kept.exists() else None
    if before is None:
        write_whole(kept, str(count))
    elif before != count:
        what = f"answered with {count} items, and in an earlier trial with {before}: their number must not change"
        raise _failed(task, what, log_dir / LOG)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _failed(task: TaskFile, what: str, log_path: Path, said: str = "") -> EvaluatorFailed:
    """The failure; of what the evaluator said, which may be of the test items, agents get the exception's class."""
    command = shlex.join(task.evaluate.command)
    whole = f"{what}: {said}" if said else what
    kind = _EXCEPTION.match(said)
    return EvaluatorFailed(
        f"{task.place('evaluate', 'command')}: the evaluate command {command} {whole}; see {log_path}",
        f"{what}: {kind[0]}" if kind else what,
    )
