"""Measures the attended clock beside other work; called by bench_clock.sh.

Each round makes four trials of the demo's program: alone, beside one process that burns a core 5 s on and 5 s off,
beside two that burn all the time, these three with one seed, and alone with another seed each. The last lines are
`key: value`:
  steps_cv_attended         coefficient of variation of the steps within the budget, over all trials with the one seed
  steps_ratio_busy          mean steps beside two burners over those alone
  steps_cv_wall, steps_ratio_busy_wall    the same for the steps that these trials made in so much wall time
  steps_cv_unscaled, steps_ratio_busy_unscaled    the same for attended seconds without the reference program
  score_sd_ratio            standard deviation of val_bpb over the trials with the one seed, over that of those alone
                            with other seeds
  attended_share_alone      mean share of the time that the trials alone had the machine
  clock_overhead_percent    wall time of the reference program and of reading the accounts, over the candidate's own
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from bench_conditions import burning, demo_options

from autoresearch_jax.assets.python_constants import set_constants
from autoresearch_jax.tasks.lm.task import LmTask
from autoresearch_jax.types import Candidate, Measurement, Status

ALONE, ON_AND_OFF, BUSY, SEEDS = "alone", "on and off", "two burners", "alone, seeds"
BURNERS: dict[str, Sequence[tuple[float, float]]] = {ALONE: (), ON_AND_OFF: [(5, 5)], BUSY: [(1, 0)] * 2, SEEDS: ()}
SEED = 0


def trial(task: LmTask, candidate: Candidate, seed: int, condition: str, folder: Path) -> Measurement:
    folder.mkdir()
    with burning(BURNERS[condition]):
        measured = task.measure(candidate, seed=seed, log_dir=folder, snapshot_dir=folder / "snapshot")
    if measured.status is not Status.OK:
        sys.exit(f"bench_clock: {condition}: {measured.error}")
    return measured


def variation(values: Sequence[float]) -> float:
    return statistics.stdev(values) / statistics.mean(values) if len(values) > 1 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    rounds = 1 if arguments.quick else arguments.rounds
    options, constants = demo_options("--clock=attended")
    budget = options.budget.seconds
    assert budget is not None
    found: dict[str, list[Measurement]] = {condition: [] for condition in BURNERS}

    with tempfile.TemporaryDirectory() as scratch:
        folder, editable = Path(scratch), Path("train_lib.py")
        with closing(options.make_task(folder, editable, one_trial=True)) as task:
            candidate = task.prepare(set_constants(editable.read_text(), constants), folder)
            task.calibrate(None, folder)
            trial(task, candidate, SEED, ALONE, folder / "warm-up")  # compiles
            print(f"{'':14}{'steps':>7}{'in wall':>9}{'share':>7}{'speed':>7}{'val_bpb':>9}")
            for turn in range(rounds):
                for condition, measured in found.items():
                    seed = SEED + 1 + turn if condition == SEEDS else SEED
                    one = trial(task, candidate, seed, condition, folder / f"{turn}-{condition}")
                    measured.append(one)
                    print(
                        f"{condition:14}{steps(one):7.1f}{steps_in_wall(one, budget):9.1f}"
                        f"{one.metrics['attended_share']:7.3f}{one.metrics['machine_speed']:7.3f}{one.value:9.4f}",
                        flush=True,
                    )

    same_seed = [*found[ALONE], *found[ON_AND_OFF], *found[BUSY]]
    counts: dict[str, Callable[[Measurement], float]] = {
        "": steps,
        "_wall": lambda one: steps_in_wall(one, budget),
        "_unscaled": lambda one: steps(one) * number(one, "machine_speed"),
    }
    figures = {}
    for name, count in counts.items():
        figures[f"steps_cv{name or '_attended'}"] = variation([count(one) for one in same_seed])
        busy, alone = ([count(one) for one in found[condition]] for condition in (BUSY, ALONE))
        figures[f"steps_ratio_busy{name}"] = statistics.mean(busy) / statistics.mean(alone)
    figures["score_sd_ratio"] = spread(same_seed) / spread(found[SEEDS]) if rounds > 1 else 0.0
    figures["attended_share_alone"] = statistics.mean(number(one, "attended_share") for one in found[ALONE])
    in_clock = sum(number(one, "clock_seconds") for one in same_seed)
    figures["clock_overhead_percent"] = 100 * in_clock / sum(own_wall(one) for one in same_seed)
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for key, value in figures.items():
        print(f"{key}: {value:.3f}")


def number(one: Measurement, name: str) -> float:
    value = one.metrics[name]
    assert isinstance(value, int | float)
    return float(value)


def own_wall(one: Measurement) -> float:
    """Wall time of a trial's training without what its clock took, in seconds."""
    return number(one, "wall_seconds") - number(one, "clock_seconds")


def steps(one: Measurement) -> float:
    return number(one, "num_steps")


def steps_in_wall(one: Measurement, budget: float) -> float:
    """Steps that a trial would have made in its budget by the wall clock, at the pace that it had."""
    return number(one, "num_steps") * budget / own_wall(one)


def spread(measured: Sequence[Measurement]) -> float:
    return statistics.stdev([one.value for one in measured if one.value is not None])


if __name__ == "__main__":
    main()
