"""Bring the figures that the pages of docs/ show up to date with benchmarks/results.

python docs/make_figures.py

A page asks for the table that follows a line of a result, or for rows of it, for lines, or for all that was printed:

    <!-- figures: savoias.md | **Inside a dataset -->            <!-- /figures -->
    <!-- figures: savoias.md | $ drexcache compare | Objects -->  <!-- /figures -->
    <!-- lines: cache.md | ^open -->                             <!-- /lines -->
    <!-- output: extract.md -->                                  <!-- /output -->
"""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"
NONE = "*Not measured yet.*"
FIGURES = re.compile(r"(<!-- figures: (\S+) \| (.+?)(?: \| ([^|]+))? -->\n).*?(<!-- /figures -->)", re.DOTALL)
LINES = re.compile(r"(<!-- lines: (\S+) \| (.+?) -->\n).*?(<!-- /lines -->)", re.DOTALL)
OUTPUT = re.compile(r"(<!-- output: (\S+) -->\n).*?(<!-- /output -->)", re.DOTALL)


def renewed(page: str) -> str:
    """The page with every table and line as the results have them now."""
    page = FIGURES.sub(lambda m: f"{m[1]}\n{table(m[2], m[3], m[4] or '')}\n\n{m[5]}", page)
    page = LINES.sub(lambda m: f"{m[1]}\n{chosen_lines(m[2], m[3])}\n\n{m[4]}", page)
    return OUTPUT.sub(lambda m: f"{m[1]}\n{output(m[2])}\n\n{m[3]}", page)


def lines_of(result: str) -> list[str]:
    """A result's lines; none where the benchmark has not been run."""
    path = RESULTS / result
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def table(result: str, start: str, rows: str = "") -> str:
    """The first table at or after the line that begins with ``start``; only its rows that match ``rows``."""
    if not (lines := lines_of(result)):
        return NONE
    first = next(at for at, line in enumerate(lines) if line.startswith(start))
    head = next(at for at in range(first, len(lines)) if lines[at].startswith("|"))
    end = next((at for at in range(head, len(lines)) if not lines[at].startswith("|")), len(lines))
    body = [line for line in lines[head + 2 : end] if re.search(rows, line)]
    return "\n".join([*lines[head : head + 2], *body])


def chosen_lines(result: str, pattern: str) -> str:
    """The lines of a result that match, as a list."""
    return "\n".join(f"- {line}" for line in lines_of(result) if re.search(pattern, line)) or NONE


def output(result: str) -> str:
    """All that was printed, without the fences that it may bring."""
    lines = [line for line in lines_of(result) if not line.startswith("```")]
    return "\n".join(["```text", *lines, "```"]) if lines else NONE


if __name__ == "__main__":
    for path in sorted(DOCS.glob("*.md")):
        path.write_text(renewed(path.read_text(encoding="utf-8")), encoding="utf-8")
