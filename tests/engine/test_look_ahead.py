"""The next proposal is asked for and traced while a trial runs, and no answer that was paid for is lost."""

import dataclasses
import json
import os
import signal
import threading
from concurrent.futures import Future

import pytest
from fakes import SOURCE, FakeTask, ScriptedProposer

from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.briefs import as_running
from autoresearch_jax.engine.proposals import PROPOSAL_FILE, Precheck, kept_proposal
from autoresearch_jax.engine.same_program import repetition
from autoresearch_jax.proposers.base import LimitReached, Proposal, ProposalFailed
from autoresearch_jax.proposers.command import Agent as CommandAgent
from autoresearch_jax.proposers.command import CommandProposer
from autoresearch_jax.types import CandidateRejected, Measurement, Status


def code(champion: str, *edits: tuple[str, str], cost: float = 0.25) -> Proposal:
    for old, new in edits:
        assert champion.count(old) == 1, old
        champion = champion.replace(old, new)
    return Proposal("; ".join(new for _, new in edits), "code", source=champion, cost_dollars=cost)


class Agent(ScriptedProposer):
    """Edits the champion it is told of, slowly enough to be asked ahead; an edit may be an exception instead."""

    name = "agent"

    def __init__(self, edits, examine=None):
        super().__init__([])
        self._edits = edits
        self._examine = examine
        self.threads: list[bool] = []  # for each brief: was it asked for ahead?
        self.priorities: list[int] = []  # of the thread that asked, as nice values
        self.objections: list[object] = []

    def propose(self, brief):
        self.briefs.append(brief)
        self.threads.append(threading.current_thread() is not threading.main_thread())
        self.priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        edit = self._edits[brief.experiment - 1]
        if isinstance(edit, Exception):
            raise edit
        proposal = code(brief.champion_source, *edit)
        if self._examine is not None:
            self.objections.append(self._examine(brief, proposal))
        return proposal

    def asks_ahead(self, brief):
        return True


LR = ("LR = 0.5", "LR = 0.1")
DEPTH = ("DEPTH = 4", "DEPTH = 6")
PATTERN = ('PATTERN = "SL"', 'PATTERN = "SSSL"')
WORSE = ("DEPTH = 4", "DEPTH = 2")


def test_a_night_ahead_of_itself(bench):
    agent = Agent([[LR], [DEPTH], [PATTERN]])
    assert bench.loop(FakeTask(noise=0), agent, max_experiments=3).run() == "3 experiments reached"
    rows = bench.ledger().experiments()
    assert agent.threads == [False, True, True], "the first has nothing to run beside"
    assert agent.priorities[1:] == [19, 19] > [agent.priorities[0]], "a trial comes first"
    assert [[one.experiment for one in brief.running] for brief in agent.briefs] == [[], [1], [2]]
    (running,) = agent.briefs[1].running
    assert (running.hypothesis, running.constants["LR"]) == ("LR = 0.1", 0.1)
    assert [outcome.experiment for outcome in agent.briefs[1].history] == [0]
    assert agent.briefs[1].limits_left == ("2 experiments",)
    assert [row.decision for row in rows] == [Action.KEEP] * 4
    assert rows[3].score == 1.0, "each was made for the champion before, and carried over to the new one"
    assert [(row.proposer, row.cost_dollars) for row in rows[1:]] == [("agent", 0.25)] * 3


def test_what_does_not_fit_the_new_champion_is_dropped_and_asked_for_again(bench):
    agent = Agent([[("LR = 0.5  # best at 0.1", "LR = 0.1")], [("0.5  # best at 0.1", "0.2  # why not")]])
    agent._edits.append([DEPTH])
    original = agent.propose

    def propose(brief):
        if brief.experiment == 2 and "0.5" not in brief.champion_source:
            agent._edits[1] = [DEPTH]
            return dataclasses.replace(original(brief), cost_dollars=0.1)
        return original(brief)

    agent.propose = propose
    bench.loop(FakeTask(noise=0), agent, max_experiments=2).run()
    rows = bench.ledger().experiments()
    assert agent.threads == [False, True, False]
    assert (rows[2].hypothesis, rows[2].score) == ("DEPTH = 6", 1.1)
    assert rows[2].cost_dollars == 0.25, "what was dropped was paid for, too"
    (notice,) = bench.recorder.notices
    assert notice.startswith("what was proposed for experiment 2 while another was measured does not fit")
    stale = json.loads((bench.folder.llm_dir(2) / "stale.json").read_text())
    assert stale["hypothesis"] == "0.2  # why not"


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="needs Linux")
def test_what_is_traced_ahead_is_so_once_in_the_time_that_the_trial_leaves_and_the_agent_has_more(bench):
    class Watched(FakeTask):
        def prepare(self, source, log_dir, *, beside_a_trial=False):
            self.policies.append(os.sched_getscheduler(0))
            return super().prepare(source, log_dir, beside_a_trial=beside_a_trial)

    task = Watched(noise=0)
    task.policies = []
    precheck = bench.loop(task)._parts.precheck
    agent = Agent([[WORSE], [DEPTH]], examine=precheck.check)
    own = []
    original = agent.propose
    agent.propose = lambda brief: (original(brief), own.append(os.sched_getscheduler(0)))[0]
    bench.loop(task, agent, max_experiments=2, precheck=precheck).run()
    assert task.policies == [os.SCHED_OTHER, os.SCHED_OTHER, os.SCHED_IDLE]
    assert own == [os.SCHED_OTHER, os.SCHED_OTHER]
    assert agent.objections == [None, None]
    beside = [is_beside for _, is_beside in task.traced]
    assert beside == [False, False, True], "the baseline, the first in the main thread, the second beside the first"


