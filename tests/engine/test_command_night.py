"""A scripted agent in the loop, with real git, a real ledger, and a driver that is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakes import SOURCE, FakeTask

from autoresearch_jax.commands.proposer_options import ProposerSettings
from autoresearch_jax.commands.proposers import make_proposer
from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.loop import INTERRUPTED, Loop
from autoresearch_jax.engine.proposals import Precheck
from autoresearch_jax.proposers.command import Agent
from autoresearch_jax.types import Status

# By the number of the experiment; what it does is in the repository, so that the copy must be whole.
AGENT = r"""
n=$(sed -n 's/^# Experiment //p' BRIEF.md)
echo $n >> "$CALLS"
case $n in
  1) sed -i 's/^LR = .*/LR = 0.1/' train_lib.py; echo 'a smaller step' ;;
  2) echo 'out of ideas' ;;
  3) rm train_lib.py ;;
  4) echo 'LR = = 1' > train_lib.py ;;
  5) sleep 60 ;;
  6) sed -i 's/^DEPTH = .*/DEPTH = 6/' train_lib.py; echo >> agent.sh
     printf 'deeper\ncategory: depth\n' > HYPOTHESIS.md ;;
  7) sed -i 's/^FAULT = .*/FAULT = "crash"/' train_lib.py; echo 'a crash'; exit 4 ;;
  8) echo '# a comment' >> train_lib.py; echo 'says the same' ;;
  9) sed -i 's/^PATTERN = .*/PATTERN = "SSSL"/' train_lib.py; echo 'longer windows' ;;
esac
"""
DRIVER = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from fakes import FakeTask
from autoresearch_jax.commands.folder_options import FolderOptions
from autoresearch_jax.commands.proposer_options import ProposerSettings
from autoresearch_jax.commands.run_options import DecisionOptions
from autoresearch_jax.commands.run import OpenRun, run_loop
from autoresearch_jax.commands.run_options import RunOptions
from autoresearch_jax.proposers.command import Agent
from autoresearch_jax.engine.stopping import Interrupts
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.program import ProgramFile
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.workspace import Workspace

class Killing(FakeTask):
    def measure(self, candidate, **options):
        if "LR = 0.1" in candidate.source and sys.argv[3] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().measure(candidate, **options)

repo = Path(sys.argv[1])
folder = RunFolder(repo / "runs" / "night")
folder.create()
workspace = Workspace.of(repo / "train_lib.py", "night", folder.workspace, os.environ)
program = repo / "program.md"
who = ProposerSettings("command", Agent(sys.argv[4]))
options = RunOptions(
    where=FolderOptions("night", str(repo / "runs")),
    decision=DecisionOptions("greedy", prune=False),
    experiments=1,
    seed=0,
)
ledger = Ledger.open(folder.ledger)
with folder.lock(), Interrupts().installed() as interrupts:
    run_loop(options, who, OpenRun(Killing(noise=0), workspace, ledger, ProgramFile(program)), interrupts)
"""


@pytest.fixture
def agents(bench, run_git, tmp_path, monkeypatch):
    """The agent is in the repository; a file has the experiments it was called for."""
    (bench.repo / "agent.sh").write_text(AGENT)
    run_git(bench.repo, "add", "agent.sh")
    run_git(bench.repo, "commit", "-qm", "an agent")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return bench


def calls(tmp_path: Path) -> list[int]:
    return [int(line) for line in (tmp_path / "calls").read_text().split()]


def night(
    bench, task: FakeTask, command: str = "sh agent.sh", seconds: float = 30.0, slots: int = 1, **options
) -> Loop:
    """A loop whose proposer is a command, wired as the command line does it."""
    precheck = Precheck(task, bench.folder)
    proposer = make_proposer(
        ProposerSettings("command", Agent(command, seconds)),
        bench.workspace(),
        bench.folder,
        os.environ,
        precheck.check,
        bench.recorder,
        slots=slots,
    )
    return bench.loop(task, proposer, precheck=precheck, **options)


