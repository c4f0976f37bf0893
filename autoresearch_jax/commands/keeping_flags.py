"""The flags that say which snapshots a run keeps and where, and how much of the disk it leaves free."""

from absl import flags

from autoresearch_jax.errors import UsageError
from autoresearch_jax.snapshots.retention import Keeping

GIB = 2**30


def define_keeping_flags(flag_values: flags.FlagValues) -> None:
    """Defines --keep_last, --keep_best, --snapshot_dir and --min_free_gb."""
    keeping = Keeping()
    for name, default, what in (
        ("keep_last", keeping.last, "keep the snapshots of the last so many experiments, beside those of champions"),
        ("keep_best", keeping.best, "keep the snapshots of the so many best experiments, too"),
    ):
        flags.DEFINE_integer(name, default, what, lower_bound=0, flag_values=flag_values)
    flags.DEFINE_string(
        "snapshot_dir",
        None,
        "move snapshots to TAG in this folder, or bucket such as gs://BUCKET/FOLDER, instead of keeping them in the "
        "run's folder",
        flag_values=flag_values,
    )
    flags.DEFINE_float(
        "min_free_gb",
        1.0,
        "stop, to go on later, where the run's folder would be left with less free space (GiB)",
        lower_bound=0.0,
        flag_values=flag_values,
    )


def keeping_options(flag_values: flags.FlagValues) -> Keeping:
    """Which snapshots are kept, and where."""
    place = flag_values.snapshot_dir
    if place is not None:
        if not place.strip("/"):
            raise UsageError(f"--snapshot_dir={place}: name a folder, or a bucket such as gs://BUCKET/FOLDER")
        place = f"{place.rstrip('/')}/{flag_values.tag}"
    return Keeping(flag_values.keep_last, flag_values.keep_best, place)


def min_free_bytes(flag_values: flags.FlagValues) -> int:
    """Free space that a run leaves."""
    return int(flag_values.min_free_gb * GIB)
