"""The table of a run's experiments, one line each, in the order they were tried; and their chart.

autoresearch results                 # lists the runs of --run_dir, and shows the latest
autoresearch results --tag=nov20 --plot
autoresearch results --tag=nov20 --format=csv
"""

import codecs
import json
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TextIO

from autoresearch_jax.commands.console import PLAIN_TERMINALS, say, terminal_size
from autoresearch_jax.commands.folder_options import FolderOptions
from autoresearch_jax.commands.options import format_option, option
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import ExperimentRow, Kind
from autoresearch_jax.errors import UsageError
from autoresearch_jax.report.runs import format_runs, latest_run, list_runs, runs_as_csv
from autoresearch_jax.report.summary import JSON_FIELDS, experiments_as_json, stored_metric, summarize_run
from autoresearch_jax.report.tables import has_colours, print_csv, print_experiments, print_lines
from autoresearch_jax.report.terminal_chart import LEAST_COLUMNS, LEAST_LINES, draw_scores, scored
from autoresearch_jax.types import Metric


@dataclass(frozen=True)
class Options:
    """What `autoresearch results` was asked for."""

    where: FolderOptions
    plot: bool = option(False, "draw the scores in the terminal, too")
    format: str = format_option("csv")

    def __post_init__(self) -> None:
        if self.plot and self.format != "text":
            raise UsageError(f"--plot: is for people, --format={self.format} is not: leave one of them out")


def run(options: Options, arguments: list[str]) -> int:
    """Prints the table, the figures of the run, and the chart; without --tag the list of runs before them."""
    runs = [] if options.where.tag is not None else list_runs(options.where.require_runs())
    if runs and options.format == "csv":
        print_csv(*runs_as_csv(runs), sys.stdout)
        return 0
    folder = latest_run(runs).folder if runs else options.where.existing
    with closing(Ledger.open_to_read(folder.ledger)) as ledger, ledger.as_of_now():
        at_work = folder.holder() is not None
        if options.format == "csv":
            experiments = experiments_as_json(ledger, folder, at_work=at_work)
            print_csv(JSON_FIELDS, (tuple(row.values()) for row in experiments), sys.stdout)
            return 0
        figures, metric, rows = summarize_run(ledger, folder).lines(), stored_metric(ledger), ledger.experiments()
        if options.format == "json":
            experiments = experiments_as_json(ledger, folder, at_work=at_work)
            found = {"summary": figures, "experiments": experiments}
            print(json.dumps({"runs": [line.row() for line in runs], "latest": found} if runs else found, indent=1))
            return 0
        if runs:
            print(format_runs(runs), flush=True)
        print_experiments(ledger, metric, sys.stdout, at_work=at_work)
    if metric is not None:  # trials by hand have no baseline, and so no gain
        print()
        print_lines(figures, sys.stdout)
    if options.plot:
        print_chart([row for row in rows if metric is None or row.kind is not Kind.TRIAL], metric, sys.stdout)
    return 0


def print_chart(rows: Sequence[ExperimentRow], metric: Metric | None, stream: TextIO) -> None:
    """Draws the scores as large as the terminal is; where that cannot be, a line on standard error says why."""
    columns, lines = terminal_size(stream)
    if not stream.isatty() or os.environ.get("TERM") in PLAIN_TERMINALS:
        obstacle = "standard output is no terminal that can show it"
    elif codecs.lookup(stream.encoding).name != "utf-8":
        obstacle = f"the terminal has {stream.encoding}, the chart needs UTF-8 (LC_ALL=C.UTF-8)"
    elif columns < LEAST_COLUMNS or lines <= LEAST_LINES:
        obstacle = f"the terminal has {columns} x {lines} characters, {LEAST_COLUMNS} x {LEAST_LINES + 1} are needed"
    elif not scored(rows):
        obstacle = "no experiment has a score yet"
    else:
        stream.write(f"\n{draw_scores(rows, metric, columns, lines - 1, colours=has_colours(stream))}\n")
        return
    say(f"autoresearch results: --plot: {obstacle}", sys.stderr)
