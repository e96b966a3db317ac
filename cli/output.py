"""How results are printed: tables that fit a terminal, with the best marked; plain markdown when piped; JSON."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import click

from drexcache.scores import Entry, Table, render

if TYPE_CHECKING:
    import pandas as pd

NARROW = 8  # characters below which no column is made


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


def show_json(frame: pd.DataFrame) -> None:
    """Print a list of objects, one for each line of the frame, with every digit; what is undefined is null."""
    known = frame.astype(object).where(frame.notna(), None)
    click.echo(json.dumps(known.to_dict("records"), indent=2, ensure_ascii=False))


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
