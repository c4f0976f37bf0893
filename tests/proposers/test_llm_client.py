"""Services that fail, stall, drip, lie and refuse: what is asked again, what ends a proposal, and what is on disk."""

import dataclasses
import gzip
import json
import threading
import time
from pathlib import Path

import pytest
from fakes import SOURCE
from gemini_server import (
    KEY,
    MODEL,
    TOKEN,
    GeminiServer,
    Request,
    answer,
    cut,
    drip,
    error,
    llm_dir,
    quick,
    raw,
    says,
)

from autoresearch_jax.errors import UserError
from autoresearch_jax.proposers.base import Brief, ProposalFailed, ServiceDown
from autoresearch_jax.proposers.llm import GeminiProposer
from autoresearch_jax.proposers.llm_budget import GeminiOptions
from autoresearch_jax.proposers.llm_client import ATTEMPTS, THREAD, wanted_wait
from autoresearch_jax.sanitize import REDACTED
from autoresearch_jax.types import Metric

BRIEF = Brief(3, 0, Metric("loss"), "# A page\n", (), SOURCE, {}, 1.98, ())
EDIT = ("LR = 0.5", "LR = 0.1")
CHANGED = SOURCE.replace(*EDIT)
GOOD = answer([EDIT])


@pytest.fixture
def make(tmp_path):
    """Makes a proposer that asks a server; closes it in the end."""
    made = []

    def make(server: GeminiServer, **options) -> GeminiProposer:
        made.append(GeminiProposer(quick(server, **options), "train_lib.py", None, llm_dir(tmp_path / "llm")))
        return made[-1]

    yield make
    for proposer in made:
        proposer.close()


@pytest.mark.parametrize(
    "step",
    [error(429), cut(), raw(b" " * (17 << 20)), raw(b"what?")],
    ids=["429", "cut", "too large", "no JSON"],
)
def test_what_passes_is_asked_again(make, step):
    compressed = raw(gzip.compress(GOOD.body), Content_Encoding="gzip")
    with GeminiServer([step, raw(b"proxy says no", 502), compressed]) as server:
        assert make(server).propose(BRIEF).source == CHANGED
        assert [request.texts for request in server.requests] == [server.requests[0].texts] * 3


def test_500_for_ever_is_a_service_that_is_down(make):
    with GeminiServer(lambda request: error(500, "on fire")) as server:
        with pytest.raises(ServiceDown, match="500: on fire") as down:
            make(server).propose(BRIEF)
        assert down.value.retry_seconds == 60
        assert len(server.requests) == ATTEMPTS


@pytest.mark.parametrize("step", [error(429, retry_seconds=0.25), error(503, retry_after="0.25")])
def test_the_server_is_not_asked_before_it_wants_to_be(make, step):
    times = []

    def script(request: Request):
        times.append(time.monotonic())
        return step if len(times) == 1 else GOOD

    with GeminiServer(script) as server:
        assert make(server).propose(BRIEF).source == CHANGED
    assert times[1] - times[0] >= 0.25


@pytest.mark.parametrize(
    ("step", "seconds"),
    [
        (error(429, "quota", retry_seconds=77.5), 77.5),
        (error(503, "quota", retry_after="1" + "0" * 15), 3600),
    ],
)
def test_a_wait_longer_than_what_is_left_ends_it_at_once(make, step, seconds):
    with GeminiServer([step, GOOD]) as server:
        with pytest.raises(ServiceDown, match="quota") as down:
            make(server, proposal_seconds=60).propose(BRIEF)
        assert down.value.retry_seconds == seconds
        assert len(server.requests) == 1


@pytest.mark.parametrize("wanted", ["soon", "-5", "nan", ""])
def test_a_wait_that_makes_no_sense_is_no_wait(wanted):
    assert wanted_wait("{}", {"Retry-After": wanted}) is None
    assert wanted_wait(f'{{"retryDelay": "{wanted}s"}}', {}) is None


