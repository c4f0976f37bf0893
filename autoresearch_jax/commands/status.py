"""Where a run stands: its champion, its gain, what it is at, and where its parts are; or why one experiment ended so.

autoresearch status --tag=nov20
autoresearch status --tag=nov20 --why=7
"""

import json
import sys
from contextlib import closing

from absl import flags

from autoresearch_jax.commands.run_flags import define_run_flags, run_folder
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.workspace import BRANCH_PREFIX
from autoresearch_jax.report.summary import RunSummary, summarize_run
from autoresearch_jax.report.tables import format_lines
from autoresearch_jax.report.why import explain, print_explanation
from autoresearch_jax.types import Scalar


def define_flags(flag_values: flags.FlagValues) -> None:
    define_run_flags(flag_values)
    flags.DEFINE_integer(
        "why",
        None,
        "explain the decision on this experiment",
        lower_bound=0,
        flag_values=flag_values,
    )
    flags.DEFINE_enum("format", "text", ["text", "json"], "how to print it", flag_values=flag_values)


def run(flag_values: flags.FlagValues, positional: list[str]) -> int:
    folder = run_folder(flag_values)
    with closing(Ledger.open_to_read(folder.ledger)) as ledger:
        if flag_values.why is not None:
            found = explain(ledger, flag_values.why, at_work=folder.holder() is not None)
            if flag_values.format == "json":
                print(json.dumps(found, indent=1))
            else:
                print_explanation(found, sys.stdout)
            return 0
        figures = describe(summarize_run(ledger, folder), folder)
    print(json.dumps(figures, indent=1) if flag_values.format == "json" else format_lines(figures))
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
