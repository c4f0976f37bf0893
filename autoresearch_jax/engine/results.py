"""results.tsv: one line an experiment, in the original's columns, made anew from the ledger."""

from pathlib import Path

from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import ExperimentRow, Kind, Verdict
from autoresearch_jax.engine.run_folder import write_whole
from autoresearch_jax.engine.sealed_rows import MadeOnce
from autoresearch_jax.types import SCORE_DECIMALS, Metric, Status

GIB = 2**30
COMMIT_DIGITS = 7
REFACTORING = "refactoring"
SIMPLIFICATION = "simplification"
KEEPS = (str(Verdict.KEEP), SIMPLIFICATION, REFACTORING)  # outcomes that became the tip of the branch


class Results:
    """The table of one ledger. What an experiment adds to it is put in words once, unless it changes."""

    def __init__(self, ledger: Ledger, metric: Metric) -> None:
        self._ledger = ledger
        self._metric = metric
        self._lines: MadeOnce[ExperimentRow, str] = MadeOnce(_line)

    def text(self) -> str:
        """What results.tsv says for the ledger as it is now. What was not measured is empty, never 0."""
        peaks = self._ledger.peak_memory_bytes()
        lines = ["\t".join(("commit", self._metric.name, "memory_gb", "status", "description"))]
        lines += [self._lines.of(row, peaks.get(row.id)) for row in self._ledger.experiments() if not row.is_open]
        return "\n".join(lines) + "\n"

    def write(self, path: Path) -> None:
        """Writes results.tsv, whole or not at all."""
        write_whole(path, self.text())


def results_text(ledger: Ledger, metric: Metric) -> str:
    """See `Results.text`."""
    return Results(ledger, metric).text()


def write_results(path: Path, ledger: Ledger, metric: Metric) -> None:
    """See `Results.write`."""
    Results(ledger, metric).write(path)


def _line(row: ExperimentRow, peak_memory: float | None) -> str:
    columns = (
        (row.commit or "")[:COMMIT_DIGITS],
        "" if row.score is None else f"{row.score:.{SCORE_DECIMALS}f}",
        "" if peak_memory is None else f"{peak_memory / GIB:.1f}",
        _status(row),
        " ".join(row.hypothesis.split()),
    )
    return "\t".join(columns)


RUNNING, INTERRUPTED = "running", "interrupted"


def outcome(row: ExperimentRow, *, at_work: bool = True) -> str:
    """One word for how an experiment ended: keep, discard, crash, duplicate, trial, ...

    Of one that is not over it says whether a driver is at work: "running", else "interrupted". What was kept for its
    shorter text alone is a "simplification", and if it is the champion's own program a "refactoring".
    """
    if row.status is None:
        return RUNNING if at_work else INTERRUPTED
    if row.status is Status.DUPLICATE and row.decision is Verdict.KEEP:
        return REFACTORING
    if row.status is not Status.OK:
        return str(row.status)
    if row.simplification:
        return SIMPLIFICATION
    if row.kind is Kind.TRIAL:
        return "trial"
    return str(row.decision)


def _status(row: ExperimentRow) -> str:
    """The outcome in the original's words: the tip of the branch is a keep, what was stopped early a discard."""
    word = outcome(row)
    if word == Status.PRUNED:
        return str(Verdict.DISCARD)
    return str(Verdict.KEEP) if word in KEEPS else word
