"""What a run on this machine depends on, looked at and tried, each fault with what helps. Takes the flags of `run`.

    autoresearch doctor --flagfile=configs/cpu.flags

Exit status 0 if a run with these flags would work, else 1. With --sandbox=auto that takes a sandbox: limits alone are
not enough.
"""

import json
import os
import re
import shlex
import shutil
import sqlite3
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from autoresearch_jax.commands import proposers
from autoresearch_jax.commands.doctor_machine import (
    Check,
    check_clock,
    check_devices,
    check_jax,
    check_python,
    check_sandbox,
    fault,
)
from autoresearch_jax.commands.options import format_option, option
from autoresearch_jax.commands.paths import require_text, require_usable_name
from autoresearch_jax.commands.proposer_options import KEY_VARIABLE, key_names
from autoresearch_jax.commands.run import run_seed
from autoresearch_jax.commands.run_options import RunOptions
from autoresearch_jax.engine.disk import DiskGuard
from autoresearch_jax.engine.git import Git
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.limits import ends_in_words, with_experiments
from autoresearch_jax.engine.program import ProgramError, read_program
from autoresearch_jax.engine.run_folder import RunFolder, check_settings
from autoresearch_jax.engine.state import run_settings
from autoresearch_jax.engine.stopping import Interrupts
from autoresearch_jax.engine.workspace import Workspace, made_up_run
from autoresearch_jax.errors import UsageError, UserError
from autoresearch_jax.files import plain_text
from autoresearch_jax.report.tables import KEY_WIDTH
from autoresearch_jax.sanitize import clean_line, redact, secret_values
from autoresearch_jax.snapshots.store import SnapshotStore
from autoresearch_jax.tasks.lm.data.dataset import SPLITS, covered_files, prepare_command, rows_file

HASHED_BYTES = 200_000_000  # up to which all files of a dataset are hashed, which takes a second or less
TAKES_RUN_FLAGS = True
SMALL_RUN_BYTES = 100_000_000  # six small experiments take up to 60 MB
_DOCTOR_ADVICE = re.compile("[;:,] `autoresearch doctor`[^;:,]*")  # in messages of other commands


def check_task(options: RunOptions, environment: Mapping[str, str]) -> Iterator[Check]:
    """The file of --task=command, and what it names; nothing of it is run, which `autoresearch trial` does."""
    task = options.task.command
    yield Check("task_file", str(task.path))
    yield Check("asset", f"{task.asset.file}, a {task.asset_kind.noun}")
    yield Check("metric", f"{task.metric.name}, to {task.metric.direction}; its noise is that of {task.metric.noise}")
    for name, command in (("build", task.build), ("run", task.run), ("serve", task.serve), ("evaluate", task.evaluate)):
        if command is not None:
            yield Check(name, shlex.join(command.command))


def check_dataset(options: RunOptions, environment: Mapping[str, str]) -> Iterator[Check]:
    """The dataset, its fingerprint, what it holds, and its files."""
    dataset = options.task.dataset.open()
    manifest, length = dataset.manifest, dataset.sequence_length
    yield Check("dataset", str(dataset.folder))
    yield Check("fingerprint", dataset.fingerprint)
    for size in dataset.vocab_sizes:
        rows = (f"{split} {manifest.rows[rows_file(size, length, split)]}" for split in SPLITS)
        yield Check(f"dataset_rows_{size}", f"{', '.join(rows)}, of {length} tokens")
    names = covered_files(dataset.vocab_sizes, length)
    there = f"{len(names)} files, {sum(manifest.files[name].size for name in names) / 1e6:.1f} MB"
    if sum(entry.size for entry in manifest.files.values()) > HASHED_BYTES:
        yield Check("dataset_files", f"{there}: sizes as written; the hashes of so much were not computed")
    elif wrong := sorted(set(dataset.verify()) & set(names)):
        command = prepare_command(dataset.folder, manifest.corpus, length, dataset.vocab_sizes)
        remedy = f"rm {shlex.quote(str(dataset.folder / wrong[0]))} && {command}"
        yield fault("dataset_files", f"{', '.join(wrong)}: not as written", remedy)
    else:
        yield Check("dataset_files", f"{there}: sizes and hashes as written")


def check_editable(options: RunOptions, environment: Mapping[str, str]) -> Iterator[Check]:
    """Git itself, the training file, and whether the branch of --tag is free or the run's own."""
    yield Check("git", Git(Path.cwd(), environment).text("version").removeprefix("git version "))
    folder = options.where.folder if options.where.tag else RunFolder(Path("doctor"))
    begins = options.start.constants
    workspace = Workspace.of(options.editable, folder.path.name, folder.workspace, environment, begins)
    if folder.ledger.is_file():
        yield Check("editable", f"{options.editable}; the run goes on from its own commits")
        return
    workspace.baseline()
    workspace.require_unused_branch()
    yield Check("editable", f"{options.editable}, committed and unchanged")