@pytest.mark.parametrize("step", [error(401, "who?"), error(400, "who?", reason="API_KEY_INVALID")])
def test_a_key_that_is_not_let_in_is_a_service_that_is_down_until_somebody_mends_it(make, step):
    with GeminiServer([step, GOOD]) as server:
        with pytest.raises(ServiceDown, match="who") as down:
            make(server).propose(BRIEF)
        assert down.value.retry_seconds == 600
        assert len(server.requests) == 1


def test_a_redirect_is_not_followed_since_the_key_would_go_along(make):
    with GeminiServer() as elsewhere:
        step = raw(b"{}", 307, Location=f"{elsewhere.url}/v1beta/models/{MODEL}:generateContent")
        with GeminiServer([step]) as server, pytest.raises(ProposalFailed, match="307"):
            make(server).propose(BRIEF)
        assert elsewhere.requests == []


def test_a_drip_ends_with_the_proposals_time_though_each_byte_is_in_time(make, tmp_path):
    with GeminiServer(lambda request: drip("headers")) as server:
        with pytest.raises(ServiceDown, match="no whole answer within"):
            make(server, proposal_seconds=1.5).propose(BRIEF)
        assert len(server.requests) == 1
    assert '"usage_is": "worst case"' in (tmp_path / "llm" / "0003" / "01.json").read_text()


def under_way(proposer: GeminiProposer) -> tuple[threading.Thread, list[Exception]]:
    """A proposal in another thread, and what it raised."""
    raised: list[Exception] = []

    def propose() -> None:
        try:
            proposer.propose(BRIEF)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=propose)
    thread.start()
    return thread, raised


def test_closing_ends_a_request_under_way_which_counts_at_the_most_it_may_have_taken(make, tmp_path):
    with GeminiServer(lambda request: drip("headers", before=lambda: made[0].close())) as server:
        made = [make(server)]
        with pytest.raises(ProposalFailed, match="closed"):
            made[0].propose(BRIEF)
        for worker in [thread for thread in threading.enumerate() if thread.name == THREAD]:
            worker.join(20)
            assert not worker.is_alive()  # though the server drips on
    assert '"usage_is": "worst case"' in (tmp_path / "llm" / "0003" / "01.json").read_text()


def test_closing_ends_a_wait(make):
    arrived = threading.Event()

    def step(request: Request):
        arrived.set()
        return error(429, retry_seconds=500)

    with GeminiServer(step) as server:
        proposer = make(server)
        thread, raised = under_way(proposer)
        assert arrived.wait(20)
        proposer.close()
        thread.join(20)
        assert [type(error) for error in raised] == [ProposalFailed]


@pytest.mark.parametrize("step", [error(404, "no such model"), error(403, "no such model")])
def test_what_the_service_has_against_a_model_is_said_in_its_own_words(make, step):
    head = "not let in" if step.status == 403 else "--gemini_model=gemini-9-none"
    with GeminiServer(on_get=step) as server:
        proposer = make(server, model="gemini-9-none")
        with pytest.raises(UserError, match=rf"{head}: the service says {step.status}: no such model"):
            proposer.check_model()
    with GeminiServer(models={MODEL: 8192}) as server, pytest.raises(UserError, match=r"32768.*gives 8192 at most"):
        make(server).check_model()


def test_a_service_that_is_down_at_the_start_is_a_warning(make):
    with GeminiServer(on_get=raw(b"what?")) as server:
        warning = make(server).check_model()
    assert warning is not None
    assert "cannot be asked now" in warning


