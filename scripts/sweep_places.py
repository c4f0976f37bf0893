"""What goes before the command of each of N trials beside each other, a line each; for sweep.sh.

python scripts/sweep_places.py N|auto [FLAG OF autoresearch trial ...]
"""

import os
import sys
from pathlib import Path

from absl import flags

from autoresearch_jax.commands import trial
from autoresearch_jax.commands.machine_options import WorkerOptions
from autoresearch_jax.commands.options import define_options
from autoresearch_jax.errors import UserError
from autoresearch_jax.executors.places import divide_devices, divide_processors, processor_cores
from autoresearch_jax.tasks.lm.device import choose_platform

DEVICE_FILES = {"cuda": ("nvidia[0-9]*",), "tpu": ("accel[0-9]*", "vfio/[0-9]*")}


def main() -> int:
    """Prints the lines."""
    flag_values = flags.FlagValues()
    define_options(flag_values, trial.Options)
    try:
        flag_values(["trial", *sys.argv[2:]])
        workers = WorkerOptions(workers=sys.argv[1])
        if workers.on_ray:
            raise UserError("--workers=ray: a sweep runs on this machine: expected a number from 1, or auto")
        platform = choose_platform(flag_values["platform"].value)
        if platform == "cpu":
            number = workers.number or 1
            places = divide_processors(number, processor_cores()) if number > 1 else []
            lines = [f"taskset --cpu-list {','.join(map(str, sorted(place.cpus)))}" for place in places]
        else:
            count = sum(len(list(Path("/dev").glob(pattern))) for pattern in DEVICE_FILES[platform])
            places = divide_devices(workers.number, platform, max(count, 1), os.environ)
            lines = [
                " ".join(["env", *(f"{name}={value}" for name, value in place.variables.items())]) for place in places
            ]
    except (flags.Error, UserError) as error:
        print(f"sweep: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print("\n".join(lines or ["env"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
