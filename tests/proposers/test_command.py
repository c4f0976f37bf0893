"""Agents with a command line, as real shell scripts."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import SOURCE

from autoresearch_jax.proposers.base import Brief, Examine, Objection, Proposal, ProposalFailed
from autoresearch_jax.proposers.briefing import DEFAULT_TOKENS, BriefError, count_tokens
from autoresearch_jax.proposers.command import Agent, CommandProposer, instructions
from autoresearch_jax.sandbox.process import run_command
from autoresearch_jax.sandbox.process_tree import TAIL_BYTES
from autoresearch_jax.sanitize import REDACTED
from autoresearch_jax.types import Metric

BRIEF = Brief(3, 0, Metric("loss"), "# A page\n", (), SOURCE, {}, 1.98, ())
GOOD = "sed -i 's/^LR = 0.5/LR = 0.1/' train_lib.py"
CHANGED = SOURCE.replace("LR = 0.5", "LR = 0.1")
KEY = "/9j4AAQSkZJRgABAQEA"  # base64 that looks like a path


class Place:
    """Where agents are tried: a repository of two files, logs, and a folder for scratch copies."""

    def __init__(self, folder: Path) -> None:
        self.logs, self.scratch, self.repo = folder / "logs", folder / "scratch", folder / "repo"
        self.kept: list[tuple[str, list[Proposal]]] = []  # what was proposed first, and the others
        for path in (self.logs, self.scratch, self.repo / "tools"):
            path.mkdir(parents=True)
        (self.repo / "train_lib.py").write_text("an older text\n")
        (self.repo / "tools" / "notes.txt").write_text("notes\n")
        (self.repo / "other.py").write_text("x = 1\n")

    def proposer(
        self,
        command: str,
        seconds: float = 20,
        editable: str = "train_lib.py",
        examine: Examine | None = None,
        brief_tokens: int = DEFAULT_TOKENS,
        proposals: int = 1,
        **environment: str,
    ) -> CommandProposer:
        def copy_files(target: Path) -> None:
            shutil.copytree(self.repo, target, dirs_exist_ok=True, symlinks=True)

        return CommandProposer(
            Agent(command, seconds, brief_tokens, proposals=proposals),
            editable,
            copy_files,
            lambda number: self.logs,
            {**os.environ, **environment},
            self.scratch,
            examine,
            lambda brief, first, others: self.kept.append((first, others)),
        )

    def propose(self, command: str, seconds: float = 20, **environment: str) -> Proposal:
        proposal = self.proposer(command, seconds, **environment).propose(BRIEF)
        assert list(self.scratch.iterdir()) == []
        return proposal

    def failure(self, command: str, seconds: float = 20) -> str:
        with pytest.raises(ProposalFailed) as failure:
            self.propose(command, seconds)
        assert list(self.scratch.iterdir()) == []
        return str(failure.value)

    @property
    def log(self) -> str:
        return (self.logs / "agent.log").read_text()


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(tmp_path)


def test_what_it_does_to_the_training_file_is_the_proposal_and_its_last_line_the_hypothesis(place):
    proposal = place.propose(f"echo thinking; {GOOD}; printf '  LR was \\033[1mtoo large\\033[0m  \\n\\n' >&2")
    assert proposal == Proposal("LR was too large", "code", source=CHANGED, proposer="command")
    assert "thinking" in place.log


def test_hypothesis_md_comes_before_the_output_and_may_name_the_category(place):
    text = "# A smaller step\n\nCategory: **Optimizer**\nmore words\n"
    proposal = place.propose(f"{GOOD}; printf '{text}' > HYPOTHESIS.md; echo done")
    assert (proposal.hypothesis, proposal.category) == ("A smaller step", "optimizer")


@pytest.mark.parametrize(
    "line",
    [
        '{"hypothesis": "a smaller step", "category": "Optimizer (learning rate)"}',
        '{"type": "result", "result": "a smaller step\\nand why", "category": "optimizer"}\n```',
    ],
)
def test_the_last_line_may_be_json(place, tmp_path, line):
    (tmp_path / "said").write_text(f"working\n{line}\n")
    proposal = place.propose(f"{GOOD}; cat {tmp_path}/said")
    assert (proposal.hypothesis, proposal.category) == ("a smaller step", "optimizer")


def test_a_long_hypothesis_in_json_is_cut_and_not_its_line(place, tmp_path):
    (tmp_path / "said").write_text(f'{{"hypothesis": "a smaller step {"x" * 3000}"}}\n')
    words = place.propose(f"{GOOD}; cat {tmp_path}/said").hypothesis
    assert words.startswith("a smaller step xxx")
    assert len(words) <= 300


@pytest.mark.parametrize("form", ["{}", "\ufeff{}"])
@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_byte_order_marks_and_line_ends_of_an_editor_are_no_change(place, tmp_path, form, end):
    (tmp_path / "edited.py").write_bytes(form.format(CHANGED).replace("\n", end).encode())
    (tmp_path / "saved.py").write_bytes(form.format(SOURCE).replace("\n", end).encode())
    assert place.propose(f"cp {tmp_path}/edited.py train_lib.py").source == CHANGED
    with pytest.raises(ProposalFailed, match=r"changed nothing in train_lib\.py"):
        place.propose(f"cp {tmp_path}/saved.py train_lib.py")


def test_hypothesis_md_as_tools_write_it(place):
    text = "\\357\\273\\277# Hypothesis\\r\\n\\r\\na smaller step\\r\\n\\r\\nCategory: Optimizer (learning rate)\\r\\n"
    proposal = place.propose(f"{GOOD}; printf '{text}' > HYPOTHESIS.md; echo done")
    assert (proposal.hypothesis, proposal.category) == ("a smaller step", "optimizer")


def test_without_a_word_of_it_the_hypothesis_says_so(place):
    assert place.propose(GOOD).hypothesis == "a change that the agent did not explain"
    assert place.propose(f"{GOOD}; mkfifo HYPOTHESIS.md").hypothesis == "a change that the agent did not explain"


def test_it_finds_the_brief_the_champion_and_the_other_files(place):
    (place.repo / "HYPOTHESIS.md").write_text("of yesterday\n")
    (place.repo / "BRIEF.md").symlink_to(place.repo / "other.py")
    proposal = place.propose(
        f"head -1 BRIEF.md; cat train_lib.py tools/notes.txt; pwd; ls; cat; {GOOD}; echo $MY_KEY", MY_KEY="k1"
    )
    assert proposal.hypothesis == "k1", "its environment is the user's"
    lines = place.log.splitlines()
    assert lines[0] == "# What to do"
    assert SOURCE + "notes\n" in place.log
    assert lines[-5:] == ["BRIEF.md", "other.py", "tools", "train_lib.py", "k1"], "and no words of yesterday"
    assert str(place.scratch) in place.log
    assert (place.repo / "other.py").read_text() == "x = 1\n"
    assert "\n# Experiment 3\n" in (place.logs / "BRIEF.md").read_text()


OTHERS = """
cd proposals; sed -i 's/^LR = 0.5/LR = 0.2/' 2/train_lib.py; echo 'half of it' > 2/HYPOTHESIS.md
rm 4/train_lib.py; echo DEPTH = 8 >> 5/train_lib.py; printf 'deeper\ncategory: architecture\n' > 5/HYPOTHESIS.md
"""


def test_several_proposals_are_left_in_copies_and_one_that_is_unchanged_is_none(place):
    (place.repo / "proposals").mkdir()
    (place.repo / "proposals" / "notes.txt").write_text("of the repository\n")
    proposal = place.proposer(f"ls proposals; {GOOD}; {OTHERS}", proposals=5).propose(BRIEF)
    assert proposal.source == CHANGED
    assert "proposals/4: the agent deleted train_lib.py" in proposal.hypothesis
    assert "notes.txt" not in place.log
    assert "ignored" not in proposal.hypothesis
    ((first, others),) = place.kept
    assert first == CHANGED
    assert [(other.hypothesis, other.category) for other in others] == [
        ("half of it", "code"),
        ("deeper", "architecture"),
    ]
    assert [other.source for other in others] == [SOURCE.replace("LR = 0.5", "LR = 0.2"), f"{SOURCE}DEPTH = 8\n"]
    page = (place.logs / "BRIEF.md").read_text()
    assert "Propose 5 changes" in page
    assert "`proposals/2/train_lib.py`, `proposals/3/train_lib.py`" in page
    assert "proposals/" not in instructions("train_lib.py", [])


@pytest.mark.parametrize("first", ["true", "echo 'LR = (' > ../train_lib.py; sleep 60"])
def test_other_proposals_are_kept_where_the_first_is_none(place, first):
    with pytest.raises(ProposalFailed, match=r"changed nothing|unfinished"):
        place.proposer(f"{OTHERS}; {first}", seconds=3, proposals=5).propose(BRIEF)
    assert [other.hypothesis for other in place.kept[-1][1]] == ["half of it", "deeper"]
    assert not (place.logs / "agent-2.log").exists(), "the others are proposed; it is not asked again"


def test_the_command_runs_beside_a_training_file_in_a_folder(place):
    proposer = place.proposer(f"{GOOD}; ls; echo fine", editable="deep/er/train_lib.py")
    assert proposer.propose(BRIEF) == Proposal("fine", "code", source=CHANGED, proposer="command")
    assert place.log.split() == ["BRIEF.md", "train_lib.py", "fine"]


def test_git_of_the_agent_is_not_pointed_at_the_users_repository(place):
    proposal = place.propose(f"{GOOD}; echo dir=$GIT_DIR; ", GIT_DIR="/somewhere/.git")
    assert proposal.hypothesis == "dir="


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("echo I am not sure", 'the agent changed nothing in train_lib.py; it said "I am not sure"'),
        ("touch train_lib.py", "the agent changed nothing in train_lib.py"),
        (
            "echo 'rate limit'; exit 3",
            'the agent changed nothing in train_lib.py (exited with status 3); it said "rate limit"',
        ),
        ("kill -9 $$", "the agent changed nothing in train_lib.py (was killed by SIGKILL)"),
        (
            "rm -r -- ./*",
            "the agent deleted train_lib.py, or made something else of it "
            '(changes of "other.py", "tools/notes.txt" ignored)',
        ),
        ("rm train_lib.py; ln -s /etc/passwd train_lib.py", "the agent deleted train_lib.py, or made something"),
        ("printf '\\377' > train_lib.py", "the agent left train_lib.py that is not UTF-8 text: "),
        ("head -c 2000000 /dev/zero > train_lib.py", "the agent made train_lib.py larger than 1048576 bytes"),
        ("echo x > other.py", 'the agent changed nothing in train_lib.py (changes of "other.py" ignored)'),
    ],
)
def test_what_is_no_proposal(place, command, reason):
    assert place.failure(command).startswith(reason)


def test_changes_of_other_files_are_ignored_and_named(place):
    command = (
        f"{GOOD}; echo y >> other.py; rm tools/notes.txt; echo z > new.py; echo z > last.py; "
        "mkdir __pycache__ .agent; touch __pycache__/a .agent/b; echo fine"
    )
    proposal = place.propose(command)
    assert proposal.source == CHANGED
    assert proposal.hypothesis == 'fine (changes of "last.py", "new.py", "other.py" and 1 more ignored)'


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


def test_when_time_is_up_nothing_of_it_is_left(place, tmp_path):
    started = time.monotonic()
    reason = place.failure(f"{background(tmp_path)}; sleep 300", seconds=1.5)
    assert reason == "the agent ran longer than 1.5 s, and had changed nothing in train_lib.py"
    assert time.monotonic() - started < 10
    assert not is_alive(tmp_path / "pid")


def test_an_edit_that_is_finished_when_time_is_up_is_proposed(place):
    proposal = place.propose(f"{GOOD}; echo smaller steps; sleep 300", seconds=1.5)
    assert proposal.source == CHANGED
    assert proposal.hypothesis == "smaller steps (the agent ran longer than 1.5 s)"


def test_an_edit_that_is_not_finished_when_time_is_up_is_not_proposed(place):
    reason = place.failure("echo 'def build(' > train_lib.py; sleep 300", seconds=1.5)
    assert reason.startswith("the agent ran longer than 1.5 s, and left train_lib.py unfinished: ")


@pytest.mark.parametrize("then", ["true", "echo 'def build(' > train_lib.py"])
def test_a_try_that_is_cut_off_does_not_replace_the_one_before(place, tmp_path, then):
    second = f"if [ -e {tmp_path}/called ]; then {then}; sleep 300; fi; touch {tmp_path}/called; {GOOD}; echo first"
    proposer = place.proposer(second, 4.0, examine=lambda brief, proposal: Objection("no"))
    proposal = proposer.propose(BRIEF)
    assert (proposal.source, proposal.hypothesis) == (CHANGED, "first")


def test_a_child_that_it_leaves_behind_ends_with_it(place, tmp_path):
    started = time.monotonic()
    assert place.propose(f"{background(tmp_path)}; {GOOD}; echo fine").hypothesis == "fine"
    assert time.monotonic() - started < 10, "nobody waits for the child that holds the output open"
    assert not is_alive(tmp_path / "pid")


def test_ten_megabytes_of_output_are_no_trouble(place):
    proposal = place.propose(f"head -c 10000000 /dev/zero | tr '\\0' y; {GOOD}; echo; echo last word", seconds=60)
    assert proposal == Proposal("last word", "code", source=CHANGED, proposer="command")
    assert (place.logs / "agent.log").stat().st_size < 5_000_000
    assert place.log.endswith("\n[the rest of the output is not kept]\n")


def test_a_shells_pipe_ends_as_in_a_terminal(place):
    assert place.propose(f"yes | head -1; {GOOD}; echo fine").hypothesis == "fine"
    assert "Broken pipe" not in place.log


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
        'printf \'I used %s\ncategory: %s\n\' "$MY_KEY" "$OTHER_TOKEN" > HYPOTHESIS.md'
    )
    proposal = place.proposer(command, MY_KEY=KEY, OTHER_TOKEN="sesame-open").propose(brief)
    assert proposal.source == f"{CHANGED}# {REDACTED}\n"
    assert proposal.hypothesis.startswith(f"I used {REDACTED} (changes of ")
    assert proposal.hypothesis.endswith("; a secret in train_lib.py is blanked out)")
    left = f"{proposal}{everything_in(place.logs)}"
    assert KEY not in left
    assert "sesame-open" not in left
    assert f"Use {REDACTED}." in (place.logs / "BRIEF.md").read_text()
    assert place.log == f"{REDACTED}\n"


def test_a_secret_that_colours_were_put_into_is_one_when_they_are_gone(place):
    proposal = place.propose(f"{GOOD}; printf 'with sesame\\033[1m-open\\n'", MY_KEY="sesame-open")
    assert proposal.hypothesis == f"with {REDACTED}"


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


def once(text: str, repeats: bool = False) -> Callable[[Brief, Proposal], Objection | None]:
    """Objects to the first text and to no other."""
    said: list[str] = []

    def examine(brief: Brief, proposal: Proposal) -> Objection | None:
        said.append(text)
        return Objection(text, repeats) if len(said) == 1 else None

    return examine


SECOND_ROUND = f"""
if grep -q 'LR = 0.1' train_lib.py; then
  grep -o 'it cannot be measured.*' BRIEF.md; sed -i 's/^LR = 0.1/LR = 0.2/' train_lib.py
