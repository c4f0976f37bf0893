"""Agents with a command line, as real shell scripts: what they propose, and what an objection brings."""

import dataclasses
from collections.abc import Callable

import pytest
from agent_place import BRIEF, CHANGED, GOOD
from fakes import SOURCE

from autoresearch_jax.assets.kinds import TRAINING_FILE
from autoresearch_jax.proposers.base import Brief, Objection, Proposal, ProposalFailed
from autoresearch_jax.proposers.briefing import count_tokens
from autoresearch_jax.proposers.command import instructions


def test_what_it_does_to_the_training_file_is_the_proposal_and_its_last_line_the_hypothesis(place):
    proposal = place.propose(f"echo thinking; {GOOD}; printf '  LR was \\033[1mtoo large\\033[0m  \\n\\n' >&2")
    assert proposal == Proposal("LR was too large", "code", source=CHANGED, proposer="command")
    assert "thinking" in place.log


def test_hypothesis_md_may_say_why_and_what_was_used(place):
    brief = dataclasses.replace(BRIEF, papers={"one-two": '"Halve it" ("loss"): kept by bob', "three": '"Two" ("x")'})
    said = f"used: four, $(sed -n 's/^- \\(one-two\\): .*/\\1/p' BRIEF.md)\nwhy: smoother {'x' * 700} $MY_KEY"
    proposal = place.proposer(f'{GOOD}; printf "less\n{said}\n" > HYPOTHESIS.md', MY_KEY="secret-word").propose(brief)
    assert (proposal.hypothesis, proposal.used) == ("less", ("one-two",))
    assert proposal.why.startswith("smoother xxx")
    assert len(proposal.why) == 600
    said = f"{GOOD}; printf 'less\nwhy: so $MY_KEY\n' | sed s/.MY_KEY/$MY_KEY/ > HYPOTHESIS.md"
    assert place.propose(said, MY_KEY="secret-word").why == "so [secret]"


@pytest.mark.parametrize(("form", "end"), [("\ufeff{}", "\r\n"), ("{}", "\r")])
def test_byte_order_marks_and_line_ends_of_an_editor_are_no_change(place, tmp_path, form, end):
    (tmp_path / "edited.py").write_bytes(form.format(CHANGED).replace("\n", end).encode())
    (tmp_path / "saved.py").write_bytes(form.format(SOURCE).replace("\n", end).encode())
    assert place.propose(f"cp {tmp_path}/edited.py train_lib.py").source == CHANGED
    with pytest.raises(ProposalFailed, match=r"changed nothing in train_lib\.py"):
        place.propose(f"cp {tmp_path}/saved.py train_lib.py")


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
    assert "proposals/" not in instructions(TRAINING_FILE, "train_lib.py", [])


def test_other_proposals_are_kept_where_the_first_is_none(place):
    with pytest.raises(ProposalFailed, match="unfinished"):
        place.proposer(f"{OTHERS}echo 'LR = (' > ../train_lib.py; sleep 60", seconds=3, proposals=5).propose(BRIEF)
    assert [other.hypothesis for other in place.kept[-1][1]] == ["half of it", "deeper"]
    assert not (place.logs / "agent-2.log").exists(), "the others are proposed; it is not asked again"


def test_the_command_runs_beside_a_training_file_in_a_folder(place):
    command = f"{GOOD}; ls; mkfifo HYPOTHESIS.md; echo dir=$GIT_DIR"
    proposer = place.proposer(command, editable="deep/er/train_lib.py", GIT_DIR="/somewhere/.git")
    assert proposer.propose(BRIEF) == Proposal("dir=", "code", source=CHANGED, proposer="command")
    assert place.log.split() == ["BRIEF.md", "train_lib.py", "dir="], "not the user's repository"


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("echo I am not sure", 'the agent changed nothing in train_lib.py; it said "I am not sure"'),
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


@pytest.mark.parametrize("marker", ["Constants", "**no  proposal**"])
def test_an_agent_cannot_name_a_category_of_the_drivers_own(place, marker):
    command = f"{GOOD}; printf 'less\ncategory: {marker}\n' > HYPOTHESIS.md; echo more"
    proposal = place.propose(command)
    assert (proposal.hypothesis, proposal.category) == ("less", "code")
    asked = dataclasses.replace(BRIEF, category="attention", categories=("seeds", "tricks"))
    assert place.proposer(command).propose(asked).category == "attention"
    assert "names the kind of change, one of: seeds, tricks. " in (place.logs / "BRIEF.md").read_text()
