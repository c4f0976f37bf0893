"""Nights with certification: an edit that was kept by luck is taken out, within a bounded share of the runs."""

import io
import os
import random
import shutil
from contextlib import closing
from dataclasses import replace

import pytest
from durable import Operations
from fakes import SOURCE, FakeTask, ScriptedProposer, moved
from kills import git_differences
from ledgers import substance

from autoresearch_jax.assets.python_constants import read_constants
from autoresearch_jax.decide.certification import CertificationSettings
from autoresearch_jax.decide.rule import Action, LineageRule
from autoresearch_jax.engine.certifying import REVERT, Word, certificates
from autoresearch_jax.engine.integrity import ledger_page_differences
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.loop import INTERRUPTED
from autoresearch_jax.engine.plan import draw_seed
from autoresearch_jax.engine.records import Kind, Purpose
from autoresearch_jax.engine.run_folder import RunFolderError
from autoresearch_jax.proposers.base import Proposal
from autoresearch_jax.report.summary import experiments_as_json, summarize_run
from autoresearch_jax.report.tables import print_experiments
from autoresearch_jax.report.why import explain
from autoresearch_jax.snapshots.retention import Keeping
from autoresearch_jax.types import Metric, Status

RULE = LineageRule(Metric("loss"), fresh_runs=3)
SETTINGS = CertificationSettings(share=0.4, every=2)
AT_END = CertificationSettings(share=0.6, every=0)  # the champion's own runs come first there
POINTS = 8  # of the durable operations of a night, in the fast suite
SIGMA = 0.001  # of the task
HARM, LUCK = 3 * SIGMA, 7 * SIGMA
TRICK = "TRICK = 1\n"
LUCKY = Proposal("a trick", "text", source=SOURCE + TRICK)
BETTER, WORSE, DEEPER = moved(LR=0.1), moved(LR=0.9), moved(DEPTH=6)
SCRIPT = [LUCKY, BETTER, WORSE, DEEPER]


class LuckyTask(FakeTask):
    """A TRICK, or an LR of 0.499, makes a program worse by some sigma, and its runs as a candidate better by more."""

    def measure(self, candidate, *, seed, log_dir, **arguments):
        found = super().measure(candidate, seed=seed, log_dir=log_dir, **arguments)
        if found.value is None:
            return found
        constants = read_constants(candidate.source)
        flaws = ("TRICK" in constants) + (constants["LR"] == 0.499)
        own_seeds = {draw_seed(0, int(log_dir.name), number) for number in range(20)}  # the others are the champion's
        luck = LUCK if constants["LR"] > 0.4 and seed not in own_seeds else 0.0
        return replace(found, value=found.value + flaws * (HARM - luck))


class Scripted(ScriptedProposer):
    """Counts proposals, whatever number an experiment has: certification takes some."""

    def propose(self, brief):
        return super().propose(replace(brief, experiment=sum(outcome.category != REVERT for outcome in brief.history)))


def night(bench, script=SCRIPT, task=None, rule=RULE, certification=SETTINGS, **options):
    loop = bench.loop(task or LuckyTask(), Scripted(script), rule, certification=certification, **options)
    return loop.run()


def spent(ledger):
    return [trial for trial in ledger.trials() if trial.purpose is Purpose.CERTIFY]


def trailers(run_git, repo, commit):
    text = run_git(repo, "show", "-s", "--format=%(trailers:only,unfold)", commit)
    return dict(line.split(": ", 1) for line in text.splitlines())


def reverts(ledger):
    return [row for row in ledger.experiments() if row.kind is Kind.REVERT]


