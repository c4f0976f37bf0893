"""A run without some of its snapshots: what `sample` and `verify` say, and `trial --retrain` has them back."""

import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from finished_night import Night

from autoresearch_jax.cli import main
from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.recorder import write_results
from autoresearch_jax.engine.records import Intent, Kind, TrialRow
from autoresearch_jax.engine.snapshot_log import SnapshotEvent
from autoresearch_jax.snapshots.store import SnapshotStore
from autoresearch_jax.types import Metric, Status


def blocks(text: str) -> list[dict[str, str]]:
    """`key: value` lines, by the runs that they tell of; the last ones are of all together."""
    found = [block.strip().splitlines() for block in text.split("---\n")]
    return [{key: value.strip() for key, value in (line.split(":", 1) for line in block)} for block in found]


def test_what_expired_is_told_and_is_trained_again_to_the_last_digit(
    night: Night, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = night.trials(night.other)
    night.expire(night.other)
    capsys.readouterr()
    assert night.verify(night.other) == 1
    said = json.loads(capsys.readouterr().out)
    lines = [
        f"{night.snapshot(trial)}: has expired: the run let go of it: {night.remedy(night.other)}" for trial in trials
    ]
    assert (said["differences"], said["val_bpb_now"]) == (lines, None)
    assert main(["verify", *night.where]) == 0, "the champion's never expire"

    capsys.readouterr()
    assert night.retrain(night.other) == 0
    *runs, end = blocks(capsys.readouterr().out)
    assert end == {"experiment": str(night.other), "retrained_trials": str(len(trials))}
    for trial, run in zip(trials, runs, strict=True):
        assert (run["trial"], run["seed"]) == (str(trial.id), str(trial.seed))
        assert run["score_then"] == run["score_now"] == repr(trial.value)
        assert run["snapshot"] == str(night.snapshot(trial))
        assert run["was"].endswith(": has expired")
    with night.ledger() as ledger:
        latest = ledger.snapshots.latest()
        assert [(latest[trial.id].event, latest[trial.id].value) for trial in trials] == [
            (SnapshotEvent.RETRAINED, trial.value) for trial in trials
        ]
    assert sorted(os.listdir(night.snapshots)) == sorted(
        f"{trial.experiment:04d}-{trial.id:04d}" for trial in ledger_trials(night)
    )
    assert len(loss_curves(night)) == len(trials)
    assert night.verify(night.other) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["trained_again"] == ", ".join(f"trial {trial.id}" for trial in trials)
    assert said["val_bpb_then"] == said["val_bpb_trained_again"] == said["val_bpb_now"]

    assert night.retrain(night.other, "--format=json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {
        "experiment": night.other,
        "retrained_trials": 0,
        "reason": "nothing to train again: all its snapshots are there and as they were written",
        "trials": [],
    }


def loss_curves(night: Night) -> list[Path]:
    """Of runs that were trained again."""
    return list((night.folder.path / "logs").glob("*/retrained/*/loss.csv"))


def ledger_trials(night: Night) -> list[TrialRow]:
    with night.ledger() as ledger:
        return ledger.trials()


def test_a_damaged_one_is_named_at_use_and_replaced_alone(night: Night, capsys: pytest.CaptureFixture[str]) -> None:
    *others, damaged = night.trials(night.champion)
    assert others, "a champion is run more than once"
    states = {path: written(path) for trial in others for path in night.snapshot(trial).rglob("*")}
    file = night.damage(damaged)
    line = f"{file}: has been changed: restore it from a copy"
    assert main(["sample", *night.where]) == 1
    assert capsys.readouterr().err == f"autoresearch sample: {line}, or {night.remedy(night.champion)}\n"
    assert night.verify(night.champion) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["differences"], said["remedy"]) == ([line], night.remedy(night.champion))

    assert night.retrain(night.champion, "--format=json") == 0
    said = json.loads(capsys.readouterr().out)
    (run,) = said["trials"]
    assert (run["trial"], run["difference"], run["was"]) == (damaged.id, 0, f"{file}: has been changed")
    assert all(written(path) == state for path, state in states.items()), "what is undamaged is left alone"
    assert night.verify(night.champion) == 0
    assert main(["sample", *night.where, "--tokens=5"]) == 0