def test_a_night_of_a_scripted_agent(agents, run_git, tmp_path):
    task = FakeTask(noise=0)
    assert night(agents, task, seconds=8, max_experiments=9).run() == "9 experiments reached"
    rows = agents.ledger().experiments()
    assert calls(tmp_path) == [1, 2, 2, 3, 4, 4, 4, 5, 6, 7, 8, 8, 9], "sent back: once or twice what is no proposal"
    assert [str(row.status) for row in rows] == [
        *("ok", "ok", "rejected", "rejected", "rejected", "rejected", "ok", "crash", "duplicate", "ok")
    ]
    assert [row.id for row in rows if row.decision is Action.KEEP] == [0, 1, 6, 9]
    assert rows[9].score == 1.0
    assert [row.reason for row in rows[2:6]] == [
        'the agent changed nothing in train_lib.py; it said "out of ideas"',
        "the agent deleted train_lib.py, or made something else of it",
        "line 1: invalid syntax",
        "the agent ran longer than 8 s, and had changed nothing in train_lib.py",
    ]
    assert (rows[6].hypothesis, rows[6].category) == ('deeper (changes of "agent.sh" ignored)', "depth")
    assert rows[7].hypothesis == "a crash (exited with status 4)"
    assert len(task.measured) == 5
    assert run_git(agents.repo, "diff", "--name-only", "main", "autoresearch/night") == "train_lib.py"
    assert (agents.repo / "train_lib.py").read_text() == SOURCE
    brief = (agents.folder.llm_dir(9) / "BRIEF.md").read_text()
    assert "\n- left of the search: 1 experiment\n" in brief
    assert '- "depth": 1 tried, 1 kept, 0 without a score' in brief
    assert "DEPTH = 6" in brief, "the champion's source"
    assert agents.ledger().experiments()[2].seconds is not None


def test_an_agent_is_asked_for_as_many_proposals_at_once_as_trials_run(agents, tmp_path):
    edits = ("s/^LR = 0.5/LR = 0.1/", "s/^DEPTH = 4/DEPTH = 6/", 's/"SL"/"SSSL"/')
    folders = (".", "proposals/2", "proposals/3")
    changes = [f"sed -i '{edit}' {folder}/train_lib.py" for edit, folder in zip(edits, folders, strict=True)]
    night(agents, FakeTask(noise=0), "; ".join(["echo 1 >> $CALLS", *changes]), slots=3, max_experiments=3).run()
    assert calls(tmp_path) == [1]
    assert [row.status for row in agents.ledger().experiments()] == [Status.OK] * 4
    assert "- Propose 3 changes, as unlike each other" in (agents.folder.llm_dir(1) / "BRIEF.md").read_text()


def start_driver(bench, mode: str, agent: str) -> subprocess.Popen:
    command = [sys.executable, "-c", DRIVER, str(bench.repo), str(Path(__file__).parent.parent), mode, agent]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_signal_while_the_agent_is_at_work_ends_both_and_enters_nothing(agents, tmp_path):
    driver = start_driver(agents, "live", f"echo $$ > {tmp_path}/pid; sleep 300")
    deadline = time.monotonic() + 30
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    driver.send_signal(signal.SIGINT)
    output, errors = driver.communicate(timeout=30)
    assert driver.returncode == 0, errors
    assert INTERRUPTED in output
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()
    assert [row.id for row in agents.ledger().experiments()] == [0]
    night(agents, FakeTask(noise=0), max_experiments=1).run()
    assert agents.ledger().experiment(1).hypothesis == "a smaller step"


def test_killed_between_proposal_and_trial_the_agent_is_not_asked_again(agents, tmp_path):
    driver = start_driver(agents, "kill", "sh agent.sh")
    _, errors = driver.communicate(timeout=60)
    assert driver.returncode == -signal.SIGKILL, errors
    open_row = agents.ledger().open_experiments()[0]
    assert (open_row.id, open_row.hypothesis) == (1, "a smaller step")
    night(agents, FakeTask(noise=0), max_experiments=2).run()
    rows = agents.ledger().experiments()
    assert calls(tmp_path) == [1, 2, 2], "the second has no ideas, twice"
    assert (rows[1].status, rows[1].score) == (Status.OK, 1.2)
    assert "LR = 0.1" in agents.ledger().source(1)


def test_a_crash_goes_back_to_the_agent_with_what_it_said_and_the_mended_text_is_the_proposal(agents, tmp_path):
    command = f"""
        if grep -q 'Your last try was refused' BRIEF.md; then
            cp BRIEF.md {tmp_path}/second.md
            sed -i 's/LR = = 1/LR = 0.1/' train_lib.py
        else
            sed -i 's/^LR = .*/LR = = 1/' train_lib.py; echo 'a smaller step' > HYPOTHESIS.md
        fi; echo key $NIGHT_API_KEY"""
    os.environ["NIGHT_API_KEY"] = "not-for-any-log"
    try:
        night(agents, FakeTask(noise=0), command, max_experiments=1).run()
    finally:
        del os.environ["NIGHT_API_KEY"]
    row = agents.ledger().experiment(1)
    assert (row.status, row.score, row.hypothesis) == (Status.OK, 1.2, "a smaller step")
    page = (tmp_path / "second.md").read_text()
    assert "it cannot be measured: line 3: invalid syntax" in page
    llm = agents.folder.llm_dir(1)
    assert {path.name for path in llm.iterdir()} == {
        *("BRIEF.md", "BRIEF-2.md", "agent.log", "agent-2.log", "proposal.json", "refused.json")
    }
    assert (llm / "agent.log").read_text() == "key [secret]\n"
