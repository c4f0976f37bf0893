"""Candidates that are the champion's program: the shorter text is kept, and nothing is spent on it."""

from dataclasses import replace

import pytest
from fakes import SOURCE, FakeTask, ScriptedProposer, moved

from autoresearch_jax.decide.rule import Action
from autoresearch_jax.proposers.base import Proposal
from autoresearch_jax.report.summary import summarize_run
from autoresearch_jax.types import Candidate, Status

OTHER = "\n\ndef other(x):\n    return x\n"
HELPER = "\n\ndef helper(x):\n    return x + 1\n"
BETTER = SOURCE.replace("LR = 0.5", "LR = 0.1")


def text(hypothesis: str, source: str) -> Proposal:
    return Proposal(hypothesis, "refactoring", source=source)


@pytest.fixture
def long_bench(bench, run_git):
    """A bench whose baseline carries a function that nothing calls."""
    (bench.repo / "train_lib.py").write_text(SOURCE + HELPER)
    run_git(bench.repo, "commit", "-qam", "a helper")
    return bench


def test_a_shorter_text_of_the_champions_program_takes_its_place(long_bench, run_git):
    bench = long_bench
    script = [
        text("comments only", SOURCE + HELPER + "# the end\n"),
        moved(LR=0.1),
        text("no helper", BETTER),
        text("more of it", BETTER + HELPER + "THIRD = print\n"),
        moved(DEPTH=6),
    ]
    task = FakeTask(noise=0)
    proposer = ScriptedProposer(script)
    bench.loop(task, proposer).run()
    ledger = bench.ledger()
    rows = ledger.experiments()
    duplicates = [rows[1], rows[3], rows[4]]
    assert [(row.status, row.score, row.decision) for row in duplicates] == [
        (Status.DUPLICATE, 1.6, Action.DISCARD),
        (Status.DUPLICATE, 1.2, Action.KEEP),
        (Status.DUPLICATE, 1.2, Action.DISCARD),
    ]
    assert rows[1].reason == (
        "the same program as the champion (experiment 0) in a text that is no shorter: 29 syntax nodes against 29"
    )
    assert rows[3].reason == (
        "the same program as the champion (experiment 2) with 9 fewer syntax nodes: a proven refactoring"
    )
    assert rows[4].reason.startswith("the same program as the champion (experiment 3) in a text that is no shorter: ")
    assert len(task.measured) == 3, "nothing is spent on a duplicate"

    # what follows starts from the shorter text, and is a pair with the trial that measured it
    assert proposer.briefs[4].champion_source == BETTER
    assert (rows[5].parent, rows[5].parent_commit) == (3, rows[3].commit)
    assert ledger.trials(5)[0].seed == ledger.trials(2)[0].seed
    assert rows[5].decision is Action.KEEP
    assert ledger.measured(rows[3]).id == ledger.measured(rows[4]).id == 2

    log = run_git(bench.repo, "log", "--format=%H", "--reverse", "main..autoresearch/night").split()
    assert log == [rows[2].commit, rows[3].commit, rows[5].commit]
    message = run_git(bench.repo, "log", "-1", "--format=%B", rows[3].commit)
    assert message == (
        f"no helper\n\n{rows[3].reason}\n\nExperiment: 3\nDecision: keep\nLoss: 1.200000\nRuns: 0\nProposer: scripted"
    )
    table = [line.split("\t") for line in bench.folder.results.read_text().splitlines()]
    assert table[4][1:] == ["1.200000", "", "keep", "no helper"]
    figures = summarize_run(ledger).lines()
    assert (figures["keep"], figures["duplicate"], figures["refactoring"]) == (2, 2, 1)


def test_the_tip_is_the_refactoring_and_is_restored_after_a_kill(long_bench, run_git):
    bench = long_bench
    script = ScriptedProposer([text("no helper", SOURCE)])
    bench.loop(FakeTask(noise=0), script).run()
    assert (bench.folder.workspace / "train_lib.py").read_text() == SOURCE
    tip = run_git(bench.repo, "rev-parse", "autoresearch/night")
    assert tip == bench.ledger().experiment(1).commit
    run_git(bench.repo, "update-ref", "refs/heads/autoresearch/night", "main")  # killed between ledger and ref
    (bench.folder.workspace / "train_lib.py").write_text("lost\n")
    bench.loop(FakeTask(noise=0), script).run()
    assert run_git(bench.repo, "rev-parse", "autoresearch/night") == tip
    assert (bench.folder.workspace / "train_lib.py").read_text() == SOURCE


