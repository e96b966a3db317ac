"""drexcache curve"""

from __future__ import annotations

import json

import click

from drexcache.cli import make_room_for, say
from drexcache.cli.options import block_option, folds_option, json_option, regressors_option, target_option
from drexcache.errors import several
from drexcache.progress import step_bar


@click.command("curve")
@click.argument("cache", type=click.Path())
@regressors_option
@click.option("-o", "--out", required=True, type=click.Path(dir_okay=False), help="The CSV of the curve to write")
@block_option
@target_option
@click.option("--steps", type=click.IntRange(4), default=8, show_default=True, help="Numbers of images to train on")
@folds_option
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Other folds and orders")
@click.option("--seed", type=int, default=42, show_default=True)
@click.option("--aim", type=click.FloatRange(0, 1), help="Pearson's r to reach [default: the next 0.05]")
@json_option
def command(
    cache: str, regressors: tuple[str, ...], out: str, blocks: tuple[str, ...], target: str | None, steps: int,
    folds: int, repeats: int, seed: int, aim: float | None, as_json: bool,
) -> None:  # fmt: skip
    """Score regressors after training on more and more images, and say how many more it would take.

    The CSV holds the measured scores with their intervals, and the fitted law with its band.

    \b
    drexcache curve scenes.h5 -r ridge -r fusion -o curve.csv --aim 0.9
    """
    import numpy as np

    from drexcache.cache import open_cache
    from drexcache.studies.comparison import curve, save_curves

    make_room_for(out, [cache])
    matrix = open_cache(cache).matrix(blocks or None, target)
    with step_bar("curve", "repeat") as progress:
        found = curve(matrix, regressors, steps=steps, folds=folds, repeats=repeats, seed=seed, progress=progress)
    save_curves(found, out)
    if as_json:
        fields = ("images", "value", "low", "high")
        points = [{name: np.asarray(getattr(one, name)).tolist() for name in fields} for one in found]
        named = [
            {"regressor": one.regressor, **own, "outlook": one.outlook(aim)}
            for one, own in zip(found, points, strict=True)
        ]
        click.echo(json.dumps(named, indent=2, ensure_ascii=False))
    for one in () if as_json else found:
        for images, value, low, high in zip(one.images, one.value, one.low, one.high, strict=True):
            click.echo(f"{one.regressor}, {several(images, 'image')}: r = {value:.3f} [{low:.3f}, {high:.3f}]")
        click.echo(one.outlook(aim))
    say(f"curve in {out}")
