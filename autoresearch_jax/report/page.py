"""A run's page in HTML: named parts, which a live page replaces one by one, and the file that holds all of them.

Words of candidates and models are data: the templates escape them, and no script but the page's own may run.
"""

import base64
import gzip
import hashlib
import importlib.resources
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import decimals_of, describe_gain, plus_minus, shown
from autoresearch_jax.engine.recorder import KEEPS
from autoresearch_jax.engine.records import ExperimentRow
from autoresearch_jax.report.diffs import Diff, compare
from autoresearch_jax.report.history import History, Point, sentences
from autoresearch_jax.report.swarm import SwarmView, swarm_chart
from autoresearch_jax.sanitize import clean_block, clean_line
from autoresearch_jax.types import SCORE_DECIMALS, Scalar, Status

if TYPE_CHECKING:
    from jinja2 import Environment

WORDS = 300  # characters of a hypothesis or a reason
HOVER, LABEL = 90, 60  # characters of a hypothesis in a chart, under the mouse and beside a champion
CODE = 300  # characters of a line of source
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
INTERVAL = 1.96  # standard deviations on either side, for 95 %
MEMO_DIFFS = 500
MEMO_ROWS = 20_000  # experiments of which only what changed is made again
MOST_DIFF_BYTES = 500_000  # of one run's changes on a page; git has the rest
COMPARED_BY = ("metric", "fingerprint", "budget_seconds", "budget_steps", "platform", "device_kind", "clock")
# What a static page may do: run the scripts with these hashes, and ask nothing of anyone.
_POLICY = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {scripts}"

Source = Callable[[int], str]


@dataclass(frozen=True)
class Part:
    """A piece of the page that is replaced as a whole.

    Attributes:
      html: what is in the element.
      into: the list that the element is a member of; None for one with a place of its own.
      tag: of the element, where it has to be made.
    """

    html: str
    into: str | None = None
    tag: str = "div"


def static_page(
    runs: Sequence[History], sources: Sequence[Source], commands: Sequence[str], swarm: SwarmView | None = None
) -> str:
    """The page of one run or of several as one file that asks nothing of anyone.

    Args:
      sources: of each run, the text of an experiment by its number.
      commands: of each run, what begins it again.
      swarm: that the one run's folder takes part in; None for none, and for several runs.
    """
    if len(runs) == 1:
        parts = run_parts(runs[0], sources[0], commands[0], runs[0].summary.ended or "", swarm)
    else:
        parts = _parts_of_several(runs, sources)
    plotly, script = plotly_script(), asset("page.js")
    policy = _POLICY.format(scripts=" ".join(f"'sha256-{_hash(text)}'" for text in (plotly, script)))
    title = ", ".join(run.tag for run in runs)
    shown = {"policy": policy, "plotly": _packed(plotly), "script": _raw(script), "live": ""}
    return _render(title, runs, parts, swarm, **shown)


def live_page(
    tag: str, run: History | None, parts: Mapping[str, Part], state: str, swarm: SwarmView | None = None
) -> str:
    """The page of a run that goes on, without figures before its baseline is measured.

    `state` names where its updates begin.
    """
    return _render(tag, [] if run is None else [run], parts, swarm, policy="", plotly="", script="", live=state)


def _render(
    title: str, runs: Sequence[History], parts: Mapping[str, Part], swarm: SwarmView | None, **context: Any
) -> str:
    from markupsafe import Markup

    safe = {name: Part(Markup(part.html), part.into, part.tag) for name, part in parts.items()}
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            metric=runs[0].metric.name if runs else "",
            parts=safe,
            kept_any=any(run.kept for run in runs),
            data={"runs": [chart_data(run) for run in runs], "swarm": None if swarm is None else swarm_chart(swarm)},
            style=_raw(asset("page.css")),
            **context,
        )
    )


