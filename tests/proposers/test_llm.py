"""A Gemini model as a proposer: what it is asked, what becomes of its answers, and what goes back to it."""

import dataclasses
import json
from pathlib import Path

import pytest
from fakes import SOURCE
from gemini_server import MODEL, GeminiServer, Request, Step, answer, blocked, error, llm_dir, quick, raw, says

from autoresearch_jax.proposers.base import (
    Brief,
    Examine,
    Objection,
    Proposal,
    ProposalFailed,
    ServiceDown,
)
from autoresearch_jax.proposers.llm import GeminiProposer
from autoresearch_jax.proposers.llm_budget import Price, SpendingLimits
from autoresearch_jax.types import Metric

BRIEF = Brief(3, 0, Metric("loss"), "# A page\n", (), SOURCE, {}, 1.98, ())
EDIT = ("LR = 0.5", "LR = 0.1")
CHANGED = SOURCE.replace(*EDIT)
GOOD = answer([EDIT])


class Place:
    """A server and a proposer that asks it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[Request] = []
        self.kept: list[tuple[str, list[Proposal]]] = []  # what was proposed first, and the others
        self.notices: list[str] = []

    def propose(self, *steps, brief: Brief = BRIEF, examine: Examine | None = None, **options) -> Proposal:
        with GeminiServer(steps) as server:
            self.asked = server.requests
            proposer = GeminiProposer(
                quick(server, **options),
                "train_lib.py",
                examine,
                llm_dir(self.folder),
                notice=self.notices.append,
                keep_others=lambda brief, first, others: self.kept.append((first, others)),
            )
            return proposer.propose(brief)

    def failure(self, *steps, **options) -> ProposalFailed:
        with pytest.raises(ProposalFailed) as failure:
            self.propose(*steps, **options)
        assert "\n" not in str(failure.value)
        return failure.value


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(tmp_path / "llm")


def test_the_cost_is_that_of_all_its_requests_at_the_price_given(place):
    proposal = place.propose(says("no"), GOOD, price=Price(2.0, 8.0))
    assert proposal.cost_dollars == pytest.approx(2 * (1000 * 2 + 250 * 8) / 1e6)


def test_the_model_gets_the_brief_the_schema_and_the_categories(place):
    papers = {"one-two": '"Halve it" ("loss"): kept by bob'}
    brief = dataclasses.replace(BRIEF, categories=("attention", "data"), category="data", papers=papers)
    words = {"hypothesis": "x", "category": "Data", "edits": [{"search": EDIT[0], "replace": EDIT[1]}]}
    said = says(json.dumps({**words, "why": "It is smoother.", "used": ["one-two", "three"]}))
    proposal = place.propose(said, brief=brief, temperature=0.5, max_output_tokens=4096)
    assert (proposal.why, proposal.used) == ("It is smoother.", ("one-two",))
    (request,) = place.asked
    assert request.path == f"/v1beta/models/{MODEL}:generateContent"
    assert "\n# Experiment 3\n" in request.text
    assert SOURCE in request.text
    assert "one of: attention, data, other" in request.text
    assert f"\n- one-two: {papers['one-two']}\n" in request.text
    assert "so a gain is negative" in request.text
    config = request.body["generationConfig"]
    assert config["maxOutputTokens"] == 4096
    assert config["temperature"] == 0.5
    assert config["responseMimeType"] == "application/json"
    assert config["responseSchema"]["properties"]["category"]["enum"] == ["attention", "data", "other"]
    assert config["responseSchema"]["required"] == ["hypothesis", "category", "predicted_effect"]


UNUSABLE = {
    "malformed JSON": (says('{"hypothesis": "x"'), "not JSON"),
    "no change": (answer([("LR = 0.5", "LR = 0.5")]), "search equals replace"),
    "cut off": (says('{"hypothesis": "x', finish="MAX_TOKENS"), "cut off at 32768 tokens"),
    "ended early": (says("", finish="MALFORMED_RESPONSE"), "ended early: MALFORMED_RESPONSE"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_an_unusable_answer_goes_back_with_the_reason_in_the_same_conversation(place, case):
    step, reason = UNUSABLE[case]
    assert place.propose(step, GOOD).source == CHANGED
    first, second = place.asked
    assert [role for role, _ in second.texts] == ["user", "model", "user"]
    assert second.text == first.text
    assert reason in second.last
    failure = place.failure(step, step, step)
    assert reason in str(failure)
    assert failure.cost_dollars > 0
    assert len(place.asked) == (2 if case == "no change" else 3)


def test_an_answer_of_5_mb_is_refused_and_only_its_beginning_goes_back(place):
    proposal = place.propose(answer(file="x = 1\n" * 800_000), GOOD)
    assert proposal.source == CHANGED
    assert "more than 1048576 characters" in place.asked[1].last
    assert len(place.asked[1].texts[1][1]) < 101_000


@pytest.mark.parametrize(
    ("step", "reason"), [(says("", finish="SAFETY"), "SAFETY"), (blocked("BLOCKLIST"), "blocked it: BLOCKLIST")]
)
def test_a_block_is_a_failure_that_names_the_reason_and_is_not_asked_for_again(place, step, reason):
    assert reason in str(place.failure(step))
    assert len(place.asked) == 1


def test_an_objection_to_the_traced_text_goes_back_and_is_mended(place):
    tried = []

    def examine(brief: Brief, proposal: Proposal) -> Objection | None:
        tried.append((brief.experiment, proposal.source))
        return Objection("line 3: TypeError:\n| no such thing") if "0.9" in proposal.source else None

    assert place.propose(answer([("LR = 0.5", "LR = 0.9")]), GOOD, examine=examine).source == CHANGED
    assert tried == [(3, SOURCE.replace("0.5", "0.9")), (3, CHANGED)]
    assert "line 3: TypeError:\n| no such thing" in place.asked[1].last


@pytest.mark.parametrize(
    ("ends", "options"),
    [
        ([error(400, "too long")], {}),
        ([error(503, retry_seconds=900)], {}),
        ([GOOD], {"limits": SpendingLimits(requests=1)}),
    ],
    ids=["refused", "down", "limit"],
)
def test_a_text_outlives_whatever_ends_its_repair_with_what_all_of_it_cost(place, ends, options):
    price = Price(2.0, 8.0)
    proposal = place.propose(GOOD, *ends, examine=lambda *_: Objection("shapes differ"), price=price, **options)
    assert proposal.source == CHANGED
    assert proposal.cost_dollars >= (1000 * 2 + 250 * 8) / 1e6
    assert len(place.asked) == (1 if options else 2)
    stored = [json.loads(path.read_text())["dollars"] for path in place.folder.rglob("*.json")]
    assert proposal.cost_dollars == pytest.approx(sum(stored))


def test_a_proposer_that_is_closed_in_a_repair_proposes_nothing(tmp_path):
    proposers: list[GeminiProposer] = []

    def close(request: Request) -> Step:
        proposers[0].close()
        return GOOD

    with GeminiServer([GOOD, close]) as server:
        made = GeminiProposer(quick(server), "train_lib.py", lambda *_: Objection("no"), llm_dir(tmp_path))
        proposers.append(made)
        with pytest.raises(ProposalFailed, match="closed") as failure:
            proposers[0].propose(BRIEF)
        assert failure.value.cost_dollars > 0


def test_a_repeat_goes_back_only_once(place):
    place.propose(*[GOOD] * 6, repair_rounds=5, examine=lambda *_: Objection("experiment 1 did that", True))
    assert len(place.asked) == 2
    assert "experiment 1 did that" in place.asked[1].last


def test_a_body_that_is_no_answer_is_asked_for_again_and_json_that_is_none_is_a_service_that_is_down(place):
    assert place.propose(raw(b"null"), raw(b"\xff\xfe"), raw(b"[" * 90_000), GOOD).source == CHANGED
    for body in (b'{"candidates": [{"content": []}]}', says("[" * 90_000).body):
        with pytest.raises(ServiceDown, match="no answer"):
            place.propose(raw(body))


def one(name: str, *edit: str) -> dict:
    """A proposal of several."""
    search, replacement = edit
    edits = [{"search": search, "replace": replacement}]
    return {"hypothesis": name, "category": "optimizer", "predicted_effect": -0.1, "edits": edits}


LIST = [one("smaller", *EDIT), one("deeper", "DEPTH = 4", "DEPTH = 6"), one("windows", '"SL"', '"L"')]


@pytest.mark.parametrize(
    "text",
    [
        "Here they are:\n" + "\n\n".join(f"```json\n{json.dumps(each)}\n```" for each in [*LIST, LIST[0]]),
        json.dumps({"proposals": LIST}).replace("]}]}", "], // the last\n}]}"),
    ],
    ids=["one after the other", "as the schema has it, with a comment"],
)
def test_several_proposals_of_one_answer(place, text):
    proposal = place.propose(says(text), proposals=3)
    assert proposal.source == CHANGED
    ((first, others),) = place.kept
    assert first == CHANGED
    assert [other.hypothesis.split()[0] for other in others] == ["deeper", "windows"]
    assert others[0].source == SOURCE.replace("DEPTH = 4", "DEPTH = 6")
    assert "Answer with `proposals`: 3 changes" in place.asked[0].text
    schema = place.asked[0].body["generationConfig"]["responseSchema"]
    assert schema["properties"]["proposals"]["items"]["required"] == ["hypothesis", "category", "predicted_effect"]


def test_those_of_several_that_cannot_be_applied_are_told_and_go_back_only_if_all_are_so(place):
    bad = [one("missed", "LR = 0.7", "LR = 1"), one("nothing", "LR = 0.5", "LR = 0.5")]
    assert place.propose(says(json.dumps([bad[0], *LIST[:2]])), proposals=3).hypothesis.startswith("smaller")
    assert [other.hypothesis.split()[0] for other in place.kept[0][1]] == ["deeper"]
    assert "1 of 3 proposals left out: proposal 1: edit 1: missed" in place.notices[0]
    place.propose(says(json.dumps(bad)), GOOD, proposals=2)
    assert "proposal 1: edit 1: missed" in place.asked[1].last
    assert "proposal 2: " in place.asked[1].last


def test_an_objection_to_the_first_of_several_asks_for_it_alone(place):
    objections = iter([Objection("shapes differ"), None])
    proposal = place.propose(says(json.dumps(LIST)), GOOD, proposals=3, examine=lambda *_: next(objections))
    assert proposal.hypothesis.startswith("a smaller step")
    assert 'This is about the first, "smaller' in place.asked[1].last
    assert [len(others) for _, others in place.kept] == [2, 0], "what was kept stays"
