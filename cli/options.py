"""What several commands share: options, and the reconstructed command line."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from drexcache.files import refuse_output

METRICS = ("pearson", "spearman", "kendall", "rmse", "mae", "rmae")  # as in drexcache.metrics, which is slow to import

metric_option = click.option(
    "--metric", type=click.Choice(METRICS), default="pearson", show_default=True, help="Metric of the table"
)
format_option = click.option(
    "--format", "form", type=click.Choice(["markdown", "latex"]), default="markdown", show_default=True,
    help="Form of the printed tables",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print the results as JSON")

block_option = click.option(
    "--block", "blocks", multiple=True, help="Only this block, or block/tap (can be repeated) [default: all]"
)
target_option = click.option("--target", help="Name of the ratings [default: the only ones]")
folds_option = click.option("--folds", default=5, show_default=True, type=click.IntRange(2))
repeats_option = click.option(
    "--repeats", default=1, show_default=True, type=click.IntRange(1), help="Repeat the k-fold with other folds"
)
seeds_option = click.option(
    "--seed", "seeds", multiple=True, type=int, default=(42,), show_default=True,
    help="Seed of the regressors (can be repeated)",
)  # fmt: skip
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps")
regressors_option = click.option(
    "-r", "--regressor", "regressors", multiple=True, required=True, help="Name of a regressor (can be repeated)"
)

tracker_option = click.option(
    "--tracker", type=click.Choice(["mlflow", "wandb", "tensorboard"]), envvar="DREXCACHE_TRACKER",
    help="Also record the run in this tool [default: $DREXCACHE_TRACKER]",
)  # fmt: skip


class Output(click.Path):
    """The path of a file or folder to write; never a name on the Hub."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path itself."""
        refuse_output(value)
        if not self.file_okay and Path(value).exists() and not Path(value).is_dir():
            self.fail(f"{value!r} is no folder", param, ctx)
        return super().convert(value, param, ctx)


class Number(click.ParamType):
    """A finite number as ratings are written; Python would also read 3_5, as 35, inf, and other scripts' digits."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number that a text is."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or "_" in str(value) or not str(value).isascii():
            self.fail(f"{value!r} is not a number; write digits and a decimal point, such as 7 or 0.5", param, ctx)
        return number


NUMBER = Number()
LAYOUTS = ["auto", "folder", "ic9600", "savoias"]
RATING_HELP = "Column of ratings, or a pattern for one per rater [default: guessed, and reported]"
RATER_OPTIONS = (  # cache rate has them, too
    click.option("--rater-column", metavar="NAME", help="Column of raters, if each line is one rater's rating"),
    click.option("--error-column", metavar="NAME", help="Column of the ratings' standard errors"),
    click.option("--centre-raters", is_flag=True, help="Move each rater's ratings so that all have the same mean"),
    click.option("--raters", type=click.IntRange(2), help="The error column is the SD over this many raters"),
)
OUT_OF_RANGE = click.option(
    "--out-of-range", type=click.Choice(["refuse", "clip", "drop", "widen"]), default="refuse", show_default=True,
    help="Ratings outside the range: refuse them all, clip or drop each, or widen the range",
)  # fmt: skip
COMPARISONS = click.option(
    "--comparisons", metavar="PAIRS", type=click.Path(),
    help="Pairwise choices instead of ratings: columns winner and loser, or left, right and choice",
)  # fmt: skip
IMAGE_OPTIONS = (
    click.option("--ratings", type=click.Path(), help="CSV, text, workbook, Parquet [default: the layout's own]"),
    click.option("--layout", type=click.Choice(LAYOUTS), default="auto", show_default=True),
    click.option("--dataset", help="Name of the dataset [default: the folder's]"),
    click.option("--image-column", metavar="NAME", help="Column of image names [default: guessed, and reported]"),
    click.option("--rating-column", metavar="NAME", help=RATING_HELP),
    click.option("--split-column", metavar="NAME", help="Column of splits [default: guessed, and reported]"),
    click.option("--group-column", "group_columns", metavar="NAME", multiple=True, help="Column to keep as a label"),
    *RATER_OPTIONS,
    click.option(
        "--range", "value_range", type=(NUMBER, NUMBER), metavar="LOW HIGH", help="Range that the ratings can take"
    ),
    OUT_OF_RANGE,
    click.option("--higher-is", type=click.Choice(["more", "less"]), default="more", show_default=True,
                 help="Meaning of a higher rating"),
    click.option("--target", default="rating", show_default=True, help="Name to store the ratings under"),
    click.option("--allow-unmatched", is_flag=True, help="Continue if ratings and images do not match one to one"),
)  # fmt: skip


def image_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that a command passes on to `read_images`."""
    for option in reversed(IMAGE_OPTIONS):
        command = option(command)
    return command


def rater_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options from which the ratings' reliability is computed."""
    for option in reversed(RATER_OPTIONS):
        command = option(command)
    return command


def command_line() -> str:
    """The running command with the options that the user gave, ready to paste into a shell."""
    context = click.get_current_context()
    words: list[str] = []
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if context.get_parameter_source(parameter.name or "") is not ParameterSource.COMMANDLINE:
            continue
        values = list(value or ()) if parameter.multiple or parameter.nargs == -1 else [value]
        if isinstance(parameter, click.Argument):
            words += map(str, values)
        elif isinstance(parameter, click.Option) and parameter.is_flag:
            words.append(parameter.opts[-1])
        else:
            for one in values:
                words += [parameter.opts[-1], *map(str, one if isinstance(one, tuple) else [one])]
    return shlex.join(["drexcache", *context.command_path.split()[1:], *words])
