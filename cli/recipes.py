"""drexcache recipes"""

from __future__ import annotations

import json

import click


@click.command("recipes")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
def command(name: str | None, as_json: bool) -> None:
    """List the recipes, or show the blocks, sizes, weights, licences and dimensions of one (by NAME or file).

    \b
    drexcache recipes
    drexcache recipes drex
    """
    from tabulate import tabulate

    from drexcache.recipes import recipe, recipe_names

    if name is None:
        found = [recipe(each) for each in recipe_names()]
        if as_json:
            click.echo(json.dumps([r.to_json() for r in found], indent=2))
        else:
            rows = [(r.name, ", ".join(b.name for b in r.blocks), r.dim or "?", r.weights, r.about) for r in found]
            click.echo(
                tabulate(
                    rows,
                    headers=["recipe", "blocks", "dim", "weights", "about"],
                    maxcolwidths=[None] * 4 + [60],
                )
            )
        return
    chosen = recipe(name)
    if as_json:
        click.echo(json.dumps(chosen.to_json(), indent=2))
        return
    click.echo(
        f"{chosen.name}: {chosen.about}\nsource: {chosen.source}\n"
        f"weights from: {chosen.weights}\ndimension: {chosen.dim or '?'}"
    )
    for block in chosen.blocks:
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
