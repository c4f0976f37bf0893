"""How training files are confined on this machine, tried by escaping, and how to do better."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from autoresearch_jax.commands.checks.check import LOOK, Check, reason
from autoresearch_jax.commands.task_flags import CACHE_DIR, find_sandbox
from autoresearch_jax.sandbox.escapes import Attempt, try_to_escape
from autoresearch_jax.sandbox.landlock import landlock_abi
from autoresearch_jax.sandbox.sandbox import Level, SandboxError

_REMEDIES = {
    Level.BUBBLEWRAP: "apt-get install bubblewrap, or your system's package of that name; where it is installed and "
    "does not work, allow user namespaces: sysctl kernel.unprivileged_userns_clone=1, "
    "sysctl kernel.apparmor_restrict_unprivileged_userns=0, in a container --security-opt seccomp=unconfined",
    Level.LANDLOCK: 'Linux 5.13 or newer with Landlock among its security modules: "landlock" in '
    "/sys/kernel/security/lsm, else the boot parameter lsm=landlock,...",
}

_CACHE_REMEDY = f"make {CACHE_DIR} a folder that you can write to, on a disk with room"
_NO_WALLS = "nothing confines: the lines below say how to get walls, --sandbox=limits goes without"


def check_sandbox(choice: str, environment: Mapping[str, str]) -> Iterator[Check]:
    """Which level is in force, why no better one, and whether it holds.

    Args:
      choice: value of --sandbox.
      environment: of this process.
    """
    refused = []
    try:
        cage = find_sandbox(choice, environment)
    except SandboxError as error:
        try:
            cage = find_sandbox("auto", environment)
        except SandboxError as none_at_all:
            is_folder = isinstance(none_at_all.__cause__, OSError)
            remedy = _CACHE_REMEDY if is_folder else LOOK
            yield Check("sandbox", str(none_at_all), is_ok=False, remedy=remedy)
            return
        refused = [Check("sandbox_flag", str(error), is_ok=False, remedy=f"what follows was tried with {cage.level}")]
    walls = cage.level is not Level.LIMITS or choice == Level.LIMITS
    yield Check("sandbox", str(cage.level), is_ok=walls, remedy=None if walls else _NO_WALLS)
    yield from refused
    for level, why in cage.why_not.items():
        yield Check(f"no_{level}", why, remedy=_REMEDIES[level])
    version = landlock_abi()
    yield Check("landlock_version", str(version) if version else "none")
    try:
        attempts = try_to_escape(cage, Path(CACHE_DIR).expanduser(), environment)
    except OSError as error:
        yield Check("escapes", f"not tried: {reason(error)}", is_ok=False, remedy=_CACHE_REMEDY)
        return
    for attempt in attempts:
        yield _check_of(attempt)


def _check_of(attempt: Attempt) -> Check:
    if attempt.blocked:
        return Check(attempt.name, "blocked")
    if attempt.claimed:
        return Check(attempt.name, "OPEN", is_ok=False, remedy="this level should block it: please report it")
    return Check(attempt.name, "OPEN", remedy="this level does not block it")
