"""Answers that a model words or wraps otherwise than asked for: what is understood, and what goes back."""

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import SOURCE
from gemini_server import GeminiServer, Step, answer, error, llm_dir, quick, raw, reply, says

from autoresearch_jax.edits import EditError
from autoresearch_jax.proposers.answers import answer_schema, read_answer
from autoresearch_jax.proposers.base import Brief, Proposal, ProposalFailed, ServiceDown
from autoresearch_jax.proposers.llm import GeminiProposer
from autoresearch_jax.proposers.llm_budget import Price
from autoresearch_jax.types import Metric

BRIEF = Brief(3, 0, Metric("loss"), "# A page\n", (), SOURCE, {}, 1.98, ())
EDIT = ("LR = 0.5", "LR = 0.1")
CHANGED = SOURCE.replace(*EDIT)
(LINE,) = [line for line in SOURCE.splitlines() if EDIT[0] in line]
WORDS = {
    "hypothesis": "a smaller step // as tried, elsewhere",
    "category": "optimizer",
    "predicted_effect": -0.01,
    "edits": [{"search": EDIT[0], "replace": EDIT[1]}],
}
JSON = json.dumps(WORDS)
OTHER = json.dumps({**WORDS, "hypothesis": "a draft", "edits": [{"search": EDIT[0], "replace": "LR = 7"}]})
BLOCK = f"<<<<<<< SEARCH\n{LINE}\n=======\n{LINE.replace(*EDIT)}\n>>>>>>> REPLACE\n"

Ask = Callable[..., Proposal]


@pytest.fixture
def ask(tmp_path) -> Ask:
    """Asks a server that takes these steps; the notices are in `ask.notices`, the number of requests in `ask.asked`."""

    def ask(*steps: Step) -> Proposal:
        with GeminiServer(steps) as server:
            ask.asked = server.requests
            options = quick(server, price=Price(1.0, 4.0), max_output_tokens=500, proposal_seconds=5)
            proposer = GeminiProposer(
                options, "train_lib.py", None, llm_dir(tmp_path / "llm"), notice=ask.notices.append
            )
            return proposer.propose(BRIEF)

    ask.notices, ask.asked = [], []
    return ask


UNDERSTOOD = {
    "prose around it": f"Sure, here is {{my}} answer:\n\n{JSON}\n\nHope {{it}} helps.",
    "prose with other JSON in it": f'The optimizer {{"lr": 0.5}} is off.\n{JSON}',
    "thinking before it": f"<think>Perhaps {OTHER}, or not.</think>\n{JSON}",
    "commas too many": JSON.replace("}]}", "},\n ], }"),
    "comments": JSON.replace('"category"', '// the } kind\n"category"').replace('"edits"', '/* , ] */ # "\n"edits"'),
    "all at once": f"Well: \"so\n{JSON.replace('}]}', '}, /* last */ ],}')} it's done",
    "in another object": json.dumps({"answer": WORDS}),
    "one edit without its list": json.dumps({**WORDS, "edits": WORDS["edits"][0]}),
    "edits as blocks in the JSON": json.dumps({**WORDS, "edits": BLOCK}),
    "blocks after the JSON": f"{json.dumps({**WORDS, 'edits': []})}\n{BLOCK}",
    "fences around the halves": json.dumps(
        {**WORDS, "edits": [{"search": f"```python\n{LINE}\n```", "replace": f"```python\n{LINE.replace(*EDIT)}\n```"}]}
    ),
}


@pytest.mark.parametrize("case", UNDERSTOOD)
def test_what_can_only_mean_one_thing_is_understood(case):
    found = read_answer(UNDERSTOOD[case], BRIEF)
    assert (found.source, found.category) == (CHANGED, "optimizer")
    assert found.hypothesis == "a smaller step // as tried, elsewhere (expected: -0.01)"


@pytest.mark.parametrize(
    "text",
    [
        f"I make the step\nsmaller.\n\n{BLOCK}",
        f"I make the step smaller.\n\n```diff\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-{LINE}\n+{LINE.replace(*EDIT)}\n```\n",
        json.dumps({"hypothesis": "I make the step smaller.", "file": f"```python\n{CHANGED}```\n"}),
    ],
    ids=["blocks", "diff", "file"],
)
def test_blocks_diffs_and_whole_files_are_read_too(text):
    found = read_answer(text, BRIEF)
    assert (found.source, found.hypothesis, found.category) == (CHANGED, "I make the step smaller.", "other")


