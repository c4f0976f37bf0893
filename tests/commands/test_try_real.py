"""`autoresearch try` and `check` with the language model: real traces, real trials."""

import json
from pathlib import Path

import pytest

from autoresearch_jax.cli import main

HYPOTHESIS = "--hypothesis=a smaller step"


@pytest.mark.slow
def test_by_hand_a_text_is_traced_measured_and_decided_on(
    tiny_run: list[str],
    tiny_source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    editable = tmp_path / "train_lib.py"

    def call(*words: str) -> tuple[int, dict]:
        status = main([*words, "--format=json"])
        return status, json.loads(capsys.readouterr().out)

    editable.write_text(tiny_source.replace("LEARNING_RATE = 10.0", "LEARNING_RATE = 5.0"))
    status, found = call("try", "--tag=a", HYPOTHESIS, *tiny_run)
    assert status == (0 if found["outcome"] == "keep" else 3)
    assert found["experiment"] == 1
    assert found["score"] is not None

    editable.write_text(editable.read_text().replace("LEARNING_RATE = 5.0", "LEARNING_RATE = 5.0  # with a comment"))
    status, found = call("try", "--tag=a", HYPOTHESIS, "--as_is")
    assert (status, found["outcome"]) == (3, "duplicate")

    line = "    def logits(state, tokens):\n"
    editable.write_text(tiny_source.replace(line, line + "        jnp.no_such_function()\n"))
    for command in (("check", "--tag=a"), ("try", "--tag=a", HYPOTHESIS)):
        status, found = call(*command)
        assert (status, found["outcome"]) == (4, "crash")
        assert "no_such_function" in found["reason"]
        assert '|   File "train_lib.py", line 20, in logits\n|     jnp.no_such_function()\n' in found["details"]
        assert str(tmp_path) not in found["details"]

    assert main(["try", "--tag=a", HYPOTHESIS]) == 4
    assert "\n|     jnp.no_such_function()\n" in capsys.readouterr().out

    editable.write_text(tiny_source.replace("(1 - progress)", "(1 - progress**2)"))
    status, found = call("check", "--tag=a")
    assert (status, found["outcome"], found["lines_added"]) == (0, "ok", 1)
    assert found["num_params"] > 0
    assert not list((tmp_path / "runs/a/logs").glob("0005*"))
