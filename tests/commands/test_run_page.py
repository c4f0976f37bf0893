"""What program.md does at the start of `run`: what will end the run is said, and no limit on it is lost."""

import json

import pytest
from fakes import PROGRAM, FakeTask
from repositories import git

from autoresearch_jax import cli

LIST = "- 8 experiments\n"


def run(*arguments: str) -> int:
    return cli.main(["run", "--tag=night", "--seed=0", "--decision=greedy", *arguments])


def test_what_will_end_the_run_is_said_at_the_start_and_by_status_and_doctor(place, capsys):
    for tag, page, flags, ends in (
        ("dollars", PROGRAM.replace(LIST, "- $20\n- 1 hour\n"), ["--experiments=0"], "$20; 1 hour; 0 experiments"),
        ("none", PROGRAM.replace(f"## Stop when\n\n{LIST}", ""), ["--experiments=0"], "0 experiments"),
        (
            "night",
            PROGRAM.replace(LIST, "Stop after 8 hours or when no gain in 30 experiments.\n"),
            ["--experiments=0"],
            "8 hours; no gain in 30 experiments; 0 experiments",
        ),
    ):
        (place / "program.md").write_text(page)
        assert run(*flags, f"--tag={tag}") == 0
        assert f"autoresearch run: what ends the run: {ends}\n" in capsys.readouterr().err
        assert json.loads((place / f"runs/{tag}/run.json").read_text())["ends"] == ends
    cli.main(["doctor", "--sections=run", "--tag=night", *flags])
    assert f"ends:                {ends}\n" in capsys.readouterr().out
    assert cli.main(["status", "--tag=night"]) == 0
    assert f"ends:                {ends}\n" in capsys.readouterr().out


def test_a_page_that_yields_nothing_ends_the_command_before_anything_is_measured(place, capsys):
    for page, words in (
        (PROGRAM.replace(LIST, "- at dawn\n"), "program.md:17: not understood: 'at dawn'"),
        (PROGRAM.replace(LIST, "<!-- - 8 hours -->\n"), 'program.md:15: "Stop when" says nothing of when'),
        (PROGRAM.replace("## Stop when", "## Limits"), "program.md:17: '8 experiments' in section \"Limits\" ends"),
        (PROGRAM.replace("|---|---|---|\n", ""), "program.md:9: no table: its second line must be"),
        (PROGRAM.replace("DEPTH", "WIDTH"), "program.md:12: no constant WIDTH "),
    ):
        (place / "program.md").write_text(page)
        assert run() == 1
        errors = capsys.readouterr().err
        assert errors.startswith(f"autoresearch run: {words}")
        assert errors.count("\n") == 1
        assert not (place / "runs/night/logs").exists()
    assert cli.main(["doctor", "--sections=run", "--tag=night"]) == 1
    assert "no constant WIDTH" in capsys.readouterr().out


def test_what_has_no_effect_is_noticed_at_the_start(place, capsys):
    (place / "program.md").write_text(PROGRAM.replace(LIST, f"{LIST}- at dawn\n") + "\n## Notes\n\nmine\n")
    assert run("--experiments=1") == 0
    errors = capsys.readouterr().err
    assert errors.count('"at dawn" is not understood') == 1
    assert errors.count('section "Notes" is none of') == 1
    cli.main(["doctor", "--sections=run"])
    assert 'section "Notes" is none of' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "lost"),
    [
        pytest.param("s/^LR = .*/LR = 1/", (), marks=pytest.mark.slow),
        ("s/^DEPTH = .*/DEPTH = 40/; /^PATTERN/d", ("DEPTH is 40 now, not within 2 .. 8", "no constant PATTERN")),
        pytest.param("s/^FAULT/NOISE = 1; FAULT/; s/^LR = .*/LR = None/", ("LR is None",), marks=pytest.mark.slow),
    ],
)
def test_the_same_command_goes_on_after_a_kept_change_of_a_listed_constant(place, capsys, monkeypatch, command, lost):
    monkeypatch.setattr(FakeTask, "score", staticmethod(lambda constants: 1.0 - 0.5 * (constants.get("LR") != 0.5)))
    if "DEPTH" in command:
        monkeypatch.setattr(FakeTask, "score", staticmethod(lambda constants: 1.0 - constants["DEPTH"] / 100))
    (place / "agent.sh").write_text(f"sed -i '{command}' train_lib.py\n")
    git(place, "add", "agent.sh")
    git(place, "commit", "-qm", "agent")
    flags = ["--proposer=hybrid", "--agent_command=sh agent.sh", "--agent_seconds=30"]
    assert run("--experiments=6", *flags) == 0
    assert " keep " in capsys.readouterr().out.split("baseline", 1)[1]
    assert run("--experiments=7", *flags) == 0
    captured = capsys.readouterr()
    assert "7 experiments reached" in captured.out
    assert captured.err.count("the optimizer leaves it alone") == len(lost)
    assert all(words in captured.err for words in lost)
