"""Event files for TensorBoard: a folder for each trial, and one for the champion's score.

Written with tensorboardX's messages, which need no TensorFlow; each event is on its way to the disk when a method
returns, so that a kill costs nothing that came before it. No method waits for the disk.
"""

import importlib.util
import os
import shutil
import socket
import struct
import time
from collections.abc import Mapping
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.observers import QuietObserver
from autoresearch_jax.engine.recorder import outcome
from autoresearch_jax.engine.records import ExperimentRow, Kind, TrialRow
from autoresearch_jax.engine.state import concluded
from autoresearch_jax.errors import UserError
from autoresearch_jax.report.progress import PER_SECOND
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.types import ATTENDED_SHARE, Measurement, Metric, Scalar

CHAMPION = "champion"  # the folder
LOSS = "train/loss"
SECONDS, SHARE = "trial/seconds", "trial/attended_share"
KEPT = "trial/kept"  # 1 or 0, once the trial's experiment is over
HYPOTHESIS, ENDED, OUTCOME = "hypothesis", "ended", "outcome"  # of the trial's text, of it, and of its experiment
MAX_TEXT_CHARACTERS = 200  # of a constant
MAX_NUMBER = 1e300  # of a constant
# Tags that TensorBoard's hparams plugin looks for
SESSION_START, SESSION_END = "_hparams_/session_start_info", "_hparams_/session_end_info"


def require_tensorboard() -> None:
    """Checks that event files can be written.

    Raises:
      UserError: the package is missing.
    """
    if importlib.util.find_spec("tensorboardX") is None:
        raise UserError(
            "--tensorboard needs the package tensorboardX, which is missing: in the checkout "
            "./scripts/setup.sh tensorboard, elsewhere pip install 'autoresearch_jax[tensorboard]'"
        )


