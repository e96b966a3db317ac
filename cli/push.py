"""drexcache push"""

from __future__ import annotations

import tempfile

import click

from drexcache.cli import say


@click.command("push")
@click.argument("file", type=click.Path())
@click.argument("repository", metavar="USER/NAME")
@click.option("--scores", type=click.Path(), help="Scores to upload with a cache or model and show on its card")
@click.option("--private", is_flag=True, help="Make the repository private")
@click.option("--replace", is_flag=True, help="Add a commit to an existing repository")
@click.option("--allow-failures", is_flag=True, help="Push a cache even if some of its images failed")
@click.option("--dry-run", is_flag=True, help="Print the card and list the files; upload nothing")
def command(
    file: str, repository: str, scores: str | None, private: bool, replace: bool, allow_failures: bool, dry_run: bool
) -> None:
    """Upload a cache, a model or scores to the Hugging Face Hub, with a card written from their metadata.

    A cache is uploaded as HDF5 and Parquet, including the names and ratings of its images, but never the images.

    \b
    drexcache push photos.h5 ada/photos-cache --scores scores.csv --dry-run
    drexcache push photos.drex ada/photos-complexity --scores scores.csv
    drexcache cache info hf://datasets/ada/photos-cache/photos.h5
    """
    from drexcache.studies.publishing import pack, push

    with tempfile.TemporaryDirectory() as folder:
        parcel = pack(file, repository, scores, allow_failures=allow_failures, folder=folder)
        say(f"{', '.join(parcel.files)}: others will see {parcel.visible}")
        if dry_run:
            click.echo(parcel.card)
        else:
            click.echo(push(parcel, repository, private=private, replace=replace))
