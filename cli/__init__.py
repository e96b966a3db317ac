"""The front door: ``drexcache``. Commands say what they do, call the library and print; no logic lives here."""

from __future__ import annotations

import importlib
import os
import warnings
from typing import Any

import click

# Command -> the module that holds it as ``command``; imported only when asked for, so that --help stays fast.
COMMANDS = {
    "demo": "demo",
    "extract": "extract",
    "cache": "cache",
    "recipes": "recipes",
    "regressors": "regressors",
    "train": "train",
    "search": "search",
    "evaluate": "evaluate",
    "compare": "compare",
    "ablate": "ablate",
    "report": "report",
    "runs": "runs",
    "predict": "predict",
    "import-reference": "import_reference",
}


class OneSentence(click.Group):
    """A group that turns a DrexcacheError into one line on stderr and exit status 1, and a warning into one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a user's mistake never shows a traceback."""
        from drexcache.errors import DrexcacheError

        warnings.formatwarning = lambda message, *_: f"Warning: {message}\n"
        try:
            return super().invoke(ctx)
        except DrexcacheError as error:
            raise click.ClickException(str(error)) from error
        except BrokenPipeError:
            raise SystemExit(0) from None


class Lazy(OneSentence):
    """Imports a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order of the work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"drexcache.cli.{COMMANDS[cmd_name]}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands without importing them: their summaries stand here."""
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))


SUMMARIES = {
    "demo": "The whole story on drawn images with real weights, a few minutes.",
    "extract": "Compute an image set's features into a cache.",
    "cache": "Look into, check and change caches.",
    "recipes": "List recipes, or show one.",
    "regressors": "List the regressors and what a search may set.",
    "train": "Train a regressor on a cache and save it as one file.",
    "search": "Search regressors, settings and feature blocks with Optuna.",
    "evaluate": "Score regressors inside and across caches.",
    "compare": "Say which of the evaluated regressors really differ.",
    "ablate": "Say what every part of the features is worth.",
    "report": "Make one HTML page of scores, figures and pictures.",
    "runs": "List what was evaluated and searched, newest first.",
    "predict": "Predict the ratings of new images.",
    "import-reference": "Make a model of the paper authors' checkpoint.",
}


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="drexcache")
def main() -> None:
    """Pay for frozen vision backbones once; then train and compare regressors of human scores in seconds."""


def say(line: str) -> None:
    """A line for the person at the terminal; standard output is kept for results."""
    click.echo(line, err=True)


def make_room_for(out: str) -> None:
    """Make the output's folder before the work, so that a mistake in its name costs none."""
    from pathlib import Path

    from drexcache.errors import DrexcacheError

    folder = Path(out).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DrexcacheError(f"{out}: its folder cannot be made ({error.strerror or error})") from error
    if not os.access(folder, os.W_OK):
        raise DrexcacheError(f"{out}: its folder cannot be written to; choose another")
