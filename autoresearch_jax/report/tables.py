"""What commands print: a table of experiments, the findings of an audit, and `key: value` lines."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO, cast

from autoresearch_jax.audit.findings import AuditFindings
from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import plus_minus
from autoresearch_jax.engine.certifying import Word, certificates
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.recorder import KEEPS, RUNNING, outcome
from autoresearch_jax.engine.records import ExperimentRow, Kind
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.types import SCORE_DECIMALS, Metric, Scalar, Status

WIDE = 120  # columns of a terminal that has room for a column of reasons
WIDEST = 60  # characters that a column of plain text is aligned to; longer cells are whole all the same
NUMBERS = 0, 2, 3  # columns of the table of experiments
KEY_WIDTH = 20  # and a space, after longer ones, too
GAP = "  "  # between columns of plain text
STYLES = {
    **dict.fromkeys((*KEEPS, str(Word.CERTIFIED)), "green"),
    **dict.fromkeys(("discard", str(Word.REVERTED), str(Status.PRUNED)), "dim"),
    RUNNING: "cyan",
}
FAILURE_STYLE = "yellow"


def style_of(outcome: str) -> str:
    """The colour of an outcome, as rich calls it."""
    return STYLES.get(outcome, FAILURE_STYLE)


def has_colours(stream: TextIO) -> bool:
    """Whether a stream is a terminal with colours, and the user wants them (NO_COLOR)."""
    if not stream.isatty():
        return False
    from rich.console import Console

    console = Console(file=stream)
    return console.color_system is not None and not console.no_color


@dataclass(frozen=True)
class _Line:
    """An experiment as the table shows it; of one that `failed` the reason is what there is to say."""

    number: str
    outcome: str
    score: str
    seconds: str
    proposer: str
    category: str
    hypothesis: str
    reason: str
    failed: bool


def print_experiments(ledger: Ledger, metric: Metric | None, stream: TextIO, *, at_work: bool = False) -> None:
    """Prints a line an experiment: number, outcome, score, seconds, proposer, category, hypothesis, reason.

    A kept edit shows by now as certified or reverted; a score that is an estimate has its standard deviation. On a
    terminal there are colours, and the reason for the decision on something measured is cut to fit.

    Args:
      metric: names the scores; None in a ledger of single trials.
      at_work: whether a driver is, so that what is not over is running.
    """
    name, lines = "score" if metric is None else metric.name, _lines(ledger, at_work)
    if stream.isatty():
        _print_table(name, lines, stream)
        return
    rows = [("experiment", "outcome", name, "seconds", "proposer", "category", "hypothesis", "reason")]
    rows += [(n.number, n.outcome, n.score, n.seconds, n.proposer, n.category, n.hypothesis, n.reason) for n in lines]
    widths = [min(max(map(len, column)), WIDEST) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (
            cell.rjust(width) if index in NUMBERS else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        stream.write(GAP.join(padded).rstrip() + "\n")


def _lines(ledger: Ledger, at_work: bool) -> list[_Line]:
    found, certified = [], certificates(ledger)
    for row in ledger.experiments():
        word = outcome(row, at_work=at_work)
        if row.id in certified and certified[row.id].word is not Word.KEPT:
            word = certified[row.id].word
        line = _Line(
            number=str(row.id),
            outcome=word,
            score="" if row.score is None else plus_minus(Estimate(row.score, row.error or 0.0)),
            seconds="" if row.seconds is None else f"{row.seconds:.1f}",
            proposer=clean_line(row.proposer),
            # "no proposal" says so twice, and of a trial by hand it is the dataset's hash
            category="" if row.kind is Kind.TRIAL or row.category == row.hypothesis else clean_line(row.category),
            hypothesis=clean_line(row.hypothesis),
            reason=clean_line(row.reason or ""),
            failed=row.score is None and not row.is_open,
        )
        found.append(line)
    return found


def _print_table(score: str, lines: Sequence[_Line], stream: TextIO) -> None:
    """The table on a terminal; on a narrow one proposer, category and reason stand below the hypothesis."""
    from rich.console import Console, Group
    from rich.table import Table
    from rich.text import Text

    console = Console(file=stream, highlight=False)
    is_wide = console.width >= WIDE
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, side in (("#", "right"), ("outcome", "left"), (score, "right"), ("seconds", "right")):
        table.add_column(name, justify=cast(Any, side), no_wrap=True)
    if is_wide:
        table.add_column("proposer", no_wrap=True)
        table.add_column("category", overflow="fold")
    table.add_column("hypothesis", overflow="fold")
    if is_wide:
        table.add_column("reason", overflow="fold")
    for line in lines:
        cells = line.number, Text(line.outcome, style_of(line.outcome)), line.score, line.seconds
        words = line.reason if line.failed else _without_scores(line.reason, score)
        if not is_wide and (author := ", ".join(filter(None, dict.fromkeys((line.proposer, line.category))))):
            words = f"{author}: {words}"
        reason = Text(words, "dim")
        if not line.failed:
            reason.no_wrap, reason.overflow = True, "ellipsis"
        if is_wide:
            table.add_row(*cells, Text(line.proposer), Text(line.category), Text(line.hypothesis), reason)
        else:
            table.add_row(*cells, Group(Text(line.hypothesis), *([reason] if line.reason else [])))
    console.print(table)


def _without_scores(reason: str, name: str) -> str:
    """The reason for a decision without the scores that it begins with, since they stand in the table."""
    parts = reason.split(", ", 2)  # the candidate's, the champion's, what follows from them
    return parts[2] if reason.startswith(f"{name} ") and len(parts) == 3 else reason


def format_findings(findings: AuditFindings, format: str) -> str:
    """Findings as text, with figures rounded, or as one JSON object with all digits; what is missing is null."""
    if format == "json":
        return json.dumps({**findings.figures, findings.table_name: list(findings.table)}, indent=1)
    figures = {
        name: value
        for name, value in findings.figures.items()
        if value is not None or not name.startswith(("first_failure", "budget_"))
    }
    lines = format_lines({name: rounded(value) for name, value in figures.items()})
    return f"{format_table(findings.table)}\n\n{lines}"


def format_table(rows: Sequence[Mapping[str, Scalar]]) -> str:
    """Rows with equal columns as aligned text: numbers to the right, and what is missing left empty."""
    names = list(rows[0])
    cells = [[_cell(row[name]) for name in names] for row in rows]
    is_number = [not any(isinstance(row[name], str) for row in rows) for name in names]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    return "\n".join(
        GAP.join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_number, strict=True)
        ).rstrip()
        for line in [names, *cells]
    )


def _cell(value: Scalar) -> str:
    return "" if value is None else str(rounded(value))


def rounded(value: Scalar) -> Scalar:
    """A real number with as many decimals as scores have; anything else as it is."""
    return f"{value:.{SCORE_DECIMALS}f}" if isinstance(value, float) else value


def format_lines(figures: Mapping[str, Scalar]) -> str:
    """`key: value` lines, one a figure; what is missing is "null"."""
    return "\n".join(f"{key + ':':<{KEY_WIDTH}} {'null' if value is None else value}" for key, value in figures.items())


def print_lines(figures: Mapping[str, Scalar], stream: TextIO) -> None:
    """Prints `format_lines`; in colours on a terminal."""
    if not stream.isatty():
        stream.write(format_lines(figures) + "\n")
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, highlight=False)
    for name, value in figures.items():
        key, words = f"{name + ':':<{KEY_WIDTH}} ", "null" if value is None else str(value)
        style = "dim" if value is None else _style_of_figure(name, words)
        console.print(Text.assemble((key, "dim"), (words, style)), soft_wrap=True)


def _style_of_figure(name: str, value: str) -> str:
    if name.startswith("champion_") or name in ("gain", "gain_percent", "gain_sigma"):
        return "bold"
    if name.endswith("outcome"):
        return style_of(value)
    if name == "driver":
        return "green" if value.startswith("pid") else FAILURE_STYLE
    return FAILURE_STYLE if name in ("waiting", "service_down") else ""


def print_csv(names: Sequence[str], rows: Iterable[Sequence[object]], stream: TextIO) -> None:
    """Prints rows as CSV under one header; what is missing is empty, lists and objects are JSON.

    Texts are as they are, also one that a spreadsheet takes for a formula.
    """
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([json.dumps(v) if isinstance(v, list | dict) else v for v in row] for row in rows)


def format_experiment(row: ExperimentRow) -> str:
    """An experiment that is over, on one line."""
    score = "-" if row.score is None else plus_minus(Estimate(row.score, row.error or 0.0))
    why = "" if outcome(row) in ("keep", "simplification", "discard") else f"  ({row.reason})"
    return f"{row.id:>4}  {outcome(row):<14} {score:>18}  {row.seconds or 0.0:>6.1f} s  {row.hypothesis}{why}"
