"""Where a run stands: its champion, its gain, what it is at, and where its parts are; or why one experiment ended so.

autoresearch status --tag=nov20
autoresearch status --tag=nov20 --why=7
"""

import json
import sys
from contextlib import closing
from dataclasses import dataclass

from autoresearch_jax.commands.options import FolderOptions, format_option, option
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.workspace import BRANCH_PREFIX
from autoresearch_jax.report.summary import RunSummary, summarize_run
from autoresearch_jax.report.tables import format_lines
from autoresearch_jax.report.why import explain, print_explanation
from autoresearch_jax.types import Scalar


@dataclass(frozen=True)
class Options:
    """What `autoresearch status` was asked for."""

    where: FolderOptions
    why: int | None = option(None, "explain the decision on this experiment", least=0)
    format: str = format_option()


def run(options: Options, arguments: list[str]) -> int:
    """Prints the figures of the run, or why one experiment ended so."""
    folder = options.where.folder
    with closing(Ledger.open_to_read(folder.ledger)) as ledger:
        if options.why is not None:
            found = explain(ledger, options.why, at_work=folder.holder() is not None)
            if options.format == "json":
                print(json.dumps(found, indent=1))
            else:
                print_explanation(found, sys.stdout)
            return 0
        figures = describe(summarize_run(ledger, folder), folder)
    print(json.dumps(figures, indent=1) if options.format == "json" else format_lines(figures))
    return 0


def describe(summary: RunSummary, folder: RunFolder) -> dict[str, Scalar]:
    """All figures of `autoresearch status`, by name."""
    current = summary.current
    holder = folder.holder()
    return {
        "driver": holder or "none; `autoresearch run` with the same flags goes on",
        "ended": None if holder else summary.ended,
        "current": None if current is None else f"{current.id}: {current.hypothesis}",
        **summary.lines(),
        "branch": BRANCH_PREFIX + folder.path.name,
        "ledger": str(folder.ledger),
        "results": str(folder.results),
    }