def test_an_edit_that_was_kept_by_luck_is_reverted_on_the_branch_and_that_is_told(bench, run_git):
    night(bench)
    ledger = bench.ledger()
    rows = ledger.experiments()
    (revert,) = reverts(ledger)
    proposals = [row for row in rows if row.kind is Kind.PROPOSAL]
    lucky, better, _, deeper = proposals
    assert [row.decision for row in proposals] == ["keep", "keep", "discard", "keep"]
    assert (revert.decision, revert.without) == ("keep", (lucky.id,))
    assert better.id < revert.id < deeper.id, "after two keeps"
    assert (revert.parent, revert.parent_commit) == (better.id, better.commit)
    assert ledger.source(revert.id) == SOURCE.replace("LR = 0.5", "LR = 0.1"), "the other edit stays"
    champion = SOURCE.replace("LR = 0.5", "LR = 0.1").replace("DEPTH = 4", "DEPTH = 6")
    assert (bench.folder.workspace / "train_lib.py").read_text() == ledger.source(deeper.id) == champion

    purposes = [trial.purpose for trial in ledger.trials(revert.id)]
    assert purposes[0] is Purpose.CERTIFY, "to decide on it"
    assert purposes[-RULE.fresh_runs :] == [Purpose.CHAMPION] * RULE.fresh_runs, "and afresh, as every champion is"
    assert Purpose.CANDIDATE not in purposes
    assert ledger.decisions(revert.id)[-1].action is Action.KEEP

    log = run_git(bench.repo, "log", "--format=%H", "main..autoresearch/night").split()
    assert log == [row.commit for row in (deeper, revert, better, lucky)]
    words = trailers(run_git, bench.repo, revert.commit)
    assert (words["Reverts"], words["Decision"]) == (str(lucky.id), "keep")
    assert {"Loss", "Effect", "Probability", "Runs"} <= words.keys()
    message = run_git(bench.repo, "show", "-s", "--format=%B", revert.commit)
    assert LUCKY.hypothesis in message.splitlines()[0]
    assert revert.reason in message, "the evidence"
    assert "Reverts" not in trailers(run_git, bench.repo, better.commit)
    assert git_differences(bench.repo) == []
    assert ledger_page_differences(bench.folder.ledger) == []

    words = [found.word for found in certificates(ledger).values()]
    assert words == [Word.REVERTED, Word.CERTIFIED, Word.CERTIFIED]
    summary = summarize_run(ledger)
    assert (summary.lines()["certified"], summary.lines()["reverted"]) == (2, 1)
    assert summary.lines()["experiments"] == len(SCRIPT), "proposals"
    lines = experiments_as_json(ledger, bench.folder, at_work=False)
    told = {line["experiment"]: line["certificate"] for line in lines if line["certificate"]}
    assert told == {number: str(found.word) for number, found in certificates(ledger).items()}
    explained = [explain(ledger, number, at_work=False)["certificate"] for number in (1, 2, revert.id)]
    assert explained == ["reverted", "certified", None]
    stream = io.StringIO()
    print_experiments(ledger, Metric("loss"), stream)
    table = [line.split()[:2] for line in stream.getvalue().splitlines()[1:]]
    assert [table[number] for number in (1, 2)] == [["1", "reverted"], ["2", "certified"]]
    score = summary.champion_score
    assert score.mean == pytest.approx(1.1, abs=4 * SIGMA)
    assert 0 < score.error < 2 * SIGMA
    assert summary.champion_runs > 1


def test_certification_keeps_to_its_share_and_to_its_keeps(bench):
    several = [LUCKY, BETTER, *(moved(DEPTH=depth) for depth in (5, 6)), moved(PATTERN="SSSL")]
    for share in (0.0, 0.15, 0.4):
        here = bench.with_tag(f"share-{share:g}")
        night(here, several, certification=CertificationSettings(share=share, every=1))
        ledger = here.ledger()
        most = share * len(ledger.trials())
        assert len(spent(ledger)) <= most + 2, "a group that was begun is seen to its end"
        assert bool(spent(ledger)) == (share > 0)
    late = bench.with_tag("late")
    night(late, certification=AT_END)
    (revert,) = reverts(late.ledger())
    assert revert == late.ledger().experiments()[-1], "only at the end"


def test_a_second_start_does_nothing_more(bench):
    reason = night(bench, certification=AT_END)
    before = substance(bench.ledger())
    assert reverts(bench.ledger())
    task = LuckyTask()
    assert night(bench, task=task, certification=AT_END) == reason
    assert task.measured == []
    assert substance(bench.ledger()) == before
    with pytest.raises(RunFolderError, match=r"certify_share 0.6 then, 0.2 now"):
        night(bench, [], certification=replace(AT_END, share=0.2))


CONFLICT = SOURCE.replace("LR = 0.5", "LR = 0.1") + TRICK + "MORE = 2\n"  # right below the trick


@pytest.mark.parametrize(
    ("lucky", "after", "why"),
    [
        (moved(LR=0.499), BETTER, "LR was moved again by 2"),
        (LUCKY, Proposal("more", "text", source=CONFLICT), "later changes touch the same lines"),
    ],
    ids=["superseded", "conflict"],
)
def test_what_cannot_be_taken_out_is_entered_once(bench, lucky, after, why):
    night(bench, [lucky, after, WORSE, DEEPER, moved(PATTERN="SSSL")], keeping=Keeping(last=0, best=0))
    ledger = bench.ledger()
    rows = ledger.experiments()
    assert [row.decision for row in rows[:3]] == ["keep"] * 3
    (row,) = (row for row in reverts(ledger) if 1 in row.without)
    assert (row.status, row.decision, row.without) == (Status.REJECTED, Action.DISCARD, (1,))
    assert why in row.reason
    assert ledger.trials(row.id) == []
    assert ledger.source(row.id) == ledger.source(row.parent)
    assert certificates(ledger)[1].word is not Word.REVERTED
    assert git_differences(bench.repo) == []


# One look finds two edits in doubt: the first is superseded by now, the second is taken out.
TRICKY = Proposal("a trick", "text", source=SOURCE.replace("LR = 0.5", "LR = 0.499") + TRICK)
TWO = [moved(LR=0.499), TRICKY, BETTER, DEEPER, WORSE]
AFTER_FOUR = CertificationSettings(share=0.4, every=4)


