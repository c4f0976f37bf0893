"""Figures and logs of made-up trials, under the names that the language-model task gives them."""

import json
import math
import random
from pathlib import Path

from autoresearch_jax.types import ATTENDED_SHARE, CURVE_POINTS, WALL_SECONDS, Scalar

BUDGET_SECONDS = 60.0
STEPS = 240
TOKENS = 4096  # of a step
NATS = 2.3  # per token, for each bit per byte


def draw_metrics(draw: random.Random, share: float, experiment: int) -> dict[str, Scalar]:
    """The metrics of a trial that spent a share of its budget; with none it failed before it trained."""
    compile_seconds = draw.uniform(2, 7)
    before: dict[str, Scalar] = {
        "prepare_seconds": 2.3,
        "startup_seconds": 1.8,
        "compile_seconds": compile_seconds,
        "hashed_by": "2, jax 0.12.0.1",
        "sandbox": "landlock",
        "total_seconds": 1.8 + compile_seconds,
    }
    if share == 0:
        return before
    attended, speed = min(1.0, draw.gauss(0.9, 0.08)), draw.gauss(57_000, 2_000)
    wall, judge_seconds = share * BUDGET_SECONDS / attended, draw.uniform(0.9, 1.4)
    return {
        **before,
        "init_seconds": 0.1,
        "training_seconds": share * BUDGET_SECONDS,
        WALL_SECONDS: wall,
        ATTENDED_SHARE: attended,
        "machine_speed": draw.gauss(1, 0.03),
        "clock": "attended",
        "snapshot_seconds": 0.2,
        "probe_seconds": 0.6,
        "judge_seconds": judge_seconds,
        "total_seconds": 1.8 + compile_seconds + wall + judge_seconds + 0.9,
        "data_wait_seconds": 0.05,
        "num_steps": int(share * STEPS),
        "num_tokens": int(share * STEPS) * TOKENS,
        "tokens_per_second": speed,
        "mfu_percent": speed / 1700,
        "train_loss": 2.7,
        "step_flops": 3.0e10,
        "peak_memory_bytes": 1.3e9 + 1e6 * (experiment % 50),
        "state_bytes": 7_877_060,
        "num_params": 786_468,
        "batch_tokens": TOKENS,
        "vocab_size": 2048,
        "num_devices": 1,
        "device_kind": "cpu",
        "unigram_bpb": 3.04,
    }


def total_seconds(metrics: dict[str, Scalar]) -> float:
    """How long the trial took."""
    found = metrics["total_seconds"]
    assert isinstance(found, float)
    return found


def loss_curve(score: float) -> list[float]:
    """Mean losses of twentieths of the budget, in bits per byte."""
    return [_loss((point + 0.5) / CURVE_POINTS, score) for point in range(CURVE_POINTS)]


def write_loss_file(path: Path, draw: random.Random, score: float) -> None:
    """Writes the loss of each step, in nats per token."""
    noise = [draw.gauss(0, 0.05) for _ in range(20)]
    rows = (
        f"{step},{step * BUDGET_SECONDS / STEPS:.4f},{NATS * _loss(step / STEPS, score) + noise[step % 20]:.6f}\n"
        for step in range(1, STEPS + 1)
    )
    path.write_text("step,elapsed_seconds,loss\n" + "".join(rows), encoding="ascii")


def _loss(progress: float, score: float) -> float:
    return score * (1 + 1.2 * math.exp(-6 * progress))


def write_exchange(folder: Path, draw: random.Random, model: str) -> float:
    """Writes down what was said to a model; returns its price in dollars."""
    usage = {"input_tokens": draw.randint(9_000, 30_000), "output_tokens": draw.randint(1_000, 9_000)}
    dollars = (usage["input_tokens"] * 0.3 + usage["output_tokens"] * 2.5) / 1e6
    record = {
        "time": "2026-12-01T22:00:00+00:00",
        "model": model,
        "request": {"contents": "the brief"},
        "response": {"candidates": []},
        "error": None,
        "seconds": 12.5,
        "usage": usage,
        "usage_is": "reported",
        "dollars": dollars,
    }
    (folder / "01.json").write_text(json.dumps(record), encoding="utf-8")
    return dollars