def test_a_text_that_was_measured_before_is_objected_to_with_what_came_of_it(bench):
    task = FakeTask(noise=0)
    precheck = bench.loop(task)._parts.precheck
    rejected = ('FAULT = "none"', 'FAULT = "reject"')
    comment = ('"""A training file of three constants."""', '"""A file."""')
    agent = Agent([[WORSE], [comment], [WORSE], [rejected], [LR]], examine=precheck.check)
    bench.loop(task, agent, max_experiments=5, precheck=precheck).run()
    first, changed_nothing, again, refused, good = agent.objections
    assert (first, good) == (None, None)
    assert changed_nothing.repeats
    assert changed_nothing.text.startswith("it changes nothing: it is the champion's own program (experiment 0")
    assert again.repeats
    assert again.text == (
        'it is the same program as experiment 1, "DEPTH = 2", which was discarded with 1.7: propose something else'
    )
    assert (refused.text, refused.repeats) == ("it cannot be measured: no build", False)
    now, known = agent.briefs[-1], bench.ledger().experiment(1)
    others = [outcome for outcome in now.history if outcome.program_hash != known.program_hash]
    out = dataclasses.replace(now, history=others, running=[as_running(known)])
    objection = repetition(out, bench.ledger().source(3), known.program_hash)
    assert objection.repeats
    assert 'experiment 1, "DEPTH = 2", which is being measured right now' in objection.text
    statuses = [row.status for row in bench.ledger().experiments()]
    assert statuses == [Status.OK, Status.OK, Status.DUPLICATE, Status.DUPLICATE, Status.REJECTED, Status.OK]
    assert len(task.measured) == 3


@pytest.mark.parametrize("left", [LimitReached("--max_requests=1: spent"), ProposalFailed("nothing", 0.5, "agent")])
def test_what_a_proposer_raises_ahead_counts_when_its_turn_comes(bench, left):
    agent = Agent([[LR], left, [DEPTH]])
    reason = bench.loop(FakeTask(noise=0), agent, max_experiments=3).run()
    rows = bench.ledger().experiments()
    assert rows[1].status is Status.OK
    if isinstance(left, LimitReached):
        assert reason == "--max_requests=1: spent"
        assert len(rows) == 2
    else:
        assert (rows[2].status, rows[2].reason, rows[2].cost_dollars) == (Status.REJECTED, "nothing", 0.5)
        assert rows[3].score == 1.1


class Interrupted(FakeTask):
    """Ends the process, as far as the loop can tell, in the trial of experiment 1, once the one after is proposed."""

    def __init__(self, ready):
        super().__init__(noise=0)
        self._ready = ready

    def measure(self, candidate, **options) -> Measurement:
        if "LR = 0.1" in candidate.source:
            assert self._ready.wait(60)
            raise KeyboardInterrupt
        return super().measure(candidate, **options)


def test_a_proposal_made_ahead_outlives_the_process_that_paid_for_it(bench):
    ready = threading.Event()
    agent = Agent([[LR], [DEPTH]])
    original = agent.propose

    def propose(brief):
        proposal = original(brief)
        if brief.experiment == 2:
            threading.Timer(0.2, ready.set).start()  # when it is on disk
        return proposal

    agent.propose = propose
    assert bench.loop(Interrupted(ready), agent, max_experiments=2).run().startswith("interrupted")
    assert bench.ledger().open_experiments()[0].id == 1
    stored = json.loads((bench.folder.llm_dir(2) / "proposal.json").read_text())
    assert (stored["hypothesis"], stored["champion"], stored["proposer"]) == ("DEPTH = 6", 0, "agent")
    nobody = Agent([])
    assert bench.loop(FakeTask(noise=0), nobody, max_experiments=2).run() == "2 experiments reached"
    assert nobody.briefs == []
    rows = bench.ledger().experiments()
    assert (rows[2].hypothesis, rows[2].score, rows[2].cost_dollars) == ("DEPTH = 6", 1.1, 0.25)
    assert SOURCE.replace("LR = 0.5", "LR = 0.1") == bench.ledger().source(1)


