"""Write the command reference in the README from the commands' own help.

python docs/make_reference.py
"""

from __future__ import annotations

from pathlib import Path

import click

from drexcache.cli import main

README = Path(__file__).parents[1] / "README.md"
START, END = "<!-- reference: made by docs/make_reference.py -->", "<!-- /reference -->"


def helps(command: click.Command, name: str, parent: click.Context | None = None) -> list[tuple[str, str]]:
    """(full name, help text) of a command and of all below it."""
    settings = {**main.context_settings, "max_content_width": 100, "terminal_width": 100}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    found = [(context.command_path, command.get_help(context))]
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            below = command.get_command(context, child)
            assert below is not None
            found += helps(below, child, context)
    return found


def reference() -> str:
    """The section between the markers, markers included."""
    parts = [f"### `{name}`\n\n```text\n{text.strip()}\n```\n" for name, text in helps(main, "drexcache")]
    return START + "\n\n" + "\n".join(parts) + "\n" + END


def renewed(readme: str) -> str:
    """The README with its reference made anew."""
    before, _, rest = readme.partition(START)
    _, _, after = rest.partition(END)
    return before + reference() + after


if __name__ == "__main__":
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
