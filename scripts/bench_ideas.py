"""Measures every shipped idea on this device; called by bench_ideas.sh.

A first run tries all ideas on the champion, which changes with each keep; the ideas that do not fit it then are tried
by further runs that begin with the training file again. Nothing is pruned, so that each program that trains has an
effect: its gain over the champion that it was tried on, with a 90 % interval; of a kept idea by all runs up to the end,
of another as the decision had it. The probability is that of a gain, which a shorter text is kept without. Each run has
a copy of the repository and the package in --folder, so that it goes on with the same code and ideas after these are
edited.

--write adds what was measured to the front matter of the shipped ideas, in place of earlier evidence for the same
device class, task and budget. --unmeasured=cpu leaves out the ideas that have an effect there for that device class and
this budget: so a later start, on another machine of the class too, measures the rest. What is not a flag of this script
is handed on to `autoresearch run`.

The last lines are `key: value`:
  ideas_measured, ideas_kept    with an effect, and those among them that were kept and not taken out again
  ideas_failed                  crashed, were rejected, diverged, ...; the table says why
  ideas_left                    not tried yet, or fit no champion
  baseline_val_bpb, champion_val_bpb, gain_percent    of the first run
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from bench_conditions import make_repository

from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import Kind
from autoresearch_jax.engine.run_findings import evidence_of
from autoresearch_jax.files import write_json
from autoresearch_jax.findings.folder import BASES, SHIPPED
from autoresearch_jax.findings.format import Evidence, Finding, read_finding, status_of, write_finding
from autoresearch_jax.report.summary import RunSummary, summarize_run
from autoresearch_jax.types import SCORE_DECIMALS

PAGE = "program.md"
STOP_SECTION = re.compile(r"(?ms)^## Stop when\n.*?(?=^## |\Z)")
ENDLESS = "## Stop when\n\n- 100000 experiments\n\n"
SIGMAS = 1.645  # of a 90 % interval to each side
DECIMALS = 4  # of effects in the table


@dataclass(frozen=True)
class Measured:
    """What came of an idea.

    Attributes:
      run: that tried it; the first is 1.
      reason: one line.
    """

    finding: Finding
    evidence: Evidence
    run: int
    reason: str


def run_ideas(folder: Path, ideas: Sequence[Finding], arguments: argparse.Namespace, further: Sequence[str]) -> int:
    """Begins a run, or goes on with one; returns its exit status."""
    repository, package = folder / "repository", folder / "package"
    if not repository.exists():
        shutil.rmtree(folder, ignore_errors=True)  # half made
        copy_package(package, ideas)
        text, found = STOP_SECTION.subn(ENDLESS, Path(PAGE).read_text(encoding="utf-8"))
        assert found == 1, f"{PAGE} has no stopping list"
        making = folder / "making"
        making.mkdir()
        make_repository(making, {PAGE: text})
        making.rename(repository)
    command = [sys.executable, "-m", "autoresearch_jax.cli", "run", f"--flagfile={arguments.flagfile}"]
    command += ["--proposer=ideas", f"--tag={arguments.tag}", "--noprune", *further]
    if arguments.budget_seconds is not None:
        command.append(f"--budget_seconds={arguments.budget_seconds:g}")
    if arguments.budget_steps is not None:
        command += [f"--budget_steps={arguments.budget_steps}", "--min_steps=1"]
    if arguments.experiments is not None:
        command.append(f"--experiments={arguments.experiments}")
    return subprocess.run(command, cwd=repository, env={**os.environ, "PYTHONPATH": str(package)}).returncode


def copy_package(folder: Path, ideas: Sequence[Finding]) -> None:
    """The package with no other ideas than these."""
    names = {f"{idea.id}.md" for idea in ideas}

    def left_out(place: str, entries: list[str]) -> set[str]:
        is_library = Path(place) == SHIPPED
        return {name for name in entries if name == "__pycache__" or (is_library and name not in {BASES, *names})}

    shutil.copytree(SHIPPED.parent, folder / SHIPPED.parent.name, ignore=left_out)


def read_results(ledger_path: Path, ideas: Mapping[str, Finding], run: int) -> dict[str, Measured]:
    """What came of the ideas that a run tried, by their ids."""
    found: dict[str, Measured] = {}
    with closing(Ledger.open_to_read(ledger_path)) as ledger:
        for row in ledger.experiments():
            if row.kind is not Kind.PROPOSAL or row.finding not in ideas or row.is_open:
                continue
            evidence = rounded(evidence_of(ledger, row, ledger_path.parent.name))
            reason = (row.reason or "").partition("\n")[0]
            found[row.finding] = Measured(ideas[row.finding], evidence, run, reason)
    return found


def rounded(evidence: Evidence) -> Evidence:
    """With as many digits as a score has, and without the command that replays it: its run is in a copy alone."""
    figures = {name: getattr(evidence, name) for name in ("effect", "error", "probability")}
    digits = {name: figure and round(figure, SCORE_DECIMALS) for name, figure in figures.items()}
    return replace(evidence, replay="", **digits)


def write_evidence(measured: Sequence[Measured]) -> None:
    """Adds what was measured to the shipped pages."""
    for one in measured:
        path = SHIPPED / f"{one.finding.id}.md"
        finding, new = read_finding(path), one.evidence
        comparable = new.device_class, new.fingerprint, new.budget
        kept = (old for old in finding.evidence if (old.device_class, old.fingerprint, old.budget) != comparable)
        evidence = (*kept, new)
        write_finding(path, replace(finding, evidence=evidence, status=status_of(evidence)))


def has_effect(idea: Finding, arguments: argparse.Namespace) -> bool:
    """Whether an idea's page has an effect for the device class and, where the command names it, for the budget."""
    seconds, steps = arguments.budget_seconds, arguments.budget_steps
    budget = f"{seconds:g} s" if seconds is not None else f"{steps} steps" if steps is not None else None
    return any(
        one.device_class == arguments.unmeasured and one.effect is not None and one.budget == (budget or one.budget)
        for one in idea.evidence
    )


