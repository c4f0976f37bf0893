"""The user's network variables: what is unusable is named in one line, and SOCKS works."""

from pathlib import Path

import pytest
from fakes import PROGRAM, SOURCE, FakeTask
from gemini_server import GeminiServer, answer, llm_dir, quick
from repositories import make_repository
from socks_server import socks_server
from task_stand_in import stand_in

from autoresearch_jax.cli import main
from autoresearch_jax.network import CERTIFICATES, PROXIES, NetworkError, faulty_variable
from autoresearch_jax.proposers.base import Brief, ServiceDown
from autoresearch_jax.proposers.llm import GeminiProposer
from autoresearch_jax.proposers.llm_client import GeminiClient
from autoresearch_jax.types import Metric

EDIT = ("LR = 0.5", "LR = 0.1")
GOOD = answer([EDIT])
BRIEF = Brief(3, 0, Metric("loss"), "# A page\n", (), SOURCE, {}, 1.98, ())
UNUSABLE = [
    *(("SSL_CERT_FILE", "/nowhere.pem"), ("SSL_CERT_FILE", __file__), ("SSLKEYLOGFILE", "/nowhere/keys")),
    ("SSL_CERT_FILE", "/"),
    *(("ALL_PROXY", "socks4://u:hush@x"), ("all_proxy", "what://x"), ("HTTPS_PROXY", "http://u:hush@x:yz")),
    *(("HTTP_PROXY", "http://[::1"), ("https_proxy", "u:hush@x:yz")),
]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the variables is set."""
    for name in (*PROXIES, *map(str.lower, PROXIES), *CERTIFICATES, "SSLKEYLOGFILE", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("name", "value"), UNUSABLE)
def test_what_is_unusable_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert faulty_variable() is None
    monkeypatch.setenv(name, value)
    with GeminiServer() as server, pytest.raises(NetworkError, match=rf"^{name}: .*: unset it, or ") as caught:
        GeminiClient(quick(server))
    assert "hush" not in str(caught.value)


def test_a_bundle_may_be_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/")
    assert faulty_variable() is None


@pytest.mark.parametrize("value", ["http://x:1", "x:1", "socks5://x:1", "socks5h://u:p@x:1", "https://x"])
def test_what_can_be_used(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", value)
    assert faulty_variable() is None


@pytest.mark.parametrize("command", ["run", "doctor"])
@pytest.mark.parametrize(("name", "value"), [UNUSABLE[0], UNUSABLE[4]])
def test_a_start_ends_in_one_line(
    command: str, name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    make_repository(tmp_path, SOURCE, PROGRAM)
    monkeypatch.chdir(tmp_path)
    stand_in(monkeypatch, lambda options: FakeTask())
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("GEMINI_API_KEY", "a-key")
    words = ["--tag=night", "--proposer=gemini"]
    assert main([command, *words, *(["--sections=key"] if command == "doctor" else [])]) == 1
    said = capsys.readouterr()
    line = said.err if command == "run" else next(one for one in said.out.splitlines() if one.startswith("model:"))
    assert f"{name}: " in line
    assert (command == "doctor") or line.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_corpus_that_cannot_be_fetched_blames_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fails(*words: object, **options: object) -> None:  # as huggingface_hub's client of HTTP does
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fails)
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    assert main(["prepare", "--corpus=tinystories", f"--data_dir={tmp_path / 'data'}"]) == 1
    assert "autoresearch prepare: SSL_CERT_FILE: No such file" in capsys.readouterr().err


def test_a_variable_that_gets_unusable_is_a_service_that_is_down_until_it_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with GeminiServer([GOOD]) as server:
        proposer = GeminiProposer(quick(server), "train_lib.py", None, llm_dir(tmp_path))
        proposer._client._http.close()
        monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
        with pytest.raises(ServiceDown, match="SSL_CERT_FILE"):
            proposer.propose(BRIEF)
        monkeypatch.delenv("SSL_CERT_FILE")
        assert proposer.propose(BRIEF).source == SOURCE.replace(*EDIT)
        proposer.close()


@pytest.mark.parametrize("way", ["key", "vertex"])
def test_a_model_is_reached_through_socks(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with GeminiServer([GOOD]) as server, socks_server() as (url, hosts):
        elsewhere = server.url.replace("127.0.0.1", "model.example")
        options = {}
        if way == "vertex":
            account = server.service_account(tmp_path / "account.json")
            account.write_text(account.read_text().replace("127.0.0.1", "tokens.example"))
            monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
            options = {"key": None, "vertex_project": "a-project"}
        monkeypatch.setenv("ALL_PROXY", url)
        settings = quick(server, base_url=elsewhere, **options)
        proposer = GeminiProposer(settings, "train_lib.py", None, llm_dir(tmp_path / "llm"))
        assert proposer.propose(BRIEF).source == SOURCE.replace(*EDIT)
        proposer.close()
    assert set(hosts) == {"model.example", *(["tokens.example"] if way == "vertex" else [])}
