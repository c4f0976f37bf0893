"""Limits of what a run may spend: none is exceeded, and none is forgotten."""

import dataclasses
import json
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes import SOURCE
from gemini_server import GeminiServer, Request, Step, answer, drip, error, llm_dir, quick, raw, says

from autoresearch_jax.proposers.base import Brief, LimitReached, ProposalFailed, ServiceDown
from autoresearch_jax.proposers.llm import GeminiProposer
from autoresearch_jax.proposers.llm_budget import (
    DEFAULT_MODEL,
    ExchangeError,
    GeminiOptions,
    Price,
    SpendingLimits,
    Usage,
    check_limits,
    cost,
    reported_usage,
)
from autoresearch_jax.types import Metric

BRIEF = Brief(3, 0, Metric("loss"), "# A page\n", (), SOURCE, {}, 1.98, ())
GOOD = answer([("LR = 0.5", "LR = 0.1")], usage=(1000, 200, 50))  # 1250 tokens
PRICE = Price(1.0, 4.0)  # 0.002 dollars for GOOD
OUTPUT = 500  # --max_output_tokens


def propose(server: GeminiServer, folder: Path, experiment: int = 3, **options) -> float:
    """What a proposal cost, of a new process as far as the proposer can tell."""
    proposer = GeminiProposer(
        quick(server, **{"price": PRICE, "max_output_tokens": OUTPUT, **options}),
        "train_lib.py",
        None,
        llm_dir(folder),
    )
    return proposer.propose(dataclasses.replace(BRIEF, experiment=experiment)).cost_dollars


def until_the_limit(folder: Path, limits: SpendingLimits) -> tuple[int, str]:
    """Proposals of one new proposer each until the limit, and what was said then."""
    with GeminiServer(lambda request: GOOD) as server:
        for experiment in range(1, 40):
            try:
                propose(server, folder, experiment, limits=limits)
            except LimitReached as limit:
                assert len(server.requests) == experiment - 1
                return experiment - 1, str(limit)
    raise AssertionError("no limit")


