"""What a run on this machine depends on, looked at and tried, each fault with what helps. Takes the flags of `run`.

    autoresearch doctor --flagfile=configs/cpu.flags

Exit status 0 if a run with these flags would work, else 1. With --sandbox=auto that takes a sandbox: limits alone are
not enough.
"""

import configparser
import importlib.metadata
import json
import os
import platform
import re
import shutil
import sqlite3
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from packaging.requirements import Requirement

import autoresearch_jax
from autoresearch_jax.commands import model_options, proposer_options, sandbox_options, task_options
from autoresearch_jax.commands.doctor_task import Check, check_dataset, check_task, fault
from autoresearch_jax.commands.options import format_option, option
from autoresearch_jax.commands.paths import require_text, require_usable_name
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
from autoresearch_jax.sandbox.accounting import ATTENDED, host_processors, quota_cpus
from autoresearch_jax.sandbox.escapes import try_to_escape
from autoresearch_jax.sandbox.sandbox import Level, SandboxError, worker_level
from autoresearch_jax.sanitize import clean_line, redact, secret_values
from autoresearch_jax.snapshots.store import SnapshotStore
from autoresearch_jax.tasks.lm import device as devices
from autoresearch_jax.tasks.lm.cage import require_absolute_paths

TAKES_RUN_FLAGS = True
OLDEST = (3, 11)  # of Python
PLUGINS = {"jax-cuda12-plugin": "cuda12", "jax-cuda13-plugin": "cuda13", "libtpu": "tpu"}  # by setup.sh's extras
STEERING = ("JAX_", "XLA_", "LIBTPU_", "TPU_", "CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE")
REINSTALL = "in the checkout: rm -f .venv/.installed-* && ./scripts/setup.sh"
SMALL_RUN_BYTES = 100_000_000  # six small experiments take up to 60 MB
_BETTER_SANDBOX = {
    Level.BUBBLEWRAP: "apt-get install bubblewrap, or your system's package of that name; where it is installed and "
    "does not work, allow user namespaces: sysctl kernel.unprivileged_userns_clone=1, "
    "sysctl kernel.apparmor_restrict_unprivileged_userns=0, in a container --security-opt seccomp=unconfined",
    Level.LANDLOCK: 'Linux 5.13 or newer with "landlock" in /sys/kernel/security/lsm, else boot with lsm=landlock,...',
}
_DOCTOR_ADVICE = re.compile("[;:,] `autoresearch doctor`[^;:,]*")  # in messages of other commands


def check_python(options: RunOptions, environment: Mapping[str, str]) -> Iterator[Check]:
    """The interpreter, and whether the packages of setup.cfg are there; loads none of them."""
    name = f"{platform.python_implementation()} {platform.python_version()}"
    is_ok = sys.version_info >= OLDEST and sys.implementation.name == "cpython"
    yield Check("python", name) if is_ok else fault("python", name, f"rm -rf .venv, {REINSTALL}, with CPython 3.11")
    settings = configparser.ConfigParser()
    settings.read(Path(autoresearch_jax.__file__).parent.parent / "setup.cfg", encoding="utf-8")
    if settings.has_option("options", "install_requires"):  # the checkout's may be newer than what pip saw
        wanted = settings.get("options", "install_requires").split("\n")[1:]
    else:
        wanted = [one for one in importlib.metadata.requires("autoresearch_jax") or [] if ";" not in one]
    missing = ", ".join(problem for words in wanted if (problem := what_lacks(words)) is not None)
    yield fault("packages", missing, REINSTALL) if missing else Check("packages", f"all {len(wanted)} are there")


def what_lacks(requirement: str) -> str | None:
    """Why a requirement is not met, such as "optuna is not installed"; None if it is met."""
    wanted = Requirement(requirement)
    version = installed(wanted.name)
    if version is None:
        return f"{wanted.name} is not installed"
    return None if wanted.specifier.contains(version, prereleases=True) else f"{wanted} is not met by {version}"


def installed(name: str) -> str | None:
    """Version of a package; None if it is not there."""
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return None


def check_jax(options: RunOptions, environment: Mapping[str, str]) -> Iterator[Check]:
    """JAX, whether jaxlib fits it, plugins for accelerators, and variables that steer them, by name."""
    version, lib = installed("jax"), installed("jaxlib")
    if version is None or lib is None:
        yield fault("jax", "jax or jaxlib is not installed", REINSTALL)
        return
    needed = next((words for words in importlib.metadata.requires("jax") or [] if words.startswith("jaxlib")), "jaxlib")
    problem = what_lacks(needed)
    yield fault("jax", f"{version}: {problem}", REINSTALL) if problem else Check("jax", f"{version}, jaxlib {lib} fits")
    plugins = [f"{name} {version}" for name in PLUGINS if (version := installed(name)) is not None]
    yield Check("jax_plugins", ", ".join(plugins) or "none, the CPU only")
    require_absolute_paths(environment)
    steering = ", ".join(sorted(name for name in environment if name.startswith(STEERING)))
    remedy = "trials inherit them: unset those you do not mean" if steering else None
    yield Check("jax_variables", steering or "none", remedy=remedy)


