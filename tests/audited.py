"""Audits of a run with a fake task: tasks that trouble them, an observer, what the ledger has of them."""

import os
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace

from fakes import FakeTask, moved

from autoresearch_jax.assets.python_constants import read_constants
from autoresearch_jax.audit.audits import Audits
from autoresearch_jax.audit.findings import AuditFindings
from autoresearch_jax.engine.git import Git
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import AuditTrial
from autoresearch_jax.engine.stopping import Interrupts
from autoresearch_jax.types import (
    HOLDOUT_SCORE,
    Candidate,
    Measurement,
)

RUNS = 4
GAINS = (moved(LR=0.3), moved(DEPTH=6), moved(LR=0.1))  # 0.2, 0.1 and 0.2


class Silent:
    """An observer that counts."""

    def __init__(self) -> None:
        self.trials: list[tuple[str, int, int]] = []

    def prepares(self, subject: str) -> None:
        pass

    def measures(self, subject: str, number: int, total: int) -> None:
        self.trials.append((subject, number, total))

    def progress(self, report: Mapping) -> None:
        pass


class OverfittedTask(FakeTask):
    """The holdout knows nothing of what was gained on val."""

    def measure(self, candidate: Candidate, **settings) -> Measurement:
        found = super().measure(candidate, **settings)
        if HOLDOUT_SCORE not in found.metrics:
            return found
        gained = self.score({"LR": 0.5, "DEPTH": 4, "PATTERN": "SL"}) - self.score(constants_of(candidate))
        return replace(found, metrics={**found.metrics, HOLDOUT_SCORE: found.metrics[HOLDOUT_SCORE] + gained})


class TroubledTask(FakeTask):
    """Does something before its trials, by their number."""

    def __init__(self, trouble: Callable[[int, Candidate], Measurement | None]) -> None:
        super().__init__()
        self.trouble = trouble

    def measure(self, candidate: Candidate, **settings) -> Measurement:
        failed = self.trouble(len(self.measured), candidate)
        found = super().measure(candidate, **settings)
        return found if failed is None else failed


def constants_of(candidate: Candidate) -> dict:
    return read_constants(candidate.source)


def audits(bench, task: FakeTask, observer: Silent | None = None, ledger: Ledger | None = None) -> Audits:
    ledger = ledger or bench.ledger()
    return Audits(task, ledger, bench.folder, Interrupts(), observer or Silent())


def forget_audits(bench) -> None:
    """Leaves a run as it was before any audit."""
    with closing(sqlite3.connect(bench.folder.ledger)) as connection:
        connection.executescript("DELETE FROM trials WHERE audit IS NOT NULL")


def trials_of(ledger: Ledger, audit: int = 1) -> list[AuditTrial]:
    return [trial for trial in ledger.audit_trials() if trial.audit == audit]


def merge_in(bench) -> Callable[[str, str, str], str | None]:
    return Git(bench.folder.path, os.environ).merge


def by_name(findings: AuditFindings) -> dict[str, Mapping]:
    return {str(row.get("subject", row.get("experiment"))): row for row in findings.table}
