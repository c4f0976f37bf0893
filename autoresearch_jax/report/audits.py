"""What `autoresearch audit` prints: a table of what was measured, and the figures."""

import json

from autoresearch_jax.audit.findings import AuditFindings
from autoresearch_jax.report.tables import format_lines, format_table, rounded


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
