"""The result of a part of check_accelerator.py, on disk after each figure, and the report in Markdown. Loads no JAX."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoresearch_jax.files import write_json

OK, FAILED, LEFT_OUT = "ok", "failed", "left out"


class Result:
    """Figures, tables and findings of one part; what a part that is killed had by then is kept."""

    def __init__(self, path: Path) -> None:
        """Stores where it is written."""
        self._path = path
        self._value: dict[str, Any] = {"complete": False, "figures": {}, "tables": {}, "findings": []}

    def set(self, name: str, value: Any) -> None:
        """Enters a figure and prints it; None is one that could not be had, and left out."""
        if value is None:
            return
        if isinstance(value, float) and not math.isfinite(value):
            value = str(value)
        self._value["figures"][name] = value
        print(f"{name}: {value}", flush=True)
        self._write()

    def add_row(self, table: str, columns: Sequence[str], row: Sequence[Any]) -> None:
        """Adds a row to a table and prints it."""
        self._value["tables"].setdefault(table, {"columns": list(columns), "rows": []})["rows"].append(list(row))
        print("  ".join(map(str, row)), flush=True)
        self._write()

    def find(self, text: str) -> None:
        """Enters what is not as it should be, one line."""
        self._value["findings"].append(text)
        print(f"finding: {text}", flush=True)
        self._write()

    def complete(self) -> None:
        """The part is done."""
        self._value["complete"] = True
        self._write()

    def _write(self) -> None:
        write_json(self._path, self._value)


def last_json(text: str) -> dict[str, Any]:
    """The last line of a child's output that is JSON; libraries may print beside it.

    Raises:
      ValueError: there is none.
    """
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            return dict(json.loads(line))
    raise ValueError("the process printed no JSON")


def checked(value: Any) -> dict[str, Any]:
    """The value of a result's file.

    Raises:
      ValueError: it is not what `Result` writes.
    """
    kinds = {"complete": bool, "figures": dict, "tables": dict, "findings": list}
    if not isinstance(value, dict) or any(not isinstance(value.get(name), kind) for name, kind in kinds.items()):
        raise ValueError("it has other fields than a result")
    tables = value["tables"].values()
    if not all(isinstance(table, dict) and {"columns", "rows"} <= table.keys() for table in tables):
        raise ValueError("a table has no columns or no rows")
    return value


def as_markdown(report: Mapping[str, Any]) -> str:
    """The report of all parts: a line each, then what each found."""
    head = " · ".join(f"{name} {value}" for name, value in report["machine"].items() if value is not None)
    lines = [f"# Accelerator check: {report['platform']}", "", head, ""]
    lines += _table(
        ("part", "status", "seconds", "remark"),
        [(p["name"], p["status"], f"{p['seconds']:.0f}", p["remark"]) for p in report["parts"]],
    )
    for part in report["parts"]:
        if not (part["figures"] or part["tables"] or part["findings"] or part["last_lines"]):
            continue
        lines += ["", f"## {part['name']}", ""]
        lines += [f"- **{text}**" for text in part["findings"]]
        if part["findings"]:
            lines.append("")
        if part["figures"]:
            lines += _table(("figure", "value"), [(name, _shown(v)) for name, v in part["figures"].items()])
        for name, table in part["tables"].items():
            lines += ["", f"{name}:", "", *_table(table["columns"], table["rows"])]
        if part["last_lines"]:
            lines += ["", "The last lines:", "", *(f"    {line}" for line in part["last_lines"])]
    return "\n".join(lines) + "\n"


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in (columns, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], "|---" * len(columns) + "|", *lines[1:]]


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
