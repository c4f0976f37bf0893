"""Mistakes in task.toml and failures of its evaluator: one line each, with file, line and remedy."""

from pathlib import Path

import pytest
from command_task import ASSET, EVALUATE, TASK, VAL, open_command, run_command_trial, write_task

from autoresearch_jax.sandbox.sandbox import Sandbox
from autoresearch_jax.tasks.command.evaluator import EvaluatorFailed
from autoresearch_jax.tasks.command.task_file import TaskFileError, read_task_file
from autoresearch_jax.types import Status

MISTAKES = {
    "no TOML": (("noise =", "noise"), 7),
    "unknown key": (("seconds = 30", "minutes = 30"), 10),
    "unknown table": (("[proposals]", "[proposal]"), 23),
    "wrong type": (("seconds = 30", 'seconds = "30"'), 10),
    "not above 0": (("seconds = 30", "seconds = 0"), 10),
    "missing key": (("seconds = 30", "memory_mb = 100"), 9),
    "missing table": (("[budget]\nseconds = 30\n", ""), 1),
    "no choice": (('"maximize"', '"more"'), 6),
    "no list": (('["val.csv"]', '"val.csv"'), 20),
    "missing file": (('"val.csv"', '"vals.csv"'), 20),
    "a path outside": (('"val.csv"', '"../val.csv"'), 20),
    "a file of both": (('["serve.py"]\nval', '["serve.py", "val.csv"]\nval'), 19),
    "the evaluator's": (('["serve.py"]\nval', '["serve.py", "evaluate.py"]\nval'), 19),
    "missing program": (('["python3", "evaluate.py"]', '["no-such-program"]'), 16),
    "missing script": (('["python3", "evaluate.py"]', '["python3", "score.py"]'), 16),
    "a script out of reach": (('["python3", "serve.py"]', '["python3", "main.py"]'), 13),
    "run and serve": (("[evaluate]", '[run]\ncommand = ["python3", "serve.py"]\n\n[evaluate]'), 15),
    "no pattern": (('file = "classifier.py"', "file = \"classifier.py\"\nconstants = '('"), 3),
    "no groups": (('file = "classifier.py"', "file = \"classifier.py\"\nconstants = 'a=b'"), 3),
}


@pytest.mark.parametrize(("change", "line"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_task_toml_is_told_with_its_line(change: tuple[str, str], line: int, tmp_path: Path) -> None:
    path = write_task(tmp_path / "task", change)
    with pytest.raises(TaskFileError) as caught:
        read_task_file(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("link", "target"), [("classifier.py", "serve.py"), ("serve.py", "val.csv")])
def test_a_link_is_no_way_to_the_evaluators_files(link: str, target: str, tmp_path: Path) -> None:
    path = write_task(tmp_path / "task")
    (path.parent / link).unlink()
    (path.parent / link).symlink_to(target)
    with pytest.raises(TaskFileError, match=link):
        read_task_file(path)


def test_the_categories_by_default_are_not_those_of_a_training_file(tmp_path: Path) -> None:
    path = write_task(tmp_path / "task", ('[proposals]\ncategories = ["features", "model"]\n', ""))
    categories = read_task_file(path).proposals.categories
    assert categories
    assert not {"architecture", "attention", "embedding", "optimizer"} & {*categories}


def test_a_task_toml_that_is_not_there_is_told_with_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(TaskFileError, match=r"nowhere\.toml: No such file .*--task_file.*autoresearch init"):
        read_task_file(tmp_path / "nowhere.toml")


FAULTS = {
    "crash": ('"rows": len(rows)', '"rows": len(nothing)', "NameError"),
    "NaN": ('"accuracy": sum(items) / len(items)', '"accuracy": float("nan")', "accuracy = NaN"),
    "no metric": ('"accuracy": sum(items) / len(items), ', "", "no accuracy"),
    "another name": ('"accuracy": sum', '"f1": sum', "f1"),
    "not the mean": ("sum(items) / len(items)", "0.5", "mean"),
    "no items": ('"items": items, ', "", "no items"),
    "nothing": ("print(json.dumps({", "str(json.dumps({", "no JSON object"),
}


@pytest.mark.parametrize(("old", "new", "said"), FAULTS.values(), ids=FAULTS)
def test_what_the_evaluator_fails_of_is_not_the_candidates_fault(
    old: str, new: str, said: str, tmp_path: Path, sandbox: Sandbox
) -> None:
    head, rows, rest = EVALUATE.rpartition("items = [")
    assert old in rest
    path = write_task(tmp_path / "task", evaluate_dot_py=head + rows + rest.replace(old, new))
    with pytest.raises(EvaluatorFailed) as caught:
        run_command_trial(open_command(path, sandbox), ASSET, tmp_path / "trial")
    line = TASK.splitlines().index('command = ["python3", "evaluate.py"]') + 1
    assert str(caught.value).startswith(f"{path}:{line}: the evaluate command python3 evaluate.py ")
    assert said in str(caught.value)
    assert "evaluate.log" in str(caught.value)


def test_the_number_of_items_must_not_change(tmp_path: Path, sandbox: Sandbox) -> None:
    grows = EVALUATE.replace('"items": items, ', '"items": items * (1 + order["seed"]), ')
    assert grows != EVALUATE
    task = open_command(write_task(tmp_path / "task", evaluate_dot_py=grows), sandbox)
    assert run_command_trial(task, ASSET, tmp_path / "first", seed=0).status is Status.OK
    with pytest.raises(EvaluatorFailed, match=r"answered with 8 items, and in an earlier trial with 4"):
        run_command_trial(task, ASSET, tmp_path / "second", seed=1)
    more = open_command(write_task(tmp_path / "task", val_dot_csv=VAL + "eee,1\n"), sandbox)
    assert len(run_command_trial(more, ASSET, tmp_path / "of-another-test-set").items or ()) == 5
