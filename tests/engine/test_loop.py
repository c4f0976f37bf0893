"""The whole loop on a fake task, with real git and a real ledger."""

import dataclasses
import subprocess

import pytest
from fakes import RESULTS_HEADER, SOURCE, FakeTask, ScriptedProposer, moved

from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.loop import INTERRUPTED
from autoresearch_jax.engine.records import Kind
from autoresearch_jax.engine.task import RunError
from autoresearch_jax.proposers.base import Proposal
from autoresearch_jax.types import CandidateRejected, Status


def test_a_night_in_miniature(bench, run_git):
    task = FakeTask()
    reason = bench.loop(task, max_experiments=15).run()
    rows = bench.ledger().experiments()
    assert reason == "15 experiments reached"
    assert [row.id for row in rows] == list(range(16))
    kept = [row for row in rows if row.decision is Action.KEEP]
    scores = [row.score for row in kept]
    assert len(kept) > 2
    assert scores == sorted(scores, reverse=True)
    log = run_git(bench.repo, "log", "--format=%H", "--reverse", "main..autoresearch/night").split()
    assert log == [row.commit for row in kept[1:]], "every commit of the branch is a keep, and every keep is there"
    refs = run_git(bench.repo, "for-each-ref", "--format=%(objectname) %(refname)", "refs/autoresearch/night")
    discarded = [f"{r.commit} refs/autoresearch/night/{r.id:04d}" for r in rows if r.decision is Action.DISCARD]
    assert refs.splitlines() == discarded
    for row in rows[1:]:
        assert run_git(bench.repo, "show", f"{row.commit}:train_lib.py") + "\n" == bench.ledger().source(row.id)
        assert run_git(bench.repo, "rev-parse", f"{row.commit}^") == row.parent_commit
    champion_text = (bench.folder.workspace / "train_lib.py").read_text()
    assert champion_text == bench.ledger().source(kept[-1].id)
    table = bench.folder.results.read_text().splitlines()
    assert table[0] == RESULTS_HEADER
    assert len(table) == 17
    assert table[1].split("\t")[1:] == [f"{rows[0].score:.6f}", "1.0", "keep", "baseline"]


def test_the_users_checkout_is_not_touched_whatever_hooks_and_variables_say(bench, run_git, monkeypatch, tmp_path):
    (bench.repo / "program.md").write_text(bench.program.read_text() + "\n- a new idea\n")
    (bench.repo / "staged.txt").write_text("staged\n")
    run_git(bench.repo, "add", "staged.txt")

    def state():
        return (
            run_git(bench.repo, "status", "--porcelain"),
            run_git(bench.repo, "rev-parse", "HEAD"),
            run_git(bench.repo, "symbolic-ref", "HEAD"),
            run_git(bench.repo, "stash", "list"),
            (bench.repo / ".git" / "index").read_bytes(),
            (bench.repo / "train_lib.py").read_bytes(),
        )

    before = state()
    hook = bench.repo / ".git" / "hooks" / "post-checkout"
    hook.write_text("#!/bin/sh\ntouch hook-ran\n")
    hook.chmod(0o755)
    subprocess.run(["git", "init", "-q", str(tmp_path / "other")], check=True)
    with monkeypatch.context() as patch:
        patch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))  # of a caller, such as a hook
        bench.loop(max_experiments=4).run()
    assert state() == before
    assert not list(bench.repo.rglob("hook-ran"))
    assert "autoresearch/night" in run_git(bench.repo, "branch")


def test_whatever_a_candidate_does_the_loop_goes_on(bench):
    script = [
        moved(FAULT="reject"),
        moved(FAULT="crash"),
        moved(FAULT="nonfinite"),
        Proposal("a slip of the pen", "text", source="LR = = 1\n"),
        moved(NO_SUCH=1),
        Proposal("only a comment", "text", source=SOURCE + "# same program\n"),
        moved(FAULT="raise"),
        moved(LR=0.1),
    ]
    task = FakeTask(noise=0)
    proposer = ScriptedProposer(script)
    assert bench.loop(task, proposer, max_experiments=9).run() == "the script is over"
    rows = bench.ledger().experiments()[1:]
    assert [str(row.status) for row in rows] == [
        *("rejected", "crash", "nonfinite", "rejected", "rejected", "duplicate", "crash", "ok")
    ]
    assert [row.score for row in rows] == [None, None, None, None, None, 1.6, None, 1.2]
    assert rows[3].reason == "line 1: invalid syntax"
    assert rows[4].reason.startswith("no top-level constant NO_SUCH; there are LR, DEPTH")
    assert rows[5].reason.startswith("the same program as the champion (experiment 0) in a text that is no shorter: ")
    assert rows[6].reason == "the task failed: RuntimeError: the device is gone"
    assert rows[7].decision is Action.KEEP
    assert len(task.measured) == 5, "nothing is spent on what was rejected or is a duplicate"
    statuses = [line.split("\t")[3] for line in bench.folder.results.read_text().splitlines()[1:]]
    assert statuses == ["keep", *(str(row.status) for row in rows[:7]), "keep"]
    assert bench.folder.results.read_text().splitlines()[2].split("\t")[1] == "", "a failure has no score"
    history = proposer.briefs[-1].history
    assert [outcome.status for outcome in history[:3]] == [Status.OK, Status.REJECTED, Status.CRASH]
    assert proposer.briefs[-1].champion_score == 1.2