def stored(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/*.json"))]


@pytest.mark.parametrize(
    ("limits", "flag"),
    [
        (SpendingLimits(dollars=0.012), "--max_dollars=0.012"),
        (SpendingLimits(tokens=7000), "--max_tokens=7000"),
    ],
)
def test_no_limit_is_exceeded_over_any_number_of_processes(tmp_path, limits, flag):
    sent, words = until_the_limit(tmp_path, limits)
    assert words.startswith(flag)
    exchanges = stored(tmp_path)
    assert len(exchanges) == sent >= 3
    usage = [exchange["usage"] for exchange in exchanges]
    tokens = sum(one["input_tokens"] + one["output_tokens"] for one in usage)
    assert tokens == 1250 * sent <= (limits.tokens or tokens)
    assert sum(exchange["dollars"] for exchange in exchanges) <= (limits.dollars or 1)


class LateServer:
    """Bills every request, and answers every other one only after the client has given it up."""

    def __init__(self) -> None:
        self.tokens = 0
        self.billed = 0
        self.over = threading.Event()

    def __call__(self, request: Request) -> Step:
        usage = (len(request.text) // 4, 200, OUTPUT - 200)
        self.tokens += sum(usage)
        self.billed += 1
        step = answer([("LR = 0.5", "LR = 0.1")], usage=usage)
        return dataclasses.replace(step, before=lambda: self.over.wait(5)) if self.billed % 2 else step


def test_no_limit_is_exceeded_though_a_service_bills_what_came_too_late(tmp_path):
    most = 12_000
    late = LateServer()
    words = ""
    with GeminiServer(late) as server:
        for experiment in range(1, 100):
            try:
                propose(server, tmp_path, experiment, request_seconds=0.2, limits=SpendingLimits(tokens=most))
            except LimitReached as limit:
                words = str(limit)
                break
        late.over.set()
    assert words.startswith(f"--max_tokens={most}:")
    kinds = [one["usage_is"] for one in stored(tmp_path)]
    assert {"worst case", "reported"} <= set(kinds)
    assert len(kinds) == len(server.requests)
    assert most / 4 < late.tokens <= most


def test_a_request_that_reaches_nobody_counts_as_nothing(tmp_path):
    with GeminiServer() as gone:
        pass
    with pytest.raises(ServiceDown):
        propose(gone, tmp_path, proposal_seconds=0.1)
    assert {one["usage_is"] for one in stored(tmp_path)} == {"nothing"}
    assert {one["dollars"] for one in stored(tmp_path)} == {0.0}


@pytest.mark.parametrize("step", [drip("body"), raw(b"what?")], ids=["late body", "unreadable"])
def test_a_failure_after_the_request_was_sent_counts_at_the_most_it_may_have_taken(tmp_path, step):
    with GeminiServer([step, GOOD]) as server:
        cost = propose(server, tmp_path, request_seconds=0.5)
    first, second = stored(tmp_path)
    assert (first["usage_is"], second["usage_is"]) == ("worst case", "reported")
    assert first["usage"]["output_tokens"] == OUTPUT
    assert first["usage"]["input_tokens"] > len(SOURCE) / 3
    assert first["error"] is not None
    assert cost == pytest.approx(first["dollars"] + 0.002)


@pytest.mark.parametrize("usage", [(-5, 200, 50), (0, 0, 0), None])
def test_figures_that_make_no_sense_are_none(tmp_path, usage):
    with GeminiServer([answer([("LR = 0.5", "LR = 0.1")], usage=usage)]) as server:
        propose(server, tmp_path)
    (one,) = stored(tmp_path)
    assert (one["usage_is"], one["usage"]["output_tokens"]) == ("worst case", OUTPUT)


def test_what_a_failed_proposal_and_an_earlier_process_spent_on_an_experiment_is_in_its_cost(tmp_path):
    with GeminiServer([says("no"), error(403), says("no"), GOOD]) as server:
        with pytest.raises(ProposalFailed) as failure:  # as an unusable answer was there before
            propose(server, tmp_path)
        assert failure.value.cost_dollars == pytest.approx(0.002)
        assert propose(server, tmp_path) == pytest.approx(0.006)
    assert sorted(path.name for path in (tmp_path / "0003").iterdir()) == ["01.json", "02.json", "03.json", "04.json"]


def test_a_process_that_is_killed_in_the_midst_of_a_request_has_spent_the_most_it_may_cost(tmp_path):
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "import test_llm_budget\n"
        "class Server: url = sys.argv[2]\n"
        "test_llm_budget.propose(Server, Path(sys.argv[3]))\n"
    )
    arrived = threading.Event()
    with GeminiServer(lambda request: drip(before=arrived.set)) as server:
        here = Path(__file__)
        command = [sys.executable, "-c", script, str(here.parent), server.url, str(tmp_path)]
        process = subprocess.Popen(command, env={"PYTHONPATH": f"{here.parents[1]}:{here.parents[2]}"})
        assert arrived.wait(60)
        process.send_signal(signal.SIGKILL)
        process.wait()
    (one,) = stored(tmp_path)
    assert one["usage_is"] == "worst case"
    assert one["response"] is None
    assert one["usage"]["output_tokens"] == OUTPUT
    assert one["dollars"] > 0.002
    with GeminiServer([GOOD]) as server:
        with pytest.raises(LimitReached):
            propose(server, tmp_path, limits=SpendingLimits(requests=1))
        assert propose(server, tmp_path) == pytest.approx(one["dollars"] + 0.002)


def test_a_record_that_cannot_be_read_is_the_users_to_mend(tmp_path):
    path = llm_dir(tmp_path)(1) / "01.json"
    path.write_text('{"usage": {"input_to')
    with GeminiServer([GOOD]) as server:
        with pytest.raises(ExchangeError, match=r"0001/01.json: .*mend it, or delete it"):
            propose(server, tmp_path)
        assert server.requests == []


PAID = [SimpleNamespace(usage=Usage(500, 500), dollars=0.001)] + [SimpleNamespace(usage=Usage(0, 0), dollars=0.0)] * 4


@pytest.mark.parametrize(
    ("most", "too_few"),
    [
        (SpendingLimits(requests=6), SpendingLimits(requests=5)),
        (SpendingLimits(tokens=1110), SpendingLimits(tokens=1109)),
        (SpendingLimits(dollars=0.0014), SpendingLimits(dollars=0.00139)),
    ],
)
def test_a_request_may_reach_a_limit_to_the_last_token_and_not_go_beyond(most, too_few):
    check_limits(GeminiOptions(limits=most, price=Price(0.0, 4.0)), Usage(10, 100), PAID)
    with pytest.raises(LimitReached):
        check_limits(GeminiOptions(limits=too_few, price=Price(0.0, 4.0)), Usage(10, 100), PAID)


def test_thinking_and_tools_are_paid_for():
    said = {"promptTokenCount": 10, "toolUsePromptTokenCount": 5, "candidatesTokenCount": 3, "thoughtsTokenCount": 4}
    assert reported_usage({"usageMetadata": said}) == Usage(15, 7)
    assert reported_usage({"usageMetadata": {**said, "totalTokenCount": 40}}) == Usage(15, 25)


# Prices.

TODAY = datetime(2026, 11, 25, tzinfo=UTC)


def dollars(usage: Usage, when: datetime = TODAY, **options) -> float | None:
    return cost(GeminiOptions(**options), usage, when)


def test_list_prices_have_a_day_and_dearer_long_prompts():
    assert dollars(Usage(1_000_000, 0), model="gemini-2.5-flash") == pytest.approx(0.3)
    assert dollars(Usage(200_000, 1000), model="models/gemini-2.5-pro") == pytest.approx(0.26)
    assert dollars(Usage(200_001, 1000), model="gemini-2.5-pro") == pytest.approx(0.5150025)
    assert dollars(Usage(0, 1_000_000)) == pytest.approx(3.75)
    assert dollars(Usage(0, 1_000_000), datetime(2027, 1, 2, tzinfo=UTC)) == pytest.approx(7.5)


def test_the_users_price_goes_before_the_list_and_nothing_is_guessed():
    assert dollars(Usage(1_000_000, 1_000_000), price=Price(1.0, 2.0)) == 3.0
    assert dollars(Usage(1, 1), model="my-model") is None
    assert dollars(Usage(1, 1), model=DEFAULT_MODEL, vertex_project="p") is not None
    assert dollars(Usage(1, 1), vertex_project="p", vertex_location="europe-west4") is None
