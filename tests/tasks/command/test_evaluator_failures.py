"""An evaluator that fails: the candidate's fault if it scores the champion now, else the task's; never a score."""

from pathlib import Path

import pytest
from command_task import ASSET, EVALUATE, RUN, SERVE, SERVED, edited, open_command, write_task

from autoresearch_jax.sandbox.sandbox import Sandbox
from autoresearch_jax.tasks.command.evaluator import EvaluatorFailed
from autoresearch_jax.tasks.command.task import CommandTask
from autoresearch_jax.types import CandidateUntouched, Measurement, Scrutiny, Status

# Beside it `down` makes it fail always, `flaky` once; a line of `calls` for each time that it runs.
TROUBLED = f"""
import os
print("", file=open("calls", "a"))
if os.path.exists("down"):
    raise OSError("the judge is down")
if os.path.exists("flaky"):
    os.remove("flaky")
    raise OSError("the judge hiccups")
{edited(EVALUATE, ("if not isinstance", "assert None not in answers, 'no class'" + chr(10) + "if not isinstance"))}
"""
TELL = "import sys\nprint('started', file=sys.stderr, flush=True)\n"


class Bench:
    """A task and its champion, which was scored."""

    def __init__(self, folder: Path, sandbox: Sandbox, *changes: tuple[str, str]) -> None:
        self.files, self.logs = folder / "task", folder / "logs"
        parts = {"main_dot_py": TELL + RUN, "serve_dot_py": TELL + SERVE, "evaluate_dot_py": TROUBLED}
        self.task: CommandTask = open_command(write_task(self.files, *changes, **parts), sandbox)
        self.logs.mkdir()
        assert self.measure(ASSET, "champion").value == 1.0
        self.count()

    def measure(self, source: str, name: str, **options: Scrutiny) -> Measurement:
        logs = self.logs / name
        logs.mkdir(exist_ok=True)
        candidate, champion = self.task.prepare(source, logs), [self.logs / "champion"]
        return self.task.measure(
            candidate, seed=7, log_dir=logs, snapshot_dir=logs / "snapshot", reference_log_dirs=champion, **options
        )

    def count(self) -> int:
        """How often the evaluator ran since the last time."""
        calls = (self.files / "calls").read_text().count("\n")
        (self.files / "calls").write_text("")
        return calls

    def starts(self, name: str) -> int:
        return (self.logs / name / "asset.log").read_text().count("started")


def test_what_a_run_leaves_out_is_invalid_if_the_champion_scores(tmp_path: Path, sandbox: Sandbox) -> None:
    run = (SERVED, '[run]\ncommand = ["python3", "main.py"]\n'), ('["serve.py"]', '["main.py", "questions.txt"]')
    bench = Bench(tmp_path, sandbox, *run)
    nothing = edited(ASSET, ("THRESHOLD = 1", "import os\nos._exit(0)\nTHRESHOLD = 1"))
    found = bench.measure(nothing, "nothing")
    assert (found.status, found.value, found.snapshot) == (Status.INVALID, None, None)
    assert (found.error or "").endswith("exited with status 1: FileNotFoundError"), "no more of what it said"
    assert bench.count() == 6, "three times each"
    assert bench.starts("nothing") == 1, "the same output each time: it cannot draw again"

    worse = edited(ASSET, ("THRESHOLD = 1", "THRESHOLD = 2"))
    (bench.files / "flaky").touch()
    assert bench.measure(worse, "worse").value == 0.75
    assert (bench.count(), bench.starts("worse")) == (3, 1)

    (bench.files / "down").touch()
    for name, source in (("nothing", nothing), ("good", ASSET)):
        with pytest.raises(EvaluatorFailed, match=r"task\.toml:\d+: .*the judge is down.*on the champion, too: "):
            bench.measure(source, name)
        assert bench.count() == 2
    with pytest.raises(EvaluatorFailed, match="the judge is down") as failed:
        bench.measure(worse, "audited", scrutiny=Scrutiny.AUDIT)
    assert "champion" not in str(failed.value), "no split is read besides"


@pytest.mark.parametrize("noise", ["items", "latency"])
def test_a_service_that_breaks_the_evaluator_has_one_chance(tmp_path: Path, sandbox: Sandbox, noise: str) -> None:
    bench = Bench(tmp_path, sandbox, ('noise = "items"', f'noise = "{noise}"'))
    found = bench.measure(edited(ASSET, ("int(len(text) > THRESHOLD)", "None")), "none")
    assert (found.status, found.value) == (Status.INVALID, None)
    assert (found.error or "").endswith(": AssertionError"), "its words may be of the test items"
    assert bench.starts("none") == 1
    (bench.files / "flaky").touch()
    if noise == "latency":  # the champion has the first turn
        with pytest.raises(CandidateUntouched, match=r"in the champion's turn, .*the judge hiccups"):
            bench.measure(ASSET, "again")
    else:  # as good as one that breaks it when it is about to score badly
        assert bench.measure(ASSET, "again").status is Status.INVALID
