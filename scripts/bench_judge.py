"""Measures the judge on a snapshot of the default CPU configuration; called by bench_judge.sh.

Each figure is the last lines' `key: value`:
  judge_seconds       one judging with its probes, median
  plain_seconds       the same rows through the same compiled program without probes, median
  probe_share         what the probes add to judging: 1 - plain / judge, median of pairs run in turn
  num_probes          rows that were looked at twice
  keep_judge_seconds  one judging before a keep, with every row probed several times, median
  keep_judge_ratio    the same in judgings with a sample of probes: keep / judge, median of pairs
  num_keep_probes     looks at rows already judged, before a keep
  worst_probe_nats    largest difference over all draws of an honest candidate; the tolerance is 1e-3
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from autoresearch_jax.tasks.lm.data.dataset import Dataset
from autoresearch_jax.tasks.lm.integrity import load_manifest
from autoresearch_jax.tasks.lm.judge import EvalResult, EvalSet, Scorer, judge, load_eval_set
from autoresearch_jax.tasks.lm.programs import make_mesh
from autoresearch_jax.tasks.lm.snapshot import load_snapshot
from autoresearch_jax.types import Scrutiny


def trained_snapshot(folder: str) -> Path:
    """The snapshot of a short trial."""
    command = ["autoresearch", "trial", "--flagfile=configs/cpu.flags", "--budget_steps=20", "--format=json"]
    done = subprocess.run([*command, f"--run_dir={folder}"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    summary = json.loads(done.stdout or "{}")
    if summary.get("status") != "ok":
        sys.exit(f"bench_judge: {' '.join(command)}: {summary.get('error')}")
    return Path(summary["snapshot"])


def plain_seconds(scorer: Scorer, leaves: list[jax.Array], eval_set: EvalSet) -> float:
    """Time for every row once, two batches in flight as in the judge."""
    start = time.perf_counter()
    pending = None
    for first in range(0, len(eval_set.rows_NxT1), scorer.batch_rows):
        rows = eval_set.rows_NxT1[np.arange(first, first + scorer.batch_rows) % len(eval_set.rows_NxT1)]
        following = scorer(leaves, rows[:, :-1], rows[:, 1:])
        if pending is not None:
            np.asarray(pending)
        pending = following
    np.asarray(pending)
    return time.perf_counter() - start


def timed_judge(
    scorer: Scorer, leaves: list[jax.Array], eval_set: EvalSet, scrutiny: Scrutiny
) -> tuple[float, EvalResult]:
    """Seconds of a judging, and what it found."""
    start = time.perf_counter()
    result = judge(scorer, leaves, eval_set, random=np.random.default_rng(), scrutiny=scrutiny)
    return time.perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    pairs = 3 if parser.parse_args().quick else 25
    with tempfile.TemporaryDirectory() as folder:
        snapshot_dir = trained_snapshot(folder)
        manifest = load_manifest(snapshot_dir)
        mesh = make_mesh(manifest["mesh"])
        snapshot = load_snapshot(snapshot_dir, mesh)
    vocab_size, length = snapshot.programs.vocab_size, snapshot.programs.sequence_length
    dataset = Dataset.open(Path(manifest["dataset"]), sequence_length=length, vocab_sizes=(vocab_size,))
    eval_set = load_eval_set(dataset, vocab_size, "val", None, int(manifest["seed"]))
    scorer = Scorer(snapshot.programs, mesh, max(snapshot.programs.logits))
    plain_seconds(scorer, snapshot.read_leaves, eval_set)  # the first is slower

    plain: list[float] = []
    sampled: list[tuple[float, EvalResult]] = []
    keep: list[tuple[float, EvalResult]] = []
    for _ in range(pairs):
        plain.append(plain_seconds(scorer, snapshot.read_leaves, eval_set))
        sampled.append(timed_judge(scorer, snapshot.read_leaves, eval_set, Scrutiny.SEARCH))
        keep.append(timed_judge(scorer, snapshot.read_leaves, eval_set, Scrutiny.KEEP))
    seconds, keep_seconds = [s for s, _ in sampled], [s for s, _ in keep]
    results = [result for _, result in sampled + keep]
    if len({result.bpb for result in results}) != 1:
        sys.exit("bench_judge: two judgings of one snapshot gave two scores")
    print(f"machine: {platform.platform()}, Python {platform.python_version()}, jax {jax.__version__}")
    print(f"rows: {len(eval_set.rows_NxT1)} of {length} tokens in batches of {scorer.batch_rows}")
    print(f"judge_seconds: {statistics.median(seconds):.3f}")
    print(f"plain_seconds: {statistics.median(plain):.3f}")
    print(f"probe_share: {statistics.median(1 - p / s for p, s in zip(plain, seconds, strict=True)):.4f}")
    print(f"num_probes: {results[0].num_probes}")
    print(f"keep_judge_seconds: {statistics.median(keep_seconds):.3f}")
    print(f"keep_judge_ratio: {statistics.median(k / s for k, s in zip(keep_seconds, seconds, strict=True)):.3f}")
    print(f"num_keep_probes: {results[-1].num_probes}")
    print(f"worst_probe_nats: {max(result.worst_probe for result in results):.3g}")


if __name__ == "__main__":
    main()
