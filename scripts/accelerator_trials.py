"""The parts that use the product's own commands: `trial`, `judge`, `repeat`, `run` and `standby`.

    python scripts/accelerator_trials.py SNAPSHOT

judges a snapshot twice, in a process that has the device, and prints one line of JSON.
"""

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerator_plan import ROOT, Configuration, Plan
from accelerator_result import Result, last_json
from bench_loop import make_repository, median_overhead, read_samples

from autoresearch_jax.tasks.lm.device import platform_variables

TRIAL_FILE = "trial.json"  # in the work folder: the summary of the part `trial`, whose snapshot `judge` takes
PHASES = ("prepare", "startup", "compile", "init", "training", "snapshot", "judge")
TAG = "check"
BUDGET_OF_A_NIGHT = 300.0
REPEATED_SEED = 7


def corpus_flags(plan: Plan) -> list[str]:
    """Flags that name the corpus made on the spot, and where its datasets are."""
    return [f"--corpus=files:{plan.folder}/text/*.jsonl", f"--data_dir={plan.folder}/data"]


def dataset_flags(plan: Plan, configuration: Configuration) -> list[str]:
    length, vocab = configuration.sequence_length, configuration.vocab_size
    return [*corpus_flags(plan), f"--sequence_length={length}", f"--vocab_sizes={vocab}"]


def task_flags(plan: Plan, configuration: Configuration) -> list[str]:
    """Flags of `trial` and `run`: those of the file in configs/, and what is different here."""
    return [
        f"--flagfile={ROOT / 'configs' / configuration.flagfile}",
        f"--platform={plan.platform}",
        f"--mesh=data={plan.mesh_devices}",
        *dataset_flags(plan, configuration),
        *(f"--set={name}={value}" for name, value in configuration.constants.items()),
        *(f"--run_dir={plan.folder}/runs", f"--compile_cache={plan.folder}/compiled", "--min_steps=1", "--clock=wall"),
        *(["--judge_tokens=4000"] if plan.tiny else []),
    ]


def call(command: str, *flags: str, cwd: Path = ROOT, **variables: str) -> tuple[int, str, float]:
    """One of autoresearch's commands: its exit status, what it printed to standard output, and its wall time.

    The rest of its output goes where this process's goes.
    """
    start = time.monotonic()
    argv = [sys.executable, "-m", "autoresearch_jax.cli", command, *flags]
    done = subprocess.run(argv, cwd=cwd, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True)
    return done.returncode, done.stdout, time.monotonic() - start


def called(command: str, *flags: str) -> tuple[dict[str, Any], float]:
    """The JSON that a command printed, and its wall time; ends this part if it failed."""
    status, text, seconds = call(command, *flags, "--format=json")
    try:
        value = json.loads(text)
    except ValueError:
        sys.exit(f"`autoresearch {command}` ended with status {status} and printed no JSON")
    if status:
        sys.exit(f"`autoresearch {command}` failed: {value.get('status')}: {value.get('error')}")
    return value, seconds


def prepare(plan: Plan, configuration: Configuration) -> dict[str, Any]:
    """Makes the dataset of a configuration."""
    return called("prepare", *dataset_flags(plan, configuration))[0]


def trial(plan: Plan, result: Result) -> None:
    """One trial of the original's setting end to end, and what it costs beside its training, phase by phase."""
    budget = plan.pick(60.0, 8.0, 2.0)
    flags = task_flags(plan, plan.configurations()[0])
    summary, wall = called("trial", *flags, f"--budget_seconds={budget}", "--tag=trial")
    (plan.folder / TRIAL_FILE).write_text(json.dumps(summary), encoding="utf-8")
    result.set("budget_seconds", budget)
    spent = {phase: summary.get(f"{phase}_seconds") or 0.0 for phase in PHASES}
    for phase, seconds in spent.items():
        result.set(f"{phase}_seconds", round(seconds, 2))
    result.set("other_seconds", round(wall - sum(spent.values()), 2))
    overhead = wall - spent["training"]
    result.set("overhead_seconds", round(overhead, 2))
    result.set("overhead_percent_of_300_s", round(100 * overhead / BUDGET_OF_A_NIGHT, 2))
    for name in ("num_steps", "tokens_per_second", "mfu_percent", "data_wait_seconds", "peak_vram_mb"):
        result.set(name, summary.get(name))
    for name in ("compiles_in_budget", "train_loss", "unigram_bpb", "val_bpb", "sandbox"):
        result.set(name, summary.get(name))
    if summary.get("compiles_in_budget"):
        result.find(f"{summary['compiles_in_budget']} programs were compiled inside the budget")
    if not plan.tiny and not summary["val_bpb"] < summary["unigram_bpb"]:
        result.find("the model is no better than counting tokens")