def run_parts(
    run: History, source: Source, command: str, ended: str = "", swarm: SwarmView | None = None
) -> dict[str, Part]:
    """The parts of a run's page by name.

    Args:
      source: the text of an experiment by its number.
      command: what begins the run again.
      ended: why the run's last driver ended; empty on a live page, which says that at its top.
      swarm: that the run's folder takes part in; None for none.
    """
    macros = _macros()
    parts = {
        "head": Part(macros.head(run, ended)),
        "figures": Part(macros.figures(run)),
        "findings": Part(macros.findings(sentences(run))),
        "seconds": Part(macros.seconds(run)),
        "audits": Part(macros.audits(run)),
        "reproduce": Part(macros.reproduce(run, command)),
    }
    if swarm is not None:
        parts["swarm"] = Part(macros.swarm(swarm, run.summary.adopted))
    parts |= _kept_parts(run, source, prefix="", of="")
    for point in run.points:
        parts[f"row-{point.row.id}"] = Part(_row(point), "rows", "tr")
    return parts


def _parts_of_several(runs: Sequence[History], sources: Sequence[Source]) -> dict[str, Part]:
    macros = _macros()
    differing = [name for name in COMPARED_BY if len({json.dumps(run.settings.get(name)) for run in runs}) > 1]
    findings: dict[str, list[str]] = {}
    for run in runs:
        for title, lines in sentences(run).items():
            findings.setdefault(title, []).extend(f"{run.tag}: {line}" for line in lines)
    parts = {
        "head": Part(_heads(runs)),
        "comparison": Part(macros.comparison(runs, differing)),
        "findings": Part(macros.findings(findings)),
    }
    for number, (run, source) in enumerate(zip(runs, sources, strict=True)):
        parts |= _kept_parts(run, source, prefix=f"{number}-", of=run.tag)
    return parts


def _heads(runs: Sequence[History]) -> str:
    from markupsafe import Markup, escape

    return Markup("<h1>{}</h1>").format(escape(clean_line(", ".join(run.tag for run in runs), WORDS)))


def _kept_parts(run: History, source: Source, prefix: str, of: str) -> dict[str, Part]:
    parts, room = {}, MOST_DIFF_BYTES
    for edit in run.kept:
        row = edit.point.row
        parts[f"kept-{prefix}{row.id}"] = Part(_macros().kept(edit, of), "kept")
        if row.parent is None:
            continue
        html = _diff(row.id, source(row.parent), source(row.id))
        room -= len(html)
        if room < 0:
            html = str(_macros().no_diff(row))
        parts[f"diff-{prefix}{row.id}"] = Part(html, "kept", "details")
    return parts


@lru_cache(maxsize=MEMO_DIFFS)
def _diff(number: int, before: str, after: str) -> str:
    found: Diff = compare(before, after)
    return str(_macros().diff(number, found))


def _row(point: Point) -> str:
    row = point.row
    return _cells(row.id, point.outcome, _scored(row), row.seconds, _by(row), row.hypothesis, row.reason)


def _by(row: ExperimentRow) -> str:
    """Who proposed an experiment, and from whom it was adopted."""
    return row.proposer if row.adopted_from is None else f"{row.proposer}, from {row.adopted_from}".lstrip(", ")


@lru_cache(maxsize=MEMO_ROWS)
def _cells(*cells: Scalar) -> str:
    return str(_macros().row(*cells))


def chart_data(run: History) -> dict[str, Any]:
    """What the charts draw: a row a point, and the champions with their estimates."""
    return {
        "tag": clean_line(run.tag, WORDS),
        "metric": run.metric.name,
        "direction": run.metric.direction,
        "points": [list(point_data(point)) for point in run.points],
        "champions": champions_data(run),
    }


def point_data(point: Point) -> tuple[Scalar, ...]:
    """Number, attended hours, score, outcome, kind of outcome, hypothesis, runs, loss curve."""
    row, outcome = point.row, point.outcome
    words, curve = _short(row.hypothesis, HOVER), _short_curve(point.curve)
    return row.id, round(point.hours, 4), _as_exact(row, row.score), outcome, kind_of(outcome), words, point.runs, curve


def champions_data(run: History) -> list[list[Scalar]]:
    """Of each champion: number, attended hours, estimated score, its standard deviation, hypothesis."""
    return [
        [row.id, round(point.hours, 4), _as_exact(row, row.score), _as_exact(row, row.error or 0.0), words]
        for point in run.champions
        for row in [point.row]
        for words in [_short(row.hypothesis, LABEL)]
    ]


