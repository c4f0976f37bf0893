"""XLA's cache: what was compiled once is compiled no more, and no candidate's Python gets near it."""

import os
from pathlib import Path

from lm_trials import MakeTask, run_trial
from tracing import edited

from autoresearch_jax.sandbox.sandbox import Level, Sandbox
from autoresearch_jax.types import Status

# Says in the trace's log what it can tell of the cache; the trace itself goes on.
SPY = """
import os
import jax
print("variables", sorted(name for name in os.environ if "CACHE" in name))
print("folder", jax.config.jax_compilation_cache_dir)
try:
    print("found", os.listdir({cache!r}))
except OSError as error:
    print("refused", type(error).__name__)
"""


def test_a_second_trial_of_a_program_compiles_nothing(make_task: MakeTask, tiny_source: str, tmp_path: Path) -> None:
    task = make_task(compile_cache_dir=tmp_path / "cache")
    first = run_trial(task, tiny_source, tmp_path / "first", seed=1)
    second = run_trial(task, tiny_source, tmp_path / "second", seed=2)
    assert first.status is second.status is Status.OK
    assert int(first.metrics["compiled_programs"] or 0) >= 4  # init, step, judge, and the multiplication of `speed.py`
    assert second.metrics["compiled_programs"] == 0
    changed = edited(tiny_source, ("LEARNING_RATE = 10.0", "LEARNING_RATE = 8.0"))
    other = run_trial(task, changed, tmp_path / "other")
    assert 0 < int(other.metrics["compiled_programs"] or 0) < int(first.metrics["compiled_programs"] or 0)


def test_without_a_cache_everything_is_compiled(make_task: MakeTask, tiny_source: str, tmp_path: Path) -> None:
    task = make_task()
    counts = {run_trial(task, tiny_source, tmp_path / name).metrics["compiled_programs"] for name in ("one", "two")}
    assert len(counts) == 1
    assert counts.pop() not in (0, None)


def test_a_candidate_s_python_neither_has_the_cache_nor_sees_it(
    make_task: MakeTask, tiny_source: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "secret").touch()
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}  # the user's own, as well
    task = make_task(compile_cache_dir=cache, environment=environment)
    source = edited(tiny_source, ("UNUSED = 1", f"exec({SPY.format(cache=str(cache))!r})"))
    task.prepare(source, tmp_path)
    log = (tmp_path / "trace.log").read_text()
    assert "variables []" in log
    assert "folder None" in log
    if sandbox.level is not Level.LIMITS:  # which hides nothing
        assert "refused" in log
        assert "secret" not in log
