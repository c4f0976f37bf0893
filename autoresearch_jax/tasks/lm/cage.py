"""What the process of a trial may touch: its variables, files, devices and network. Loads no JAX.

It runs candidates' programs, so it is confined before it is Python, to what any trial of the task needs, and confines
itself further to what its own trial needs once it knows which. See docs/reference/sandbox.md.
"""

import compileall
import contextlib
import importlib.util
import os
import re
import shutil
import site
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch_jax.errors import UsageError
from autoresearch_jax.sandbox.linux import LOCK_MEMORY, READ_AND_WRITE_ANYTHING
from autoresearch_jax.sandbox.mounts import READABLE_DEVICES, WRITABLE_DEVICES, package_root
from autoresearch_jax.sandbox.watch import LOOPBACK
from autoresearch_jax.tasks.lm.data.dataset import MANIFEST, counts_file, rows_file

# What a trial's process inherits: what steers Python, JAX, XLA, the runtimes of accelerators, threads and memory.
INHERITED_NAMES = {
    *("PATH", "LANG", "LANGUAGE", "TZ", "LOGNAME", "USER", "LD_LIBRARY_PATH", "LD_PRELOAD", "GLIBC_TUNABLES"),
    *("VIRTUAL_ENV", "CONDA_PREFIX", "ALLOW_MULTIPLE_LIBTPU_LOAD"),
}
INHERITED_PREFIXES = (
    *("LC_", "PYTHON", "JAX_", "XLA_", "PJRT_", "TF_", "CUDA_", "CUDNN_", "CUBLAS_", "NVIDIA_", "NCCL_", "TPU_"),
    *("GCE_METADATA_", "LIBTPU_", "MALLOC_", "TCMALLOC_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_"),
)
# What a trial's process imports that loads JAX
OPERATIONS = ("autoresearch_jax.tasks.lm.measure", "autoresearch_jax.tasks.lm.judging")
_SECRET = re.compile("API_KEY|ACCESS_KEY|TOKEN|SECRET|PASSW|CREDENTIAL")  # NVIDIA_API_KEY is one

