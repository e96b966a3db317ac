"""drexcache curve"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from drexcache.cli import make_room_for, say
from drexcache.cli.options import Output, block_option, folds_option, json_option, regressors_option, target_option
from drexcache.errors import several
from drexcache.progress import step_bar

if TYPE_CHECKING:
    from drexcache.studies.comparison import Curve


@click.command("curve")
@click.argument("cache", type=click.Path())
@regressors_option
@click.option("-o", "--out", required=True, type=Output(dir_okay=False), help="The CSV of the curve to write")
@block_option
@target_option
@click.option("--steps", type=click.IntRange(4), default=8, show_default=True, help="Points of the curve")
@click.option("--ratings", type=click.Path(), help="Count ratings of each image instead: the table of single raters")
@click.option("--image-column", metavar="NAME", help="Column of image names [default: guessed, and reported]")
@click.option("--rating-column", metavar="NAME", help="Column of ratings, or a pattern such as rater_*, one per rater")
@click.option("--rater-column", metavar="NAME", help="Column of raters, if each line is one rater's rating")
@folds_option
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Other folds and orders")
@click.option("--seed", type=int, default=42, show_default=True)
@click.option("--aim", type=click.FloatRange(0, 1), help="Pearson's r to reach [default: the next 0.05]")
@json_option
def command(
    cache: str, regressors: tuple[str, ...], out: str, blocks: tuple[str, ...], target: str | None, steps: int,
    ratings: str | None, image_column: str | None, rating_column: str | None, rater_column: str | None, folds: int,
    repeats: int, seed: int, aim: float | None, as_json: bool,
) -> None:  # fmt: skip
    """Score regressors after training on more and more images, or ratings of each; say how many more it would take.

    The CSV holds the measured scores with their intervals, and the fitted law with its band.

    \b
    drexcache curve scenes.h5 -r ridge -r fusion -o curve.csv --aim 0.9
    drexcache curve scenes.h5 -r ridge --ratings raters.csv --rating-column "rater_*" -o ratings-curve.csv
    """
    from drexcache.cache import open_cache
    from drexcache.datasets import Columns
    from drexcache.studies.comparison import curve, save_curves, with_raters

    columns = Columns(image=image_column, rating=rating_column, rater=rater_column)
    if ratings is None and columns.given():
        raise click.UsageError(f"{', '.join(columns.given())} needs --ratings, the table that has the column")
    make_room_for(out, [cache, *([ratings] if ratings else [])])
    matrix, by_rater = open_cache(cache).matrix(blocks or None, target), None
    if ratings is not None:
        matrix, by_rater, notes = with_raters(matrix, ratings, columns)
        for note in notes:
            say(note)
    with step_bar("curve", "repeat") as progress:
        found = curve(
            matrix, regressors, steps=steps, folds=folds, repeats=repeats, seed=seed, ratings=by_rater,
            progress=progress,
        )  # fmt: skip
    save_curves(found, out)
    _print(found, aim, as_json)
    say(f"curve in {out}")


def _print(curves: Sequence[Curve], aim: float | None, as_json: bool) -> None:
    """Print the scores at each size and the outlook, as lines or as JSON."""
    import numpy as np

    from drexcache.studies.comparison import COUNTED

    if as_json:
        fields = ("sizes", "value", "low", "high")
        objects = [
            {"regressor": one.regressor, "of": one.of}
            | {name: np.asarray(getattr(one, name)).tolist() for name in fields}
            | {"outlook": one.outlook(aim)}
            for one in curves
        ]
        click.echo(json.dumps(objects, indent=2, ensure_ascii=False))
        return
    for one in curves:
        for size, value, low, high in zip(one.sizes, one.value, one.low, one.high, strict=True):
            click.echo(f"{one.regressor}, {several(size, *COUNTED[one.of])}: r = {value:.3f} [{low:.3f}, {high:.3f}]")
        click.echo(one.outlook(aim))
