"""A model that misbehaves in every way, in the loop: each scenario ends with a consistent ledger."""

import os
import re
import signal
from contextlib import closing

import pytest
from fakes import FakeTask
from gemini_server import KEY, MODEL, GeminiServer, Request, Step, answer, drip, error, quick, says

from autoresearch_jax.commands.proposer_options import ProposerSettings
from autoresearch_jax.commands.proposers import make_proposer
from autoresearch_jax.commands.run_observer import RunObserver
from autoresearch_jax.commands.status import describe
from autoresearch_jax.engine.integrity import ledger_page_differences
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.loop import Loop
from autoresearch_jax.engine.proposals import Precheck
from autoresearch_jax.proposers import llm_client
from autoresearch_jax.proposers.base import NO_PROPOSAL
from autoresearch_jax.proposers.llm_budget import SpendingLimits
from autoresearch_jax.report.summary import summarize_run
from autoresearch_jax.types import Status

GOOD = answer([("LR = 0.5", "LR = 0.1")])
CRASHING = answer([('FAULT = "none"', 'FAULT = "reject"')])
COMMENT = answer([("DEPTH = 4  # best at 6", "DEPTH = 4  # why")])

# What the model does when it is asked for experiment 1, and what becomes of that experiment.
MEASURED = {
    "a crash of the trace, then a good answer": [CRASHING, GOOD],
    "three failures of the service, then a good answer": [error(500), error(503), error(502), GOOD],
}
NOT_MEASURED = {
    "never JSON": ([says("no")] * 3, Status.REJECTED, "the answer is not JSON"),
    "always what changes nothing": ([COMMENT] * 2, Status.DUPLICATE, "the same program as the champion"),
}


def loop_of(bench, server: GeminiServer, task: FakeTask, experiments: int | None = 1, **options) -> Loop:
    """A loop whose proposer is a model, wired as the command line does it."""
    precheck = Precheck(task, bench.folder)
    proposer = make_proposer(
        ProposerSettings("gemini", gemini=quick(server, **options)),
        bench.workspace(),
        bench.folder,
        os.environ,
        precheck.check,
        bench.recorder,
    )
    return bench.loop(task, proposer, max_experiments=experiments, precheck=precheck)


def check(bench, num_experiments: int = 1) -> None:
    """What must hold whatever happened."""
    assert ledger_page_differences(bench.folder.ledger) == []
    rows = bench.ledger().experiments()
    assert [row.id for row in rows] == list(range(num_experiments + 1))
    assert not [row for row in rows if row.is_open]
    assert len((bench.folder.results).read_text().splitlines()) == len(rows) + 1
    for path in bench.folder.path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("scenario", MEASURED)
def test_what_can_be_mended_is_measured_in_the_end(bench, scenario):
    steps = MEASURED[scenario]
    with GeminiServer(steps) as server:
        assert loop_of(bench, server, FakeTask(noise=0)).run() == "1 experiments reached"
    assert len(server.requests) == len(steps)
    row = bench.ledger().experiment(1)
    assert (row.status, row.score) == (Status.OK, 1.2)
    assert (row.hypothesis, row.category) == ("a smaller step (expected: -0.01)", "optimizer")
    check(bench)


@pytest.mark.parametrize("scenario", NOT_MEASURED)
def test_what_cannot_is_written_down_and_costs_no_trial(bench, scenario):
    steps, status, words = NOT_MEASURED[scenario]
    task = FakeTask(noise=0)
    with GeminiServer([*steps, GOOD]) as server:
        loop_of(bench, server, task).run()
    assert len(server.requests) == len(steps)
    row = bench.ledger().experiment(1)
    assert row.status is status
    assert words in row.reason
    assert (row.hypothesis == NO_PROPOSAL) == (status is Status.REJECTED)
    assert len(task.measured) == 1, "the baseline"
    check(bench)


def test_status_says_which_service_is_down_and_the_run_that_it_answers_again(bench, monkeypatch, capsys):
    monkeypatch.setattr(llm_client, "RETRY_SECONDS", 0.01)
    task, seen = FakeTask(noise=0), []

    def step(request: Request) -> Step:
        with closing(Ledger.open_to_read(bench.folder.ledger)) as ledger:
            seen.append(describe(ledger, bench.folder)["waiting"])
        return error(503, "on fire") if len(seen) <= llm_client.ATTEMPTS else GOOD

    with GeminiServer(step) as server:
        bench.folder.create()
        bench.recorder = RunObserver(bench.folder, bench.ledger(), task.metric)
        loop = loop_of(bench, server, task)
        with bench.folder.lock():
            loop.run()
            seen.append(describe(bench.ledger(), bench.folder)["waiting"])
    before, down, after = seen[0], *seen[llm_client.ATTEMPTS :]
    assert before is after is None
    assert re.fullmatch(rf"{MODEL}: the service says 503: on fire; since \S+, tried again at \S+", down)
    _, *notices = [line for line in capsys.readouterr().err.splitlines() if line.startswith("autoresearch run: ")]
    assert [("503" in line, "answers again" in line) for line in notices] == [(True, False), (False, True)]


def test_it_is_asked_ahead_and_what_it_costs_is_that_experiments(bench):
    def step(request):
        (line,) = [line for line in request.text.splitlines() if line.startswith("LR = ")]
        number = int(re.search(r"# Experiment (\d+)", request.text)[1])
        return answer([(line, f"LR = {0.5 + number / 100:.2f}")])

    with GeminiServer(step) as server:
        assert loop_of(bench, server, FakeTask(0.05, noise=0), 4).run() == "4 experiments reached"
    running = [re.search(r"Being measured right now", request.text) is not None for request in server.requests]
    assert running == [False, True, True, True]
    rows = bench.ledger().experiments()
    assert all(row.cost_dollars > 0 for row in rows[1:])
    check(bench, 4)


def test_a_limit_ends_the_run_holds_for_the_next_process_and_is_told(bench):
    with GeminiServer(lambda request: GOOD) as server:
        limits = SpendingLimits(dollars=2.5, requests=1)
        reason = loop_of(bench, server, FakeTask(noise=0), 5, limits=limits).run()
        assert reason.startswith("--max_requests=1")
        assert loop_of(bench, server, FakeTask(noise=0), 5, limits=limits).run() == reason
    assert len(server.requests) == 1
    for figures in (summarize_run(bench.ledger(), bench.folder).lines(), describe(bench.ledger(), bench.folder)):
        taken = [figures[name] for name in ("tokens", "max_dollars", "requests", "max_requests")]
        assert taken == [1250, 2.5, 1, 1]
        assert "max_tokens" not in figures
    check(bench, 1)


def test_a_signal_in_the_midst_of_a_drip_ends_the_run_and_the_request(bench):
    with GeminiServer([drip(before=lambda: os.kill(os.getpid(), signal.SIGINT)), GOOD]) as server:
        assert loop_of(bench, server, FakeTask(noise=0)).run().startswith("interrupted")
        assert loop_of(bench, server, FakeTask(noise=0)).run() == "1 experiments reached"
    assert bench.ledger().experiment(1).score == 1.2
    check(bench)
