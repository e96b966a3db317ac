"""drexcache runs"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import click

from drexcache.cli import say
from drexcache.cli.tables import metric_option

KINDS = ("evaluate", "ablate", "search")


@click.command("runs")
@click.argument("paths", nargs=-1, type=click.Path())
@click.option("--dataset", metavar="NAME", help="Only scores of this dataset, trained or tested on")
@click.option("--regressor", metavar="NAME", help="Only scores of this regressor")
@click.option("--kind", type=click.Choice(KINDS), help="Only runs of this command")
@click.option(
    "--since", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%d %H:%M"]), metavar="DATE", help="Only runs since then"
)
@metric_option
@click.option("--json", "as_json", is_flag=True, help="As JSON, with commands and fingerprints")
def command(
    paths: tuple[str, ...], dataset: str | None, regressor: str | None, kind: str | None, since: datetime | None,
    metric: str, as_json: bool,
) -> None:  # fmt: skip
    """List what was evaluated and searched, newest first, from the records below PATHS [default: here].

    Every evaluate, ablate and search leaves a line in drexcache-runs.jsonl beside its output.

    \b
    drexcache runs
    drexcache runs results/ --dataset Scenes --regressor fusion --since 2026-05-01
    """
    from tabulate import tabulate

    from drexcache.studies import ledger

    found = [ledger.read(path) for path in paths or (".",)]
    for note in (note for _, notes in found for note in notes):
        say(note)
    entries = sorted((entry for own, _ in found for entry in own), key=lambda entry: entry["when"], reverse=True)
    entries = ledger.select(entries, dataset=dataset, regressor=regressor, kind=kind, metric=metric, since=since)
    if as_json:
        click.echo(json.dumps(entries, indent=2, ensure_ascii=False))
    elif entries:
        rows = [row for entry in entries for row in _rows(entry)]
        click.echo(tabulate(rows, headers=["when", "run", "train → test", metric, "files"], disable_numparse=True))
    else:
        say("no runs found")


def _rows(entry: dict[str, Any]) -> list[list[str]]:
    """A line per train and test set with all regressors; when, what and where stand in the first."""
    cells: dict[str, list[str]] = {}
    for score in entry["scores"]:
        where = score["test"] if score["train"] == score["test"] else f"{score['train']} → {score['test']}"
        value = "undefined" if score["value"] is None else f"{score['value']:.3f}"
        cells.setdefault(where, []).append(f"{score['regressor']} {value}")
    when = datetime.fromisoformat(entry["when"]).astimezone().strftime("%Y-%m-%d %H:%M")
    lines = [[where, ", ".join(values)] for where, values in cells.items()] or [["", ""]]
    heads = [[when, entry["kind"]], *([["", ""]] * (len(lines) - 1))]
    files = [(entry["files"] or [""])[0], *([""] * (len(lines) - 1))]
    return [[*head, *line, file] for head, line, file in zip(heads, lines, files, strict=True)]
