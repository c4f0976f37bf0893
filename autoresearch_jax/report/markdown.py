"""A run's page in Markdown, to paste into a pull request or a discussion."""

import re
from collections.abc import Callable, Sequence

from autoresearch_jax.decide.rule import describe_gain, plus_minus, shown
from autoresearch_jax.report.diffs import unified
from autoresearch_jax.report.history import History, KeptEdit, sentences
from autoresearch_jax.report.page import duration
from autoresearch_jax.report.swarm import SwarmView
from autoresearch_jax.sanitize import clean_block, clean_line
from autoresearch_jax.types import SCORE_DECIMALS

WORDS = 200  # characters of a hypothesis
DIFF, ALL_DIFFS = 4000, 40_000  # characters of one diff, and of all: a discussion takes 65,536
_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~@$&]|^[-+])")
_NUMBERED = re.compile(r"^(\d+)([.)])(?= |$)")
# Where GitHub makes a link, or calls a person, of words that are escaped, too
_LINK = re.compile(r"(?<=@)(?=\w)|(?<=#)(?=\d)|(?<=:)(?=//)|(?<=www)(?=\.)", re.IGNORECASE)
JOINER = "\N{WORD JOINER}"  # has no width


def markdown_page(
    runs: Sequence[History],
    sources: Sequence[Callable[[int], str]],
    commands: Sequence[str],
    swarm: SwarmView | None = None,
) -> str:
    """The page of one run, or of several one after the other; words of candidates and peers cannot become markup."""
    each = zip(runs, sources, commands, strict=True)
    return "\n".join(_page(*one, ALL_DIFFS // len(runs), swarm) for one in each)


def _page(run: History, source: Callable[[int], str], command: str, room: int, swarm: SwarmView | None) -> str:
    figures = run.summary
    assert figures.baseline is not None
    assert figures.baseline.score is not None
    score = "" if figures.champion_score is None else f" to {plus_minus(figures.champion_score)}"
    lines = [
        f"## {words(run.tag)}: {words(run.metric.name)} {figures.baseline.score:.{SCORE_DECIMALS}f}{score}",
        "",
        f"{sum(figures.counts.values())} experiments in {duration(figures.seconds)}, {figures.kept} kept, "
        f"{figures.certified[0]} certified, {figures.certified[1]} reverted.",
        "",
    ]
    if run.kept:
        lines += ["| experiment | change | gain | probability | |", "|---:|---|---|---|---|"]
        lines += [_kept_row(edit) for edit in run.kept]
        lines.append("")
    for title, found in sentences(run).items():
        if found:
            lines += [f"**{title}**", "", *(f"- {words(line)}" for line in found), ""]
    for audit in run.audits:
        lines += [f"**Audit**: {words(str(audit.figures['in_words']))}", ""]
    lines += [] if swarm is None else _swarm_lines(swarm, figures.adopted)
    name = str(run.settings.get("editable", "train_lib.py"))
    changed = [(edit.point.row.id, parent) for edit in run.kept if (parent := edit.point.row.parent) is not None]
    diffs: list[list[str]] = []
    for number, parent in reversed(changed):
        diff = _cut(unified(source(parent), source(number), name))
        room -= len(diff)
        if room < 0:
            break
        summary = f"<details><summary>Experiment {number}</summary>"
        diffs.insert(0, [summary, "", *_fenced(diff, "diff"), "</details>", ""])
    lines += [line for diff_lines in diffs for line in diff_lines]
    if len(diffs) < len(changed):
        lines += [f"The first {len(changed) - len(diffs)} changes are left out here.", ""]
    lines += ["<details><summary>How to reproduce it</summary>", "", *_fenced(command, "sh")]
    settings = "\n".join(f"{name}: {value}" for name, value in run.settings.items())
    lines += [*_fenced(settings, ""), "</details>", ""]
    return "\n".join(lines)


def _kept_row(edit: KeptEdit) -> str:
    row = edit.point.row
    gain = "" if edit.effect is None else describe_gain(edit.effect)
    probability = "" if edit.probability is None else shown(edit.probability)
    cells = (str(row.id), words(row.hypothesis), words(gain), words(probability), words(edit.point.outcome))
    return "".join(f"| {cell} " for cell in cells) + "|"


def _swarm_lines(view: SwarmView, adopted: tuple[int, int]) -> list[str]:
    """Who found what, and who adopted it."""
    lines = [f"**Swarm**: {words(view.trouble or view.sentence(adopted))}", ""]
    if view.rows:
        lines += ["| finding | found by (UTC) | adopted by | tried in vain by |", "|---|---|---|---|"]
        rows = (([row["title"]], [row["finder"]], row["adopted"], row["others"]) for row in view.rows)
        lines += ["".join(f"| {'; '.join(map(words, cell))} " for cell in cells) + "|" for cells in rows]
        lines.append("")
    return lines


def words(text: str) -> str:
    """A text as one line that Markdown shows as it is, and GitHub links to nothing."""
    unlinked = _LINK.sub(JOINER, clean_line(text, WORDS))
    return _NUMBERED.sub(r"\1\\\2", _SPECIAL.sub(r"\\\1", unlinked))


def _cut(diff: str) -> str:
    return diff if len(diff) <= DIFF else f"{diff[:DIFF]}\n[{len(diff) - DIFF} characters more]"


def _fenced(text: str, language: str) -> list[str]:
    clean = clean_block(text, 2 * DIFF)
    longest = max((len(found) for found in re.findall(r"`+", clean)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", clean, fence, ""]
