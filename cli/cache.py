"""drexcache cache: info, verify, diff, merge, rate, export, import"""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from drexcache.cli import OneSentence, make_room_for, say
from drexcache.cli.options import (
    COMPARISONS,
    NUMBER,
    OUT_OF_RANGE,
    RATING_HELP,
    Output,
    block_option,
    image_options,
    json_option,
    rater_options,
)
from drexcache.errors import several
from drexcache.files import size_text


@click.group("cache", cls=OneSentence)
def command() -> None:
    """Inspect, check and change caches."""


@command.command("info")
@click.argument("cache", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every field")
def info(cache: str, as_json: bool) -> None:
    """Show what a cache holds.

    \b
    drexcache cache info scenes.h5
    """
    from drexcache.cache import open_cache
    from drexcache.cli.output import fitted
    from drexcache.scores import Table

    found = open_cache(cache).info()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"{cache}: dataset {found['dataset']}, {several(found['images'], 'image')}, {size_text(found['bytes'])}")
    fields = ("backbone", "dim", "dtype", "done", "failed", "missing", "weights")
    rows = [
        [name, *(str(block[field]) for field in fields), block["fingerprint"][:12]]
        for name, block in found["blocks"].items()
    ]
    click.echo(fitted(Table("", ["block", *fields, "fingerprint"], rows), width=sys.maxsize))
    for name, target in found["targets"].items():
        declared = "" if target["declared"] else " (only observed: declare it with --range)"
        known = target["reliability"]
        agreement = "" if known is None else f", reliability {known:.3f} ({target['reliability_from']})"
        click.echo(f"target {name}: {target['rated']} rated, range {target['low']:g} to {target['high']:g}{declared}, "
                   f"higher is {target['higher_is']}{agreement}")  # fmt: skip
    for name, counts in found["labels"].items():
        click.echo(f"label {name}: " + ", ".join(f"{value or '(none)'} {count}" for value, count in counts.items()))
    for image, reason in list(found["failures"].items())[:10]:
        click.echo(f"failed {image}: {reason}")


@command.command("verify")
@click.argument("cache", type=click.Path())
@json_option
def verify(cache: str, as_json: bool) -> None:
    """Read a whole cache and compare every checksum.

    \b
    drexcache cache verify scenes.h5
    """
    from drexcache.cache import open_cache

    problems = open_cache(cache).verify()
    if as_json:
        click.echo(json.dumps({"path": cache, "intact": not problems, "problems": problems}, indent=2))
    else:
        for problem in problems:
            click.echo(f"{cache}: {problem}", err=True)
        if not problems:
            click.echo(f"{cache}: every checksum holds")
    if problems:
        raise SystemExit(1)


@command.command("diff")
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
@json_option
def diff(a: str, b: str, as_json: bool) -> None:
    """Show where two caches differ and by how much; exit status 1 if they do.

    \b
    drexcache cache diff old.h5 new.h5
    """
    from drexcache.cache import diff as differences
    from drexcache.cache import open_cache

    found = differences(open_cache(a), open_cache(b))
    if as_json:
        click.echo(json.dumps({"same": not found, "differences": found}, indent=2))
    else:
        click.echo("\n".join(found or ["they hold the same"]))
    if found:
        raise SystemExit(1)


@command.command("merge")
@click.argument("shards", nargs=-1, required=True, type=click.Path())
@click.option("-o", "--out", required=True, type=Output(dir_okay=False), help="The cache to write")
def merge(shards: tuple[str, ...], out: str) -> None:
    """Merge all shards of an image table into one cache.

    \b
    drexcache cache merge part1.h5 part2.h5 part3.h5 -o whole.h5
    """
    from drexcache.cache import merge as merged

    say(f"{out}: {several(len(merged(shards, out)), 'image')} from {several(len(shards), 'shard')}")


