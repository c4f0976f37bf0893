"""Commands on a run of --task=command: what `init` writes is searched, checked, told, audited, verified, resumed."""

import json
from pathlib import Path

import pytest
from command_task import ASSET, EVALUATE, SERVED, write_task
from repositories import git

from autoresearch_jax import cli
from autoresearch_jax.commands.init import COMMAND_FILES
from autoresearch_jax.tasks.command.programs import MANIFEST

# budget_seconds is long enough for a busy machine
RUN = ("--task=command", "--tag=nov29", "--seed=0", "--clock=wall", "--budget_seconds=600", "--baseline_runs=2")

PAGE = """# Classes

## Goal

Raise `accuracy`.

## You may change

| constant | values | note |
|---|---|---|
| `THRESHOLD` | 0 .. 9 | |

## Stop when

- 9 experiments
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    git(tmp_path, "init", "-q", "-b", "main")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> dict:
    capsys.readouterr()
    assert cli.main([*words, "--format=json"]) == status, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_what_init_writes_is_a_task_for_all_commands(
    place: Path, sandbox_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = f"--cache_dir={sandbox_cache}"
    assert set(told(capsys, "init", "--task=command")) == {*COMMAND_FILES, "next"}
    git(place, "add", *COMMAND_FILES)
    git(place, "commit", "-q", "-m", "start")
    trial = told(capsys, "trial", "--task=command", cache)
    assert (trial["status"], trial["error"]) == ("ok", None)
    assert trial["length"] > 0

    run = ("run", *RUN, cache, "--proposer=constants")
    assert cli.main([*run, "--experiments=1"]) == 0
    assert cli.main(["run", "--tag=nov29", "--experiments=2"]) == 0  # with the flags that it had
    printed = capsys.readouterr()
    status = told(capsys, "status", "--tag=nov29")
    assert status["experiments"] == 2, printed
    assert status["baseline_length"] == pytest.approx(trial["length"], abs=1e-5)

    text = (place / "runs/nov29/workspace/tour.py").read_text()  # the champion
    (place / "tour.py").write_text(f"{text}\n# a comment\n")
    assert told(capsys, "check", "--tag=nov29", status=4)["outcome"] == "duplicate"
    (place / "tour.py").write_text(text.replace("if then < now:", "if then < now or first > 40:"))
    tried = told(capsys, "try", "--tag=nov29", "--hypothesis=turn some pieces anyway", status=3)
    assert (tried["outcome"], tried["category"]) == ("discard", "code")
    (place / "tour.py").write_text(text.replace("return tour\n\n\ndef nearest", "return tour[1:]\n\n\ndef nearest"))
    tried = told(capsys, "try", "--tag=nov29", "--hypothesis=leave one out", status=4)
    assert tried["outcome"] == "invalid"

    page = told(capsys, "brief", "--tag=nov29")["page"]
    assert all(words in page for words in ("start", "improvement", "speed", "python3 serve.py", "PASSES"))
    looked_at = told(capsys, "doctor", "--tag=nov29", "--sections=jax,task,dataset,run")
    assert looked_at.keys() == {"task", "run"}  # what a command has use for
    assert all(check["is_ok"] for checks in looked_at.values() for check in checks)
    audit = told(capsys, "audit", "--tag=nov29", "--runs=2")
    assert audit["holdout_readings"] > 0
    assert audit["failed_runs"] == 0
    assert cli.main(["report", "--tag=nov29"]) == 0
    capsys.readouterr()
    assert cli.main(["findings", "list", "--tag=nov29"]) == 1  # those that are shipped are changes of a training file
    assert "no findings" in capsys.readouterr().err

    verified = told(capsys, "verify", "nov29")
    assert (verified["verified"], verified["differences"]) == (True, [])
    damaged = sorted((place / "runs/nov29/snapshots").glob(f"*/{MANIFEST}"))
    for manifest in damaged:
        (manifest.parent / "asset" / "tour.py").write_text("changed")
    assert "tour.py: was changed" in told(capsys, "verify", "nov29", status=1)["differences"][0]


def test_no_candidate_and_no_failing_evaluator_ends_a_tag(
    place: Path, sandbox_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_once = (SERVED, '[run]\ncommand = ["python3", "main.py"]\n'), ('"serve.py"', '"main.py", "questions.txt"')
    evaluate = "import os\nassert not os.path.exists('down'), 'the judge is down'\n" + EVALUATE
    write_task(place, *run_once, evaluate_dot_py=evaluate, program_dot_md=PAGE)
    git(place, "add", ".")
    git(place, "commit", "-q", "-m", "start")

    def tried(source: str, name: str, status: int) -> dict:
        (place / "classifier.py").write_text(source)
        words = (f"--cache_dir={sandbox_cache}", "--decision=greedy", f"--hypothesis={name}")
        return told(capsys, "try", *RUN, *words, status=status)

    nothing = tried(ASSET.replace("THRESHOLD = 1", "import os\nos._exit(0)\nTHRESHOLD = 1"), "leave it out", 4)
    assert nothing["outcome"] == "invalid"
    assert "FileNotFoundError" in nothing["reason"]

    (place / "down").touch()
    (place / "classifier.py").write_text(ASSET.replace("= 1", "= 2"))
    capsys.readouterr()
    assert cli.main(["try", "--tag=nov29", "--hypothesis=two"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert all(words in line for words in ("the judge is down", "champion, too", "experiment 2 (two) first"))
    (place / "down").unlink()
    assert cli.main(["run", "--tag=nov29", "--proposer=constants", "--experiments=2"]) == 0
    assert told(capsys, "status", "--tag=nov29")["experiments"] == 2

    (place / "evaluate.py").write_text(EVALUATE)
    task = (place / "task.toml").read_text()
    (place / "task.toml").write_text(task.replace('noise = "items"', 'noise = "seeds"'))
    assert cli.main(["run", "--tag=nov29", "--experiments=3"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "changed: [metric] of task.toml, evaluate.py): put them back" in line
    assert "another --tag" in line


def test_what_does_not_fit_is_refused_in_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trial", "--task=command"]) == 2
    assert "task.toml: No such file" in capsys.readouterr().err
    assert cli.main(["init", "--task=command"]) == 0
    (place / "other.py").write_text("")
    capsys.readouterr()
    assert cli.main(["run", *RUN, "--editable=other.py"]) == 2
    assert "--editable=other.py: task.toml names tour.py" in capsys.readouterr().err
    assert cli.main(["run", *RUN, "--budget_steps=3"]) == 2
    assert "--budget_steps" in capsys.readouterr().err