else
  {GOOD}; echo first; %s
fi
"""


@pytest.mark.parametrize(
    "trap",
    [
        'rm BRIEF.md; ln -s "$VICTIM" BRIEF.md',
        "rm BRIEF.md; mkdir -p BRIEF.md/more; chmod 0 BRIEF.md",
    ],
)
def test_what_an_agent_leaves_in_place_of_its_brief_is_not_opened(place, tmp_path, trap):
    victim = tmp_path / "victim"
    victim.write_text("dear\n")
    proposer = place.proposer(SECOND_ROUND % trap, examine=once("it cannot be measured: a"), VICTIM=str(victim))
    proposal = proposer.propose(BRIEF)
    assert (proposal.hypothesis, proposal.source) == (
        "it cannot be measured: a",
        SOURCE.replace("LR = 0.5", "LR = 0.2"),
    )
    assert victim.read_text() == "dear\n"


def test_an_objection_that_does_not_fit_is_cut_and_at_worst_the_text_stands(place):
    assert place.propose(GOOD).source == CHANGED
    least = count_tokens((place.logs / "BRIEF.md").read_text()) + 100
    for more, words in ((400, "it cannot be measured: xxx"), (0, "first")):
        proposer = place.proposer(
            SECOND_ROUND % "true",
            examine=once("it cannot be measured: " + "x" * 3000),
            brief_tokens=least + more,
        )
        assert proposer.propose(BRIEF).hypothesis.startswith(words)


@pytest.mark.parametrize("marker", ["no proposal", "Constants", "**no  proposal**"])
def test_an_agent_cannot_name_a_category_of_the_drivers_own(place, marker):
    command = f"{GOOD}; printf 'less\ncategory: {marker}\n' > HYPOTHESIS.md"
    assert place.propose(command).category == "code"
    asked = dataclasses.replace(BRIEF, category="attention")
    assert place.proposer(command).propose(asked).category == "attention"


def test_the_agent_is_told_the_categories_of_the_run(place):
    brief = dataclasses.replace(BRIEF, categories=("seeds", "tricks"))
    place.proposer(f"{GOOD}; echo fine").propose(brief)
    assert "names the kind of change, one of: seeds, tricks. " in (place.logs / "BRIEF.md").read_text()
