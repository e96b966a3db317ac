"""drexcache cache: info, verify"""

from __future__ import annotations

import json

import click

from drexcache.cli import OneSentence, say


@click.group("cache", cls=OneSentence)
def command() -> None:
    """Look into, check and change caches."""


@command.command("info")
@click.argument("cache", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="As JSON, with every field")
def info(cache: str, as_json: bool) -> None:
    """Show what a cache holds.

    \b
    drexcache cache info scenes.h5
    """
    from tabulate import tabulate

    from drexcache.cache import open_cache

    found = open_cache(cache).info()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"{cache}: dataset {found['dataset']}, {found['images']} images, {found['bytes'] / 1e6:,.1f} MB")
    rows = [
        (name, block["backbone"], block["dim"], block["dtype"], block["done"], block["failed"], block["missing"],
         block["weights"], block["fingerprint"][:12])
        for name, block in found["blocks"].items()
    ]  # fmt: skip
    headers = ["block", "backbone", "dim", "dtype", "done", "failed", "missing", "weights", "fingerprint"]
    click.echo(tabulate(rows, headers=headers))
    for name, target in found["targets"].items():
        declared = "" if target["declared"] else " (only observed: declare it with --range)"
        click.echo(f"target {name}: {target['rated']} rated, range {target['low']:g} to {target['high']:g}{declared}, "
                   f"higher is {target['higher_is']}")  # fmt: skip
    for name, counts in found["labels"].items():
        click.echo(f"label {name}: " + ", ".join(f"{value or '(none)'} {count}" for value, count in counts.items()))
    for image, reason in list(found["failures"].items())[:10]:
        click.echo(f"failed {image}: {reason}")


@command.command("verify")
@click.argument("cache", type=click.Path())
def verify(cache: str) -> None:
    """Read a whole cache and compare every checksum.

    \b
    drexcache cache verify scenes.h5
    """
    from drexcache.cache import open_cache

    problems = open_cache(cache).verify()
    for problem in problems:
        say(f"{cache}: {problem}")
    if problems:
        raise SystemExit(1)
    click.echo(f"{cache}: every checksum holds")
