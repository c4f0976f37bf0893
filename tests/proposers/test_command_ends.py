"""Agents that end in time, too late or with their driver, and the secrets that they print."""

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from agent_place import BRIEF, CHANGED, GOOD
from fakes import SOURCE

from autoresearch_jax.proposers.base import Objection, Proposal, ProposalFailed
from autoresearch_jax.proposers.briefing import BriefError
from autoresearch_jax.proposers.command import Agent, CommandProposer
from autoresearch_jax.sandbox.process import run_command
from autoresearch_jax.sandbox.process_tree import TAIL_BYTES
from autoresearch_jax.sanitize import REDACTED

KEY = "/9j4AAQSkZJRgABAQEA"  # base64 that looks like a path


def is_alive(pid_file: Path) -> bool:
    pid = int(pid_file.read_text())
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def background(tmp_path: Path) -> str:
    """A child in a session of its own, as a server that an agent starts; its pid goes into a file."""
    return (
        f"setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 300' & while [ ! -s {tmp_path}/pid ]; do sleep 0.02; done"
    )


def test_a_child_that_it_leaves_behind_ends_with_it(place, tmp_path):
    started = time.monotonic()
    assert place.propose(f"{background(tmp_path)}; yes | head -1; {GOOD}; echo fine").hypothesis == "fine"
    assert time.monotonic() - started < 100, "a child that holds the output open is not waited for"
    assert "Broken pipe" not in place.log
    assert not is_alive(tmp_path / "pid")


def test_an_edit_that_is_finished_when_time_is_up_is_proposed(place, tmp_path):
    proposal = place.propose(f"{background(tmp_path)}; {GOOD}; echo smaller steps; sleep 300", seconds=1.5)
    assert proposal.source == CHANGED
    assert not is_alive(tmp_path / "pid")
    assert proposal.hypothesis == "smaller steps (the agent ran longer than 1.5 s)"


@pytest.mark.parametrize("then", [pytest.param("true", marks=pytest.mark.slow), "echo 'def build(' > train_lib.py"])
def test_a_try_that_is_cut_off_does_not_replace_the_one_before(place, tmp_path, then):
    second = f"if [ -e {tmp_path}/called ]; then {then}; sleep 300; fi; touch {tmp_path}/called; {GOOD}; echo first"
    proposer = place.proposer(second, 4.0, examine=lambda brief, proposal: Objection("no"))
    proposal = proposer.propose(BRIEF)
    assert (proposal.source, proposal.hypothesis) == (CHANGED, "first")


def test_ten_megabytes_of_output_are_no_trouble(place):
    proposal = place.propose(f"head -c 10000000 /dev/zero | tr '\\0' y; {GOOD}; echo; echo last word", seconds=60)
    assert proposal == Proposal("last word", "code", source=CHANGED, proposer="command")
    assert (place.logs / "agent.log").stat().st_size < 5_000_000
    assert place.log.endswith("\n[the rest of the output is not kept]\n")


def test_ctrl_c_ends_the_agent_and_all_it_started(place, tmp_path):
    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            place.propose(f"{background(tmp_path)}; sleep 300")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not is_alive(tmp_path / "pid")
    assert list(place.scratch.iterdir()) == []


def test_when_the_driver_is_killed_the_agent_does_not_outlive_it(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from autoresearch_jax.sandbox.process import run_command\n"
        "run_command(sys.argv[1], cwd=Path(sys.argv[2]), environment=os.environ, log_path=Path(sys.argv[2]) / 'log', "
        "seconds=300)"
    )
    command = f"{background(tmp_path)}; echo here > {tmp_path}/ready; sleep 300"
    driver = subprocess.Popen([sys.executable, "-c", code, command, str(tmp_path)])
    deadline = time.monotonic() + 20
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert is_alive(tmp_path / "pid")
    driver.kill()
    driver.wait()
    while is_alive(tmp_path / "pid") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(tmp_path / "pid")


