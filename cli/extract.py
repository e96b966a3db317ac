"""drexcache extract"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from drexcache.cli import say
from drexcache.cli.options import COMPARISONS, Output, device_option, image_options
from drexcache.errors import several
from drexcache.files import size_text

if TYPE_CHECKING:
    from drexcache.features import Summary


@click.command("extract")
@click.argument("images", type=click.Path())
@click.option("-o", "--out", required=True, type=Output(dir_okay=False), help="The cache to write or add to")
@click.option("--recipe", "recipe_name", default="drex", show_default=True, help="Name of a recipe, or a TOML file")
@click.option("--block", "blocks", multiple=True, help="Only this block of the recipe (can be repeated)")
@click.option("--as", "renames", metavar="OLD=NEW", multiple=True, help="Store a block under another name")
@click.option("--weights", metavar="hub|packaged|PATH", help="Source of the weights [default: the recipe's]")
@device_option
@click.option("--precision", metavar="fp32|bf16", help="Arithmetic of the backbones [default: the recipe's]")
@click.option(
    "--alpha",
    type=click.Choice(["drop", "white"]),
    help="Transparency: dropped as in the reference, or put on white",
)
@click.option(
    "--exif",
    type=click.Choice(["ignore", "apply"]),
    help="EXIF rotation: ignored as in the reference, or applied",
)
@click.option("--store", type=click.Choice(["float32", "float16"]), default="float32", show_default=True)
@click.option(
    "--compile",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Compile the backbones on CUDA; auto: for 20,000 images and more",
)
@click.option(
    "--engine-cpu",
    type=click.Choice(["auto", "torch", "openvino"]),
    default="auto",
    show_default=True,
    help="What runs the backbones on a CPU; auto: OpenVINO where it is installed",
)
@click.option("--batch-size", type=click.IntRange(1), help="Images per forward pass [default: 8, or 64 on a GPU]")
@click.option("--workers", type=click.IntRange(1), help="Decoding threads [default: one per core]")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Run in this process, or on all nodes of a Ray cluster",
)
@click.option("--address", metavar="HOST:PORT", help="Address of the Ray cluster [default: one on this machine only]")
@click.option("--shard", metavar="I/N", help="Only the I-th of N parts of the image list, into a cache of its own")
@click.option("--prune", is_flag=True, help="Drop rows of the cache whose images are gone")
@click.option("--rehash", is_flag=True, help="Read every file again, even those that look unchanged")
@click.option("--dry-run", is_flag=True, help="Show what would be computed, the time and the size; write nothing")
@click.option("--allow-failures", is_flag=True, help="Exit with 0 even if some images could not be read")
@COMPARISONS
@image_options
def command(
    images: str, out: str, recipe_name: str, blocks: tuple[str, ...], renames: tuple[str, ...], weights: str | None,
    device: str, precision: str | None, alpha: str | None, exif: str | None, store: str, compile: str, engine_cpu: str,
    batch_size: int | None, workers: int | None, engine: str, address: str | None, shard: str | None, prune: bool,
    rehash: bool, dry_run: bool, allow_failures: bool, comparisons: str | None, **reading: Any,
) -> None:  # fmt: skip
    """Compute the features of IMAGES (folder, URL, zip, tar, Parquet or HDF5) into a cache; only what is missing is
    computed.

    \b
    drexcache extract photos/ --ratings photos.csv --range 0 100 -o photos.h5
    drexcache extract savoias/Images/Scenes --recipe offline -o scenes.h5
    drexcache extract IC9600.zip --device cuda --precision bf16 -o ic9600.h5
    drexcache extract IC9600.zip --dry-run -o ic9600.h5
    drexcache extract 'photos-{000000..000031}.tar' --ratings photos.csv --range 1 7 -o photos.h5
    drexcache extract s3://bucket/photos --ratings photos.csv --range 1 7 -o photos.h5
    drexcache extract /nfs/photos --engine ray --address head:6379 -o /nfs/photos.h5
    """
    from drexcache.datasets import read_images, with_comparisons
    from drexcache.features import extract, extract_on_ray, forecast
    from drexcache.recipes import recipe

    chosen = recipe(recipe_name).with_options(precision=precision, alpha=alpha, exif=exif)
    chosen = (chosen.select(blocks) if blocks else chosen).renamed(renames)
    if comparisons and reading["ratings"]:
        raise click.UsageError("give either --ratings or --comparisons; cache rate adds the others as another target")
    table = read_images(images, **(reading | {"ratings": False} if comparisons else reading))
    if comparisons:
        same = {name: reading[name] for name in ("target", "higher_is", "allow_unmatched")}
        table = with_comparisons(table, comparisons, **same)
    if shard:
        table = table.shard(*shard_of(shard))
    for note in table.notes:
        say(note)
    options: Any = {"weights": weights, "device": device, "workers": workers, "store": store, "engine_cpu": engine_cpu}
    options["prune"] = prune
    if dry_run:
        found = forecast(table, chosen, out, **options)
        for line in found.lines():
            say(line)
        raise SystemExit(1 if found.trouble else 0)
    options |= {"batch_size": batch_size, "compile": compile, "rehash": rehash, "say": say}
    if engine == "ray":
        summary = extract_on_ray(table, chosen, out, address=address, **options)
    else:
        summary = extract(table, chosen, out, **options)
    show(summary)
    if summary.failures and not allow_failures:
        raise SystemExit(1)


def show(summary: Summary) -> None:
    """Print what a run did: counts, speed and its bottleneck, size, and which images failed."""
    failed = f" ({len(summary.failures)} of them failed)" if summary.failures else ""
    say(
        f"{summary.path}: {several(summary.images, 'image')}, {summary.computed} computed{failed}, "
        f"{summary.reused} already there; {size_text(summary.bytes)}"
    )
    if summary.computed:
        shares = ", ".join(f"{stage} {share:.0%}" for stage, share in summary.shares.items())
        rate = summary.computed / summary.computing
        say(f"{rate:.1f} images/s, {summary.seconds - summary.computing:.0f} s to get ready; time went to {shares}")
    if summary.failures:
        say(f"{several(len(summary.failures), 'image')} could not be read, marked as failed:")
        for image, reason in list(summary.failures.items())[:10]:
            say(f"  {image}: {reason}")


def shard_of(text: str) -> tuple[int, int]:
    """Parse "2/8" as (2, 8)."""
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise click.BadParameter(f"expected I/N with 1 <= I <= N, such as 2/8; found {text}", param_hint="--shard")
    return int(index), int(count)
