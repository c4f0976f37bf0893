"""check_accelerator: every part answers on a CPU, and a part that hangs, dies or prints nonsense stops no other."""

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import jax
import pytest
from train_lib_source import TINY, TRAIN_LIB, make_mesh

from autoresearch_jax.assets.python_constants import set_constants
from autoresearch_jax.contract import TaskSpec

SCRIPTS = Path(__file__).parent.parent / "scripts"
GIB = 1 << 30
PATIENCE = 10.0  # the machine that runs tests has other work, too


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import check_accelerator

    return check_accelerator


@pytest.fixture
def planning(check: ModuleType) -> ModuleType:
    return sys.modules["accelerator_plan"]


@pytest.mark.slow
def test_every_part_answers_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [str(SCRIPTS / "check_accelerator.sh"), "--platform=cpu", f"--out={out}", f"--patience={PATIENCE}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    figures = dict(line.split(": ", 1) for line in done.stdout.splitlines()[-6:])
    assert (figures["parts_failed"], figures["parts_left_out"], figures["findings"]) == ("0", "0", "0")
    report = json.loads((out / "accelerator.json").read_text())
    found = {part["name"]: part for part in report["parts"]}
    assert figures["parts_ok"] == str(len(found)) == "12"
    assert {part["status"] for part in found.values()} == {"ok"}
    assert {row[0] for row in found["kernels"]["tables"]["kernels"]["rows"]} == {"attention", "cross-entropy", "norm"}
    assert "__cudnn$fmhaSoftmaxBackward" in found["export"]["figures"]["step_0_kernels"]
    assert found["export"]["figures"]["step_0_windows"] == "0, 1025", "all of the context, and half of it"
    assert found["step"]["figures"]["original_compiled_though_cached"] == 0
    assert found["judge"]["figures"]["judgings_equal_bits"] == "yes"
    assert found["repeat"]["figures"]["trials_equal_bits"] == "yes"
    assert (found["run"]["figures"]["trials_with_a_score"], found["run"]["figures"]["verified"]) == (4, "yes")
    assert found["standby"]["figures"]["trials_counted_without_standby"] == 2
    assert "--workers=" in found["workers"]["figures"]["refusal"]
    table = (out / "accelerator.md").read_text()
    assert all(f"| {name} | ok |" in table for name in found)
    assert str(tmp_path) not in table
    assert sorted(path.name for path in out.iterdir()) == ["accelerator.json", "accelerator.md"]


RESULT = '{{"complete": {complete}, "figures": {{"it": 1}}, "tables": {{}}, "findings": []}}'
WHOLE, PART_OF_IT = RESULT.format(complete="true"), RESULT.format(complete="false")
START_A_CHILD = "import subprocess, sys; child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
FAULTS = {  # what a part does, and what is said of it
    "hangs": (
        START_A_CHILD + "print('child', child.pid, flush=True); write(PART_OF_IT); import time; time.sleep(600)",
        "did not end within",
    ),
    "dies": ("print('the last words', flush=True); write(PART_OF_IT); import os; os.kill(os.getpid(), 9)", "SIGKILL"),
    "raises": ("raise RuntimeError('no such device')", "status 1"),
    "nonsense": ("import sys; sys.stdout.buffer.write(bytes(range(256)) * 20); write('[1, 2]')", "cannot be read"),
    "half a result": ("write(WHOLE[:40])", "cannot be read"),
    "nothing": ("print('all is well')", "no result"),
    "unfinished": ("write(PART_OF_IT)", "before its result was complete"),
    "floods": ("import sys\nwhile True: sys.stdout.write('x' * 100_000)", "did not end within"),
    "closes its output": ("import os, time; os.close(1); os.close(2); time.sleep(600)", "did not end within"),
}


def fake(check: ModuleType, folder: Path, name: str, code: str, seconds: float) -> object:
    result = folder / f"{name}.result.json"
    head = (
        f"WHOLE, PART_OF_IT = {WHOLE!r}, {PART_OF_IT!r}\nwrite = lambda text: open({str(result)!r}, 'w').write(text)\n"
    )
    return check.Command(name, [sys.executable, "-c", head + code], seconds, result)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_part_that_fails_stops_no_other(
    fault: str, check: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, remark = FAULTS[fault]
    limit = 1.5 if "within" in remark else 60.0
    commands = [
        fake(check, tmp_path, fault, code, limit),
        fake(check, tmp_path, "fine", "write(WHOLE)", 60.0),
    ]
    failed, fine = check.run_parts(commands, tmp_path, {"platform": "cpu"}, os.environ)
    assert (failed.status, fine.status, fine.figures) == ("failed", "ok", {"it": 1})
    assert remark in failed.remark
    assert len(capfd.readouterr().out) < 1_000_000
    report = json.loads((tmp_path / "accelerator.json").read_text())
    assert [part["status"] for part in report["parts"]] == ["failed", "ok"]
    assert f"| {fault} | failed |" in (tmp_path / "accelerator.md").read_text()
    if fault in ("hangs", "dies", "unfinished"):
        assert failed.figures == {"it": 1}, "what it had by then"
    if fault == "raises":
        assert "RuntimeError: no such device" in failed.last_lines
    if fault == "hangs":
        (line,) = failed.last_lines
        with pytest.raises(ProcessLookupError):
            os.kill(int(line.split()[1]), 0)


def test_a_report_is_there_after_each_part(check: ModuleType, tmp_path: Path) -> None:
    """The second part reads what the first has left."""
    code = f"text = open({str(tmp_path / 'accelerator.json')!r}).read(); assert 'first' in text; write(WHOLE)"
    commands = [fake(check, tmp_path, "first", "write(WHOLE)", 60.0), fake(check, tmp_path, "second", code, 60.0)]
    assert [outcome.status for outcome in check.run_parts(commands, tmp_path, {"platform": "cpu"}, os.environ)] == [
        "ok",
        "ok",
    ]


def test_what_a_machine_lacks_is_named_and_left_out(
    check: ModuleType, planning: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = check.importlib.util.find_spec
    monkeypatch.setattr(
        check.importlib.util, "find_spec", lambda name: None if name in ("grain", "rustbpe") else find_spec(name)
    )
    commands = check.make_commands(planning.Plan("cpu", False, str(tmp_path)), planning.PART_NAMES, 1.0)
    lacks = {command.name: list(command.lacks) for command in commands}
    assert lacks["trial"] == lacks["judge"] == lacks["run"] == ["rustbpe", "grain"]
    assert lacks["corpus"] == ["rustbpe"]
    assert not any(lacks[name] for name in ("environment", "kernels", "export", "step", "device"))
    (left_out,) = check.run_parts(
        [command for command in commands if command.name == "corpus"], tmp_path, {"platform": "cpu"}, os.environ
    )
    assert left_out.status == "left out"
    assert "rustbpe" in left_out.remark


def test_parts_bring_what_they_need(planning: ModuleType) -> None:
    assert planning.with_what_they_need(["judge"]) == ("environment", "corpus", "judge")
    assert planning.with_what_they_need(["export"]) == ("export",)
    assert planning.with_what_they_need(planning.PART_NAMES) == planning.PART_NAMES


@pytest.mark.parametrize("words", [["--only=kernel"], ["--platform=gpu"], ["--patience=0"], ["--wheels=/nowhere"]])
def test_wrong_flags_are_refused(words: list[str], check: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        check.main(words)
    assert ended.value.code == 2
    assert words[0].split("=")[0] in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("gib", "capability", "rows", "dtype"),
    [
        (72, (9, 0), 256, None),
        (36, (8, 0), 128, None),
        (21, (8, 9), 64, None),
        (13, (7, 5), 64, "float32"),
        (7, (7, 5), 32, "float32"),
    ],
)
def test_the_batch_follows_the_memory(
    gib: int, capability: tuple[int, int], rows: int, dtype: str | None, planning: ModuleType
) -> None:
    device = planning.DeviceFacts("a GPU", 1, gib * GIB, capability)
    original, small = planning.Plan("cuda", False, "", device).configurations()
    published, length = planning.read_flagfile(SCRIPTS.parent / "configs" / "h100.flags")
    assert original.constants["BATCH_SIZE"] == rows
    assert original.sequence_length == length == 2048
    assert original.constants.get("COMPUTE_DTYPE") == small.constants.get("COMPUTE_DTYPE") == dtype
    if gib == 72:
        assert original.constants == published


def test_constants_at_the_end_make_the_same_program(planning: ModuleType, tmp_path: Path) -> None:
    """The parts that trace have to do without libcst."""
    from autoresearch_jax.tasks.lm.trace import _load

    programs = []
    sources = {
        "end": planning.Configuration("tiny", "h100.flags", TINY, 32).source(),
        "place": set_constants(TRAIN_LIB.read_text(), TINY),
    }
    for name, source in sources.items():
        path = tmp_path / f"{name}.py"
        path.write_text(source)
        experiment = _load(path).build(TaskSpec((256,), 32), make_mesh())
        state = jax.eval_shape(experiment.init, jax.random.key(0))
        tokens = jax.ShapeDtypeStruct(experiment.batch_shape, "int32")
        lowered = experiment.step.lower(state, tokens, jax.ShapeDtypeStruct((), "float32"))
        programs.append(lowered.as_text())
    assert programs[0] == programs[1]


def make_wheel(folder: Path, name: str) -> None:
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: us\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_wheels_are_installed_for_the_check_alone(check: ModuleType, tmp_path: Path) -> None:
    wheels, target = tmp_path / "wheels", tmp_path / "site-packages"
    wheels.mkdir()
    with pytest.raises(check.WheelError, match=r"no \.whl file"):
        check.install_wheels(wheels, target)
    make_wheel(wheels, "not_there_otherwise")
    make_wheel(wheels, "jax")  # is there already, in some version
    check.install_wheels(wheels, target)
    assert (target / "not_there_otherwise.py").exists()
    assert not (target / "jax.py").exists()
    (wheels / "broken-1.0-py3-none-any.whl").write_text("no archive")
    with pytest.raises(check.WheelError, match="pip failed"):
        check.install_wheels(wheels, target)


def test_without_a_python_with_jax_it_says_how_to_get_one(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    shutil.copytree(SCRIPTS, folder / "scripts")
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("bash", "dirname"):
        found = shutil.which(name)
        assert found
        (commands / name).symlink_to(found)
    done = subprocess.run(
        [str(folder / "scripts" / "check_accelerator.sh")], env={"PATH": str(commands)}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "setup.sh" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_interrupt_ends_the_part_that_runs(check: ModuleType, tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import check_accelerator as check, os, pathlib\n"
        "folder = pathlib.Path(sys.argv[2])\n"
        "sleeper = [sys.executable, '-c', 'import os, time; print(os.getpid(), flush=True); time.sleep(600)']\n"
        "command = check.Command('sleeper', sleeper, 600.0, folder / 'r.json')\n"
        "check.run_parts([command], folder, {'platform': 'cpu'}, os.environ)\n"
    )
    command = [sys.executable, "-c", code, str(SCRIPTS), str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    lines = (process.stdout.readline() for _ in range(2))
    pid = int([*lines][1].split()[1])
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    process.stdout.close()
