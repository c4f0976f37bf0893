"""Writes docs/reference/flags.md from the options that the commands declare: `python scripts/make_reference.py`."""

from pathlib import Path

from autoresearch_jax.cli import COMMANDS, command_module
from autoresearch_jax.commands.options import options_table

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "flags.md"
HEAD = """\
# Options of each command

Written by `python scripts/make_reference.py`; do not edit.

Each option is given as `--option=value`. One whose default is `true` is switched off by
`--nooption`. `--flagfile=FILE` reads options from a file, one a line. An empty default means that
there is none.
"""


def flags_page() -> str:
    """The page, a section for each command."""
    sections = [HEAD]
    for command, summary in COMMANDS.items():
        module = command_module(command)
        sections.append(f"## autoresearch {command}\n\n{summary[0].upper()}{summary[1:]}.\n\n")
        sections[-1] += f"{options_table(module.Options)}\n"
    return "\n".join(sections)


def main() -> None:
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(flags_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
