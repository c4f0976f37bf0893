"""Measures the training step beside the same model in PyTorch and in plain JAX; called by bench_step.sh.

One table a configuration: `default` is train_lib.py as it stands, `256` is 4 layers of width 256 with 16 rows and a
vocabulary of 2048; both with 256 tokens a row, without the table of bigrams and with value embeddings on every second
layer, as the references are. Every row of a table is a process of its own that has compiled its step
and waits; round after round each runs steps for some seconds in turn, so that all of them see the same machine, and
only one computes at a time. All begin from train_lib.py's first parameters and get the same tokens.

What is compared:
  ours     train_lib.py's step: traced, exported and compiled as in a trial, with its process's environment
  torch    scripts/bench_reference.py, eager and with torch.compile
  jax      scripts/bench_reference_jax.py, a port without tricks

The last lines are `key: value`, of the default configuration, and the same with `_256` after the key:
  tokens_per_second         of ours, the median of the rounds
  ratio_to_best_pytorch     ours over the fastest of PyTorch's rows: median of the rounds' ratios
  ratio_to_plain_jax        the same over the faster of the two plain JAX rows
  share_of_matmul_ceiling   model FLOP/s over what a matrix product in bf16 reaches (lm/flops.py), by the rounds too.
                            Model FLOPs are train_lib.py's own count, the same for every row
  compile_seconds           of ours: XLA's work on the traced step, as a trial has it. PyTorch's is what its first step
                            takes beyond a later one, plain JAX's includes the tracing; no caches
On a GPU PyTorch's rows are not tuned: a window's mask keeps flash attention out, and there are no CUDA graphs. So there
the ratio to PyTorch is not to be quoted, and the output says so.
Peak memory is what a row's process has had at most, on a CPU with its libraries and its compiler's work (VmHWM), on
an accelerator the device's.
"""

import argparse
import dataclasses
import json
import math
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from bare_trace import TraceFailed, bare_trace
from bench_reference_settings import Settings, read_settings

from autoresearch_jax.assets.python_constants import read_constants, set_constants
from autoresearch_jax.sandbox.accounting import host_processors
from autoresearch_jax.sandbox.process import JsonWorker, ProcessTimeoutError, WorkerDiedError
from autoresearch_jax.tasks.lm.device import Device, find_device, platform_variables

ROOT = Path(__file__).parent.parent
SEQUENCE_LENGTH = 256
ORIGINAL: Mapping[str, float] = {  # which the references are written after
    "VALUE_EMBEDDING_EVERY": 2,
    "BIGRAM_BITS": 0,
    "KEY_SHIFT": 0.0,
}
CONFIGURATIONS: Mapping[str, Mapping[str, float]] = {
    "default": ORIGINAL,
    "256": {**ORIGINAL, "DEPTH": 4, "ASPECT_RATIO": 64, "HEAD_DIM": 128, "VOCAB_SIZE": 2048, "BATCH_SIZE": 16},
}
OURS, CEILING = "ours", "ceiling"
TORCH_ROWS = ("torch eager float32", "torch eager bfloat16", "torch compile float32", "torch compile bfloat16")
JAX_ROWS = ("jax float32", "jax bfloat16")
KEYS = (
    "tokens_per_second",
    "ratio_to_best_pytorch",
    "ratio_to_plain_jax",
    "share_of_matmul_ceiling",
    "compile_seconds",
)
NUM_BATCHES = 8  # drawn once, used in turn
ZIPF_EXPONENT = 1.1  # of the tokens' frequencies: embeddings are read and trained as unevenly as text does it
COMPILE_LIMIT_SECONDS = 1200.0
TURN_LIMIT_SECONDS = 600.0
LOSS_TOLERANCE = 0.01  # relative; a row that is further off from ours computes something else


@dataclasses.dataclass
class Row:
    """A row of the table and the process behind it.

    Attributes:
      loss: of the last of its first few steps.
      step_seconds: of a step, the mean of each round.
    """

    name: str
    worker: JsonWorker
    compile_seconds: float
    loss: float
    step_seconds: list[float] = dataclasses.field(default_factory=list)
    peak_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class Options:
    rounds: int
    turn_seconds: float
    without_torch: bool


