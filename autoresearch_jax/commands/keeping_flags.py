"""The flags that say which snapshots a run keeps, and how much of the disk it leaves free."""

from absl import flags

from autoresearch_jax.search.retention import Keeping

GIB = 2**30


def define_keeping_flags(flag_values: flags.FlagValues) -> None:
    """Defines --keep_last, --keep_best and --min_free_gb."""
    keeping = Keeping()
    for name, default, what in (
        ("keep_last", keeping.last, "keep the snapshots of the last so many experiments, beside those of champions"),
        ("keep_best", keeping.best, "keep the snapshots of the so many best experiments, too"),
    ):
        flags.DEFINE_integer(name, default, what, lower_bound=0, flag_values=flag_values)
    flags.DEFINE_float(
        "min_free_gb",
        1.0,
        "stop, to go on later, where the run's folder would be left with less free space (GiB)",
        lower_bound=0.0,
        flag_values=flag_values,
    )


def keeping_options(flag_values: flags.FlagValues) -> Keeping:
    """Which snapshots are kept."""
    return Keeping(last=flag_values.keep_last, best=flag_values.keep_best)


def min_free_bytes(flag_values: flags.FlagValues) -> int:
    """Free space that a run leaves."""
    return int(flag_values.min_free_gb * GIB)
