"""What a run searches: each task turns a source into a score. Tasks are opened by name."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from autoresearch_jax.errors import UsageError

if TYPE_CHECKING:
    from autoresearch_jax.engine.task import Task

TASKS = {  # classes that take the task's configuration
    "lm": "autoresearch_jax.tasks.lm.task:LmTask",
    "command": "autoresearch_jax.tasks.command.task:CommandTask",
}


def open_task(name: str, config: Any) -> "Task":
    """Opens a task.

    Args:
      name: one of `TASKS`.
      config: the task's own configuration, such as `tasks.lm.config.LmTaskConfig`.

    Raises:
      UsageError: there is no task of that name.
    """
    if name not in TASKS:
        raise UsageError(f"no task {name!r}: there are {', '.join(TASKS)}")
    module, _, factory = TASKS[name].partition(":")
    task: Task = getattr(import_module(module), factory)(config)
    return task