def environment_for(name: str, device: Device, scratch: Path) -> dict[str, str]:
    """The variables of a row's process: a trial's, and for PyTorch the same memory and as many threads."""
    cores = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    variables = {**os.environ, **platform_variables(device.platform, 1, os.environ, None)}
    variables.pop("JAX_COMPILATION_CACHE_DIR", None)
    if device.platform == "cuda":
        variables["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the rows share its memory
    if name.startswith("torch"):
        cache = scratch / f"cache-{name.replace(' ', '-')}"  # no spaces: the compiler's command line is not quoted
        variables |= {"OMP_NUM_THREADS": cores, "TORCHINDUCTOR_CACHE_DIR": str(cache), "TRITON_CACHE_DIR": str(cache)}
    return variables


def prepare(name: str, folder: Path, device: Device) -> tuple[Settings, float]:
    """Writes what all rows of a configuration share; the settings, and the model FLOPs of a token."""
    source = set_constants((ROOT / "train_lib.py").read_text(), CONFIGURATIONS[name])
    settings = read_settings(read_constants(source), SEQUENCE_LENGTH)
    (folder / "train_lib.py").write_text(source)
    (folder / "settings.json").write_text(json.dumps(dataclasses.asdict(settings)))
    frequencies = 1 / np.arange(1, settings.vocab_size + 1) ** ZIPF_EXPONENT
    shape = (NUM_BATCHES, settings.batch_size, SEQUENCE_LENGTH + 1)
    draw = np.random.default_rng(0)
    tokens = draw.choice(settings.vocab_size, size=shape, p=frequencies / frequencies.sum())
    np.save(folder / "tokens.npy", tokens.astype(np.int32))

    one = dataclasses.replace(device, num_devices=1)
    try:
        seconds = bare_trace(folder, one, vocab_sizes=[settings.vocab_size], sequence_length=SEQUENCE_LENGTH)
    except TraceFailed as failure:
        sys.exit(f"bench_step: train_lib.py cannot be traced: {failure}")
    print(f"{name}: traced in {seconds:.1f} s, the start of the tracing process included", flush=True)
    worker = start(folder, "init", device)
    flops_per_token = receive(worker, "init", folder)["model_flops_per_token"]
    worker.close()
    return settings, flops_per_token


def start(folder: Path, name: str, device: Device) -> JsonWorker:
    """Starts a row's process; it says "ready" when it has compiled."""
    return JsonWorker(
        [sys.executable, str(Path(__file__).with_name("bench_step_worker.py")), str(folder), name, device.platform],
        environment=environment_for(name, device, folder),
        cwd=folder,
        log_path=folder / f"{name}.log",
    )


def receive(
    worker: JsonWorker, name: str, folder: Path, limit_seconds: float = COMPILE_LIMIT_SECONDS
) -> dict[str, Any]:
    try:
        return worker.receive(limit_seconds)
    except (ProcessTimeoutError, WorkerDiedError) as error:
        log = (folder / f"{name}.log").read_text(errors="replace")
        sys.exit(f"bench_step: {name}: {error}\n{log[-2000:]}")


def measure(folder: Path, device: Device, options: Options) -> tuple[list[Row], list[dict[str, float | None]]]:
    """All rows that can be measured, and the matrix-product ceilings of each round."""
    names = [OURS, *(() if options.without_torch else TORCH_ROWS), *JAX_ROWS]
    with ExitStack() as stack:
        ceiling = start(folder, CEILING, device)
        stack.callback(ceiling.close)
        receive(ceiling, CEILING, folder)
        rows = []
        for name in names:  # one after the other: compiling is timed, too
            worker = start(folder, name, device)
            stack.callback(worker.close)
            event = receive(worker, name, folder)
            if event["event"] == "refused":
                sys.exit(f"bench_step: {name}: {event['reason']}")
            if event["event"] == "ready":
                rows.append(Row(name, worker, event["compile_seconds"], event["loss"]))
        ceilings = []
        for number in range(options.rounds):
            ceiling.send({"seconds": options.turn_seconds})
            ceilings.append(receive(ceiling, CEILING, folder))
            for row in rows if number % 2 == 0 else rows[::-1]:  # so that a drift of the machine favours nobody
                row.worker.send({"seconds": options.turn_seconds})
                event = receive(row.worker, row.name, folder, TURN_LIMIT_SECONDS + 10 * options.turn_seconds)
                row.step_seconds.append(event["step_seconds"])
                row.peak_bytes = event["peak_bytes"]
    return rows, ceilings


def ratio(ours: Row, others: Sequence[Row]) -> float | None:
    """How many times as fast ours is as the fastest of the others: the median of the rounds' ratios."""
    if not others:
        return None
    best = min(others, key=lambda row: statistics.median(row.step_seconds))
    return statistics.median(other / mine for mine, other in zip(ours.step_seconds, best.step_seconds, strict=True))


def share(row: Row, ceilings: Sequence[Mapping[str, Any]], dtype: str, flops: float) -> float | None:
    """Model FLOP/s over a ceiling, of `flops` a step: the median of the rounds."""
    if any(ceiling[dtype] is None for ceiling in ceilings):
        return None
    return statistics.median(
        flops / seconds / ceiling[dtype] for seconds, ceiling in zip(row.step_seconds, ceilings, strict=True)
    )


def report(name: str, folder: Path, device: Device, options: Options) -> dict[str, float | None]:
    """Measures a configuration, prints its table and gives its figures by KEYS."""
    settings, flops_per_token = prepare(name, folder, device)
    rows, ceilings = measure(folder, device, options)
    step_tokens = settings.batch_size * SEQUENCE_LENGTH
    print(
        f"{name}: {settings.depth} layers of width {settings.width}, heads of {settings.head_dim}, "
        f"{settings.batch_size} x {SEQUENCE_LENGTH} tokens, vocabulary {settings.vocab_size}, "
        f"{flops_per_token / 1e6:.1f} MFLOP a token; {options.rounds} rounds of {options.turn_seconds:g} s each"
    )
    for dtype in ("bfloat16", "float32"):
        known = [ceiling[dtype] for ceiling in ceilings if ceiling[dtype] is not None]
        if known:
            print(f"matrix-product ceiling, {dtype}: {statistics.median(known) / 1e9:.0f} GFLOP/s")
    heads = ("tokens/s", "min", "max", "TFLOP/s", "of bf16", "of f32", "compile s", "peak MiB", "loss")
    print(f"{'':24}" + "".join(f"{head:>11}" for head in heads))
    for row in rows:
        speeds = [step_tokens / seconds for seconds in row.step_seconds]
        shares = [share(row, ceilings, dtype, flops_per_token * step_tokens) for dtype in ("bfloat16", "float32")]
        cells = [f"{f(speeds):,.0f}" for f in (statistics.median, min, max)]
        cells.append(f"{flops_per_token * statistics.median(speeds) / 1e12:.3f}")
        cells += ["-" if value is None else f"{value:.1%}" for value in shares]
        cells.append(f"{row.compile_seconds:.1f}")
        cells += ["-" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:,.0f}", f"{row.loss:.4f}"]
        print(f"{row.name:24}" + "".join(f"{cell:>11}" for cell in cells), flush=True)

    ours = rows[0]
    for row in rows:
        if not abs(row.loss - ours.loss) <= LOSS_TOLERANCE * ours.loss:
            sys.exit(
                f"bench_step: {row.name} has a loss of {row.loss:.4f}, ours has {ours.loss:.4f}: not the same model"
            )
    bf16_share = share(ours, ceilings, "bfloat16", flops_per_token * step_tokens)
    of_torch = ratio(ours, [row for row in rows if row.name in TORCH_ROWS])
    of_jax = ratio(ours, [row for row in rows if row.name in JAX_ROWS])
    speed = step_tokens / statistics.median(ours.step_seconds)
    return dict(zip(KEYS, (speed, of_torch, of_jax, bf16_share, ours.compile_seconds), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", choices=(*CONFIGURATIONS, "all"), default="all")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--turn_seconds", type=float, default=1.5, help="of steps of each row in each round")
    parser.add_argument("--quick", action="store_true", help="to see that the script works; no figures to quote")
    parser.add_argument("--without_torch", action="store_true", help="leave PyTorch's rows and figures out")
    args = parser.parse_args()
    if args.rounds < 1 or not 0 < args.turn_seconds < math.inf:
        parser.error("--rounds is at least 1, and --turn_seconds more than 0")
    options = Options(2 if args.quick else args.rounds, 0.1 if args.quick else args.turn_seconds, args.without_torch)
    figures: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory() as scratch:
        device = find_device("auto", 1, os.environ, Path(scratch) / "device.log")
        if device.platform == "tpu":
            sys.exit("bench_step: a TPU belongs to one process, so rows cannot take turns there: use a CPU or a GPU")
        for name in CONFIGURATIONS if args.config == "all" else (args.config,):
            folder = Path(scratch) / name
            folder.mkdir()
            suffix = "" if name == "default" else f"_{name}"
            figures |= {key + suffix: value for key, value in report(name, folder, device, options).items()}
    where = host_processors() if device.platform == "cpu" else device.device_kind
    if device.platform != "cpu" and not args.without_torch:
        print("PyTorch's rows are not tuned for this platform (no CUDA graphs, no flash attention with a window):")
        print("ratio_to_best_pytorch is not to be quoted")
    print(f"machine: {where}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}")
    if args.without_torch:
        figures = {key: value for key, value in figures.items() if not key.startswith("ratio_to_best_pytorch")}
    unknown = [key for key, value in figures.items() if value is None]
    for key, value in figures.items():
        if value is not None:
            print(f"{key}: {round(value) if key.startswith('tokens') else round(value, 3)}")
    if unknown:
        sys.exit(
            f"bench_step: not measured: {', '.join(unknown)} (PyTorch: .venv/bin/python -m pip install torch==2.13.0)"
        )


if __name__ == "__main__":
    main()
