"""A task of milliseconds and a proposer of known proposals, for tests of the loop."""

import hashlib
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from autoresearch_jax.assets.base import AssetKind, AssetSyntaxError
from autoresearch_jax.assets.kinds import TRAINING_FILE
from autoresearch_jax.engine.observers import QuietObserver
from autoresearch_jax.proposers.base import Brief, Proposal, SpaceExhausted
from autoresearch_jax.sandbox.process import JsonWorker
from autoresearch_jax.snapshots.store import MANIFEST
from autoresearch_jax.types import (
    CURVE_POINTS,
    HOLDOUT_SCORE,
    LOSSES,
    STATE_BYTES,
    Budget,
    Candidate,
    CandidateRejected,
    LossLimit,
    Measurement,
    Metric,
    Scalar,
    Scrutiny,
    Status,
    write_curve,
)

SOURCE = '''"""A training file of three constants."""

LR = 0.5  # best at 0.1
DEPTH = 4  # best at 6
PATTERN = "SL"  # best as "SSSL"
FAULT = "none"
'''

PROGRAM = """# A page

## Goal

Lower the loss.

## You may change

| constant | values | note |
|---|---|---|
| `LR` | 0.01 .. 1 log | step size |
| DEPTH | 2 .. 8 | layers |
| PATTERN | SL, SSSL, L | windows |

## Stop when

- 8 experiments

## Ideas
"""

# A trial's process: it has a child in a session of its own, and answers after so many seconds.
WORKER = 'setsid sleep 600 & while read seconds; do sleep "$seconds"; echo "{}"; done'

SNAPSHOT_BYTES = 4096
SEARCH = Scrutiny.SEARCH

RESULTS_HEADER = "commit\tloss\tmemory_gb\tstatus\tdescription"


