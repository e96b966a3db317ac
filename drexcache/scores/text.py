"""How scores read: one number, one train -> test label, one table for terminal, markdown, LaTeX and the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tabulate import tabulate

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
    """A number as every table and sentence shows it; no sign on a zero.

    >>> number(0.25), number(-0.0001), number(-0.25, 2), number(0.25, sign=True), number(None, missing="–")
    ('0.250', '0.000', '-0.25', '+0.250', '–')
    """
    if value is None or math.isnan(value):
        return missing
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def p_text(p: float | None) -> str:
    """A p-value, "" where there is none.

    >>> p_text(0.0004), p_text(0.0312)
    ('< 0.001', '0.031')
    """
    return "< 0.001" if p is not None and p < 0.001 else number(p)


def score_text(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A score with its interval.

    >>> score_text(0.8821, 0.8472, 0.9101), score_text(None)
    ('0.882 [0.847, 0.910]', 'undefined (constant predictions)')
    """
    return str(score_entry(value, low, high))


def several(n: int, one: str, more: str) -> str:
    """A count with its words.

    >>> several(1, "image is a copy", "images are copies"), several(1200, "image is a copy", "images are copies")
    ('1 image is a copy', '1,200 images are copies')
    """
    return f"{n:,} {one if n == 1 else more}"


def train_to_test(train: str, test: str, kind: str = "") -> str:
    """Where a score is from: the dataset, with the kind of score where that is given, or "train → test".

    >>> train_to_test("art", "maps", "cross"), train_to_test("art", "art", "in-domain"), train_to_test("art", "art")
    ('art → maps', 'art (in-domain)', 'art')
    """
    if train != test:
        return f"{train} → {test}"
    return f"{test} ({kind})" if kind else test


@dataclass(frozen=True)
class Entry:
    """One place of a table.

    text : what to read. value : the number behind it (or the text), to sort and export by; None comes last.
    low, high, interval : the ends of its interval and how they read. faint : whether it is within noise.
    """

    text: str
    value: str | float | None = None
    low: float | None = None
    high: float | None = None
    interval: str = ""
    faint: bool = False

    def __str__(self) -> str:
        return f"{self.text} {self.interval}".rstrip()


def score_entry(
    value: float | None, low: float | None = None, high: float | None = None, *, sign: bool = False,
    missing: str = UNDEFINED,
) -> Entry:  # fmt: skip
    """A score and its interval as an entry of a table."""
    if value is None or math.isnan(value):
        return Entry(missing)
    if low is None or high is None or math.isnan(low + high):
        return Entry(number(value, sign=sign), value)
    interval = f"[{number(low, sign=sign)}, {number(high, sign=sign)}]"
    return Entry(number(value, sign=sign), value, low, high, interval)


@dataclass(frozen=True)
class Table:
    """Entries, or plain texts, under headers.

    title : in markdown, the part that matters most in bold; may be empty. name : of its files, where it is exported.
    """

    title: str
    headers: Sequence[str]
    body: Sequence[Sequence[Entry | str]]
    name: str = ""

    def to_pandas(self) -> pd.DataFrame:
        """The numbers with every digit; the ends of intervals stand in columns of their own.

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
    """The tables one below the other, then the notes: a list in markdown, comments in LaTeX.

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
    parts = [_markdown(table) for table in tables]
    if notes:
        heading = "**Notes**\n\n" if all(table.title for table in tables) else ""
        parts.append(heading + "\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts) + "\n"


def true_minus(entry: Entry) -> Entry:
    """The entry with minus signs in its numbers, as print and the report have them, instead of hyphens."""
    if not isinstance(entry.value, float):
        return entry
    return replace(entry, text=entry.text.replace("-", "−"), interval=entry.interval.replace("-", "−"))


def _markdown(table: Table) -> str:
    lines = (table.headers, *table.body)
    headers, *body = [[_one_line(entry).replace("|", "\\|") for entry in line] for line in lines]
    text = tabulate(body, headers=headers, tablefmt="github", disable_numparse=True)
    return f"{table.title}\n\n{text}" if table.title else text


def _latex(table: Table) -> str:
    lines = (table.headers, *table.body)
    headers, *body = [[_one_line(one if isinstance(one, str) else true_minus(one)) for one in line] for line in lines]
    text = tabulate(body, headers=headers, tablefmt="latex_booktabs", disable_numparse=True)
    text = text.translate(_MATH)  # tabulate has escaped the rest
    caption = table.title.replace("**", "").translate(_ESCAPES).translate(_MATH)
    return "\n".join(["\\begin{table}", *([f"\\caption{{{caption}}}"] if caption else []), text, "\\end{table}"])


def _one_line(entry: Entry | str) -> str:
    return str(entry).replace("\n", " ")