# Software, settings and states of the system, which are no secrets
_SYSTEM = (
    *("/usr", "/lib", "/lib32", "/lib64", "/bin", "/nix/store", "/gnu/store", "/run/opengl-driver", "/proc"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/passwd", "/etc/group"),
    *("/etc/nsswitch.conf", "/etc/nvidia", "/opt/cuda", "/opt/nvidia"),
    *(f"/sys/{name}" for name in ("bus", "class", "dev", "devices", "fs/cgroup", "kernel/mm", "module")),
)
# By which a TPU's runtime finds the machine's metadata service, and hosts find each other
_NAME_LOOKUP = ("/etc/hosts", "/etc/host.conf", "/etc/resolv.conf", "/etc/gai.conf")
_CUDA_HOMES = ("CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDNN_PATH")
_DEVICES = {
    "cuda": ("nvidia*", "dxg"),
    "tpu": ("accel*", "vfio"),
}
# Folders and files that the user's settings name
_READ_FLAGS = re.compile(r"--xla_gpu_(?:cuda_data_dir|load_autotune_results_from)=(\S+)")
_WRITTEN_FOLDERS = re.compile(r"--xla\w*_(?:dump_to|cache_dir)=(/\S+)")
_WRITTEN_FILES = re.compile(r"--xla\w*_(?:dump_\w+_to|cache_file)=(/\S+)")
# of any of these flags; "-" is the standard output
_RELATIVE_PATH = re.compile(
    r"(--xla\w*_(?:dump_(?:\w+_)?to|cache_dir|cache_file|cuda_data_dir|results_from))=([^/\s-]\S*)"
)
_WRITE_VARIABLES = ("JAX_COMPILATION_CACHE_DIR", "JAX_DUMP_IR_TO", "CUDA_CACHE_PATH", "TPU_LOG_DIR")
_TPU_LOCK = Path("/tmp/libtpu_lockfile")  # of all processes of this machine that use TPUs


@dataclass(frozen=True)
class FileAccess:
    """Files and folders of the user's that a trial's process may read, and change.

    Folders that are not there when it starts stay out of its reach.
    """

    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()

    @classmethod
    def of_trials(
        cls,
        dataset: Path,
        sequence_length: int,
        splits: Iterable[str],
        *,
        readable: Iterable[Path] = (),
        writable: Iterable[Path] = (),
    ) -> "FileAccess":
        """What trials need of a dataset: rows of some splits, vocabularies and counts, and never the text.

        Args:
          dataset: its folder.
          sequence_length: of the rows.
          splits: whose rows.
          readable: folders with programs, and other ones that are read.
          writable: folders for logs and snapshots.
        """
        names = [Path(rows_file(0, sequence_length, split)).name for split in splits]
        names.append(Path(counts_file(0, sequence_length)).name)
        rows = [folder / name for folder in dataset.glob(f"rows/*x{sequence_length}") for name in names]
        return cls((dataset / MANIFEST, dataset / "tokenizers", *rows, *readable), tuple(writable))


def inherited_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The allow-listed part of this process's variables."""
    return {
        name: value
        for name, value in environment.items()
        if (name in INHERITED_NAMES or name.startswith(INHERITED_PREFIXES)) and not _SECRET.search(name)
    }


def require_absolute_paths(environment: Mapping[str, str]) -> None:
    """Checks the paths that XLA_FLAGS names: the process of a trial runs in another folder than the command.

    Raises:
      UsageError: one is relative.
    """
    if (found := _RELATIVE_PATH.search(environment.get("XLA_FLAGS", ""))) is not None:
        flag, path = found.groups()
        raise UsageError(
            f"XLA_FLAGS={found[0]}: trials run in another folder, which the path would be relative to: "
            f"write {flag}={os.path.abspath(path)}"
        )


def scratch_variables(environment: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """Variables that make a folder a process's home, in which it finds our package without what lies beside that.

    Args:
      environment: as it will be otherwise.
      scratch: an existing folder.
    """
    packages = scratch / "packages"
    packages.mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (packages / package_root().name).symlink_to(package_root())
    variables = {
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "PYTHONPATH": os.pathsep.join([str(packages), *_python_path(environment)]),
        "PYTHONSAFEPATH": "1",  # no modules from the folder it runs in
    }
    if site.ENABLE_USER_SITE:
        variables["PYTHONUSERBASE"] = site.getuserbase()
    return variables


def network(platform: str, num_devices: int, num_hosts: int = 1) -> str | None:
    """The network that a process needs, as `watch.py` names it; None for none."""
    if num_hosts > 1:
        return "host"  # to meet the others
    if platform == "tpu":
        return "host"  # its runtime asks the machine's metadata service what it is part of, and opens ports
    return LOOPBACK if platform == "cuda" and num_devices > 1 else None  # NCCL introduces devices to one another


def landlock(
    platform: str, num_devices: int, environment: Mapping[str, str], reach: FileAccess, num_hosts: int = 1
) -> dict[str, Any]:
    """The arguments of `linux.restrict_files`.

    Args:
      platform: "cpu", "cuda" or "tpu".
      num_devices: that the process will use.
      environment: its variables.
      reach: files and folders of the user's.
      num_hosts: that share the mesh.
    """
    shared_memory = ["/dev/shm"] if platform == "tpu" or (platform == "cuda" and num_devices > 1) else []
    devices = [str(path) for pattern in _DEVICES.get(platform, ()) for path in Path("/dev").glob(pattern)]
    writable = [*WRITABLE_DEVICES, *devices, *shared_memory, *_writable(platform, environment)]
    return {
        "readable": [
            *_system(platform, environment),
            *(_NAME_LOOKUP if platform == "tpu" or num_hosts > 1 else ()),
            *map(str, reach.readable),
        ],
        "writable": [*writable, *map(str, reach.writable)],
        "network": network(platform, num_devices, num_hosts) is not None,
        "plain": True,
    }


def confinement(
    platform: str, num_devices: int, environment: Mapping[str, str], reach: FileAccess, num_hosts: int = 1
) -> dict[str, Any]:
    """What a process gives up before it becomes a trial's, as `watch.py` reads it; arguments as of `landlock`."""
    return {
        # of what Landlock leaves: the folder of a root's run may be another user's
        "keep_capabilities": READ_AND_WRITE_ANYTHING | LOCK_MEMORY,
        "landlock": landlock(platform, num_devices, environment, reach, num_hosts),
        "network": network(platform, num_devices, num_hosts),
    }


def _system(platform: str, environment: Mapping[str, str]) -> Iterator[str]:
    """Python and its packages, shared libraries, and what the user's settings name to be read."""
    yield from (*_SYSTEM, *READABLE_DEVICES, "/dev/full", str(package_root()))
    yield from {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, sys.executable}
    yield from (path for path in sys.path if Path(path).name in ("site-packages", "dist-packages"))
    yield from _python_path(environment)
    for folder in environment.get("LD_LIBRARY_PATH", "").split(":"):
        if folder.startswith("/"):
            yield from map(str, Path(folder).glob("*.so*"))
    yield from re.findall(r"/[^\s:]+", environment.get("LD_PRELOAD", ""))
    flags = environment.get("XLA_FLAGS", "")
    yield from _READ_FLAGS.findall(flags)
    if flags and not flags.lstrip().startswith("-"):
        yield flags.split()[0]  # a file of flags
    if platform == "cuda":
        yield from (environment[name] for name in _CUDA_HOMES if name in environment)
    if platform == "tpu":
        yield from filter(None, [environment.get("TPU_LIBRARY_PATH")])


def _writable(platform: str, environment: Mapping[str, str]) -> Iterator[str]:
    """The folders and files that the user's settings have written to, made where they are missing."""
    flags = environment.get("XLA_FLAGS", "")
    folders = [environment[name] for name in _WRITE_VARIABLES if environment.get(name, "").startswith("/")]
    for folder in (*folders, *_WRITTEN_FOLDERS.findall(flags)):
        with contextlib.suppress(OSError):
            os.makedirs(folder, exist_ok=True)
        yield folder
    for file in _WRITTEN_FILES.findall(flags):
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(file), exist_ok=True)
            Path(file).touch()
        yield file
    if platform == "tpu":
        yield str(_TPU_LOCK)


def prepare_devices(platform: str) -> None:
    """Makes what a confined process could not make itself: device files of CUDA, the lock file of the TPU runtime."""
    if platform == "cuda" and not os.path.exists("/dev/nvidia-uvm") and (tool := shutil.which("nvidia-modprobe")):
        subprocess.run([tool, "-u", "-c=0"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if platform == "tpu":
        with contextlib.suppress(OSError):
            _TPU_LOCK.touch()


def write_bytecode(environment: Mapping[str, str]) -> None:
    """Compiles what trials' processes import, where that is missing: a confined one could not keep it for the next.

    Args:
      environment: variables of this process.
    """
    if sys.dont_write_bytecode:
        return
    compileall.compile_dir(package_root() / "tasks" / "lm", quiet=2)  # milliseconds, if nothing has changed
    spec = importlib.util.find_spec("jax")  # which pip compiles, and uv does not
    compiled = None if spec is None else spec.cached
    if compiled is None or os.path.exists(compiled) or not os.access(Path(compiled).parents[1], os.W_OK):
        return
    variables = {**inherited_variables(environment), "JAX_PLATFORMS": "cpu", "PYTHONSAFEPATH": "1"}
    variables["PYTHONPATH"] = os.pathsep.join([str(package_root().parent), *_python_path(environment)])
    command = [sys.executable, "-c", f"import {', '.join(OPERATIONS)}"]
    subprocess.run(command, env=variables, stdin=subprocess.DEVNULL, capture_output=True, check=False)


def _python_path(environment: Mapping[str, str]) -> list[str]:
    """The folders of PYTHONPATH, without the one around our package: beside it lies what is the user's."""
    folders = [os.path.abspath(path) for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    return [path for path in folders if os.path.realpath(path) != str(package_root().parent)]
