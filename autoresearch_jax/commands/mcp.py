"""A server of the Model Context Protocol on standard input and output: a run's commands as tools for a coding agent.

    autoresearch mcp --tag=nov20

An agent's program starts it; docs/guide/mcp.md has the settings of some of them.
"""

import gc
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from autoresearch_jax.commands.options import option
from autoresearch_jax.errors import UsageError, UserError


@dataclass(frozen=True)
class Options:
    """What `autoresearch mcp` was asked for; it loads neither numpy nor the ledger, so that it answers at once."""

    tag: str | None = option(None, "name of the run that tools are about where they are not told another")
    run_dir: str = option("./runs", "folder of the runs", path=True)
    run_flagfile: Path | None = option(
        None, "flag file that `check` and `try` get, such as configs/cpu.flags: what a run is begun with"
    )
    program: Path = option(Path("./program.md"), "the page of instructions, given as a resource")


def run(options: Options, arguments: list[str]) -> int:
    """Serves until standard input ends.

    Raises:
      UsageError: the flag file is not there.
      UserError: the protocol's SDK is missing.
    """
    if options.run_flagfile is not None and not options.run_flagfile.is_file():
        raise UsageError(f"--run_flagfile={options.run_flagfile}: no such file: name a flag file of `autoresearch run`")
    require_mcp()
    gc.disable()  # the classes of the SDK stay: looking through them again and again takes a fifth of the start
    from autoresearch_jax.commands.mcp_tools import Commands, make_server

    server = make_server(Commands(options.tag, options.run_dir, options.run_flagfile, options.program))
    gc.freeze()
    gc.enable()
    server.run("stdio")
    return 0


def require_mcp() -> None:
    """Checks that the protocol's SDK is there.

    Raises:
      UserError: the package is missing.
    """
    if importlib.util.find_spec("mcp") is None:
        raise UserError(
            "needs the package mcp, which is missing: in the checkout ./scripts/setup.sh mcp, "
            "elsewhere pip install 'autoresearch_jax[mcp]'"
        )
