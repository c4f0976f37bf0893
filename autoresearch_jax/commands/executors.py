"""What carries out a run's trials; and its task as a node of a Ray cluster makes it, from flags and files."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from absl import flags

from autoresearch_jax.commands.dataset_options import DatasetOptions
from autoresearch_jax.commands.machine_options import WorkerOptions
from autoresearch_jax.commands.options import define_options, given_flags, read_options
from autoresearch_jax.commands.task_options import TaskOptions
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.state import REFERENCE_SECONDS
from autoresearch_jax.engine.task import CalibratedTask, PlaceableTask, Task
from autoresearch_jax.executors.base import Executor, LocalExecutor
from autoresearch_jax.executors.pool import PoolExecutor
from autoresearch_jax.executors.ray_ import RayExecutor
from autoresearch_jax.executors.ray_node import Frame, conditions, read_frames, write_folder
from autoresearch_jax.tasks.lm.data.corpus import Reporter, open_corpus
from autoresearch_jax.tasks.lm.data.dataset import DatasetError
from autoresearch_jax.tasks.lm.data.prepare import prepare_dataset
from autoresearch_jax.types import Scalar

OPENER = f"{__name__}:open_on_node"


def open_executor(options: TaskOptions, editable: Path, task: Task, ledger: Ledger) -> Executor:
    """What carries out the trials of a run.

    Args:
      options: of the task.
      editable: the training file.
      task: made from `options`.
      ledger: of the run; read when a trial is handed to a node, after the clock is calibrated.

    Raises:
      UserError: Ray, the cluster, or a node of this machine's class is missing.
    """
    if not options.workers.on_ray:
        return make_executor(task)
    return RayExecutor(
        lambda: describe_task(options, editable, task, ledger.settings().get(REFERENCE_SECONDS)),
        task.terms,
        address=options.workers.ray_address,
        files=task_files(options),
    )


def describe_task(options: TaskOptions, editable: Path, task: Task, reference_seconds: Scalar) -> Mapping[str, Any]:
    """How a node makes a task, see `RayExecutor`.

    Args:
      options: of the task.
      editable: the training file.
      task: made from `options` on this machine.
      reference_seconds: what the run's clock counts in, see `CalibratedTask`.
    """
    dataset, cache = options.dataset, options.compile_cache
    absolute = replace(
        options,
        dataset=replace(
            dataset,
            cache_dir=dataset.cache_dir and dataset.cache_dir.absolute(),
            data_dir=dataset.data_dir and dataset.data_dir.absolute(),
        ),
        compile_cache=cache and str(Path(cache).absolute()),
        workers=WorkerOptions(),
    )
    settings = {"flags": given_flags(absolute), "editable": editable.name, "reference_seconds": reference_seconds}
    return {"opener": OPENER, "settings": settings, "expects": conditions(task)}


def task_files(options: TaskOptions) -> list[Frame]:
    """The files of a command task: task.toml, and those that it names."""
    if not options.is_command:
        return []
    task = options.command
    words = [word for word in task.evaluate.command if (task.folder / word).is_file()]
    names = (task.path.name, task.asset.file, *words, *task.files.asset, *task.files.val, *task.files.holdout)
    return list(read_frames(task.folder, paths=[task.folder / name for name in dict.fromkeys(names)]))


def open_on_node(settings: Mapping[str, Any], files: Sequence[Frame], folder: Path) -> Task:
    """The task on this node; its folders are in `folder`. A dataset that is missing is made.

    Raises:
      UserError: it cannot be made here.
    """
    values = flags.FlagValues()
    define_options(values, TaskOptions)
    values(["node", *settings["flags"]])
    options = read_options(values, TaskOptions)
    os.environ.pop("OMP_NUM_THREADS", None)  # Ray's, which a trial outside of Ray does not have
    if options.is_command:
        write_folder(folder / "task", files)
        options = replace(options, task_file=folder / "task" / options.task_file.name)
    else:
        _require_dataset(options.dataset)
    task = options.make_task(folder, Path(settings["editable"]))
    unit = settings["reference_seconds"]
    if unit is not None and isinstance(task, CalibratedTask):
        task.calibrate(unit, folder / "logs")
    return task


def _require_dataset(options: DatasetOptions) -> None:
    try:
        options.open()
    except DatasetError:
        corpus = open_corpus(options.corpus, options.downloads)
        prepare_dataset(
            options.folder,
            corpus,
            sequence_length=options.sequence_length,
            vocab_sizes=options.vocab_sizes,
            reporter=Reporter(),
        )


def make_executor(task: Task) -> Executor:
    """What carries out the trials of a task: in this thread, or beside each other where its machine is divided."""
    others = task.other_places if isinstance(task, PlaceableTask) else ()
    if not others:
        return LocalExecutor(task.measure)
    assert isinstance(task, PlaceableTask)
    return PoolExecutor([task, *(task.at(place) for place in others)])
