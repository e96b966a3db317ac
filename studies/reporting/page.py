"""The page itself: template, style and script around figures, tables and data, in one text."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import resources
from typing import Any

from drexcache.errors import DrexcacheError
from drexcache.metrics import higher_is_better
from drexcache.studies.comparison import Comparison
from drexcache.studies.reporting.data import PageData, gallery
from drexcache.studies.reporting.figures import SYMBOLS, Figure
from drexcache.studies.reporting.images import Key
from drexcache.studies.reporting.panels import Panels
from drexcache.studies.reporting.provenance import BLOCK_HEADERS, Provenance
from drexcache.studies.reporting.results import Evidence
from drexcache.studies.reporting.search import HEADERS as SEARCH_HEADERS
from drexcache.studies.reporting.search import SearchStudy
from drexcache.studies.reporting.summary import leaders, summarise
from drexcache.studies.reporting.tables import SortableTable, number


@dataclass(frozen=True)
class Searched:
    """A search and its figures."""

    study: SearchStudy
    figures: list[Figure]


@dataclass(frozen=True)
class Contents:
    """What goes onto the page. left_out : a sentence on each thing that does not, and why."""

    evidence: Evidence
    comparison: Comparison
    panels: Sequence[Panels]
    tables: Sequence[SortableTable]
    pictures: Mapping[Key, str]
    origin: Provenance
    searches: Sequence[Searched]
    left_out: list[str]

    @property
    def figures(self) -> list[Figure]:
        """All of the page's."""
        of_regressors = [figure for panels in self.panels for figure in panels.figures]
        return of_regressors + [figure for searched in self.searches for figure in searched.figures]


def render(contents: Contents, step: Callable[[Figure], None]) -> str:
    """The page as text; ``step`` is told of every figure before it is drawn.

    Raises
    ------
    DrexcacheError : Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise DrexcacheError("a report needs Jinja2: pip install 'drexcache[report]'") from error
    evidence = contents.evidence
    data, svg = PageData.of(evidence.results, contents.pictures), {}
    for figure in contents.figures:
        step(figure)
        svg[figure.name] = Markup(data.embed(figure, evidence.results))  # matplotlib escapes its texts
    script, metric = _file("report.js"), evidence.results[0].metric
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_file("report.html.j2")).render(
        evidence=evidence, panels=contents.panels, tables=contents.tables, origin=contents.origin, svg=svg,
        summary=summarise(evidence, contents.comparison), leaders=leaders(evidence), left_out=contents.left_out,
        notes=list(dict.fromkeys([*evidence.scores.notes, *contents.comparison.notes])), metric=SYMBOLS[metric],
        higher=higher_is_better(metric), gallery=partial(gallery, data=data), block_headers=BLOCK_HEADERS,
        searches=contents.searches, search_headers=SEARCH_HEADERS,
        with_pictures=bool(contents.pictures), number=number, made=datetime.now(UTC),
        style=Markup(_file("report.css")), script=Markup(script), script_hash=_sha256(script),
        data=Markup(_json(data.as_json())),
    )  # fmt: skip


def _file(name: str) -> str:
    return (resources.files("drexcache.studies") / "reporting" / "page_files" / name).read_text(encoding="utf-8")


def _sha256(script: str) -> str:
    """As Content-Security-Policy wants it: only this script may run on the page."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _json(value: Any) -> str:
    """JSON that cannot end the element that it stands in."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
