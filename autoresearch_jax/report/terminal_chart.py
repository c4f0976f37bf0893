"""The scores of a run's experiments as a chart of characters."""

import itertools
from collections.abc import Sequence

from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.records import ExperimentRow
from autoresearch_jax.types import Metric

LEAST_COLUMNS, LEAST_LINES = 40, 12
MAX_TICKS = 10  # of experiments
SPREAD = 3.0  # widths between the quartiles that a score may lie beyond them
KEPT, NOT_KEPT, CHAMPION = "●", "·", "━"


def scored(rows: Sequence[ExperimentRow]) -> list[ExperimentRow]:
    """The experiments that are over and have a score."""
    return [row for row in rows if not row.is_open and row.score is not None]


def draw_scores(
    rows: Sequence[ExperimentRow], metric: Metric | None, columns: int, lines: int, *, colours: bool
) -> str:
    """Scores over experiments, kept ones marked, the champion's as a step line.

    Scores so wild that they would squash the others are left out and counted in the label of the axis.

    Args:
      rows: at least one of them `scored`.
      metric: names the scores; None in a ledger of single trials.
      columns: of the terminal, LEAST_COLUMNS at least.
      lines: of the chart, LEAST_LINES at least.
      colours: whether to use them.
    """
    import plotext

    points = [(row.id, row.score) for row in scored(rows) if row.score is not None]
    kept = [(row.id, row.score) for row in scored(rows) if row.score is not None and row.decision is Action.KEEP]
    least, most = score_limits([score for _, score in points], [score for _, score in kept])
    inside = [(number, score) for number, score in points if least <= score <= most]
    low, high = min(score for _, score in inside), max(score for _, score in inside)
    first, last = min(row.id for row in rows), max(row.id for row in rows)
    plotext.terminal.limit(width=False, height=False)
    figure = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(columns, lines)
    figure.draw(figure.signal(*_axes(inside), marker=plotext.marker(NOT_KEPT)))
    if kept:
        places = [*itertools.accumulate((number for number, _ in kept), max), last]  # see `championTraces` of page.js
        steps = [(x, score) for (_, score), ends in zip(kept, itertools.pairwise(places), strict=True) for x in ends]
        figure.draw(figure.signal(*_axes(steps), marker=plotext.marker("hd", "cyan")).lines())
        figure.draw(figure.signal(*_axes(kept), marker=plotext.marker(KEPT, "green")))
    margin = 0.05 * (high - low or 1.0)
    figure.ruler("y").lim(low - margin, high + margin)
    last = max(last, first + 1)
    figure.ruler("x").lim(first, last)
    figure.ruler("x").ticks(whole_ticks(first, last))
    figure.label("experiment", "x")
    name, outside = "score" if metric is None else metric.name, len(points) - len(inside)
    figure.label(f"{name} ({outside} of {len(points)} outside)" if outside else name, "y")
    if kept:
        figure.title(f"{KEPT} kept   {NOT_KEPT} not kept   {CHAMPION} champion")
    drawn: str = figure.build().string(colorless=not colours)
    return "\n".join(line.rstrip() for line in drawn.splitlines())


def whole_ticks(first: int, last: int) -> list[int]:
    """Round numbers from the first to the last, evenly spaced, MAX_TICKS at most."""
    steps = (factor * 10**power for power in itertools.count() for factor in (1, 2, 5))
    step = next(step for step in steps if (last - first) / step < MAX_TICKS)
    return [number for number in range(first, last + 1) if number % step == 0]


def score_limits(scores: Sequence[float], kept: Sequence[float]) -> tuple[float, float]:
    """Bounds of the scores that a chart shows: all that were kept, and all others but wild ones."""
    import numpy as np

    first, third = (float(found) for found in np.quantile(scores, [0.25, 0.75]))
    width = SPREAD * max(third - first, max(kept) - min(kept) if kept else 0.0)
    return min([first - width, *kept]), max([third + width, *kept])


def _axes(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [number for number, _ in points], [score for _, score in points]
