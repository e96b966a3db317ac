"""report: score files as one HTML page that opens without a network, and the same figures and tables as files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from drexcache.files import write_file
from drexcache.scores import score_tables
from drexcache.studies.comparison import Comparison, compare
from drexcache.studies.reporting.figures import Figure
from drexcache.studies.reporting.figures_search import draw_search
from drexcache.studies.reporting.images import Key, find_images, thumbnails
from drexcache.studies.reporting.page import Contents, Searched, render
from drexcache.studies.reporting.panels import draw_panels
from drexcache.studies.reporting.provenance import provenance
from drexcache.studies.reporting.results import Evidence, read_evidence
from drexcache.studies.reporting.search import read_study
from drexcache.studies.reporting.svg import save_figure
from drexcache.studies.reporting.tables import comparison_table, group_table, save_table, save_text, score_table

Progress = Callable[[int, int, str], None]


def report(
    scores: Sequence[str | Path], out: str | Path, *, metric: str = "pearson", match: bool = False,
    images: Sequence[str] = (), caches: Sequence[str | Path] = (), studies: Sequence[str | Path] = (),
    with_thumbnails: bool = True, export: str | Path | None = None, command: str = "",
    progress: Progress | None = None,
) -> list[str]:  # fmt: skip
    """Write one self-contained HTML file about the scores; a sentence on each thing that is left out, and why.

    Parameters
    ----------
    scores : files that `evaluate` wrote, each with its predictions beside it. out : the page to write.
    metric : to compare by. match : compare only the images that all regressors predicted, where they differ.
    images : where the pictures lie, see `drexcache.studies.reporting.images.find_images`.
    caches : that the scores come from, for recipes and fingerprints; default: those the ledger names.
    studies : folders that `search` wrote. with_thumbnails : False leaves the pictures out.
    export : folder for the figures as PNG and SVG and the tables as CSV, markdown and LaTeX.
    command : that makes the report, to be shown in it.
    progress : called with (steps done, steps in all, what comes next).

    Raises
    ------
    DrexcacheError : matplotlib or Jinja2 is not installed, scores that cannot be read or do not belong to their
        predictions, different images without `match`, fewer than 10 images, images or caches that do not fit.
    """
    evidence = read_evidence(scores, metric)
    comparison = _compared(evidence, metric, match)
    searches = [read_study(folder) for folder in studies]
    ids = {name: _ids(evidence, name) for name in evidence.datasets}
    origin = provenance(evidence.files, ids, caches, command)
    pictures, missing = _pictures(ids, images, with_thumbnails, origin.hashes)
    tables = [score_table(evidence, metric), group_table(evidence, metric), comparison_table(comparison)]
    contents = Contents(
        evidence, comparison, draw_panels(evidence), [table for table in tables if table.rows], pictures, origin,
        [Searched(study, draw_search(study, number)) for number, study in enumerate(searches)],
        [*missing, *origin.notes],
    )  # fmt: skip
    every = contents.figures
    steps = _Steps(progress, len(every) * (1 if export is None else 2))
    write_file(out, render(contents, steps.next))
    if export is not None:
        _export(Path(export), contents, every, metric, steps.next)
    return contents.left_out


class _Steps:
    """Counts figures for whoever watches."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def next(self, figure: Figure) -> None:
        if self.progress:
            self.progress(self.done, self.total, figure.name)
        self.done += 1


def _compared(evidence: Evidence, metric: str, match: bool) -> Comparison:
    """Nothing where there is one regressor in every cell."""
    cells = [result.cell for result in evidence.results]
    if len(set(cells)) == len(cells):
        return Comparison([], [])
    return compare(evidence.predictions, metric, match=match)


def _ids(evidence: Evidence, dataset: str) -> list[str]:
    ids = (image for result in evidence.results if result.test == dataset for image in result.ids)
    return list(dict.fromkeys(ids))


def _pictures(
    ids: Mapping[str, Sequence[str]], sources: Sequence[str], wanted: bool, hashes: Mapping[Key, str]
) -> tuple[dict[Key, str], list[str]]:
    """Thumbnails by dataset and id, and notes on those that are missing."""
    if not wanted:
        return {}, ["no pictures: left out as asked"]
    if not sources:
        return {}, ["no pictures; give the folder or zip of each dataset: --images FOLDER, or --images NAME=FOLDER"]
    files, notes = find_images(sources, ids)
    made, failed = thumbnails(files, hashes)
    return made, notes + failed


def _export(
    folder: Path, contents: Contents, every: Sequence[Figure], metric: str, step: Callable[[Figure], None]
) -> None:
    """Figures with a list of what each shows, and tables, as files."""
    legend = "".join(f"{figure.name}: {figure.alt}\n" for figure in every)
    write_file(folder / "figures" / "figures.txt", legend)
    for figure in every:
        step(figure)
        save_figure(figure, folder / "figures")
    for table in contents.tables:
        save_table(table, folder / "tables")
    save_text(score_tables(contents.evidence.scores, metric), folder / "tables" / "paper")
