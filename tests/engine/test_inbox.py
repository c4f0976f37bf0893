"""Texts that are handed to a run take the place of proposals, in their order."""

import threading

from fakes import SOURCE, FakeTask, ScriptedProposer, moved

from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.inbox import HAND, Inbox, nearest
from autoresearch_jax.proposers.base import Proposal, ServiceDown
from autoresearch_jax.types import Status

BETTER = SOURCE.replace("LR = 0.5", "LR = 0.1")
DEEP = SOURCE.replace("DEPTH = 4", "DEPTH = 6")


def hand_in(bench, source: str, hypothesis: str = "by hand", base: str | None = SOURCE) -> int:
    return Inbox(bench.ledger()).add(hypothesis, "architecture", base, source)


def test_a_text_is_measured_before_anything_is_proposed(bench):
    proposer = ScriptedProposer([moved(LR=0.1), moved(LR=0.2)])
    bench.loop(FakeTask(noise=0), proposer, max_experiments=0).run()
    number = hand_in(bench, DEEP, "deeper")
    loop = bench.loop(FakeTask(noise=0), proposer, max_experiments=2)
    assert loop.run() == "2 experiments reached"
    rows = bench.ledger().experiments()
    assert [(row.proposer, row.hypothesis, row.category) for row in rows[1:]] == [
        (HAND, "deeper", "architecture"),
        ("scripted", "LR 0.2", "constants"),
    ]
    assert (rows[1].decision, rows[1].commit) == (Action.KEEP, rows[2].parent_commit)
    assert bench.ledger().source(1) == DEEP
    assert Inbox(bench.ledger()).get(number).experiment == 1
    assert [brief.experiment for brief in proposer.briefs] == [2]


def test_a_change_is_carried_over_to_the_champion_that_came_meanwhile(bench):
    bench.loop(FakeTask(noise=0), ScriptedProposer([moved(LR=0.1)]), max_experiments=1).run()
    hand_in(bench, DEEP)
    hand_in(bench, SOURCE.replace("LR = 0.5  #", "LR = 0.7  # mine:"))
    hand_in(bench, DEEP.replace("6  #", "5  #"), base=None)
    hand_in(bench, "", base=None)
    bench.loop(FakeTask(noise=0), ScriptedProposer([]), max_experiments=5).run()
    ledger = bench.ledger()
    assert ledger.source(2) == DEEP.replace("LR = 0.5", "LR = 0.1")
    carried, refused, as_it_stands, empty = ledger.experiments()[2:]
    assert (ledger.source(empty.id), empty.decision) == ("", Action.DISCARD)
    assert empty.status is not Status.DUPLICATE, "it is not the champion's text"
    assert carried.decision is Action.KEEP
    assert (refused.status, refused.score) == (Status.REJECTED, None)
    assert "experiment 2" in refused.reason
    assert as_it_stands.constants["LR"] == 0.5
    assert as_it_stands.status is Status.OK


def test_what_was_proposed_ahead_for_its_number_is_put_off(bench):
    class Ahead(ScriptedProposer):
        def __init__(self):
            super().__init__([])
            self.beside: list[bool] = []

        def propose(self, brief):
            self.beside.append(threading.current_thread() is not threading.main_thread())
            old, new = [("LR = 0.5", "LR = 0.1"), ("DEPTH = 4", "DEPTH = 6")][len(self.beside) - 1]
            return Proposal(new, "code", source=brief.champion_source.replace(old, new))

        def asks_ahead(self, brief):
            return len(self.beside) == 1

    class HandedInMeanwhile(FakeTask):
        def measure(self, candidate, **more):
            if "LR = 0.1" in candidate.source and len(bench.ledger().experiments()) == 2:
                hand_in(bench, SOURCE.replace('"SL"', '"SSSL"'), "while a trial runs")
            return super().measure(candidate, **more)

    proposer = Ahead()
    bench.loop(HandedInMeanwhile(noise=0), proposer, max_experiments=3).run()
    rows = bench.ledger().experiments()
    assert [row.hypothesis for row in rows[1:]] == ["LR = 0.1", "while a trial runs", "DEPTH = 6"]
    assert proposer.beside == [False, True], "what was paid for is not asked for again"
    assert rows[3].score == 1.0, "each keeps what came before"


