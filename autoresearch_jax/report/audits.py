"""What `autoresearch audit` prints: a table of what was measured, and the figures."""

import json
from collections.abc import Mapping, Sequence

from autoresearch_jax.measurement import Scalar
from autoresearch_jax.report.summary import SCORE_DECIMALS
from autoresearch_jax.report.tables import format_lines
from autoresearch_jax.search.audit_findings import Findings

GAP = "  "


def format_findings(findings: Findings, format: str) -> str:
    """Findings as text, with figures rounded, or as one JSON object with all digits; what is missing is null."""
    if format == "json":
        return json.dumps({**findings.figures, findings.table_name: list(findings.table)}, indent=1)
    figures = {
        name: value
        for name, value in findings.figures.items()
        if value is not None or not name.startswith(("first_failure", "budget_"))
    }
    lines = format_lines({name: _rounded(value) for name, value in figures.items()})
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
    return "" if value is None else str(_rounded(value))


def _rounded(value: Scalar) -> Scalar:
    return f"{value:.{SCORE_DECIMALS}f}" if isinstance(value, float) else value