def test_a_refactoring_does_not_put_off_the_end(long_bench):
    page = long_bench.program.read_text().replace("8 experiments", "no keep in 3 experiments")
    long_bench.program.write_text(page)
    script = [moved(DEPTH=2), text("no helper", SOURCE), moved(DEPTH=3), moved(DEPTH=8)]
    reason = long_bench.loop(FakeTask(noise=0), ScriptedProposer(script)).run()
    assert reason == "no keep in 3 experiments reached"
    assert len(long_bench.ledger().experiments()) == 4


def test_a_constant_of_the_page_is_no_ballast(bench):
    class Inlined(FakeTask):
        """Takes a source without LR for the program of the one with it."""

        def prepare(self, source, log_dir, **options):
            return super().prepare(source if "LR" in source else f"LR = 0.5\n{source}", log_dir)

    source = SOURCE.replace("LR = 0.5  # best at 0.1\n", "")
    bench.loop(Inlined(), ScriptedProposer([text("inline LR", source)])).run()
    row = bench.ledger().experiment(1)
    assert row.decision is Action.DISCARD
    assert row.reason.endswith("fewer syntax nodes, but without LR, which program.md lists to be moved")


def test_a_refactoring_moves_no_constant_of_the_page(long_bench):
    class Deaf(FakeTask):
        """A task whose programs do not hang on PATTERN."""

        def prepare(self, source, log_dir, **options):
            return super().prepare(source.replace("PATTERN = 'L'", 'PATTERN = "SL"'), log_dir)

    letter = SOURCE.replace('PATTERN = "SL"', "PATTERN = 'L'")
    script = [moved(PATTERN="L"), text("no helper, another pattern", letter), text("no helper", SOURCE)]
    bench = long_bench
    bench.loop(Deaf(), ScriptedProposer(script)).run()
    rows = bench.ledger().experiments()[1:]
    assert [(row.status, row.decision) for row in rows] == [
        (Status.DUPLICATE, Action.DISCARD),
        (Status.DUPLICATE, Action.DISCARD),
        (Status.DUPLICATE, Action.KEEP),
    ]
    assert "in a text that is no shorter: " in rows[0].reason
    assert rows[1].reason.endswith(
        "9 fewer syntax nodes, but with another PATTERN, which program.md lists: a value is kept for its score"
    )


class Hashing(FakeTask):
    """A task that hashes programs in its own way."""

    def __init__(self, version):
        super().__init__(noise=0)
        self._version = version
        self.prepared = []

    def prepare(self, source, log_dir, **options):
        self.prepared.append(source)
        candidate = super().prepare(source, log_dir, **options)
        return Candidate(source, f"{self._version}{candidate.program_hash}", facts={"hashed_by": self._version})

    def measure(self, candidate, **options):
        measurement = super().measure(candidate, **options)
        return replace(measurement, metrics={**measurement.metrics, **candidate.facts})


def test_a_champion_that_was_hashed_otherwise_is_prepared_again(long_bench):
    bench = long_bench
    script = [
        moved(LR=0.1),
        text("a helper more", BETTER + HELPER + OTHER),
        text("no helper", BETTER),
        text("more of it", BETTER + HELPER + "THIRD = print\n"),
        moved(DEPTH=6),
        text("a helper more", BETTER.replace("DEPTH = 4", "DEPTH = 6") + OTHER),
    ]
    bench.loop(Hashing("old"), ScriptedProposer(script), max_experiments=1).run()
    first, second = Hashing("new"), Hashing("new")
    bench.loop(first, ScriptedProposer(script), max_experiments=3).run()
    bench.loop(second, ScriptedProposer(script)).run()
    ledger = bench.ledger()
    rows = ledger.experiments()
    assert [(row.status, row.decision) for row in rows[1:]] == [
        (Status.OK, Action.KEEP),
        (Status.DUPLICATE, Action.DISCARD),
        (Status.DUPLICATE, Action.KEEP),
        (Status.DUPLICATE, Action.DISCARD),
        (Status.OK, Action.KEEP),
        (Status.DUPLICATE, Action.DISCARD),
    ]
    assert [ledger.measured(row).id for row in rows] == [0, 1, 1, 1, 1, 5, 5]
    assert ledger.trials(5)[0].seed == ledger.trials(1)[0].seed, "compared with the trial of the champion"
    source = ledger.source
    assert first.prepared == [source(2), source(1), source(3)], "the champion once, after the first candidate"
    assert second.prepared == [source(4), source(3), source(5), source(6)], (
        "again in another process, till another leads"
    )