def judge(plan: Plan, result: Result) -> None:
    """The trial's snapshot judged twice in each of two processes that compile for themselves."""
    found = plan.folder / TRIAL_FILE
    if not found.exists():  # --only=judge
        steps = plan.pick(20, 10, 4)
        flags = task_flags(plan, plan.configurations()[0])
        summary, _ = called("trial", *flags, f"--budget_steps={steps}", "--tag=trial")
    else:
        summary = json.loads(found.read_text(encoding="utf-8"))
    variables = {**os.environ, **platform_variables(plan.platform, plan.mesh_devices, os.environ, None)}
    scores = [float(summary["val_bpb"])]
    for number in (1, 2):
        command = [sys.executable, __file__, summary["snapshot"]]
        done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"judging ended with status {done.returncode}")
        value = last_json(done.stdout)
        scores += value["scores"]
        result.set(f"judge_seconds_{number}", round(value["seconds"], 3))
        result.set(f"worst_probe_nats_{number}", value["worst_probe"])
        result.set("judged_tokens", value["tokens"])
    compare_scores(result, "judgings", scores)


def judge_twice(folder: Path) -> dict[str, Any]:
    """Scores of a snapshot by this process's device."""
    import numpy as np

    from autoresearch_jax.tasks.lm.data.dataset import Dataset
    from autoresearch_jax.tasks.lm.integrity import METRICS, load_manifest
    from autoresearch_jax.tasks.lm.judge import Scorer, load_eval_set
    from autoresearch_jax.tasks.lm.judge import judge as judge_once
    from autoresearch_jax.tasks.lm.programs import make_mesh
    from autoresearch_jax.tasks.lm.snapshot import load_snapshot

    manifest = load_manifest(folder)
    mesh = make_mesh(manifest["mesh"])
    snapshot = load_snapshot(folder, mesh)
    programs = snapshot.programs
    dataset = Dataset.open(
        Path(manifest["dataset"]), sequence_length=programs.sequence_length, vocab_sizes=(programs.vocab_size,)
    )
    judge_tokens, seed = manifest.get("judge_tokens"), int(manifest["seed"])
    eval_set = load_eval_set(dataset, programs.vocab_size, manifest["split"], judge_tokens, seed)
    rows = manifest[METRICS].get("judge_batch_rows")  # of a manifest that was written before judging, unknown
    scorer = Scorer(programs, mesh, rows if rows in programs.logits else max(programs.logits))
    results = [judge_once(scorer, snapshot.read_leaves, eval_set, random=np.random.default_rng()) for _ in range(2)]
    return {
        "scores": [result.bpb for result in results],
        "seconds": results[1].seconds,
        "worst_probe": max(result.worst_probe for result in results),
        "tokens": results[0].num_tokens,
    }


def compare_scores(result: Result, name: str, scores: Sequence[float]) -> None:
    """Whether scores that should be equal are so to the last bit, and else by how much they differ."""
    difference = max(scores) - min(scores)
    result.set(f"{name}_compared", len(scores))
    result.set(f"{name}_equal_bits", "yes" if difference == 0 else "no")
    result.set(f"{name}_largest_difference_bpb", difference)


