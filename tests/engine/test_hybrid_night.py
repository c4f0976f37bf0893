"""A whole night in miniature: optimizer and agent share 40 experiments, and the agent is a model on loopback."""

import ast
import dataclasses
import hashlib
import os
import random
import re
from contextlib import closing
from pathlib import Path

import pytest
from fakes import SOURCE, FakeTask
from gemini_server import MODEL, GeminiServer, Request, Step, answer, error, quick, says
from ledgers import substance

from autoresearch_jax.commands.proposer_options import ProposerSettings
from autoresearch_jax.commands.proposers import make_proposer
from autoresearch_jax.commands.run_observer import RunObserver
from autoresearch_jax.commands.status import describe
from autoresearch_jax.decide.rule import LineageRule, LineageSettings
from autoresearch_jax.engine.briefs import Asking
from autoresearch_jax.engine.integrity import ledger_page_differences
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.loop import Loop
from autoresearch_jax.engine.proposals import Precheck, read_recorded
from autoresearch_jax.proposers import hybrid, llm_client
from autoresearch_jax.proposers.base import rebase
from autoresearch_jax.proposers.replay import ReplayProposer
from autoresearch_jax.types import Candidate, Metric, Status

EXPERIMENTS = 40
CATEGORIES = ("attention", "normalization", "optimizer")
RULE = LineageRule(Metric("loss"), LineageSettings())
BLOCK = "def block(x):\n    return x\n"
PLANTED = "def block(x):\n    return x / abs(x)\n"  # what there is to be found
STRUCTURED = f"{SOURCE}\n\n{BLOCK}\n\ndef head(x):\n    return x\n"


class StructuredTask(FakeTask):
    """Scores the planted block 0.3 better, and knows a program by its syntax."""

    def prepare(self, source: str, log_dir: Path, *, beside_a_trial: bool = False) -> Candidate:
        candidate = super().prepare(source, log_dir, beside_a_trial=beside_a_trial)
        program = ast.dump(ast.parse(source))
        return dataclasses.replace(candidate, program_hash=hashlib.sha256(program.encode()).hexdigest())

    def measure(self, candidate, **options):
        measured = super().measure(candidate, **options)
        if measured.value is None or "x / abs(x)" in candidate.source:
            return measured
        return dataclasses.replace(measured, value=measured.value + 0.3)


class Skilled:
    """Finds the planted block where it is asked for normalization, half of the time; stumbles now and then.

    What it answers follows from the experiment and the turns of the conversation.
    """

    def __call__(self, request: Request) -> Step:
        number = int(re.search(r"# Experiment (\d+)", request.text)[1])
        draw = random.Random(f"{number}")
        is_first = len(request.texts) == 1
        if is_first and draw.random() < 0.2:
            return draw.choice(
                [says('{"hypothesis": '), answer([("no such line", "x")]), answer([("LR", "LR = = 1 #")])]
            )
        asked = re.search(r'kind of change that is asked for: "(\w+)"', request.text)
        category = asked[1] if asked else draw.choice(CATEGORIES)
        if (
            category == "normalization"
            and "x / abs(x)" not in request.text.split("# A page")[1]
            and draw.random() < 0.5
        ):
            return answer([(BLOCK, PLANTED)], hypothesis="normalize the block", category=category, effect=-0.3)
        place = "def head(x):\n    return x\n"
        useless = f"def head(x):\n    return x  # {number}\n\n\ndef unused_{number}(x):\n    return x\n"
        return answer([(place, useless)], hypothesis=f"a helper {number}", category=category, effect=-0.001)


def loop_of(bench, server: GeminiServer, task: FakeTask, experiments: int = EXPERIMENTS) -> Loop:
    """A loop of the hybrid, wired as the command line does it."""
    asking = Asking(CATEGORIES, plateau=8)
    precheck = Precheck(task, bench.folder)
    proposer = make_proposer(
        ProposerSettings("hybrid", gemini=quick(server), asking=asking),
        bench.workspace(),
        bench.folder,
        os.environ,
        precheck.check,
        bench.recorder,
    )
    return bench.loop(task, proposer, RULE, max_experiments=experiments, asking=asking, precheck=precheck)


@pytest.fixture
def structured(bench, run_git):
    """A bench whose training file has something to be found in its structure, too."""
    (bench.repo / "train_lib.py").write_text(STRUCTURED)
    run_git(bench.repo, "commit", "-qam", "structure")
    return bench


@pytest.mark.slow
def test_the_hybrid_finds_what_was_planted_and_replay_gives_the_same_ledger(structured, tmp_path, run_git):
    bench = structured
    with GeminiServer(Skilled()) as server:
        assert loop_of(bench, server, StructuredTask()).run() == f"{EXPERIMENTS} experiments reached"
    ledger = bench.ledger()
    rows = ledger.experiments()
    champion = [row for row in rows if row.decision == "keep"][-1]
    assert PLANTED in ledger.source(champion.id)
    constants = champion.constants
    assert (constants["PATTERN"], constants["DEPTH"]) == ("SSSL", 6)
    assert 0.05 < constants["LR"] < 0.2, "best at 0.1"
    by_proposer = {name: [row for row in rows if row.proposer == name] for name in ("constants", "gemini")}
    assert {len(found) >= EXPERIMENTS // 5 for found in by_proposer.values()} == {True}, "each has its share"
    assert {row.category for row in by_proposer["gemini"]} >= set(CATEGORIES)
    assert max(len(request.texts) for request in server.requests) >= 3, "some answers went back"
    assert not [row for row in rows if row.status is Status.CRASH]
    assert ledger_page_differences(bench.folder.ledger) == []

    replayed = bench.with_tag("again")
    recorded = read_recorded(bench.folder)
    proposer = ReplayProposer(recorded, lambda made, base, brief: rebase(made, base, brief, bench.workspace().merge))
    reason = replayed.loop(StructuredTask(), proposer, RULE, max_experiments=EXPERIMENTS).run()
    assert reason == f"{EXPERIMENTS} experiments reached"
    assert substance(replayed.ledger()) == substance(ledger)


def test_status_tells_of_a_service_that_is_down_until_it_answers(structured, monkeypatch, capsys):
    monkeypatch.setattr(hybrid, "MIN_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(llm_client, "RETRY_SECONDS", 0.01)
    bench, task, seen = structured, StructuredTask(), []

    def step(request: Request) -> Step:
        with closing(Ledger.open_to_read(bench.folder.ledger)) as ledger:
            seen.append(describe(ledger, bench.folder))
        return error(503, "on fire") if len(seen) <= llm_client.ATTEMPTS else Skilled()(request)

    with GeminiServer(step) as server:
        bench.folder.create()
        bench.recorder = RunObserver(bench.folder, bench.ledger(), task.metric)
        loop = loop_of(bench, server, task, 12)
        with bench.folder.lock():
            loop.run()
            after = describe(bench.ledger(), bench.folder)
    before, down = seen[0], seen[llm_client.ATTEMPTS]
    assert before["service_down"] is after["service_down"] is down["waiting"] is None
    assert re.fullmatch(rf"{MODEL}: the service says 503: on fire; since \S+, tried again at \S+", down["service_down"])
    _, *notices = [line for line in capsys.readouterr().err.splitlines() if line.startswith("autoresearch run: ")]
    assert [("503" in line, "gemini answers again" in line) for line in notices] == [(True, False), (False, True)]
