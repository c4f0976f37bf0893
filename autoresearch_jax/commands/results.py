"""The table of a run's experiments, one line each, in the order they were tried.

autoresearch results --tag=nov20 --format=json
"""

import json
import sys
from contextlib import closing
from dataclasses import dataclass

from autoresearch_jax.commands.options import FolderOptions, format_option
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.report.summary import experiments_as_json, stored_metric, summarize_run
from autoresearch_jax.report.tables import format_lines, print_experiments


@dataclass(frozen=True)
class Options:
    """What `autoresearch results` was asked for."""

    where: FolderOptions
    format: str = format_option()


def run(options: Options, arguments: list[str]) -> int:
    """Prints the table, and the figures of the run."""
    folder = options.where.folder
    with closing(Ledger.open_to_read(folder.ledger)) as ledger:
        figures = summarize_run(ledger, folder).lines()
        metric, at_work = stored_metric(ledger), folder.holder() is not None
        if options.format == "json":
            experiments = experiments_as_json(ledger, folder, at_work=at_work)
            print(json.dumps({"summary": figures, "experiments": experiments}, indent=1))
            return 0
        print_experiments(ledger, metric, sys.stdout, at_work=at_work)
    if metric is not None:  # trials by hand have no baseline, and so no gain
        print()
        print(format_lines(figures))
    return 0
