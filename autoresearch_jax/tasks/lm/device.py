"""Devices, their peak speed, the environment of a trial's process and its start. Loads no JAX."""

import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from autoresearch_jax.errors import UserError
from autoresearch_jax.sandbox.accounting import WALL, host_processors, quota_cpus
from autoresearch_jax.sandbox.process import JsonWorker, ProcessTimeoutError, WorkerDiedError
from autoresearch_jax.sandbox.sandbox import scratch_folder
from autoresearch_jax.tasks.lm import cage
from autoresearch_jax.tasks.lm.hosts import Hosts
from autoresearch_jax.types import Budget, Scalar

REFERENCE_OF = "reference_of"  # among a trial's metrics: `reference_machine` where "reference_seconds" were measured

# Dense bf16 TFLOP/s of one device as JAX counts devices, by its name without the vendor, from the vendors' data sheets.
# T4 has no bf16: fp16. A TPU 7x shows two devices a chip, so half a chip's peak; so do v2 and v3, but sources differ on
# their peaks. A name must fit as a whole: an H100 NVL, the GeForce of a laptop and a slice of a GPU (MIG) are not what
# their names begin with.
_MEMORY = r"(?: \d+GB)?(?: HBM\d\w*)?"
_PEAK_TFLOPS = (
    (r"B200", 2250.0),
    (rf"G?H200{_MEMORY}", 989.0),
    (rf"H100{_MEMORY}", 989.0),
    (r"H100 PCIe", 756.0),
    (r"A100[- ](?:SXM4|PCIE|80GB)(?:[- ](?:\d+GB|PCIe))?", 312.0),
    (r"L40S", 362.0),
    (r"L4", 121.0),
    (r"T4", 65.0),
    (r"GeForce RTX 4090", 165.0),
    (r"GeForce RTX 5090", 210.0),
    (r"TPU v4", 275.0),
    (r"TPU v5e|TPU v5 lite", 197.0),
    (r"TPU v5p?", 459.0),
    (r"TPU v6e|TPU v6 lite", 918.0),
    (r"TPU ?7x", 2307.0 / 2),
)

# glibc then asks for huge pages, of which XLA's large buffers touch far fewer, and keeps what a step frees for the next
# one. In one arena, because those of threads ignore the threshold: see docs/evidence/performance.md
GLIBC_TUNABLES = ":".join(
    (
        "glibc.malloc.hugetlb=1",
        "glibc.malloc.mmap_max=0",
        f"glibc.malloc.trim_threshold={1 << 40}",  # bytes of free memory at the heap's end: more than there is
        "glibc.malloc.arena_max=1",
    )
)
# A trial has the GPU for itself; XLA takes three quarters of its memory by default.
GPU_MEMORY_SHARE = "0.9"
# XLA ends a process that gives it a flag it does not know: the oldest and the newest JAX we run with know these.
# Command buffers (CUDA graphs) and autotuning are on by its own defaults; JAX keeps what autotuning found beside the
# compile cache.
CUDA_MESH_FLAGS = ("--xla_gpu_enable_latency_hiding_scheduler=true",)  # communication beside computation
# Of the programs that train: XLA's CPU backend would use half of AVX-512's vectors (without these it changes nothing).
# Not of those that judge: other processes compile them again, to compare scores to the last digit.
CPU_TRAINING_OPTIONS = {"xla_cpu_prefer_vector_width": "512"}
# Of all programs that train: this pass computes what depends on constants alone while XLA compiles, outside the budget.
DISABLED_PASSES = "xla_disable_hlo_passes"
CONSTANT_FOLDING = "constant_folding"
# By default hosts share the work of autotuning, and wait for each other: one that finds a program in its compile cache
# would be waited for without end.
CUDA_HOSTS_FLAGS = ("--xla_gpu_shard_autotuning=false",)
# Of libtpu, which does not read XLA_FLAGS.
TPU_MESH_FLAGS = (
    "--xla_tpu_enable_async_collective_fusion=true",
    "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",
    "--xla_tpu_overlap_compute_collective_tc=true",
)

