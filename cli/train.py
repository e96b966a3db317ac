"""drexcache train"""

from __future__ import annotations

import click

from drexcache.cli import make_room_for, say


@click.command("train")
@click.argument("cache", type=click.Path())
@click.option("-r", "--regressor", required=True, help="Name of a regressor (see drexcache regressors)")
@click.option("-o", "--out", required=True, type=click.Path(dir_okay=False), help="The model file to write")
@click.option("--block", "blocks", multiple=True, help="Only this block, or block/tap (can be repeated) [default: all]")
@click.option("--target", help="Name of the ratings [default: the only ones]")
@click.option("--split", metavar="LABEL=VALUE", help="Only images with this label, such as split=train")
@click.option("--seed", default=42, show_default=True)
def command(
    cache: str,
    regressor: str,
    out: str,
    blocks: tuple[str, ...],
    target: str | None,
    split: str | None,
    seed: int,
) -> None:
    """Train a regressor on a cache and save it as one file, without pickle.

    \b
    drexcache train scenes.h5 -r fusion -o scenes.drex
    """
    from drexcache.cache import open_cache
    from drexcache.model import train_model

    make_room_for(out)
    opened = open_cache(cache)
    columns = blocks or tuple(opened.blocks)
    matrix = opened.matrix(columns, target)
    if split:
        label, _, value = split.partition("=")
        matrix = matrix.where(label, value)
    model = train_model(regressor, matrix, opened, columns, seed)
    model.save(out)
    left = len(opened) - len(matrix)
    say(f"{out}: {regressor} trained on {model.trained['images']} rated images of {opened.dataset}" +
        (f"; {left} images of the cache left out (other split, or without features)" if left else ""))  # fmt: skip