def check_worktree(options: RunOptions, environment: Mapping[str, str]) -> Iterator[Check]:
    """Whether git makes a commit, a branch and a worktree for a run."""
    with made_up_run(options.editable, environment, whole=False):
        yield Check("worktree", "a commit, a branch and a worktree can be made")


def check_model(options: RunOptions, environment: Mapping[str, str]) -> Iterator[Check]:
    """Keys of a Gemini model, and whether a client of it can be made. It sends nothing; nothing of a key is shown."""
    there = key_names(environment)
    remedy = f"only --proposer=gemini and hybrid have a use for one: export {KEY_VARIABLE}=..."
    yield Check("key", f"set: {', then '.join(there)}" if there else "none", remedy=None if there else remedy)
    for name in there:
        if re.search("[^!#-&(-_a-~]", environment[name]):  # quotes, spaces, and what is not ASCII
            remedy = f"copy the key again, whole, and nothing else: export {name}=..."
            yield fault(name.lower(), "set, with spaces, quotes or characters in it that no key has", remedy)
    model = options.proposer.model.settings(environment, required=options.proposer.proposer == "gemini")
    if model is not None and options.proposer.proposer in ("gemini", "hybrid"):
        proposers.try_model(model)
    yield Check("model", "no flag asks for one" if model is None else f"{model.model} can be asked")


def check_program(options: RunOptions, environment: Mapping[str, str]) -> Iterator[Check]:
    """The page, and what it says will end the run."""
    program = read_program(options.program)
    program.check_metric(options.task.metric.name)
    yield Check("program", f"{options.program}, {len(program.constants)} constants in its table")
    yield from (Check("program_notice", line) for line in program.notices)
    yield Check("ends", ends_in_words(with_experiments(program.stops, options.experiments)))
    is_new = not (options.where.tag and options.where.folder.ledger.is_file())  # one that goes on leaves rows out
    with suppress(OSError, UnicodeDecodeError):  # of which other lines tell
        if is_new and (misfits := program.usable(options.task.asset, plain_text(options.editable.read_bytes()))[1]):
            raise ProgramError(misfits[0])


def check_proposer(options: RunOptions, environment: Mapping[str, str]) -> Iterator[Check]:
    """Whether --proposer has what it needs; an agent's command is started for a second."""
    settings = options.proposer.settings(options.where, environment)
    with suppress(ProgramError, OSError):  # of which other lines tell
        source = options.editable.read_text(encoding="utf-8", errors="replace")
        files = options.task.asset, options.editable, read_program(options.program)
        proposers.check_proposer(settings, *files, source, environment)
        if settings.agent is not None:
            with made_up_run(options.editable, environment, whole=True) as workspace:
                notice = proposers.try_agent(settings, workspace, source, environment)
            yield Check("agent", "starts", remedy=notice)
    yield Check("proposer", settings.name)


def check_run_dir(options: RunOptions, environment: Mapping[str, str]) -> Iterator[Check]:
    """Whether runs can be written to their folder, or to the nearest above that is there, and the room for them."""
    path = Path(options.where.run_dir).absolute()
    require_usable_name("--run_dir", path, for_snapshots=True)
    require_text(path)
    folder = next(above for above in (path, *path.parents) if os.path.lexists(above))
    DiskGuard(RunFolder(folder), options.snapshots.min_free_bytes).require_room(SMALL_RUN_BYTES)
    yield Check("run_dir", f"{options.where.run_dir}, {shutil.disk_usage(folder).free / 1e9:.1f} GB free")


def check_snapshot_dir(options: RunOptions, environment: Mapping[str, str]) -> Iterator[Check]:
    """Whether snapshots can be moved to --snapshot_dir."""
    if (place := options.snapshots.snapshot_dir) is not None:
        SnapshotStore(place.rstrip("/")).check()
    yield Check("snapshot_dir", place or "none, snapshots stay in the run's folder")


