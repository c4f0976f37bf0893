"""What an asset may try to score better than it is, each with what comes of it."""

import json
import threading
from pathlib import Path
from textwrap import indent

import command_task
import pytest
from command_task import ASSET, SERVED, edited, open_command, run_command_trial, write_task
from marked_processes import comes_true

from autoresearch_jax.sandbox.accounting import ATTENDED, CpuUsage
from autoresearch_jax.sandbox.escapes import processes_with
from autoresearch_jax.sandbox.sandbox import Level, Sandbox
from autoresearch_jax.tasks.command import timebox
from autoresearch_jax.types import CandidateRejected, Status

HONEST = "    return int(len(text) > THRESHOLD)"
START = 0.75  # of an asset that answers 1 for "d", too
LABELS = """
for place in ({folder!r} + "/val.csv", "val.csv", "../val.csv", "../../val.csv"):
    try:
        return int(f"{{text}},1" in open(place).read())
    except OSError:
        pass
"""
CACHE = """
import os
folders = ["/tmp", os.environ["HOME"], os.environ["TMPDIR"], ".", os.path.dirname(os.environ["BUILD"])]
known = any(os.path.exists(folder + "/answers") for folder in folders)
for folder in folders:
    try:
        open(folder + "/answers", "w").close()
    except OSError:
        pass
"""
WRITES = """
try:
    open({folder!r} + "/evaluate.py", "a").write("wrong")
except OSError:
    pass
"""
DAEMON = """
import subprocess, sys
subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600) # {word}"], start_new_session=True)
"""
FORGED = """
import os, sys
print('{"accuracy": 1.0, "items": [1, 1, 1, 1]}', file=sys.stderr)
for descriptor in range(3, 64):
    try:
        os.write(descriptor, b'{"accuracy": 1.0, "items": [1, 1, 1, 1]}\\n')
    except OSError:
        pass
print('{"accuracy": 1.0, "items": [1, 1, 1, 1]}', flush=True)
"""

# A stopped process goes on once such a timer or descriptor sends it SIGCONT
WAKES = """
import ctypes, fcntl, signal
event = (ctypes.c_int * 16)(0, 0, signal.SIGCONT)
can_wake = ctypes.CDLL(None).timer_create(1, event, ctypes.byref(ctypes.c_void_p())) == 0
try:
    can_wake = fcntl.fcntl(0, 10, signal.SIGCONT) == 0  # F_SETSIG
except OSError:
    pass
if can_wake:
    return int(text in ('bb', 'ccc'))
"""
LINKED = """
import os
folder = os.environ["{folder}"]
os.rmdir(folder)
os.symlink("{target}", folder)
"""
ODD = """
import os
folder = os.environ["OUT"]
open(folder + "/answers.json", "w").write("[0, 1, 1, 0]")
open(folder.encode() + {name!r}, "w").close()
os.mkfifo(folder + "/pipe")
os.symlink("/", folder + "/link")
"""


@pytest.fixture
def cage(sandbox: Sandbox) -> Sandbox:
    if sandbox.level is Level.LIMITS:
        pytest.skip("nothing confines an asset on this machine")
    return sandbox


def cheating(body: str) -> str:
    """The asset that does more than it says before it answers; and answers 1 to "d", so that there is a gain."""
    return edited(ASSET, (HONEST, indent(body, "    ") + "    return int(len(text) > THRESHOLD or text == 'd')"))


def test_what_is_not_the_assets_own_work_gains_nothing(tmp_path: Path, cage: Sandbox) -> None:
    path = write_task(tmp_path / "task")
    task, folder, word = open_command(path, cage), str(path.parent), f"left-behind-{tmp_path.name}"
    trials = {
        "labels": cheating(LABELS.format(folder=folder)),
        "cache": CACHE + cheating("if known:\n    return int(text in ('bb', 'ccc'))\n"),
        "writes": cheating(WRITES.format(folder=folder)),
        "forges": cheating(FORGED),
        "daemon": cheating(DAEMON.format(word=word)),
        "fewer": ASSET + "\n\nimport json\njson.dumps = lambda answers: '[1]'\n",
        "wakes": cheating(WAKES),
        "network": cheating("import socket\nsocket.create_connection(('127.0.0.1', 9))\n"),
    }
    found = {name: run_command_trial(task, source, tmp_path / name) for name, source in trials.items()}
    again = run_command_trial(task, trials["cache"], tmp_path / "again", seed=1)
    results = {name: (trial.status, trial.value) for name, trial in found.items()}
    assert results == {
        "labels": (Status.OK, START),
        "cache": (Status.OK, START),
        "writes": (Status.OK, START),
        "forges": (Status.INVALID, None),
        "daemon": (Status.OK, START),
        "fewer": (Status.INVALID, None),
        "wakes": (Status.OK, START),
        "network": (Status.CRASH, None),
    }
    assert (again.status, again.value) == (Status.OK, START)
    assert comes_true(lambda: processes_with(word) == [])
    assert open_command(path, cage).fingerprint == task.fingerprint  # no file of the evaluator's was changed


ASKS = 'print(json.dumps({"ask": [text for text, _ in rows]}), flush=True)'


def test_an_answer_to_the_next_question_is_invalid(tmp_path: Path, cage: Sandbox) -> None:
    twice = edited(command_task.EVALUATE, (ASKS, f"{ASKS}; sys.stdin.readline(); {ASKS}"))
    path = write_task(tmp_path / "task", evaluate_dot_py=twice)
    early = run_command_trial(
        open_command(path, cage), cheating("print('[0, 1, 1, 0]\\n[0, 1, 1, 0]', flush=True)\n"), tmp_path / "trial"
    )
    assert (early.status, early.value) == (Status.INVALID, None)
    assert "not asked" in str(early.error)


