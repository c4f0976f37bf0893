"""`autoresearch COMMAND --flags`: finds the command, parses its flags, turns mistakes into one clear line."""

import importlib
import keyword
import signal
import sqlite3
import sys
from collections.abc import Sequence
from functools import partial
from types import ModuleType

from absl import flags

from autoresearch_jax.errors import NO_TEXT, UsageError, UserError
from autoresearch_jax.python_source import BYTE_ORDER_MARK
from autoresearch_jax.streams import flush_output, make_streams_last

NO_TEXT_IN_FLAGS = "a file that is no text here: save it as UTF-8, or set LC_ALL=C.UTF-8 where LC_ALL says otherwise"
COMMANDS = {
    "init": "AGENTS.md, program.md and a training file for a git repository that has none",
    "prepare": "make a dataset: corpus, splits, tokenizers, packed rows",
    "trial": "train the training file as it stands once, and judge it",
    "try": "one experiment of a run by hand: the training file as it stands against the champion",
    "check": "whether a training file would be measured: trace and all checks, in seconds",
    "brief": "the page that an agent gets for the next experiment of a run",
    "run": "the loop: propose, train, judge, keep or discard, repeat",
    "status": "where a run stands",
    "results": "the table of a run's experiments",
    "report": "a page about a run, or several beside each other, and a picture to share",
    "watch": "the page of a run while it goes on, for a browser on this machine",
    "audit": "is a run's gain real, is each kept change worth its place, does it hold at another size",
    "findings": "ideas for the training file, and what runs found out: list, show, export, import",
    "swarm": "findings shared with peers, by git or zenoh: join, sync, serve, replay, status, peers, papers",
    "adopt": "a peer's whole champion as one experiment of a run",
    "sample": "text from a snapshot",
    "host": "on each host but the first of several that share a trial: take part until the run ends",
    "doctor": "whether a run would work on this machine, each thing tried, and what helps where it would not",
    "mcp": "the commands of a run as tools for coding agents (Model Context Protocol, stdio)",
    "verify": "scores a run's champion again from its folder alone, and compares all hashes",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0 done, 1 failed, 2 used wrongly."""
    make_streams_last()
    words = list(sys.argv[1:] if argv is None else argv)
    status = _run(words)
    if (failure := flush_output()) is not None:
        return _complain(words[0] if words else "", failure, status or 1)
    return status


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if words else 2
    command = words[0]
    if command not in COMMANDS:
        return _complain("", f"unknown command {command!r}; one of {', '.join(COMMANDS)}", UsageError.exit_status)
    try:
        from autoresearch_jax.commands.options import define_options, read_options

        module = command_module(command)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("autoresearch_jax"):  # a fault of ours
            raise
        remedy = "in the checkout: rm -f .venv/.installed-* && ./scripts/setup.sh"
        return _complain(command, f"{error}: {remedy}", 1)
    flag_values = flags.FlagValues()
    flags.DEFINE_boolean("help", False, "show these flags and exit", short_name="h", flag_values=flag_values)
    define_options(flag_values, module.Options)
    try:
        arguments = _parse(flag_values, [command, *words[1:]])
        if flag_values["help"].value:
            print(_command_help(command, module))
            return 0
        if arguments and not getattr(module, "TAKES_ARGUMENTS", False):
            raise UsageError(f"unexpected argument {arguments[0]!r}: every setting is a flag, --name=value")
        if getattr(module, "TAKES_RUN_FLAGS", False):
            from autoresearch_jax.commands.run_flags import read_on_run

            options = read_on_run(flag_values, module.Options, partial(_tell, command))
        else:
            options = read_options(flag_values, module.Options)
        if hasattr(options, "task"):  # of several hosts, the loop runs on the first
            from autoresearch_jax.commands.host import serve_instead

            if (status := serve_instead(options)) is not None:
                return status
        return module.run(options, arguments)
    except flags.Error as error:
        return _complain(command, " ".join(str(error).split()), UsageError.exit_status)
    except UserError as error:
        return _complain(command, str(error), error.exit_status)
    except sqlite3.DatabaseError as error:
        where = f"{flag_values['run_dir'].value}/{flag_values['tag'].value}/ledger.db" if "tag" in flag_values else ""
        return _complain(
            command, f"{where or 'a ledger'} cannot be read: {error}: `autoresearch verify` tells what is damaged", 1
        )
    except UnicodeEncodeError as error:
        if not any(0xDC80 <= ord(character) <= 0xDCFF for character in str(error.object)):
            raise
        return _complain(command, f"{error.object}: {NO_TEXT}", 1)
    except KeyboardInterrupt:
        return _complain(command, "interrupted", 128 + signal.SIGINT)


def _parse(flag_values: flags.FlagValues, words: list[str]) -> list[str]:
    """Parses a command's flags; returns the words that are none.

    Raises:
      UsageError: a flag file is not there, is no text, or begins with a mark that makes its first line no flag.
    """
    try:
        arguments = flag_values(words)[1:]
    except UnicodeDecodeError as error:
        raise UsageError(f"--flagfile: {NO_TEXT_IN_FLAGS}") from error
    except flags.CantOpenFlagFileError as error:
        reason = error.__context__
        if not isinstance(reason, OSError):
            raise
        why = f"--flagfile={reason.filename}: {reason.strerror}"
        raise UsageError(f"{why}: paths in flag files, too, begin at the working directory") from error
    if arguments and arguments[0].startswith(BYTE_ORDER_MARK):
        raise UsageError("--flagfile: it begins with a byte-order mark: save it as UTF-8 without one")
    return list(arguments)


def command_module(command: str) -> ModuleType:
    """The module of a command; `try` is no name for one."""
    name = f"{command}_" if keyword.iskeyword(command) else command
    return importlib.import_module(f"autoresearch_jax.commands.{name}")


def _complain(command: str, message: str, exit_status: int) -> int:
    _tell(command, message)
    return exit_status


def _tell(command: str, message: str) -> None:
    print(f"autoresearch {command}".rstrip() + f": {message}", file=sys.stderr)


def _usage() -> str:
    lines = ["usage: autoresearch COMMAND --flag=value ...", ""]
    lines += [f"  {name:<10} {summary}" for name, summary in COMMANDS.items()]
    lines += ["", "`autoresearch COMMAND --help` lists a command's flags; --flagfile=FILE reads them from a file."]
    return "\n".join(lines)


def _command_help(command: str, module: ModuleType) -> str:
    from autoresearch_jax.commands.options import describe_options

    lines = [(module.__doc__ or "").strip(), "", f"flags of `autoresearch {command}`:"]
    for name, default, meaning in sorted(describe_options(module.Options)):
        lines.append(f"  --{name} (default: {default or 'none'})\n      {meaning}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
