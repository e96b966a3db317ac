"""Tables for people: GitHub's markdown for a terminal or a page, LaTeX for a paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

FORMS = ("markdown", "latex")
_MATH = str.maketrans({
    "→": r"$\rightarrow$", "ρ": r"$\rho$", "τ": r"$\tau$", "−": "$-$", "±": r"$\pm$", "√": r"$\surd$",
})  # fmt: skip
_ESCAPES = str.maketrans({
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "<": "$<$", ">": "$>$",
    "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
})  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Texts under headers. ``title``: in markdown, the part that matters most in bold; may be empty."""

    title: str
    headers: Sequence[str]
    body: Sequence[Sequence[str]]


def render(tables: Sequence[Table], notes: Sequence[str] = (), form: str = "markdown") -> str:
    """The tables one below the other, then the notes: a list in markdown, comments in LaTeX.

    LaTeX needs the package booktabs.

    >>> print(render([Table("**r**, 2 sets", ["set", "r"], [["a_b", "0.50"]])], form="latex"))
    % needs \\usepackage{booktabs}
    \\begin{table}
    \\caption{r, 2 sets}
    \\begin{tabular}{ll}
    \\toprule
     set   & r    \\\\
    \\midrule
     a\\_b   & 0.50 \\\\
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


def _markdown(table: Table) -> str:
    headers, *body = [[_one_line(cell).replace("|", "\\|") for cell in line] for line in (table.headers, *table.body)]
    text = tabulate(body, headers=headers, tablefmt="github", disable_numparse=True)
    return f"{table.title}\n\n{text}" if table.title else text


def _latex(table: Table) -> str:
    headers, *body = [[_one_line(cell) for cell in line] for line in (table.headers, *table.body)]
    text = tabulate(body, headers=headers, tablefmt="latex_booktabs", disable_numparse=True)
    text = text.translate(_MATH)  # tabulate has escaped the rest
    caption = table.title.replace("**", "").translate(_ESCAPES).translate(_MATH)
    return "\n".join(["\\begin{table}", *([f"\\caption{{{caption}}}"] if caption else []), text, "\\end{table}"])


def _one_line(text: str) -> str:
    return text.replace("\n", " ")
