"""What tests of `try`, `check` and `brief` share: a run of a fake task, and the words of a try."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fakes import SOURCE, FakeTask

from autoresearch_jax.engine.run_folder import RunFolder

NIGHT = RunFolder(Path("runs/night"))
DEEP = SOURCE.replace("DEPTH = 4", "DEPTH = 6")
TRY = ("try", "--tag=night", "--hypothesis=deeper is better", "--format=json")
Call = Callable[..., tuple[int, dict[str, Any], str]]


class Made:
    """The task that the options stand for."""

    task = FakeTask()


class Cut(FakeTask):
    """Its first trial is interrupted."""

    def measure(self, candidate, **more):
        raise KeyboardInterrupt


def edit(text: str) -> None:
    Path("train_lib.py").write_text(text)