class FakeTask:
    """Scores constants by a formula with noise seeded by trial and program, after `trial_seconds`; so on the holdout.

    FAULT in the source makes it fail: "reject", "crash", "nonfinite", or "raise" for a failure of the task itself.
    """

    def __init__(
        self,
        trial_seconds: float = 0.0,
        fingerprint: str = "fake",
        noise: float = 0.001,
        has_worker: bool = False,
        snapshot_bytes: int = SNAPSHOT_BYTES,
        has_curves: bool = False,
        asset: AssetKind = TRAINING_FILE,
    ) -> None:
        self._has_curves = has_curves  # its trials have a loss, and stop above a limit
        self._snapshot_bytes = snapshot_bytes
        self._trial_seconds = trial_seconds
        self._has_worker = has_worker  # trials have a process of their own, as those of a real task
        self._noise = noise
        self.fingerprint = fingerprint
        self.metric = Metric("loss")
        self.budget = Budget(steps=1)
        self.facts: dict[str, Scalar] = {"device_kind": "a fake"}
        self.asset: AssetKind = asset
        self.told = ("step_flops", "peak_memory_bytes", "num_steps")
        self.contract = "A file of constants: LR, DEPTH, PATTERN and FAULT."
        self.terms: dict[str, Scalar] = {"device_kind": "a fake", "clock": "wall"}
        self.reference_seconds: float | None = None  # that a run would have to keep
        self.calibrated: list[float | None] = []  # what it was told that runs kept
        self.traced: list[tuple[str, bool]] = []  # the source, and whether it was traced beside a trial
        self.measured: list[tuple[str, int]] = []
        self.scrutinies: list[Scrutiny] = []  # one for each of `measured`
        self.loss_limits: list[Sequence[LossLimit]] = []  # one for each of `measured`
        self.references: list[Sequence[Path]] = []  # one for each of `measured`
        self.judged: list[Path] = []  # snapshots that were there before their trial
        self.closed = False

    def calibrate(self, reference_seconds: float | None, log_dir: Path) -> float | None:
        assert log_dir.is_dir()
        self.calibrated.append(reference_seconds)
        return self.reference_seconds if reference_seconds is None else reference_seconds

    def keep_eval_bundle(self, folder: Path) -> str:
        folder.mkdir(exist_ok=True)
        return "a hash"

    def prepare(self, source: str, log_dir: Path, *, beside_a_trial: bool = False) -> Candidate:
        assert log_dir.is_dir()
        self.traced.append((source, beside_a_trial))
        try:
            constants = self.constants(source)
        except AssetSyntaxError as error:
            raise CandidateRejected(Status.REJECTED, str(error), "details") from error
        if constants["FAULT"] == "reject":
            raise CandidateRejected(Status.REJECTED, "no build")
        program_hash = hashlib.sha256(repr(sorted(constants.items())).encode()).hexdigest()
        return Candidate(source, program_hash, facts={STATE_BYTES: self._snapshot_bytes})

    def constants(self, source: str) -> dict[str, Any]:
        """LR, DEPTH, PATTERN and FAULT of a text; tables that they stand in do not matter."""
        return {name.rpartition(".")[2].upper(): value for name, value in self.asset.constants(source).items()}

    def measure(
        self, candidate, *, seed, log_dir, snapshot_dir, on_progress=None, scrutiny=SEARCH, stop_above=(), **more
    ):
        """See `Task.measure`."""
        assert log_dir.is_dir()
        self.measured.append((candidate.program_hash, seed))
        self.scrutinies.append(scrutiny)
        self.loss_limits.append(stop_above)
        self.references.append(more.get("reference_log_dirs", ()))
        constants = self.constants(candidate.source)
        fault = constants["FAULT"]
        if fault == "raise":
            raise RuntimeError("the device is gone")
        if fault in ("crash", "nonfinite"):
            return Measurement(Status(fault), None, seed, error=f"made to {fault}")
        if on_progress is not None:
            on_progress({"step": 1, "budget_steps": 1, "loss": 1.0})
        drawn_by = f"{candidate.program_hash}{seed}"
        curve = self.curve(constants, drawn_by) if self._has_curves else []
        passed = [limit.point for limit in stop_above if curve and curve[limit.point - 1] > limit.loss]
        if passed and not snapshot_dir.exists():
            losses = write_curve(curve[: min(passed)])
            return Measurement(Status.PRUNED, None, seed, {LOSSES: losses}, error="above a limit")
        if snapshot_dir.exists():
            self.judged.append(snapshot_dir)
        else:
            self._train(log_dir)
            write_snapshot(snapshot_dir, self._snapshot_bytes)
        score = self.score(constants)
        metrics: dict[str, Scalar] = {"peak_memory_bytes": 2**30, "total_seconds": self._trial_seconds}
        if curve:
            metrics[LOSSES] = write_curve(curve)
        if scrutiny is Scrutiny.AUDIT:
            metrics[HOLDOUT_SCORE] = score + random.Random(f"holdout{drawn_by}").gauss(0, self._noise)
        return Measurement(
            Status.OK,
            score + random.Random(drawn_by).gauss(0, self._noise),
            seed,
            metrics=metrics,
            snapshot=snapshot_dir,
        )

    def measure_on_holdout(self, candidate: Candidate, **arguments: Any) -> Measurement:
        return self.measure(candidate, scrutiny=Scrutiny.AUDIT, **arguments)

    def curve(self, constants: dict, drawn_by: str) -> list[float]:
        """Losses that come down to the score, as far above those of another program as its score is."""
        noise = random.Random(f"losses{drawn_by}")
        score = self.score(constants)
        return [score + 2 * (1 - point / CURVE_POINTS) + noise.gauss(0, self._noise) for point in range(CURVE_POINTS)]

    def _train(self, log_dir: Path) -> None:
        if not self._has_worker:
            time.sleep(self._trial_seconds)
            return
        log = log_dir / "worker.log"
        worker = JsonWorker(["/bin/sh", "-c", WORKER], environment=os.environ, cwd=log_dir, log_path=log)
        try:
            worker.send(self._trial_seconds)
            worker.receive(60.0 + self._trial_seconds)
        finally:
            worker.close()

    @staticmethod
    def score(constants: dict) -> float:
        """What a program scores without noise; the lower the better."""
        learning = abs(float(constants["LR"]) - 0.1)
        return round(1.0 + learning + 0.05 * abs(constants["DEPTH"] - 6) + 0.1 * (constants["PATTERN"] != "SSSL"), 6)

    def close(self) -> None:
        self.closed = True


def write_snapshot(folder: Path, num_bytes: int) -> None:
    """Makes a folder of a file that no other training makes, whole or not at all."""
    partial = folder.with_name(f".{folder.name}.partial")
    partial.mkdir(exist_ok=True)
    (partial / "state").write_bytes(os.urandom(16).ljust(num_bytes, b"0")[:num_bytes])
    (partial / MANIFEST).write_text(folder.name)
    partial.rename(folder)


class ScriptedProposer:
    """Proposes what it was given, by the number of the experiment: a pure function of the brief, as it must be."""

    name = "scripted"

    def __init__(self, proposals: Sequence[Proposal], before: Callable[[Brief], None] | None = None) -> None:
        self._proposals = proposals
        self._before = before
        self.briefs: list[Brief] = []

    def propose(self, brief: Brief) -> Proposal:
        self.briefs.append(brief)
        if self._before is not None:
            self._before(brief)
        if brief.experiment > len(self._proposals):
            raise SpaceExhausted("the script is over")
        return self._proposals[brief.experiment - 1]

    def asks_ahead(self, brief: Brief) -> bool:
        return False

    def close(self) -> None:
        pass


class Silent(QuietObserver):
    """An observer that shows nothing."""


def moved(**constants: float | int | str) -> Proposal:
    """A proposal that sets constants."""
    return Proposal(", ".join(f"{name} {value}" for name, value in constants.items()), "constants", constants)
