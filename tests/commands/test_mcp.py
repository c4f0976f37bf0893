"""`autoresearch mcp`, asked by the SDK's own client in another process."""

import importlib.util
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from finished_night import Night
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp_types import CallToolResult, TextContent, TextResourceContents
from nights import write_night

from autoresearch_jax import cli
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.report.summary import summarize_run

SERVER = [sys.executable, "-m", "autoresearch_jax.cli", "mcp"]


def ask(folder: Path, scenario: Callable[[Client], Awaitable[Any]], *flags: str) -> Any:
    """What a scenario finds out of a server that is started in a folder."""

    async def talk() -> Any:
        command, *arguments = SERVER
        place = StdioServerParameters(
            command=command, args=[*arguments, *flags], cwd=folder, env={**os.environ, "PYTHONSAFEPATH": "1"}
        )
        async with Client(stdio_client(place)) as client:
            return await scenario(client)

    return anyio.run(talk)


def words(result: CallToolResult) -> str:
    (content, *_) = result.content
    assert isinstance(content, TextContent)
    return content.text


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with a made-up one, `night`."""
    return write_night(tmp_path_factory.mktemp("runs") / "night", 8).path.parent


def test_a_run_is_looked_at_and_mistakes_are_errors_of_the_tool_in_the_commands_own_line(
    runs: Path, tmp_path: Path
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('a module of the folder')\n")
    (tmp_path / "program.md").write_text("## Goal\n\nLower it.\n")
    with closing(Ledger.open_to_read(runs / "night" / "ledger.db")) as ledger:
        champion = summarize_run(ledger).champion
        assert champion is not None
        source = ledger.source(champion.id)
        changed = next(row for row in ledger.experiments() if row.parent is not None)

    async def scenario(client: Client) -> None:
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert listed.keys() == {"status", "results", "diff", "brief", "findings", "check", "try"}
        reads = {name for name, tool in listed.items() if tool.annotations and tool.annotations.read_only_hint}
        assert listed.keys() - reads == {"try"}
        status = json.loads(words(await client.call_tool("status", {"tag": "night"})))
        assert status["champion_experiment"] == champion.id
        assert json.loads(words(await client.call_tool("status", {"why": changed.id})))["experiment"] == changed.id
        assert len(json.loads(words(await client.call_tool("results")))["experiments"]) == 8
        diff = json.loads(words(await client.call_tool("diff", {"experiment": changed.id})))
        assert diff["made_from"] == changed.parent
        assert diff["diff"].startswith("--- a/")
        assert "<<<<<<< SEARCH" in words(await client.call_tool("findings", {"name": "tied-embeddings"}))

        async def read(uri: str) -> str:
            (content,) = (await client.read_resource(uri)).contents
            assert isinstance(content, TextResourceContents)
            return content.text

        assert await read("autoresearch://program.md") == (tmp_path / "program.md").read_text()
        assert await read("autoresearch://champion") == source
        assert await read("autoresearch://runs/night/champion") == source
        with pytest.raises(MCPError, match="no ledger there; there are night"):
            await read("autoresearch://runs/another/champion")
        for name, arguments, said in (
            ("status", {"tag": "another"}, "no ledger there; there are night in "),
            ("status", {"tag": "--why=1"}, "/--why=1/ledger.db: no ledger there"),
            ("results", {"tags": "night"}, "results has no argument 'tags'; there are tag"),
            ("diff", {"tag": "night"}, "diff needs 'experiment': its number in the results"),
            ("try", {"why": "so"}, "--hypothesis is missing"),
        ):
            result = await client.call_tool(name, arguments)
            assert result.is_error
            assert said in words(result)
            assert "\n" not in words(result)

    ask(tmp_path, scenario, f"--run_dir={runs}", "--tag=night")


def test_without_the_extra_it_is_one_line_with_the_remedy(monkeypatch, capsys) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "mcp" else find(name, *more))
    assert cli.main(["mcp"]) == 1
    captured = capsys.readouterr()
    assert "pip install 'autoresearch_jax[mcp]'" in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.slow
def test_what_an_agent_reads_before_it_proposes(finished: Night) -> None:
    folder = finished.folder.path.parent

    async def scenario(client: Client) -> None:
        assert "LEARNING_RATE" in words(await client.call_tool("brief"))
        checked = await client.call_tool("check")
        assert not checked.is_error
        assert json.loads(words(checked))["outcome"] == "duplicate", "it is the champion's"
        with_mistake = await client.call_tool("check", {"file": "program.md"})
        assert not with_mistake.is_error
        assert json.loads(words(with_mistake))["outcome"] == "rejected"
        assert (await client.call_tool("check", {"file": "--tag=other"})).is_error

    ask(folder, scenario, f"--run_dir={folder}", "--tag=night")


@pytest.mark.slow
def test_a_change_is_tried_while_others_are_answered(tiny_run: list[str], tmp_path: Path) -> None:
    (tmp_path / "tiny.flags").write_text("\n".join([*tiny_run, "--baseline_runs=1"]))
    training_file = tmp_path / "train_lib.py"
    said: list[tuple[float, str | None]] = []

    async def progress(seconds: float, total: float | None, message: str | None) -> None:
        said.append((seconds, message))

    async def scenario(client: Client) -> None:
        assert json.loads(words(await client.call_tool("check")))["outcome"] == "ok", "no run has begun"
        training_file.write_text(training_file.read_text().replace("LEARNING_RATE = 10.0", "LEARNING_RATE = 9.0"))
        tried: list[CallToolResult] = []
        over = anyio.Event()

        async def try_change() -> None:
            arguments = {"hypothesis": "a smaller step", "category": "optimizer"}
            tried.append(await client.call_tool("try", arguments, progress_callback=progress))
            over.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(try_change)
            while (await client.call_tool("status")).is_error:
                await anyio.sleep(0.1)
            assert not over.is_set()
        result = json.loads(words(tried[0]))
        assert (result["experiment"], result["hypothesis"]) == (1, "a smaller step")
        assert result["score"] is not None
        assert len(said) > 1
        lines = [line for _, line in said if line is not None and line.startswith("autoresearch try: ")]
        assert len(lines) == len(set(lines)) > 0, "each once"
        assert [seconds for seconds, _ in said] == sorted({seconds for seconds, _ in said})
        again = json.loads(words(await client.call_tool("try", {"hypothesis": "the same"})))
        assert again["outcome"] == "duplicate"

    ask(tmp_path, scenario, "--tag=night", f"--run_flagfile={tmp_path / 'tiny.flags'}")


@pytest.mark.slow
def test_a_client_that_goes_ends_what_it_began(tiny_run: list[str], tmp_path: Path) -> None:
    (tmp_path / "tiny.flags").write_text("\n".join([*tiny_run, "--budget_steps=100000"]))
    training_file = tmp_path / "train_lib.py"
    training_file.write_text(training_file.read_text().replace("LEARNING_RATE = 10.0", "LEARNING_RATE = 9.0"))
    folder = RunFolder(tmp_path / "runs/night")

    async def scenario(client: Client) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "try", {"hypothesis": "a smaller step"})
            while folder.holder() is None:
                await anyio.sleep(0.1)
            tasks.cancel_scope.cancel()

    ask(tmp_path, scenario, "--tag=night", f"--run_flagfile={tmp_path / 'tiny.flags'}")
    while folder.holder() is not None:
        time.sleep(0.1)
