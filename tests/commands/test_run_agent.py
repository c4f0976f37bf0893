"""`autoresearch run --proposer=...`: its flags, and what is said before anything is measured."""

import io
import os
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest
from fakes import PROGRAM, SOURCE, FakeTask
from gemini_server import GeminiServer, answer
from ledgers import substance
from repositories import git, make_repository
from task_stand_in import stand_in

from autoresearch_jax import cli
from autoresearch_jax.commands.proposer_options import KEY_VARIABLES
from autoresearch_jax.commands.proposers import missing_command
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.findings.folder import FindingFolder
from autoresearch_jax.findings.format import Finding, base_digest
from autoresearch_jax.proposers import command as command_proposer

AGENT = "#!/bin/sh\nsed -i 's/^LR = .*/LR = 0.1/' train_lib.py\necho a smaller step\n"


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A repository that is the present folder, with an agent in it and one beside it, and a task of milliseconds."""
    (tmp_path / "agent.sh").write_text(AGENT)
    (tmp_path / "agent.sh").chmod(0o755)
    make_repository(tmp_path, SOURCE, PROGRAM)
    (tmp_path / "untracked.sh").write_text(AGENT)
    (tmp_path / "untracked.sh").chmod(0o755)
    task = FakeTask()

    monkeypatch.chdir(tmp_path)
    stand_in(monkeypatch, lambda options: task)
    return tmp_path


def run(*arguments: str, proposer: str = "command", tag: str = "night") -> int:
    return cli.main(["run", f"--tag={tag}", "--seed=0", "--experiments=1", f"--proposer={proposer}", *arguments])


@pytest.mark.parametrize("command", ["./agent.sh", "NAME=x sh agent.sh", "{place}/untracked.sh"])
def test_an_agent_of_the_repository_or_by_its_whole_path_proposes(place, capsys, command):
    assert run(f"--agent_command={command.format(place=place)}") == 0
    output = capsys.readouterr().out
    assert "a smaller step" in output
    assert "ended:               1 experiments reached" in output
    page = (place / "runs/night/llm/0001/BRIEF.md").read_text()
    assert "# Experiment 1\n" in page
    words = f"--run_dir={place / 'runs'} --tag=night --program={place / 'program.md'}"
    assert f"`autoresearch check {words} train_lib.py`" in page


def test_an_agent_can_check_its_text_where_it_is_called(place, capsys, monkeypatch):
    """In a copy of what git tracks, where what the run's flags name may not be."""
    git(place, "rm", "-q", "--cached", "program.md")
    git(place, "commit", "-qm", "without the page")
    assert run("--agent_command=./agent.sh", "--compile_cache=compiled") == 0
    page = (place / "runs/night/llm/0001/BRIEF.md").read_text()
    assert f"--compile_cache={place / 'compiled'}" in page
    (_, *words) = page.split("`autoresearch ")[1].split("`")[0].split()
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "train_lib.py").write_text(SOURCE.replace("LR = 0.5", "LR = 0.2"))
    monkeypatch.chdir(elsewhere)
    capsys.readouterr()
    assert cli.main(["check", *words]) == 0
    assert "outcome:             ok" in capsys.readouterr().out


def test_several_proposals_of_one_call_are_measured_one_after_the_other(place, capsys):
    edit = "sed -i 's/^{}/{}/' train_lib.py"
    change = f"{edit.format('LR = 0.5', 'LR = 0.1')}; cd proposals/2; {edit.format('DEPTH = 4', 'DEPTH = 6')}"
    command = f"echo >> {place}/calls; {change}; echo deeper > HYPOTHESIS.md; echo a smaller step"
    assert run(f"--agent_command={command}", "--proposals_per_call=2", "--experiments=2") == 0
    output = capsys.readouterr().out
    assert output.index("a smaller step") < output.index("deeper")
    assert len((place / "calls").read_text()) == 2, "once to see that it starts"
    assert run("--agent_command=./agent.sh", "--proposals_per_call=9", tag="other") == 2
    assert "must be at least 1 and at most 8" in capsys.readouterr().err


