"""Findings: changes of the training file that are worth a try, or were tried.

    autoresearch findings list
    autoresearch findings show tied-embeddings
    autoresearch findings export --tag=nov20             # kept edits and clear refutations of a run
    autoresearch findings import ../theirs               # a folder of findings, or one page

`autoresearch run` tries those that are shipped and those in --findings_dir, where `export` writes and `import` stores.
"""

import json
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from autoresearch_jax.assets.base import AssetKind
from autoresearch_jax.assets.kinds import TRAINING_FILE, guessed_kind
from autoresearch_jax.commands.console import notices_of
from autoresearch_jax.commands.folder_options import FindingOptions, FolderOptions
from autoresearch_jax.commands.options import format_option, option
from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import describe_gain, shown
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.run_findings import findings_of_run
from autoresearch_jax.engine.state import asset_of
from autoresearch_jax.errors import UsageError
from autoresearch_jax.findings.folder import DIFF_NAME, FindingFolder, Library, open_library
from autoresearch_jax.findings.format import (
    Evidence,
    Finding,
    FindingError,
    changed_base,
    device_class,
    diff_change,
    finding_json,
    finding_text,
    read_finding,
)
from autoresearch_jax.report.tables import format_table
from autoresearch_jax.sanitize import clean_block, clean_line
from autoresearch_jax.swarm.membership import SwarmFolder
from autoresearch_jax.tasks.lm.device import choose_platform
from autoresearch_jax.types import Scalar

_tell = notices_of("findings")
TAKES_ARGUMENTS = True
ACTIONS = "list, show ID, export --tag=RUN or import DIR|FILE"


@dataclass(frozen=True)
class Options:
    """What `autoresearch findings` was asked to do."""

    where: FolderOptions = field(default_factory=FolderOptions)
    findings: FindingOptions = field(default_factory=FindingOptions)
    to: str | None = option(None, "folder that export writes to, in place of --findings_dir", path=True)
    device_class: str | None = option(
        None, 'whose evidence list shows, such as cpu or "NVIDIA H100 80GB HBM3"; by default of --tag or this machine'
    )
    format: str = format_option()


def run(options: Options, arguments: list[str]) -> int:
    """Does one of `ACTIONS`."""
    action, rest = (arguments[0], arguments[1:]) if arguments else ("list", [])
    peers = SwarmFolder(Path(options.where.run_dir)).findings
    library = open_library(options.findings.folder(options.where), _tell, _asset(options.where), peers)
    if action == "list" and not rest:
        return list_findings(library, options)
    if action == "show" and len(rest) == 1:
        return show_finding(library, rest[0], options.format)
    if action == "export" and not rest:
        return export_findings(library, options)
    if action == "import" and len(rest) == 1:
        return import_findings(library, Path(rest[0]))
    raise UsageError(f"findings {clean_line(' '.join(arguments))}: expected {ACTIONS}")


def list_findings(library: Library, options: Options) -> int:
    """Prints a line a finding."""
    findings, shown_class = library.findings(), _shown_class(options)
    if options.format == "json":
        print(json.dumps([_as_json(library, finding) for finding in findings], indent=1))
        return 0
    if not findings:
        raise FindingError(
            f"{options.findings.folder(options.where)}: no findings there, and none are shipped for this file"
        )
    rows: list[dict[str, Scalar]] = [
        {
            "id": finding.id,
            "category": finding.category,
            "status": finding.status,
            "title": finding.title,
            f"evidence on {shown_class or 'any device'}": "; ".join(
                _in_words(one, shown_class) for one in finding.evidence if shown_class in (None, one.device_class)
            ),
        }
        for finding in findings
    ]
    print(format_table(rows))
    return 0


def show_finding(library: Library, name: str, format: str) -> int:
    """Prints a page."""
    finding = library.get(name)
    if format == "json":
        print(json.dumps(_as_json(library, finding), indent=1))
    else:  # as it is, unless a terminal would obey what stands in its change
        text = finding_text(finding)
        print(clean_block(text, sys.maxsize) if sys.stdout.isatty() else text.rstrip("\n"))
    return 0


def export_findings(library: Library, options: Options) -> int:
    """Writes the findings of a run, and prints a line each and what was left out."""
    folder = options.where.existing
    target = options.findings.folder(options.where) if options.to is None else Path(options.to)
    store = FindingFolder(target, _tell)
    with closing(Ledger.open_to_read(folder.ledger)) as ledger, ledger.as_of_now():
        found = findings_of_run(ledger, folder.path.name, library)
    refused = 0
    for one in found.findings:
        try:
            done = store.add(one.finding, one.base_text)
        except FindingError as error:
            refused += 1
            _tell(f"experiment {one.experiment}: {error}")
            continue
        (evidence,) = one.finding.evidence
        mark = "certified" if evidence.certified else one.finding.status
        print(f"{one.finding.id}  {mark}  {done}: {one.finding.title}")
    print(f"findings:            {len(found.findings) - refused}")
    for what, count in found.left_out.items():
        print(f"left out:            {count} {what}")
    print(f"folder:              {target}")
    return 1 if refused else 0


def import_findings(library: Library, place: Path) -> int:
    """Checks and stores the pages of a folder, or one page; prints a line each."""
    pages = sorted(place.glob("*.md")) if place.is_dir() else [place]
    if not pages:
        raise UsageError(f"{place}: has no page of a finding, such as ID.md")
    if place.suffix == ".json":
        raise UsageError(f"{place}: import the page beside it, {place.with_suffix('.md').name}")
    source = FindingFolder(pages[0].parent, _tell)
    refused = 0
    for page in pages:
        try:
            finding = read_finding(page)
            base = source.base_text(finding.base)
            done = library.add(finding, base)
        except FindingError as error:
            refused += 1
            _tell(str(error))
            continue
        alone = "" if base is not None or library.base_text(finding.base) is not None else ", without its base"
        print(f"{finding.id}: {done}{alone}")
    return 1 if refused else 0


def _asset(where: FolderOptions) -> AssetKind:
    """The kind of file that the run --tag edits, without which it is a training file."""
    if where.tag is None:
        return TRAINING_FILE
    with closing(Ledger.open_to_read(where.existing.ledger)) as ledger:
        return asset_of(ledger)


def _shown_class(options: Options) -> str | None:
    """The device class whose evidence is shown; None for all, where an accelerator would have to be asked."""
    if options.device_class is not None:
        return options.device_class
    if options.where.tag is not None:
        with closing(Ledger.open_to_read(options.where.existing.ledger)) as ledger:
            return device_class(ledger.settings())
    return "cpu" if choose_platform("auto") == "cpu" else None


def _in_words(evidence: Evidence, shown_class: str | None) -> str:
    words = evidence.decision
    if evidence.effect is not None:
        words += f", {describe_gain(Estimate(evidence.effect, evidence.error or 0.0))}"
    if evidence.probability is not None:
        words += f", P {shown(evidence.probability)}"
    words += ", certified" if evidence.certified else ""
    words += f", {evidence.runs} of {evidence.budget}"
    return clean_line(words if shown_class is not None else f"{evidence.device_class}: {words}")


def _as_json(library: Library, finding: Finding) -> dict[str, object]:
    """A finding as its twin has it; the change stays as it is where its base is not known."""
    base, diff = library.base_text(finding.base), finding.change
    if base is not None:
        asset = guessed_kind(base)
        diff = diff_change(base, changed_base(finding, base, asset), DIFF_NAME, asset)
    return finding_json(finding, diff)
