"""What `autoresearch doctor` looks at of the machine: Python, JAX, devices, the clock and the sandbox."""

import configparser
import importlib.metadata
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

import autoresearch_jax
from autoresearch_jax.commands import task_options
from autoresearch_jax.commands.run_options import RunOptions
from autoresearch_jax.errors import UsageError
from autoresearch_jax.sandbox.accounting import ATTENDED, host_processors, quota_cpus
from autoresearch_jax.sandbox.escapes import try_to_escape
from autoresearch_jax.sandbox.sandbox import Level, SandboxError, open_sandbox, worker_level
from autoresearch_jax.tasks.lm import device as devices
from autoresearch_jax.tasks.lm.cage import require_absolute_paths

OLDEST = (3, 11)  # of Python
PLUGINS = {"jax-cuda12-plugin": "cuda12", "jax-cuda13-plugin": "cuda13", "libtpu": "tpu"}  # by setup.sh's extras
STEERING = ("JAX_", "XLA_", "LIBTPU_", "TPU_", "CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE")
REINSTALL = "in the checkout: rm -f .venv/.installed-* && ./scripts/setup.sh"
_BETTER_SANDBOX = {
    Level.BUBBLEWRAP: "apt-get install bubblewrap, or your system's package of that name; where it is installed and "
    "does not work, allow user namespaces: sysctl kernel.unprivileged_userns_clone=1, "
    "sysctl kernel.apparmor_restrict_unprivileged_userns=0, in a container --security-opt seccomp=unconfined",
    Level.LANDLOCK: 'Linux 5.13 or newer with "landlock" in /sys/kernel/security/lsm, else boot with lsm=landlock,...',
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `is_ok` says whether a run may rely on it, the remedy what to do."""

    name: str
    outcome: str
    is_ok: bool = True
    remedy: str | None = None


def fault(name: str, outcome: str, remedy: str) -> Check:
    """A check that failed."""
    return Check(name, outcome, False, remedy)


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
        cage = open_sandbox(choice, cache_dir=cache_dir, environment=environment)
    except SandboxError as error:
        if isinstance(error.__cause__, OSError) or choice == "auto":
            raise
        cage = open_sandbox("auto", cache_dir=cache_dir, environment=environment)
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
