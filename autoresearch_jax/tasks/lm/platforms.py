"""What steers XLA and the runtimes, by platform: variables of a trial's process, options of compiling. Loads no JAX."""

from collections.abc import Mapping
from pathlib import Path

# glibc then asks for huge pages, of which XLA's large buffers touch far fewer, and keeps what a step frees for the next
# one. In one arena, because those of threads give memory back whatever the threshold: see docs/performance.md
GLIBC_TUNABLES = ":".join(
    (
        "glibc.malloc.hugetlb=1",
        "glibc.malloc.mmap_max=0",
        f"glibc.malloc.trim_threshold={1 << 40}",  # bytes of free memory at the heap's end: more than there is
        "glibc.malloc.arena_max=1",
    )
)
# A trial has the GPU for itself; XLA takes three quarters of its memory where nobody says more.
GPU_MEMORY_SHARE = "0.9"
# XLA ends a process that gives it a flag it does not know: the oldest and the newest JAX we run with know these.
# Command buffers (CUDA graphs) and autotuning are on by its own defaults; JAX keeps what autotuning found beside the
# compile cache.
CUDA_MESH_FLAGS = ("--xla_gpu_enable_latency_hiding_scheduler=true",)  # communication beside computation
# Of the programs that train: XLA's CPU backend would use half of AVX-512's vectors (without these it changes nothing).
# Not of those that judge: other processes compile them again, to compare scores to the last digit.
CPU_TRAINING_OPTIONS = {"xla_cpu_prefer_vector_width": "512"}
# Of libtpu, which has flags of its own and does not read XLA_FLAGS.
TPU_MESH_FLAGS = (
    "--xla_tpu_enable_async_collective_fusion=true",
    "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",
    "--xla_tpu_overlap_compute_collective_tc=true",
)


def platform_variables(
    platform: str, num_devices: int, environment: Mapping[str, str], compile_cache_dir: Path | None
) -> dict[str, str]:
    """Variables of a process that runs trials, over those of this one.

    What the user has set stays as it is, but for the platform, the number of a CPU's devices and the compile cache,
    which flags of ours say.

    Args:
      platform: "cpu", "cuda" or "tpu".
      num_devices: of the mesh; a CPU is made to show as many.
      environment: variables of this process.
      compile_cache_dir: of XLA's compile cache; None for none.
    """
    variables = {"JAX_PLATFORMS": platform, "PYTHONUNBUFFERED": "1"}
    if platform == "cpu":
        device_count = f"--xla_force_host_platform_device_count={num_devices}"
        variables["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {device_count}".strip()  # the last one counts
        if "GLIBC_TUNABLES" not in environment and not any(name.startswith("MALLOC_") for name in environment):
            variables["GLIBC_TUNABLES"] = GLIBC_TUNABLES
    elif platform == "cuda":
        variables |= _flags("XLA_FLAGS", CUDA_MESH_FLAGS if num_devices > 1 else (), environment)
        variables["XLA_PYTHON_CLIENT_MEM_FRACTION"] = environment.get(
            "XLA_PYTHON_CLIENT_MEM_FRACTION", GPU_MEMORY_SHARE
        )
    elif platform == "tpu":
        variables |= _flags("LIBTPU_INIT_ARGS", TPU_MESH_FLAGS if num_devices > 1 else (), environment)
    if compile_cache_dir is not None:
        variables["JAX_COMPILATION_CACHE_DIR"] = str(compile_cache_dir.absolute())
        variables["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # many small programs take long, too
    return variables


def training_options(platform: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Options by which the programs that train are compiled, those left out that the user has set in XLA_FLAGS."""
    options = CPU_TRAINING_OPTIONS if platform == "cpu" else {}
    own = _names(environment.get("XLA_FLAGS", ""))
    return {name: value for name, value in options.items() if f"--{name}" not in own}


def _flags(variable: str, flags: tuple[str, ...], environment: Mapping[str, str]) -> dict[str, str]:
    """A variable with our flags and the user's, whose value wins where both have one."""
    own = environment.get(variable, "")
    ours = [flag for flag in flags if not _names(flag) <= _names(own)]
    text = " ".join([*ours, own]).strip()
    return {variable: text} if text else {}


def _names(flags: str) -> set[str]:
    """The flags in a variable's text, without their values."""
    return {flag.partition("=")[0] for flag in flags.split()}