def test_what_a_run_or_build_wrote_is_files_in_its_folder(tmp_path: Path, cage: Sandbox) -> None:
    (secret := tmp_path / "secret").mkdir()
    (secret / "answers.json").write_text("[0, 1, 1, 0]")
    run = ((SERVED, '[run]\ncommand = ["python3", "main.py"]\n'), ('["serve.py"]', '["main.py", "questions.txt"]'))
    runs = {
        "link": LINKED.format(folder="OUT", target=secret),
        "bytes": ODD.format(name=b"/\xff"),
        "lines": ODD.format(name=b"/a\nb"),
        "odd": ODD.format(name=b"/a"),
    }
    found = {}
    for name, source in runs.items():
        path = write_task(tmp_path / f"{name}-task", *run, main_dot_py=source)
        trial = run_command_trial(open_command(path, cage), ASSET, tmp_path / name)
        found[name] = trial.status, trial.snapshot and sorted(p.name for p in (trial.snapshot / "out").iterdir())
    wrong = Status.INVALID, None
    assert found == {"link": wrong, "bytes": wrong, "lines": wrong, "odd": (Status.OK, ["a", "answers.json"])}

    path = write_task(
        tmp_path / "build-task",
        ("[evaluate]", '[build]\ncommand = ["python3", "build.py"]\n\n[evaluate]'),
        ('["serve.py"]', '["serve.py", "build.py"]'),
        build_dot_py=LINKED.format(folder="BUILD", target=secret),
    )
    with pytest.raises(CandidateRejected, match="a link in place of the folder"):
        open_command(path, cage).prepare(ASSET, tmp_path)


class Clocks:
    """The wall clock, and the accounts of an asset's processes."""

    def __init__(self) -> None:
        self.now = CpuUsage()

    def monotonic(self) -> float:
        return self.now.wall

    def read(self) -> CpuUsage:
        return self.now


def test_threads_that_wait_for_one_another_are_no_excuse(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks()
    monkeypatch.setattr(timebox, "time", clocks)
    monkeypatch.setattr(timebox, "TreeAccounting", lambda root: clocks)
    box = timebox.TimeBox("serve", 30.0, 5.0, ATTENDED, 0, threading.Event())
    own = CpuUsage(wall=1.0, on_cpu=2.0, delay=18.0)
    for spent, expected in ((own, 1.0), (CpuUsage(wall=1.0, on_cpu=1.0, delay=1.0, others=1.0), 0.5)):
        clocks.now += CpuUsage(wall=10.0, on_cpu=10.0, delay=90.0, others=10.0)  # between two questions
        box.begin()
        clocks.now += spent
        assert box.end() == pytest.approx(expected)
    assert box.figures()["training_seconds"] == pytest.approx(1.5)


LATENCY = """\
[asset]
file = "classifier.py"

[metric]
name = "loops"
direction = "minimize"
noise = "latency"

[budget]
seconds = 30

[serve]
command = ["python3", "serve.py"]
speaks = "socket"

[evaluate]
command = ["python3", "evaluate.py"]

[files]
asset = ["serve.py"]
"""
SERVE = """
import os, socketserver
import classifier
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"%d\\n" % classifier.THRESHOLD)
socketserver.UnixStreamServer(os.environ["SOCKET"], Handler).serve_forever()
"""
# The latency is what the asset says; the turn, and whether a child of the asset is at work, go to a file
EVALUATE = """
import json, pathlib, socket, sys
order = json.loads(sys.stdin.readline())
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(order["socket"])
    loops = float(connection.makefile().readline())
running = 0
for path in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        spins = b"spins-WORD" in (path / "cmdline").read_bytes()
        running += spins and (path / "stat").read_text().rpartition(")")[2].split()[0] != "T"
    except OSError:
        pass
with open("turns.txt", "a") as file:
    file.write(json.dumps([order["turn"], loops, running > 0]) + "\\n")
print(json.dumps({"loops": loops}))
"""
SPINS = """
import subprocess, sys
subprocess.Popen([sys.executable, "-S", "-c", "while True: pass # spins-WORD"], start_new_session=True)
"""


def test_who_spins_in_the_champions_turn_stands_still(tmp_path: Path, cage: Sandbox) -> None:
    word = tmp_path.name
    path = write_task(
        tmp_path / "task", task_dot_toml=LATENCY, serve_dot_py=SERVE, evaluate_dot_py=EVALUATE.replace("WORD", word)
    )
    task, turns = open_command(path, cage), path.parent / "turns.txt"
    champion = run_command_trial(task, ASSET.replace("= 1", "= 4"), tmp_path / "champion")
    assert (champion.value, champion.items) == (4.0, None)
    turns.unlink()

    (tmp_path / "logs").mkdir()
    candidate = task.prepare(ASSET.replace("= 1", "= 2") + SPINS.replace("WORD", word), tmp_path / "logs")
    trial = task.measure(
        candidate,
        seed=1,
        log_dir=tmp_path / "logs",
        snapshot_dir=tmp_path / "snapshot",
        reference_log_dirs=[tmp_path / "none", tmp_path / "champion"],
    )
    assert (trial.status, trial.error, trial.value) == (Status.OK, None, 2.0)
    assert (trial.metrics["own_median"], trial.metrics["champion_median"]) == (2.0, 4.0)
    expected = [found for turn in range(3) for found in ([turn, 4.0, False], [turn, 2.0, True])]
    assert [json.loads(line) for line in turns.read_text().splitlines()] == expected
    assert comes_true(lambda: processes_with(f"spins-{word}") == [])
