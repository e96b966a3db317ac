"""Formatting of scores: numbers, train -> test labels, and tables for terminal, markdown, LaTeX and the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

NAMES = {
    "pearson": "Pearson's r",
    "spearman": "Spearman's ρ",
    "kendall": "Kendall's τ",
    "rmse": "RMSE",
    "mae": "MAE",
    "rmae": "RMAE",
}
UNDEFINED = "undefined (constant predictions)"
_MATH = str.maketrans({
    "→": r"$\rightarrow$", "ρ": r"$\rho$", "τ": r"$\tau$", "−": "$-$", "±": r"$\pm$", "√": r"$\surd$",
})  # fmt: skip
_ESCAPES = str.maketrans({
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "<": "$<$", ">": "$>$",
    "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
})  # fmt: skip


def number(value: float | None, digits: int = 3, *, sign: bool = False, missing: str = "") -> str:
    """Format a number the way every table and sentence shows it; zero has no sign.

    >>> number(0.25), number(-0.0001), number(-0.25, 2), number(0.25, sign=True), number(None, missing="–")
    ('0.250', '0.000', '-0.25', '+0.250', '–')
    """
    if value is None or math.isnan(value):
        return missing
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def p_text(p: float | None) -> str:
    """Format a p-value; "" for None.

    >>> p_text(0.0004), p_text(0.0312)
    ('< 0.001', '0.031')
    """
    return "< 0.001" if p is not None and p < 0.001 else number(p)


def score_text(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """Format a score with its interval.

    >>> score_text(0.8821, 0.8472, 0.9101), score_text(None)
    ('0.882 [0.847, 0.910]', 'undefined (constant predictions)')
    """
    return str(score_entry(value, low, high))


def train_to_test(train: str, test: str, kind: str = "") -> str:
    """The label of a score's data: "train → test", or the one dataset, with the kind of score if given.

    >>> train_to_test("art", "maps", "cross"), train_to_test("art", "art", "in-domain"), train_to_test("art", "art")
    ('art → maps', 'art (in-domain)', 'art')
    """
    if train != test:
        return f"{train} → {test}"
    return f"{test} ({kind})" if kind else test


@dataclass(frozen=True)
class Entry:
    """One cell of a table.

    text : as displayed. value : the number behind it (or the text), for sorting and export; None sorts last.
    low, high, interval : the ends of its interval, and the interval as displayed. faint : whether it is within noise.
    best : whether it is the best of those beside it.
    """

    text: str
    value: str | float | None = None
    low: float | None = None
    high: float | None = None
    interval: str = ""
    faint: bool = False
    best: bool = False

    def __str__(self) -> str:
        return f"{self.text} {self.interval}".rstrip()


def score_entry(
    value: float | None, low: float | None = None, high: float | None = None, *, sign: bool = False,
    missing: str = UNDEFINED,
) -> Entry:  # fmt: skip
    """The table entry of a score and its interval."""
    if value is None or math.isnan(value):
        return Entry(missing)
    if low is None or high is None or math.isnan(low + high):
        return Entry(number(value, sign=sign), value)
    interval = f"[{number(low, sign=sign)}, {number(high, sign=sign)}]"
    return Entry(number(value, sign=sign), value, low, high, interval)


@dataclass(frozen=True)
class Table:
    """Entries, or plain texts, under headers.

    title : markdown, may be empty. name : the base name of its files when exported.
    """

    title: str
    headers: Sequence[str]
    body: Sequence[Sequence[Entry | str]]
    name: str = ""

    def to_pandas(self) -> pd.DataFrame:
        """A data frame of the numbers with every digit; the ends of intervals have columns of their own.

        >>> Table("", ["set", "r"], [["art", score_entry(0.5, 0.25, 0.75)]]).to_pandas().iloc[0].to_dict()
        {'set': 'art', 'r': 0.5, 'r low': 0.25, 'r high': 0.75}
        """
        import pandas as pd

        lines = [[Entry(one, one) if isinstance(one, str) else one for one in line] for line in self.body]
        columns: dict[str, list] = {}
        for at, header in enumerate(self.headers):
            columns[header] = [line[at].value for line in lines]
            if any(line[at].interval for line in lines):
                columns |= {f"{header} low": [line[at].low for line in lines]}
                columns |= {f"{header} high": [line[at].high for line in lines]}
        return pd.DataFrame(columns)


def render(tables: Sequence[Table], notes: Sequence[str] = (), form: str = "markdown") -> str:
    """Render the tables one below the other, then the notes: a list in markdown and HTML, comments in LaTeX.

    LaTeX needs the package booktabs.

    >>> print(render([Table("**r**, 2 sets", ["set", "r"], [["a_b", score_entry(-0.5)]])], form="latex"))
    % needs \\usepackage{booktabs}
    \\begin{table}
    \\caption{r, 2 sets}
    \\begin{tabular}{ll}
    \\toprule
     set   & r      \\\\
    \\midrule
     a\\_b   & $-$0.500 \\\\
    \\bottomrule
    \\end{tabular}
    \\end{table}
    <BLANKLINE>
    """
    if form == "latex":
        parts = [_latex(table) for table in tables]
        parts += ["\n".join(f"% {_one_line(note)}" for note in notes)] if notes else []
        return "% needs \\usepackage{booktabs}\n" + "\n\n".join(parts) + "\n"
    if form == "html":
        parts = [_html(table) for table in tables]
        listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
        return "\n".join(parts) + (f"\n<ul>{listed}</ul>" if notes else "")
    parts = [_markdown(table) for table in tables]
    if notes:
        heading = "**Notes**\n\n" if all(table.title for table in tables) else ""
        parts.append(heading + "\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts) + "\n"


def true_minus(entry: Entry) -> Entry:
    """The entry with typographic minus signs instead of hyphens, for LaTeX and the report."""
    if not isinstance(entry.value, float):
        return entry
    return replace(entry, text=entry.text.replace("-", "−"), interval=entry.interval.replace("-", "−"))


def _markdown(table: Table) -> str:
    lines = (table.headers, *table.body)
    headers, *body = [[_one_line(entry).replace("|", "\\|") for entry in line] for line in lines]
    text = _drawn(headers, body, "github")
    return f"{table.title}\n\n{text}" if table.title else text


def _html(table: Table) -> str:
    """The table with its title; every text is escaped."""
    body = [[_one_line(entry) for entry in line] for line in table.body]
    text = _drawn(table.headers, body, "html")
    return f"<p>{escape(table.title.replace('**', ''))}</p>\n{text}"


def _latex(table: Table) -> str:
    lines = (table.headers, *table.body)
    headers, *body = [[_one_line(one if isinstance(one, str) else true_minus(one)) for one in line] for line in lines]
    text = _drawn(headers, body, "latex_booktabs").translate(_MATH)  # the rest has been escaped
    caption = table.title.replace("**", "").translate(_ESCAPES).translate(_MATH)
    return "\n".join(["\\begin{table}", *([f"\\caption{{{caption}}}"] if caption else []), text, "\\end{table}"])


def _one_line(entry: Entry | str) -> str:
    return str(entry).replace("\n", " ")


def _drawn(headers: Sequence[str], body: Sequence[Sequence[str]], form: str) -> str:
    from tabulate import tabulate

    return tabulate(body, headers=list(headers), tablefmt=form, disable_numparse=True)
