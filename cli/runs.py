"""drexcache runs"""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from typing import Any

import click

from drexcache.cli import say
from drexcache.cli.options import metric_option

ERRORS = ("rmse", "mae", "rmae")  # of which less is better
MAX_CELLS = 12
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
            click.echo("\n" + "\n".join(_lines(entry, metric, width)))
    else:
        say("no runs found")


def _lines(entry: dict[str, Any], metric: str, width: int) -> list[str]:
    """When, what and where; then for each train and test set the best regressors, as many as fit the width."""
    from drexcache.scores import number, train_to_test

    cells: dict[str, list[dict[str, Any]]] = {}
    for score in entry["scores"]:
        cells.setdefault(train_to_test(score["train"], score["test"]), []).append(score)
    when = datetime.fromisoformat(entry["when"]).astimezone().strftime("%Y-%m-%d %H:%M")
    targets = sorted({cache["target"] for cache in entry.get("caches", ()) if cache.get("target")})
    lines = [" ".join([when, entry["kind"], *targets, *entry["files"][:1]])]
    column = min(max(map(len, cells), default=0), width // 3)
    sign = 1 if metric in ERRORS else -1
    for where, scores in list(cells.items())[:MAX_CELLS]:
        scores.sort(key=lambda one: float("inf") if one["value"] is None else sign * one["value"])
        texts = [f"{one['regressor']} {number(one['value'], missing='undefined')}" for one in scores]
        lines.append(f"  {_cut(where, column):<{column}}  {_fitting(texts, width - column - 4)}")
    if len(cells) > MAX_CELLS:
        lines.append(
            f"  and {len(cells) - MAX_CELLS} more pairs of train and test set (--dataset chooses, --json has all)"
        )
    return lines


def _fitting(texts: list[str], width: int) -> str:
    """As many as fit, at least one, and how many are left.

    >>> _fitting(["fusion 0.871", "ridge 0.860", "svr 0.851"], 30)
    'fusion 0.871 and 2 more'
    """
    for shown in range(len(texts), 1, -1):
        left = len(texts) - shown
        line = ", ".join(texts[:shown]) + (f" and {left} more" if left else "")
        if len(line) <= width:
            return line
    more = f" and {len(texts) - 1} more" if len(texts) > 1 else ""
    return _cut(texts[0], width - len(more)) + more


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"
