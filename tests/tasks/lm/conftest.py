"""Fixtures for tests of the language-model task."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from lm_trials import STEPS, MakeTask

from autoresearch_jax.executors.places import ANYWHERE, Place
from autoresearch_jax.sandbox.accounting import WALL
from autoresearch_jax.sandbox.sandbox import Sandbox
from autoresearch_jax.tasks.lm.config import LmTaskConfig, TimeLimits
from autoresearch_jax.tasks.lm.data.dataset import Dataset
from autoresearch_jax.tasks.lm.device import Device
from autoresearch_jax.tasks.lm.hosts import Hosts
from autoresearch_jax.tasks.lm.task import LmTask
from autoresearch_jax.types import Budget

DEVICE = Device("cpu", "cpu", 1, None)


@pytest.fixture
def make_task(tiny_dataset: Dataset, sandbox: Sandbox, compile_cache: Path, tmp_path: Path) -> Iterator[MakeTask]:
    """Makes tasks with `tiny_dataset`; other keywords are time limits."""
    tasks = []

    def make(
        budget: Budget = STEPS,
        mesh_axes: Mapping[str, int] | None = None,
        device: Device = DEVICE,
        dataset: Dataset = tiny_dataset,
        environment: Mapping[str, str] = os.environ,
        standby: bool = False,
        compile_cache_dir: Path = compile_cache,
        clock: str = WALL,
        places: Sequence[Place] = (ANYWHERE,),
        hosts: Hosts | None = None,
        **limits: float,
    ) -> LmTask:
        config = LmTaskConfig(
            dataset=dataset,
            device=device,
            mesh_axes=mesh_axes or {"data": 1, "model": 1},
            budget=budget,
            clock=clock,
            sandbox=sandbox,
            programs_dir=tmp_path / "programs",
            environment=environment,
            trials_dirs=(tmp_path,),
            compile_cache_dir=compile_cache_dir,
            standby_log=tmp_path / "standby.log" if standby else None,
            limits=TimeLimits(**limits),
            place=places[0],
            other_places=places[1:],
            hosts=hosts,
        )
        tasks.append(LmTask(config))
        return tasks[-1]

    yield make
    for task in tasks:
        task.close()