def test_a_commands_outcome(tmp_path):
    outcome = run_command(
        "printf 'a\\nb\\n \\n'; exit 7", cwd=tmp_path, environment={}, log_path=tmp_path / "log", seconds=20
    )
    assert (outcome.returncode, outcome.last_line) == (7, "b")
    assert (tmp_path / "log").read_text() == "a\nb\n \n"
    short = run_command("echo 12345", cwd=tmp_path, environment={}, log_path=tmp_path / "log", seconds=20, log_bytes=3)
    assert short.last_line == "12345"
    assert (tmp_path / "log").read_text() == "123\n[the rest of the output is not kept]\n"


def test_a_brief_that_does_not_fit_is_the_users_to_mend(place):
    proposer = CommandProposer(
        Agent(GOOD, brief_tokens=100), "train_lib.py", lambda target: None, lambda number: place.logs, {}, place.scratch
    )
    with pytest.raises(BriefError, match="--brief_tokens"):
        proposer.propose(BRIEF)


def everything_in(folder: Path) -> str:
    return "\n".join(f"{path}\n{path.read_text()}" for path in sorted(folder.rglob("*")) if path.is_file())


def test_a_secret_is_in_nothing_that_is_left_behind(place):
    brief = dataclasses.replace(BRIEF, program=f"# A page\n\nUse {KEY}.\n")
    command = (
        f'{GOOD}; echo "# $MY_KEY" >> train_lib.py; echo "$MY_KEY"; touch "a${{MY_KEY#/}}" "$OTHER_TOKEN"; '
        'printf \'I used %s with sesame\033[1m-open\ncategory: %s\n\' "$MY_KEY" "$OTHER_TOKEN" > HYPOTHESIS.md'
    )
    proposal = place.proposer(command, MY_KEY=KEY, OTHER_TOKEN="sesame-open").propose(brief)
    assert proposal.source == f"{CHANGED}# {REDACTED}\n"
    assert proposal.hypothesis.startswith(f"I used {REDACTED} with {REDACTED} (changes of ")
    assert proposal.hypothesis.endswith("; a secret in train_lib.py is blanked out)")
    left = f"{proposal}{everything_in(place.logs)}"
    assert KEY not in left
    assert "sesame-open" not in left
    assert f"Use {REDACTED}." in (place.logs / "BRIEF.md").read_text()
    assert place.log == f"{REDACTED}\n"


def test_the_last_words_of_an_agent_that_changed_nothing_hold_no_secret(place):
    with pytest.raises(ProposalFailed, match=r'; it said "no \[secret\]"$'):
        place.propose('echo "no $MY_KEY"', MY_KEY=KEY)


def test_what_the_champion_has_already_is_left_though_a_variable_has_it_too(place):
    assert place.propose(GOOD, TOKENIZER="LR = 0.5\nDEPTH").source == CHANGED
    name = next(word for word in SOURCE.split() if len(word) > 8 and word in CHANGED)
    assert place.propose(GOOD, TOKENIZER=name).source == CHANGED


def test_blanks_in_a_stream_of_pieces(tmp_path):
    def log_of(command: str, blanks: dict[str, str], **options: int) -> tuple[str, str]:
        outcome = run_command(
            command, cwd=tmp_path, environment={}, log_path=tmp_path / "log", seconds=20, blanks=blanks, **options
        )
        return (tmp_path / "log").read_text(), outcome.last_line

    letter_by_letter = "for c in {}; do printf $c; /bin/sleep 0.01; done"
    assert log_of(letter_by_letter.format("x a a b a a c y"), {"aabaac": "1"}) == ("x1y", "x1y")
    assert log_of(letter_by_letter.format("a b c d a b c e"), {"abc": "1", "abcd": "2"}) == ("21e", "21e")
    assert log_of(letter_by_letter.format("a b a b a b"), {"abab": "1"}) == ("1ab", "1ab")
    assert log_of("printf abc", {"abcd": "2", "bc": "1"}) == ("a1", "a1"), "the beginning of one holds another"
    assert log_of("printf 'abc\\n'", {"abc\n": "1"}) == ("1", "1")
    assert log_of("printf xabcabc", {"abc": "[1]"}, log_bytes=5)[0] == "x[1][\n[the rest of the output is not kept]\n"
    text = "x" * (TAIL_BYTES - 3) + "abcdef"
    assert "def" not in log_of(f"printf {text}", {"abcdef": "1"})[1]