def written(path: Path) -> tuple[int, int]:
    """Changes if a file is written to, or another one takes its place."""
    return path.stat().st_ino, path.stat().st_mtime_ns


def test_it_is_verified_by_the_score_of_its_second_training(night: Night, capsys: pytest.CaptureFixture[str]) -> None:
    """As with a budget in seconds, where the two scores differ: here the first one was another."""
    connection = sqlite3.connect(night.folder.ledger)
    for table, column, whose in (("experiments", "score", "id"), ("trials", "value", "experiment")):
        connection.execute(f"UPDATE {table} SET {column} = {column} + 0.5 WHERE {whose} = ?", (night.other,))
    connection.commit()
    connection.close()
    with night.ledger() as ledger:
        write_results(night.folder.results, ledger, Metric("val_bpb"))
    assert night.verify(night.other) == 1
    assert "not equal to the last digit" in json.loads(capsys.readouterr().out)["differences"][0]

    night.expire(night.other)
    assert night.retrain(night.other) == 0
    *runs, _ = blocks(capsys.readouterr().out)
    assert all(abs(float(run["difference"]) + 0.5) < 1e-9 for run in runs)
    assert night.verify(night.other) == 0
    said = json.loads(capsys.readouterr().out)
    assert abs(said["val_bpb_then"] - said["val_bpb_trained_again"] - 0.5) < 1e-9
    assert (said["val_bpb_now"], said["difference"]) == (said["val_bpb_trained_again"], 0)


def test_a_manifest_of_another_snapshot_is_damage(night: Night, capsys: pytest.CaptureFixture[str]) -> None:
    trial = night.trials(night.champion)[-1]
    manifest = night.snapshot(trial) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"seed": ', '"seed": 1'))
    assert main(["sample", *night.where]) == 1
    assert f"{manifest}: has been changed: restore it" in capsys.readouterr().err


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_what_is_done_is_kept_when_it_is_cut_short(how: signal.Signals, night: Night) -> None:
    trials = night.trials(night.champion)
    night.lose(night.champion)
    night.snapshot(trials[-1]).mkdir()  # as of a deletion that was cut short
    command = [sys.executable, "-m", "autoresearch_jax.cli", "trial", *night.where, *night.flags]
    command.append(f"--retrain={night.champion}")
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    while driver.stdout.readline() != "---\n":
        assert driver.poll() is None
    driver.send_signal(how)
    _, error = driver.communicate()
    if how is signal.SIGINT:
        assert driver.returncode == 130
        assert error.endswith("autoresearch trial: interrupted; the same command goes on from here\n")
    with night.ledger() as ledger:
        assert list(ledger.snapshots.latest()) == [trials[0].id]
    again = subprocess.run([*command, "--format=json"], capture_output=True, text=True)
    assert [run["trial"] for run in json.loads(again.stdout)["trials"]] == [trial.id for trial in trials[1:]]
    assert night.verify(night.champion) == 0
    assert not (night.snapshots / ".retrained").exists()


def test_flags_may_say_what_the_run_began_with(night: Night) -> None:
    """As a flag file does, whatever became of the constants since."""
    night.lose(night.champion)
    with night.ledger() as ledger:
        began = ledger.experiment(0).constants["LEARNING_RATE"]
    assert night.retrain(night.champion, f"--set=LEARNING_RATE={began}") == 0


def test_the_remedy_works_with_all_flags_of_the_run(night: Night, capsys: pytest.CaptureFixture[str]) -> None:
    night.expire(night.other)
    assert main(["sample", *night.where, f"--experiment={night.other}"]) == 1
    found = re.search(r"`autoresearch (.+)`, with the run's own flags", capsys.readouterr().err)
    assert found is not None
    assert main([*shlex.split(found[1]), *night.flags, *night.others]) == 0
    assert capsys.readouterr().err == ""
    assert main(["sample", *night.where, f"--experiment={night.other}", "--tokens=5"]) == 0


