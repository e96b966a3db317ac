"""drexcache runs"""

from __future__ import annotations

import json
import shutil
from datetime import datetime

import click

from drexcache.cli import say
from drexcache.cli.options import metric_option

KINDS = ("evaluate", "ablate", "search")


@click.command("runs")
@click.argument("paths", nargs=-1, type=click.Path())
@click.option("--dataset", metavar="NAME", help="Only scores trained or tested on this dataset")
@click.option("--regressor", metavar="NAME", help="Only scores of this regressor")
@click.option("--kind", type=click.Choice(KINDS), help="Only runs of this command")
@click.option(
    "--since", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%d %H:%M"]), metavar="DATE", help="Only runs since then"
)
@metric_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with commands and fingerprints")
def command(
    paths: tuple[str, ...], dataset: str | None, regressor: str | None, kind: str | None, since: datetime | None,
    metric: str, as_json: bool,
) -> None:  # fmt: skip
    """List past evaluations and searches, newest first, from the records below PATHS [default: here].

    Every evaluate, ablate and search leaves a line in drexcache-runs.jsonl beside its output.

    \b
    drexcache runs
    drexcache runs results/ --dataset Scenes --regressor fusion --since 2026-05-01
    """
    from drexcache.studies import ledger

    found = [ledger.read(path) for path in paths or (".",)]
    for note in (note for _, notes in found for note in notes):
        say(note)
    entries = sorted((entry for own, _ in found for entry in own), key=lambda entry: entry["when"], reverse=True)
    entries = ledger.select(entries, dataset=dataset, regressor=regressor, kind=kind, metric=metric, since=since)
    if as_json:
        click.echo(json.dumps(entries, indent=2, ensure_ascii=False))
    elif entries:
        click.echo(f"when, run, target and file; then {metric} of the best regressors")
        width = shutil.get_terminal_size((120, 24)).columns
        for entry in entries:
            click.echo("\n" + "\n".join(ledger.summary(entry, metric, width)))
    else:
        say("no runs found")