PROBE_SECONDS = 120.0  # an accelerator that has not answered by then does not work
DEVICES = "devices"  # what a trial's process is asked for
TRIAL_WORKER = ("autoresearch_jax.tasks.lm.worker",)
STANDBY_WORKER = (*TRIAL_WORKER, "--standby")  # waits until it is assigned to a trial
SCRATCH = "autoresearch-worker-"  # what the names of the folders of trials' processes begin with


def peak_flops(device_kind: str) -> float | None:
    """Peak bf16 FLOP/s of one device; None for an unknown one and for a CPU, where it must be measured."""
    name = re.sub(r"^(NVIDIA|Tesla) ", "", device_kind)
    for pattern, tflops in _PEAK_TFLOPS:
        if re.fullmatch(pattern, name, re.IGNORECASE):
            return tflops * 1e12
    return None


def reference_machine() -> str:
    """The processors and the version of JAX, which the time of the reference program depends on."""
    return f"{host_processors()}, jax {version('jax')}"


def platform_variables(
    platform: str, num_devices: int, environment: Mapping[str, str], compile_cache_dir: Path | None, num_hosts: int = 1
) -> dict[str, str]:
    """Variables to add to `environment` for a process that runs trials on "cpu", "cuda" or "tpu".

    The user's own values win, but for the platform, the number of a CPU's devices and the compile cache.
    """
    variables = {"JAX_PLATFORMS": platform, "PYTHONUNBUFFERED": "1"}
    if platform == "cpu":
        device_count = f"--xla_force_host_platform_device_count={num_devices}"
        variables["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {device_count}".strip()  # the last one counts
        if "GLIBC_TUNABLES" not in environment and not any(name.startswith("MALLOC_") for name in environment):
            variables["GLIBC_TUNABLES"] = GLIBC_TUNABLES
    elif platform == "cuda":
        flags = CUDA_MESH_FLAGS if num_devices * num_hosts > 1 else ()
        variables |= _flags("XLA_FLAGS", (*flags, *(CUDA_HOSTS_FLAGS if num_hosts > 1 else ())), environment)
        if num_devices > 1 and num_hosts == 1:
            variables["NCCL_SOCKET_IFNAME"] = environment.get("NCCL_SOCKET_IFNAME", "lo")  # all are of this machine
        if compile_cache_dir is not None and "CUDA_CACHE_PATH" not in environment:  # else in the home, which is new
            variables["CUDA_CACHE_PATH"] = str(compile_cache_dir.absolute() / "cuda")
        variables["XLA_PYTHON_CLIENT_MEM_FRACTION"] = environment.get(
            "XLA_PYTHON_CLIENT_MEM_FRACTION", GPU_MEMORY_SHARE
        )
    elif platform == "tpu":
        variables |= _flags("LIBTPU_INIT_ARGS", TPU_MESH_FLAGS if num_devices * num_hosts > 1 else (), environment)
        variables["TPU_LOG_DIR"] = environment.get("TPU_LOG_DIR", "disabled")  # by default a folder for all users
    if compile_cache_dir is not None:
        variables["JAX_COMPILATION_CACHE_DIR"] = str(compile_cache_dir.absolute())
        variables["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # many small programs take long, too
    return variables


def training_options(platform: str, environment: Mapping[str, str]) -> dict[str, str | bool]:
    """XLA options of the programs that train: ours but for those that the user has set in XLA_FLAGS.

    An option replaces the flag, so passes that the user disables are among the disabled ones.
    """
    options = CPU_TRAINING_OPTIONS if platform == "cpu" else {}
    flags = environment.get("XLA_FLAGS", "")
    chosen = {name: value for name, value in options.items() if f"--{name}" not in _names(flags)}
    own = [flag.partition("=")[2] for flag in flags.split() if _names(flag) == {f"--{DISABLED_PASSES}"}]
    return {**chosen, DISABLED_PASSES: ",".join([*filter(None, own[-1:]), CONSTANT_FOLDING])}


def _flags(variable: str, flags: tuple[str, ...], environment: Mapping[str, str]) -> dict[str, str]:
    """A variable with our flags and the user's, whose value wins where both have one."""
    own = environment.get(variable, "")
    ours = [flag for flag in flags if not _names(flag) <= _names(own)]
    text = " ".join([*ours, own]).strip()
    return {variable: text} if text else {}


def _names(flags: str) -> set[str]:
    """The flags in a variable's text, without their values."""
    return {flag.partition("=")[0] for flag in flags.split()}


class DeviceError(UserError):
    """The requested accelerator does not answer; the message names the flag and the log."""


@dataclass(frozen=True)
class Device:
    """The device to run on, see `find_device`.

    Attributes:
      platform: "cpu", "cuda" or "tpu".
      device_kind: the device's own name.
      num_devices: that JAX sees.
      memory_bytes: of one device; None where it is not known.
    """

    platform: str
    device_kind: str
    num_devices: int
    memory_bytes: int | None


def find_device(
    platform: str,
    mesh_devices: int | None,
    environment: Mapping[str, str],
    log_path: Path,
    *,
    confined: bool = False,
    ask_cpu: bool = False,
    hosts: Hosts | None = None,
) -> Device:
    """The device to run on; an accelerator is asked by a process that prints to `log_path`.

    Args:
      platform: "cpu", "cuda", "tpu", or "auto" for the accelerator whose device files are there, else the CPU.
      mesh_devices: devices the mesh asks for; a CPU shows as many host devices. None for all, on a CPU one a host.
      environment: variables of this process.
      log_path: see above.
      confined: whether that process is confined as those of trials are.
      ask_cpu: whether a CPU is asked too.
      hosts: that have a part of the devices, and are asked together.

    Raises:
      DeviceError: the device does not answer, or hosts have unequal ones.
      CandidateUntouched, TermsChanged: see `Hosts.together`.
    """
    num_hosts = 1 if hosts is None else hosts.num_hosts
    platform = choose_platform(platform)
    if platform == "cpu" and not ask_cpu:
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Device("cpu", "cpu", mesh_devices or num_hosts, memory_bytes)
    num_devices = (mesh_devices or num_hosts * _num_device_files(platform)) // num_hosts
    reach = cage.FileAccess() if confined else None
    start = partial(start_worker, environment=environment, compile_cache_dir=None, reach=reach, num_hosts=num_hosts)
    try:
        if hosts is None:
            event = ask_once(start(platform, num_devices, log_path), DEVICES, PROBE_SECONDS, PROBE_SECONDS)
        else:
            with hosts.together(
                platform=platform, num_devices=num_devices, is_confined=confined, program_hash=None
            ) as gathering:
                worker = start(platform, num_devices, log_path)
                hosts.stop_by(worker.stop)
                request = {"hosts": asdict(gathering)}
                event = ask_once(worker, DEVICES, PROBE_SECONDS, PROBE_SECONDS, request)
    except (ProcessTimeoutError, WorkerDiedError) as error:
        raise DeviceError(f"--platform={platform}: {error}; see {log_path}, or use --platform=cpu") from error
    if event["event"] == "failed":
        reason = event["reason"].strip().rstrip(":")  # JAX may say no more than the name of an exception
        raise DeviceError(
            f"--platform={platform}: JAX finds no such device ({reason}; see {log_path}): `autoresearch doctor` says "
            "what to install, or use --platform=cpu"
        )
    if len({(kind, number) for _, kind, number in event["hosts"]}) > 1:
        found = ", ".join(f"host {host_id} has {number} x {kind}" for host_id, kind, number in event["hosts"])
        raise DeviceError(f"--num_hosts={num_hosts}: {found}: take hosts with equal devices")
    return Device(event["platform"], event["device_kind"], event["num_devices"], event["device_memory_bytes"])


def find_trial_device(
    platform: str,
    mesh_devices: int | None,
    environment: Mapping[str, str],
    log_path: Path,
    *,
    confined: bool,
    ask_cpu: bool = False,
    hosts: Hosts | None = None,
) -> tuple[Device, bool]:
    """The device to run on, and whether trials' processes can be confined: arguments and errors of `find_device`.

    They cannot where the device answers to a process without walls, and neither before nor after to a confined one.
    """
    find = partial(find_device, platform, mesh_devices, environment, log_path, ask_cpu=ask_cpu, hosts=hosts)
    if not confined:
        return find(), False
    try:
        return find(confined=True), True
    except DeviceError:
        device = find()
    try:
        return find(confined=True), True  # another process had the device, or it was slow to wake
    except DeviceError:
        return device, False


def device_terms(
    device: Device, mesh_axes: Mapping[str, int], budget: Budget, clock: str, num_hosts: int = 1
) -> dict[str, Scalar]:
    """What of the machine a score depends on; scores of other devices are never compared."""
    mesh = ",".join(f"{name}={size}" for name, size in mesh_axes.items())
    device_kind = device.device_kind
    if device.platform == "cpu":
        quota = quota_cpus()
        device_kind = host_processors() + ("" if quota is None else f", a quota of {quota:g}")
    return {
        "platform": device.platform,
        "device_kind": device_kind,
        "num_devices": math.prod(mesh_axes.values()),
        "mesh": mesh if num_hosts == 1 else f"{mesh} on {num_hosts} hosts",
        "jax_version": version("jax"),
        "clock": clock if budget.steps is None else WALL,
    }


def start_worker(
    platform: str,
    num_devices: int,
    log_path: Path,
    *,
    environment: Mapping[str, str],
    compile_cache_dir: Path | None,
    module: Sequence[str] = TRIAL_WORKER,
    reach: cage.FileAccess | None,
    num_hosts: int = 1,
) -> JsonWorker:
    """Starts a trial process for `platform`; it inherits an allow-listed part of the environment.

    Args:
      platform: "cpu", "cuda" or "tpu".
      num_devices: of this machine that it will use.
      log_path: what it prints is added there; its folder can be written to.
      environment: variables of this process.
      compile_cache_dir: XLA's; None for none.
      module: what it runs.
      reach: the user's files that it may touch; None does not confine it.
      num_hosts: that share the mesh.

    Raises:
      OSError: it cannot be started.
    """
    variables = worker_variables(platform, num_devices, environment, compile_cache_dir, num_hosts)
    cage.prepare_devices(platform)
    resources = ExitStack()
    try:
        scratch = resources.enter_context(scratch_folder(SCRATCH))
        confine = None
        if reach is not None:
            own = cage.FileAccess(reach.readable, (*reach.writable, log_path.absolute().parent, scratch))
            confine = cage.confinement(platform, num_devices, variables, own, num_hosts)
        return JsonWorker(
            [sys.executable, "-m", *module],
            environment={**variables, **cage.scratch_variables(variables, scratch)},
            cwd=log_path.parent,
            log_path=log_path,
            confine=confine,
            resources=resources,
        )
    except BaseException:
        resources.close()
        raise


def worker_variables(
    platform: str, num_devices: int, environment: Mapping[str, str], compile_cache_dir: Path | None, num_hosts: int = 1
) -> dict[str, str]:
    """All variables of a trial's process but those that name its scratch folder."""
    extra = platform_variables(platform, num_devices, environment, compile_cache_dir, num_hosts)
    return {**cage.inherited_variables(environment), **extra}


def ask_once(
    worker: JsonWorker,
    operation: str,
    startup_seconds: float,
    seconds: float,
    request: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The answer of a new trial process to one request, after which it is closed.

    Args:
      worker: the process.
      operation: what it is asked to do.
      startup_seconds: until it must be ready.
      seconds: until it must have answered, from then on.
      request: what else the request holds.

    Raises:
      ProcessTimeoutError: it was not ready, or did not answer, in time.
      WorkerDiedError: it ended without an answer.
    """
    try:
        worker.receive(startup_seconds)  # "ready"
        worker.send({"op": operation, **(request or {})})
        return worker.receive(seconds)
    finally:
        worker.close()


def _num_device_files(platform: str) -> int:
    """How many devices a platform may have, as far as their files tell; at least 1."""
    return max(1, len(list(Path("/dev").glob("nvidia[0-9]*")))) if platform == "cuda" else 1


def choose_platform(choice: str) -> str:
    """The platform of a value of --platform; "auto" looks for device files."""
    if choice != "auto":
        return choice
    if Path("/dev/nvidia0").exists():
        return "cuda"
    if any(Path("/dev").glob("accel[0-9]*")) or any(Path("/dev/vfio").glob("[0-9]*")):
        return "tpu"
    return "cpu"
