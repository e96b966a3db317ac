"""How results are printed and recorded: tables that fit a terminal, plain markdown when piped, JSON; the ledger."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Protocol

import click

from drexcache.cli import say
from drexcache.cli.options import command_line
from drexcache.scores import Entry, Table, render

if TYPE_CHECKING:
    import pandas as pd

    from drexcache.cache import FeatureMatrix

NARROW = 8  # characters below which no column is made


class Results(Protocol):
    """What a command has found."""

    def to_pandas(self) -> pd.DataFrame: ...


def show_results(
    found: Results, tables: Sequence[Table], notes: Sequence[str], *, form: str = "markdown", as_json: bool
) -> None:
    """Print the tables and notes that stand for the results or, as JSON, a list of objects with every digit."""
    if not as_json:
        show(tables, notes, form)
        return
    frame = found.to_pandas()
    known = frame.astype(object).where(frame.notna(), None)  # what is undefined is null
    click.echo(json.dumps(known.to_dict("records"), indent=2, ensure_ascii=False))


def show(tables: Sequence[Table], notes: Sequence[str] = (), form: str = "markdown") -> None:
    """Print tables and notes: for a person at a terminal, else in that form."""
    if form != "markdown" or not sys.stdout.isatty():
        click.echo(render(tables, notes, form))
        return
    width = shutil.get_terminal_size().columns
    for table in tables:
        title = textwrap.wrap(table.title.replace("**", ""), width)
        click.echo("\n".join([*(click.style(line, bold=True) for line in title), fitted(table, width), ""]))
    for note in notes:
        click.echo(textwrap.fill(f"- {note}", width, subsequent_indent="  "))


def record(
    written: str, out: str, kind: str, matrices: Mapping[str, FeatureMatrix], *, tracker: str | None = None, **run: Any
) -> None:
    """Add a run to the ledger beside its output, and to the tracker, and say so after what was written.

    kind : the command. matrices : cache file -> its features. run : the other fields of its entry in the ledger.
    """
    from drexcache.studies import ledger, tracking

    run = {"command": command_line(), "caches": ledger.caches_of(matrices), **run}
    say(f"{written}, recorded in {ledger.append(out, kind, **run)}")
    if tracker:
        say(tracking.track(tracker, kind, run))


def fitted(table: Table, width: int) -> str:
    """The table in lines of at most ``width`` characters if columns of 8 allow it; the widest columns are wrapped.

    >>> print(fitted(Table("", ["regressor", "note"], [["ridge", "linear, its penalty by leave-one-out"]]), 30))
    regressor  note
    ---------  -------------------
    ridge      linear, its penalty
               by leave-one-out
    """
    texts = [[" ".join(str(one).split()) for one in line] for line in (table.headers, *table.body)]
    columns = [max(map(len, column)) for column in zip(*texts, strict=True)]
    while sum(columns) + 2 * (len(columns) - 1) > width and max(columns) > NARROW:
        columns[columns.index(max(columns))] -= 1
    head, *body = [_lines(line, columns) for line in (table.headers, *table.body)]
    return "\n".join([head, "  ".join("-" * size for size in columns), *body])


def _lines(line: Sequence[Entry | str], columns: Sequence[int]) -> str:
    """One line of a table, wrapped to its columns; the best entry is bold and green."""
    cells = [textwrap.wrap(" ".join(str(one).split()), size) for one, size in zip(line, columns, strict=True)]
    rows = []
    for parts in zip_longest(*cells, fillvalue=""):
        padding = [" " * (size - len(part)) for part, size in zip(parts, columns, strict=True)]
        shown = [
            click.style(part, fg="green", bold=True) if part and isinstance(one, Entry) and one.best else part
            for part, one in zip(parts, line, strict=True)
        ]
        rows.append("  ".join(map("".join, zip(shown, padding, strict=True))).rstrip())
    return "\n".join(rows)
