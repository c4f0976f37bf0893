"""A small task of a command for tests: texts classified by a Python file; what its parts do can be replaced."""

import os
from collections.abc import Mapping
from pathlib import Path

from autoresearch_jax.sandbox.sandbox import Sandbox
from autoresearch_jax.tasks.command.task import CommandTask, CommandTaskConfig
from autoresearch_jax.tasks.command.task_file import read_task_file
from autoresearch_jax.types import Measurement, Scrutiny

ASSET = '''"""A classifier."""

THRESHOLD = 1  # of the text's length


def classify(text):
    return int(len(text) > THRESHOLD)
'''
SERVE = """
import json, sys
from classifier import classify
print("ready", flush=True)
for line in sys.stdin:
    print(json.dumps([classify(text) for text in json.loads(line)]), flush=True)
"""
RUN = """
import json, os
from classifier import classify
texts = open("questions.txt").read().split()
with open(os.environ["OUT"] + "/answers.json", "w") as file:
    json.dump([classify(text) for text in texts], file)
"""
EVALUATE = """
import json, sys
order = json.loads(sys.stdin.readline())
rows = [line.split(",") for line in open(order["files"][0]).read().split()]
if order["out"]:
    answers = json.load(open(order["out"] + "/answers.json"))
else:
    print(json.dumps({"ask": [text for text, _ in rows]}), flush=True)
    answers = json.loads(sys.stdin.readline())["answer"]
if not isinstance(answers, list) or len(answers) != len(rows) or any(answer not in (0, 1) for answer in answers):
    print(json.dumps({"invalid": "not one class for each text"}))
    sys.exit()
items = [int(answer == int(label)) for answer, (_, label) in zip(answers, rows)]
print(json.dumps({"accuracy": sum(items) / len(items), "items": items, "rows": len(rows)}))
"""
VAL = "a,0\nbb,1\nccc,1\nd,0\n"
HOLDOUT = "e,0\nff,1\nggg,0\nhh,1\n"
TASK = """\
[asset]
file = "classifier.py"

[metric]
name = "accuracy"
direction = "maximize"
noise = "items"

[budget]
seconds = 30

[serve]
command = ["python3", "serve.py"]

[evaluate]
command = ["python3", "evaluate.py"]

[files]
asset = ["serve.py"]
val = ["val.csv"]
holdout = ["holdout.csv"]

[proposals]
categories = ["features", "model"]
"""
SERVED = '[serve]\ncommand = ["python3", "serve.py"]\n'
FILES = {
    "task.toml": TASK,
    "classifier.py": ASSET,
    "serve.py": SERVE,
    "main.py": RUN,
    "questions.txt": "a bb ccc d",
    "evaluate.py": EVALUATE,
    "val.csv": VAL,
    "holdout.csv": HOLDOUT,
}


def edited(text: str, *changes: tuple[str, str]) -> str:
    """A text with changes, each of which it must hold once."""
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def write_task(folder: Path, *changes: tuple[str, str], **files: str) -> Path:
    """Writes the task's files with changes of task.toml; other files by their name, dots as `_dot_`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (FILES | {name.replace("_dot_", "."): text for name, text in files.items()}).items():
        (folder / name).write_text(edited(text, *changes) if name == "task.toml" else text)
    return folder / "task.toml"


def open_command(path: Path, sandbox: Sandbox, environment: Mapping[str, str] = os.environ) -> CommandTask:
    """The task of a task.toml; its programs are beside it."""
    task = read_task_file(path)
    programs = path.parent / "programs"
    return CommandTask(CommandTaskConfig(task, task.budget.seconds, sandbox, environment, programs))


def run_command_trial(
    task: CommandTask, source: str, folder: Path, seed: int = 0, scrutiny: Scrutiny = Scrutiny.SEARCH
) -> Measurement:
    """Prepares and measures a text, in a new folder for everything."""
    folder.mkdir()
    candidate = task.prepare(source, folder)
    return task.measure(candidate, seed=seed, log_dir=folder, snapshot_dir=folder / "snapshot", scrutiny=scrutiny)
