"""`autoresearch trial` and `sample` as a person calls them: the summary, the ledger, the refusals."""

import json
import os
import pty
import re
import subprocess
import sys
import termios
from contextlib import closing
from pathlib import Path

import pytest
from finished_night import Night

from autoresearch_jax.cli import main
from autoresearch_jax.commands.console import CLEAR_LINE, LiveLine
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.report.progress import describe_report
from autoresearch_jax.sandbox.linux import landlock_abi
from autoresearch_jax.tasks.lm import device as devices
from autoresearch_jax.tasks.lm.device import Device, DeviceError
from autoresearch_jax.tasks.lm.integrity import FORMAT_VERSION


@pytest.mark.parametrize(
    ("cap", "reason"),
    [
        ("--max_source_bytes=100", r"the source has 1,\d+ bytes, more than 100: make it shorter"),
        pytest.param(
            "--max_constant_bytes=3",
            r"the programs embed [\d,]+ bytes of constants, more than 3 .*: compute arrays",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "--min_steps=1000000000",
            r"even at the device's peak speed only [\d.]+ steps fit into 1 s, ",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_caps_are_flags_and_a_refused_candidate_has_no_score_and_its_reason(
    cap: str, reason: str, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_seconds = [flag for flag in flags if not flag.startswith("--budget")]
    assert main(["trial", *by_seconds, "--budget_seconds=1", cap]) == 1
    out = capsys.readouterr().out
    assert re.search(r"^status: +rejected$", out, re.MULTILINE)
    assert re.search(r"^val_bpb: +null$", out, re.MULTILINE)
    assert re.search(f"^error: +{reason}", out, re.MULTILINE)
    with closing(Ledger.open_to_read(tmp_path / "runs" / "trials" / "ledger.db")) as ledger:
        assert ledger.trials()[0].value is None


@pytest.mark.skipif(landlock_abi() == 0, reason="the kernel has no Landlock")
def test_a_device_that_answers_only_without_walls_is_told_or_refused(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def find(*words: object, confined: bool = False, **keywords: object) -> Device:
        if confined:
            raise DeviceError("--platform=cuda: the worker process exited with status 1")
        return Device("cuda", "NVIDIA L4", 1, 24 << 30)

    monkeypatch.setattr(devices, "find_device", find)
    command = ["trial", *(flag for flag in flags if not flag.startswith("--budget")), "--platform=cuda"]
    assert main([*command, "--sandbox=landlock"]) != 0
    refused = capsys.readouterr().err
    assert re.match("autoresearch trial: --sandbox=landlock: cuda does not answer to a confined process", refused)
    assert main([*command, "--clock=attended"]) != 0  # is refused, after that
    assert "are not: cuda does not answer to a confined process" in capsys.readouterr().err


def test_a_relative_path_in_the_flags_of_xla_is_refused(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_hlo_as_text --xla_dump_to=dump")
    assert main(["trial", *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("autoresearch trial: XLA_FLAGS=--xla_dump_to=dump: ")
    assert error.endswith(f" --xla_dump_to={Path.cwd() / 'dump'}\n")


@pytest.mark.slow
def test_a_trial_says_how_its_file_was_confined_and_warns_where_it_was_not(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trial", *flags, "--sandbox=limits", "--format=json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["sandbox"] == "limits"
    assert said.err.count("runs with limits but not confined") == 1
    assert main(["trial", *flags]) == 0
    said = capsys.readouterr()
    level = re.search(r"^sandbox: +(\w+)$", said.out, re.MULTILINE)
    assert level is not None
    assert ("not confined" in said.err) == (level[1] == "limits")


def test_the_summary_reads_as_the_originals_does(
    flags: list[str], editable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # of a file as a tool of another system writes it, too
    editable.write_bytes(("\ufeff" + editable.read_text().replace("\n", "\r\n").replace("= 10.0", "= 9.0")).encode())
    # a budget in steps takes the place of one in seconds, which a flag file may have set
    assert main(["trial", *flags, "--budget_seconds=600", "--set", "LEARNING_RATE=20.0", "--seed=5"]) == 0
    out = capsys.readouterr().out
    lines = dict(line.split(":", 1) for line in out.splitlines() if line != "---")
    values = {key: value.strip() for key, value in lines.items()}
    assert re.search(r"^val_bpb: +\d\.\d{6}$", out, re.MULTILINE)
    assert values["num_steps"] == "20"
    assert values["total_tokens_M"] == "0.005"
    assert values["status"] == "ok"
    assert values["clock"] == "wall", "a number of steps needs no clock"
    assert "clock_fault" not in values
    assert values["mfu_percent"] == "null"  # the file does not count its operations
    assert float(values["unigram_bpb"]) > 1

    with closing(Ledger.open_to_read(tmp_path / "runs" / "trials" / "ledger.db")) as ledger:
        (experiment,) = ledger.experiments()
        assert experiment.hypothesis == "LEARNING_RATE=20.0"
        assert "LEARNING_RATE = 20.0  # of plain SGD" in ledger.source(0)
        assert f"{ledger.trials()[0].value:.6f}" == values["val_bpb"]
        assert ledger.trials()[0].seed == 5


def test_json_of_a_loss_that_is_no_number_is_json(
    flags: list[str], editable: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    editable.write_text(editable.read_text().replace('{"loss": loss,', '{"loss": loss * jnp.nan,'))
    assert main(["trial", *flags, "--format=json"]) == 1
    summary = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert summary["status"] == "nonfinite"
    assert summary["train_loss"] is None


@pytest.mark.slow
def test_trials_at_the_same_time_are_all_kept(flags: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "autoresearch_jax.cli", "trial", *flags]
    trials = [subprocess.Popen([*command, f"--seed={seed}"], stdout=subprocess.DEVNULL) for seed in range(2)]
    assert [trial.wait() for trial in trials] == [0, 0]
    with closing(Ledger.open_to_read(tmp_path / "runs" / "trials" / "ledger.db")) as ledger:
        assert sorted(trial.seed for trial in ledger.trials()) == [0, 1]
        assert len({trial.snapshot for trial in ledger.trials()}) == 2


@pytest.mark.parametrize(
    ("extra", "exit_status", "message"),
    [
        (["--set", "NO_SUCH=1"], 2, r"--set: .*train_lib.py: no top-level constant NO_SUCH; there are LEARNING_RATE, "),
        (["--set", "LEARNING_RATE"], 2, "--set LEARNING_RATE: expected NAME=VALUE"),
        (["--budget_steps=0"], 2, "flag --budget_steps=0: must be at least 1"),
        (["--editable=/nowhere/train_lib.py"], 1, "/nowhere/train_lib.py: cannot be read"),
        (["--vocab_sizes=512"], 1, "run `autoresearch prepare"),
        (["--sequence_length=64"], 1, "run `autoresearch prepare"),
        (["--no_such_flag"], 2, "Unknown command line flag 'no_such_flag'"),
        (["stray"], 2, "unexpected argument 'stray'"),
        (["--mesh=data=²"], 2, "--mesh=data=²: expected something like data=4,model=2"),
        ([f"--seed={2**63}"], 2, "flag --seed="),
        (["--max_stretch=1.4"], 2, r"flag --max_stretch=1\.4: .*1\.5.*--clock=wall"),
    ],
)
def test_bad_input_gets_one_line(
    extra: list[str], exit_status: int, message: str, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trial", *flags, *extra]) == exit_status
    error = capsys.readouterr().err
    assert error.startswith("autoresearch trial: ")
    assert error.count("\n") == 1
    assert re.search(message, error)


def test_an_experiment_of_a_run_is_run_again(night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    baseline = 0
    trials = night.trials(baseline)
    assert len({trial.value for trial in trials}) == 2, "another seed has another score"
    command = ["trial", f"--run_dir={tmp_path / 'mine'}", *night.flags, f"--from={night.folder.path}:{baseline}"]
    assert main([*command, "--format=json"]) == 0  # as text, and with one seed: test_run_flags.py
    found = json.loads(capsys.readouterr().out)["trials"]
    assert [summary["seed"] for summary in found] == [trial.seed for trial in trials]
    for summary, trial in zip(found, trials, strict=True):
        assert (summary["recorded_trial"], summary["recorded_val_bpb"]) == (trial.id, trial.value)
        assert summary["val_bpb"] == trial.value, "a number of steps on the same CPU gives the same score"
        assert summary["difference"] == 0
        assert len(str(summary["val_bpb"])) > 10, "in full"
    with closing(Ledger.open_to_read(tmp_path / "mine" / "trials" / "ledger.db")) as ledger:
        assert [trial.value for trial in ledger.trials()] == [trial.value for trial in trials]
        assert ledger.experiments()[0].hypothesis == f"{night.folder.path}:{baseline} again"


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--from={run}:99"], 1, "no experiment 99"),
        (["--from={run}"], 2, "expected RUN:N"),
        (["--from=nowhere:0"], 1, "nowhere/ledger.db: no ledger there"),
        (["--from={run}:0", "--set=LEARNING_RATE=2.0"], 2, "leave out --editable and --set"),
        (["--from={run}:0", "--budget_steps=21"], 2, "--budget_steps=21 (the run has --budget_steps=20)"),
        (["--from={run}:0", "--judge_tokens=900"], 2, "--judge_tokens=900 (the run has no --judge_tokens)"),
    ],
)
def test_an_experiment_that_cannot_be_compared_is_refused(
    words: list[str], status: int, says: str, night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [word.format(run=night.folder.path) for word in words]
    assert main(["trial", f"--run_dir={tmp_path / 'mine'}", *night.flags, *named]) == status
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_run_of_another_dataset_is_not_added_to(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(Ledger.open(tmp_path / "runs" / "other" / "ledger.db")) as ledger:
        ledger.save_settings({"fingerprint": "of another dataset"})
    assert main(["trial", *flags, "--tag=other"]) == 1
    assert "fingerprint of another dataset then" in capsys.readouterr().err


def test_a_damaged_or_missing_snapshot_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", f"--snapshot={tmp_path}"]) == 1
    assert f"{tmp_path}: no snapshot here" in capsys.readouterr().err
    (tmp_path / "manifest.json").write_text("{")
    assert main(["sample", f"--snapshot={tmp_path}"]) == 1
    assert "manifest.json: damaged" in capsys.readouterr().err
    for manifest in ("[]", json.dumps({"format_version": FORMAT_VERSION})):
        (tmp_path / "manifest.json").write_text(manifest)
        assert main(["sample", f"--snapshot={tmp_path}"]) == 1
        assert "manifest.json: damaged" in capsys.readouterr().err
    assert main(["sample", f"--snapshot={tmp_path / 'manifest.json'}"]) == 1
    assert "no snapshot here" in capsys.readouterr().err


@pytest.mark.slow
def test_a_snapshot_of_another_platform_is_refused_in_one_line(tmp_path: Path) -> None:
    manifest = {"platform": "tpu", "mesh": {"data": 1, "model": 1}, "files": {}}
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "format_version": FORMAT_VERSION}))
    command = [sys.executable, "-m", "autoresearch_jax.cli", "sample", f"--snapshot={tmp_path}"]
    elsewhere = subprocess.run(command, capture_output=True, text=True)  # what JAX is told stays told
    assert elsewhere.returncode == 1
    assert re.search(r"^autoresearch sample: .*needs 1 devices of platform tpu", elsewhere.stderr, re.MULTILINE)
    assert "Traceback" not in elsewhere.stderr


def test_progress_tells_elapsed_loss_speed_and_time_left() -> None:
    report = {"phase": "train", "step": 7, "elapsed_seconds": 12.0, "budget_seconds": 60.0, "loss": 3.25}
    assert describe_report({**report, "tokens_per_second": 9876.0}) == (
        "train  step 7  12/60 s  48 s left  loss 3.2500  9,876 tokens/s"
    )
    assert describe_report({"phase": "judge", "share": 0.5}) == "judge  50%"


def test_the_live_line_stays_one_line_and_goes_away() -> None:
    driver, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 40))
    with open(terminal, "w") as stream, closing(LiveLine("try 1: ", stream)) as line:
        line.progress({"phase": "prepare"})
        line.progress({"phase": "train", "step": 7, "elapsed_seconds": 12.0, "budget_seconds": 60.0, "loss": 3.25})
    written = ""
    while written.count(CLEAR_LINE) < 3:  # what is written arrives in pieces
        written += os.read(driver, 10_000).decode()
    assert [len(state) for state in written.split(CLEAR_LINE)] == [0, len("try 1: prepare"), 39, 0]
    assert "try 1: train  step 7  12/60 s" in written
    os.close(driver)


def test_where_there_is_no_terminal_lines_are_few(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream, closing(LiveLine(stream=stream)) as line:
        for step in range(1000):
            line.progress({"phase": "train", "step": step})
    assert (tmp_path / "log").read_text() == ""
