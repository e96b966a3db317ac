"""report: score files as one self-contained HTML page, and the same figures and tables as files."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from drexcache.errors import DrexcacheError, listed, nearest
from drexcache.files import Content, write_files
from drexcache.metrics import higher_is_better
from drexcache.scores import Table, number, score_tables
from drexcache.studies.comparison import Comparison, compare, read_curves
from drexcache.studies.evaluation import attention_table, constant_attention, contributions_table
from drexcache.studies.reporting.drawing import SYMBOLS, Figure
from drexcache.studies.reporting.evidence import INSIDE, Evidence, Result, read_evidence
from drexcache.studies.reporting.figures import draw_figures
from drexcache.studies.reporting.maps import ImageMap, image_maps, nearest_numbers
from drexcache.studies.reporting.pictures import Key, find_images, thumbnails
from drexcache.studies.reporting.provenance import BLOCK_HEADERS, Provenance, provenance
from drexcache.studies.reporting.searches import HEADERS as SEARCH_HEADERS
from drexcache.studies.reporting.searches import read_search
from drexcache.studies.reporting.summary import leaders, summarise
from drexcache.studies.reporting.svg import Places, figure_files, inline_svg
from drexcache.studies.reporting.tables import comparison_table, group_table, score_table, table_files, text_files

Progress = Callable[[int, int, str], None]
SHOWN = 6  # images at each end of a gallery


def report(
    scores: Sequence[str | Path], out: str | Path, *, metric: str = "pearson", match: bool = False,
    images: Sequence[str] = (), caches: Sequence[str | Path] = (), studies: Sequence[str | Path] = (),
    curves: Sequence[str | Path] = (), with_thumbnails: bool = True, export: str | Path | None = None,
    export_figures: Sequence[str] = (), command: str = "", progress: Progress | None = None,
) -> list[str]:  # fmt: skip
    """Write one self-contained HTML file about the scores; returns a sentence on each thing left out, and why.

    Parameters
    ----------
    scores : files that `evaluate` wrote, each with its predictions beside it. out : the page to write.
    metric : to compare by. match : if the regressors predicted different images, compare only those they share.
    images : the images' folders or zips: named like their datasets, "NAME=PATH", or a folder of such folders.
    caches : those that the scores come from, for recipes and fingerprints; default: those the ledger names.
    studies : folders that `search` wrote. curves : files that `curve` wrote.
    with_thumbnails : False leaves the pictures out.
    export : folder for the figures as PNG and SVG and the tables as CSV, markdown and LaTeX. export_figures : names of
    the regressors whose figures are exported, or "all"; default: the one that the page shows first. The figures of
    train -> test, of searches, of learning curves and maps of ratings are always exported.
    command : the command that makes the report, to be shown on the page.
    progress : called with (steps done, total steps, what comes next).

    Raises
    ------
    DrexcacheError : matplotlib or Jinja2 is not installed, scores that cannot be read or do not belong to their
        predictions, different images without `match`, fewer than 10 images, or images or caches that do not fit.
    """
    evidence = read_evidence(listed(scores, "scores", (str, PathLike)), metric)
    comparison = _compared(evidence, metric, match)
    searches = [read_search(folder) for folder in listed(studies, "studies", (str, PathLike))]
    origin = provenance(evidence, listed(caches, "caches", (str, PathLike)), command)
    evidence = evidence.on(origin.scales)
    images = listed(images, "images")
    pictures, missing = _pictures(images, evidence, origin) if with_thumbnails else ({}, ["no pictures, as asked"])
    maps, unmapped = image_maps(leaders(evidence), origin)
    left_out = [*missing, *origin.notes, *unmapped]
    tables = [score_table(evidence.means, metric), group_table(evidence.means, metric), comparison_table(comparison)]
    tables = [table for table in tables if table.table.body]
    summary = summarise(evidence, comparison)
    figures = draw_figures(evidence, searches, [one for path in curves for one in read_curves(path)], maps)
    chosen = listed(export_figures, "export_figures")
    saved = [] if export is None else _exported(figures, chosen, evidence, summary.leader)
    steps = len(figures) + len(saved)
    notes = [*evidence.scores.notes, *comparison.notes, *constant_attention(evidence.predictions), *left_out]
    drawn = {figure.name: inline_svg(figure) for figure in _watched(figures, progress, steps)}
    page = _render(
        evidence=evidence, figures=figures, svg={name: text for name, (text, _) in drawn.items()}, tables=tables,
        data=page_data(evidence, figures, {name: places for name, (_, places) in drawn.items()}, pictures, maps),
        origin=origin, block_headers=BLOCK_HEADERS, searches=searches, search_headers=SEARCH_HEADERS, summary=summary,
        notes=list(dict.fromkeys(notes)), leaders=leaders(evidence), maps=maps, arms=_arms(evidence),
        gallery=partial(gallery, numbers=evidence.image_numbers), numbers=evidence.image_numbers,
        with_pictures=bool(pictures), number=_printed,
        metric=SYMBOLS[metric], higher=higher_is_better(metric), made=datetime.now(UTC),
    )  # fmt: skip
    contents: dict[str | Path, Content] = {out: page}
    if export is not None:
        watched, paper = _watched(saved, progress, steps, len(figures)), score_tables(evidence.scores, metric)
        contents |= _for_papers(Path(export), watched, [one.table for one in tables], paper)
    write_files(contents)
    return left_out


def _for_papers(
    folder: Path, figures: Iterable[Figure], tables: Sequence[Table], paper: Sequence[Table]
) -> dict[str | Path, Content]:
    """The exported files and what they hold: figures, the page's tables, and the scores as in a paper."""
    contents: dict[str | Path, Content] = {}
    said = ""
    for figure in figures:
        contents |= figure_files(figure, folder / "figures")
        said += f"{figure.name}: {figure.alt}\n"
    for table in tables:
        contents |= table_files(table, folder / "tables")
    contents |= text_files(paper, folder / "tables" / "paper")
    return contents | {folder / "figures" / "figures.txt": said}


