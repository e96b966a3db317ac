"""Write docs/commands.md, the reference of the commands, and the README's list of them from the commands' own help.

python docs/make_reference.py
"""

from __future__ import annotations

from pathlib import Path

import click

from drexcache.cli import main

PAGE = Path(__file__).parent / "commands.md"
README = PAGE.parents[1] / "README.md"
HEAD = """# The commands

Made from the commands' own help by `docs/make_reference.py`; `drexcache COMMAND --help` shows the same in a terminal.
"""
START, END = "<!-- commands: made by docs/make_reference.py -->", "<!-- /commands -->"


def helps(command: click.Command, name: str, parent: click.Context | None = None) -> list[tuple[str, str]]:
    """The full name and help text of a command and of all its subcommands."""
    settings = {**main.context_settings, "max_content_width": 100, "terminal_width": 100}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    found = [(context.command_path, command.get_help(context))]
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            below = command.get_command(context, child)
            assert below is not None
            found += helps(below, child, context)
    return found


def page() -> str:
    """The whole reference."""
    parts = [f"## {name}\n\n```text\n{text.strip()}\n```\n" for name, text in helps(main, "drexcache")]
    return "\n".join([HEAD, *parts])


def renewed(readme: str) -> str:
    """The README with an updated list of commands."""
    before, _, rest = readme.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n```text\n{helps(main, 'drexcache')[0][1].strip()}\n```\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