def test_a_task_that_keeps_failing_ends_the_loop_and_loses_nothing(bench):
    script = [moved(FAULT="raise"), moved(FAULT="raise", LR=0.2), moved(FAULT="raise", LR=0.3)]
    with pytest.raises(RunError, match=r"the task failed: RuntimeError: the device is gone; see .*task_error.txt"):
        bench.loop(proposer=ScriptedProposer(script)).run()
    rows = bench.ledger().experiments()
    assert [row.is_open for row in rows] == [False, False, False, True]
    assert "Traceback" in (bench.folder.log_dir(3) / "task_error.txt").read_text()
    assert bench.ledger().last_ending().startswith("the task failed: RuntimeError: the device is gone; see ")
    bench.loop(proposer=ScriptedProposer(script)).run()
    assert not bench.ledger().experiment(3).is_open


def test_a_broken_baseline_is_one_line_and_can_be_mended(bench, run_git):
    (bench.repo / "train_lib.py").write_text(SOURCE.replace('"none"', '"reject"'))
    run_git(bench.repo, "commit", "-qam", "break it")
    with pytest.raises(RunError, match=r"^the baseline, train_lib.py as committed, cannot .* \(rejected\): no build$"):
        bench.loop().run()
    (bench.repo / "train_lib.py").write_text(SOURCE)
    run_git(bench.repo, "commit", "-qam", "mend it")
    bench.loop(max_experiments=2).run()
    rows = bench.ledger().experiments()
    assert [row.kind for row in rows] == [Kind.BASELINE, Kind.BASELINE, Kind.PROPOSAL, Kind.PROPOSAL]
    assert rows[1].commit == run_git(bench.repo, "rev-parse", "main")


def test_an_interrupt_keeps_the_experiment_for_the_next_start(bench):
    class Interrupted(FakeTask):
        def measure(self, candidate, **arguments):
            if len(self.measured) == 2:
                raise KeyboardInterrupt
            return super().measure(candidate, **arguments)

    assert bench.loop(Interrupted(), max_experiments=3).run() == INTERRUPTED
    assert bench.ledger().last_ending() == INTERRUPTED
    open_row = bench.ledger().open_experiments()[0]
    assert open_row.id == 2
    seed = bench.ledger().trials(2)[0].seed
    task = FakeTask()
    bench.loop(task, max_experiments=3).run()
    assert task.measured[0][1] == seed
    assert [row.is_open for row in bench.ledger().experiments()] == [False] * 4
    assert len(bench.ledger().trials(2)) == 1, "the trial that was cut short is run again, not counted twice"


def test_a_run_does_not_go_on_with_another_eval_bundle(bench):
    class OtherBundle(FakeTask):
        def keep_eval_bundle(self, folder):
            return "another hash"

    bench.loop(max_experiments=1).run()
    with pytest.raises(RunError, match=r"eval_bundle is not what the run began with: restore it, or"):
        bench.loop(OtherBundle()).run()
    assert bench.ledger().settings()["eval_bundle"] == "a hash"


def test_program_md_is_read_before_each_proposal_and_never_ends_the_night(bench):
    good = bench.program.read_text()

    def edit(brief):
        if brief.experiment == 1:
            bench.program.write_text(good.replace("0.01 .. 1 log", "0.01 .. "))
        if brief.experiment == 3:
            bench.program.write_text(good.replace("DEPTH | 2 .. 8", "GONE | 2 .. 8") + "- try harder\n")

    proposer = ScriptedProposer([moved(LR=x) for x in (0.4, 0.3, 0.25, 0.2)], edit)
    bench.loop(proposer=proposer, max_experiments=4).run()
    broken, gone = bench.recorder.notices
    assert broken.startswith(f"{bench.program}:11: LR: '0.01 ..' is not a range")
    assert broken.endswith("(the version before stays in force)")
    assert gone.startswith(f"{bench.program}:12: no constant GONE in the editable file")
    spaces = [[constant.name for constant in brief.space] for brief in proposer.briefs]
    assert spaces == [["LR", "DEPTH", "PATTERN"]] * 3 + [["LR", "PATTERN"]]
    assert proposer.briefs[3].program.endswith("- try harder\n")


def test_words_of_candidates_and_proposers_may_be_anything(bench):
    class Rude(FakeTask):
        def prepare(self, source, log_dir, **options):
            if "LR = 0.3" in source:
                raise CandidateRejected(Status.REJECTED, "no\0build\n\x1b[31m")
            return super().prepare(source, log_dir, **options)

    script = [moved(LR=0.3), dataclasses.replace(moved(LR=0.2), hypothesis="a\0b\n\ud800\tc")]
    assert bench.loop(Rude(), ScriptedProposer(script)).run() == "the script is over"
    rows = bench.ledger().experiments()
    assert (rows[1].reason, rows[2].hypothesis) == ("no build", "a b c")


def test_the_worktree_and_the_branch_are_restored_at_the_next_start(bench, run_git):
    bench.loop(FakeTask(noise=0), ScriptedProposer([moved(LR=0.1)])).run()
    champion = run_git(bench.repo, "rev-parse", "autoresearch/night")
    run_git(bench.repo, "worktree", "remove", "--force", str(bench.folder.workspace))
    run_git(bench.repo, "update-ref", "refs/heads/autoresearch/night", "main")  # killed between ledger and ref
    bench.loop(FakeTask(noise=0), ScriptedProposer([moved(LR=0.1)])).run()
    assert run_git(bench.repo, "rev-parse", "autoresearch/night") == champion
    assert "LR = 0.1" in (bench.folder.workspace / "train_lib.py").read_text()


def test_git_identity_falls_back_when_the_user_has_none(bench, run_git, monkeypatch, tmp_path):
    for name in ("user.name", "user.email"):
        run_git(bench.repo, "config", "--unset", name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    bench.loop(FakeTask(noise=0), ScriptedProposer([moved(LR=0.1)])).run()
    assert run_git(bench.repo, "log", "-1", "--format=%an", "autoresearch/night") == "autoresearch"
