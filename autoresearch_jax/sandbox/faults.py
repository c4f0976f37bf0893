"""Points at which a process can be made to die, so that tests find out what a kill at the worst moment leaves behind.

    AUTORESEARCH_DIE_AT=after_trial_intent:12 autoresearch run ...

dies as by `kill -9` when it has written down that trial 12 is about to begin. Unlike all else below `commands/`
this reads the environment: so a point costs one line where it stands, in the processes that a driver starts, too.
"""

import contextlib
import enum
import os
import signal
from collections.abc import Mapping

VARIABLE = "AUTORESEARCH_DIE_AT"
_DRIVER = "AUTORESEARCH_DIE_WITH"  # pid of the driver, in the processes that it starts


class FaultPoint(enum.StrEnum):
    """Moments between two steps that belong together."""

    AFTER_PROPOSAL = "after_proposal"
    AFTER_EXPERIMENT_INTENT = "after_experiment_intent"
    AFTER_TRACE = "after_trace"
    AFTER_PROGRAM = "after_program"
    AFTER_TRIAL_INTENT = "after_trial_intent"
    AFTER_MEASUREMENT = "after_measurement"
    AFTER_TRIAL_RESULT = "after_trial_result"
    AFTER_COMMIT = "after_commit"
    AFTER_CONCLUSION = "after_conclusion"
    AFTER_WORKTREE = "after_worktree"
    AFTER_RESULTS = "after_results"
    AFTER_SESSION = "after_session"
    BEFORE_SESSION_END = "before_session_end"
    AFTER_REF = "after_ref"
    AFTER_SETTINGS = "after_settings"
    AFTER_EXAM = "after_exam"
    AFTER_EXPIRY = "after_expiry"
    AFTER_DELETION = "after_deletion"
    AFTER_COPY = "after_copy"  # of a snapshot to another place
    AFTER_MOVE = "after_move"
    BEFORE_SNAPSHOT_RENAME = "before_snapshot_rename"  # in the trial's process
    AFTER_SNAPSHOT_RENAME = "after_snapshot_rename"  # the same
    BEFORE_ANSWER = "before_answer"  # the same
    BEFORE_RENAME = "before_rename"  # of a file that is written whole, such as results.tsv


_EXPERIMENT, _TRIAL, _SESSION = "an experiment", "a trial", "a session"
# What a number after the colon is of; the other points take none.
NUMBERS = {
    FaultPoint.AFTER_PROPOSAL: _EXPERIMENT,
    FaultPoint.AFTER_EXPERIMENT_INTENT: _EXPERIMENT,
    FaultPoint.AFTER_TRACE: _EXPERIMENT,
    FaultPoint.AFTER_PROGRAM: _EXPERIMENT,
    FaultPoint.AFTER_TRIAL_INTENT: _TRIAL,
    FaultPoint.AFTER_MEASUREMENT: _TRIAL,
    FaultPoint.AFTER_TRIAL_RESULT: _TRIAL,
    FaultPoint.AFTER_COMMIT: _EXPERIMENT,
    FaultPoint.AFTER_CONCLUSION: _EXPERIMENT,
    FaultPoint.AFTER_WORKTREE: _EXPERIMENT,
    FaultPoint.AFTER_RESULTS: _EXPERIMENT,
    FaultPoint.AFTER_SESSION: _SESSION,
    FaultPoint.BEFORE_SESSION_END: _SESSION,
}


def reach(point: FaultPoint, number: int | None = None) -> None:
    """Dies here if that is what the variable says, and its driver with it, as a machine does that vanishes.

    Args:
      point: which one.
      number: see `NUMBERS`; without one in the variable, the first time that the point is reached counts.
    """
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    name, _, wanted_number = wanted.partition(":")
    if name == point and wanted_number in ("", str(number)):
        with contextlib.suppress(ValueError, ProcessLookupError):
            os.kill(int(os.environ.get(_DRIVER, "")), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


def variables_for_child(environment: Mapping[str, str]) -> dict[str, str]:
    """What a driver adds to the environment of a process that it starts, so that they die together."""
    return {_DRIVER: str(os.getpid())} if VARIABLE in environment else {}


def fault_in(wanted: str | None) -> str | None:
    """What is wrong with a value of the variable, in one line; None if nothing is."""
    if wanted is None:
        return None
    name, colon, number = wanted.partition(":")
    if name in set(FaultPoint) and (not colon or (number.isdecimal() and name in NUMBERS)):
        return None
    numbered = ", ".join(f"{point} (of {what})" for point, what in NUMBERS.items())
    others = ", ".join(point for point in FaultPoint if point not in NUMBERS)
    return f"{VARIABLE}={wanted}: expected POINT:NUMBER or POINT of {numbered}; or POINT of {others}"