@command.command("rate")
@click.argument("cache", type=click.Path())
@click.argument("ratings", type=click.Path(), required=False)
@COMPARISONS
@click.option("--target", required=True, help="Name of the ratings in the cache")
@click.option(
    "--range", "value_range", type=(NUMBER, NUMBER), metavar="LOW HIGH", help="Range that the ratings can take"
)
@OUT_OF_RANGE
@click.option("--higher-is", type=click.Choice(["more", "less"]), default="more", show_default=True)
@click.option("--image-column", metavar="NAME", help="Column of image names [default: guessed, and reported]")
@click.option("--rating-column", metavar="NAME", help=RATING_HELP)
@rater_options
@click.option("--replace", "replace_target", is_flag=True, help="Replace a target or labels of the same name")
@click.option("--allow-unmatched", is_flag=True, help="Continue if ratings and images do not match one to one")
def rate(
    cache: str, ratings: str | None, comparisons: str | None, target: str, value_range: tuple[float, float] | None,
    out_of_range: str, higher_is: str, image_column: str | None, rating_column: str | None, rater_column: str | None,
    error_column: str | None, centre_raters: bool, raters: int | None, replace_target: bool, allow_unmatched: bool,
) -> None:  # fmt: skip
    """Add a target from a file of ratings to a cache, without touching its features.

    \b
    drexcache cache rate scenes.h5 beauty.csv --target beauty --range 1 7
    drexcache cache rate scenes.h5 --comparisons pairs.csv --target beauty
    """
    given = [path for path in (ratings, comparisons) if path]
    if len(given) != 1:
        raise click.UsageError("give either RATINGS or --comparisons PAIRS")
    from drexcache.cache import rate as add
    from drexcache.datasets import Columns

    columns = Columns(
        image=image_column, rating=rating_column, rater=rater_column, error=error_column, error_raters=raters
    )
    notes = add(
        cache, given[0], target, comparisons=bool(comparisons), value_range=value_range, higher_is=higher_is,
        replace_target=replace_target, allow_unmatched=allow_unmatched, out_of_range=out_of_range,
        centre_raters=centre_raters, columns=columns,
    )  # fmt: skip
    for note in notes:
        say(note)
    say(f"{cache}: target {target} written")


@command.command("export")
@click.argument("cache", type=click.Path())
@click.option(
    "-o",
    "--out",
    required=True,
    type=Output(dir_okay=False),
    help="A file ending in .npz, .parquet or .csv",
)
@block_option
def export(cache: str, out: str, blocks: tuple[str, ...]) -> None:
    """Write ids, ratings and features with named columns for R, MATLAB and pandas.

    \b
    drexcache cache export scenes.h5 -o scenes.parquet
    """
    from drexcache.cache import export as write
    from drexcache.cache import open_cache

    make_room_for(out, [cache])
    say(f"{out}: {several(write(open_cache(cache), out, blocks or None), 'row')}")


@command.command("import")
@click.argument("features", type=click.Path())
@click.option("-o", "--out", required=True, type=Output(dir_okay=False), help="The cache to write or add to")
@click.option("--block", required=True, help="Name of the features in the cache")
@click.option("--note", default="", help="What computed them, in the same words for every dataset")
@click.option("--images", type=click.Path(), help="For a new cache: the images (folder, URL or zip)")
@click.option("--ids", type=click.Path(), help="A text file with one id per line, or a .npy, if FEATURES has none")
@click.option("--id-column", metavar="NAME", help="Column of ids in FEATURES [default: guessed]")
@click.option("--columns", metavar="PATTERN", help="Columns of features, such as 'clip_*' [default: all but the ids]")
@click.option("--array", metavar="NAME", help="Array in an .npz or .safetensors, or block in a cache")
@click.option("--same-order", is_flag=True, help="Rows are in the order of the cache's images or of the ratings")
@click.option("--replace", "replace_block", is_flag=True, help="Replace the block of that name")
@image_options
def import_(features: str, out: str, block: str, **options: Any) -> None:
    """Import features computed by another tool, matched to the images by id; a new cache may take images and ratings.

    FEATURES: .npy, .npz, CSV, Parquet, safetensors, or another cache.

    \b
    drexcache cache import clip.npz -o scenes.h5 --block clip --note "open_clip ViT-B/32 laion2b"
    drexcache cache import clip.parquet --ratings mos.csv --range 1 5 -o photos.h5 --block clip
    """
    from drexcache.cache import DONE, import_features

    cache = import_features(features, out, block, say=say, **options)
    done = int((cache.status(block) == DONE).sum())
    say(f"{out}: block {block}, {done} of {len(cache)} images, {several(cache.blocks[block].dim, 'column')} each")
