"""The progress of runs as a picture to share: scores, champions with their intervals, what was kept."""

import io
import logging
import warnings
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from autoresearch_jax.decide.rule import plus_minus
from autoresearch_jax.report.history import History, KeptEdit
from autoresearch_jax.report.page import INTERVAL, PLUS_MINUS, duration, kind_of
from autoresearch_jax.sanitize import clean_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 1200, 675  # pixels
DPI = 100
AXES = (0.075, 0.1, 0.9, 0.72)  # left, bottom, width, height of the chart, as shares of the picture
MOST_LABELS = 12
LABEL = 44  # characters
SUBTITLE = 150
LETTER, LINE = 6.2, 15.0  # width of a letter of a label and height of its line, in pixels
STYLE = {  # by kind of outcome: colour, marker, size in points squared
    "discard": ("#8b949e", "o", 18),
    "pruned": ("#b7791f", "^", 22),
    "failed": ("#b3402a", "x", 26),
    "reverted": ("#99427c", "o", 36),
    "baseline": ("#1f2328", "D", 40),
    "revert": ("#00734f", "d", 36),
    "keep": ("#00734f", "o", 48),
    "certified": ("#0b5fae", "*", 110),
}
RUN_COLOURS = ("#00734f", "#0b5fae", "#8a5a00", "#99427c", "#b3402a")  # as on the page
INK, QUIET, RULE = "#1f2328", "#57606a", "#d0d7de"


