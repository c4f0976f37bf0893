"""A part of check_accelerator.py, in a process of its own:

    python scripts/accelerator_parts.py PART WORK

WORK has the plan; the result is written there as PART.result.json, after each figure.
"""

import contextlib
import importlib
import importlib.util
import json
import os
import platform
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from accelerator_plan import DEVICE_FILE, PARTS, ROOT, DeviceFacts, Plan, first_device
from accelerator_result import Result

from autoresearch_jax.files import write_json
from autoresearch_jax.sandbox.accounting import host_processors
from autoresearch_jax.tasks.lm.device import peak_flops, platform_variables

GIBIBYTE = 1 << 30
QUERY_SECONDS = 20.0  # for nvidia-smi
CORPUS_SEED = 0
LINES_PER_DOCUMENT = 100
IN_THIS_PROCESS = ("environment", "kernels")  # parts that use the device here; others leave it to their children
RUNTIMES = ("jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu")


def environment(plan: Plan, result: Result) -> None:
    """What this machine has, and what of it JAX sees."""
    result.set("python", platform.python_version())
    result.set("jax", metadata.version("jax"))
    result.set("jaxlib", metadata.version("jaxlib"))
    result.set("host", host_processors())
    result.set("host_memory_gib", round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIBIBYTE, 1))
    for name in RUNTIMES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            result.set(name.replace("-", "_"), metadata.version(name))
    for name, said in _smi().items():
        result.set(name, said)
    if commit := _commit():
        result.set("commit", commit)
    missing = sorted({name for part in PARTS for name in part.needs if not _is_there(name)})
    result.set("missing_packages", ", ".join(missing) or "none")
    without = [part.name for part in PARTS if set(part.needs) & set(missing)]
    result.set("parts_left_out", ", ".join(without) or "none")

    import jax

    from autoresearch_jax.kernels.platforms import CUDNN_VERSION, compute_capability

    device = first_device(plan.platform)
    is_cuda = plan.platform == "cuda"
    stats = device.memory_stats() or {}
    facts = DeviceFacts(
        kind=device.device_kind,
        count=jax.device_count(),
        memory_bytes=stats.get("bytes_limit"),
        capability=compute_capability(device.device_kind) if is_cuda else None,
    )
    write_json(plan.folder / DEVICE_FILE, asdict(facts))
    result.set("device_kind", facts.kind)
    result.set("devices", facts.count)
    if facts.memory_bytes is not None:
        result.set("device_memory_gib", round(facts.memory_bytes / GIBIBYTE, 1))
    if is_cuda:
        own = str(getattr(device, "compute_capability", "unknown"))
        by_name = ".".join(map(str, facts.capability or ()))
        result.set("compute_capability", own)
        if own != by_name:
            result.find(f"the compute capability is {own}, by the device's name {by_name}: mend kernels/platforms.py")
        for name, value in _cuda_versions().items():
            result.set(name, value)
        result.set("cudnn_told_to_traces", CUDNN_VERSION)
    if not plan.tiny and peak_flops(facts.kind) is None:
        result.find(f"{facts.kind}: its peak FLOP/s are not in lm/device.py, so there is no MFU")


def _is_there(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _smi() -> dict[str, str]:
    """Name, driver and memory by nvidia-smi; nothing where there is none."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,power.limit", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=QUERY_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    cells = [cell.strip() for cell in next(iter(done.stdout.splitlines()), "").split(",")]
    return dict(zip(("card", "driver", "card_memory", "power_limit"), cells, strict=False)) if len(cells) == 4 else {}


def _commit() -> str:
    try:
        command = ["git", "rev-parse", "--short", "HEAD"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _cuda_versions() -> dict[str, int]:
    """Of the libraries that JAX loaded; no public name tells them, so what is not there is left out."""
    try:
        from jax._src.lib import cuda_versions
    except ImportError:
        return {}
    found = {}
    for name, function in (
        ("cuda", "cuda_runtime_get_version"),
        ("cuda_driver_api", "cuda_driver_get_version"),
        ("cudnn", "cudnn_get_version"),
        ("cublas", "cublas_get_version"),
    ):
        with contextlib.suppress(Exception):  # some raise what they like where a library is missing
            found[name] = int(getattr(cuda_versions, function)())
    return found


def corpus(plan: Plan, result: Result) -> None:
    """Makes a corpus of this Python's own library, its lines shuffled, and the datasets of both configurations."""
    from accelerator_trials import prepare

    folder = plan.folder / "text"
    folder.mkdir(exist_ok=True)
    lines = list(_library_lines(plan.pick(None, None, 12_000)))
    draw = random.Random(CORPUS_SEED)
    for number in range(plan.pick(2, 1, 1)):
        draw.shuffle(lines)
        _write_documents(folder / f"{number}.jsonl", lines)
    result.set("corpus_megabytes", round(sum(path.stat().st_size for path in folder.iterdir()) / 1e6, 1))
    for configuration in plan.configurations():
        made = prepare(plan, configuration)
        rows = made["train_rows"][0]
        name = f"{configuration.vocab_size} x {configuration.sequence_length}"
        result.set(f"train_rows_{configuration.name}", rows)
        result.set(f"val_rows_{configuration.name}", made["val_rows"][0])
        result.set(f"prepare_seconds_{configuration.name}", made["prepare_seconds"])
        batch = int(configuration.constants.get("BATCH_SIZE", 16))
        if rows < batch:
            result.find(f"{name}: {rows} rows of train, a batch has {batch}")


def _library_lines(most: int | None) -> Iterator[str]:
    """Lines of the standard library's source that are not blank, up to `most`."""
    from autoresearch_jax.tasks.lm.data.corpus import Reporter, open_corpus

    count = 0
    for file in open_corpus("stdlib").fetch(Reporter()).files:
        for line in file.path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.strip():
                yield line
                count += 1
                if count == most:
                    return


def _write_documents(path: Path, lines: list[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for begin in range(0, len(lines), LINES_PER_DOCUMENT):
            text = "\n".join(lines[begin : begin + LINES_PER_DOCUMENT]) + "\n"
            file.write(json.dumps({"text": text}) + "\n")


def _of(module: str, name: str) -> Callable[[Plan, Result], None]:
    """A part that another module has, which is imported when the part runs."""

    def part(plan: Plan, result: Result) -> None:
        getattr(importlib.import_module(module), name)(plan, result)

    return part


RUN: Mapping[str, Callable[[Plan, Result], Any]] = {
    "environment": environment,
    "kernels": _of("accelerator_kernels", "run"),
    "export": _of("accelerator_step", "export"),
    "corpus": corpus,
    "step": _of("accelerator_step", "step"),
    "device": _of("accelerator_step", "device"),
    "trial": _of("accelerator_trials", "trial"),
    "judge": _of("accelerator_trials", "judge"),
    "repeat": _of("accelerator_trials", "repeat"),
    "run": _of("accelerator_trials", "run"),
    "standby": _of("accelerator_trials", "standby"),
    "workers": _of("accelerator_workers", "workers"),
}


def main() -> int:
    name, folder = sys.argv[1], Path(sys.argv[2])
    plan = Plan.load(folder / "plan.json")
    if name in IN_THIS_PROCESS:
        os.environ.update(platform_variables(plan.platform, 1, os.environ, None))
    result = Result(folder / f"{name}.result.json")
    RUN[name](plan, result)
    result.complete()
    return 0


if __name__ == "__main__":
    sys.exit(main())
