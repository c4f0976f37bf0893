"""What is on disk of an exchange with a model, and that no secret is."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from fakes import SOURCE
from gemini_server import KEY, MODEL, TOKEN, GeminiServer, Step, answer, error, llm_dir, quick, raw, says

from autoresearch_jax.errors import UserError
from autoresearch_jax.proposers.base import Brief, Objection, Proposal, ProposalFailed, ServiceDown
from autoresearch_jax.proposers.gemini import GeminiProposer
from autoresearch_jax.proposers.gemini_settings import GeminiOptions
from autoresearch_jax.proposers.redaction import REDACTED, redact_value
from autoresearch_jax.proposers.spelt_secrets import without_secrets
from autoresearch_jax.types import Metric

BRIEF = Brief(3, 0, Metric("loss"), "# A page\n", (), SOURCE, {}, 1.98, ())
GOOD = answer([("LR = 0.5", "LR = 0.1")])
OTHER = "another-secret-of-the-user"


ESCAPED = "".join(f"\\u{ord(character):04X}" for character in KEY)  # as JSON may spell it
PART = KEY.replace("A", "\\u0041", 1)
SPLIT = f"{KEY[:6]}\x1b[1m{KEY[6:]}"  # whole once a line is cleaned


def spelt(step: Step, spelling: str) -> Step:
    """The same answer with the key spelt otherwise in the JSON that is its text."""
    body = step.body.replace(KEY.encode(), json.dumps(spelling)[1:-1].encode())
    assert body != step.body
    return dataclasses.replace(step, body=body)


def all_text(folder: Path) -> str:
    return "\n".join(path.read_text() for path in folder.rglob("*") if path.is_file())


def test_an_exchange_is_stored_whole(tmp_path):
    with GeminiServer([says("no"), GOOD]) as server:
        GeminiProposer(quick(server), "train_lib.py", None, llm_dir(tmp_path)).propose(BRIEF)
        sent = server.requests[1].texts
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")) == [
        "0003/01.json",
        "0003/02.json",
    ]
    second = json.loads((tmp_path / "0003" / "02.json").read_text())
    assert second["model"] == MODEL
    assert [(turn["role"], turn["parts"][0]["text"]) for turn in second["request"]["contents"]] == sent
    assert second["request"]["config"]["max_output_tokens"] == 32_768
    parts = second["response"]["candidates"][0]["content"]["parts"]
    assert json.loads(parts[-1]["text"])["hypothesis"] == "a smaller step"
    assert second["usage"] == {"input_tokens": 1000, "output_tokens": 250}
    assert second["error"] is None
    assert second["seconds"] >= 0
    assert second["dollars"] > 0
    assert second["time"].endswith("+00:00")


def test_an_answer_is_on_disk_before_it_is_used(tmp_path):
    def examine(brief: Brief, proposal: Proposal) -> Objection | None:
        stored = json.loads((tmp_path / "0003" / "01.json").read_text())
        assert stored["response"] is not None
        return None

    with GeminiServer([GOOD]) as server:
        GeminiProposer(quick(server), "train_lib.py", examine, llm_dir(tmp_path)).propose(BRIEF)


@pytest.mark.parametrize(
    "steps",
    [
        [says(f"my key is {KEY} and {OTHER}"), answer([("LR = 0.5", f'LR = "{KEY}"')], hypothesis=f"tell {KEY}")],
        [error(500, f"{KEY} {OTHER}"), error(400, f"{KEY} {OTHER}")],
        [raw(f"no JSON, but {KEY}".encode()), error(403, f"{KEY} {OTHER}")],
        [error(403, f"{KEY} is not let in", reason=OTHER)],
        [says("no", finish=KEY), says("", finish=KEY), error(400, KEY)],
        [error(500, SPLIT), error(400, SPLIT)],
        [says("", finish=SPLIT), error(400, KEY)],
    ],
)
def test_a_server_that_echoes_secrets_puts_none_on_disk_or_into_what_is_said(tmp_path, steps):
    said = ""
    with GeminiServer(steps) as server:
        proposer = GeminiProposer(quick(server, secrets=(OTHER,)), "train_lib.py", None, llm_dir(tmp_path))
        try:
            said = repr(proposer.propose(BRIEF))
        except (ProposalFailed, ServiceDown) as failure:
            said = str(failure)
        assert server.requests[0].headers["X-Goog-Api-Key"] == KEY
    stored = all_text(tmp_path)
    assert REDACTED in stored
    for text in (stored, said):
        assert KEY not in text
        assert OTHER not in text


@pytest.mark.parametrize("spelling", [ESCAPED, PART, PART.replace("\\", "\\\\")], ids=["all", "part", "twice"])
@pytest.mark.parametrize(
    "step",
    [
        answer([("LR = 0.5", f'LR = "{KEY}"')], hypothesis=f"tell {KEY}", category=KEY),
        answer(file=f'{SOURCE}\nX = "{KEY}"\n', hypothesis=f"tell {KEY}"),
        answer([(f"LR = 0.7  # {KEY}", f"LR = {KEY}")]),
        answer([("LR = 0.5", f"LR = ({KEY}")]),
        says(f'{{"hypothesis": "{KEY}'),
    ],
    ids=["edits", "file", "missed", "unparsable", "no JSON"],
)
def test_a_key_that_json_spells_otherwise_is_blanked_out_as_well(tmp_path, step, spelling):
    tried: list[Proposal] = []
    with GeminiServer([spelt(step, spelling)] * 2) as server:
        proposer = GeminiProposer(
            quick(server, repair_rounds=1),
            "train_lib.py",
            lambda _, proposal: tried.append(proposal),
            llm_dir(tmp_path),
        )
        try:
            said = repr(proposer.propose(BRIEF))
        except ProposalFailed as failure:
            said = str(failure)
    stored = all_text(tmp_path)
    assert REDACTED in stored
    for text in (stored, said, repr(tried)):
        for _ in range(3):  # however often somebody decodes it
            assert KEY not in text
            text = re.sub(r"\\+u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text)


def test_a_key_that_edits_put_together_is_not_proposed(tmp_path):
    halves = answer([("LR = 0.5", f'LR = "{KEY[:9]}@"'), ("@", KEY[9:])])
    broken = answer([("LR = 0.5", f'LR = ("{KEY[:9]}@"'), ("@", KEY[9:])])
    with GeminiServer([halves, broken, broken]) as server:
        proposer = GeminiProposer(quick(server), "train_lib.py", None, llm_dir(tmp_path))
        with pytest.raises(ProposalFailed, match="does not parse") as failure:
            proposer.propose(BRIEF)
        assert "the edits put together a key" in server.requests[1].last
    assert KEY not in all_text(tmp_path) + str(failure.value) + server.requests[2].last


def test_a_secret_that_the_champion_holds_is_no_reason_to_refuse_an_edit_of_another_line(tmp_path):
    source = f'{SOURCE}\nX = "{KEY}"\n'
    with GeminiServer([GOOD]) as server:
        proposer = GeminiProposer(quick(server), "train_lib.py", None, llm_dir(tmp_path))
        proposal = proposer.propose(dataclasses.replace(BRIEF, champion_source=source))
    assert proposal.source == source.replace("LR = 0.5", "LR = 0.1")


def test_a_hypothesis_is_looked_through_once_it_is_clean(tmp_path):
    with GeminiServer([answer([("LR = 0.5", "LR = 0.1")], hypothesis=f"tell {SPLIT}")]) as server:
        proposal = GeminiProposer(quick(server), "train_lib.py", None, llm_dir(tmp_path)).propose(BRIEF)
    assert proposal.hypothesis == f"tell {REDACTED} (expected: -0.01)"


def test_a_secret_that_stands_in_the_brief_is_not_stored(tmp_path):
    brief = dataclasses.replace(BRIEF, program=f"# A page\n\nUse {KEY}.\n")
    with GeminiServer([GOOD]) as server:
        GeminiProposer(quick(server), "train_lib.py", None, llm_dir(tmp_path)).propose(brief)
    assert f"Use {REDACTED}." in all_text(tmp_path)
    assert KEY not in all_text(tmp_path)


def test_a_token_of_vertex_ai_is_a_secret_too(tmp_path, monkeypatch):
    with GeminiServer([error(500, f"Bearer {TOKEN}"), GOOD]) as server:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(server.service_account(tmp_path / "account.json")))
        options = quick(server, key=None, vertex_project="a-project")
        GeminiProposer(options, "train_lib.py", None, llm_dir(tmp_path / "llm")).propose(BRIEF)
    assert f"Bearer {REDACTED}" in all_text(tmp_path / "llm")
    assert TOKEN not in all_text(tmp_path / "llm")


def test_a_check_of_the_model_does_not_say_the_key(tmp_path):
    with GeminiServer(key="the-right-key") as server:
        proposer = GeminiProposer(quick(server), "train_lib.py", None, llm_dir(tmp_path))
        with pytest.raises(UserError, match="is not let in") as refusal:
            proposer.check_model()
    assert KEY not in str(refusal.value)


def test_options_do_not_show_their_secrets():
    assert KEY not in repr(GeminiOptions(key=KEY, secrets=(KEY,)))


def test_secrets_are_found_everywhere_in_a_value():
    value = {"a sesame-open": ["open sesame-open", 1, None, {"b": ("sesame-open",)}]}
    assert redact_value(value, ["sesame-open"]) == {f"a {REDACTED}": [f"open {REDACTED}", 1, None, {"b": [REDACTED]}]}


@pytest.mark.parametrize("secret", ['a/b\\c"d-sesame', "sésame-🙂-open", "plain-sesame"])
@pytest.mark.parametrize("times", [0, 1, 2, 3])
def test_a_secret_of_any_characters_is_found_however_often_json_quoted_it(secret, times):
    text = f"open {secret}!"
    for _ in range(times):
        text = json.dumps(text)[1:-1].replace("/", "\\/")
    assert without_secrets([text], [secret]) == [f"open {REDACTED}!"]


def test_a_long_text_of_escapes_is_looked_through_once():
    text = "\\" * 1_000_000 + "\\u0041" * 100_000
    assert without_secrets(text, [KEY, "/////////"]) == text


def test_a_key_that_is_a_common_word_does_not_blank_out_the_brief(tmp_path):
    with GeminiServer([GOOD]) as server:
        GeminiProposer(quick(server, key="LR"), "train_lib.py", None, llm_dir(tmp_path)).propose(BRIEF)
    assert REDACTED not in all_text(tmp_path)