def test_the_end_of_a_run_ends_what_is_traced_ahead_and_loses_nothing_that_was_paid_for(bench):
    begun = threading.Event()

    class Slow(Interrupted):
        """A trace beside a trial lasts until the task is closed."""

        def __init__(self):
            super().__init__(begun)
            self.ended = threading.Event()

        def prepare(self, source, log_dir, *, beside_a_trial=False):
            if beside_a_trial:
                begun.set()
                assert self.ended.wait(60)
                raise RuntimeError("closed")
            return super().prepare(source, log_dir)

        def close(self):
            self.ended.set()

    task = Slow()
    precheck = Precheck(task, bench.folder)
    agent = Agent([[LR], [DEPTH]], precheck.check)
    assert bench.loop(task, agent, max_experiments=2, precheck=precheck).run().startswith("interrupted")
    assert task.ended.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "look-ahead"]
    assert kept_proposal(bench.folder, 2) is not None


def test_a_kill_while_a_text_is_traced_loses_nothing_that_was_paid_for(bench):
    class Killed(FakeTask):
        def prepare(self, source, log_dir, **options):
            if "LR = 0.1" in source:
                raise KeyboardInterrupt
            return super().prepare(source, log_dir, **options)

    task = Killed(noise=0)
    precheck = bench.loop(task)._parts.precheck
    agent = Agent([[LR]], examine=precheck.check)
    assert bench.loop(task, agent, max_experiments=1, precheck=precheck).run().startswith("interrupted")
    assert bench.ledger().open_experiments() == []
    nobody = Agent([])
    assert bench.loop(FakeTask(noise=0), nobody, max_experiments=1).run() == "1 experiments reached"
    assert nobody.briefs == []
    row = bench.ledger().experiment(1)
    assert (row.score, row.cost_dollars, row.hypothesis) == (1.2, 0.25, "LR = 0.1")


def test_what_a_busy_machine_refuses_ahead_is_tried_again_in_its_turn(bench):
    class Busy(FakeTask):
        def prepare(self, source, log_dir, *, beside_a_trial=False):
            if beside_a_trial:
                raise CandidateRejected(Status.TIMEOUT, "took longer than 300 s")
            return super().prepare(source, log_dir)

    task = Busy(noise=0)
    precheck = bench.loop(task)._parts.precheck
    agent = Agent([[LR], [DEPTH]], examine=precheck.check)
    bench.loop(task, agent, max_experiments=2, precheck=precheck).run()
    assert agent.threads == [False, True]
    assert agent.objections == [None, None]
    assert bench.ledger().experiment(2).score == 1.1


def test_a_signal_while_the_loop_waits_for_an_answer_ends_who_is_thinking(bench):
    closed = threading.Event()

    class Thinking(Agent):
        def propose(self, brief):
            if brief.experiment == 2:
                threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()  # the trial is over by then
                assert closed.wait(60)
                raise ProposalFailed("closed")
            return super().propose(brief)

        def close(self):
            closed.set()

    assert bench.loop(FakeTask(noise=0), Thinking([[LR]]), max_experiments=2).run().startswith("interrupted")
    assert bench.ledger().experiment(1).score == 1.2
    assert not [thread for thread in threading.enumerate() if thread.name == "look-ahead"]


def test_a_proposal_under_way_is_waited_for_before_its_number_is_taken(bench, tmp_path):
    class Late(Future):
        """Its answer is on disk once it was waited for."""

        def exception(self, timeout=None):
            (tmp_path / "answer").rename(path)
            self.set_result(None)
            return super().exception(timeout)

    loop = bench.loop(FakeTask(noise=0), Agent([[LR], [DEPTH]]), max_experiments=2)
    loop.run()
    path = bench.folder.llm_path(2) / PROPOSAL_FILE
    path.rename(tmp_path / "answer")
    loop._proposals._ahead = 2, Late()
    loop._proposals.put_off(2)
    assert kept_proposal(bench.folder, 2) is None
    assert kept_proposal(bench.folder, 3).proposal.hypothesis == "DEPTH = 6"


class Endless(FakeTask):
    """Its trace of DEPTH 2 never ends."""

    def prepare(self, source, log_dir, **options):
        if "DEPTH = 2" not in source:
            return super().prepare(source, log_dir, **options)
        self.timed_out.append(source)
        raise CandidateRejected(Status.TIMEOUT, "the trace ran longer than 60 s")

    def __init__(self):
        super().__init__(noise=0)
        self.timed_out = []


def test_a_trace_that_never_ends_goes_back_once_and_costs_two_traces_at_most(bench, tmp_path):
    task = Endless()
    precheck = bench.loop(task)._parts.precheck
    agent = CommandProposer(
        CommandAgent(
            f"echo >> {tmp_path}/calls; sed -i 's/^DEPTH = 4/DEPTH = 2/' train_lib.py; echo '# more' >> train_lib.py",
            60,
            repair_rounds=5,
        ),
        "train_lib.py",
        lambda folder: None,
        bench.folder.llm_dir,
        os.environ,
        tmp_path,
        precheck.check,
    )
    bench.loop(task, agent, max_experiments=1, precheck=precheck).run()
    assert len((tmp_path / "calls").read_text()) == 2
    assert len(task.timed_out) == 2
    row = bench.ledger().experiment(1)
    assert (row.status, row.reason) == (Status.TIMEOUT, "the trace ran longer than 60 s")
