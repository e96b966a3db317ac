"""drexcache similar"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from drexcache.cli.options import block_option, json_option, target_option

if TYPE_CHECKING:
    from drexcache.cache import FeatureMatrix


@click.command("similar")
@click.argument("cache", type=click.Path())
@click.argument("image", required=False)
@click.option("--count", type=click.IntRange(1), default=10, show_default=True, help="How many to list")
@click.option("-r", "--regressor", default="ridge", show_default=True, help="Expects the ratings, without IMAGE")
@block_option
@target_option
@json_option
def command(
    cache: str, image: str | None, count: int, regressor: str, blocks: tuple[str, ...], target: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """List the images most like IMAGE; without IMAGE, ratings that deserve a second look, and copies.

    A rating is listed where similar images agree on another one, and a regressor that has not seen it expects another,
    too.

    \b
    drexcache similar scenes.h5 harbour.png
    drexcache similar scenes.h5
    """
    from drexcache.cache import open_cache

    opened = open_cache(cache)
    if image is not None:
        _print_similar(opened.matrix(blocks or None, target or next(iter(opened.targets), None)), image, count, as_json)
    else:
        _print_suspects(opened.matrix(blocks or None, target), regressor, count, as_json)


def _print_similar(matrix: FeatureMatrix, image: str, count: int, as_json: bool) -> None:
    """Print the images most like one."""
    from tabulate import tabulate

    from drexcache.studies.comparison import similar

    rating = dict(zip(matrix.ids, matrix.raw(matrix.y).tolist(), strict=True))
    like = similar(matrix, image, count)
    if as_json:
        found = [{"image": name, "similarity": likeness, "rating": rating[name]} for name, likeness in like]
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    rows = [(name, f"{likeness:.3f}", f"{rating[name]:g}") for name, likeness in like]
    click.echo(tabulate(rows, headers=["image", "similarity", "rating"], disable_numparse=True))


def _print_suspects(matrix: FeatureMatrix, regressor: str, count: int, as_json: bool) -> None:
    """Print the ratings that deserve a second look, and groups of copies."""
    from tabulate import tabulate

    from drexcache.studies.comparison import copies, suspects

    strange, same = suspects(matrix, regressor, count), copies(matrix)
    if as_json:
        both = {"suspects": [asdict(one) for one in strange], "copies": same}
        click.echo(json.dumps(both, indent=2, ensure_ascii=False))
        return
    lines = [
        (one.image, f"{one.rated:.4g}", f"{one.predicted:.4g}", f"{one.around:.4g} ± {one.apart:.2g}",
         ", ".join(one.neighbours))
        for one in strange
    ]  # fmt: skip
    headers = ["image", "rated", "expected", "similar images", "the nearest"]
    click.echo(tabulate(lines, headers=headers, disable_numparse=True) if lines else "no rating stands out")
    for group in same:
        click.echo(f"copies or near-copies: {', '.join(group)}")
