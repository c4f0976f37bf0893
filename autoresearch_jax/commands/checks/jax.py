"""Which JAX would run, whether its parts fit one another, and which variables steer it. Does not load it."""

import importlib.metadata
from collections.abc import Iterator, Mapping

from autoresearch_jax.commands.checks.check import Check
from autoresearch_jax.commands.checks.python import REINSTALL

PLUGINS = {"jax-cuda12-plugin": "cuda12", "jax-cuda13-plugin": "cuda13", "libtpu": "tpu"}  # by setup.sh's extras
_STEERING = ("JAX_", "XLA_", "LIBTPU_", "TPU_", "CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE")
_OVERRIDDEN = ("JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")


def check_jax(environment: Mapping[str, str]) -> Iterator[Check]:
    """JAX, jaxlib, the plugins for accelerators, and variables by their names.

    Args:
      environment: of this process.
    """
    from packaging.requirements import Requirement  # may be missing

    versions = {name: installed(name) for name in ("jax", "jaxlib", *PLUGINS)}
    for name in ("jax", "jaxlib"):
        if versions[name] is None:
            yield Check(name, "not installed", is_ok=False, remedy=REINSTALL)
    if versions["jax"] is not None:
        yield Check("jax", versions["jax"])
        wanted = [Requirement(words) for words in importlib.metadata.requires("jax") or []]
        jaxlib = next((one.specifier for one in wanted if one.name == "jaxlib" and one.marker is None), None)
        if versions["jaxlib"] is not None and jaxlib is not None:
            if jaxlib.contains(versions["jaxlib"], prereleases=True):
                yield Check("jaxlib", f"{versions['jaxlib']}, fits")
            else:
                outcome = f"{versions['jaxlib']}, and jax {versions['jax']} wants {jaxlib}"
                yield Check("jaxlib", outcome, is_ok=False, remedy=REINSTALL)
    plugins = [f"{name} {versions[name]}" for name in PLUGINS if versions[name] is not None]
    yield Check("jax_plugins", ", ".join(plugins) or "none, the CPU only")
    yield _variables(environment)


def _variables(environment: Mapping[str, str]) -> Check:
    set_here = sorted(name for name in environment if name.startswith(_STEERING))
    steering = [name for name in set_here if name not in _OVERRIDDEN]
    overridden = [f"{name} (not heeded: flags say it)" for name in set_here if name in _OVERRIDDEN]
    if not set_here:
        return Check("jax_variables", "none")
    remedy = "trials inherit them, and scores may depend on them: unset those you do not mean" if steering else None
    return Check("jax_variables", ", ".join([*steering, *overridden]), remedy=remedy)


def installed(name: str) -> str | None:
    """Version of a package; None if it is not there."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
