"""The clock of `autoresearch trial`: which one it takes or refuses, its unit, and what is shown of it."""

import json
from contextlib import closing
from pathlib import Path

import pytest
from fakes import SOURCE, FakeTask
from task_stand_in import stand_in

from autoresearch_jax.cli import main
from autoresearch_jax.commands import task_options
from autoresearch_jax.commands.task_options import find_clock
from autoresearch_jax.commands.trial_summary import format_summary, summarize
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.report.progress import describe_report
from autoresearch_jax.sandbox.accounting import AccountingError
from autoresearch_jax.tasks.lm import device as devices
from autoresearch_jax.tasks.lm.data.dataset import Dataset
from autoresearch_jax.tasks.lm.device import Device, reference_machine
from autoresearch_jax.tasks.lm.task import METRIC
from autoresearch_jax.types import Measurement, Scalar, Status


@pytest.fixture
def no_accounts(monkeypatch: pytest.MonkeyPatch) -> str:
    """A kernel that keeps no accounts; what is said of it."""
    fault = "/proc/self/task: no account of threads"

    def try_accounting() -> None:
        raise AccountingError(fault)

    monkeypatch.setattr(task_options, "try_accounting", try_accounting)
    return fault


def in_seconds(flags: list[str]) -> list[str]:
    """The flags with a budget in seconds, which alone is timed."""
    return [*(flag for flag in flags if not flag.startswith("--budget_steps")), "--budget_seconds=1"]


def test_a_clock_that_cannot_be_had_is_refused(
    flags: list[str], no_accounts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trial", *in_seconds(flags), "--platform=cpu", "--clock=attended"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("autoresearch trial: --clock=attended: ")
    assert no_accounts in error
    assert "--clock=wall" in error
    assert error.count("\n") == 1


def test_the_clock_of_a_cpu_is_refused_on_another_device(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    device = Device("cuda", "NVIDIA L4", 1, 24 << 30)
    monkeypatch.setattr(devices, "find_device", lambda *words, **how: device)
    assert main(["trial", *in_seconds(flags), "--platform=cuda", "--clock=attended"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("autoresearch trial: --clock=attended: ")
    assert "cuda" in error
    assert "--clock=wall" in error
    assert error.count("\n") == 1
    assert find_clock("auto", "cuda") == find_clock("auto", "tpu") == "wall"
    assert capsys.readouterr().err == "", "that is as it should be"


@pytest.mark.slow
@pytest.mark.parametrize(("clock", "times"), [("auto", 1), ("wall", 0)])
def test_where_no_clock_is_asked_for_the_wall_clock_will_do_and_that_is_said_once(
    clock: str, times: int, flags: list[str], no_accounts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trial", *in_seconds(flags), "--platform=cpu", f"--clock={clock}", "--format=json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["status"] == "ok"
    assert said.err.count(no_accounts) == times
    with closing(Ledger.open_to_read(tmp_path / "runs" / "trials" / "ledger.db")) as ledger:
        assert ledger.trials()[0].metrics["clock"] == "wall"


def test_progress_tells_a_low_share_of_the_machine() -> None:
    report = {"phase": "train", "step": 7, "loss": 3.25}
    assert describe_report({**report, "attended_share": 0.741}) == "train  step 7  loss 3.2500  74% attended"
    for share in (0.9, 1.0, None):
        assert describe_report({**report, "attended_share": share}) == describe_report(report)


@pytest.mark.parametrize("fault", [None, "the kernel's account of a thread goes backwards"])
def test_the_summary_tells_the_clock_and_what_it_saw(fault: str | None) -> None:
    metrics: dict[str, Scalar] = {"training_seconds": 60.04, "wall_seconds": 80.96, "attended_share": 0.7416}
    metrics |= {"clock": "attended", "clock_fault": fault}
    summary = summarize(Measurement(Status.OK, 1.5, 0, metrics), METRIC, {})
    lines = [tuple(line.split(maxsplit=1)) for line in format_summary(summary, METRIC).splitlines()[1:]]
    begin = lines.index(("training_seconds:", "60.0"))
    assert lines[begin + 1 : begin + 4] == [
        ("wall_seconds:", "81.0"),
        ("attended_share:", "0.742"),
        ("clock:", "attended"),
    ]
    assert dict(lines).get("clock_fault:") == fault
    assert summary.items() >= metrics.items()


def test_trials_by_hand_count_in_the_unit_of_those_before_or_of_the_run(
    flags: list[str], editable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editable.write_text(SOURCE)
    here, elsewhere = reference_machine(), "96 x another"
    task = FakeTask()
    told: dict[str, list[float | None]] = {}  # by tag

    stand_in(monkeypatch, lambda options: task)
    a_run: dict[str, Scalar] = {"metric": "loss", "direction": "minimize"}
    settings = {"night": {**a_run, "reference_seconds": 0.05}, "wall": a_run, "trials": {}, "first": {}}
    for tag, stored in settings.items():
        with closing(Ledger.open(tmp_path / "runs" / tag / "ledger.db")) as ledger:
            ledger.save_settings(stored)
            (tmp_path / "runs" / tag / "snapshots").mkdir()
            for seconds, machine in ((0.01, here), (0.02, here), (0.03, elsewhere)):
                metrics: dict[str, Scalar] = {"reference_seconds": seconds, "reference_of": machine}
                if tag != "first":
                    ledger.record_trial(SOURCE, Measurement(Status.OK, 1.0, 0, metrics), "by hand", task.fingerprint)
        task.calibrated.clear()
        assert main(["trial", *flags, f"--tag={tag}"]) == 0
        told[tag] = list(task.calibrated)
    assert told == {"night": [0.05], "wall": [], "trials": [0.02], "first": []}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the kernel keeps no account of threads")
def test_a_trial_by_the_attended_clock(
    flags: list[str],
    editable: Path,
    tiny_dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    by_seconds = [flag for flag in flags if not flag.startswith("--budget")]
    by_seconds += ["--budget_seconds=0.5", "--max_stretch=1000", "--platform=cpu", "--format=json"]
    assert main(["trial", *by_seconds]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["clock"], summary["clock_fault"]) == ("attended", None)
    assert 0 < summary["attended_share"] <= 1
    assert summary["wall_seconds"] > 0
    with closing(Ledger.open_to_read(tmp_path / "runs" / "trials" / "ledger.db")) as ledger:
        (trial,) = ledger.trials()
        assert trial.metrics["reference_of"] == reference_machine()
    later = FakeTask(fingerprint=tiny_dataset.fingerprint)
    editable.write_text(SOURCE)
    stand_in(monkeypatch, lambda options: later)
    assert main(["trial", *by_seconds]) == 0
    assert later.calibrated == [trial.metrics["reference_seconds"]], "the next one counts in what this one measured"