def repeat(plan: Plan, result: Result) -> None:
    """Two trials of the original's setting with one seed and as many steps: equal bits, or since which step not."""
    steps = plan.pick(20, 6, 4)
    flags = [*task_flags(plan, plan.configurations()[0]), f"--budget_steps={steps}", f"--seed={REPEATED_SEED}"]
    scores, curves = [], []
    for _ in range(2):
        summary, _ = called("trial", *flags, "--tag=repeat")
        scores.append(float(summary["val_bpb"]))
        with (Path(summary["log"]) / "loss.csv").open() as file:
            curves.append([row["loss"] for row in csv.DictReader(file)])
    result.set("steps", len(curves[0]))
    compare_scores(result, "trials", scores)
    differing = [step for step, (one, other) in enumerate(zip(*curves, strict=True), start=1) if one != other]
    result.set("first_step_with_another_loss", differing[0] if differing else "none")


def loop_flags(plan: Plan, budget_seconds: float, experiments: int) -> list[str]:
    """Flags of a run of the small configuration, one trial an experiment."""
    return [
        *task_flags(plan, plan.configurations()[1]),
        *(f"--budget_seconds={budget_seconds}", f"--experiments={experiments}"),
        *("--proposer=constants", "--decision=greedy", "--noprune", "--min_free_gb=0"),
    ]


def run_loop(plan: Plan, tag: str, flags: Sequence[str]) -> float:
    """Runs a run in a repository of its own, whose page moves learning rates alone; its wall time."""
    repository = plan.folder / f"repository-{tag}"
    make_repository(repository)
    status, text, seconds = call("run", *flags, f"--tag={tag}", cwd=repository)
    print(text, flush=True)
    if status:
        sys.exit(f"`autoresearch run` ended with status {status}")
    return seconds


def ledger_of(plan: Plan, tag: str) -> Path:
    return plan.folder / "runs" / tag / "ledger.db"


def run(plan: Plan, result: Result) -> None:
    """Three experiments of the constants' optimizer, quick one, then `verify`."""
    budget, experiments = plan.pick(20.0, 2.0, 1.0), 1 if plan.quick else 3
    result.set("budget_seconds", budget)
    result.set("run_seconds", round(run_loop(plan, TAG, loop_flags(plan, budget, experiments)), 1))
    samples = read_samples(ledger_of(plan, TAG))
    result.set("trials_with_a_score", len(samples))
    result.set("compile_seconds", [round(sample.compile, 2) for sample in samples])
    result.set("tokens_per_second", [round(sample.tokens_per_second) for sample in samples])
    if len(samples) <= experiments:
        result.find(f"{len(samples)} of {experiments + 1} trials gave a score")
    status, text, seconds = call(
        "verify", TAG, f"--run_dir={plan.folder}/runs", "--format=json", JAX_PLATFORMS=plan.platform
    )
    try:
        verified: Mapping[str, Any] = json.loads(text)
    except ValueError:
        sys.exit(f"`autoresearch verify` ended with status {status} and printed no JSON")
    result.set("verify_seconds", round(seconds, 1))
    result.set("verified", "yes" if verified["verified"] else "no")
    for name in ("val_bpb_then", "val_bpb_now", "difference"):
        result.set(name, verified.get(name))
    for line in verified["differences"]:
        result.find(f"verify: {line.replace(str(plan.folder), '')}")


def standby(plan: Plan, result: Result) -> None:
    """What lies between trials with a process that waits for the next one, and without."""
    budget = plan.pick(3.0, 2.0, 1.0)
    if not ledger_of(plan, TAG).exists():  # --only=standby; else the part `run` had it on
        run_loop(plan, TAG, loop_flags(plan, budget, 2))
    run_loop(plan, "without", [*loop_flags(plan, budget, 2), "--nostandby"])
    for name, tag in (("with", TAG), ("without", "without")):
        samples = read_samples(ledger_of(plan, tag))
        result.set(f"overhead_seconds_{name}_standby", round(median_overhead(samples), 2))
        result.set(f"trials_counted_{name}_standby", sum(sample.overhead is not None for sample in samples))


if __name__ == "__main__":
    print(json.dumps(judge_twice(Path(sys.argv[1]))), flush=True)
