"""The contract of an asset as text for agents, from task.toml."""

import shlex

from autoresearch_jax.tasks.command.task_file import KIBIBYTE, LATENCY, LINES, TaskFile


def contract_text(task: TaskFile, budget_seconds: float) -> str:
    """What task.toml asks of the asset, in Markdown without headings."""
    asset, metric = task.asset, task.metric
    others = ", ".join(f"`{name}`" for name in task.files.asset) or "no other file"
    lines = [
        f"`{asset.file}` is the only file that is edited; it has at most {asset.max_bytes / KIBIBYTE:g} KiB.",
        f"It is scored by `{metric.name}`, which is to be {metric.direction}d"
        + f": an evaluator outside the sandbox (`{shlex.join(task.evaluate.command)}`) reads what it answered.",
        f"It runs in a sandbox without network, and reads {others} beside itself; not the evaluator's files.",
    ]
    if task.build is not None:
        lines.append(f"`{shlex.join(task.build.command)}` builds it into $BUILD, in {task.budget.build_seconds:g} s.")
    if task.run is not None:
        lines.append(f"`{shlex.join(task.run.command)}` runs it once, in {budget_seconds:g} s; it writes into $OUT.")
    if task.serve is not None:
        how = "a JSON line for each JSON line" if task.serve.speaks == LINES else "on the unix socket $SOCKET"
        lines.append(
            f"`{shlex.join(task.serve.command)}` serves it: it answers {how}, for {budget_seconds:g} s in all; "
            f"it is ready in {task.budget.start_seconds:g} s."
        )
    if metric.noise == LATENCY:
        lines.append("It is measured in turns with the champion; the one whose turn it is not stands still.")
    if task.budget.memory_mb is not None:
        lines.append(f"All its processes have {task.budget.memory_mb:g} MiB of memory together.")
    return "\n".join(f"- {line}" for line in lines)
