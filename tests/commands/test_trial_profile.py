"""`autoresearch trial --profile`: the trace, its place, and that the score is in no ledger."""

import gzip
import json
import re
from contextlib import closing
from pathlib import Path

import jax
import pytest
from finished_night import Night

from autoresearch_jax.cli import main
from autoresearch_jax.commands.trial_summary import keep_profile
from autoresearch_jax.engine.ledger import Ledger


def traced_steps(folder: Path) -> list[int]:
    """Numbers of the steps that the trace in a folder for TensorBoard has."""
    (found,) = folder.glob("plugins/profile/*/*.xplane.pb")
    events = [
        event
        for plane in jax.profiler.ProfileData.from_file(str(found)).planes
        for line in plane.lines
        for event in line.events
        if event.name == "train"
    ]
    return sorted(dict(event.stats)["step_num"] for event in events)


@pytest.mark.filterwarnings("ignore:builtin type event_stats:DeprecationWarning")
def test_ten_steps_in_the_middle_are_traced_and_the_score_is_not_recorded(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "traces"
    assert main(["trial", *flags, f"--profile={folder}"]) == 0
    captured = capsys.readouterr()
    (place,) = folder.glob("plugins/profile/*")
    assert re.search(rf"^profile: +{place}$", captured.out, re.MULTILINE)
    assert re.search(r"^val_bpb: +\d", captured.out, re.MULTILINE)
    assert "the score is not comparable" in captured.err
    assert traced_steps(folder) == list(range(5, 15)), "of 20"
    with gzip.open(place / "perfetto_trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    assert sum(event.get("name") == "train" for event in events) == 10
    assert any("hlo_op" in event.get("args", {}) for event in events), "what the device did"
    with closing(Ledger.open_to_read(tmp_path / "runs" / "trials" / "ledger.db")) as ledger:
        assert ledger.experiments() == []
        assert ledger.trials() == []
    assert list((tmp_path / "runs").rglob("*.xplane.pb")) == [], "it was moved"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:builtin type event_stats:DeprecationWarning")
def test_a_budget_in_seconds_is_traced_from_its_middle(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_seconds = [flag for flag in flags if not flag.startswith("--budget")]
    command = ["trial", *by_seconds, "--budget_seconds=2", "--format=json", f"--profile={tmp_path / 'traces'}"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    steps = traced_steps(tmp_path / "traces")
    assert steps == list(range(steps[0], steps[0] + 10))
    assert 0 < steps[0] < found["num_steps"] - 10
    assert 2 <= found["training_seconds"] < 3


@pytest.mark.slow
def test_of_an_experiment_with_several_seeds_one_is_traced(
    night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [f"--run_dir={tmp_path / 'mine'}", *night.flags, f"--from={night.folder.path}:0", "--format=json"]
    assert main(["trial", *command, f"--profile={tmp_path / 'traces'}"]) == 0
    (summary,) = json.loads(capsys.readouterr().out)["trials"]
    assert Path(summary["profile"]).is_dir()
    assert "recorded_val_bpb" not in summary


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--profile={place}/file"], 1, "--profile={place}/file: cannot be written to: File exists"),
        (["--profile={place}/file/below"], 1, "cannot be written to: Not a directory"),
        (["--profile=/proc/nowhere"], 1, "--profile=/proc/nowhere: cannot be written to"),
        (["--profile={place}/new", "--budget_steps=9"], 2, "--profile: traces 10 steps, and --budget_steps=9 has"),
        (["--profile={place}/new", "--tensorboard"], 2, "--profile: .*leave out --tensorboard"),
    ],
)
def test_what_cannot_be_is_said_before_anything_begins(
    words: list[str], status: int, says: str, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["trial", *flags, *(word.format(place=tmp_path) for word in words)]) == status
    error = capsys.readouterr().err
    assert re.search(says.format(place=tmp_path), error)
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_trial_that_ends_before_the_middle_has_no_trace(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["trial", *flags, "--set=LEARNING_RATE=1e39", f"--profile={tmp_path / 'traces'}"]
    assert main(command) == 1
    captured = capsys.readouterr()
    assert re.search(r"^status: +nonfinite$", captured.out, re.MULTILINE)
    assert "--profile: no trace: the trial ended before the middle of its budget (nonfinite)" in captured.err


def test_only_plain_files_are_moved(tmp_path: Path) -> None:
    """The process that wrote them runs candidates' programs."""
    trace = tmp_path / "trace"
    made = trace / "plugins" / "profile" / "2030_01_01_00_00_00"
    made.mkdir(parents=True)
    (tmp_path / "secret").write_text("key")
    (made / "linked.xplane.pb").symlink_to(tmp_path / "secret")
    (made / "deeper").mkdir()
    (made / "vm.xplane.pb").write_text("trace")
    (trace / "elsewhere").write_text("no trace")
    kept = keep_profile(trace, tmp_path / "kept")
    assert kept == str(tmp_path / "kept" / "plugins" / "profile" / made.name)
    assert [path for path in (tmp_path / "kept").rglob("*") if not path.is_dir()] == [Path(kept) / "vm.xplane.pb"]
