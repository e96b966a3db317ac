"""drexcache extract"""

from __future__ import annotations

from typing import Any

import click

from drexcache.cli import say
from drexcache.cli.images import image_options


@click.command("extract")
@click.argument("images", type=click.Path())
@click.option("-o", "--out", required=True, type=click.Path(dir_okay=False), help="The cache to write or to add to")
@click.option("--recipe", "recipe_name", default="drex", show_default=True, help="Name of a recipe, or a TOML file")
@click.option("--block", "blocks", multiple=True, help="Only this block of the recipe (can be repeated)")
@click.option("--as", "renames", metavar="OLD=NEW", multiple=True, help="Keep a block under a name of its own")
@click.option("--weights", metavar="hub|packaged|PATH", help="Where weights come from [default: what the recipe says]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    help="Arithmetic of the backbones [default: the recipe's]",
)
@click.option(
    "--alpha",
    type=click.Choice(["drop", "white"]),
    help="Transparency: dropped as the reference does, or over white",
)
@click.option(
    "--exif",
    type=click.Choice(["ignore", "apply"]),
    help="EXIF rotation: ignored as the reference does, or applied",
)
@click.option("--store", type=click.Choice(["float32", "float16"]), default="float32", show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True)
@click.option("--workers", type=click.IntRange(1), help="Decoding threads [default: one per core]")
@click.option("--shard", metavar="I/N", help="Only the I-th of N parts of the image list, into a cache of its own")
@click.option("--prune", is_flag=True, help="Drop rows of the cache whose images are gone")
@click.option("--allow-failures", is_flag=True, help="Exit with 0 although some images could not be read")
@image_options
def command(
    images: str, out: str, recipe_name: str, blocks: tuple[str, ...], renames: tuple[str, ...], weights: str | None,
    device: str, precision: str | None, alpha: str | None, exif: str | None, store: str, batch_size: int,
    workers: int | None, shard: str | None, prune: bool, allow_failures: bool, **reading: Any,
) -> None:  # fmt: skip
    """Compute the features of IMAGES (a folder or a zip) into a cache; only what is missing is computed.

    \b
    drexcache extract photos/ --ratings photos.csv --range 0 100 -o photos.h5
    drexcache extract savoias/Images/Scenes --recipe offline -o scenes.h5
    drexcache extract IC9600.zip --device cuda --precision bf16 -o ic9600.h5
    """
    from drexcache.features import extract
    from drexcache.images import read_images
    from drexcache.recipes import recipe

    chosen = recipe(recipe_name).with_options(precision=precision, alpha=alpha, exif=exif)
    chosen = (chosen.select(blocks) if blocks else chosen).renamed(renames)
    table = read_images(images, **reading)
    if shard:
        table = table.shard(*shard_of(shard))
    for note in table.notes:
        say(note)
    try:
        summary = extract(
            table, chosen, out, weights=weights, device=device, batch_size=batch_size, workers=workers, store=store,
            prune=prune, say=say,
        )  # fmt: skip
    except KeyboardInterrupt:
        say("\nstopped; what was committed is kept. Run the same command again to go on.")
        raise SystemExit(130) from None
    rate = f", {summary.computed / summary.seconds:.1f} images/s with loading" if summary.computed else ""
    say(f"{out}: {summary.images} images, {summary.computed} computed, {summary.reused} already there{rate}")
    if summary.failures:
        say(f"{len(summary.failures)} images could not be read, their rows are marked failed:")
        for image, reason in list(summary.failures.items())[:10]:
            say(f"  {image}: {reason}")
        if not allow_failures:
            raise SystemExit(1)


def shard_of(text: str) -> tuple[int, int]:
    """ "2/8" as (2, 8)."""
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise click.BadParameter(f"expected I/N with 1 <= I <= N, such as 2/8; found {text}", param_hint="--shard")
    return int(index), int(count)