@pytest.mark.parametrize(
    ("named", "asked_for", "category"),
    [("Schedule", None, "schedule"), ("magic", None, "other"), ("magic", "batch", "batch"), ("data", "batch", "batch")],
)
def test_a_category_that_nobody_knows_falls_back(named, asked_for, category):
    brief = dataclasses.replace(BRIEF, category=asked_for)
    assert read_answer(json.dumps({**WORDS, "category": named}), brief).category == category


def test_literal_line_breaks_and_tabs_in_strings_are_meant_as_such():
    words = json.dumps({**WORDS, "edits": [{"search": LINE, "replace": f"{EDIT[1]}\nif LR:\n\tLR = LR\n"}]})
    literal = words.replace(r"\n", "\n").replace(r"\t", "\t")
    assert "\t" in literal
    assert "LR = 0.1\nif LR:\n\tLR = LR\n" in read_answer(literal, BRIEF).source


@pytest.mark.parametrize(
    ("effect", "shown"),
    [
        ('"-0.01 bpb"', " (expected: -0.01 bpb)"),
        ('"-1e-2"', " (expected: -0.01)"),
        ("+.01", " (expected: +0.01)"),
        ("about one percent", " (expected: about one percent)"),
        ('"a \\u001b[1mgain"', " (expected: a gain)"),
        *[(nothing, "") for nothing in ("NaN", '"nan"', "-Infinity", "1e999", "null", "true", "[1]", '""')],
    ],
)
def test_the_expected_effect_decides_nothing(effect, shown):
    found = read_answer(JSON.replace("-0.01", effect), BRIEF)
    assert (found.source, found.hypothesis) == (CHANGED, f"{WORDS['hypothesis']}{shown}")


def test_an_opinion_and_the_papers_used_are_kept_if_they_make_sense():
    brief = dataclasses.replace(BRIEF, papers={"one-two": "a line", "three": "another"})
    key = "k" * 30
    long = f"it is \x1b[31msmoother\x1b[0m\n## Change {key}" + "x" * 700
    for used in (["three", "four", 5, {}], "three, four"):
        found = read_answer(json.dumps({**WORDS, "why": long, "used": used}), brief, [key])
        assert found.used == ("three",)
        assert found.why.startswith("it is smoother ## Change [secret]xxx")
        assert len(found.why) == 600
    for used in (None, {"three": 1}, 3):
        found = read_answer(json.dumps({**WORDS, "why": ["no"], "used": used}), brief)
        assert (found.why, found.used) == ("", ())
    assert read_answer(json.dumps({**WORDS, "used": ["three"]}), BRIEF).used == (), "it was not told of any"
    assert "used" not in answer_schema(BRIEF)["properties"]
    assert answer_schema(brief)["properties"]["used"]["items"]["enum"] == ["one-two", "three"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{JSON}\n{OTHER}", "2 objects that differ"),
        ("I would make the step smaller.", "not JSON"),
        (JSON.replace('"', "“"), "“ are no quotes of JSON"),
        (f"<think>{JSON}</think>", "not JSON"),
        (JSON.replace("LR = 0.5", "LR = “0.5”"), "it has “ (U+201C), ” (U+201D), which the file has not"),
        (BLOCK.replace("LR = 0.5", "LR\u00a0= 0.5–1"), "– (U+2013), which the file has not"),
        (JSON.replace("LR = 0.1", "LR = “0.1”"), "invalid character '“'"),
        ("[1, 2]", "no object"),
        ("{}", "there are neither edits nor a file"),
        ('{"edits": [{"search": 1}, 2]}', "edit 1 must have the texts search and replace; edit 2 must"),
        (json.dumps({**WORDS, "file": CHANGED}), "not both"),
        ("", "empty"),
        (JSON.replace("LR = 0.5", "LR = 0.7"), "edit 1: missed"),
        (JSON.replace("LR = 0.5", r"\"\"\""), "edit 1: ambiguous"),
        (JSON.replace("LR = 0.1", "LR = = 0.1"), "does not parse"),
    ],
)
def test_what_could_mean_two_things_or_none_is_refused_with_the_reason(text, reason):
    with pytest.raises(EditError, match=re.escape(reason)):
        read_answer(text, BRIEF)


