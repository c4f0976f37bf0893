"""Draws the progress of a run as an SVG file: the score of each experiment, and what was kept.

    .venv/bin/python scripts/make_progress_svg.py runs/tonight docs/progress.svg --caption='60 s a trial, 2 CPU cores'

All values come from `autoresearch results --format=json` on the run's folder.
"""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 960, 400
LEFT, RIGHT, TOP, BOTTOM = 80, 30, 60, 60  # margins of the plot area
MAX_LABEL = 70  # characters of a hypothesis
GREEN, GREY, INK, GRID = "#1a7f37", "#8c959f", "#1f2328", "#d0d7de"
KEPT = ("keep", "simplification", "refactoring")

Experiment = dict[str, Any]


def main() -> int:
    """Reads a run and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("output", type=Path)
    parser.add_argument("--caption", default="", help="how the run was made")
    arguments = parser.parse_args()
    found = read_results(arguments.run)
    arguments.output.write_text(draw(found["summary"], found["experiments"], arguments.caption), encoding="utf-8")
    return 0


def read_results(run: Path) -> dict[str, Any]:
    """What `autoresearch results --format=json` says of a run's folder."""
    words = [f"--run_dir={run.resolve().parent}", f"--tag={run.resolve().name}", "--format=json"]
    command = [sys.executable, "-m", "autoresearch_jax.cli", "results", *words]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def draw(summary: dict[str, Any], experiments: Sequence[Experiment], caption: str) -> str:
    """The picture. Scores below are better; a kept program has its estimated score and its standard deviation."""
    metric = next(name.removeprefix("baseline_") for name in summary if name.startswith("baseline_"))
    scored = [row for row in experiments if row["score"] is not None]
    kept = [row for row in scored if row["outcome"] in KEPT]
    low, high, step = axis([row["score"] for row in scored])
    last = max(1, experiments[-1]["experiment"])

    def x(number: float) -> float:
        return LEFT + (number + 0.5) / (last + 1) * (WIDTH - LEFT - RIGHT)

    def y(score: float) -> float:
        return TOP + (high - score) / (high - low) * (HEIGHT - TOP - BOTTOM)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        text(LEFT, 24, f"{summary['experiments']} experiments, {len(kept) - 1} kept: {metric} {gain(summary, metric)}"),
        text(LEFT, 44, caption, color=GREY),
    ]
    for index in range(round((high - low) / step) + 1):
        score = low + index * step
        lines.append(f'<path d="M{LEFT} {y(score):.1f}H{WIDTH - RIGHT}" stroke="{GRID}"/>')
        lines.append(text(LEFT - 8, y(score) + 4, f"{score:.{max(0, -math.floor(math.log10(step)))}f}", anchor="end"))
    spacing = max(1, math.ceil((last + 1) / 25))
    for number in range(0, last + 1, spacing):
        lines.append(text(x(number), HEIGHT - BOTTOM + 20, str(number), anchor="middle"))
    lines.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, "experiment", anchor="middle", color=GREY))
    lines.append(text(WIDTH - RIGHT, 24, "● kept, with its standard deviation", anchor="end", color=GREEN))
    lines.append(text(WIDTH - RIGHT, 44, "○ discarded", anchor="end", color=GREY))
    path = f"M{x(kept[0]['experiment']):.1f} {y(kept[0]['score']):.1f}"
    for row in kept[1:]:
        path += f"H{x(row['experiment']):.1f}V{y(row['score']):.1f}"
    lines.append(f'<path d="{path}H{x(last):.1f}" fill="none" stroke="{GREEN}" stroke-width="2"/>')
    for row in scored:
        place = f'cx="{x(row["experiment"]):.1f}" cy="{y(row["score"]):.1f}"'
        label = f"<title>{row['experiment']}: {escape(row['hypothesis'])}</title>"
        if row in kept:
            top, bottom = (y(row["score"] + sign * (row["error"] or 0.0)) for sign in (1, -1))
            lines.append(f'<path d="M{x(row["experiment"]):.1f} {top:.1f}V{bottom:.1f}" stroke="{GREEN}"/>')
            lines.append(f'<circle {place} r="5" fill="{GREEN}">{label}</circle>')
        else:
            lines.append(f'<circle {place} r="4" fill="#ffffff" stroke="{GREY}">{label}</circle>')
    for index, row in enumerate(kept[1:]):
        lines.append(text(WIDTH - RIGHT, TOP + 20 + index * 18, describe(row), anchor="end", color=GREEN))
    return "\n".join([*lines, "</svg>"]) + "\n"


def gain(summary: dict[str, Any], metric: str) -> str:
    """Where the run began, and where it ended."""
    return f"{summary[f'baseline_{metric}']:.3f} to {summary[f'champion_{metric}']}"


def describe(row: Experiment) -> str:
    """A kept edit in one line."""
    words = row["hypothesis"]
    words = words if len(words) <= MAX_LABEL else f"{words[: MAX_LABEL - 3]}..."
    return f"{row['experiment']}: {words}{' (certified)' if row['certificate'] == 'certified' else ''}"


def axis(scores: Sequence[float]) -> tuple[float, float, float]:
    """Least and largest value of an axis that holds all scores, and the distance of its lines."""
    low, high = min(scores), max(scores)
    rough = max(high - low, 1e-6) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    return math.floor(low / step) * step, math.ceil(high / step) * step, step


def text(left: float, top: float, words: str, *, anchor: str = "start", color: str = INK) -> str:
    """A line of text."""
    return f'<text x="{left:.1f}" y="{top:.1f}" text-anchor="{anchor}" fill="{color}">{escape(words)}</text>'


if __name__ == "__main__":
    sys.exit(main())
