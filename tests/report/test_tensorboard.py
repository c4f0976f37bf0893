"""Event files of runs and trials, read back as TensorBoard reads them."""

import importlib.util
import itertools
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest
from fakes import PROGRAM, SOURCE, FakeTask
from repositories import make_repository
from small_disk import small_disk
from task_stand_in import stand_in
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

from autoresearch_jax import cli
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import ExperimentRow, TrialRow

RUN = ["run", "--tag=night", "--seed=0", "--tensorboard"]
STEPS = (10, 20, 30)
HOSTILE = "![](https://example.org/seen.png) <script>"


class Reporting(FakeTask):
    """Reports three steps of each trial; may do something in the middle of one."""

    def __init__(self) -> None:
        super().__init__()
        self.in_trial = {}  # by how many were begun before

    def measure(self, candidate, *, on_progress, **arguments):
        for step in STEPS:
            on_progress({"phase": "train", "step": step, "loss": 3 - step / 100, "tokens_per_second": 1e6 + step})
            if step == STEPS[1]:
                self.in_trial.pop(len(self.measured), lambda: None)()
        on_progress({"phase": "judge", "share": 0.5})
        arguments["snapshot_dir"].parent.mkdir(exist_ok=True)
        return super().measure(candidate, on_progress=None, **arguments)


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reporting:
    """Of a repository that is the present folder."""
    make_repository(tmp_path, SOURCE, PROGRAM)
    monkeypatch.chdir(tmp_path)
    task = Reporting()
    stand_in(monkeypatch, lambda options: task)
    return task


def trials_by_folder(run: str = "night") -> dict[str, tuple[ExperimentRow, TrialRow]]:
    """The trials of the ledger by the folders that they should have."""
    with closing(Ledger.open_to_read(Path("runs") / run / "ledger.db")) as ledger:
        return {
            f"{row.id:04d}-run{number}": (row, trial)
            for row in ledger.experiments()
            for number, trial in enumerate(ledger.trials(row.id), start=1)
        }


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of each tag."""
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def text(folder: Path, tag: str) -> str:
    (event,) = EventAccumulator(str(folder)).Reload().Tensors(f"{tag}/text_summary")
    return event.tensor_proto.string_val[0].decode()


def table_of(folder: Path) -> tuple[list[str], list[str], Mapping[str, api_pb2.SessionGroup]]:
    """TensorBoard's table of hyperparameters: their names, the metrics, the groups by name."""
    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(folder))
    context = backend_context.Context(TBContext(data_provider=provider))
    request = RequestContext()
    metadata = context.hparams_metadata(request, "")
    found = context.experiment_from_metadata(request, "", True, metadata, [])
    statuses = [api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE, api_pb2.STATUS_RUNNING, api_pb2.STATUS_UNKNOWN]
    asked = api_pb2.ListSessionGroupsRequest(slice_size=1000, allowed_statuses=statuses, include_metrics=True)
    groups = list_session_groups.Handler(request, context, "", asked).run().session_groups
    names = [info.name for info in found.hparam_infos]
    return names, [info.name.tag for info in found.metric_infos], {group.name: group for group in groups}


def assert_whole(folder: Path) -> None:
    """Each trial that the ledger has is there once, with its curve and its result, and nothing else is."""
    expected = trials_by_folder()
    assert {path.name for path in folder.iterdir()} == {*expected, "champion"}
    for name, (row, trial) in expected.items():
        found = scalars(folder / name)
        assert found["train/loss"] == [(step, pytest.approx(3 - step / 100)) for step in STEPS], name
        assert found["train/tokens_per_second"] == [(step, 1e6 + step) for step in STEPS]
        assert found["trial/loss"] == [(0, pytest.approx(trial.value))]
        assert found["trial/seconds"] == [(0, 0.0)]
        assert found["trial/kept"] == [(0, row.decision == "keep")]
        assert text(folder / name, "outcome") == f"    {row.decision}: {row.reason}"


def test_a_run_is_there_as_its_ledger_has_it(task: Reporting) -> None:
    assert cli.main([*RUN, "--experiments=4"]) == 0
    folder = Path("runs/night/tensorboard")
    assert_whole(folder)
    rows = {row.id: row for row, _ in trials_by_folder().values()}
    champions = scalars(folder / "champion")["champion/loss"]
    assert [step for step, _ in champions] == [0, 1, 2, 3, 4]
    best = [row.score for row in rows.values() if row.decision == "keep"][-1]
    assert champions[-1][1] == pytest.approx(best, abs=0.002), "later runs still moved it"
    names, metrics, groups = table_of(folder)
    assert set(names) == {"LR", "DEPTH", "PATTERN", "FAULT"}
    assert names[-1] == "FAULT", "those that differ come first"
    assert {"trial/loss", "trial/seconds", "trial/kept"} <= set(metrics)
    assert groups.keys() == {f"{number:04d}" for number in rows}
    for name, group in groups.items():
        shown = {key: value.string_value or value.number_value for key, value in group.hparams.items()}
        assert shown == rows[int(name)].constants
        values = [trial.value for row, trial in trials_by_folder().values() if row.id == int(name)]
        scores = {value.name.tag: value.value for value in group.metric_values}
        assert scores["trial/loss"] == pytest.approx(sum(values) / len(values))
        assert len(group.sessions) == len(values)