def table(measured: Sequence[Measured], left: Sequence[Finding]) -> str:
    """The ideas in Markdown, the largest effect first; then those that failed and why, and those that are left."""
    head = "idea", "category", "run", "decision", "trials", "effect", "90 % interval", "probability"
    lines = [head, ("---", "---", "---:", "---", "---:", "---:", "---:", "---:")]
    failed = [one for one in measured if one.evidence.effect is None]
    scored = sorted((one for one in measured if one not in failed), key=lambda one: -(one.evidence.effect or 0.0))
    for one in [*scored, *failed]:
        evidence = one.evidence
        cells = one.finding.id, one.finding.category, str(one.run), evidence.decision, str(evidence.runs)
        lines.append((*cells, *_figures_of(evidence)))
    lines += [(finding.id, finding.category, "", "not tried", "0", "", "", "") for finding in left]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return text + "".join(f"\n\n{one.finding.id}: {one.reason}" for one in failed)


def _figures_of(evidence: Evidence) -> tuple[str, str, str]:
    if evidence.effect is None or evidence.error is None:
        return "", "", ""
    low, high = (evidence.effect + sign * SIGMAS * evidence.error for sign in (-1, 1))
    probability = "" if evidence.probability is None else f"{evidence.probability:.2f}"
    return f"{evidence.effect:+.{DECIMALS}f}", f"{low:+.{DECIMALS}f} .. {high:+.{DECIMALS}f}", probability


def summarize(ledger_path: Path) -> RunSummary:
    with closing(Ledger.open_to_read(ledger_path)) as ledger:
        return summarize_run(ledger)


def figures(summary: RunSummary, measured: Sequence[Measured], left: Sequence[Finding]) -> dict[str, str]:
    """The last lines."""
    effects = [one for one in measured if one.evidence.effect is not None]
    metric = "score" if summary.metric is None else summary.metric.name
    baseline = None if summary.baseline is None else summary.baseline.score
    champion = None if summary.champion_score is None else summary.champion_score.mean
    gain = None if summary.gain is None or not baseline else 100 * summary.gain / abs(baseline)
    return {
        "ideas_measured": str(len(effects)),
        "ideas_kept": str(sum(one.evidence.decision == Action.KEEP for one in effects)),
        "ideas_failed": str(len(measured) - len(effects)),
        "ideas_left": str(len(left)),
        f"baseline_{metric}": "none" if baseline is None else f"{baseline:.{DECIMALS}f}",
        f"champion_{metric}": "none" if champion is None else f"{champion:.{DECIMALS}f}",
        "gain_percent": "none" if gain is None else f"{gain:.2f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flagfile", default="configs/cpu.flags", help="dataset and budget of this device")
    parser.add_argument("--budget_seconds", type=float, help="of a trial, in place of the flag file's")
    parser.add_argument("--budget_steps", type=int, help="of a trial, in place of seconds")
    parser.add_argument("--tag", default="ideas", help="of the runs")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench_ideas"), help="of their repositories")
    parser.add_argument("--only", help="ids of ideas, with commas between them; by default all")
    parser.add_argument("--unmeasured", metavar="DEVICE_CLASS", help="leave out ideas with an effect on it; see above")
    parser.add_argument("--experiments", type=int, help="stop after this many; without this flag it goes on")
    parser.add_argument("--write", action="store_true", help="add what was measured to the shipped ideas")
    arguments, further = parser.parse_known_args()
    ideas = {path.stem: read_finding(path) for path in sorted(SHIPPED.glob("*.md"))}
    if arguments.only:
        if unknown := set(arguments.only.split(",")) - ideas.keys():
            parser.error(f"--only: no idea has the id {', '.join(sorted(unknown))}")
        ideas = {name: ideas[name] for name in arguments.only.split(",")}
    if arguments.unmeasured:
        ideas = {name: idea for name, idea in ideas.items() if not has_effect(idea, arguments)}
        if not ideas:
            parser.error(f"--unmeasured={arguments.unmeasured}: all ideas have an effect at this budget")
    dataset = ["prepare", f"--flagfile={arguments.flagfile}"]
    subprocess.run([sys.executable, "-m", "autoresearch_jax.cli", *dataset], check=True, stdout=sys.stderr)
    folder, results = arguments.folder.absolute(), dict[str, Measured]()
    ledgers: list[Path] = []  # one a run
    left = list(ideas.values())
    interrupts: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))  # it ends the run, which hears it too
    for run in count(1):
        ledger_path = folder / str(run) / "repository" / "runs" / arguments.tag / "ledger.db"
        status = run_ideas(folder / str(run), left, arguments, further)
        if status and run > 1 and not ledger_path.exists():
            break  # none of the ideas fits the training file
        if status:
            sys.exit(f"bench_ideas: run {run} ended with {status}; once that is mended, the same command goes on")
        ledgers.append(ledger_path)
        found = read_results(ledger_path, ideas, run)
        results |= found
        left = [finding for name, finding in ideas.items() if name not in results]
        if interrupts or arguments.experiments is not None or not left or not found:
            break
    measured = list(results.values())
    write_json(folder / "evidence.json", {one.finding.id: [vars(one.evidence)] for one in measured})
    if arguments.write:
        write_evidence(measured)
    print(table(measured, left))
    for key, value in figures(summarize(ledgers[0]), measured, left).items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    main()
