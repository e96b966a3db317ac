"""The command ``drexcache``. Its subcommands parse options, call the library and print; no logic lives here."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Any

import click

from drexcache.errors import DrexcacheError, Stopped, about
from drexcache.files import kind_of_file
from drexcache.progress import quiet

# Torch's threads sleep while they wait, instead of spinning: beside other busy programs they would take many times as
# long. Read when torch is loaded, which no command has done yet.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

STATUSES = (
    "Exit status: 0 done; 1 not done, and one sentence says why (also: images that failed, caches that differ or are "
    "damaged); 2 wrong options; 130 after Ctrl-C, 143 after SIGTERM. Completion of words by Tab in bash (zsh, fish "
    'alike): eval "$(_DREXCACHE_COMPLETE=bash_source drexcache)"'
)
STOPPED = "stopped; what was finished is kept, and no file is half written. Run the same command again."

MOST_WARNINGS = 20  # of one kind, about images
_warned: dict[str, dict[str, None]] = {}  # kind of warning -> the images it was about

# Command -> the module that defines it as ``command``; imported only when used, so that --help stays fast.
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
    "curve": "curve",
    "similar": "similar",
    "report": "report",
    "push": "push",
    "runs": "runs",
    "predict": "predict",
    "export": "export",
    "import-reference": "import_reference",
}


class OneSentence(click.Group):
    """A group that turns a user's mistake, a failing disk or a signal into one line on stderr, never a traceback.

    Exit status 1: a mistake, or a disk that fails; 130 or 143: Ctrl-C or SIGTERM. A warning is one line, too.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        warnings.formatwarning = _warning_line
        _warned.clear()
        warnings.filterwarnings("always", module=r"(PIL|drexcache\.datasets)\.")  # for each image, not just one
        for stream in (sys.stdout, sys.stderr):  # file names that are not UTF-8, terminals limited to ASCII
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            with _stopped_cleanly():
                return super().invoke(ctx)
        except DrexcacheError as error:
            if ctx.find_root().params.get("verbose"):
                traceback.print_exc()
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt as stopped:
            say(("\n" if sys.stderr.isatty() else "") + STOPPED)
            raise SystemExit(128 + getattr(stopped, "number", signal.SIGINT)) from None
        except BrokenPipeError:
            raise SystemExit(0) from None
        except OSError as error:  # a disk that is full, read-only or gone, where no command handles it
            place = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(f"{place}{error.strerror or error}") from error


def _warning_line(message: Warning | str, *_: Any, **__: Any) -> str:
    """A warning as one line that starts with its image; "" if repeated, or after MOST_WARNINGS images."""
    text, image = " ".join(str(message).split()), about()
    if not image:
        return f"Warning: {text}\n"
    images = _warned.setdefault(text[:20], {})  # only the start: the rest may hold numbers that differ
    if image in images or len(images) > MOST_WARNINGS:
        return ""
    images[image] = None
    return f"{image}: {text}{'; such warnings end here' if len(images) > MOST_WARNINGS else ''}\n"


@contextmanager
def _stopped_cleanly() -> Iterator[None]:
    """A context in which SIGTERM unwinds the work as Ctrl-C does, so that locks and temporary files are cleaned up."""

    def stop(number: int, frame: FrameType | None) -> None:
        if _torch_is_being_imported():  # an exception in its C++ parts would abort the process
            threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
        else:
            raise Stopped(number)

    if threading.current_thread() is not threading.main_thread():  # no other thread may handle signals
        yield
        return
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # otherwise ignored, or handled by the caller
        numbers.append(signal.SIGINT)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _torch_is_being_imported() -> bool:
    return bool(getattr(getattr(sys.modules.get("torch"), "__spec__", None), "_initializing", False))


class Lazy(OneSentence):
    """A group that imports a command's module only when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order in which they are usually run."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"drexcache.cli.{COMMANDS[cmd_name]}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with the summaries below, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))


SUMMARIES = {
    "demo": "Run the whole pipeline on drawn images with real weights, in a few minutes.",
    "extract": "Compute an image set's features into a cache.",
    "cache": "Inspect, check and change caches.",
    "recipes": "List recipes, or show one.",
    "regressors": "List the regressors and the settings that a search may change.",
    "train": "Train a regressor on a cache and save it as one file.",
    "search": "Search regressors, settings and feature blocks with Optuna.",
    "evaluate": "Score regressors within and across caches.",
    "compare": "Show which of the evaluated regressors really differ.",
    "ablate": "Measure what each part of the features contributes.",
    "similar": "List the nearest images, or ratings to check and copies.",
    "curve": "Show how scores grow with rated images, or with ratings of each.",
    "report": "Make one HTML page of scores, figures and pictures.",
    "push": "Upload a cache, a model or scores to the Hugging Face Hub.",
    "runs": "List past evaluations and searches, newest first.",
    "predict": "Predict the ratings of new images.",
    "export": "Write a model as one ONNX file for other programs.",
    "import-reference": "Import the paper authors' checkpoint as a model.",
}


@click.group(
    cls=Lazy, epilog=STATUSES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="drexcache")
@click.option("-q", "--quiet", "silent", is_flag=True, help="Print results and errors only: no messages, no bars")
@click.option("-v", "--verbose", is_flag=True, help="Print the traceback of an error too")
@click.pass_context
def main(ctx: click.Context, silent: bool, verbose: bool) -> None:
    """Pay for frozen vision backbones once; then train and compare regressors of human scores in seconds."""
    if sys.platform == "win32":
        raise click.ClickException("drexcache runs on Linux and macOS; on Windows, run it in WSL or in its Dockerfile")
    if silent:
        before = quiet.set(True)
        ctx.call_on_close(lambda: quiet.reset(before))
        ctx.with_resource(warnings.catch_warnings())
        warnings.simplefilter("ignore")


def say(line: str) -> None:
    """Print a message to stderr, unless the user wants quiet; standard output is kept for results."""
    if not quiet.get():
        click.echo(line, err=True)


def make_room_for(out: str | Path, inputs: Iterable[str | Path | None] = (), kind: str = "") -> None:
    """Create the output's folder; refuse to overwrite an input, or a file that is not an earlier output of its kind.

    Called before the work, so that a mistyped name loses nothing. kind : "model" if the command writes a model.
    """
    out = Path(out)
    for path in inputs:
        if path and out.exists() and Path(path).exists() and out.samefile(path):
            raise DrexcacheError(f"{out}: this command reads it, and would write over it; choose another name")
    found = kind_of_file(out) if out.is_file() else ""
    found = {"a cache": "cache", "a model": "model", "": ""}.get(found, "file")
    if found and found != kind and (kind or found != "file"):
        what = {"file": "is no model", "model": "is a model", "cache": "is a cache or another HDF5 file"}[found]
        raise DrexcacheError(f"{out}: exists and {what}, which would be lost; choose another name, or delete it first")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DrexcacheError(f"{out}: its folder cannot be made ({error.strerror or error})") from error
    if not os.access(out.parent, os.W_OK):
        raise DrexcacheError(f"{out}: its folder cannot be written to; choose another")