def test_a_trial_that_is_taken_up_again_begins_its_folder_anew(task: Reporting) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    task.in_trial[4] = interrupt
    assert cli.main([*RUN, "--experiments=3"]) == 0
    folder = Path("runs/night/tensorboard")
    (cut,) = [name for name, (_, trial) in trials_by_folder().items() if trial.status is None]
    assert [step for step, _ in scalars(folder / cut)["train/loss"]] == [10, 20]
    assert cli.main([*RUN, "--experiments=3"]) == 0
    assert_whole(folder)
    assert [step for step, _ in scalars(folder / "champion")["champion/loss"]] == [0, 1, 2, 3]


def test_what_a_killed_driver_did_not_write_is_written_by_the_next(task: Reporting) -> None:
    assert cli.main([word for word in [*RUN, "--experiments=2"] if word != "--tensorboard"]) == 0
    assert not Path("runs/night/tensorboard").exists()
    before = trials_by_folder()
    assert cli.main([*RUN, "--experiments=3"]) == 0
    for name, (row, trial) in before.items():
        found = scalars(Path("runs/night/tensorboard") / name)
        assert found["trial/loss"] == [(0, pytest.approx(trial.value))]
        assert found["trial/kept"] == [(0, row.decision == "keep")]
        assert "train/loss" not in found
    champions = scalars(Path("runs/night/tensorboard/champion"))["champion/loss"]
    assert [step for step, _ in champions] == [0, 1, 2, 3]


def test_a_full_disk_is_said_once_and_does_not_end_the_run(
    task: Reporting, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs" / "night").mkdir(parents=True)
    with small_disk(tmp_path / "disk", megabytes=1) as disk:
        Path("runs/night/tensorboard").symlink_to(disk.outside)
        task.in_trial[4] = disk.fill
        assert cli.main([*RUN, "--experiments=3"]) == 0
        captured = capsys.readouterr()
    assert "ended:               3 experiments reached" in captured.out
    assert captured.err.count("--tensorboard: runs/night/tensorboard: ") == 1
    assert "No space left" in captured.err or "no room" in captured.err


def test_where_no_folder_can_be_the_run_goes_on(task: Reporting, capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/night").mkdir(parents=True)
    Path("runs/night/tensorboard").write_text("a file")
    assert cli.main([*RUN, "--experiments=1"]) == 0
    assert capsys.readouterr().err.count("--tensorboard: runs/night/tensorboard: ") == 1


@pytest.mark.parametrize("command", ["run --tag=night", "trial"])
def test_without_the_package_nothing_begins(
    command: str, task: Reporting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main([*command.split(), "--tensorboard"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"autoresearch {command.split()[0]}: --tensorboard needs the package tensorboardX")
    assert "./scripts/setup.sh tensorboard" in error
    assert error.count("\n") == 1
    assert not Path("runs").exists()


def test_trials_by_hand_and_words_that_stay_words(task: Reporting, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(time, "strftime", lambda format: f"trial-{next(seconds)}")  # all begin in the same second
    for setting in ("LR=0.25", f"FAULT={HOSTILE!r}"):
        assert cli.main(["trial", "--tensorboard", "--set", setting]) == 0
    assert cli.main(["trial", "--tensorboard", "--set", "FAULT=crash"]) == 1
    folder = Path("runs/trials/tensorboard")
    by_score = {row.score: row for row, _ in trials_by_folder("trials").values()}
    for path in folder.iterdir():
        found = scalars(path)
        assert [step for step, _ in found["train/loss"]] == list(STEPS)
        assert (Path("runs/trials/logs") / path.name).is_dir()
        if "trial/loss" not in found:
            assert text(path, "ended") == "    crash: made to crash"
    _, _, groups = table_of(folder)
    assert len(groups) == len(by_score) == 3
    statuses = sorted(group.sessions[0].status for group in groups.values())
    assert statuses == sorted([api_pb2.STATUS_SUCCESS, api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE])
    faults = {group.hparams["FAULT"].string_value for group in groups.values()}
    assert faults == {"none", HOSTILE, "crash"}
    texts = [text(path, "hypothesis") for path in folder.iterdir()]
    assert all(line.startswith("    ") and "\n" not in line for line in texts), "code, not markup"