def test_an_agent_reads_the_original_s_page_as_prose(place, capsys):
    (place / "program.md").write_text("# autoresearch\n\n## Setup\n\nA branch.\n\n## Logging results\n\nIn a file.\n")
    assert run("--agent_command=./agent.sh") == 0
    assert capsys.readouterr().err.count("of the original's page, read by agents as prose") == 1
    brief = (place / "runs/night/llm/0001/BRIEF.md").read_text()
    assert brief.index("Do not run, commit, log or reset anything") < brief.index("## Setup\n\nA branch.")


def refused(capsys, *arguments: str, **given: str) -> str:
    """The line by which a run is refused before anything is measured."""
    capsys.readouterr()
    assert run(*arguments, **given) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert not Path("runs/night/logs").exists()
    return errors.removeprefix("autoresearch run: ")


def test_what_is_refused_before_anything_is_measured(place, capsys):
    assert refused(capsys).startswith("--proposer=command needs --agent_command='...', the line of shell that starts")
    for command, words in (
        ("no-such-agent --yes", "no-such-agent: no such program: install it"),
        ("./untracked.sh", "./untracked.sh is not in the repository beside train_"),
        ("sh 'x", "sh 'x: no line of shell: "),
    ):
        assert refused(capsys, f"--agent_command={command}").startswith(f"--agent_command: {words}")
    said = refused(capsys, "--agent_command=true", "--brief_tokens=900")
    assert said.startswith("--brief_tokens=900: the contract, program.md and train_lib.py take 3")


def test_a_program_that_only_a_start_finds_missing(place, capsys):
    (place / "no_interpreter.sh").write_text("#!/usr/bin/env no-such-agent\n")
    (place / "no_interpreter.sh").chmod(0o755)
    git(place, "add", "no_interpreter.sh")
    git(place, "commit", "-qm", "more")
    for command in (
        *("timeout 60 no-such-agent", "cd . && no-such-agent", "sh no-such.sh", "python3 no-such.py"),
        *("./no_interpreter.sh", "./agent.sh && no-such-agent"),
    ):
        errors = refused(capsys, f"--agent_command={command}")
        assert errors.startswith(f"--agent_command: {command}: exited with status ")
        assert "no-such" in errors.removeprefix(f"--agent_command: {command}")
        assert not (place / "runs").exists()


def test_quotes_in_a_flag_file_are_no_shell_s(place, capsys):
    for quote in ("'", '"'):
        (place / "my.flags").write_text(f"--agent_command={quote}sh agent.sh{quote}\n")
        said = refused(capsys, "--flagfile=my.flags")
        assert "the quotes make one word of it: leave them out, as a flag file needs none" in said
    (place / "my.flags").write_text("--agent_command=sh agent.sh\n")
    assert run("--flagfile=my.flags") == 0


def test_a_start_that_fails_otherwise_is_a_notice(place, capsys):
    (place / "fails_once.sh").write_text(f'grep -q "change nothing" BRIEF.md && echo no key && exit 3\n{AGENT}')
    git(place, "add", "fails_once.sh")
    git(place, "commit", "-qm", "more")
    assert run("--agent_command=sh fails_once.sh") == 0
    captured = capsys.readouterr()
    assert (
        '--agent_command: sh fails_once.sh: exited with status 3 when it was tried, and said "no key"' in captured.err
    )
    assert "a smaller step" in captured.out
    assert "try-" not in git(place, "for-each-ref")


def test_an_agent_is_started_for_a_moment_only(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command_proposer, "START_SECONDS", 0.2)
    (place / "slow.sh").write_text(f"grep -q 'change nothing' BRIEF.md && sleep 600\n{AGENT}")
    git(place, "add", "slow.sh")
    git(place, "commit", "-qm", "more")
    assert run("--agent_command=sh slow.sh") == 0
    assert capsys.readouterr().err == "autoresearch run: what ends the run: 1 experiments\n"