def test_doctor_knows_the_flags_of_the_run(night: Night, capsys: pytest.CaptureFixture[str]) -> None:
    doctor = ["doctor", "--sections=run", "--format=json", *night.where, *night.flags, *night.others]

    def faults(*more: str) -> list[str]:
        main([*doctor, *more])
        return [check["name"] for check in json.loads(capsys.readouterr().out)["run"] if not check["is_ok"]]

    capsys.readouterr()
    assert faults() == []
    for other in ("--budget_steps=30", "--max_runs=6", "--seed=1", "--vocab_sizes=256"):
        assert faults(other) == ["settings"]


def test_what_a_killed_call_left_goes_with_the_next_one_of_any_experiment(night: Night) -> None:
    scratch = night.snapshots / ".retrained"
    trial = night.trials(night.other)[0]

    def leave() -> None:
        for name in (".0009-0099.partial", "0009-0099", "0009-0098.replaced"):
            (scratch / name / "state").mkdir(parents=True)
            (scratch / name / "manifest.json").write_text("{}")

    leave()
    assert night.retrain(night.champion) == 0, "with nothing to train"
    assert not scratch.exists()

    leave()
    night.snapshot(trial).rename(scratch / night.snapshot(trial).name)  # trained, and not entered yet
    assert night.retrain(night.other) == 0
    assert not scratch.exists()
    assert night.verify(night.other) == 0
    assert not loss_curves(night), "it was judged, and not trained"


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (["--budget_steps=30"], 1, "was started with other settings (budget_steps 20 then, 30 now): use the same"),
        (["--judge_tokens=900"], 1, "was started with other settings (fingerprint "),
        (["--set", "LEARNING_RATE=2.0"], 2, "--set LEARNING_RATE=2.0: this run began with "),
        (["--seed=1"], 2, "--seed=1: what is trained again has its seeds in the ledger; leave it out"),
        (["--editable=other.py"], 2, "--editable=other.py: what is trained again stands in the ledger; leave it out"),
        (["--retrain=9"], 1, "experiment 9: there is none; `autoresearch results` lists them"),
        (["--retrain=2"], 1, "experiment 2: has no score (crash), so there is nothing to train again"),
        (["--tag=day"], 1, "day/ledger.db: no ledger there; check --tag and --run_dir"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    more: list[str], status: int, message: str, night: Night, capsys: pytest.CaptureFixture[str]
) -> None:
    night.lose(night.other)
    with night.ledger() as ledger:
        ledger.begin_experiment(Intent(Kind.PROPOSAL, "", parent=night.champion))
        ledger.conclude(2, Status.CRASH, None, Action.DISCARD, "it crashed", None, 0.1)
    before = sorted(night.snapshots.iterdir())
    capsys.readouterr()
    assert night.retrain(night.other, *more) == status
    error = capsys.readouterr().err
    assert error.startswith("autoresearch trial: ")
    assert error.count("\n") == 1
    assert message in error
    assert sorted(night.snapshots.iterdir()) == before


