"""The options by which images and ratings come in, shared by the commands that read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

LAYOUTS = ["auto", "folder", "ic9600", "savoias"]
RATING_HELP = "Column of ratings, or a pattern for one per rater [default: guessed, and said]"
RATER_OPTIONS = (  # of cache rate, too
    click.option("--rater-column", metavar="NAME", help="Column of raters, where a line is one rater's rating"),
    click.option("--error-column", metavar="NAME", help="Column of the ratings' standard errors"),
    click.option("--raters", type=click.IntRange(2), help="The error column is the deviation of so many raters"),
)
OUT_OF_RANGE = click.option(
    "--out-of-range", type=click.Choice(["refuse", "clip", "drop", "widen"]), default="refuse", show_default=True,
    help="Ratings outside the range: refuse them all, clip or drop each, or widen the range",
)  # fmt: skip
OPTIONS = (
    click.option("--ratings", type=click.Path(), help="CSV, text, workbook, Parquet [default: what the layout brings]"),
    click.option("--layout", type=click.Choice(LAYOUTS), default="auto", show_default=True),
    click.option("--dataset", help="Name of the dataset [default: the folder's]"),
    click.option("--image-column", metavar="NAME", help="Column of image names [default: guessed, and said]"),
    click.option("--rating-column", metavar="NAME", help=RATING_HELP),
    click.option("--split-column", metavar="NAME", help="Column of splits [default: guessed, and said]"),
    click.option("--group-column", "group_columns", metavar="NAME", multiple=True, help="Column to keep as a label"),
    *RATER_OPTIONS,
    click.option(
        "--range", "value_range", type=(float, float), metavar="LOW HIGH", help="Range that the ratings can take"
    ),
    OUT_OF_RANGE,
    click.option("--higher-is", type=click.Choice(["more", "less"]), default="more", show_default=True,
                 help="Meaning of a higher rating"),
    click.option("--target", default="rating", show_default=True, help="Name under which the ratings are kept"),
    click.option("--allow-unmatched", is_flag=True, help="Go on when ratings and images do not match one to one"),
)  # fmt: skip


def image_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command; it passes them on to `read_images`."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def rater_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how reliable ratings are."""
    for option in reversed(RATER_OPTIONS):
        command = option(command)
    return command