class EventFile:
    """A new file of events in a folder, which is made if it is not there; those of other processes stay."""

    def __init__(self, folder: Path, at: float | None = None) -> None:
        """Makes it.

        Args:
          folder: of one of TensorBoard's runs.
          at: the time of all events, in seconds since 1970; None for that of the writing.

        Raises:
          OSError: that is not possible.
        """
        self._at = at
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.iterdir()))  # readers take a folder's files in the order of their names
        name = f"events.out.tfevents.{time.time():010.0f}.{number:04d}.{os.getpid()}.{socket.gethostname()}"
        self._file = (folder / name).open("xb", buffering=0)
        self._write(file_version="brain.Event:2")

    def scalar(self, tag: str, value: Scalar, step: int) -> None:
        """Writes a number; what is none is left out."""
        if isinstance(value, int | float):
            self._write(step=step, summary={"value": [{"tag": tag, "simple_value": float(value)}]})

    def text(self, tag: str, words: str, step: int) -> None:
        """Writes a line, shown as it is: words of a candidate must not become markup that loads a picture."""
        value = {
            "tag": f"{tag}/text_summary",
            "metadata": {"plugin_data": {"plugin_name": "text"}},
            "tensor": {
                "dtype": "DT_STRING",
                "string_val": [f"    {clean_line(words)}".encode()],
                "tensor_shape": {"dim": [{"size": 1}]},
            },
        }
        self._write(step=step, summary={"value": [value]})

    def begin_session(self, constants: Mapping[str, object], group: str) -> None:
        """Writes the hyperparameters; TensorBoard's table has a line a group, with the mean of its trials."""
        from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData, SessionStartInfo

        info = SessionStartInfo(group_name=group, start_time_secs=self._now())
        for name, value in constants.items():
            if isinstance(value, bool):
                info.hparams[name].bool_value = value
            elif isinstance(value, int | float) and abs(value) < MAX_NUMBER:
                info.hparams[name].number_value = value
            else:
                info.hparams[name].string_value = clean_line(str(value), MAX_TEXT_CHARACTERS)
        self._session(SESSION_START, HParamsPluginData(session_start_info=info))

    def end_session(self, *, succeeded: bool) -> None:
        """Writes that the trial is over."""
        from tensorboardX.proto.api_pb2 import Status as SessionStatus
        from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData, SessionEndInfo

        status = SessionStatus.Value("STATUS_SUCCESS" if succeeded else "STATUS_FAILURE")
        info = SessionEndInfo(status=status, end_time_secs=self._now())
        self._session(SESSION_END, HParamsPluginData(session_end_info=info))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _now(self) -> float:
        return time.time() if self._at is None else self._at

    def _session(self, tag: str, content: Any) -> None:
        plugin = {"plugin_name": "hparams", "content": content.SerializeToString()}
        self._write(summary={"value": [{"tag": tag, "metadata": {"plugin_data": plugin}}]})

    def _write(self, **fields: Any) -> None:
        """Writes an event with the present time, as a record of the format TFRecord.

        Raises:
          OSError: of the disk, also if there was no room for all of it.
        """
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import masked_crc32c

        data = Event(wall_time=self._now(), **fields).SerializeToString()
        length = struct.pack("<Q", len(data))
        record = b"".join(
            (length, struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", masked_crc32c(data)))
        )
        if self._file.write(record) != len(record):
            raise OSError(f"{self._file.name}: no room for an event")


class TrialEvents:
    """The events of one trial: what is tried, loss and speed as it trains, score and figures, what became of it."""

    def __init__(self, folder: Path, metric: Metric, at: float | None = None) -> None:
        """Touches nothing yet; adds a file to the folder once there is something to write, see `EventFile`."""
        self._folder = folder
        self._metric = metric
        self._at = at

    @cached_property
    def _file(self) -> EventFile:
        return EventFile(self._folder, self._at)

    def begin(self, constants: Mapping[str, object], hypothesis: str, group: str) -> None:
        """Enters what is tried; see `EventFile.begin_session`."""
        self._file.begin_session(constants, group)
        self._file.text(HYPOTHESIS, hypothesis, 0)

    def progress(self, report: Mapping[str, Scalar]) -> None:
        """Enters loss and speed at a step of training."""
        step = report.get("step")
        if isinstance(step, int):
            self._file.scalar(LOSS, report.get("loss"), step)
            for name in report:
                if name.endswith(PER_SECOND):
                    self._file.scalar(f"train/{name}", report[name], step)

    def end(self, result: Measurement | TrialRow) -> None:
        """Enters score and figures, at the last step."""
        num_steps = result.metrics.get("num_steps")
        step = num_steps if isinstance(num_steps, int) else 0
        self._file.scalar(f"trial/{self._metric.name}", result.value, step)
        self._file.scalar(SECONDS, result.metrics.get("total_seconds"), step)
        self._file.scalar(SHARE, result.metrics.get(ATTENDED_SHARE), step)
        if result.value is None:
            self._file.text(ENDED, f"{result.status}: {result.error or 'no score'}", step)
        self._file.end_session(succeeded=result.value is not None)

    def conclude(self, row: ExperimentRow) -> None:
        """Enters what became of the trial's experiment."""
        self._file.scalar(KEPT, row.decision is Action.KEEP, 0)
        self._file.text(OUTCOME, f"{outcome(row)}: {row.reason or ''}", 0)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoard(QuietObserver):
    """Writes a run's events: a folder for each trial such as 0007-run1, and one for the champion."""

    def __init__(self, folder: Path, ledger: Ledger, metric: Metric) -> None:
        """Touches nothing yet."""
        self._folder = folder
        self._ledger = ledger
        self._metric = metric
        self._trials: dict[int, TrialEvents] = {}  # that run, by number
        self._champion: EventFile | None = None

    def begins(self, experiment: ExperimentRow) -> None:
        """Completes what earlier processes left, once."""
        self._catch_up()

    def measures(self, experiment: ExperimentRow, trial: TrialRow, number: int) -> None:
        """Begins the trial's folder, anew if an earlier process was cut short in it."""
        self._catch_up()
        self._close(trial.id)
        row = self._ledger.experiment(trial.experiment)
        folder = self._trial_folder(row, number)
        _remove(folder)
        events = self._trials[trial.id] = TrialEvents(folder, self._metric)
        events.begin(row.constants, row.hypothesis, _group(row))

    def progress(self, trial: int, report: Mapping[str, Scalar]) -> None:
        """Enters loss and speed of a trial that runs."""
        if (events := self._trials.get(trial)) is not None:
            events.progress(report)

    def measured(self, trial: TrialRow) -> None:
        """Enters what the trial gave."""
        if (events := self._trials.get(trial.id)) is not None:
            events.end(trial)
            row = self._ledger.experiment(trial.experiment)
            if not row.is_open:  # a further run of the champion
                events.conclude(row)
        self._close(trial.id)

    def ends(self, experiment: ExperimentRow) -> None:
        """Enters what became of the experiment into the folders of its trials, and the champion's score."""
        self._catch_up()
        for number, _ in enumerate(self._ledger.trials(experiment.id), start=1):
            with closing(TrialEvents(self._trial_folder(experiment, number), self._metric)) as events:
                events.conclude(experiment)
        champion = next((row for row in reversed(concluded(self._ledger)) if row.decision is Action.KEEP), None)
        self._enter_champion(experiment, champion)

    def close(self) -> None:
        """Closes all files."""
        for trial in list(self._trials):
            self._close(trial)
        if self._champion is not None:
            self._champion.close()

    def _catch_up(self) -> None:
        """Writes what the ledger has and the folder lacks; the champion's scores anew, as they are known now."""
        if self._champion is not None:
            return
        rows = concluded(self._ledger)
        _remove(self._folder / CHAMPION)
        self._champion = EventFile(self._folder / CHAMPION)
        champion: ExperimentRow | None = None
        for row in rows:
            champion = row if row.decision is Action.KEEP else champion
            self._enter_champion(row, champion)
        for row in self._ledger.experiments():
            if row.kind is not Kind.TRIAL:
                begun = sorted(self._ledger.trials(row.id), key=lambda trial: trial.id)  # they end in any order
                for number, trial in enumerate(begun, start=1):
                    if trial.status is not None:
                        self._complete(row, trial, self._trial_folder(row, number))

    def _complete(self, row: ExperimentRow, trial: TrialRow, folder: Path) -> None:
        """Adds to the folder of a trial that is over what an earlier process did not come to write."""
        written = b"".join(path.read_bytes() for path in sorted(folder.glob("*tfevents*")))
        is_ended, is_concluded = SESSION_END.encode() in written, row.is_open or KEPT.encode() in written
        if is_ended and is_concluded:
            return
        with closing(TrialEvents(folder, self._metric, trial.finished_at)) as events:
            if SESSION_START.encode() not in written:
                events.begin(row.constants, row.hypothesis, _group(row))
            if not is_ended:
                events.end(trial)
            if not is_concluded:
                events.conclude(row)

    def _enter_champion(self, row: ExperimentRow, champion: ExperimentRow | None) -> None:
        if self._champion is not None and champion is not None:
            self._champion.scalar(f"{CHAMPION}/{self._metric.name}", champion.score, row.id)

    def _trial_folder(self, row: ExperimentRow, number: int) -> Path:
        return self._folder / f"{_group(row)}-run{number}"

    def _close(self, trial: int) -> None:
        if (events := self._trials.pop(trial, None)) is not None:
            events.close()


def _group(row: ExperimentRow) -> str:
    return f"{row.id:04d}"


def _remove(folder: Path) -> None:
    """Raises OSError where something else than a folder is in its place."""
    if folder.exists() or folder.is_symlink():
        shutil.rmtree(folder)