def test_by_hand_no_limit_ends_it_and_nothing_is_proposed(bench):
    proposer = ScriptedProposer([moved(LR=0.1)] * 9)
    bench.loop(FakeTask(noise=0), proposer, max_experiments=0).run()
    first, second = hand_in(bench, DEEP), hand_in(bench, BETTER)
    left = hand_in(bench, SOURCE.replace("DEPTH = 4", "DEPTH = 5"))
    bench.loop(FakeTask(noise=0), proposer, max_experiments=0).run()
    assert Inbox(bench.ledger()).num_waiting() == 3, "a driver that is at its end leaves them"
    loop = bench.loop(FakeTask(noise=0), proposer, max_experiments=0)
    loop.measure_text(second)
    inbox = Inbox(bench.ledger())
    assert [inbox.get(number).experiment for number in (first, second, left)] == [1, 2, None]
    assert proposer.briefs == []
    assert bench.ledger().settings()["ends"] == "0 experiments", "of the next driver"


def test_by_hand_an_open_experiment_comes_first(bench):
    class Cut(FakeTask):
        def measure(self, candidate, **more):
            if "LR = 0.1" in candidate.source:
                raise KeyboardInterrupt
            return super().measure(candidate, **more)

    assert bench.loop(Cut(noise=0), ScriptedProposer([moved(LR=0.1)]), max_experiments=1).run().startswith("interr")
    number = hand_in(bench, DEEP)
    bench.loop(FakeTask(noise=0), ScriptedProposer([])).measure_text(number)
    rows = bench.ledger().experiments()
    assert [(row.proposer, row.status) for row in rows[1:]] == [("scripted", Status.OK), (HAND, Status.OK)]
    assert rows[2].constants == {**rows[0].constants, "LR": 0.1, "DEPTH": 6}


def test_a_run_begins_with_what_is_committed(bench):
    (bench.repo / "train_lib.py").write_text(DEEP)
    bench.folder.create()
    number = hand_in(bench, DEEP)
    bench.loop(FakeTask(noise=0), ScriptedProposer([])).measure_text(number)
    ledger = bench.ledger()
    assert [ledger.source(number) for number in (0, 1)] == [SOURCE, DEEP]


def test_a_text_that_differs_in_comments_and_layout_alone_is_not_traced(bench):
    worse = SOURCE.replace("DEPTH = 4", "DEPTH = 2")
    bench.loop(FakeTask(noise=0), ScriptedProposer([moved(DEPTH=2)]), max_experiments=1).run()
    number = hand_in(bench, '"""Other words."""\n\n\n' + worse.split("\n", 1)[1].replace("  # best at 6", ""))
    again = hand_in(bench, SOURCE.replace("three", "3"))
    task = FakeTask(noise=0)
    bench.loop(task, ScriptedProposer([])).measure_text(again)
    ledger = bench.ledger()
    rows = [ledger.experiment(Inbox(ledger).get(one).experiment) for one in (number, again)]
    assert [row.status for row in rows] == [Status.DUPLICATE] * 2
    assert [row.program_hash for row in rows] == [ledger.experiment(1).program_hash, ledger.experiment(0).program_hash]
    assert task.traced == []


def test_while_a_service_is_down_there_is_something_to_do(bench):
    """The wait ends as soon as a text is there."""

    class Down(ScriptedProposer):
        def propose(self, brief):
            self.briefs.append(brief)
            if len(self.briefs) == 1:
                hand_in(bench, DEEP)
                raise ServiceDown("no answer", retry_seconds=3600.0)
            return moved(LR=0.1)

    proposer = Down([])
    assert bench.loop(FakeTask(noise=0), proposer, max_experiments=2).run() == "2 experiments reached"
    assert [row.proposer for row in bench.ledger().experiments()[1:]] == [HAND, "scripted"]


def test_the_base_of_a_text_is_what_it_differs_from_least():
    texts = {0: SOURCE, 3: BETTER, 4: BETTER.replace("DEPTH = 4", "DEPTH = 6")}
    assert nearest(SOURCE + "# mine\n", texts) == [0]
    assert nearest(texts[4].replace('"SL"', '"L"'), texts) == [4]
    assert nearest(SOURCE.replace("LR = 0.5", "LR = 0.3"), texts) == [3, 0]
