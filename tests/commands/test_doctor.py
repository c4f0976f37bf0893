"""`autoresearch doctor`: says what is there, what is wrong and what helps, and means it."""

import json
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from fakes import PROGRAM, SOURCE
from repositories import git, make_repository

import autoresearch_jax
from autoresearch_jax.cli import main
from autoresearch_jax.commands import doctor as doctor_command
from autoresearch_jax.commands import task_options
from autoresearch_jax.commands.doctor import SECTIONS, Check, look_at, what_lacks
from autoresearch_jax.commands.run import DecisionOptions
from autoresearch_jax.commands.run import Options as RunOptions
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import Intent, Kind
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.state import run_settings
from autoresearch_jax.sandbox import escapes
from autoresearch_jax.sandbox import sandbox as sandbox_module
from autoresearch_jax.sandbox.sandbox import Level, Sandbox
from autoresearch_jax.tasks.lm import device as devices
from autoresearch_jax.tasks.lm.accounting import quota_cpus, try_accounting
from autoresearch_jax.tasks.lm.data.dataset import Dataset, text_file
from autoresearch_jax.tasks.lm.device import Device, device_terms
from autoresearch_jax.tasks.lm.task import LmTerms
from autoresearch_jax.types import Budget

ATTEMPTS = {
    *("read_your_files", "read_dataset", "read_run_folder", "read_stdlib", "read_environment", "write_elsewhere"),
    *("open_connection", "signal_process", "leave_daemon", "exceed_memory", "exceed_cpu_time", "fork_bomb"),
    *("fill_disk", "fill_log", "run_for_ever"),
}
ROOT = Path(autoresearch_jax.__file__).parent.parent
KEY = "AIza-xq7Vrr2-mmK9"
Doctor = Callable[..., tuple[int, dict[str, str]]]


def lines(output: str) -> dict[str, str]:
    """What stands on each `key: value` line; headings and empty lines left out."""
    pairs = [line.split(":", 1) for line in output.splitlines() if line and not line.startswith("[")]
    assert len({name for name, _ in pairs}) == len(pairs), "names are unique"
    return {name: value.strip() for name, value in pairs}


