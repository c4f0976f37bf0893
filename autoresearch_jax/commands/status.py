"""Where a run stands: its champion, its gain, what it is at, and where its parts are; or one experiment.

autoresearch status                  # lists the runs of --run_dir, and shows the latest
autoresearch status --tag=nov20      # a run, or the lineages of `run --lineages`
autoresearch status --tag=nov20 --why=7
autoresearch status --tag=nov20 --diff=7 | git apply
"""

import json
import sys
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from autoresearch_jax.commands.folder_options import SAME_COMMAND, FolderOptions
from autoresearch_jax.commands.lineages import describe_lineages, print_lineages
from autoresearch_jax.commands.options import format_option, option
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.live import Running, Waiting, read_live
from autoresearch_jax.engine.recorder import outcome
from autoresearch_jax.engine.run_folder import Lineages, RunFolder
from autoresearch_jax.engine.state import ENDS, FLAGS
from autoresearch_jax.engine.workspace import BRANCH_PREFIX
from autoresearch_jax.errors import UsageError, UserError
from autoresearch_jax.report.diffs import unified
from autoresearch_jax.report.progress import share_of_budget
from autoresearch_jax.report.runs import format_runs, latest_run, list_runs, runs_as_csv
from autoresearch_jax.report.summary import summarize_run
from autoresearch_jax.report.tables import print_csv, print_lines
from autoresearch_jax.report.why import explain, print_explanation
from autoresearch_jax.sanitize import clean_block, clean_line
from autoresearch_jax.types import Scalar


@dataclass(frozen=True)
class Options:
    """What `autoresearch status` was asked for."""

    where: FolderOptions
    why: int | None = option(None, "explain the decision on this experiment", least=0)
    diff: int | None = option(None, "print what this experiment changed, as a unified diff", least=0)
    format: str = format_option("csv")

    def __post_init__(self) -> None:
        if self.why is not None and self.diff is not None:
            raise UsageError("--why and --diff: one of them at a time")
        for flag, value, what in (("why", self.why, "an explanation"), ("diff", self.diff, "a diff")):
            if value is not None and self.format == "csv":
                raise UsageError(f"--format=csv: {what} is no table: use --format=json with --{flag}")


def run(options: Options, arguments: list[str]) -> int:
    """Prints the figures of the run, or about one experiment; without --tag the list of runs, too."""
    is_of_all = options.where.tag is not None and options.why is options.diff is None
    if is_of_all and (lineages := Lineages.read(options.where.folder)) is not None:
        return tell_lineages(lineages, options.format)
    runs = [] if options.where.tag is not None else list_runs(options.where.require_runs())
    folder = latest_run(runs).folder if runs else options.where.existing
    with closing(Ledger.open_to_read(folder.ledger)) as ledger, ledger.as_of_now():
        if options.why is not None:
            found = explain(ledger, options.why, at_work=folder.holder() is not None)
            if options.format == "json":
                print(json.dumps(found, indent=1))
            else:
                print_explanation(found, sys.stdout)
            return 0
        if options.diff is not None:
            changed = describe_change(ledger, options.diff)
            if options.format == "json":
                print(json.dumps(changed, indent=1))
            else:  # as it is, unless a terminal would obey what stands in it
                text = str(changed["diff"])
                print(clean_block(text, sys.maxsize) if sys.stdout.isatty() else text)
            return 0
        figures = describe(ledger, folder)
    if options.format == "json":
        print(json.dumps({"runs": [line.row() for line in runs], "latest": figures} if runs else figures, indent=1))
    elif options.format == "csv":
        names, rows = runs_as_csv(runs) if runs else (("name", "value"), list(figures.items()))
        print_csv(names, rows, sys.stdout)
    else:
        if runs:
            print(format_runs(runs))
        print_lines(figures, sys.stdout)
    return 0


def tell_lineages(lineages: Lineages, format: str) -> int:
    """Prints a line for each of several lineages, and which is the best."""
    lines, figures = describe_lineages(lineages)
    if format == "json":
        print(json.dumps({"runs": [line.row() for line in lines], **figures}, indent=1))
    elif format == "csv":
        print_csv(*(runs_as_csv(lines) if lines else (("name", "value"), list(figures.items()))), sys.stdout)
    else:
        print_lineages(lineages, sys.stdout)
    return 0


def describe_change(ledger: Ledger, number: int) -> dict[str, Scalar]:
    """What an experiment changed of the experiment that it is made from, by name.

    Raises:
      LedgerError: there is none of that number.
      UserError: it is made from none.
    """
    row, name = ledger.experiment(number), str(ledger.settings().get("editable", "train_lib.py"))
    if row.parent is None:
        raise UserError(f"--diff={number}: a {row.kind} is made from no other experiment, so it changed nothing")
    diff = unified(ledger.source(row.parent), ledger.source(number), name)
    return {"experiment": number, "made_from": row.parent, "hypothesis": clean_line(row.hypothesis), "diff": diff}


def describe(ledger: Ledger, folder: RunFolder) -> dict[str, Scalar]:
    """All figures of `autoresearch status`, by name."""
    summary, holder, settings = summarize_run(ledger, folder), folder.holder(), ledger.settings()
    current, last = summary.current, summary.last
    live = read_live(folder) if holder else None
    has_champion = summary.champion is not None
    how = "`autoresearch run` with this --tag" if has_champion else SAME_COMMAND
    reasons = {row.id: decisions[-1].reason for row in current if (decisions := ledger.decisions(row.id))}
    return {
        "driver": holder or f"none; {how} goes on",
        "ended": None if holder else summary.ended,
        "ends": settings.get(ENDS),
        "waiting": None if live is None else _describe_wait(live.waiting),
        "service_down": None if live is None else _describe_wait(live.down),
        "current": "; ".join(f"{row.id}: {clean_line(row.hypothesis)}" for row in current) or None,
        "current_proposer": ", ".join(dict.fromkeys(row.proposer for row in current if row.proposer)) or None,
        "current_reason": "; ".join(reasons.values() if len(current) == 1 else map(_joined, reasons.items())) or None,
        **({} if live is None or len(live.trials) < 2 else {"running": "; ".join(map(_describe_trial, live.trials))}),
        "last": None if last is None else f"{last.id}: {clean_line(last.hypothesis)}",
        "last_outcome": None if last is None else outcome(last),
        "last_proposer": None if last is None else last.proposer or None,
        "last_reason": None if last is None else last.reason,
        **summary.lines(),
        "flags": None if FLAGS not in settings else clean_line(str(settings[FLAGS])),
        **({"branch": BRANCH_PREFIX + folder.path.name} if has_champion else {}),  # there is none before
        "ledger": str(folder.ledger),
        "results": str(folder.results),
    }


def _joined(pair: tuple[int, str]) -> str:
    number, reason = pair
    return f"{number}: {reason}"


def _describe_trial(running: Running) -> str:
    share = share_of_budget(running.report)
    return f"{running.experiment}: {running.doing}" + ("" if share is None else f" {share:.0%}")


def _describe_wait(waiting: Waiting | None) -> str | None:
    if waiting is None:
        return None
    since, again_at = (
        datetime.fromtimestamp(at).astimezone().isoformat(timespec="seconds")
        for at in (waiting.since, waiting.again_at)
    )
    return f"{waiting.what}; since {since}, tried again at {again_at}"
