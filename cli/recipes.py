"""drexcache recipes"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from drexcache.recipes import Recipe


@click.command("recipes")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
def command(name: str | None, as_json: bool) -> None:
    """List the recipes, or show the blocks, sizes, weights, licences and dimensions of one (by NAME or file).

    \b
    drexcache recipes
    drexcache recipes drex
    """
    from drexcache.recipes import recipe, recipe_names

    found = [recipe(one) for one in recipe_names()] if name is None else recipe(name)
    if as_json:
        known = [one.to_json() for one in found] if isinstance(found, list) else found.to_json()
        click.echo(json.dumps(known, indent=2))
    elif isinstance(found, list):
        _list(found)
    else:
        _show(found)


def _list(recipes: Sequence[Recipe]) -> None:
    """Print a table of recipes."""
    from tabulate import tabulate

    rows = [
        (one.name, ", ".join(b.name for b in one.blocks), one.dim or "?", one.weights, one.about) for one in recipes
    ]
    headers = ["recipe", "blocks", "dim", "weights", "about"]
    click.echo(tabulate(rows, headers=headers, maxcolwidths=[None] * 4 + [60]))


def _show(recipe: Recipe) -> None:
    """Print all that a recipe says of its blocks."""
    from tabulate import tabulate

    click.echo(
        f"{recipe.name}: {recipe.about}\nsource: {recipe.source}\n"
        f"weights from: {recipe.weights}\ndimension: {recipe.dim or '?'}"
    )
    for block in recipe.blocks:
        click.echo(f"\nblock {block.name}: {block.backbone}" + (f".{block.tag}" if block.tag else ""))
        if not block.is_classic:
            mean, std = (values or "the model's own" for values in (block.mean, block.std))
            fit = f"{block.fit}, {block.crops} crops" if block.crops > 1 else block.fit
            size = f"{block.size[0]}x{block.size[1]} ({block.resize}, {fit})"
            click.echo(f"  size {size}, mean {mean}, std {std}, {block.precision}")
            click.echo(f"  licence: {block.licence or 'see the weights'}")
        click.echo(f"  transparency: {block.alpha}; EXIF rotation: {block.exif}")
        taps = [(tap.name, tap.layer, tap.pool, tap.dim or "?") for tap in block.taps]
        click.echo("  " + tabulate(taps, headers=["tap", "layer", "pool", "dim"]).replace("\n", "\n  "))