def _watched(figures: Sequence[Figure], progress: Progress | None, steps: int, done: int = 0) -> Iterator[Figure]:
    """Yield the figures, reporting progress."""
    for step, figure in enumerate(figures, done):
        if progress:
            progress(step, steps, figure.name)
        yield figure


def _pictures(images: Sequence[str], evidence: Evidence, origin: Provenance) -> tuple[dict[Key, str], list[str]]:
    """Thumbnails, and notes on those that are missing."""
    files, missing = find_images(images, evidence.images)
    made, failed = thumbnails(files, origin.hashes)
    return made, missing + failed


def _compared(evidence: Evidence, metric: str, match: bool) -> Comparison:
    """Compare every two regressors, one kind of cell at a time, cells within a dataset first.

    Comparisons across datasets are many and answer another question, so the p of those within a dataset are not
    corrected for their number.
    """
    pairs, notes = [], []
    for kind in sorted({result.kind for result in evidence.results}, key=lambda kind: (kind not in INSIDE, kind)):
        cells = [result.cell for result in evidence.results if result.kind == kind]
        if len(set(cells)) < len(cells):  # otherwise every cell has a single regressor
            found = compare(evidence.predictions, metric, kind=kind, match=match)
            pairs += found.pairs
            notes += found.notes
    return Comparison(pairs, list(dict.fromkeys(notes)))


def _arms(evidence: Evidence) -> dict[str, list[Table]]:
    """Kind of figure -> the table below the figures of that kind."""
    made = evidence.predictions
    return {"attention": attention_table(made), "contributions": contributions_table(made)}


def _exported(figures: Sequence[Figure], chosen: Sequence[str], evidence: Evidence, leader: str) -> list[Figure]:
    """The figures of the chosen regressors, or else of the leader; always those of train -> test and searches."""
    unknown = [name for name in chosen if name not in ("all", *evidence.regressors)]
    if unknown:
        known = nearest(unknown[0], [*evidence.regressors, "all"])
        raise DrexcacheError(f"no regressor {unknown[0]} to export the figures of; {known}")
    owners = evidence.regressors if "all" in chosen else list(chosen) or [leader]
    always = ("matrix", "search", "curve", "map")
    return [figure for figure in figures if figure.owner in owners or figure.kind in always]