def _as_exact(row: ExperimentRow, value: float | None) -> float | None:
    """Rounded as a score is shown, so that not every run moves the scores of all that was kept."""
    return None if value is None else round(value, decimals_of(row.error or 0.0))


@lru_cache(maxsize=MEMO_ROWS)
def _short(words: str, most: int) -> str:
    return clean_line(words, most)


@lru_cache(maxsize=MEMO_ROWS)
def _short_curve(curve: str) -> str:
    return " ".join(f"{float(loss):.4g}" for loss in curve.split())


def kind_of(outcome: str) -> str:
    """The colour of an outcome: baseline, keep, certified, revert, reverted, discard, pruned or failed."""
    if outcome in KEEPS:
        return "keep"
    if outcome in ("baseline", "certified", "revert", "reverted", "discard", "pruned"):
        return outcome
    return "discard" if outcome == Status.DUPLICATE else "failed"


@cache
def plotly_script() -> str:
    """plotly.js, as the Python package brings it."""
    return (importlib.resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


@cache
def asset(name: str) -> str:
    """A file of the page's own: page.js or page.css."""
    return (importlib.resources.files("autoresearch_jax.report") / "templates" / name).read_text(encoding="utf-8")


def _packed(text: str) -> str:
    """A text as gzip in base64, which the page's script unpacks: a third of its size."""
    return base64.b64encode(gzip.compress(text.encode("utf-8"), mtime=0)).decode("ascii")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _raw(text: str) -> Any:
    """A text of ours that the templates must not escape."""
    from markupsafe import Markup

    return Markup(text)


@cache
def _macros() -> Any:
    return environment().get_template("parts.html.j2").module


@cache
def environment() -> "Environment":
    """Jinja with the templates and filters of the page; everything is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("autoresearch_jax.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"sort_keys": True, "separators": (",", ":")}
    made.filters.update(
        words=lambda text, most=WORDS: clean_line(str(text or ""), most),
        finding=lambda text: clean_line(text, WORDS).replace("+-", PLUS_MINUS),
        code=lambda text: clean_block(str(text or ""), CODE),
        block=lambda text: clean_block(str(text)),
        cell=_cell,
        score=lambda value: "" if value is None else f"{value:.{SCORE_DECIMALS}f}",
        seconds=lambda value: "" if value is None else f"{value:.1f}",
        estimate=lambda found: "" if found is None else plus_minus(found).replace("+-", PLUS_MINUS),
        scored=lambda point: _scored(point.row),
        row_score=_scored,
        by=_by,
        gain=lambda found: describe_gain(found).replace("+-", PLUS_MINUS),
        interval=_interval,
        probability=lambda value: f"P {shown(value)}",
        duration=duration,
        kind=kind_of,
        figures=_figures,
    )
    return made


def _cell(value: Scalar) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else clean_line(str(value), WORDS)


def _scored(row: ExperimentRow) -> str:
    if row.score is None:
        return ""
    return plus_minus(Estimate(row.score, row.error or 0.0)).replace("+-", PLUS_MINUS)


def _interval(found: Estimate) -> str:
    ends = (found.mean - INTERVAL * found.error, found.mean + INTERVAL * found.error)
    shown_ends = (plus_minus(Estimate(end, found.error)).partition(" ")[0] for end in ends)
    return " to ".join(end if end.startswith("-") else f"+{end}" for end in shown_ends)


def duration(seconds: float) -> str:
    """A time as people say it, such as "3.4 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _figures(run: History) -> list[tuple[str, str]]:
    """The figures of the run that are there, by names people read."""
    hidden = ("champion_commit", "seconds") if run.summary.dollars else ("champion_commit", "seconds", "dollars")
    found = {name: value for name, value in run.summary.lines().items() if value is not None and name not in hidden}
    return [(name.replace("_", " "), str(value).replace("+-", PLUS_MINUS)) for name, value in found.items()]