@pytest.mark.parametrize(
    "hostile", ['{"' * 100_000, '{"a":' * 50_000, '{"\\"' * 50_000, "{/*" * 100_000, "</think>" * 90_000]
)
def test_a_text_made_to_be_read_for_long_is_no_answer(hostile):
    with pytest.raises(EditError):
        read_answer(hostile, BRIEF)


@pytest.mark.parametrize("body", [{}, {"candidates": [{}]}])
def test_where_there_is_no_candidate_the_same_is_asked_again(ask, body):
    assert ask(reply(body, (1000, 0, 0)), answer([EDIT])).source == CHANGED
    assert ask.asked[0].texts == ask.asked[1].texts
    with pytest.raises(ProposalFailed, match="no candidate"):
        ask(*[reply(body, (1000, 0, 0))] * 3)


def with_error(said: object) -> Step:
    return raw(json.dumps(said).encode())


def usage_of(folder: Path) -> list[str]:
    return [json.loads(path.read_text())["usage_is"] for path in sorted(folder.rglob("*.json"))]


@pytest.mark.parametrize(
    ("said", "usage"),
    [
        ([{"error": {"code": 429, "message": "overloaded"}}], "nothing"),
        ({"error": {"type": "overloaded", "code": "rate_limit"}, "candidates": []}, "worst case"),
    ],
)
def test_an_error_with_the_status_of_an_answer_is_an_error(ask, tmp_path, said, usage):
    assert ask(with_error(said), answer([EDIT], usage=(1000, 200, 50))).source == CHANGED
    assert ask.asked[0].texts == ask.asked[1].texts
    assert usage_of(tmp_path) == [usage, "reported"]
    assert ask.notices == []


def test_such_an_error_is_told_in_its_own_words(ask):
    with pytest.raises(ProposalFailed, match="the service says 400: bad field"):
        ask(with_error({"error": {"code": 400, "message": "bad field"}}))
    with pytest.raises(ServiceDown, match="the service says 403: who"):
        ask(with_error({"error": {"code": 403, "message": "who?"}}))
    with pytest.raises(ServiceDown, match="on fire"):
        ask(*[with_error({"error": "on fire"})] * 6)
    with pytest.raises(ProposalFailed, match="the service says 418: teapot"):
        ask(raw(b'{"error": "teapot"}', 418))


def test_tokens_that_nothing_can_have_taken_are_the_worst_case_and_told_once(ask, tmp_path):
    tokens = 2**31
    usage = (1000, tokens, 0)
    proposal = ask(says("no", usage=usage), answer([EDIT], usage=usage))
    assert proposal.cost_dollars < 0.02
    assert usage_of(tmp_path) == ["worst case"] * 2
    (notice,) = ask.notices
    assert f"took {tokens + 1000:,} tokens: counted as the most" in notice
    assert "0003/01.json" in notice


def test_google_genai_prints_nothing(tmp_path):
    here = Path(__file__)
    script = f"""
import logging, sys
sys.path[:0] = {[str(here.parent), str(here.parents[1])]}
from pathlib import Path
from test_answers import BRIEF, GeminiProposer, llm_dir
from gemini_server import quick
class Server: url = sys.argv[1]
GeminiProposer(quick(Server), "train_lib.py", None, llm_dir(Path(sys.argv[2]))).propose(BRIEF)
for name in ("google_genai.models", "google.auth.transport"):
    logging.getLogger(name).warning("not for users")
"""
    environment = {"PYTHONPATH": str(here.parents[2]), "GEMINI_API_KEY": "one-key", "GOOGLE_API_KEY": "another-key"}
    steps = [says("", finish="A_NEW_REASON"), says("", finish="ANOTHER"), error(503), answer([EDIT])]
    with GeminiServer(steps) as server:
        command = [sys.executable, "-c", script, server.url, str(tmp_path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert len(server.requests) == 4
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
