"""One experiment of a run by hand: the file to edit as it stands against the champion.

    autoresearch try --tag=nov20 --hypothesis='half the batch, twice the steps' --category=batch

The text is checked, measured and decided on as any other proposal; a keep is a commit on the run's branch, and your
checkout stays as it is. The run is begun, with its baseline, if there is none; else its flags hold. Beside a driver the
text is handed to it, and this command waits; `--no_wait` queues it in any case. Exit status: 0 kept, 3 discarded (a
duplicate is, too), 4 not measured (rejected, crash, ...). Guide: docs/guide/by-hand.md.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoresearch_jax.commands.console import notices_of
from autoresearch_jax.commands.hand_text import (
    TextOptions,
    Words,
    base_of,
    committed_text,
    kept_texts,
    read_source,
    show_champion,
    syntax_fault,
    tell_of_file,
    words_of,
)
from autoresearch_jax.commands.options import format_option, option
from autoresearch_jax.commands.proposer_options import BY_HAND, ProposerSettings
from autoresearch_jax.commands.run import open_run, opened_loop
from autoresearch_jax.commands.run_observer import RunObserver
from autoresearch_jax.commands.run_options import RunOptions
from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import Action, describe_gain, plus_minus, shown
from autoresearch_jax.engine.inbox import Inbox
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.live import read_live
from autoresearch_jax.engine.loop import INTERRUPTED
from autoresearch_jax.engine.recorder import KEEPS
from autoresearch_jax.engine.run_folder import RunFolder, RunFolderError
from autoresearch_jax.engine.state import asset_of
from autoresearch_jax.engine.stopping import Interrupts
from autoresearch_jax.engine.workspace import BRANCH_PREFIX, Workspace
from autoresearch_jax.errors import UsageError, UserError
from autoresearch_jax.report.progress import describe_report
from autoresearch_jax.report.summary import stored_metric
from autoresearch_jax.report.tables import format_lines, print_lines
from autoresearch_jax.report.why import explain
from autoresearch_jax.sanitize import clean_block, clean_line, redact, secret_values
from autoresearch_jax.types import Metric, Scalar, Status

_say = notices_of("try")
TAKES_RUN_FLAGS = True
KEPT, DISCARDED, NOT_MEASURED, STOPPED = 0, 3, 4, 130
POLL_SECONDS = 0.3  # between two looks at a ledger that another process writes to
BEGIN_SECONDS = 60.0  # that a driver may take before it enters its baseline
TELL_SECONDS = 30.0  # between two lines about what that process is at
DETAILS_FILE = "rejected.txt"  # in an experiment's logs; see engine/scheduler.py
DETAIL_LINES = 24


class TryInterruptedError(UserError):
    """Ctrl-C; the message says what becomes of the text."""

    exit_status = STOPPED


@dataclass(frozen=True)
class Options:
    """What `autoresearch try` was asked for."""

    run: RunOptions = field(default_factory=RunOptions)
    text: TextOptions = field(default_factory=TextOptions)
    hypothesis: str | None = option(
        None, "a line: what is changed, and what it should gain (default: the first line of HYPOTHESIS.md beside it)"
    )
    category: str | None = option(None, "kind of change, such as optimizer; see --categories")
    why: str | None = option(None, "your opinion why it should work, which agents and peers are told beside the result")
    no_wait: bool = option(
        False, "put the text at the end of the run's queue and end: its driver, or the next one, takes it up"
    )
    format: str = format_option()


@dataclass(frozen=True)
class Change:
    """A text to be tried, with what is said of it; `adopted_from` is the peer whose champion it is."""

    path: Path
    source: str
    words: Words
    adopted_from: str | None = None


def run(options: Options, arguments: list[str]) -> int:
    """Tries the text, or hands it to the driver at work."""
    path = options.text.file or options.run.editable
    require_one_lineage(options)
    words = words_of(options.hypothesis, options.category, options.why, path.parent, options.run.proposer.categories)
    if options.hypothesis is None:
        tell_of_file(words, path.parent, options.run.where.folder, _say)
    asset = options.run.task.asset
    return try_change(options, Change(path, read_source(path, "with --file", asset), words))


def require_one_lineage(options: Options) -> None:
    """Refuses the tag of several lineages.

    Raises:
      UsageError: it is one.
    """
    if options.run.lineages > 1:
        tag = options.run.where.tag
        raise UsageError(f"--tag={tag}: that is {options.run.lineages} lineages: name one of them, such as {tag}-1")


def try_change(options: Options, change: Change) -> int:
    """Tries a text, or hands it to the driver at work; returns the exit status."""
    folder = options.run.where.folder
    if (fault := syntax_fault(change.path, change.source, options.run.task.asset)) is not None:
        return _print(options, {"experiment": None, "outcome": str(Status.REJECTED), "reason": fault}, "")
    number: int | None = None
    while True:
        try:
            if options.no_wait or folder.holder() is not None:
                number = number or _hand_over(options, folder, change)
                if options.no_wait:
                    return _print_queued(options, folder, number)
                _wait(folder, number)
            else:
                number = _measure(options, folder, change, number)
            break
        except RunFolderError:
            if folder.holder() is None:
                raise
        except _DriverGoneError:
            _say("the driver has ended; this command goes on")
    with closing(Ledger.open_to_read(folder.ledger)) as ledger:
        experiment = Inbox(ledger).get(number).experiment
        assert experiment is not None, "it is decided on"
        metric = stored_metric(ledger)
        return _print(options, describe(ledger, folder, experiment), "score" if metric is None else metric.name)


class _DriverGoneError(Exception):
    """The driver ended before it came to the text."""


def _hand_over(options: Options, folder: RunFolder, change: Change) -> int:
    """Puts the text into the inbox of a run that has begun; returns its number there."""
    until, begun = time.monotonic() + BEGIN_SECONDS, False
    while True:
        if folder.ledger.exists():
            with closing(Ledger.open(folder.ledger)) as ledger:
                baseline = {row.id: ledger.source(row.id) for row in ledger.experiments()[:1]}  # measured or not
                if kept := kept_texts(ledger) or baseline:
                    return _enter(options, ledger, change, kept)
        if folder.holder() is None:
            raise UsageError(f"--no_wait: {folder.path} has not begun: leave it out, or `autoresearch run` first")
        if time.monotonic() > until:
            raise UserError(f"{folder.path}: its driver has not begun with the baseline: try again once it has")
        if not begun:
            begun = True
            _say("the driver is just beginning; the text is handed to it once it has")
        time.sleep(POLL_SECONDS)


def _enter(options: Options, ledger: Ledger, change: Change, kept: Mapping[int, str]) -> int:
    """Puts the text into the inbox, unless it is there already and not decided on."""
    inbox, champion = Inbox(ledger), kept[max(kept)]
    source = redact(change.source, [secret for secret in secret_values(os.environ) if secret not in champion])
    if source != change.source:
        _say(f"{change.path}: a secret of the environment in it is blanked out")
    if (same := inbox.same(source)) is not None:
        _say(f"the same text was handed in before, as {same.id} of the queue, and is not decided on: that one counts")
        return same.id
    base = None
    if not options.text.as_is:
        folder = options.run.where.folder
        workspace = Workspace.of(options.run.editable, folder.path.name, folder.workspace, os.environ)
        committed = committed_text(options.run.editable, os.environ)
        show = show_champion(folder.path.name, options.run.editable) if kept_texts(ledger) else None
        base = base_of(asset_of(ledger), change.path, source, kept, committed, workspace.merge, show, _say)
    words = change.words
    why, peer = words.why, change.adopted_from
    return inbox.add(words.hypothesis, words.category, base, source, why=why, adopted_from=peer)


def _measure(options: Options, folder: RunFolder, change: Change, number: int | None) -> int:
    """Measures the text as the run's driver; returns its number in the inbox, which is new if it was None.

    Raises:
      TryInterruptedError: the process was asked to end.
      RunFolderError: another process became the driver.
      UserError: the run cannot begin or go on.
    """
    settings = ProposerSettings(BY_HAND)
    interrupted = TryInterruptedError("interrupted; the same command goes on from here")
    with ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts().installed())
        try:
            with interrupts.allowed():
                opened = open_run(options.run, settings, stack)
                kept = kept_texts(opened.ledger)
                if not kept:
                    _tell_baseline(options, opened.task.metric)
                if number is None:
                    kept = kept or {0: opened.workspace.baseline(despite_changes=True).source}
                    number = _enter(options, opened.ledger, change, kept)
        except KeyboardInterrupt as error:
            raise interrupted from error
        metric = opened.task.metric
        console = RunObserver(folder, opened.ledger, metric, command="try", stream=sys.stderr)
        with opened_loop(options.run, settings, opened, interrupts, console) as loop:
            if loop.measure_text(number) == INTERRUPTED:
                raise interrupted
    return number


def _tell_baseline(options: Options, metric: Metric) -> None:
    runs = options.run.decision.rule(metric).baseline_runs
    often = "once" if runs == 1 else f"in {runs} runs"
    _say(f"the run begins: its baseline, {options.run.editable} as committed, is measured first, {often}")


def _wait(folder: RunFolder, number: int) -> None:
    """Waits until the driver has decided on the text; says now and then what it is at.

    Raises:
      _DriverGoneError: it ended before.
      TryInterruptedError: Ctrl-C.
    """
    told = time.monotonic()
    try:
        holder = folder.holder() or "the driver"
        _say(f"handed to {holder}, as {number} of the queue; it decides on this text in its turn")
        with closing(Ledger.open_to_read(folder.ledger)) as ledger:
            inbox = Inbox(ledger)
            while not inbox.is_over(number):
                if folder.holder() is None and not inbox.is_over(number):
                    raise _DriverGoneError
                if time.monotonic() - told >= TELL_SECONDS:
                    told = time.monotonic()
                    _say(_describe_driver(ledger, folder, inbox.get(number).experiment))
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt as error:
        raise TryInterruptedError(
            f"interrupted; the text stays in the queue as {number}: the driver of {folder.path} takes it up, or the "
            "next `run` or `try`"
        ) from error


def _describe_driver(ledger: Ledger, folder: RunFolder, own: int | None) -> str:
    """What the driver is doing, in one line."""
    live, rows = read_live(folder), ledger.open_experiments()
    current = next((row for row in rows if row.id == own), next(iter(rows), None))
    if live is not None and live.waiting is not None:
        return f"the driver waits: {live.waiting.what}"
    if current is None:
        return "the driver is between two experiments"
    what = "this text" if current.id == own else f"before it, {clean_line(current.hypothesis)}"
    doing = [f"experiment {current.id}, {what}"]
    trials = [] if live is None else live.trials
    if (trial := next((one for one in trials if one.experiment == current.id), None)) is not None:
        doing += [words for words in (trial.run, clean_line(describe_report(trial.report))) if words]
    return ": ".join(doing)


def describe(ledger: Ledger, folder: RunFolder, experiment: int) -> dict[str, Any]:
    """What came of an experiment by hand, and why."""
    row, found = ledger.experiment(experiment), explain(ledger, experiment, at_work=True)
    champion = next(row for row in reversed(ledger.experiments()) if row.decision is Action.KEEP)
    details = folder.log_dir(experiment) / DETAILS_FILE
    has_details = row.score is None and details.is_file()
    return {
        **found,
        "category": row.category,
        "seconds": row.seconds,
        "commit": row.commit,
        "branch": BRANCH_PREFIX + folder.path.name,
        "champion_experiment": champion.id,
        "champion_score": champion.score,
        "champion_error": champion.error,
        "log": str(details.parent),
        "details": details.read_text(encoding="utf-8", errors="replace") if has_details else None,
    }


def exit_status(outcome: str) -> int:
    """0 for what was kept, 3 for what was discarded or is known, 4 for what could not be measured."""
    if outcome in KEEPS:
        return KEPT
    return DISCARDED if outcome in (Action.DISCARD, Status.DUPLICATE, Status.PRUNED) else NOT_MEASURED


def _print(options: Options, found: Mapping[str, Any], metric: str) -> int:
    if options.format == "json":
        print(json.dumps(found, indent=1))
    else:
        print_lines(_lines(found, metric), sys.stdout)
        if details := found.get("details"):
            print("\n".join(["", *clean_block(details).splitlines()[-DETAIL_LINES:]]))
    return exit_status(found["outcome"])


def _lines(found: Mapping[str, Any], metric: str) -> dict[str, Scalar]:
    if found["experiment"] is None:
        return dict(found)
    gain, chance = found["gain"], found["probability"]
    return {
        "experiment": found["experiment"],
        "outcome": found["outcome"],
        "reason": found["reason"],
        "hypothesis": found["hypothesis"],
        "category": found["category"],
        metric: _with_error(found["score"], found["error"]),
        "gain": None if gain is None else describe_gain(Estimate(gain, found["gain_error"])),
        "probability": None if chance is None else shown(chance),
        "runs": len(found["trials"]),
        "seconds": None if found["seconds"] is None else round(found["seconds"], 1),
        "commit": found["commit"],
        "branch": found["branch"],
        "champion_experiment": found["champion_experiment"],
        f"champion_{metric}": _with_error(found["champion_score"], found["champion_error"]),
        "log": found["log"],
    }


def _with_error(score: float | None, error: float | None) -> str | None:
    return None if score is None else plus_minus(Estimate(score, error or 0.0))


def _print_queued(options: Options, folder: RunFolder, number: int) -> int:
    holder = folder.holder()
    found: dict[str, Scalar] = {"queue": number, "outcome": "queued", "driver": holder}
    lines: dict[str, Scalar] = {
        **found,
        "driver": holder or "none: the next `autoresearch run` or `try` of this run takes it up",
    }
    print(json.dumps(found, indent=1) if options.format == "json" else format_lines(lines))
    return 0
