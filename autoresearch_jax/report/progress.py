"""How far a trial is, in words and as a share."""

from collections.abc import Mapping

from autoresearch_jax.types import ATTENDED_SHARE, USUAL_SHARE, Scalar

PER_SECOND = "_per_second"  # ends the name of a speed, which begins with what is counted


def share_of_budget(report: Mapping[str, Scalar]) -> float | None:
    """What of the budget is spent, 0 to 1; None where the report does not tell."""
    for spent, budget in (("elapsed_seconds", "budget_seconds"), ("step", "budget_steps")):
        done, whole = report.get(spent), report.get(budget)
        if isinstance(done, int | float) and isinstance(whole, int | float) and whole > 0:
            return min(1.0, max(0.0, done / whole))
    return None


def share_done(report: Mapping[str, Scalar]) -> float | None:
    """As `share_of_budget`, and beyond it the share of a judgement."""
    share = share_of_budget(report)
    if share is None and isinstance(judged := report.get("share"), int | float):
        return judged
    return share


def describe_report(report: Mapping[str, Scalar]) -> str:
    """One line of a report: elapsed, loss, speed, time left, as far as they are known."""
    parts = [str(report.get("phase", "")), *describe_progress(report), *describe_speed(report)]
    attended = report.get(ATTENDED_SHARE)
    if isinstance(attended, int | float) and attended < USUAL_SHARE:
        parts.append(f"{attended:.0%} attended")
    return "  ".join(part for part in parts if part)


def describe_progress(report: Mapping[str, Scalar]) -> list[str]:
    """How far a trial is: steps, seconds, time left."""
    parts = []
    elapsed, seconds, steps = (report.get(name) for name in ("elapsed_seconds", "budget_seconds", "budget_steps"))
    step = report.get("step")
    if isinstance(step, int):
        parts.append(f"step {step}" if steps is None else f"step {step}/{steps}")
    if isinstance(elapsed, int | float):
        parts.append(f"{elapsed:.0f} s" if seconds is None else f"{elapsed:.0f}/{seconds:.0f} s")
        if isinstance(seconds, int | float):
            parts.append(f"{max(0.0, seconds - elapsed):.0f} s left")
        elif isinstance(steps, int) and isinstance(step, int) and step:
            parts.append(f"{elapsed / step * (steps - step):.0f} s left")
    return parts


def describe_speed(report: Mapping[str, Scalar]) -> list[str]:
    """What a trial achieves: loss, what it does each second, the share of a judgement."""
    rates = [name for name in report if name.endswith(PER_SECOND)]
    speeds = ((name, f"{{:,.0f}} {name.removesuffix(PER_SECOND)}/s") for name in rates)
    found = []
    for name, words in (("loss", "loss {:.4f}"), *speeds, ("share", "{:.0%}")):
        value = report.get(name)
        if isinstance(value, int | float):
            found.append(words.format(value))
    return found
