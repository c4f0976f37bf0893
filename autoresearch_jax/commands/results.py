"""The table of a run's experiments, one line each, in the order they were tried.

autoresearch results --tag=nov20 --format=json
"""

import json
import sys
from contextlib import closing

from absl import flags

from autoresearch_jax.commands.run_flags import define_run_flags, run_folder
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.report.summary import experiments_as_json, stored_metric, summarize_run
from autoresearch_jax.report.tables import format_lines, print_experiments


def define_flags(flag_values: flags.FlagValues) -> None:
    define_run_flags(flag_values)
    flags.DEFINE_enum("format", "text", ["text", "json"], "how to print it", flag_values=flag_values)


def run(flag_values: flags.FlagValues, positional: list[str]) -> int:
    folder = run_folder(flag_values)
    with closing(Ledger.open_to_read(folder.ledger)) as ledger:
        figures = summarize_run(ledger, folder).lines()
        metric, at_work = stored_metric(ledger), folder.holder() is not None
        if flag_values.format == "json":
            experiments = experiments_as_json(ledger, folder, at_work=at_work)
            print(json.dumps({"summary": figures, "experiments": experiments}, indent=1))
            return 0
        print_experiments(ledger, metric, sys.stdout, at_work=at_work)
    if metric is not None:  # trials by hand have no baseline, and so no gain
        print()
        print(format_lines(figures))
    return 0
