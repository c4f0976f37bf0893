"""`autoresearch run` with a model on loopback and real trials: mended after a crash, traced ahead, replayed."""

import re
from pathlib import Path

import pytest
from gemini_server import GeminiServer, Request, Step, answer
from ledgers import substance

from autoresearch_jax.cli import main
from autoresearch_jax.engine.ledger import Ledger

RATE = "LEARNING_RATE = 10.0"


@pytest.fixture
def flags(tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Flags of a run in a repository that is the present folder."""
    monkeypatch.chdir(tmp_path)
    return [*tiny_run, "--experiments=2"]


def model(request: Request) -> Step:
    """First a text that crashes while it is traced, then one that trains; for experiment 2 what was measured before."""
    if "# Experiment 1\n" in request.text:
        line = "    def logits(state, tokens):\n"
        crashing = answer([(line, line + "        jnp.no_such_function()\n")])
        return crashing if len(request.texts) == 1 else answer([(RATE, "LEARNING_RATE = 5.0")], effect=0.1)
    if len(request.texts) == 1:
        return answer([("UNUSED = 1", "UNUSED = 2")], hypothesis="changes nothing")
    return answer([("(1 - progress)", "(1 - progress**2)")], hypothesis="a later fall", category="schedule")


@pytest.mark.slow
def test_a_model_is_told_of_a_crash_and_its_run_is_replayed_to_the_digit(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with GeminiServer(model) as server:
        assert main(["run", "--tag=a", *flags, "--proposer=gemini", f"--gemini_base_url={server.url}"]) == 0
    crash = next(request for request in server.requests if len(request.texts) == 3)
    assert re.search(r"it cannot be measured: .*no_such_function", crash.last)
    assert '|   File "train_lib.py", line 20, in logits\n|     jnp.no_such_function()\n' in crash.last
    assert "trace.py" not in crash.last, "frames of the harness"
    assert str(tmp_path) not in crash.last
    ahead = next(request for request in server.requests if "# Experiment 2\n" in request.text)
    assert re.search(r'Being measured right now, .*:\n  - experiment 1 \("opt\w+", by gemini\): "', ahead.text)
    assert 'vocab_sizes on offer: "256, 320"' in ahead.text
    assert "champion's num_steps: 20" in ahead.text
    repeated = [request for request in server.requests if "# Experiment 2\n" in request.text][1]
    assert "it changes nothing: it is the champion's own program (experiment 0" in repeated.last
    ledger = Ledger.open_to_read(tmp_path / "runs/a/ledger.db")
    assert [row.hypothesis for row in ledger.experiments()[1:]] == [
        "a smaller step (expected: +0.1)",
        "a later fall (expected: -0.01)",
    ]
    assert all(row.score is not None for row in ledger.experiments())
    assert main(["run", "--tag=b", *flags, "--proposer=replay", "--replay=a"]) == 0
    assert substance(Ledger.open_to_read(tmp_path / "runs/b/ledger.db")) == substance(ledger)