@pytest.fixture(autouse=True)
def cache(sandbox_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(task_options, "CACHE_DIR", str(sandbox_cache))
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    return sandbox_cache


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files, in which nothing may be left."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    assert not list(folder.iterdir())


@pytest.fixture
def repo(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that is the present folder, with a training file and a page that are committed."""
    folder = tmp_path / "repo"
    make_repository(folder, SOURCE, PROGRAM.replace("loss", "val_bpb"))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def doctor(repo: Path, tiny_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Calls the command in that repository; later flags count. Returns exit status and lines."""
    flags = [
        f"--corpus={tiny_dataset.manifest.corpus}",
        f"--data_dir={tiny_dataset.folder.parent}",
        "--sequence_length=32",
        "--vocab_sizes=256,320",
        f"--compile_cache={tmp_path / 'compiled'}",
        "--platform=cpu",
    ]

    def call(sections: str, *words: str) -> tuple[int, dict[str, str]]:
        status = main(["doctor", *flags, f"--sections={sections}", *words])
        found = capsys.readouterr()
        assert "Traceback" not in found.err
        return status, lines(found.out)

    return call


@pytest.fixture
def wrapped_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has git do more, by lines of shell, once it has made a worktree."""

    def wrap(then: str) -> None:
        wrapper = tmp_path / "bin" / "git"
        wrapper.parent.mkdir()
        real = shutil.which("git")
        wrapper.write_text(f'#!/bin/sh\ncase "$*" in *"worktree add"*) {real} "$@"; {then} ;; esac\nexec {real} "$@"\n')
        wrapper.chmod(0o755)
        monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")

    return wrap


def test_a_machine_on_which_a_run_would_work(doctor: Doctor, repo: Path) -> None:
    refs = git(repo, "for-each-ref")
    status, found = doctor(",".join(set(SECTIONS) - {"sandbox"}))
    assert (status, found["faults"]) == (0, "none")
    assert found["python"].startswith("CPython 3.")
    assert found["packages"].endswith("are there")
    assert found["jax"].endswith("fits")
    assert found["devices"].split()[0].isdecimal()
    assert found["trial_process"].startswith("starts")
    assert found["editable"] == "train_lib.py, committed and unchanged"
    assert found["worktree"].endswith("can be made")
    assert found["run_dir"].endswith(" GB free")
    assert found["ends"] == "8 experiments"
    assert found["key"].startswith("none; only --proposer=gemini")
    assert git(repo, "status", "--porcelain", "--ignored") == "", "nothing is left"
    assert git(repo, "for-each-ref") == refs
    assert not (repo / ".git" / "worktrees").exists()


def test_jax_is_not_loaded(repo: Path) -> None:
    code = (
        "import sys; from autoresearch_jax.cli import main\n"
        "status = main(['doctor', '--platform=cpu', '--sections=python,jax,git,clock,key,run'])\n"
        "sys.exit(99 if 'jax' in sys.modules else status)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_what_makes_no_sense_is_called_wrongly(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("--sections=gti", "--mesh=rows=2", "--vocab_sizes=7", "--budget_seconds=0", "--certify_share=2"):
        assert main(["doctor", word]) == 2
        assert word.split("=")[0] in capsys.readouterr().err


def test_a_check_that_fails_itself_is_a_fault_and_shows_no_key(capsys: pytest.CaptureFixture[str]) -> None:
    def check_shelf(options: RunOptions, environment: object) -> Iterator[Check]:
        yield Check("first", "there")
        raise RuntimeError(f"no\n{KEY}")

    first, last = look_at(check_shelf, RunOptions(), {"GEMINI_API_KEY": KEY})
    assert first == Check("first", "there")
    assert (last.name, last.is_ok, last.outcome) == ("shelf_failed", False, "RuntimeError: no [secret]")
    assert "please report it" in str(last.remedy)
    traceback = capsys.readouterr().err
    assert "in check_shelf" in traceback
    assert KEY not in traceback


@pytest.mark.parametrize("package", [pytest.param("flatbuffers", marks=pytest.mark.slow), "numpy"])
def test_a_missing_package_is_named(package: str, tmp_path: Path) -> None:
    """Also one without which not even the flags of a run are known."""
    site = tmp_path / "site"
    site.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if entry.name.split("-")[0] != package:
            (site / entry.name).symlink_to(entry)
    call = [sys.executable, "-S", "-m", "autoresearch_jax.cli", "doctor", "--sections=python"]
    result = subprocess.run(call, env={**os.environ, "PYTHONPATH": f"{site}:{ROOT}"}, capture_output=True, text=True)
    assert result.returncode == 1
    assert package in result.stdout + result.stderr
    assert "in the checkout: rm -f .venv/.installed-* && ./scripts/setup.sh" in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


def test_an_old_python_or_package_is_told(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    assert what_lacks("numpy>=2.0") is None
    assert str(what_lacks("numpy>=99")).startswith("numpy>=99 is not met by ")
    monkeypatch.setattr(doctor_command, "OLDEST", (99,))
    status, found = doctor("python")
    assert (status, found["faults"]) == (1, "python")
    assert "./scripts/setup.sh" in found["python"]


def test_a_device_that_answers_only_without_walls(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(*arguments: object, confined: bool = False, **keywords: object) -> devices.Device:
        if confined:
            raise devices.DeviceError("--platform=cuda: the worker process exited with status 1")
        return devices.Device("cuda", "NVIDIA H100", 1, None)

    monkeypatch.setattr(sandbox_module, "landlock_abi", lambda: 4)
    monkeypatch.setattr(devices, "find_device", find)
    status, found = doctor("devices", "--platform=cuda")
    assert (status, found["faults"]) == (1, "trial_process")
    assert "--sandbox=limits" in found["trial_process"]
    assert doctor("devices", "--platform=cuda", "--sandbox=limits")[0] == 0


def test_variables_that_steer_jax_are_named(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_private")
    status, found = doctor("jax")
    assert status == 0
    assert "XLA_FLAGS" in found["jax_variables"]
    assert "--xla_private" not in str(found)


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU")
def test_a_platform_that_is_not_there(doctor: Doctor) -> None:
    status, found = doctor("devices", "--platform=cuda")
    assert (status, found["faults"]) == (1, "devices")
    assert "--platform=cpu goes without" in found["devices"]
    assert "./scripts/setup.sh cuda12 or cuda13" in found["devices"]


def test_a_trial_process_that_does_not_start(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--no_such_flag_of_xla")
    status, found = doctor("devices", "--platform=cpu")
    assert (status, found["faults"]) == (1, "devices")
    assert "jax_variables" in found["devices"]


@pytest.mark.slow
def test_an_interrupt_leaves_no_process_and_no_file(doctor: Doctor, scratch: Path) -> None:
    call = [sys.executable, "-m", "autoresearch_jax.cli", "doctor", "--platform=cpu", "--sections=devices"]
    process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not list(scratch.glob("*/worker.log")):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[1] == "autoresearch doctor: interrupted\n"
    assert process.returncode == 130


def test_the_clock_of_trials(doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor("clock", "--clock=wall")[1]["clock"].startswith("wall")
    assert doctor("clock", "--platform=cuda")[1]["clock"].startswith("wall: ")
    status, found = doctor("clock", "--platform=tpu", "--clock=attended")
    assert (status, found["faults"]) == (1, "clock")
    assert "tpu" in found["clock"]
    if Path("/proc/self/schedstat").exists():
        monkeypatch.setattr(doctor_command, "quota_cpus", lambda: 0.5)
        status, found = doctor("clock")
        assert (status, found["faults"]) == (0, "none")
        assert found["clock"].startswith("attended")
        assert f"0.5 of {len(os.sched_getaffinity(0))} " in found["cpu_quota"]
    monkeypatch.setattr(task_options, "try_accounting", partial(try_accounting, tmp_path))
    status, found = doctor("clock")
    assert (status, found["faults"]) == (0, "none")
    assert found["clock"].startswith(f"wall: {tmp_path}/self/task: ")
    status, found = doctor("clock", "--clock=attended")
    assert (status, found["faults"]) == (1, "clock")
    assert found["clock"].endswith("; use --clock=wall")


@pytest.mark.parametrize(
    ("group", "files", "cpus"),
    [
        ("0::/a/b", {"cpu.stat": "", "a/cpu.stat": "", "a/b/cpu.stat": "", "a/b/cpu.max": "max 100000"}, None),
        ("0::/a/b", {"a/cpu.stat": "", "a/cpu.max": "150000 100000", "a/b/cpu.stat": "", "a/b/cpu.max": "3 1"}, 1.5),
        ("1:cpu:/", {"cpu/cpu.stat": "", "cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
    ],
)
def test_the_quota_of_a_container(group: str, files: dict[str, str], cpus: float | None, tmp_path: Path) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(f"{group}\n")
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert quota_cpus(tmp_path / "proc", tmp_path / "groups") == cpus


@pytest.mark.slow
def test_the_sandbox_of_this_machine_holds(cache: Path, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(cache.iterdir())
    assert main(["doctor", "--sections=sandbox", "--format=json"]) == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["sandbox"]}
    assert checks["sandbox"]["outcome"] == str(sandbox.level)
    assert checks.keys() >= ATTEMPTS
    if sandbox.level is not Level.LIMITS:
        assert {checks[name]["outcome"] for name in ATTEMPTS} == {"blocked"}
    assert set(cache.iterdir()) == before  # what was planted is gone


def test_limits_alone_are_told_with_what_helps(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "landlock_abi", lambda: 0)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(escapes, "_EXCESSES", {})
    status, found = doctor("sandbox")
    assert status == 1  # nothing confines, and nobody asked for that
    assert found["sandbox"].startswith("limits; nothing confines")
    assert found["no_bubblewrap"].startswith("bwrap is not installed; apt-get install bubblewrap")
    assert "lsm=landlock" in found["no_landlock"]
    assert "lsm=landlock" in found["trial_sandbox"]
    assert found["read_your_files"] == "OPEN; this level does not block it"
    status, found = doctor("sandbox", "--sandbox=require")
    assert status == 1
    assert "--sandbox=require: bubblewrap: bwrap is not installed" in found["sandbox_flag"]


def test_a_hole_in_the_sandbox_is_found(sandbox: Sandbox, doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    if sandbox.level is Level.LIMITS:
        pytest.skip("nothing here can confine")
    open_sandbox = task_options.open_sandbox

    def with_a_hole(*arguments: object, **keywords: object) -> Sandbox:
        cage = open_sandbox(*arguments, **keywords)  # type: ignore[arg-type]
        object.__setattr__(cage.mounts, "readable", (*cage.mounts.readable, Path(task_options.CACHE_DIR)))
        return cage

    monkeypatch.setattr(task_options, "open_sandbox", with_a_hole)
    monkeypatch.setattr(escapes, "_EXCESSES", {})
    status, found = doctor("sandbox")
    assert status == 1
    assert found["read_dataset"].startswith("OPEN; this level should block it")
    assert found["write_elsewhere"] == "blocked"


def test_a_training_file_that_is_not_committed(doctor: Doctor, repo: Path, tmp_path: Path) -> None:
    (repo / "train_lib.py").write_text(SOURCE + "\n# more\n")
    status, found = doctor("git")
    assert (status, found["faults"]) == (1, "editable")
    assert "; run git commit train_lib.py" in found["editable"]
    assert found["worktree"].endswith("can be made"), "the rest is looked at all the same"
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "train_lib.py").write_text(SOURCE)
    status, found = doctor("git", f"--editable={outside / 'train_lib.py'}")
    assert status == 1
    assert "; run git init && git add train_lib.py" in found["editable"]
    assert "; name the file to edit with --editable" in doctor("git", "--editable=nothing.py")[1]["editable"]


def test_a_branch_that_is_in_the_way(doctor: Doctor, repo: Path) -> None:
    status, found = doctor("git", "--tag=night")
    assert status == 0
    git(repo, "branch", "autoresearch/night")
    status, found = doctor("git", "--tag=night")
    assert (status, found["faults"]) == (1, "editable")
    assert "; choose another --tag, or delete the branch" in found["editable"]
    assert doctor("git", "--tag=a b")[1]["faults"] == "editable"


@pytest.mark.parametrize(
    "then",
    ["kill -INT $PPID; sleep 1; exit 0", 'echo x > "$(ls -d .git/worktrees/workspace)/locked"; exit 9'],
)
def test_only_doctor_s_own_worktree_goes(
    then: str, doctor: Doctor, repo: Path, tmp_path: Path, wrapped_git: Callable[[str], None]
) -> None:
    """One of the user's that is on a disk which is not mounted now stays known, whatever git answers."""
    git(repo, "worktree", "add", "-q", "--detach", str(tmp_path / "disk" / "mine"))
    (tmp_path / "disk").rename(tmp_path / "away")
    refs = git(repo, "for-each-ref")
    wrapped_git(then)
    status = main(["doctor", "--sections=git"])
    assert status == (130 if "INT" in then else 1)
    assert [path.name for path in (repo / ".git" / "worktrees").iterdir()] == ["mine"]
    assert git(repo, "for-each-ref") == refs


def test_a_dataset_that_is_missing_or_damaged(
    doctor: Doctor, tiny_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def follow(line: str) -> None:
        """Does what a line says helps."""
        for command in line.split("; ")[1].split(" && "):
            words = shlex.split(command.removeprefix("run `").partition("`")[0])
            if words[0] == "autoresearch":
                assert main(words[1:]) == 0
            else:
                subprocess.run(words, check=True)
        capsys.readouterr()

    status, found = doctor("dataset")
    assert (status, found["fingerprint"]) == (0, tiny_dataset.fingerprint)
    assert found["dataset_rows_256"].startswith(f"train {len(tiny_dataset.rows(256, 'train'))}, val ")
    there = f"--data_dir={tmp_path / 'data'}"
    status, found = doctor("dataset", there)
    assert (status, found["faults"]) == (1, "dataset")
    follow(found["dataset"])
    assert doctor("dataset", there)[1]["dataset_files"].endswith("sizes and hashes as written")
    text = next((tmp_path / "data").glob(f"*/{text_file('val')}"))
    damaged = bytearray(text.read_bytes())
    damaged[100] ^= 1
    text.write_bytes(damaged)
    status, found = doctor("dataset", there)
    assert (status, found["faults"]) == (1, "dataset_files")
    follow(found["dataset_files"])
    assert doctor("dataset", there)[0] == 0


@pytest.mark.parametrize(
    ("value", "is_ok"),
    [(KEY, True), (f"{KEY}\n", False), (f'"{KEY}"', False)],
)
def test_a_key_is_never_shown(
    value: str, is_ok: bool, doctor: Doctor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", value)
    status = main(
        ["doctor", "--sections=jax,git,key,run", f"--format={'text' if is_ok else 'json'}", "--proposer=hybrid"]
    )
    output = "".join(capsys.readouterr())
    assert status == (0 if is_ok else 1)
    assert not any(KEY[start : start + 4] in output for start in range(len(KEY) - 3))
    assert is_ok or "export GEMINI_API_KEY=..." in output


def test_ways_to_a_model(doctor: Doctor) -> None:
    assert doctor("key")[0] == 0
    status, found = doctor("key", "--proposer=gemini")
    assert (status, found["faults"]) == (1, "model")
    assert "needs a key in GEMINI_API_KEY" in found["model"]
    assert doctor("key", "--proposer=gemini", "--gemini_vertex_project=mine")[1]["model"].endswith("can be asked")


def test_a_page_or_a_proposer_that_would_end_a_run(doctor: Doctor, repo: Path) -> None:
    status, found = doctor("run", "--proposer=command")
    assert (status, found["faults"]) == (1, "proposer")
    assert "--agent_command" in found["proposer"]
    (repo / "program.md").write_text(PROGRAM.replace("## Stop when", "## Stop when\n\n- 3 blue moons"))
    status, found = doctor("run")
    assert (status, found["faults"]) == (1, "program")
    assert found["program"].startswith("program.md:")


def test_no_room_for_a_run(doctor: Doctor, repo: Path) -> None:
    status, found = doctor("run", "--min_free_gb=1e9")
    assert (status, found["faults"]) == (1, "run_dir")
    assert "--min_free_gb" in found["run_dir"]
    (repo / "runs").write_text("")
    status, found = doctor("run")
    assert (status, found["faults"]) == (1, "run_dir")
    assert "Not a directory" in found["run_dir"]


@pytest.mark.parametrize("place", ["ftp://host/x", "s3://bucket/x"])
def test_a_place_to_which_no_snapshot_can_be_moved(
    place: str, doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    status, found = doctor("run", f"--snapshot_dir={place}")
    assert (status, found["faults"]) == (1, "snapshot_dir")
    assert place.rpartition("/")[0] in found["snapshot_dir"]
    assert doctor("run", f"--snapshot_dir={tmp_path / 'far'}")[0] == 0
    assert list((tmp_path / "far").iterdir()) == []


@pytest.fixture
def night(repo: Path, tiny_dataset: Dataset) -> RunFolder:
    """A run in that repository that began with the flags of `doctor`, and has no driver."""
    folder = RunFolder(repo / "runs" / "night")
    folder.create()
    budget = Budget(seconds=task_options.DEFAULT_BUDGET_SECONDS)
    clock = task_options.find_clock("auto", "cpu", print)
    machine = device_terms(Device("cpu", "cpu", 1, None), {"data": 1, "model": 1}, budget, clock)
    terms = LmTerms(tiny_dataset, budget, None, machine)
    made = DecisionOptions()
    settings = run_settings("train_lib.py", 0, terms, made.rule(terms.metric), made.pruning(), made.certification())
    with closing(Ledger.open(folder.ledger)) as ledger:
        ledger.save_settings(settings)
        folder.write_settings(ledger.settings())
        ledger.begin_experiment(Intent(Kind.BASELINE, SOURCE))
    return folder


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--budget_steps=20", "budget_seconds 300.0 then, None now; budget_steps None then, 20 now"),
        ("--seed=7", "seed 0 then, 7 now"),
        ("--decision=greedy", "decision lineage then, greedy now"),
        ("--mesh=data=2", "num_devices 1 then, 2 now"),
    ],
)
def test_flags_that_are_not_the_run_s_own(flag: str, says: str, doctor: Doctor, night: RunFolder) -> None:
    assert doctor("run", "--tag=night")[1]["ledger"].endswith("the run goes on with these flags")
    assert doctor("run", "--tag=day")[1]["ledger"] == "none yet, the run begins"
    status, found = doctor("run", "--tag=night", flag)
    assert (status, found["faults"]) == (1, "ledger")
    assert f"runs/night was started with other settings ({says}" in found["ledger"]
    assert found["ledger"].endswith("; use the same ones, or another --tag")


def test_a_ledger_with_which_the_run_cannot_go_on(doctor: Doctor, night: RunFolder) -> None:
    kept = night.ledger.read_bytes()

    def finds(says: str) -> None:
        status, found = doctor("run", "--tag=night")
        assert (status, found["faults"]) == (1, "ledger")
        assert says in found["ledger"]
        night.ledger.write_bytes(kept)

    with closing(sqlite3.connect(night.ledger)) as connection:
        connection.execute("PRAGMA user_version = 99")
    finds("version 99")
    night.ledger.write_bytes(b"no database" * 100)
    finds("runs/night/ledger.db")
    night.ledger.write_bytes(b"")
    finds("its ledger.db is missing or empty; restore that from a copy")
    with night.lock():
        finds(f"{night.holder()} is at work on ")
    assert doctor("run", "--tag=night")[0] == 0