def progress_png(runs: Sequence[History]) -> bytes:
    """The picture of one run or of several, 1200 x 675 pixels."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns where it can keep no cache of fonts
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes(AXES)
    low, high = score_range(runs)
    for run, colour in zip(runs, RUN_COLOURS, strict=False):
        _draw_champions(axes, run, STYLE["certified"][0] if len(runs) == 1 else colour, len(runs) > 1)
        _draw_points(axes, run, None if len(runs) == 1 else colour, low, high)
    axes.set_ylim(low, high)
    axes.set_xlabel("experiment", color=QUIET)
    metric = runs[0].metric
    better = "lower" if metric.direction == "minimize" else "higher"
    axes.set_ylabel(f"{clean_line(metric.name, 40)} ({better} is better)", color=QUIET, parse_math=False)
    axes.grid(color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=QUIET)
    if len(runs) == 1:
        _label(axes, runs[0], low, high)
    axes.legend(
        loc="upper right" if metric.direction == "minimize" else "lower right", frameon=False, fontsize=9, ncols=2
    )
    titles = [_title(run) for run in runs]
    figure.text(
        0.03,
        0.94,
        titles[0] if len(runs) == 1 else "  |  ".join(run.tag for run in runs),
        fontsize=17,
        color=INK,
        weight="bold",
        parse_math=False,
    )
    figure.text(0.03, 0.895, _subtitle(runs), fontsize=10.5, color=QUIET, parse_math=False)
    with warnings.catch_warnings():  # of glyphs that the font lacks: they are drawn as boxes
        warnings.simplefilter("ignore")
        canvas.draw()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def score_range(runs: Sequence[History]) -> tuple[float, float]:
    """Scores between which the chart lies: all champions, and all others but wild ones."""
    import numpy as np

    scores = [point.row.score for run in runs for point in run.points if point.row.score is not None]
    champions = [
        point.row.score + side * INTERVAL * (point.row.error or 0.0)
        for run in runs
        for point in run.champions
        if point.row.score is not None
        for side in (-1, 1)
    ]
    first, third = np.quantile(scores, [0.25, 0.75])
    width = max(third - first, max(champions) - min(champions))
    low = min(*champions, max(min(scores), first - 3 * width))
    high = max(*champions, min(max(scores), third + 3 * width))
    margin = 0.05 * (high - low or 1.0)
    return low - 2 * margin, high + margin


def _draw_points(axes: "Axes", run: History, colour: str | None, low: float, high: float) -> None:
    for kind, (tint, marker, size) in STYLE.items():
        points = [point for point in run.points if kind_of(point.outcome) == kind]
        if not points:
            continue
        # Without a score, or with a wild one: at the lower edge, so that every experiment is seen
        scores = [point.row.score for point in points]
        heights = [low + 0.02 * (high - low) if s is None or not low <= s <= high else s for s in scores]
        axes.scatter(
            [point.row.id for point in points],
            heights,
            s=size,
            c=tint if colour is None else colour,
            marker=marker,
            alpha=0.6 if kind == "discard" or colour is not None else 1.0,
            linewidths=1.2 if marker == "x" else 0,
            label=(kind if kind == "baseline" else f"{len(points)} {kind}") if colour is None else None,
            zorder=3 if kind in ("keep", "certified") else 2,
        )


def _draw_champions(axes: "Axes", run: History, colour: str, is_named: bool) -> None:
    rows = [point.row for point in run.champions if point.row.score is not None]
    x = [*accumulate((row.id for row in rows), max), max(point.row.id for point in run.points)]  # as on the page
    mean = [row.score or 0.0 for row in rows]
    margin = [INTERVAL * (row.error or 0.0) for row in rows]
    mean, margin = [*mean, mean[-1]], [*margin, margin[-1]]
    low = [middle - half for middle, half in zip(mean, margin, strict=True)]
    high = [middle + half for middle, half in zip(mean, margin, strict=True)]
    axes.fill_between(x, low, high, step="post", color=colour, alpha=0.18, linewidth=0)
    name = clean_line(run.tag, LABEL) if is_named else "champion, 95 % interval"
    axes.step(x, mean, where="post", color=colour, linewidth=1.8, label=name)


def _label(axes: "Axes", run: History, low: float, high: float) -> None:
    def size(edit: KeptEdit) -> float:
        return 0.0 if edit.effect is None else edit.effect.mean

    taken: list[tuple[float, float, float]] = []  # left and right end and height of labels, in pixels
    for edit in sorted(run.kept, key=size, reverse=True)[:MOST_LABELS]:
        row = edit.point.row
        if row.score is None or not low <= row.score <= high or edit.point.outcome == "revert":
            continue
        text = f"{row.id} {clean_line(row.hypothesis, LABEL)}"
        # Beside the point, on the side of earlier experiments: there the line of champions leaves room
        x, y = (float(pixel) for pixel in axes.transData.transform((row.id, row.score)))
        is_left = x - len(text) * LETTER > WIDTH * AXES[0]
        end = x - len(text) * LETTER if is_left else x + len(text) * LETTER
        left, right = min(x, end), max(x, end)
        if any(left < other[1] and other[0] < right and abs(y - other[2]) < LINE for other in taken):
            continue
        taken.append((left, right, y))
        axes.annotate(
            text,
            (row.id, row.score),
            xytext=(-7 if is_left else 7, -13),
            textcoords="offset points",
            ha="right" if is_left else "left",
            fontsize=8.5,
            color=INK,
            parse_math=False,
        )


def _title(run: History) -> str:
    baseline, champion = run.summary.baseline, run.summary.champion_score
    assert baseline is not None
    assert baseline.score is not None
    now = "" if champion is None else f" \N{RIGHTWARDS ARROW} {plus_minus(champion).replace('+-', PLUS_MINUS)}"
    return f"{clean_line(run.tag, 40)}: {clean_line(run.metric.name, 40)} {baseline.score:.4f}{now}"


def _subtitle(runs: Sequence[History]) -> str:
    found = []
    for run in runs:
        count = sum(run.summary.counts.values())
        if len(runs) > 1:
            found.append(f"{run.tag}: {count} experiments, {run.summary.kept} kept")
            continue
        certified, device = run.summary.certified[0], str(run.settings.get("device_kind") or "")
        words = (
            f"{count} experiments in {duration(run.summary.seconds)}, {run.summary.kept} kept, {certified} certified"
        )
        found.append(f"{words}, {device}" if device else words)
    return clean_line("  |  ".join(found), SUBTITLE)
