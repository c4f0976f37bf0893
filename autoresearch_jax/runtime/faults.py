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
    """Moments between two steps that belong together; what a number after the colon means stands behind each."""

    AFTER_SESSION = "after_session"  # number of the session
    AFTER_PROPOSAL = "after_proposal"  # of the experiment, here and below
    AFTER_EXPERIMENT_INTENT = "after_experiment_intent"
    AFTER_TRACE = "after_trace"
    AFTER_PROGRAM = "after_program"
    AFTER_TRIAL_INTENT = "after_trial_intent"  # of the trial, here and below
    AFTER_MEASUREMENT = "after_measurement"
    AFTER_TRIAL_RESULT = "after_trial_result"
    AFTER_COMMIT = "after_commit"  # of the experiment, here and below
    AFTER_CONCLUSION = "after_conclusion"
    AFTER_WORKTREE = "after_worktree"
    AFTER_RESULTS = "after_results"
    BEFORE_SESSION_END = "before_session_end"  # of the session
    AFTER_REF = "after_ref"  # without a number, here and below
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


def reach(point: FaultPoint, number: int | None = None) -> None:
    """Dies here if that is what the variable says, and its driver with it, as a machine does that vanishes.

    Args:
      point: which one.
      number: of whatever is being done; without one in the variable, the first time that the point is reached counts.
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
    if name in set(FaultPoint) and (number.isdecimal() or not colon):
        return None
    return f"{VARIABLE}={wanted}: expected POINT or POINT:NUMBER, POINT one of {', '.join(FaultPoint)}"