def page_data(
    evidence: Evidence, figures: Sequence[Figure], places: Mapping[str, Sequence[Places]],
    pictures: Mapping[Key, str], maps: Sequence[ImageMap] = (),
) -> dict[str, Any]:  # fmt: skip
    """The data for the page's script: every image and every result once, and the points of every figure.

    places : name of a figure -> coordinates of its points, from `inline_svg`. pictures : thumbnails as data URIs.
    Returns images, each [id, dataset, rated, thumbnail or ""]; near, number of an image -> numbers of those most like
    it; results, each with the regressor, the images' numbers, predictions, spread over runs (or None), attention and
    contributions by arm, and digits to show; panels, name of a figure -> its points, which refer to rows of a result.
    """
    rated: dict[Key, float] = {}
    for result in reversed(evidence.results):  # an image's rating is that of the first result that has it
        rated |= {(result.test, image): value for image, value in zip(result.ids, result.rated.tolist(), strict=True)}
    numbers = evidence.image_numbers
    place_of = {id(result): place for place, result in enumerate(evidence.results)}
    return {
        "images": [
            [image, test, round(rated[test, image], 3), pictures.get((test, image), "")] for test, image in numbers
        ],
        "near": nearest_numbers(maps, numbers),
        "results": [
            {
                "regressor": result.regressor,
                "images": [numbers[result.test, image] for image in result.ids],
                "predicted": np.round(result.predicted, 3).tolist(),
                "spread": None if result.spread is None else np.round(result.spread, 3).tolist(),
                "attention": {arm: np.round(own, 3).tolist() for arm, own in result.attention.items()},
                "contributions": {arm: np.round(own, 3).tolist() for arm, own in result.contributions.items()},
                "digits": result.scale.digits,
            }
            for result in evidence.results
        ],
        "panels": {
            figure.name: [
                {"result": place_of[id(points.result)], "rows": list(points.rows), **at}
                for points, at in zip(figure.points, places[figure.name], strict=True)
            ]
            for figure in figures
        },
    }


@dataclass(frozen=True)
class Shown:
    """One image of a gallery. image : its number in the page's data."""

    image: int
    id: str
    rated: float
    predicted: float
    attention: dict[str, float]

    @property
    def error(self) -> float:
        """Predicted minus rated."""
        return self.predicted - self.rated


def gallery(result: Result, numbers: Mapping[Key, int]) -> tuple[list[Shown], list[Shown]]:
    """The worst-predicted images, worst first, and the best-predicted, best first; no image is in both."""
    order = np.argsort(-np.abs(result.residual), kind="stable").tolist()
    shown = min(SHOWN, len(order) // 2)
    worst, best = (
        [
            Shown(
                image=numbers[result.test, result.ids[row]],
                id=result.ids[row],
                rated=float(result.rated[row]),
                predicted=float(result.predicted[row]),
                attention={arm: float(own[row]) for arm, own in result.attention.items()},
            )
            for row in rows
        ]
        for rows in (order[:shown], order[::-1][:shown])
    )
    return worst, best


def _printed(value: float, digits: int = 3, *, sign: bool = False) -> str:
    """A number with a typographic minus sign."""
    return number(value, digits, sign=sign).replace("-", "−")


def _render(*, data: Mapping[str, Any], svg: Mapping[str, str], **content: Any) -> str:
    """Render the page."""
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise DrexcacheError("a report needs Jinja2: pip install 'drexcache[report]'") from error
    script = _file("report.js")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_file("report.html.j2")).render(
        svg={name: Markup(text) for name, text in svg.items()},  # matplotlib escapes its texts
        # "<" is escaped so that the JSON cannot close its own <script> element
        data=Markup(json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")),
        style=Markup(_file("report.css")),
        script=Markup(script),
        # for the Content-Security-Policy: only this script may run on the page
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **content,
    )


def _file(name: str) -> str:
    return (resources.files("drexcache.studies") / "reporting" / "page_files" / name).read_text(encoding="utf-8")