def check_ledger(options: RunOptions, environment: Mapping[str, str]) -> Iterator[Check]:
    """Whether the run of --tag can go on: no driver is at work, its ledger can be read, its settings are these."""
    if not options.where.tag:
        return
    folder = options.where.folder
    folder.require_ledger()
    if (holder := folder.holder()) is not None:
        raise UserError(f"{holder} is at work on {folder.path}: wait for it, stop it, or choose another --tag")
    if not folder.ledger.exists():
        yield Check("ledger", "none yet, the run begins")
        return
    try:
        with closing(Ledger.open_to_read(folder.ledger)) as ledger:
            ledger.experiments()
            stored = ledger.settings()
    except (sqlite3.Error, ValueError, LookupError, TypeError) as error:
        remedy = "restore it from a copy; `autoresearch verify` tells what is damaged"
        raise UserError(f"{folder.ledger}: cannot be read: {error}: {remedy}") from error
    with tempfile.TemporaryDirectory(prefix="autoresearch-doctor-") as scratch:
        terms = options.task.make_terms(Path(scratch) / "worker.log")
    workspace = Workspace.of(options.editable, folder.path.name, folder.workspace, environment)
    rule, pruning = options.decision.rule(terms.metric), options.decision.pruning()
    seed = run_seed(options.seed, stored)
    now = run_settings(workspace.editable, seed, terms, rule, pruning, options.decision.certification())
    check_settings(stored or now, now, folder.path)
    yield Check("ledger", f"{folder.ledger}, the run goes on with these flags")


CheckFunction = Callable[[RunOptions, Mapping[str, str]], Iterator[Check]]
SECTIONS: dict[str, tuple[CheckFunction, ...]] = {
    "python": (check_python,),
    "jax": (check_jax,),
    "devices": (check_devices,),
    "clock": (check_clock,),
    "sandbox": (check_sandbox,),
    "git": (check_editable, check_worktree),
    "task": (check_task,),
    "dataset": (check_dataset,),
    "key": (check_model,),
    "run": (check_program, check_proposer, check_run_dir, check_snapshot_dir, check_ledger),
}
OF_LM, OF_COMMAND = ("jax", "devices", "dataset"), ("task",)  # sections that the other task has no use for


@dataclass(frozen=True)
class Options:
    """What `autoresearch doctor` was asked to look at."""

    run: RunOptions
    sections: tuple[str, ...] = option(tuple(SECTIONS), f"look at these only, by commas: {', '.join(SECTIONS)}")
    format: str = format_option()


def run(options: Options, arguments: list[str]) -> int:
    """Looks at each section, prints what it found, and returns 0 if a run would work."""
    if unknown := [name for name in options.sections if name not in SECTIONS]:
        raise UsageError(f"--sections: no section {unknown[0]!r}, only {', '.join(SECTIONS)}")
    found: dict[str, list[Check]] = {}
    wanted = set(options.sections) - set(OF_LM if options.run.task.is_command else OF_COMMAND)
    with Interrupts().installed() as interrupts, interrupts.allowed():
        for section in (section for section in SECTIONS if section in wanted):
            found[section] = [one for check in SECTIONS[section] for one in look_at(check, options.run, os.environ)]
            if options.format == "text":
                print(f"[{section}]")
                for check in found[section]:
                    print(f"{check.name + ':':<{KEY_WIDTH}} {'; '.join(filter(None, (check.outcome, check.remedy)))}")
                print(flush=True)
    faults = [check.name for checks in found.values() for check in checks if not check.is_ok]
    if options.format == "json":
        print(json.dumps({name: [asdict(check) for check in checks] for name, checks in found.items()}, indent=1))
    else:
        print(f"{'faults:':<{KEY_WIDTH}} {', '.join(faults) or 'none'}")
    return 1 if faults else 0


def look_at(check: CheckFunction, options: RunOptions, environment: Mapping[str, str]) -> list[Check]:
    """What a check finds; what it raises becomes a fault of its name. Values of secret variables are blanked out."""
    found: list[Check] = []
    name = check.__name__.removeprefix("check_")
    hidden = secret_values(environment)
    try:
        found += check(options, environment)  # keeps what it found before it raises
    except UserError as error:  # whose message ends with what helps
        what, _, remedy = str(error).rpartition(": ")
        found.append(fault(name, what or str(error), remedy if what else "see to what it says"))
    except Exception as error:
        print(redact(traceback.format_exc(), hidden), file=sys.stderr)
        remedy = "a fault of doctor's own: please report it, with what stands on standard error"
        found.append(fault(f"{name}_failed", f"{type(error).__name__}: {error}", remedy))

    def clean(text: str) -> str:
        return clean_line(_DOCTOR_ADVICE.sub("", redact(text, hidden)), limit=2000)  # what helps must not be cut

    return [replace(one, outcome=clean(one.outcome), remedy=one.remedy and clean(one.remedy)) for one in found]
