"""Measures models of several head sizes, widths and depths; called by bench_width.sh.

Each seed is a round in which every setting has its trial in turn, so a round's settings see the same machine. Beside
other work only differences within a round count.

The last lines are `key: value`, of each setting, such as 64_64_2 for HEAD_DIM 64, ASPECT_RATIO 64 and DEPTH 2:
  val_bpb_SETTING              mean of the seeds
  difference_SETTING           mean of the rounds' differences in val_bpb from the first setting; negative is better
  tokens_per_second_SETTING    mean of the seeds
and best_setting, the one of the lowest mean difference.
"""

import argparse
import math
import os
import platform
import statistics
import tempfile
from pathlib import Path

from bench_trial import trial

# train_lib.py had 128,32,4 until these were measured: one head and width 128 at each depth from 1 to 4
SETTINGS = ("128,32,4", "32,32,4", "64,32,4", "32,48,3", "64,64,3", "32,64,2", "64,64,2", "64,96,2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", default=SETTINGS, metavar="HEAD_DIM,ASPECT_RATIO,DEPTH")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of training")
    parser.add_argument("--seeds", type=int, default=2, help="rounds, each with its own seed")
    options = parser.parse_args()
    scores: dict[str, list[float]] = {setting: [] for setting in options.settings}
    speeds: dict[str, list[float]] = {setting: [] for setting in options.settings}

    with tempfile.TemporaryDirectory() as scratch:
        print(f"{'seed':>4}{'setting':>12}{'width':>7}{'heads':>7}{'steps':>7}{'tokens/s':>10}{'val_bpb':>9}")
        for seed in range(options.seeds):
            for setting in options.settings:
                head_dim, aspect_ratio, depth = map(int, setting.split(","))
                heads = math.ceil(depth * aspect_ratio / head_dim)
                summary, _ = trial(
                    Path(scratch) / "runs",
                    f"--budget_seconds={options.budget}",
                    f"--seed={seed}",
                    f"--set=HEAD_DIM={head_dim}",
                    f"--set=ASPECT_RATIO={aspect_ratio}",
                    f"--set=DEPTH={depth}",
                )
                scores[setting].append(summary["val_bpb"])
                speeds[setting].append(summary["tokens_per_second"])
                print(
                    f"{seed:4d}{setting:>12}{heads * head_dim:7d}{heads:7d}{summary['num_steps']:7d}"
                    f"{summary['tokens_per_second']:10.0f}{summary['val_bpb']:9.4f}",
                    flush=True,
                )

    first = scores[options.settings[0]]
    differences = {
        setting: statistics.fmean(ours - theirs for ours, theirs in zip(values, first, strict=True))
        for setting, values in scores.items()
    }
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for setting, values in scores.items():
        key = setting.replace(",", "_")
        print(f"val_bpb_{key}: {statistics.fmean(values):.4f}")
        print(f"difference_{key}: {differences[setting]:+.4f}")
        print(f"tokens_per_second_{key}: {statistics.fmean(speeds[setting]):.0f}")
    print(f"best_setting: {min(differences, key=lambda setting: differences[setting]).replace(',', '_')}")


if __name__ == "__main__":
    main()
