"""What the process of a trial notes on its way: the phases, each timed by itself, the figures, and how it ended."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

from autoresearch_jax.sanitize import quoted
from autoresearch_jax.tasks.lm.costs import TooCostlyError
from autoresearch_jax.tasks.lm.data.loader import BatchShapeError
from autoresearch_jax.tasks.lm.judge import Verdict, is_out_of_memory
from autoresearch_jax.tasks.lm.probes import InvalidCandidateError
from autoresearch_jax.types import Scalar, Status

Emit = Callable[[dict[str, Any]], None]


class TrialFailedError(Exception):
    """The candidate failed in a way that is a status, not a mistake of ours."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@contextmanager
def compiling() -> Iterator[None]:
    """Whatever JAX has against a program that it was not made to write is the candidate's fault."""
    try:
        yield
    except jax.errors.JaxRuntimeError:
        raise
    except Exception as error:
        reason = f"its programs cannot be compiled: {type(error).__name__}: {quoted(str(error))}"
        raise TrialFailedError(Status.CRASH, reason) from error


class Phases:
    """The way of a trial so far.

    Attributes:
      metrics: figures by name.
      snapshot: folder of the snapshot, once there is one.
      start: when the present phase began, in seconds of the monotonic clock.
    """

    def __init__(self, emit: Emit) -> None:
        """Stores who is told of each phase's beginning, and of progress in it."""
        self.emit = emit
        self.metrics: dict[str, Scalar] = {}
        self.snapshot: str | None = None
        self.start = time.monotonic()

    def enter(self, phase: str) -> None:
        """Begins a phase."""
        self.start = time.monotonic()
        self.emit({"event": "phase", "phase": phase})

    def leave(self, phase: str) -> None:
        """Notes how long the present phase has taken so far."""
        self.metrics[f"{phase.replace(' ', '_')}_seconds"] = time.monotonic() - self.start

    def answer(self, run: Callable[[], Verdict]) -> dict[str, Any]:
        """Runs a trial to its verdict, or to what the candidate did wrong.

        Returns:
          {"status", "value", "error", "snapshot", "metrics"}, as `Measurement` has them.
        """
        try:
            verdict = run()
        except TrialFailedError as error:
            return self._answer(error.status, None, str(error))
        except InvalidCandidateError as error:
            return self._answer(Status.INVALID, None, str(error))
        except (BatchShapeError, TooCostlyError) as error:
            return self._answer(Status.REJECTED, None, str(error))
        except jax.errors.JaxRuntimeError as error:  # it may quote names of the candidate's
            reason = quoted(next(iter(str(error).splitlines()), ""))
            return self._answer(Status.OOM if is_out_of_memory(error) else Status.CRASH, None, f"XLA says: {reason}")
        return self._answer(Status.OK, verdict.bpb, None)

    def _answer(self, status: Status, value: float | None, error: str | None) -> dict[str, Any]:
        return {
            "status": str(status),
            "value": value,
            "error": error,
            "snapshot": self.snapshot,
            "metrics": self.metrics,
        }
