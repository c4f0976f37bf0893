"""`autoresearch doctor`, section key."""

from pathlib import Path

import pytest
from doctor_calls import KEY, Doctor, lines

from autoresearch_jax.cli import main


@pytest.mark.parametrize("name", ["GEMINI_API_KEY", "GOOGLE_API_KEY"])
@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (KEY, None),
        (f" {KEY}", "white space around"),
        (f"{KEY}\n", "white space around"),
        (f'"{KEY}"', "quotes"),
        (f"'{KEY}", "quotes"),
        (f"{KEY} {KEY}", "spaces or characters"),
        (f"{KEY}\x7f", "spaces or characters"),
        ("  ", "empty"),
    ],
)
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_key_is_never_shown(
    name: str,
    value: str,
    problem: str | None,
    form: str,
    doctor: Doctor,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, value)
    status = main(["doctor", "--sections=jax,git,key,run", f"--format={form}", "--proposer=hybrid"])
    output = "".join(capsys.readouterr())
    assert status == (0 if problem is None else 1)
    assert not any(KEY[start : start + 4] in output for start in range(len(KEY) - 3))
    if form == "json":
        return
    found = lines(output)
    if problem is None:
        assert (found["key"], found["faults"]) == (f"{name} is set", "none")
    else:
        assert problem in found[name.lower()]
        assert f"export {name}=..." in found[name.lower()]
        assert name.lower() in found["faults"]


def test_ways_to_a_model(doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, found = doctor("key")
    assert (status, found["model"]) == (0, "no way to one, not that --proposer=constants asks any")
    status, found = doctor("key", "--proposer=gemini")
    assert (status, found["faults"]) == (1, "model")
    assert "needs a key in GEMINI_API_KEY" in found["model"]

    monkeypatch.setenv("HOME", str(tmp_path))
    vertex = ("key", "--proposer=gemini", "--gemini_vertex_project=mine")
    status, found = doctor(*vertex)
    assert (status, found["vertex"].split(";")[0]) == (0, "no file of credentials")
    credentials = tmp_path / "credentials.json"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(credentials))
    status, found = doctor(*vertex)
    assert (status, found["faults"]) == (1, "vertex")
    assert "; unset it and call gcloud auth application-default login" in found["vertex"]
    credentials.write_text("{}")
    assert doctor(*vertex)[0] == 0

    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("GOOGLE_API_KEY", KEY[::-1])
    assert doctor("key")[1]["key"] == "GOOGLE_API_KEY is set; GEMINI_API_KEY is set, too, and not used"