def test_a_character_that_the_terminal_lacks_does_not_end_a_night(place, monkeypatch):
    (place / "words.sh").write_text(AGENT.replace("a smaller step", "größer → kleiner"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert run(f"--agent_command=sh {place}/words.sh") == 0
    printed = sys.stdout.buffer.getvalue()
    assert printed.count(b"gr??er ? kleiner") == 2, "when it ended, and in the table"
    assert printed.endswith(b"1 experiments reached\n")


def test_a_reader_that_is_gone_does_not_end_a_night(place, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with suppress(BrokenPipeError), open(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert run(f"--agent_command=sh {place}/untracked.sh") == 0
    assert len(Ledger.open_to_read(place / "runs/night/ledger.db").experiments()) == 2


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch):
    for name in KEY_VARIABLES:
        monkeypatch.delenv(name, raising=False)


SERVICE = "--gemini_base_url=http://127.0.0.1:9"
REFUSED = (
    ("gemini", (), "--proposer=gemini needs a key in GEMINI_API_KEY, or --gemini_vertex_project with "),
    ("gemini", ("--agent_command=true",), "--agent_command is called by --proposer=command or hybrid, not by gemini"),
    ("hybrid", ("--agent_command=true", "--max_dollars=1"), "--max_dollars limits what a Gemini model takes: what "),
    (
        "constants",
        ("--max_dollars=1",),
        "--max_dollars limits what a Gemini model takes, and --proposer=constants",
    ),
    ("gemini", (SERVICE, "--max_dollars=0.1"), "--max_dollars=0.1: 0.0000 are spent, and the next request may cost 0"),
    ("hybrid", (SERVICE, "--max_requests=0"), "--max_requests=0: 0 were sent, so nothing would be asked: raise it"),
    ("replay", (), "--proposer=replay and --replay=RUN, the run whose proposals it repeats, go together"),
    ("replay", ("--replay=evening",), "--replay=evening: no run of that tag in ./runs, nor a run's folder"),
    ("hybrid", ("--categories=data,Constants",), "--categories: 'constants' is a mark of the ledger's own"),
    (
        "gemini",
        (SERVICE, "--gemini_model=mine", "--max_dollars=1"),
        "--max_dollars=1: the price of mine is not known: give it, --model_price=IN,OUT",
    ),
)


def test_what_is_refused_of_other_proposers(place, capsys):
    for proposer, arguments, words in REFUSED:
        assert refused(capsys, *arguments, proposer=proposer).startswith(words)
    # dollars of the page need a price
    (place / "program.md").write_text(PROGRAM.replace("8 experiments", "20 dollars"))
    for proposer, arguments, words in (
        ("gemini", (SERVICE, "--gemini_model=mine"), "the price of mine is not known"),
        ("command", ("--agent_command=true",), "what --agent_command costs is not known"),
    ):
        assert refused(capsys, *arguments, proposer=proposer).startswith(f'program.md: "20 dollars": {words}')


def test_a_model_that_is_not_there_is_said_in_the_services_words_before_anything_is_measured(place, capsys):
    with GeminiServer() as server:
        assert run(f"--gemini_base_url={server.url}", "--gemini_model=nobody", proposer="gemini") == 1
    assert "models/nobody is not found for API version" in capsys.readouterr().err
    assert not Ledger.open_to_read(place / "runs/night/ledger.db").experiments()
    assert server.requests == []


def test_a_model_proposes_and_what_it_cost_is_in_the_summary(place, capsys):
    with GeminiServer([answer([("LR = 0.5", "LR = 0.1")])]) as server:
        flags = ("--model_price=1,10", "--max_requests=7", "--max_tokens=200000")
        assert run(f"--gemini_base_url={server.url}", *flags, proposer="gemini") == 0
    output = capsys.readouterr().out
    for name, value in {"tokens": 1250, "max_tokens": 200_000, "requests": 1, "max_requests": 7}.items():
        assert f"\n{f'{name}:':<20} {value}\n" in output
    assert "a smaller step (expected: -0.01)" in output
    assert "\ndollars:             0.0035\n" in output
    assert (place / "runs/night/llm/0001/01.json").exists()


def test_hybrid_without_a_key_has_optimizer_and_findings_and_says_so_once(place, capsys):
    finding, base = own_finding()
    FindingFolder(place / "runs" / "findings", print).add(finding, base)
    assert run("--experiments=6", proposer="hybrid") == 0
    captured = capsys.readouterr()
    assert "ended:               6 experiments reached" in captured.out
    assert captured.err.count("constants and ideas propose alone") == 1
    with closing(Ledger.open_to_read(place / "runs/night/ledger.db")) as ledger:
        (row,) = [row for row in ledger.experiments() if row.finding is not None]
        assert (row.finding, row.proposer) == (finding.id, "ideas")
        assert {row.proposer for row in ledger.experiments()[1:]} == {"constants", "ideas"}


def test_a_key_alone_has_no_model_asked(place, capsys, monkeypatch):
    """It may be there for another program, or be one that the service refuses."""
    monkeypatch.setenv("GOOGLE_API_KEY", "a key of maps")
    assert run("--experiments=2", proposer="hybrid") == 0
    said = capsys.readouterr().err
    assert "GOOGLE_API_KEY is not used" in said
    assert "--max_dollars" in said
    assert not (place / "runs/night/llm").exists()
    assert run("--experiments=2", proposer="constants", tag="other") == 0
    assert "GOOGLE_API_KEY" not in capsys.readouterr().err
    assert run("--experiments=2", "--max_dollars=5", proposer="hybrid", tag="third") == 2
    assert "GOOGLE_API_KEY: the key has spaces" in capsys.readouterr().err


def test_a_model_without_a_limit_is_told_of(place, capsys):
    said = []
    for limits in ((), ("--max_requests=1",)):
        with GeminiServer(lambda request: answer([("LR = 0.5", "LR = 0.2")])) as server:
            assert run(f"--gemini_base_url={server.url}", "--experiments=0", *limits, proposer="hybrid") == 0
        said.append("--max_dollars" in capsys.readouterr().err)
    assert said == [True, False]


def own_finding() -> tuple[Finding, str]:
    """One that fits the training file of the test, and its base."""
    change = '<<<<<<< SEARCH\nFAULT = "none"\n=======\nFAULT = "none"\nEXTRA = 1\n>>>>>>> REPLACE\n'
    words = ("extra", "Add a constant", "optimizer", "idea", "https://example.org", base_digest(SOURCE), "Why.")
    return Finding(*words, change), SOURCE


def test_ideas_alone_need_a_finding_that_fits_and_a_page_without_a_table_does_for_them(place, capsys):
    (place / "program.md").write_text("## Goal\n\nLower it.\n")
    for proposer in ("ideas", "hybrid"):
        assert run(proposer=proposer) == 2
        words = capsys.readouterr().err
        assert f"--proposer={proposer}" in words
        assert "no finding fits train_lib.py" in words
        assert ("program.md" in words) == (proposer == "hybrid")
    folder = FindingFolder(place / "mine", print)
    folder.add(*own_finding())
    assert run("--findings_dir=mine", "--experiments=4", proposer="hybrid") == 0
    assert "findings were tried" in capsys.readouterr().out.splitlines()[-1], "and there is nothing else"


def test_a_recorded_run_is_replayed_by_its_tag_and_by_its_folder(place, capsys):
    assert run("--experiments=3", proposer="constants") == 0
    assert run("--experiments=3", "--replay=night", proposer="replay", tag="by_tag") == 0
    assert run("--experiments=9", f"--replay={place / 'runs/night'}", proposer="replay", tag="by_folder") == 0
    assert "ended:               the recorded run ends here: it has 3 proposals" in capsys.readouterr().out
    ledgers = [Ledger.open_to_read(place / "runs" / tag / "ledger.db") for tag in ("night", "by_tag", "by_folder")]
    assert substance(ledgers[0]) == substance(ledgers[1]) == substance(ledgers[2])


def test_a_program_is_found_whatever_quotes_come_after_it_and_what_only_the_shell_can_know_is_left_to_it(place):
    for command in (
        *("if true; then x; fi", "$AGENT go", "(x)", "A=1 B=2 x", "exec x", '"$X" y', "{ x; }", "x () { y; }; x"),
        *("trap '' TERM; x", "command x", "$AGENT # it's fine", "read X <<E\nit's\nE"),
    ):
        assert missing_command(command, place / "train_lib.py", {"PATH": ""}) is None, command
    editable, path = place / "train_lib.py", {"PATH": "/usr/bin:/bin"}
    assert missing_command("sed p # it's fine", editable, path) is None
    missing = missing_command("no-such-agent # it's fine", editable, path)
    assert missing == "no-such-agent: no such program: install it, or give its whole path"
    assert "no line of shell" in str(missing_command("if true", editable, path))