def night_of_two(bench):
    return night(bench, TWO, certification=AFTER_FOUR, keeping=Keeping(last=1, best=0))


def night_in_process(bench, *durable):
    """Runs the night in a process of its own; `durable` are arguments of `Operations`."""
    pid = os.fork()
    if pid == 0:
        try:
            Operations(*durable)
            night_of_two(bench)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("points", [POINTS, pytest.param(None, marks=pytest.mark.slow)], ids=["some", "all"])
def test_killed_anywhere_in_a_certification_the_ledger_is_that_of_an_undisturbed_run(bench, tmp_path, points):
    journal, states = tmp_path / "journal", tmp_path / "states"
    states.mkdir()
    night_in_process(bench, None, journal, None, (bench.repo, states))
    with closing(Ledger.open_to_read(bench.folder.ledger)) as ledger:
        superseded, revert = reverts(ledger)
        assert (superseded.status, revert.decision) == (Status.REJECTED, "keep")
        assert ledger.experiment(spent(ledger)[-1].experiment).decision == "keep", "of the champion, at the end"
        expected = substance(ledger)
    operations = journal.read_text().splitlines()
    begun = [number for number, label in enumerate(operations) if "INSERT experiments" in label]
    of_certification = range(begun[superseded.id] + 1, len(operations))
    for number in of_certification if points is None else random.sample(of_certification, points):
        shutil.rmtree(bench.repo)
        (states / str(number)).rename(bench.repo)
        night_in_process(bench)
        with closing(Ledger.open_to_read(bench.folder.ledger)) as ledger:
            assert substance(ledger) == expected, number
        assert git_differences(bench.repo) == []
        assert ledger_page_differences(bench.folder.ledger) == []


class OfItems(FakeTask):
    """Has 100 test items, of which each half is another program's weak one; seeds change nothing."""

    def __init__(self):
        super().__init__(noise=0)

    def measure(self, candidate, **arguments):
        found = super().measure(candidate, **arguments)
        if found.value is None:
            return found
        swing = 0.2 if read_constants(candidate.source)["LR"] == 0.5 else -0.2  # the error of a difference is 0.04
        return replace(found, items=[found.value + (swing if item % 2 else -swing) for item in range(100)])


def test_a_difference_within_the_noise_of_the_test_items_is_not_kept(bench):
    night(bench, [moved(LR=0.49), BETTER], task=OfItems())  # 0.01 better, and clearly so
    rows = bench.ledger().experiments()
    assert [row.decision for row in rows] == ["keep", "discard", "keep"]
    assert summarize_run(bench.ledger()).sigma > 0.01
    assert certificates(bench.ledger())[2].word is Word.CERTIFIED


def test_a_target_that_certification_takes_back_does_not_end_the_search(bench):
    rule = LineageRule(Metric("loss"), fresh_runs=0)
    night(bench, [], rule=rule, certification=AT_END)
    baseline = summarize_run(bench.ledger()).champion_score.mean
    target = f"loss <= {baseline - 1.5 * SIGMA:.4f}"
    bench.program.write_text(bench.program.read_text().replace("8 experiments", target))
    assert night(bench, [LUCKY, BETTER, WORSE], rule=rule, certification=AT_END) == f"{target} reached"
    assert sum(row.kind is Kind.PROPOSAL for row in bench.ledger().experiments()) == 2
    assert f"{target}: not after certification, so the search goes on" in bench.recorder.notices


class Interrupted(LuckyTask):
    """Dies before its second trial."""

    def measure(self, candidate, **options):
        if self.measured:
            raise KeyboardInterrupt
        return super().measure(candidate, **options)


def test_killed_while_a_target_is_certified_the_run_goes_on_as_if_nothing_had_been(bench, twin):
    rule = LineageRule(Metric("loss"), fresh_runs=0)
    script = [LUCKY, BETTER, WORSE]
    for each in (bench, twin):
        night(each, [], rule=rule, certification=AT_END)
    baseline = summarize_run(twin.ledger()).champion_score.mean
    for each in (bench, twin):
        page = each.program.read_text()
        each.program.write_text(page.replace("8 experiments", f"loss <= {baseline - 1.5 * SIGMA:.4f}"))
    reason = night(twin, script, rule=rule, certification=AT_END)
    while (found := night(bench, script, Interrupted(), rule, AT_END)) == INTERRUPTED:
        pass
    assert found == reason
    assert substance(bench.ledger()) == substance(twin.ledger())


def test_certification_anew_that_was_cut_short_gets_no_further_share(bench, twin):
    for each in (bench, twin):
        night(each, certification=CertificationSettings(share=0.0, every=0))

    def anew(each, task):
        loop = each.loop(task, Scripted(SCRIPT), RULE, certification=AT_END)
        return loop.certify()

    assert anew(twin, LuckyTask()) == "certified"
    while anew(bench, Interrupted()) == INTERRUPTED:
        pass
    assert spent(twin.ledger())
    assert substance(bench.ledger()) == substance(twin.ledger())
