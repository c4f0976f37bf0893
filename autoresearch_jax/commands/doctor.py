"""What of this machine a run depends on: how candidates are confined here, tried by escaping, and how to do better.

    autoresearch doctor --sandbox=require

Exit status 1 if something is open that the level in force should block, or if what --sandbox asks for cannot be had;
with --sandbox=auto that is a sandbox, so limits alone are not enough.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from absl import flags

from autoresearch_jax.commands.task_flags import CACHE_DIR, define_sandbox_flag, find_sandbox
from autoresearch_jax.report.tables import format_lines
from autoresearch_jax.runtime.escapes import Attempt, try_to_escape
from autoresearch_jax.runtime.landlock import landlock_abi
from autoresearch_jax.runtime.sandbox import Level, SandboxError

_REMEDIES = {
    Level.BUBBLEWRAP: "apt-get install bubblewrap, or your system's package of that name; where it is installed and "
    "does not work, allow user namespaces: sysctl kernel.unprivileged_userns_clone=1, "
    "sysctl kernel.apparmor_restrict_unprivileged_userns=0, in a container --security-opt seccomp=unconfined",
    Level.LANDLOCK: 'Linux 5.13 or newer with Landlock among its security modules: "landlock" in '
    "/sys/kernel/security/lsm, else the boot parameter lsm=landlock,...",
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
      name: what.
      outcome: in a word or two.
      is_ok: whether a run may rely on it.
      remedy: what helps, None where nothing is to be done.
    """

    name: str
    outcome: str
    is_ok: bool = True
    remedy: str | None = None

    @property
    def line(self) -> str:
        """The outcome, with what helps."""
        return self.outcome if self.remedy is None else f"{self.outcome}; {self.remedy}"


def define_flags(flag_values: flags.FlagValues) -> None:
    define_sandbox_flag(flag_values)
    flags.DEFINE_enum("format", "text", ["text", "json"], "how to print it", flag_values=flag_values)


def run(flag_values: flags.FlagValues, positional: list[str]) -> int:
    sections = {"sandbox": check_sandbox(flag_values.sandbox)}
    checks = [check for section in sections.values() for check in section]
    if flag_values.format == "json":
        print(json.dumps({name: [asdict(check) for check in section] for name, section in sections.items()}, indent=1))
    else:
        print(format_lines({check.name: check.line for check in checks}))
    return 0 if all(check.is_ok for check in checks) else 1


def check_sandbox(choice: str) -> list[Check]:
    """Which level is in force, why no better one, and whether it holds."""
    environment = dict(os.environ)
    refused = []
    try:
        cage = find_sandbox(choice, environment)
    except SandboxError as error:
        cage = find_sandbox("auto", environment)
        refused = [Check("sandbox_flag", str(error), is_ok=False, remedy=f"what follows was tried with {cage.level}")]
    levels = [Check(f"no_{level}", reason, remedy=_REMEDIES[level]) for level, reason in cage.why_not.items()]
    version = landlock_abi()
    facts = [Check("landlock_version", str(version) if version else "none")]
    attempts = try_to_escape(cage, Path(CACHE_DIR).expanduser(), environment)
    walls = cage.level is not Level.LIMITS or choice == Level.LIMITS
    return [Check("sandbox", str(cage.level), is_ok=walls), *refused, *levels, *facts, *map(_check_of, attempts)]


def _check_of(attempt: Attempt) -> Check:
    if attempt.blocked:
        return Check(attempt.name, "blocked")
    if attempt.claimed:
        return Check(attempt.name, "OPEN", is_ok=False, remedy="this level should block it: please report it")
    return Check(attempt.name, "OPEN", remedy="this level does not block it")