def test_vertex_ai_with_application_default_credentials(make, tmp_path, monkeypatch):
    with GeminiServer([error(500, f"Bearer {TOKEN}"), GOOD]) as server:
        account = server.service_account(tmp_path / "account.json")
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
        monkeypatch.setenv("GEMINI_API_KEY", KEY)  # which is not used then
        proposer = make(server, key=None, vertex_project="a-project", vertex_location="europe-west4")
        assert proposer.check_model() is None
        assert proposer.propose(BRIEF).source == CHANGED
        assert {request.path for request in server.requests} == {
            f"/v1beta1/projects/a-project/locations/europe-west4/publishers/google/models/{MODEL}:generateContent"
        }
        assert {request.headers["Authorization"] for request in server.requests} == {f"Bearer {TOKEN}"}
        assert not any("X-Goog-Api-Key" in request.headers for request in server.requests)
        assert [request.path for request in server.others].count("/token") == 1
    assert f"Bearer {REDACTED}" in all_text(tmp_path / "llm")
    assert TOKEN not in all_text(tmp_path / "llm")


def test_a_token_server_that_refuses_is_a_service_that_is_down_until_somebody_mends_it(make, tmp_path, monkeypatch):
    with GeminiServer([GOOD]) as server:
        account = server.service_account(tmp_path / "account.json")
        account.write_text(account.read_text().replace("/token", "/no-token"))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
        proposer = make(server, key=None, vertex_project="a-project")
        with pytest.raises(ServiceDown, match="application-default credentials") as down:
            proposer.propose(BRIEF)
        assert down.value.retry_seconds == 600


def test_no_application_default_credentials_are_the_users_to_mend(make, tmp_path, monkeypatch):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with GeminiServer() as server, pytest.raises(UserError, match="gcloud auth application-default login"):
        make(server, key=None, vertex_project="a-project")


def test_this_machine_is_reached_directly_whatever_proxy_there_is(make, monkeypatch):
    with GeminiServer() as gone:
        pass
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, gone.url)
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    with GeminiServer([GOOD]) as server:
        assert make(server, proposal_seconds=5).propose(BRIEF).source == CHANGED


# What is on disk of an exchange, and that no secret is.

OTHER = "another-secret-of-the-user"


SPLIT = f"{KEY[:6]}\x1b[1m{KEY[6:]}"  # whole once a line is cleaned


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


@pytest.mark.parametrize(
    "steps",
    [
        [says(f"my key is {KEY} and {OTHER}"), answer([("LR = 0.5", f'LR = "{KEY}"')], hypothesis=f"tell {KEY}")],
        [raw(f"no JSON, but {KEY}".encode()), error(403, f"{KEY} {OTHER}")],
        [says("no", finish=KEY), says("", finish=KEY), error(400, KEY)],
        [error(500, SPLIT), error(400, SPLIT)],
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


def test_a_key_that_json_spells_with_escapes_does_not_come_into_a_text_or_what_is_said(tmp_path):
    escaped = "".join(f"\\u{ord(character):04X}" for character in KEY)
    step = answer([("LR = 0.5", f'LR = "{KEY}"')], hypothesis=f"tell {KEY}", category=KEY)
    body = step.body.replace(KEY.encode(), json.dumps(escaped)[1:-1].encode())
    with GeminiServer([dataclasses.replace(step, body=body)]) as server:
        proposal = GeminiProposer(quick(server), "train_lib.py", None, llm_dir(tmp_path)).propose(BRIEF)
    assert KEY not in repr(proposal) + all_text(tmp_path)
    assert REDACTED in proposal.source


def test_a_key_that_edits_put_together_is_not_proposed(tmp_path):
    halves = answer([("LR = 0.5", f'LR = "{KEY[:9]}@"'), ("@", KEY[9:])])
    broken = answer([("LR = 0.5", f'LR = ("{KEY[:9]}@"'), ("@", KEY[9:])])
    with GeminiServer([halves, broken, broken]) as server:
        proposer = GeminiProposer(quick(server), "train_lib.py", None, llm_dir(tmp_path))
        with pytest.raises(ProposalFailed, match="does not parse") as failure:
            proposer.propose(BRIEF)
        assert "the edits put together a key" in server.requests[1].last
    assert KEY not in all_text(tmp_path) + str(failure.value) + server.requests[2].last


def test_options_do_not_show_their_secrets():
    assert KEY not in repr(GeminiOptions(key=KEY, secrets=(KEY,)))