def check_devices(options: RunOptions, environment: Mapping[str, str]) -> Iterator[Check]:
    """Processors, memory, the devices of --platform, and whether a trial process starts; JAX is loaded only there."""
    wanted, start = options.task.platform, time.monotonic()
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Check("machine", f"{host_processors()}, {ram / 1e9:.1f} GB of RAM")
    size = task_options.mesh_size(options.task.mesh)
    with tempfile.TemporaryDirectory(prefix="autoresearch-doctor-") as folder:
        log = Path(folder) / "worker.log"
        confined = worker_level(options.task.sandbox) is not Level.LIMITS
        try:
            device, answers = devices.find_trial_device(wanted, size, environment, log, confined=confined, ask_cpu=True)
        except devices.DeviceError as error:
            extras = [extra for extra in PLUGINS.values() if wanted == "auto" or extra.startswith(wanted)]
            install = f"./scripts/setup.sh {' or '.join(extras)} installs JAX's plugin, " if extras else ""
            said = log.read_text(errors="replace").splitlines()[-1:] if log.is_file() else []
            outcome = f"no trial process answers: {re.split('; | [(]', str(error))[0]} ({''.join(said) or 'no log'})"
            yield fault("devices", outcome, f"{install}--platform=cpu goes without; jax_variables steer JAX")
            return
    there = f"{device.num_devices} x {device.device_kind}"
    remedy = f"--mesh=data={device.num_devices}, or no --mesh at all"
    is_enough = size is None or size <= device.num_devices
    yield Check("devices", there) if is_enough else fault("devices", f"{there}, --mesh asks for {size}", remedy)
    try:
        places, _ = options.task.workers.divide(device, environment, size)
        yield Check("workers", str(len(places)))
    except UsageError as error:
        yield fault("workers", *str(error).rsplit(": ", 1))
    starts = f"starts on {device.platform}, and answered within {time.monotonic() - start:.1f} s"
    remedy = "--sandbox=limits goes without walls; please report it, with this machine's devices and drivers"
    open_only = fault("trial_process", f"{starts}, but not confined", remedy)
    yield open_only if confined and not answers else Check("trial_process", starts)


def check_clock(options: RunOptions, environment: Mapping[str, str]) -> Iterator[Check]:
    """What a trial's budget is counted by, and the processor time that its container has."""
    kind = "cpu" if options.task.is_command else devices.choose_platform(options.task.platform)
    refused: list[str] = []
    clock = task_options.find_clock(options.task.clock, kind, refused.append)
    if clock == ATTENDED:
        yield Check("clock", "attended: the kernel's accounts advanced while this process computed")
        limit, there = quota_cpus(), len(os.sched_getaffinity(0))
        if limit is not None and limit < there:
            remedy = "it is the machine that trials have, and is not excused: keep it the same throughout a run"
            yield Check("cpu_quota", f"this container may use {limit:g} of {there} processors", remedy=remedy)
    elif kind == "cpu":
        said = refused[0] if refused else "as --clock says: other work on this machine bends it"
        what, _, remedy = said.rpartition(": ")
        yield Check("clock", f"wall: {what}", remedy=remedy)
    else:
        yield Check("clock", "wall: trials have the device for themselves")


def check_sandbox(options: RunOptions, environment: Mapping[str, str]) -> Iterator[Check]:
    """Which level is in force, why no better one, and whether it holds, tried by escaping."""
    choice, cache_dir = options.task.sandbox, options.task.dataset.caches
    try:
        cage = sandbox_options.find_sandbox(choice, environment, cache_dir)
    except SandboxError as error:
        if isinstance(error.__cause__, OSError) or choice == "auto":
            raise
        cage = sandbox_options.find_sandbox("auto", environment, cache_dir)
        yield fault("sandbox_flag", str(error), f"what follows was tried with {cage.level}")
    is_ok = cage.level is not Level.LIMITS or choice == Level.LIMITS
    remedy = "nothing confines: the lines below say how to get walls, --sandbox=limits goes without"
    yield Check("sandbox", str(cage.level)) if is_ok else fault("sandbox", str(cage.level), remedy)
    if cage.worker is Level.LIMITS:
        yield Check("trial_sandbox", "none: traced programs run without walls", remedy=_BETTER_SANDBOX[Level.LANDLOCK])
    else:
        yield Check("trial_sandbox", cage.worker)
    for level, why in cage.why_not.items():
        yield Check(f"no_{level}", why, remedy=_BETTER_SANDBOX[level])
    for attempt in try_to_escape(cage, cache_dir, environment):
        if attempt.blocked:
            yield Check(attempt.name, "blocked")
        elif attempt.claimed:
            yield fault(attempt.name, "OPEN", "this level should block it: please report it")
        else:
            yield Check(attempt.name, "OPEN", remedy="this level does not block it")


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
    there = model_options.key_names(environment)
    remedy = f"only --proposer=gemini and hybrid have a use for one: export {model_options.KEY_VARIABLE}=..."
    yield Check("key", f"set: {', then '.join(there)}" if there else "none", remedy=None if there else remedy)
    for name in there:
        if re.search("[^!#-&(-_a-~]", environment[name]):  # quotes, spaces, and what is not ASCII
            remedy = f"copy the key again, whole, and nothing else: export {name}=..."
            yield fault(name.lower(), "set, with spaces, quotes or characters in it that no key has", remedy)
    model = options.proposer.model.settings(environment, required=options.proposer.proposer == "gemini")
    if model is not None and options.proposer.proposer in ("gemini", "hybrid"):
        model_options.try_model(model)
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
        proposer_options.check_proposer(settings, *files, source, environment)
        if settings.agent is not None:
            with made_up_run(options.editable, environment, whole=True) as workspace:
                notice = proposer_options.try_agent(settings, workspace, source, environment)
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
