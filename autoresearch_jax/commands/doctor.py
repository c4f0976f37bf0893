"""What of this machine a run depends on, looked at and tried, each fault with what helps. Takes the flags of `run`.

    autoresearch doctor --flagfile=configs/cpu.flags
    autoresearch doctor --flagfile=configs/cpu.flags --sections=sandbox --sandbox=require

Exit status 0 if a run with these flags would work, else 1. With --sandbox=auto that takes a sandbox: limits alone are
not enough.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from autoresearch_jax.commands.checks.check import Check, look_at
from autoresearch_jax.commands.checks.python import REINSTALL, check_python
from autoresearch_jax.errors import UsageError
from autoresearch_jax.sanitize import secret_values

if TYPE_CHECKING:  # what needs packages is imported where it is used: this command tells which of them are missing
    from autoresearch_jax.commands.dataset_flags import DatasetOptions
    from autoresearch_jax.types import Scalar

SECTIONS = ("python", "jax", "devices", "sandbox", "git", "disk", "clock", "dataset", "key", "run")
KEY_WIDTH = 20  # and a space, as other commands print it


@dataclass(frozen=True)
class Options:
    """What `autoresearch doctor` was asked to look at.

    Attributes:
      sections: names of sections, in their order.
      dataset: the dataset.
      mesh_axes: of --mesh; None without one.
      tag: of the run; None without one.
      run_dir: folder of the runs.
      data_dir: folder of the datasets.
      compile_cache: folder of XLA's compile cache; None for none.
      editable: the training file.
      min_free: bytes of the disk that a run leaves free.
      constants: that a run would start with, where the training file has others.
    """

    sections: tuple[str, ...]
    dataset: "DatasetOptions"
    mesh_axes: dict[str, int] | None
    tag: str | None
    run_dir: Path
    data_dir: Path
    compile_cache: Path | None
    editable: Path
    min_free: int
    constants: "dict[str, Scalar]"


def define_flags(flag_values: flags.FlagValues) -> None:
    try:
        from autoresearch_jax.commands.run import define_flags as define_flags_of_run
    except ImportError as error:  # then no flag is known, and nothing else can be looked at
        raise SystemExit(_say_what_lacks(error, as_json="--format=json" in sys.argv)) from None
    define_flags_of_run(flag_values)
    flags.DEFINE_list(
        "sections", list(SECTIONS), f"look at these only, by commas: {', '.join(SECTIONS)}", flag_values=flag_values
    )
    flags.DEFINE_enum("format", "text", ["text", "json"], "how to print it", flag_values=flag_values)


def run(flag_values: flags.FlagValues, positional: list[str]) -> int:
    from autoresearch_jax.engine.stopping import Interrupts

    options = _options(flag_values)
    environment = dict(os.environ)
    looks = _looks(options, flag_values, environment)
    report = Report(flag_values.format == "json")
    with Interrupts().installed() as interrupts, interrupts.allowed():
        for name in options.sections:
            report.add(name, look_at(name, looks[name], secret_values(environment)))
    return report.end()


class Report:
    """What was found: as text at once, as JSON at the end."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._sections: dict[str, list[Check]] = {}

    def add(self, name: str, checks: list[Check]) -> None:
        """Takes a section."""
        self._sections[name] = checks
        if not self._as_json:
            lines = [f"{check.name + ':':<{KEY_WIDTH}} {check.line}" for check in checks]
            print("\n".join([f"[{name}]", *lines, ""]), flush=True)

    def end(self) -> int:
        """Says what is wrong, and returns the exit status."""
        faults = [check.name for checks in self._sections.values() for check in checks if not check.is_ok]
        if self._as_json:
            sections = {name: [asdict(check) for check in checks] for name, checks in self._sections.items()}
            print(json.dumps(sections, indent=1))
        else:
            print(f"{'faults:':<{KEY_WIDTH}} {', '.join(faults) or 'none'}")
        return 1 if faults else 0


def _options(flag_values: flags.FlagValues) -> Options:
    """The flags, checked.

    Raises:
      UsageError: a flag's value makes no sense.
    """
    from autoresearch_jax.commands.constants_flag import constants_of
    from autoresearch_jax.commands.dataset_flags import dataset_options
    from autoresearch_jax.commands.decision_flags import decision_settings, make_certification
    from autoresearch_jax.commands.keeping_flags import keeping_options, min_free_bytes
    from autoresearch_jax.commands.run_flags import run_folder
    from autoresearch_jax.commands.task_flags import TaskOptions, parse_mesh
    from autoresearch_jax.tasks.lm.data.dataset import DatasetError

    for name in flag_values.sections:
        if name not in SECTIONS:
            raise UsageError(f"--sections: no section {name!r}, only {', '.join(SECTIONS)}")
    with suppress(DatasetError):  # which has a section of its own
        TaskOptions.from_flags(flag_values)
    decision_settings(flag_values)
    make_certification(flag_values)
    keeping_options(flag_values)
    if flag_values.tag:
        run_folder(flag_values)
    cache = flag_values.compile_cache
    return Options(
        sections=tuple(name for name in SECTIONS if name in flag_values.sections),
        dataset=dataset_options(flag_values),
        mesh_axes=parse_mesh(flag_values.mesh),
        tag=flag_values.tag or None,
        run_dir=Path(flag_values.run_dir),
        data_dir=Path(flag_values.data_dir),
        compile_cache=Path(cache) if cache else None,
        editable=Path(flag_values.editable),
        min_free=min_free_bytes(flag_values),
        constants=constants_of(flag_values),
    )


def _looks(
    options: Options, flag_values: flags.FlagValues, environment: Mapping[str, str]
) -> dict[str, Callable[[], Iterable[Check]]]:
    """How each section is looked at, by its name."""
    from autoresearch_jax.commands.checks.clock import check_clock, check_trial_clock
    from autoresearch_jax.commands.checks.dataset import check_dataset
    from autoresearch_jax.commands.checks.devices import check_devices
    from autoresearch_jax.commands.checks.disk import check_disk
    from autoresearch_jax.commands.checks.git import check_git
    from autoresearch_jax.commands.checks.jax import check_jax
    from autoresearch_jax.commands.checks.key import check_key
    from autoresearch_jax.commands.checks.run import check_run
    from autoresearch_jax.commands.checks.sandbox import check_sandbox

    return {
        "python": check_python,
        "jax": lambda: check_jax(environment),
        "devices": lambda: check_devices(flag_values.platform, options.mesh_axes, environment),
        "sandbox": lambda: check_sandbox(flag_values.sandbox, environment),
        "git": lambda: check_git(options.editable, options.tag, options.run_dir, environment, options.constants),
        "disk": lambda: check_disk(options.run_dir, options.data_dir, options.compile_cache, options.min_free),
        "clock": lambda: chain(check_clock(), check_trial_clock(flag_values.clock, flag_values.platform)),
        "dataset": lambda: check_dataset(options.dataset),
        "key": lambda: check_key(flag_values, environment),
        "run": lambda: check_run(flag_values, environment),
    }


def _say_what_lacks(error: ImportError, *, as_json: bool) -> int:
    """Reports on Python alone, where not even the flags can be imported."""
    report = Report(as_json)
    problem = Check("imports", str(error), is_ok=False, remedy=REINSTALL)
    report.add("python", [*look_at("python", check_python, ()), problem])
    return report.end()