def test_a_run_at_work_is_left_alone(night: Night, capsys: pytest.CaptureFixture[str]) -> None:
    with night.folder.lock():
        assert night.retrain(night.other) == 1
    assert "is at work on this run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("hashed_by", "message"),
    [(None, "is another program now ("), ("1, jax 0.1", "was hashed by 1, jax 0.1 and is by ")],
)
def test_what_is_another_program_now_is_not_trained(
    hashed_by: str | None, message: str, night: Night, capsys: pytest.CaptureFixture[str]
) -> None:
    night.lose(night.other)
    connection = sqlite3.connect(night.folder.ledger)
    for name, value in (("program_hash", "another"), ("hashed_by", hashed_by)):
        if value is not None:
            statement = f"UPDATE trials SET metrics = json_set(metrics, '$.{name}', ?) WHERE experiment = ?"
            assert connection.execute(statement, (value, night.other)).rowcount
    connection.commit()
    connection.close()
    assert night.retrain(night.other) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_one_that_was_moved_is_fetched_for_its_use(
    night: Night, tmp_path: Path, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = night.trials(night.champion)
    sample = ["sample", *night.where, "--prompt=the ", "--tokens=5"]
    assert main(sample) == 0
    text = capsys.readouterr().out
    far = SnapshotStore(str(tmp_path / "far"))
    far.check()
    for trial in trials:
        address = far.put(night.snapshot(trial))
        with night.ledger() as ledger:
            ledger.snapshots.move(trial.id, address)
    night.lose(night.champion)

    assert main(sample) == 0
    assert capsys.readouterr().out == text
    assert night.verify(night.champion) == 0
    assert json.loads(capsys.readouterr().out)["snapshot"] == far.address(night.snapshot(trials[-1]).name)
    assert night.retrain(night.champion) == 0
    assert "retrained_trials:    0\n" in capsys.readouterr().out

    # damaged there
    name = night.snapshot(trials[-1]).name
    damaged = tmp_path / "far" / name / "tokenizer.json"
    damaged.write_text("{}")
    line = f"{damaged}: has been changed: restore it from a copy"
    assert main(sample) == 1
    assert capsys.readouterr().err == f"autoresearch sample: {line}, or {night.remedy(night.champion)}\n"
    assert night.verify(night.champion) == 1
    assert json.loads(capsys.readouterr().out)["differences"] == [line]

    # not to be reached: nobody knows whether it has to be trained
    (tmp_path / "far").rename(tmp_path / "away")
    for command in (sample, ["trial", *night.where, *night.flags, f"--retrain={night.champion}"]):
        assert main(command) == 1
        assert f"{tmp_path}/far: is not there: mount it" in capsys.readouterr().err
    assert night.verify(night.champion) == 1
    (tmp_path / "away").rename(tmp_path / "far")

    # gone there
    far.remove(name)
    assert main(sample) == 1
    remedy = f"restore it from a copy, or {night.remedy(night.champion)}"
    assert capsys.readouterr().err == f"autoresearch sample: {far.address(name)}: is missing: {remedy}\n"
    assert night.retrain(night.champion, "--format=json") == 0
    (run,) = json.loads(capsys.readouterr().out)["trials"]
    assert (run["trial"], run["difference"]) == (trials[-1].id, 0)
    assert run["snapshot"] == str(night.snapshot(trials[-1]))
    assert main(sample) == 0
    assert night.verify(night.champion) == 0


def test_one_in_a_bucket_is_scored_again(night: Night, scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gcsfs", reason="gs:// is tried where the extra dev is installed")
    from gcs_server import GcsServer

    with GcsServer().running():
        for trial in night.trials(night.champion):
            address = SnapshotStore("gs://bucket/night").put(night.snapshot(trial))
            with night.ledger() as ledger:
                ledger.snapshots.move(trial.id, address)
        night.lose(night.champion)
        assert night.verify(night.champion) == 0
    assert json.loads(capsys.readouterr().out)["snapshot"] == address


def test_trials_by_hand_are_trained_again(
    finished: Night, tiny_source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train_lib.py").write_text(tiny_source)
    trial = ["trial", f"--run_dir={tmp_path}", *finished.flags]
    own = [f"--editable={tmp_path / 'train_lib.py'}", "--seed=7", "--set", "LEARNING_RATE=20.0", "--format=json"]
    assert main([*trial, *own]) == 0
    summary = json.loads(capsys.readouterr().out)
    shutil.rmtree(summary["snapshot"])
    assert main(["sample", f"--run_dir={tmp_path}"]) == 1
    assert "--tag=trials --retrain=0`, with the run's own flags" in capsys.readouterr().err
    assert main([*trial, "--budget_steps=5", "--retrain=0"]) == 1
    assert "other settings (num_steps 20 then, 5 now)" in capsys.readouterr().err
    assert main([*trial, "--retrain=0", "--format=json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["trials"]
    assert (run["score_now"], run["seed"]) == (summary["val_bpb"], 7)
    assert main(["sample", f"--run_dir={tmp_path}", "--tokens=5"]) == 0
